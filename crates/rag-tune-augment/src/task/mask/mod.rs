//! A question with its specifics replaced: what is left is what kind of question it is.
//!
//! Two questions about unlike things can want answers of the same shape; the selector `masked` embeds what this
//! module leaves of them (masked question similarity: Gao et al. 2023, DAIL-SQL, arXiv:2308.15363, section 3.2).
//! Everything is told by its form in the question, and by the tables that the question comes with: an answer is
//! never looked at, as it would tell an eval row's selector what it must not know.
//!
//! Names are told by English capitalisation and English function words.

mod pieces;
mod schema;
mod words;

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use pieces::{Kind, Piece, ends_in_abbreviation, pieces};
use schema::Schema;
use words::{is_number_word, is_opener};

/// What stands for something specific.
///
/// BERT's vocabularies have it as one token, which their pretraining used for "a word that is not shown";
/// `<mask>`, RoBERTa's, would become three tokens there, with the word "mask" in the middle.
pub const MASK: &str = "[MASK]";

/// What counts as specific in a question.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Masking {
    /// Quoted words, numbers and names.
    #[default]
    Text,
    /// As `text`, and the words of the tables and columns that the task's `schema_column` creates.
    Sql,
}

/// `text` with quoted words, numbers and names replaced by [`MASK`].
pub(super) fn text(text: &str) -> String {
    let pieces = pieces(text);
    let marks = marks(&pieces, SentenceStart::NamesToo);
    replace(&pieces, &marks, MASK)
}

/// As [`text`](fn@text), and the words of the tables and columns that `statements` create.
pub(super) fn sql(text: &str, statements: &str) -> String {
    let pieces = pieces(text);
    let mut marks = marks(&pieces, SentenceStart::NamesToo);
    Schema::of(statements).mark(&pieces, &mut marks);
    replace(&pieces, &marks, MASK)
}

/// `text` with quoted words, numbers and, inside sentences, names replaced by `placeholder`.
pub(super) fn skeleton_of_text(text: &str, placeholder: &str) -> String {
    let pieces = pieces(text);
    let marks = marks(&pieces, SentenceStart::NeverNames);
    replace(&pieces, &marks, placeholder)
}

/// What a capital at the start of a sentence means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SentenceStart {
    /// A name, unless it is a word that often stands there.
    NamesToo,
    /// Nothing: a class label is one word with a capital.
    NeverNames,
}

/// What a masked piece is. A run of specifics is masked as one where all are schema words, or none is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Specific {
    Name,
    Value,
    SchemaWord,
}

impl Specific {
    fn joins(self, next: Self) -> bool {
        (self == Self::SchemaWord) == (next == Self::SchemaWord)
    }
}

/// For each piece, what specific it is, if any.
fn marks(pieces: &[Piece<'_>], sentence_start: SentenceStart) -> Vec<Option<Specific>> {
    // A word that also stands in small letters is no name: "Goats have 4 legs. If he has 3 goats ..."
    let small: HashSet<&str> = pieces
        .iter()
        .filter(|piece| piece.kind == Kind::Word && !piece.is_capitalised())
        .map(|piece| piece.text)
        .collect();
    let is_name = |piece: &Piece<'_>| {
        if !piece.is_capitalised() || piece.text == "I" || small.is_empty() {
            return false;
        }
        let lower = piece.text.to_lowercase();
        !piece.starts_sentence
            || (sentence_start == SentenceStart::NamesToo
                && !is_opener(&lower)
                && !small.contains(lower.as_str()))
    };
    pieces
        .iter()
        .map(|piece| match piece.kind {
            Kind::Number | Kind::Quoted => Some(Specific::Value),
            Kind::Word if is_number_word(&piece.text.to_lowercase()) => Some(Specific::Value),
            Kind::Word if is_name(piece) => Some(Specific::Name),
            _ => None,
        })
        .collect()
}

