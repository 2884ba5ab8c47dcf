//! What a database is like, and the values that its rows are drawn from.

use super::design::{Domain, Kind};
use super::values::{Comparison, Value};
use crate::statistics::random::SplitMix64;

/// What a database is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Profile {
    /// Fewest and most rows of a table, rows that the query asks for not counted.
    pub(super) rows: (usize, usize),
    /// Different values of a column that is no key, those that the query compares with not counted.
    pub(super) different_values: usize,
    /// How often rows that the query asks for are made.
    pub(super) witnesses: usize,
    /// Whether some values are NULL.
    pub(super) has_nulls: bool,
    /// Whether some numbers are negative or zero.
    pub(super) has_negatives: bool,
    /// Whether some texts contain the texts that the query asks for.
    pub(super) is_wide: bool,
}

/// Profiles by number of the database.
const PROFILES: [Profile; 5] = [
    Profile {
        rows: (8, 14),
        different_values: 7,
        witnesses: 3,
        has_nulls: false,
        has_negatives: false,
        is_wide: false,
    },
    Profile {
        rows: (14, 26),
        different_values: 5,
        witnesses: 4,
        has_nulls: false,
        has_negatives: true,
        is_wide: false,
    },
    Profile {
        rows: (4, 9),
        different_values: 4,
        witnesses: 2,
        has_nulls: false,
        has_negatives: false,
        is_wide: true,
    },
    Profile {
        rows: (10, 20),
        different_values: 9,
        witnesses: 3,
        has_nulls: true,
        has_negatives: true,
        is_wide: false,
    },
    // Nearly empty.
    Profile {
        rows: (1, 2),
        different_values: 2,
        witnesses: 0,
        has_nulls: false,
        has_negatives: false,
        is_wide: false,
    },
];

impl Profile {
    /// The profile of database `number` of a row.
    pub(super) fn of(number: usize) -> Self {
        PROFILES[number % PROFILES.len()]
    }
}

/// Values of a domain in one database.
pub(super) struct Pool {
    /// At the edge of a condition.
    pub(super) edges: Vec<Value>,
    /// Others.
    pub(super) others: Vec<Value>,
    /// Keys that rows have, for references.
    pub(super) keys: Vec<Value>,
    /// Number that the next new key is made of.
    pub(super) next_key: usize,
}

/// The values of `domain`, the `number`th.
pub(super) fn pool(
    domain: &Domain,
    number: usize,
    profile: Profile,
    random: &mut SplitMix64,
) -> Pool {
    let mut edges: Vec<Value> = Vec::new();
    for value in domain
        .comparisons
        .iter()
        .flat_map(|comparison| comparison.edge_values(profile.is_wide))
    {
        let value = match value.as_number() {
            Some(number) if domain.kind.is_number() => Value::number(number),
            _ => value,
        };
        if !edges.contains(&value) && value != Value::Null {
            edges.push(value);
        }
    }
    // Few ties where rows are ordered: there the answer would be open.
    let wanted = if domain.is_ordered {
        400
    } else {
        profile.different_values
    };
    let numbers: Vec<f64> = domain
        .comparisons
        .iter()
        .flat_map(Comparison::literals)
        .filter_map(Value::as_number)
        .collect();
    let highest = numbers.iter().fold(0.0_f64, |a, b| a.max(b.abs()));
    // Ranges that differ from column to column: a wrong column shows.
    let (low, width) = match domain.kind {
        Kind::Year => (1950, 75),
        _ if highest > 0.0 => (0, (2.0 * highest).clamp(30.0, 1e9) as usize),
        _ => (3 + 7 * (number % 11) as i64, 60 + 40 * (number % 7)),
    };
    let width = width.max(3 * wanted);
    let mut others: Vec<Value> = Vec::new();
    while others.len() < wanted {
        let drawn = random.below(width);
        let value = match domain.kind {
            Kind::Text => Value::Text(word(drawn + 13 * number)),
            Kind::Date => date(drawn * 37 + 11 * number),
            Kind::Real => Value::number((low + drawn as i64) as f64 + random.below(4) as f64 / 4.0),
            Kind::Integer | Kind::Year => Value::Integer(low + drawn as i64),
        };
        if !others.contains(&value) {
            others.push(value);
        }
    }
    if profile.has_negatives && matches!(domain.kind, Kind::Integer | Kind::Real) {
        others.push(Value::Integer(0));
        others.push(Value::Integer(-1 - random.below(50) as i64));
    }
    Pool {
        edges,
        others,
        keys: Vec::new(),
        next_key: random.below(50),
    }
}

const WORDS: [&str; 32] = [
    "Amber", "Birch", "Cedar", "Delta", "Ember", "Fjord", "Grove", "Harbor", "Iris", "Jasper",
    "Knoll", "Laurel", "Maple", "Nectar", "Opal", "Poplar", "Quartz", "Raven", "Sable", "Tulip",
    "Umber", "Violet", "Willow", "Xenon", "Yarrow", "Zinc", "Acorn", "Bramble", "Clover", "Dune",
    "Elm", "Fern",
];

/// A word that no other number has.
pub(super) fn word(number: usize) -> String {
    let first = WORDS[number % WORDS.len()];
    match number / WORDS.len() {
        0 => first.to_owned(),
        round => format!("{first} {round}"),
    }
}

/// A day, for most numbers another.
pub(super) fn date(number: usize) -> Value {
    let (year, month, day) = (
        1990 + number / 336 % 35,
        1 + number / 28 % 12,
        1 + number % 28,
    );
    Value::Text(format!("{year}-{month:02}-{day:02}"))
}
