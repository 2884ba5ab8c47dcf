//! Whether a row has what is read of it: found out without building the row, which costs several times as much.

use std::fmt;
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::columns::{Demand, Need, Needs};
use super::place::shortened;
use super::{DataError, Place};
use crate::fingerprint::hash_of_text;

/// What is wrong with a row.
#[derive(Debug)]
pub(super) enum RowProblem {
    /// It cannot be read.
    Unreadable(String),
    /// It lacks the need of this index; these columns it has.
    Missing(usize, Vec<String>),
    /// The need of this index is no text but this.
    NotText(usize, &'static str),
    /// The need of this index is blank.
    Blank(usize),
}

impl RowProblem {
    pub(super) fn at(self, path: &Path, place: Place, needs: &Needs) -> DataError {
        let path_of = path.to_owned();
        let field = |need: usize| needs.0[need].source.clone();
        match self {
            Self::Unreadable(problem) => DataError::BadRow {
                path: path_of,
                place,
                problem,
            },
            Self::Missing(need, present) => {
                DataError::missing(path, place, &needs.0[need], present)
            }
            Self::NotText(need, found) => DataError::FieldType {
                path: path_of,
                place,
                field: field(need),
                found,
            },
            Self::Blank(need) => DataError::BlankField {
                path: path_of,
                place,
                field: field(need),
            },
        }
    }
}

/// The row's fields.
pub(super) fn parse_fields(text: &[u8]) -> Result<Map<String, Value>, RowProblem> {
    serde_json::from_str(utf8(text)?).map_err(|error| not_an_object(&error))
}

/// The text, or where it stops being one.
pub(super) fn utf8(text: &[u8]) -> Result<&str, RowProblem> {
    std::str::from_utf8(text).map_err(|error| {
        RowProblem::Unreadable(format!("not UTF-8 (byte {})", error.valid_up_to() + 1))
    })
}

/// The parser sees one row at a time, so its "at line 1" would mislead.
fn not_an_object(error: &serde_json::Error) -> RowProblem {
    let position = format!(" at line {} column {}", error.line(), error.column());
    let message = error.to_string();
    let message = shortened(message.strip_suffix(&position).unwrap_or(&message));
    // In a row of several lines the column alone says nothing.
    let column = match error.line() {
        0 | 1 => format!(" (column {})", error.column()),
        _ => String::new(),
    };
    RowProblem::Unreadable(format!("not a JSON object: {message}{column}"))
}

/// The name of a value that is none.
const NULL: &str = "null";

/// What a needed column holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Found {
    Missing,
    /// Text, a number or a boolean; the hash is that of the text, and only there for the id.
    Text {
        blank: bool,
        hash: u64,
    },
    /// Something else, by its name.
    Other(&'static str),
}

impl Found {
    pub(super) fn text(text: &str, is_id: bool) -> Self {
        let hash = if is_id { hash_of_text(text) } else { 0 };
        let blank = text.trim_ascii_start().is_empty() || text.trim().is_empty();
        Self::Text { blank, hash }
    }

    pub(super) fn value(value: Option<&Value>, is_id: bool) -> Self {
        match value {
            None => Self::Missing,
            Some(Value::String(text)) => Self::text(text, is_id),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => {
                Self::text(&value.to_string(), is_id)
            }
            Some(Value::Null) => Self::Other(NULL),
            Some(Value::Array(_)) => Self::Other("an array"),
            Some(Value::Object(_)) => Self::Other("an object"),
        }
    }
}

impl Need {
    fn problem(&self, index: usize, found: Found) -> Option<RowProblem> {
        match (found, self.demand) {
            (Found::Missing, _) => Some(RowProblem::Missing(index, Vec::new())),
            (Found::Text { blank: true, .. }, Demand::Filled) => Some(RowProblem::Blank(index)),
            (Found::Text { .. }, _) | (Found::Other(_), Demand::Present) => None,
            (Found::Other(found), Demand::Given) if found != NULL => None,
            (Found::Other(found), _) => Some(RowProblem::NotText(index, found)),
        }
    }
}

impl Needs {
    /// Whether the needs are met; the hash of the id, if there is one.
    pub(super) fn met_by(
        &self,
        mut found: impl FnMut(usize) -> Found,
    ) -> Result<Option<u64>, RowProblem> {
        let mut id = None;
        for (index, need) in self.0.iter().enumerate() {
            let found = found(index);
            if let Some(problem) = need.problem(index, found) {
                return Err(problem);
            }
            if need.is_id
                && let Found::Text { hash, .. } = found
            {
                id = Some(hash);
            }
        }
        Ok(id)
    }

    /// [`Needs::met_by`] for a row that is built.
    pub(super) fn met_by_fields(
        &self,
        fields: &Map<String, Value>,
    ) -> Result<Option<u64>, RowProblem> {
        let found = |index: usize| {
            let need = &self.0[index];
            Found::value(fields.get(&need.source), need.is_id)
        };
        self.met_by(found).map_err(|problem| match problem {
            RowProblem::Missing(need, _) => {
                RowProblem::Missing(need, fields.keys().cloned().collect())
            }
            other => other,
        })
    }