/// The text again, with one placeholder for each run of marked pieces.
fn replace(pieces: &[Piece<'_>], marks: &[Option<Specific>], placeholder: &str) -> String {
    let mut replaced = String::new();
    let mut at = 0;
    while let Some(piece) = pieces.get(at) {
        if marks[at].is_some() {
            replaced.push_str(placeholder);
            at = run_end(pieces, marks, at);
        } else {
            replaced.push_str(piece.text);
            at += 1;
        }
    }
    replaced
}

/// One past the last piece of the run of marked pieces that begins at `start`.
fn run_end(pieces: &[Piece<'_>], marks: &[Option<Specific>], start: usize) -> usize {
    let mut last = start;
    loop {
        let (Some(from), rest) = (marks[last], &pieces[last + 1..]) else {
            unreachable!("a run is made of marked pieces")
        };
        let texts: Vec<&str> = rest.iter().take(5).map(|piece| piece.text).collect();
        let next = |gap: usize| marks.get(last + 1 + gap).copied().flatten();
        let names = |gap| from == Specific::Name && next(gap) == Some(Specific::Name);
        let gap = match texts[..] {
            // "Rise of the Tomb Raider", but not "10 of the 20".
            [" ", "of", " ", "the", " "] if names(5) => 5,
            [" ", "of", " ", ..] if names(3) => 3,
            // "Assassin's Creed"
            ["'" | "’", "s", " ", ..] if names(3) => 3,
            // "Dirt: Showdown", "The Witcher 3: Wild Hunt"
            [":", " ", ..] if next(2) == Some(Specific::Name) => 2,
            // "Mr. Smith"
            [".", " ", ..] if names(2) && ends_in_abbreviation(&pieces[..=last]) => 2,
            [" " | "-" | "&" | "/" | ".", ..] if next(1).is_some() => 1,
            _ => 0,
        };
        match next(gap) {
            Some(to) if from.joins(to) => last += gap + 1,
            _ => return last + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Rows of GSM8K and ViGGO.
    #[test]
    fn names_numbers_and_quotes_go() {
        for (question, masked) in [
            (
                "Natalia sold clips to 48 of her friends in April, and twice as many in May.",
                "[MASK] sold clips to [MASK] of her friends in [MASK], and twice as many in [MASK].",
            ),
            (
                "Kangaroos have two legs. If he has 23 kangaroos at $1.25, what do I pay Mr. Smith's son?",
                "Kangaroos have [MASK] legs. If he has [MASK] kangaroos at [MASK], what do I pay [MASK]'s son?",
            ),
            (
                "Carter has 20 green M&Ms. He eats the 10-inch pie and 10 of the 20.",
                "[MASK] has [MASK] green [MASK]. He eats the [MASK]-inch pie and [MASK] of the [MASK].",
            ),
            (
                "Rise of the Tomb Raider is on PlayStation, Xbox, and PC.",
                "[MASK] is on [MASK], [MASK], and [MASK].",
            ),
            (
                "Do you like Assassin's Creed Chronicles: India or The Witcher 3: Wild Hunt?",
                "Do you like [MASK] or [MASK]?",
            ),
        ] {
            assert_eq!(text(question), masked);
        }
    }

    /// Rows of the SQL data set.
    #[test]
    fn words_of_the_schema_go_too() {
        for (question, statements, masked) in [
            (
                "How many heads of the departments are older than 56 ?",
                "CREATE TABLE head (age INTEGER)",
                "How many [MASK] of the departments are older than [MASK] ?",
            ),
            (
                "List the name of all rooms sorted by their prices.",
                "CREATE TABLE Rooms (roomName VARCHAR, basePrice VARCHAR)",
                "List the [MASK] of all [MASK] sorted by their [MASK].",
            ),
            (
                "What are the numbers of races for each constructor id in Palo Alto city?",
                "CREATE TABLE constructorStandings (constructorid VARCHAR, city VARCHAR)",
                "What are the numbers of races for each [MASK] in [MASK] [MASK]?",
            ),
            (
                "List employee's first name and the employees' cities.",
                "CREATE TABLE employees (first_name VARCHAR, City VARCHAR)",
                "List [MASK]'s [MASK] and the [MASK]' [MASK].",
            ),
            (
                "How many are in the air?",
                "no statement",
                "How many are in the air?",
            ),
        ] {
            assert_eq!(sql(question, statements), masked);
        }
    }

    proptest! {
        #[test]
        fn any_text_can_be_masked(
            question in "\\PC*|([a-zA-Z]{1,4}|[ .,:'\"“”‘&$%/\n-]|[0-9]{1,3}|of the| Mr){0,40}",
            statements in "\\PC*|(create |table |[a-zA-Z_]{1,4}|[ (),;'\"`\\[\\]]){0,40}",
        ) {
            sql(&question, &statements);
            skeleton_of_text(&question, "_");
        }

        #[test]
        fn words_in_small_letters_stay(question in "([a-c]{1,5}|[ ,.?!\n-]){0,40}") {
            prop_assert_eq!(text(&question), question);
        }
    }
}
