//! Fills the tables of a domain with values.

use std::collections::HashSet;

use rusqlite::types::Value;

use super::pools::{FIRST_NAMES, LAST_NAMES};
use super::rng::Rng;
use super::schema::{Column, Domain, LabelSource, Measure, Role, Table};

/// The values of one table, `rows[row][column]`.
pub type Rows = Vec<Vec<Value>>;

/// Rows for every table of `domain`, in table order.
pub fn rows_of(domain: &Domain, rng: &mut Rng) -> Vec<Rows> {
    domain
        .tables
        .iter()
        .map(|table| table_rows(domain, table, rng))
        .collect()
}

fn table_rows(domain: &Domain, table: &Table, rng: &mut Rng) -> Rows {
    let count = table.row_count().unwrap_or(0);
    let columns: Vec<Vec<Value>> = table
        .columns
        .iter()
        .map(|column| column_values(domain, column, count, rng))
        .collect();
    (0..count)
        .map(|row| columns.iter().map(|values| values[row].clone()).collect())
        .collect()
}

fn column_values(domain: &Domain, column: &Column, count: usize, rng: &mut Rng) -> Vec<Value> {
    match &column.role {
        Role::Key => (1..=count as i64).map(Value::Integer).collect(),
        Role::Label(source) => labels(source, count, rng)
            .into_iter()
            .map(Value::Text)
            .collect(),
        Role::Category(category) => categories(&category.values, count, rng),
        Role::Number(measure) | Role::Year(measure) => numbers(measure, count, rng),
        Role::Date(measure) => (0..count).map(|_| date(measure, rng)).collect(),
        Role::Ref(reference) => {
            let parent = domain
                .table_index(&reference.table)
                .map(|index| &domain.tables[index]);
            references(parent.and_then(Table::row_count).unwrap_or(0), count, rng)
        }
    }
}

fn labels(source: &LabelSource, count: usize, rng: &mut Rng) -> Vec<String> {
    match source {
        LabelSource::Values(values) => values.clone(),
        LabelSource::Pattern(pattern) => distinct(count, || code(pattern, rng)),
        LabelSource::Person => distinct(count, || person(rng)),
    }
}

/// `count` results of `draw`, drawn again while they repeat an earlier one.
fn distinct(count: usize, mut draw: impl FnMut() -> String) -> Vec<String> {
    let mut seen = HashSet::new();
    let mut values = Vec::with_capacity(count);
    while values.len() < count {
        let value = draw();
        if seen.insert(value.clone()) {
            values.push(value);
        }
    }
    values
}

fn code(pattern: &str, rng: &mut Rng) -> String {
    let digit = |rng: &mut Rng| char::from(b'0' + rng.below(10) as u8);
    pattern
        .chars()
        .map(|letter| if letter == '#' { digit(rng) } else { letter })
        .collect()
}

fn person(rng: &mut Rng) -> String {
    let first = FIRST_NAMES[rng.below(FIRST_NAMES.len())];
    let last = LAST_NAMES[rng.below(LAST_NAMES.len())];
    format!("{first} {last}")
}

/// Some values often and others seldom, so that "the most common" has an answer.
fn categories(values: &[String], count: usize, rng: &mut Rng) -> Vec<Value> {
    let order = rng.sample(values, values.len());
    let mut column: Vec<Value> = (0..count)
        .map(|row| {
            order
                .get(row)
                .unwrap_or_else(|| &order[rng.skewed(order.len())])
        })
        .map(|text| Value::Text(text.clone()))
        .collect();
    rng.shuffle(&mut column);
    column
}

/// Without repetition where the range allows it, so that "the highest" is a single row.
fn numbers(measure: &Measure, count: usize, rng: &mut Rng) -> Vec<Value> {
    let steps = ((measure.max - measure.min) / measure.step).round() as usize;
    let mut free: Vec<usize> = (0..=steps).collect();
    rng.shuffle(&mut free);
    (0..count)
        .map(|row| {
            free.get(row)
                .copied()
                .unwrap_or_else(|| rng.below(steps + 1))
        })
        .map(|step| number(measure, step))
        .collect()
}

fn number(measure: &Measure, step: usize) -> Value {
    let exact = measure.min + step as f64 * measure.step;
    if measure.has_decimals() {
        Value::Real((exact * 100.0).round() / 100.0)
    } else {
        Value::Integer(exact.round() as i64)
    }
}

fn date(measure: &Measure, rng: &mut Rng) -> Value {
    let year = rng.between(measure.min as usize, measure.max as usize);
    // Day 28 exists in every month.
    Value::Text(format!(
        "{year}-{:02}-{:02}",
        rng.between(1, 12),
        rng.between(1, 28)
    ))
}

/// Leaves about every fifth parent without children, and gives some many more than others.
fn references(parents: usize, count: usize, rng: &mut Rng) -> Vec<Value> {
    let mut keys: Vec<i64> = (1..=parents as i64).collect();
    rng.shuffle(&mut keys);
    keys.truncate(parents - parents / 5);
    (0..count)
        .map(|_| Value::Integer(keys[rng.skewed(keys.len())]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::domains;
    use super::*;

    #[test]
    fn references_point_at_rows_that_exist_and_leave_some_parents_childless() {
        let values = references(20, 50, &mut Rng::named(1, "refs"));
        let keys: HashSet<i64> = values
            .iter()
            .map(|value| match value {
                Value::Integer(key) => *key,
                other => panic!("{other:?} is no key"),
            })
            .collect();
        assert!(keys.iter().all(|key| (1..=20).contains(key)));
        assert!(keys.len() <= 16);
    }

    #[test]
    fn decimals_are_rounded_to_what_is_printed() {
        let measure: Measure = toml::from_str("min = 0.1\nmax = 9.0\nstep = 0.1").unwrap();
        assert_eq!(number(&measure, 2), Value::Real(0.3));
    }

    #[test]
    fn labels_never_repeat() {
        for domain in domains::all().unwrap() {
            let tables = rows_of(&domain, &mut Rng::named(5, &domain.id));
            for (table, rows) in domain.tables.iter().zip(tables) {
                let Some(label) = table.label() else { continue };
                let names: HashSet<String> =
                    rows.iter().map(|row| format!("{:?}", row[label])).collect();
                assert_eq!(names.len(), rows.len(), "{}.{}", domain.id, table.name);
            }
        }
    }
}
