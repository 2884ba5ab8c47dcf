//! Which columns are read of a row, and what they are called in the file and in the task.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::{BadRows, DataError, Place};

/// How the rows of a split are read.
///
/// Names are the task's, except for the values of `columns`. Where a renamed column meets another column
/// of that name, the renamed one wins and the other is left out of the row.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// Task column to source column, where they differ; every source column must be in every row.
    pub columns: &'a BTreeMap<String, String>,
    /// The task columns that every row must have, as text (numbers and booleans count as text).
    pub required: &'a [&'a str],
    /// The task columns that every row must have, whatever they hold but null.
    pub given: &'a [&'a str],
    /// The required columns whose text must not be empty or white space.
    pub filled: &'a [&'a str],
    /// The column that identifies a row, if there is one; it is required, and no value may occur twice.
    pub id: Option<&'a str>,
    /// What happens to rows that cannot be used.
    pub bad_rows: BadRows,
}

/// What must be true of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Demand {
    /// It is there; null is allowed.
    Present,
    /// It is there, and not null.
    Given,
    /// It is text, a number or a boolean.
    Text,
    /// As `Text`, and not blank.
    Filled,
}

/// A source column that is needed.
#[derive(Debug, Clone)]
pub(super) struct Need {
    pub(super) source: String,
    /// The task column that it was mapped to, where the names differ.
    pub(super) mapped_to: Option<String>,
    pub(super) demand: Demand,
    pub(super) is_id: bool,
}

/// The columns that are needed, each once.
#[derive(Debug, Clone, Default)]
pub(super) struct Needs(pub(super) Vec<Need>);

impl Needs {
    pub(super) fn new(reading: &Reading<'_>) -> Self {
        let mut needs = Self::default();
        for &column in reading.required {
            let filled = reading.filled.contains(&column);
            let demand = if filled { Demand::Filled } else { Demand::Text };
            needs.add(reading, column, demand);
        }
        for column in reading.given {
            needs.add(reading, column, Demand::Given);
        }
        if let Some(id) = reading.id {
            needs.add(reading, id, Demand::Text).is_id = true;
        }
        for column in reading.columns.keys() {
            needs.add(reading, column, Demand::Present);
        }
        needs
    }

    fn add(&mut self, reading: &Reading<'_>, column: &str, demand: Demand) -> &mut Need {
        let source = reading.columns.get(column).map_or(column, String::as_str);
        let known = self.0.iter().position(|need| need.source == source);
        let index = known.unwrap_or_else(|| {
            self.0.push(Need {
                source: source.into(),
                mapped_to: (source != column).then(|| column.into()),
                demand,
                is_id: false,
            });
            self.0.len() - 1
        });
        let need = &mut self.0[index];
        need.demand = need.demand.max(demand);
        need
    }

    pub(super) fn position(&self, source: &str) -> Option<usize> {
        self.0.iter().position(|need| need.source == source)
    }

    /// Whether a file that declares `columns` has all that are needed, and no name twice.
    pub(super) fn check_declared(
        &self,
        path: &std::path::Path,
        place: Place,
        columns: &[String],
    ) -> Result<(), DataError> {
        let mut seen = BTreeSet::new();
        if let Some(column) = columns.iter().find(|column| !seen.insert(*column)) {
            return Err(DataError::DuplicateColumn {
                path: path.into(),
                column: column.clone(),
            });
        }
        match self.0.iter().find(|need| !seen.contains(&need.source)) {
            None => Ok(()),
            Some(need) => Err(DataError::missing(path, place, need, columns.to_vec())),
        }
    }
}

/// Source names to task names.
#[derive(Debug, Default)]
pub(super) struct Renaming {
    /// Mapped source column to the names that it gets.
    targets: BTreeMap<String, Vec<String>>,
    /// Task columns that take their text from another column.
    taken: BTreeSet<String>,
}

impl Renaming {
    pub(super) fn new(reading: &Reading<'_>) -> Self {
        let mut targets: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (column, source) in reading.columns {
            targets
                .entry(source.clone())
                .or_default()
                .push(column.clone());
        }
        // A mapped column that is also read under its own name keeps that too.
        let named = reading.required.iter().copied().chain(reading.id);
        for column in named.filter(|column| !reading.columns.contains_key(*column)) {
            if let Some(names) = targets.get_mut(column)
                && !names.iter().any(|name| name == column)
            {
                names.push(column.into());
            }
        }
        let taken = reading.columns.keys().cloned().collect();
        Self { targets, taken }
    }

    pub(super) fn apply(&self, fields: Map<String, Value>) -> Map<String, Value> {
        if self.targets.is_empty() {
            return fields;
        }
        let mut renamed = Map::new();
        for (name, value) in fields {
            match self.targets.get(&name).map(Vec::as_slice) {
                Some([one]) => {
                    renamed.insert(one.clone(), value);
                }
                Some(several) => renamed.extend(several.iter().map(|n| (n.clone(), value.clone()))),
                None if self.taken.contains(&name) => {}
                None => {
                    renamed.insert(name, value);
                }
            }
        }
        renamed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn renamed(columns: &[(&str, &str)], required: &[&str], row: Value) -> String {
        let columns = columns
            .iter()
            .map(|(task, source)| ((*task).into(), (*source).into()))
            .collect();
        let reading = Reading {
            columns: &columns,
            required,
            given: &[],
            filled: &[],
            id: None,
            bad_rows: BadRows::Error,
        };
        let Value::Object(fields) = row else { panic!() };
        Value::Object(Renaming::new(&reading).apply(fields)).to_string()
    }

    #[test]
    fn a_mapped_column_keeps_its_place_under_the_new_name() {
        assert_eq!(
            renamed(&[("q", "input")], &["q"], json!({"a": 1, "input": "x"})),
            r#"{"a":1,"q":"x"}"#
        );
    }

    #[test]
    fn the_mapped_column_wins_over_one_of_that_name() {
        let row = json!({"answer": "words", "sql": "SELECT"});
        assert_eq!(
            renamed(&[("answer", "sql")], &["answer"], row),
            r#"{"answer":"SELECT"}"#
        );
        let swapped = renamed(&[("a", "b"), ("b", "a")], &["a"], json!({"a": 1, "b": 2}));
        assert_eq!(swapped, r#"{"b":1,"a":2}"#);
    }

    #[test]
    fn one_column_may_be_read_under_several_names() {
        let row = json!({"text": "x"});
        assert_eq!(
            renamed(&[("q", "text"), ("r", "text")], &["text"], row),
            r#"{"q":"x","r":"x","text":"x"}"#
        );
    }
}
