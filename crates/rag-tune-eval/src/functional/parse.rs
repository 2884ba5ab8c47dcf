//! The grammar of meaning representations.
//!
//! ```text
//! meaning    function ( attribute , attribute ... )      white space may stand between all parts
//! attribute  name [ value , value ... ]                  or name [ ]
//! name       letters, digits and underscores
//! value      any text in which brackets are balanced
//! ```
//!
//! A comma separates values, but not within brackets, within parentheses that close, between two digits (`10,000`), or
//! in a value in double quotes, whose brackets need not be balanced either. Attributes of ViGGO that have one value
//! keep all commas: `exp_release_date[June 29, 2018]`. Runs of white space in a value are one space.

use std::fmt;

use super::meaning::{Attribute, Meaning};

/// Attributes of ViGGO with one value; the others (`genres`, `player_perspective`, `platforms`) are lists.
const SINGLE_VALUED: [&str; 11] = [
    "name",
    "exp_release_date",
    "release_year",
    "developer",
    "esrb",
    "rating",
    "has_multiplayer",
    "available_on_steam",
    "has_linux_release",
    "has_mac_release",
    "specifier",
];

/// What a text says, as far as it follows the grammar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The function, once its `(` was read, and the attributes that are complete. All of it where nothing is malformed.
    pub meaning: Meaning,
    /// Where the text leaves the grammar.
    pub malformed: Option<Malformed>,
}

/// Where a text leaves the grammar, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// Number of characters before it.
    pub at: usize,
    /// What should be there.
    pub expected: String,
    /// What is there; nothing at the end of the text.
    pub found: Option<char>,
}

/// `position 17: expected...`, positions being counted from 1.
impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "position {}: expected {}, found ",
            self.at + 1,
            self.expected
        )?;
        match self.found {
            Some(found) => write!(f, "`{found}`"),
            None => f.write_str("the end"),
        }
    }
}

/// Reads a meaning representation.
pub fn parse(text: &str) -> Parsed {
    let mut parser = Parser {
        text,
        at: 0,
        no_more_quotes: false,
    };
    let mut meaning = Meaning::default();
    let malformed = parser.meaning(&mut meaning).err();
    Parsed { meaning, malformed }
}

struct Parser<'a> {
    text: &'a str,
    /// Bytes that are read.
    at: usize,
    /// No quote from here on ends a value; looking again for each would take time that grows with the square.
    no_more_quotes: bool,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn malformed(&self, expected: &str) -> Malformed {
        Malformed {
            at: self.text[..self.at].chars().count(),
            expected: expected.to_owned(),
            found: self.rest().chars().next(),
        }
    }

    fn skip_white_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// Reads `wanted` if it is next.
    fn take(&mut self, wanted: char) -> bool {
        self.skip_white_space();
        let is_next = self.rest().starts_with(wanted);
        if is_next {
            self.at += wanted.len_utf8();
        }
        is_next
    }

    fn expect(&mut self, wanted: char, expected: &str) -> Result<(), Malformed> {
        if self.take(wanted) {
            Ok(())
        } else {
            Err(self.malformed(expected))
        }
    }

    fn name(&mut self, expected: &str) -> Result<&'a str, Malformed> {
        self.skip_white_space();
        let rest = self.rest();
        let end = rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .unwrap_or(rest.len());
        if end == 0 {
            return Err(self.malformed(expected));
        }
        self.at += end;
        Ok(&rest[..end])
    }

    fn meaning(&mut self, meaning: &mut Meaning) -> Result<(), Malformed> {
        let function = self.name("the name of a function")?;
        self.expect('(', "`(`")?;
        function.clone_into(&mut meaning.function);
        if !self.take(')') {
            meaning.attributes.push(self.attribute()?);
            while self.take(',') {
                meaning.attributes.push(self.attribute()?);
            }
            self.expect(')', "`,` or `)`")?;
        }
        self.skip_white_space();
        if self.rest().is_empty() {
            Ok(())
        } else {
            Err(self.malformed("the end"))
        }
    }

    fn attribute(&mut self) -> Result<Attribute, Malformed> {
        let name = self.name("the name of an attribute")?;
        self.expect('[', "`[`")?;
        let start = self.at;
        let commas = self.find_end()?;
        let inside = &self.text[start..self.at];
        let is_single = SINGLE_VALUED.contains(&name);
        let commas = if is_single {
            Vec::new()
        } else {
            separators(self.text, start, self.at, &commas)
        };
        let mut values = Vec::new();
        let ends = commas.iter().copied().chain([self.at]);
        let starts = [start]
            .into_iter()
            .chain(commas.iter().map(|comma| comma + 1));
        for (from, to) in starts.zip(ends) {
            let words: Vec<&str> = self.text[from..to].split_whitespace().collect();
            if words.is_empty() && !inside.trim().is_empty() {
                self.at = to;
                return Err(self.malformed("a value"));
            }
            values.extend((!words.is_empty()).then(|| words.join(" ")));
        }
        self.at += 1; // the bracket
        Ok(Attribute {
            name: name.to_owned(),
            values,
        })
    }

    /// Goes to the bracket that ends the values, and gives the commas outside of inner brackets and quoted values.
    fn find_end(&mut self) -> Result<Vec<usize>, Malformed> {
        let (mut depth, mut commas, mut is_value_start) = (0_usize, Vec::new(), true);
        while let Some(found) = self.rest().chars().next() {
            if is_value_start
                && found == '"'
                && let Some(length) = self.quoted_length()
            {
                self.at += length;
                continue;
            }
            match found {
                ']' if depth == 0 => return Ok(commas),
                ']' => depth -= 1,
                '[' => depth += 1,
                ',' if depth == 0 => commas.push(self.at),
                _ => {}
            }
            is_value_start =
                depth == 0 && (found == ',' || is_value_start && found.is_whitespace());
            self.at += found.len_utf8();
        }
        Err(self.malformed(&vec!["`]`"; depth.min(2) + 1].join(" and ")))
    }

    /// Bytes of the quoted value that begins here: up to a quote that stands before a comma or bracket.
    fn quoted_length(&mut self) -> Option<usize> {
        if self.no_more_quotes {
            return None;
        }
        let rest = self.rest();
        let ends_value =
            |(at, _): &(usize, &str)| rest[at + 1..].trim_start().starts_with([',', ']']);
        let closing = rest.match_indices('"').skip(1).find(ends_value);
        self.no_more_quotes = closing.is_none();
        closing.map(|(at, _)| at + 1)
    }
}

