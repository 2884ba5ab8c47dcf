//! A text in pieces: words, numbers, quoted values, and what stands between.

use super::words::is_abbreviation;

/// A stretch of text; the pieces of a text, joined, are the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    pub(super) text: &'a str,
    pub(super) kind: Kind,
    /// Whether it is the first word of a sentence.
    pub(super) starts_sentence: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Letters only.
    Word,
    /// Anything with a digit in it: `$1,250.50`, `10%`, `1/6`, `2012-03-01`, `20th`, `2K16`.
    Number,
    /// A value in quotes, which are part of it.
    Quoted,
    /// White space, all that stands together.
    Space,
    /// One other character.
    Other,
}

impl Piece<'_> {
    /// A word whose first letter is a capital.
    pub(super) fn is_capitalised(&self) -> bool {
        self.kind == Kind::Word && self.text.starts_with(char::is_uppercase)
    }
}

/// A longer quotation is speech, not a value.
const LONGEST_QUOTED_BYTES: usize = 60;

/// Splits `text`; the time is linear in its length.
pub(super) fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces: Vec<Piece<'_>> = Vec::new();
    let mut starts_sentence = true;
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let before = text[..at].chars().next_back();
        let (kind, length) = measure(&text[at..], first, before);
        let piece = Piece {
            text: &text[at..at + length],
            kind,
            starts_sentence: starts_sentence && kind == Kind::Word,
        };
        at += length;
        starts_sentence = match (kind, first) {
            (Kind::Word | Kind::Number, _) => false,
            (Kind::Quoted, mark) => {
                let inside = piece.text.trim_end_matches([mark, '”', '’']);
                inside.ends_with(['.', '?', '!'])
            }
            (Kind::Other, '.') => starts_sentence || !ends_in_abbreviation(&pieces),
            (Kind::Other, '?' | '!') => true,
            // Speech begins, of which the closing mark is far away.
            (Kind::Other, '"' | '“') => text[at..].starts_with(char::is_alphabetic),
            (Kind::Space, _) => starts_sentence || piece.text.contains('\n'),
            _ => starts_sentence,
        };
        pieces.push(piece);
    }
    pieces
}

/// Whether a full stop after `pieces` belongs to their last word. The "Ms" of "M&Ms" is no title.
pub(super) fn ends_in_abbreviation(pieces: &[Piece<'_>]) -> bool {
    let stands_alone = match pieces {
        [.., before, _] => before.kind == Kind::Space,
        _ => true,
    };
    stands_alone && pieces.last().is_some_and(|last| is_abbreviation(last.text))
}

/// Kind and length in bytes of the piece that `rest` begins with.
fn measure(rest: &str, first: char, before: Option<char>) -> (Kind, usize) {
    if first.is_whitespace() {
        let end = rest.find(|character: char| !character.is_whitespace());
        return (Kind::Space, end.unwrap_or(rest.len()));
    }
    let inside_word = before.is_some_and(char::is_alphanumeric);
    if !inside_word && let Some(length) = quoted(rest, first) {
        return (Kind::Quoted, length);
    }
    let amount = matches!(first, '$' | '€' | '£') && rest[first.len_utf8()..].starts_with(is_digit);
    if first.is_alphanumeric() || amount {
        return word_or_number(rest, first);
    }
    (Kind::Other, first.len_utf8())
}

fn is_digit(character: char) -> bool {
    character.is_ascii_digit()
}

fn word_or_number(rest: &str, first: char) -> (Kind, usize) {
    let mut characters = rest.char_indices().skip(1).peekable();
    let (mut end, mut last) = (first.len_utf8(), first);
    let mut has_digit = first.is_numeric();
    while let Some((at, character)) = characters.next() {
        let next = characters.peek().map(|&(_, next)| next);
        let joins_digits = matches!(character, '.' | ',' | ':' | '/' | '-')
            && is_digit(last)
            && next.is_some_and(is_digit);
        let closes_number = matches!(character, '%' | '+') && is_digit(last);
        if !(character.is_alphanumeric() || character == '_' || joins_digits || closes_number) {
            break;
        }
        has_digit |= character.is_numeric();
        end = at + character.len_utf8();
        last = character;
        if closes_number {
            break;
        }
    }
    let kind = if has_digit { Kind::Number } else { Kind::Word };
    (kind, end)
}

/// The length of the quoted value that `rest` begins with, marks included.
fn quoted(rest: &str, mark: char) -> Option<usize> {
    let closing = match mark {
        '"' | '\'' | '`' => mark,
        '“' => '”',
        '‘' => '’',
        _ => return None,
    };
    let inside = &rest[mark.len_utf8()..];
    let mut last = mark;
    for (at, character) in inside.char_indices() {
        if at > LONGEST_QUOTED_BYTES || character == '\n' {
            return None;
        }
        let after = at + character.len_utf8();
        // The apostrophe of "Hunter's" closes nothing.
        let in_word = inside[after..].starts_with(char::is_alphanumeric);
        if character == closing && last != mark && !last.is_whitespace() && !in_word {
            return Some(mark.len_utf8() + after);
        }
        if at == 0 && character.is_whitespace() {
            return None;
        }
        last = character;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of_kind(text: &str, kind: Kind) -> Vec<&str> {
        let pieces = pieces(text);
        let wanted = pieces.iter().filter(|piece| piece.kind == kind);
        wanted.map(|piece| piece.text).collect()
    }

    fn first_words(text: &str) -> Vec<&str> {
        let pieces = pieces(text);
        let first = pieces.iter().filter(|piece| piece.starts_sentence);
        first.map(|piece| piece.text).collect()
    }

    #[test]
    fn numbers_keep_their_signs() {
        assert_eq!(
            of_kind(
                "$1,250.50 is 10% of 1/6, on 2012-03-01 at 3:30, in a 20th 120-page 2K16 (10+).",
                Kind::Number
            ),
            [
                "$1,250.50",
                "10%",
                "1/6",
                "2012-03-01",
                "3:30",
                "20th",
                "120",
                "2K16",
                "10+"
            ]
        );
    }

    #[test]
    fn quotes_are_values_and_apostrophes_are_not() {
        assert_eq!(
            of_kind(
                "The farmers' 'best' of Amy's \"old pets\" and “x’y” in 'Ann's farm'",
                Kind::Quoted
            ),
            ["'best'", "\"old pets\"", "“x’y”", "'Ann's farm'"]
        );
    }

    #[test]
    fn a_long_quotation_is_speech() {
        let text = "Tom said, \"If you give me 10 of them, I will give you twice as many tomorrow morning.\"";
        assert!(of_kind(text, Kind::Quoted).is_empty());
        assert_eq!(first_words(text), ["Tom", "If"]);
    }

    #[test]
    fn sentences_begin_after_their_marks_but_not_after_mr() {
        assert_eq!(
            first_words("Does Mr. Smith eat M&Ms. He does. \"Oh!\" (They go.)\nYes"),
            ["Does", "He", "They", "Yes"]
        );
    }

    proptest! {
        #[test]
        fn pieces_join_to_the_text(text in "\\PC*|[a-zA-Z0-9 .,'\"$%“”’\n-]*") {
            let joined: String = pieces(&text).iter().map(|piece| piece.text).collect();
            prop_assert_eq!(joined, text);
        }
    }
}
