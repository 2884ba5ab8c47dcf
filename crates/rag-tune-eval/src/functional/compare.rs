//! What a predicted meaning has in common with the gold one.

use std::collections::{BTreeMap, BTreeSet};

use super::meaning::Meaning;

/// An attribute with one of its values, or with none.
type Pair<'a> = (&'a str, Option<&'a str>);

/// How many pairs of attribute and value two meanings have, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Comparison {
    /// Pairs of the gold meaning.
    pub(super) gold: usize,
    /// Pairs of the predicted meaning.
    pub(super) predicted: usize,
    /// Pairs of both; one that a meaning has twice counts twice.
    pub(super) common: usize,
    /// Pairs of the gold meaning that the predicted one lacks, as `name[value]`.
    pub(super) missing: Vec<String>,
    /// Pairs of the predicted meaning that the gold one lacks.
    pub(super) extra: Vec<String>,
}

/// Whether both say the same: the same function and attributes in any order, each with the same values in any order.
/// A value that an attribute repeats counts once. Case counts.
pub(super) fn is_same(gold: &Meaning, predicted: &Meaning) -> bool {
    gold.function == predicted.function && as_sets(gold) == as_sets(predicted)
}

fn as_sets(meaning: &Meaning) -> Vec<(&str, BTreeSet<&str>)> {
    let attributes = meaning.attributes.iter();
    let mut sets: Vec<_> = attributes
        .map(|attribute| {
            let values = attribute.values.iter().map(String::as_str).collect();
            (attribute.name.as_str(), values)
        })
        .collect();
    sets.sort_unstable();
    sets
}

/// Compares attributes, without the function.
pub(super) fn compare(gold: &Meaning, predicted: &Meaning) -> Comparison {
    let (gold, predicted) = (pairs(gold), pairs(predicted));
    let both = gold
        .iter()
        .map(|(pair, count)| (*count).min(predicted.get(pair).copied().unwrap_or(0)));
    Comparison {
        common: both.sum(),
        missing: without(&gold, &predicted),
        extra: without(&predicted, &gold),
        gold: gold.values().sum(),
        predicted: predicted.values().sum(),
    }
}

fn pairs(meaning: &Meaning) -> BTreeMap<Pair<'_>, usize> {
    let mut pairs = BTreeMap::new();
    for (name, values) in as_sets(meaning) {
        let no_value = values.is_empty().then_some(None);
        for value in values.into_iter().map(Some).chain(no_value) {
            *pairs.entry((name, value)).or_default() += 1;
        }
    }
    pairs
}

fn without(some: &BTreeMap<Pair<'_>, usize>, others: &BTreeMap<Pair<'_>, usize>) -> Vec<String> {
    some.iter()
        .filter(|(pair, count)| others.get(pair).is_none_or(|other| other < count))
        .map(|((name, value), _)| format!("{name}[{}]", value.unwrap_or_default()))
        .collect()
}

/// The mean of one row of the original experiment's character accuracy (samlhuillier/tunetherag at commit 2274e6e,
/// `training-code/check_character_accuracy.py`): positions at which two lines have the same character, of the length of the
/// longer line. It reads lines with their line end, which therefore counts as a character of both.
pub(super) fn character_accuracy(gold: &str, predicted: &str) -> f64 {
    let line = |text: &str| -> Vec<char> {
        let text = text.trim_end_matches(['\r', '\n']);
        text.chars().chain(['\n']).collect()
    };
    let (gold, predicted) = (line(gold), line(predicted));
    let same = gold.iter().zip(&predicted).filter(|(a, b)| a == b).count();
    same as f64 / gold.len().max(predicted.len()) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::parse::parse;
    use super::*;

    fn meaning(text: &str) -> Meaning {
        parse(text).meaning
    }

    fn same(gold: &str, predicted: &str) -> bool {
        is_same(&meaning(gold), &meaning(predicted))
    }

    fn counts(gold: &str, predicted: &str) -> (usize, usize, usize) {
        let comparison = compare(&meaning(gold), &meaning(predicted));
        (comparison.common, comparison.gold, comparison.predicted)
    }

    #[test]
    fn order_and_white_space_do_not_matter_and_case_does() {
        let gold = "inform(name[A  b], genres[x, y])";
        assert!(same(gold, "inform( genres[y,x] , name[A b])"));
        assert!(same(gold, "inform(name[A b], genres[y, x, y])"));
        for other in [
            "inform(name[a b], genres[x, y])",
            "Inform(name[A b], genres[x, y])",
            "inform(name[A b], genres[x])",
            "inform(name[A b], genres[x], genres[y])",
            "inform(name[A b], genres[x, y], esrb[])",
            "inform(name[A b], name[A b], genres[x, y])",
        ] {
            assert!(!same(gold, other), "{other}");
        }
    }

    #[test]
    fn pairs_are_counted_by_attribute_and_value() {
        assert_eq!(counts("f(a[x, y], b[])", "f(a[y, z], b[])"), (2, 3, 3));
        assert_eq!(counts("f(a[x])", "g(a[x], a[x])"), (1, 1, 2));
        assert_eq!(counts("f(a[])", "f(a[x])"), (0, 1, 1));
        let comparison = compare(&meaning("f(a[x, y], b[])"), &meaning("f(a[y, z])"));
        assert_eq!(comparison.missing, ["a[x]", "b[]"]);
        assert_eq!(comparison.extra, ["a[z]"]);
    }

    #[test]
    fn characters_are_compared_by_position_with_the_line_end() {
        assert_eq!(character_accuracy("abc", "abc"), 1.0);
        assert_eq!(character_accuracy("abc", "abd\n"), 0.75);
        assert_eq!(character_accuracy("abc", "xabc"), 0.0);
        assert_eq!(character_accuracy("abc", ""), 0.0);
        assert_eq!(character_accuracy("", "\r\n"), 1.0);
        assert_eq!(character_accuracy("é[", "é["), 1.0);
    }

    proptest! {
        #[test]
        fn character_accuracy_is_symmetric_and_a_share(a in "[ab\n]{0,6}", b in "[ab\n]{0,6}") {
            let accuracy = character_accuracy(&a, &b);
            prop_assert!((0.0..=1.0).contains(&accuracy));
            prop_assert_eq!(accuracy, character_accuracy(&b, &a));
        }

        #[test]
        fn the_same_meaning_has_all_pairs_in_common(a in "f\\((x\\[[ab](, [ab]){0,2}\\], ){0,2}y\\[\\]\\)", b in "f\\((x\\[[ab](, [ab]){0,2}\\], ){0,2}y\\[\\]\\)") {
            if same(&a, &b) {
                let (common, gold, predicted) = counts(&a, &b);
                prop_assert!(common == gold && common == predicted, "{} {}", a, b);
            }
            prop_assert!(same(&a, &a));
        }
    }
}
