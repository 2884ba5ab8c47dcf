//! A JSON array of objects, read in place and a block at a time.
//!
//! The bounds of the elements are found by brackets and quotes alone; what lies between them is then
//! checked by all threads.

use std::fs::File;
use std::io::{Read, Seek};

use rayon::prelude::*;

use super::lines::{BLOCK, BYTE_ORDER_MARK};
use super::part::{Built, Checked, MAX_ROW_BYTES, PartBuilder};
use crate::AugmentError;

/// Whether a file begins as an array does; its position is unchanged.
pub(super) fn is_array(file: &mut File) -> std::io::Result<bool> {
    let mut byte = [0];
    let first = loop {
        if file.read(&mut byte)? == 0 {
            break None;
        }
        if !byte[0].is_ascii_whitespace() && !BYTE_ORDER_MARK.contains(&byte[0]) {
            break Some(byte[0]);
        }
    };
    file.rewind()?;
    Ok(first == Some(b'['))
}

pub(super) fn read(mut file: File, mut builder: PartBuilder<'_>) -> Result<Built, AugmentError> {
    // `buffer` holds the file from `base` on, which `rows` elements precede.
    let (mut buffer, mut base, mut rows) = (Vec::new(), 0_u64, 0);
    let mut scanner = Scanner::default();
    loop {
        let read = (&mut file)
            .take(BLOCK as u64)
            .read_to_end(&mut buffer)
            .map_err(AugmentError::read(builder.path()))?;
        let elements = scanner.elements(&buffer);
        let checked: Vec<Checked> = elements
            .par_iter()
            .enumerate()
            .map_init(Vec::new, |found, (number, element)| Checked {
                start: element.0,
                length: element.1 - element.0,
                number,
                outcome: builder
                    .needs()
                    .met_by_text(&buffer[element.0..element.1], found),
            })
            .collect();
        for row in checked {
            builder.take(base, rows, row)?;
        }
        rows += elements.len();
        if let Some(problem) = scanner.problem {
            return Err(builder.damaged(rows, problem).into());
        }
        let done = scanner.forget();
        buffer.drain(..done);
        base += done as u64;
        if read == 0 {
            return match scanner.state {
                State::After => Ok(builder.finish(file)),
                _ => Err(builder.damaged(rows, "the array is not closed").into()),
            };
        }
        if buffer.len() > MAX_ROW_BYTES {
            return Err(builder.too_long(rows).into());
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
enum State {
    /// Before the opening bracket.
    #[default]
    Before,
    /// Behind `[` or `,`.
    Between,
    /// In an element.
    Element,
    /// In a string of an element.
    Text,
    /// Behind the closing bracket.
    After,
}

/// Finds the elements of an array in a buffer that grows at its end.
#[derive(Debug, Default)]
struct Scanner {
    state: State,
    /// The first byte that was not looked at.
    next: usize,
    /// Where the element began.
    start: usize,
    /// Brackets of the element that are open.
    depth: usize,
    /// Whether a comma came last, so that an element must follow.
    comma: bool,
    problem: Option<&'static str>,
}

impl Scanner {
    /// The elements that end in what was not looked at yet.
    fn elements(&mut self, buffer: &[u8]) -> Vec<(usize, usize)> {
        let mut elements = Vec::new();
        while self.next < buffer.len() && self.problem.is_none() {
            let at = self.next;
            let byte = buffer[at];
            self.next += 1;
            match self.state {
                State::Text => self.text(buffer, at),
                State::Element => match byte {
                    b'"' => self.state = State::Text,
                    b'{' | b'[' => self.depth += 1,
                    b'}' | b']' if self.depth > 0 => self.depth -= 1,
                    b',' | b']' if self.depth == 0 => {
                        let text = buffer[self.start..at].trim_ascii_end();
                        elements.push((self.start, self.start + text.len()));
                        self.comma = byte == b',';
                        self.state = if self.comma {
                            State::Between
                        } else {
                            State::After
                        };
                    }
                    _ => {}
                },
                _ if byte.is_ascii_whitespace() => {}
                State::Between => match byte {
                    b']' if !self.comma => self.state = State::After,
                    b']' | b',' => self.problem = Some("a comma that no value follows or precedes"),
                    _ => {
                        (self.state, self.start, self.depth) = (State::Element, at, 0);
                        self.next = at;
                    }
                },
                State::Before if byte == b'[' => self.state = State::Between,
                State::Before if BYTE_ORDER_MARK.contains(&byte) => {}
                State::Before | State::After => {
                    self.problem = Some("something else than an array");
                }
            }
        }
        elements
    }

    /// Goes to the end of the string, if the buffer has it.
    fn text(&mut self, buffer: &[u8], at: usize) {
        let quote = buffer[at..].iter().position(|byte| *byte == b'"');
        let Some(quote) = quote.map(|quote| at + quote) else {
            self.next = buffer.len();
            return;
        };
        self.next = quote + 1;
        // A quote behind an odd number of backslashes is part of the text. They cannot reach beyond the
        // string's own beginning, which is a quote in this buffer.
        let before = buffer[self.start..quote].iter().rev();
        if before.take_while(|byte| **byte == b'\\').count() % 2 == 0 {
            self.state = State::Element;
        }
    }

    /// How much of the buffer's beginning is not needed any more, after which it must be dropped.
    fn forget(&mut self) -> usize {
        let done = match self.state {
            State::Element | State::Text => self.start,
            _ => self.next,
        };
        self.next -= done;
        self.start = self.start.saturating_sub(done);
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// The elements of a text that comes in pieces of `step` bytes.
    fn elements(text: &str, step: usize) -> Result<Vec<String>, &'static str> {
        let mut scanner = Scanner::default();
        let (mut buffer, mut found) = (Vec::new(), Vec::new());
        for piece in text.as_bytes().chunks(step) {
            buffer.extend_from_slice(piece);
            for (start, end) in scanner.elements(&buffer) {
                found.push(String::from_utf8(buffer[start..end].to_vec()).unwrap());
            }
            if let Some(problem) = scanner.problem {
                return Err(problem);
            }
            buffer.drain(..scanner.forget());
        }
        match scanner.state {
            State::After => Ok(found),
            _ => Err("open"),
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(json!(null)),
            any::<i32>().prop_map(|n| json!(n)),
            "[a\\\\\"\\[\\]{},\n]{0,8}".prop_map(|text| json!(text)),
        ];
        scalar.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(|v| json!(v)),
                ("[\\]}\"]{0,2}", inner).prop_map(|(key, v)| json!({ key: v })),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_elements_are_those_of_the_parser(
            values in prop::collection::vec(value(), 0..6), step in 1..40_usize, pretty: bool
        ) {
            let write = if pretty { serde_json::to_string_pretty } else { serde_json::to_string };
            let text = format!("\u{feff} {}\n", write(&values).unwrap());
            let found = elements(&text, step).unwrap();
            let parsed: Vec<Value> = found.iter().map(|e| serde_json::from_str(e).unwrap()).collect();
            prop_assert_eq!(parsed, values);
        }
    }

    #[test]
    fn what_is_no_array_is_refused() {
        for text in [
            "[1,]", "[,1]", "[1,,2]", "[1] 2", "[1", "[\"a]", "[{]", "", "{}",
        ] {
            assert!(elements(text, 2).is_err(), "{text}");
        }
    }

    #[test]
    fn a_damaged_element_does_not_spoil_the_next() {
        assert_eq!(
            elements("[{\"a\": nope}, }, 2]", 3).unwrap(),
            ["{\"a\": nope}", "}", "2"]
        );
    }
}
