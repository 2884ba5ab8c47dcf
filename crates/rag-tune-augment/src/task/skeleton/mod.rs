//! An answer with its specifics taken out: what is left is how it is built.
//!
//! The selector `skeleton` compares these: the gold answer's for train rows, a draft's for others. A draft is
//! whatever a model wrote, so every text has a skeleton. Its tokens are separated by one space.

mod arithmetic;
mod function;
mod sql;

use serde::{Deserialize, Serialize};

use super::mask;

/// What answers are built like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkeletonKind {
    /// Words, of which quoted ones, numbers and names become `_`.
    #[default]
    Text,
    /// SQL: keywords, functions and operators; identifiers and literals become `_`.
    Sql,
    /// Worked steps: the operators of the calculations.
    Arithmetic,
    /// A function with attributes: its name, and theirs in alphabetical order, without values.
    Function,
}

/// What stands for something specific.
const PLACEHOLDER: &str = "_";

/// The skeleton of `answer`.
pub(super) fn skeleton(kind: SkeletonKind, answer: &str) -> String {
    match kind {
        SkeletonKind::Text => {
            let text = mask::skeleton_of_text(answer, PLACEHOLDER);
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        }
        SkeletonKind::Sql => sql::skeleton(answer).join(" "),
        SkeletonKind::Arithmetic => arithmetic::skeleton(answer).join(" "),
        SkeletonKind::Function => function::skeleton(answer).join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KINDS: [SkeletonKind; 4] = [
        SkeletonKind::Text,
        SkeletonKind::Sql,
        SkeletonKind::Arithmetic,
        SkeletonKind::Function,
    ];

    #[test]
    fn a_label_stays_and_values_go() {
        let text = |answer| skeleton(SkeletonKind::Text, answer);
        assert_eq!(text("Billing"), "Billing");
        assert_eq!(
            text("move to Ann Lee\nwithin 3 days, as 'urgent'"),
            "move to _ within _ days, as _"
        );
    }

    proptest! {
        /// A draft is whatever a model wrote.
        #[test]
        fn any_text_has_a_skeleton_of_tokens_and_single_spaces(
            answer in "\\PC*|([a-zA-Z]{1,3}|select |from |as |<<|>>|[-+*/=x$.,;'\"`()\\[\\]0-9_ \n–é]){0,60}"
        ) {
            for kind in KINDS {
                let skeleton = skeleton(kind, &answer);
                let tokens: Vec<&str> = skeleton.split_whitespace().collect();
                prop_assert_eq!(tokens.join(" "), skeleton);
            }
        }

        /// Values stand where SQL allows them: a number is no table, and a minus before one is its sign.
        #[test]
        fn names_and_values_do_not_change_the_skeleton_of_a_query(
            parts in prop::collection::vec("N|N\\.N|N AS N|V|select|from|where|join|on|,|=|<>|in \\(|\\)|max\\(|order by|desc", 0..30),
            names in prop::collection::vec("n_[a-z]{0,5}|\"n\"", 61),
            values in prop::collection::vec("[0-9]{1,3}|'[a-z (]{0,5}'", 31),
        ) {
            let query = parts.join(" ") + " ";
            let filled = |letter: char, with: &[String], query: &str| -> String {
                let pieces = query.split(letter).map(str::to_owned);
                pieces.zip(with).map(|(piece, text)| piece + text).collect()
            };
            let named = filled('V', &values, &filled('N', &names, &query));
            let plain = |length: usize| vec!["n".to_owned(); length];
            let unnamed = filled('V', &plain(31), &filled('N', &plain(61), &query));
            prop_assert_eq!(
                skeleton(SkeletonKind::Sql, &named),
                skeleton(SkeletonKind::Sql, &unnamed)
            );
        }
    }
}
