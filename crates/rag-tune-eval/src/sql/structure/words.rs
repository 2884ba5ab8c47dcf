//! Text to words, as the official evaluation splits it: quoted texts first, then NLTK's `word_tokenize`.
//!
//! NLTK's tokenizer is made for English. What that means for SQL: `=`, `+`, `-` and `/` stay with their neighbours
//! (`a=1` is one word, which then is no condition), `<>` is two words, a comma before a digit splits nothing, and a point
//! at the end of the text is a word. Not followed: that it reads `cannot` as `can not`, and `gonna` and the like so too.

/// The words of `sql`, in lower case but for quoted texts, which keep their case and get double quotes; `> =` is joined.
/// Nothing where the quotes are not in pairs: single and double quotes are one kind, and a doubled quote is no escape.
pub(super) fn words(sql: &str) -> Option<Vec<String>> {
    let pieces = pieces(sql)?;
    let final_point = final_point(&pieces);
    let mut words = Words::default();
    let mut rest = &pieces[..];
    while let [piece, after @ ..] = rest {
        let at = pieces.len() - rest.len();
        let length = match piece {
            Piece::Character('-') if after.first() == Some(piece) => 2,
            Piece::Character('.') => rest.iter().take_while(|other| *other == piece).count(),
            _ => 1,
        };
        match piece {
            Piece::Character(c) if c.is_whitespace() => words.finish(),
            // Before a digit they belong to it: `1,000`, `12:30`.
            Piece::Character(',' | ':') if !after.first().is_some_and(Piece::is_digit) => {
                words.alone(&rest[..1]);
            }
            Piece::Character(c) if stands_alone(*c) => words.alone(&rest[..1]),
            _ if length > 1 || final_point == Some(at) => words.alone(&rest[..length]),
            _ => words.current.push(*piece),
        }
        rest = &rest[length..];
    }
    words.finish();
    Some(words.done)
}

/// A character outside quotes, or what stands between two quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece<'a> {
    Character(char),
    Text(&'a str),
}

impl Piece<'_> {
    fn is_digit(&self) -> bool {
        matches!(self, Self::Character(c) if c.is_ascii_digit())
    }
}

fn pieces(sql: &str) -> Option<Vec<Piece<'_>>> {
    let parts: Vec<&str> = sql.split(['\'', '"']).collect();
    if parts.len().is_multiple_of(2) {
        return None;
    }
    let mut pieces = Vec::with_capacity(sql.len());
    for (i, part) in parts.into_iter().enumerate() {
        if i % 2 == 0 {
            pieces.extend(part.chars().map(Piece::Character));
        } else {
            pieces.push(Piece::Text(part));
        }
    }
    Some(pieces)
}

/// Where a single point ends the text, but for white space and closing brackets.
fn final_point(pieces: &[Piece]) -> Option<usize> {
    let is_after_the_end = |piece: &Piece| matches!(piece, Piece::Character(c) if c.is_whitespace() || "])}>".contains(*c));
    let last = pieces.iter().rposition(|piece| !is_after_the_end(piece))?;
    let point = Piece::Character('.');
    (last > 0 && pieces[last] == point && pieces[last - 1] != point).then_some(last)
}

fn stands_alone(c: char) -> bool {
    ";@#$%&?!*[](){}<>`«»“”‘’„".contains(c)
}

#[derive(Default)]
struct Words<'a> {
    done: Vec<String>,
    current: Vec<Piece<'a>>,
}

impl<'a> Words<'a> {
    /// A word of its own.
    fn alone(&mut self, pieces: &[Piece<'a>]) {
        self.finish();
        self.current.extend(pieces);
        self.finish();
    }

    fn finish(&mut self) {
        let word = match self.current[..] {
            [] => return,
            [Piece::Text(text)] => format!("\"{text}\""),
            // A text with something beside it is neither a value nor a name.
            ref pieces => pieces
                .iter()
                .map(|piece| match piece {
                    Piece::Character(c) => c.to_lowercase().collect(),
                    Piece::Text(_) => "__text__".to_owned(),
                })
                .collect(),
        };
        self.current.clear();
        match self.done.last_mut() {
            Some(last) if word == "=" && ["!", ">", "<"].contains(&last.as_str()) => last.push('='),
            _ => self.done.push(word),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn joined(sql: &str) -> String {
        words(sql).unwrap().join(" ")
    }

    #[test]
    fn texts_are_words_and_keep_their_case() {
        assert_eq!(
            words("SELECT A WHERE B = 'It is' AND c=\"X\"").unwrap(),
            [
                "select",
                "a",
                "where",
                "b",
                "=",
                "\"It is\"",
                "and",
                "c=__text__"
            ]
        );
        assert_eq!(words("a = 'it's'"), None);
    }

    #[test]
    fn operators_are_joined_where_they_stand_alone() {
        assert_eq!(
            joined("a > = 1 AND b ! = 2 AND c<=3"),
            "a >= 1 and b != 2 and c < =3"
        );
        assert_eq!(joined("a <> 1"), "a < > 1");
        assert_eq!(joined("a=1"), "a=1");
    }

    #[test]
    fn punctuation_is_split_as_in_english() {
        assert_eq!(joined("count(*),b"), "count ( * ) , b");
        assert_eq!(joined("IN (1,2, 3)"), "in ( 1,2 , 3 )");
        assert_eq!(joined("T1.name,"), "t1.name ,");
        assert_eq!(joined("a -- b---c a...b"), "a -- b -- -c a ... b");
        assert_eq!(joined("LIMIT 1."), "limit 1 .");
        assert_eq!(joined("LIMIT 1.;"), "limit 1. ;");
        assert_eq!(joined("(a.) "), "( a . )");
        assert_eq!(joined("`a`"), "` a `");
        assert_eq!(joined(""), "");
    }

    proptest! {
        #[test]
        fn words_hold_all_of_the_text_but_blanks(sql in "[ -&(-~]{0,40}".prop_filter("no quotes", |s| !s.contains('"'))) {
            let squeezed = |text: &str| text.split_whitespace().collect::<String>().to_lowercase();
            prop_assert_eq!(words(&sql).unwrap().concat(), squeezed(&sql));
        }
    }
}