/// The commas that separate values: not within parentheses that close, nor between two digits.
fn separators(text: &str, start: usize, end: usize, commas: &[usize]) -> Vec<usize> {
    let bytes = text.as_bytes();
    let mut open = Vec::new();
    let mut closed = Vec::new();
    for (at, mark) in text[start..end].match_indices(['(', ')']) {
        match mark {
            "(" => open.push(start + at),
            _ => closed.extend(open.pop().map(|from| (from, start + at))),
        }
    }
    closed.sort_unstable();
    // Pairs in one another are within the outer one, which comes first.
    let (mut pairs, mut inside_until) = (closed.into_iter().peekable(), 0);
    let is_separator = |&comma: &usize| {
        while let Some((_, to)) = pairs.next_if(|(from, _)| *from < comma) {
            inside_until = inside_until.max(to);
        }
        let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
        comma > inside_until && !(comma > start && is_digit(comma - 1) && is_digit(comma + 1))
    };
    commas.iter().copied().filter(is_separator).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values(text: &str) -> Vec<String> {
        let parsed = parse(&format!("f(list[{text}])"));
        assert_eq!(parsed.malformed, None, "{text}");
        parsed.meaning.attributes[0].values.clone()
    }

    fn fault(text: &str) -> String {
        parse(text)
            .malformed
            .map_or_else(String::new, |fault| fault.to_string())
    }

    #[test]
    fn a_meaning_is_a_function_with_attributes_and_values() {
        let parsed = parse(" inform ( name[Tin Harbor] ,\n genres[ sport,racing ], esrb[] ) ");
        assert_eq!(parsed.malformed, None);
        assert_eq!(
            parsed.meaning.to_string(),
            "inform(name[Tin Harbor], genres[sport, racing], esrb[])"
        );
        assert_eq!(parse("hello()").meaning.attributes, []);
    }

    #[test]
    fn values_are_split_where_a_list_goes_on() {
        assert_eq!(values("a, b c ,d"), ["a", "b c", "d"]);
        assert_eq!(values(" "), [""; 0]);
        assert_eq!(
            values("E (for all, and more), T"),
            ["E (for all, and more)", "T"]
        );
        assert_eq!(values("a (b, (c, d), e), f"), ["a (b, (c, d), e)", "f"]);
        assert_eq!(values("odd :(, b"), ["odd :(", "b"]);
        assert_eq!(values("odd :), b"), ["odd :)", "b"]);
        assert_eq!(values("x[a, b], c"), ["x[a, b]", "c"]);
        assert_eq!(values("10,000, 5"), ["10,000", "5"]);
        assert_eq!(values("\"a, [b\", c"), ["\"a, [b\"", "c"]);
        assert_eq!(values("5\" disk, \"b\" c, d"), ["5\" disk", "\"b\" c", "d"]);
        assert_eq!(values("Mirror's Edge, it's"), ["Mirror's Edge", "it's"]);
    }

    #[test]
    fn attributes_with_one_value_keep_their_commas() {
        let text = "inform(name[Wind, Sand and Gears], exp_release_date[June 29, 2018])";
        let meaning = parse(text).meaning;
        assert_eq!(meaning.attributes[0].values, ["Wind, Sand and Gears"]);
        assert_eq!(meaning.attributes[1].values, ["June 29, 2018"]);
    }

    #[test]
    fn a_malformed_text_is_located() {
        for (text, expected) in [
            (
                "",
                "position 1: expected the name of a function, found the end",
            ),
            ("inform", "position 7: expected `(`, found the end"),
            ("Sure: inform(", "position 5: expected `(`, found `:`"),
            (
                "inform(",
                "position 8: expected the name of an attribute, found the end",
            ),
            (
                "inform(name[a], )",
                "position 17: expected the name of an attribute, found `)`",
            ),
            ("inform(name)", "position 12: expected `[`, found `)`"),
            ("inform(name[a)", "position 15: expected `]`, found the end"),
            (
                "inform(é[a[b)",
                "position 14: expected `]` and `]`, found the end",
            ),
            (
                "inform(name[a]",
                "position 15: expected `,` or `)`, found the end",
            ),
            (
                "inform(name[a] genres[b])",
                "position 16: expected `,` or `)`, found `g`",
            ),
            (
                "inform(name[a]])",
                "position 15: expected `,` or `)`, found `]`",
            ),
            (
                "inform(list[a, , b])",
                "position 16: expected a value, found `,`",
            ),
            (
                "inform(list[a, ])",
                "position 16: expected a value, found `]`",
            ),
            (
                "inform(name[a]) and",
                "position 17: expected the end, found `a`",
            ),
        ] {
            assert_eq!(fault(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_complete_before_the_fault_is_kept() {
        let kept = |text| parse(text).meaning.to_string();
        assert_eq!(kept("inform(name[a], genres[b, c"), "inform(name[a])");
        assert_eq!(kept("inform(name[a]) and so on"), "inform(name[a])");
        assert_eq!(kept("inform(nam"), "inform()");
        assert_eq!(kept("inform"), "()");
    }

    /// Values that need no quotes.
    fn value() -> impl Strategy<Value = String> {
        let word = prop_oneof![
            "[a-z'!:/.&+-]{1,6}",
            "\\([a-z, ]{1,8}\\)",
            "\\[[a-z, ]{1,8}\\]",
            "[0-9]{1,3},[0-9]{3}"
        ];
        prop::collection::vec(word, 1..4).prop_map(|words| words.join(" "))
    }

    fn meaning() -> impl Strategy<Value = Meaning> {
        let attribute =
            ("[a-z_]{1,8}", prop::collection::vec(value(), 0..4)).prop_map(|(name, values)| {
                Attribute {
                    // The prefix keeps the name from being that of an attribute with one value.
                    name: format!("x_{name}"),
                    values: values
                        .iter()
                        .map(|value| value.split_whitespace().collect::<Vec<_>>().join(" "))
                        .collect(),
                }
            });
        ("[a-z_]{1,8}", prop::collection::vec(attribute, 0..5)).prop_map(
            |(function, attributes)| Meaning {
                function,
                attributes,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back_as_the_same(meaning in meaning()) {
            let parsed = parse(&meaning.to_string());
            prop_assert_eq!(parsed, Parsed { meaning, malformed: None });
        }

        #[test]
        fn no_beginning_of_a_meaning_is_a_meaning(meaning in meaning(), cut in 0.0..1.0) {
            let text = meaning.to_string();
            let end = (text.len() as f64 * cut) as usize;
            let parsed = parse(&text[..end]);
            prop_assert!(parsed.malformed.is_some());
            prop_assert!(meaning.attributes.starts_with(&parsed.meaning.attributes));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC*", odd in "f\\([]\\[a\", ()é]*") {
            for text in [text, odd] {
                let parsed = parse(&text);
                if let Some(fault) = parsed.malformed {
                    prop_assert!(fault.at <= text.chars().count());
                }
            }
        }
    }
}