    /// [`Needs::met_by`] for the JSON text of a row, all of which is checked. `found` is scratch space.
    pub(super) fn met_by_text(
        &self,
        text: &[u8],
        found: &mut Vec<Found>,
    ) -> Result<Option<u64>, RowProblem> {
        found.clear();
        found.resize(self.0.len(), Found::Missing);
        let mut parser = serde_json::Deserializer::from_str(utf8(text)?);
        let row = RowSeed { needs: self, found };
        row.deserialize(&mut parser)
            .and_then(|()| parser.end())
            .map_err(|error| not_an_object(&error))?;
        match self.met_by(|index| found[index]) {
            // The names are collected only where they are wanted.
            Err(RowProblem::Missing(..)) => self.met_by_fields(&parse_fields(text)?),
            result => result,
        }
    }
}

/// Reads an object, noting what the needed columns hold.
struct RowSeed<'a> {
    needs: &'a Needs,
    found: &'a mut [Found],
}

impl<'de> DeserializeSeed<'de> for RowSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<(), D::Error> {
        parser.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RowSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(need) = map.next_key_seed(KeySeed(self.needs))? {
            let is_id = need.is_some_and(|need| self.needs.0[need].is_id);
            let found = map.next_value_seed(ValueSeed { is_id })?;
            if let Some(need) = need {
                self.found[need] = found;
            }
        }
        Ok(())
    }
}

/// A key: which need it is, if any.
struct KeySeed<'a>(&'a Needs);

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<Self::Value, D::Error> {
        parser.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeySeed<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.position(key))
    }
}

/// A value, which is read to its end: what [`parse_fields`] would refuse is refused here.
#[derive(Clone, Copy)]
struct ValueSeed {
    is_id: bool,
}

impl<'de> DeserializeSeed<'de> for ValueSeed {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<Found, D::Error> {
        parser.deserialize_any(self)
    }
}

impl ValueSeed {
    fn scalar(self, value: impl Into<Value>) -> Found {
        if self.is_id {
            return Found::value(Some(&value.into()), true);
        }
        Found::Text {
            blank: false,
            hash: 0,
        }
    }
}

impl<'de> Visitor<'de> for ValueSeed {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Found, E> {
        Ok(Found::text(text, self.is_id))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Found, E> {
        Ok(self.scalar(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Found, E> {
        Ok(self.scalar(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Found, E> {
        Ok(self.scalar(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Found, E> {
        Ok(self.scalar(value))
    }

    fn visit_unit<E: Error>(self) -> Result<Found, E> {
        Ok(Found::Other("null"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Found, A::Error> {
        while values.next_element_seed(Self { is_id: false })?.is_some() {}
        Ok(Found::Other("an array"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        while map.next_key_seed(KeySeed(&Needs(Vec::new())))?.is_some() {
            map.next_value_seed(Self { is_id: false })?;
        }
        Ok(Found::Other("an object"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{BadRows, Reading};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn needs() -> Needs {
        Needs::new(&Reading {
            columns: &BTreeMap::from([("c".into(), "mapped".into())]),
            required: &["a", "b"],
            given: &[],
            filled: &["a"],
            id: Some("b"),
            bad_rows: BadRows::Error,
        })
    }

    /// JSON with repeated keys, odd numbers, lone surrogates, deep nesting, or none at all.
    fn row_text() -> impl Strategy<Value = String> {
        let scalar = prop_oneof![
            Just("null".to_owned()),
            Just("true".to_owned()),
            Just("1e999".to_owned()),
            Just("-0".to_owned()),
            Just("18446744073709551616".to_owned()),
            Just(r#""\ud800""#.to_owned()),
            Just(r#"" \u00a0\n""#.to_owned()),
            Just(r#""""#.to_owned()),
            Just("nope".to_owned()),
            any::<f64>().prop_map(|n| n.to_string()),
            "[a-z\"\\\\]{0,3}".prop_map(|s| format!("\"{s}\"")),
        ];
        let value = scalar.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3)
                    .prop_map(|v| format!("[{}]", v.join(","))),
                inner.prop_map(|v| format!("{{\"k\":{v}}}")),
            ]
        });
        let field = ("(a|b|mapped|other)", value).prop_map(|(k, v)| format!("\"{k}\": {v}"));
        prop::collection::vec(field, 0..6).prop_map(|fields| format!("{{{}}}", fields.join(", ")))
    }

    fn outcome(result: Result<Option<u64>, RowProblem>) -> Result<Option<u64>, String> {
        let at = |problem: RowProblem| problem.at(Path::new("x"), Place::Line(1), &needs());
        result.map_err(|problem| at(problem).to_string())
    }

    proptest! {
        /// What was accepted once can be read later, and the other way round.
        #[test]
        fn checking_the_text_agrees_with_building_the_row(text in row_text()) {
            let built = parse_fields(text.as_bytes()).and_then(|fields| needs().met_by_fields(&fields));
            let checked = needs().met_by_text(text.as_bytes(), &mut Vec::new());
            prop_assert_eq!(outcome(checked), outcome(built), "{}", text);
        }
    }

    #[test]
    fn deep_nesting_is_refused_and_not_a_stack_overflow() {
        let text = format!("{{\"other\": {}{}}}", "[".repeat(9999), "]".repeat(9999));
        let result = needs().met_by_text(text.as_bytes(), &mut Vec::new());
        assert!(outcome(result).unwrap_err().contains("recursion limit"));
    }

    #[test]
    fn a_text_where_an_object_belongs_is_not_quoted_in_full() {
        let text = format!("\"{}\"", "x".repeat(1 << 20));
        let problem = outcome(needs().met_by_text(text.as_bytes(), &mut Vec::new())).unwrap_err();
        assert!(problem.len() < 400, "{problem}");
    }
}
