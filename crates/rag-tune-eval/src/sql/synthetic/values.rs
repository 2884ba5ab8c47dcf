//! Values, and what a query asks of them.

use rusqlite::ToSql;
use rusqlite::types::ToSqlOutput;

/// A value of a row.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Integer(i64),
    /// Finite.
    Real(f64),
    Text(String),
}

impl Value {
    /// A whole number where it is one.
    pub(super) fn number(value: f64) -> Self {
        if value.fract() == 0.0 && value.abs() < 1e15 {
            Self::Integer(value as i64) // exact below 2^53
        } else {
            Self::Real(value)
        }
    }

    /// The number that it is, or that its text spells.
    pub(super) fn as_number(&self) -> Option<f64> {
        match self {
            Self::Null => None,
            Self::Integer(value) => Some(*value as f64),
            Self::Real(value) => Some(*value),
            Self::Text(text) => {
                let number: f64 = text.trim().parse().ok()?;
                number.is_finite().then_some(number)
            }
        }
    }

    fn as_text(&self) -> String {
        match self {
            Self::Null => String::new(),
            Self::Integer(value) => value.to_string(),
            Self::Real(value) => value.to_string(),
            Self::Text(text) => text.clone(),
        }
    }

    /// As SQLite orders values of one column: numbers before text.
    fn compare(&self, other: &Self) -> std::cmp::Ordering {
        match (self.as_number(), other.as_number()) {
            (Some(a), Some(b)) => a.total_cmp(&b),
            _ => self.as_text().cmp(&other.as_text()),
        }
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        match self {
            Self::Null => Ok(ToSqlOutput::Owned(rusqlite::types::Value::Null)),
            Self::Integer(value) => value.to_sql(),
            Self::Real(value) => value.to_sql(),
            Self::Text(text) => text.to_sql(),
        }
    }
}

/// A comparison operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Operator {
    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "=" | "==" => Self::Equal,
            "!=" | "<>" => Self::NotEqual,
            "<" => Self::Less,
            "<=" => Self::LessOrEqual,
            ">" => Self::Greater,
            ">=" => Self::GreaterOrEqual,
            _ => return None,
        })
    }

    /// With its sides exchanged.
    pub(super) fn flipped(self) -> Self {
        match self {
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::Greater => Self::Less,
            Self::GreaterOrEqual => Self::LessOrEqual,
            Self::Equal | Self::NotEqual => self,
        }
    }

    pub(super) fn holds(self, order: std::cmp::Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::NotEqual => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        }
    }
}

/// What a query asks of the value of a column.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Comparison {
    Compare(Operator, Value),
    Between(Value, Value),
    Among(Vec<Value>),
    Like(String),
    IsNull,
    /// The opposite of another.
    Not(Box<Comparison>),
}

impl Comparison {
    /// Whether `value` is what is asked for.
    pub(super) fn accepts(&self, value: &Value) -> bool {
        if matches!(value, Value::Null) {
            return matches!(self, Self::IsNull);
        }
        match self {
            Self::Compare(operator, literal) => operator.holds(value.compare(literal)),
            Self::Between(low, high) => value.compare(low).is_ge() && value.compare(high).is_le(),
            Self::Among(literals) => literals.iter().any(|l| value.compare(l).is_eq()),
            Self::Like(pattern) => is_like(&value.as_text(), pattern),
            Self::IsNull => false,
            Self::Not(other) => !other.accepts(value),
        }
    }

    /// The literals that it compares with, patterns not among them.
    pub(super) fn literals(&self) -> Vec<&Value> {
        match self {
            Self::Compare(_, literal) => vec![literal],
            Self::Between(low, high) => vec![low, high],
            Self::Among(literals) => literals.iter().collect(),
            Self::Like(_) | Self::IsNull => Vec::new(),
            Self::Not(other) => other.literals(),
        }
    }

    /// Values at the edge: some are accepted and some just not. `is_wide` adds texts that contain a literal, which
    /// only `LIKE` takes for equal.
    pub(super) fn edge_values(&self, is_wide: bool) -> Vec<Value> {
        match self {
            Self::Like(pattern) => like_values(pattern),
            Self::IsNull => vec![Value::Null],
            Self::Not(other) => other.edge_values(is_wide),
            Self::Compare(..) | Self::Between(..) | Self::Among(_) => {
                let near = |literal| near_values(literal, is_wide);
                self.literals().into_iter().flat_map(near).collect()
            }
        }
    }
}

/// A literal, and values near it on both sides.
fn near_values(literal: &Value, is_wide: bool) -> Vec<Value> {
    if let Some(number) = literal.as_number() {
        let step = if number.fract() == 0.0 { 1.0 } else { 0.25 };
        let far = (number.abs() / 2.0).ceil().max(3.0);
        return [0.0, -step, step, far, -far]
            .into_iter()
            .map(|distance| Value::number(number + distance))
            .collect();
    }
    let Value::Text(text) = literal else {
        return vec![literal.clone()];
    };
    let mut values = vec![literal.clone()];
    values.extend(
        [1, 9]
            .map(|shift| with_last_digits_shifted(text, shift))
            .into_iter()
            .flatten(),
    );
    if is_wide && !text.is_empty() {
        values.push(Value::Text(format!("{text} II")));
        values.push(Value::Text(format!("Old {text}")));
    }
    values
}

/// A date a day later or earlier, a code with another number: `text` with its last digit replaced.
fn with_last_digits_shifted(text: &str, shift: u8) -> Option<Value> {
    let at = text.rfind(|c: char| c.is_ascii_digit())?;
    let digit = (text.as_bytes()[at] - b'0' + shift) % 10;
    Some(Value::Text(format!(
        "{}{digit}{}",
        &text[..at],
        &text[at + 1..]
    )))
}

/// Texts that match `pattern`, and some that just do not.
fn like_values(pattern: &str) -> Vec<Value> {
    let filled = |any: &str| pattern.replace('%', any).replace('_', "o");
    let mut values: Vec<String> = ["", "al", " Bay ", "x"].map(filled).into();
    let bare = filled("");
    if pattern.starts_with('%') != pattern.ends_with('%') {
        // Anchored at one side: the text at the other side does not match.
        values.push(format!("{bare} Rim"));
        values.push(format!("The {bare}"));
    }
    let mut short = bare.clone();
    if short.pop().is_some() && !short.is_empty() {
        values.push(short);
    }
    values.into_iter().map(Value::Text).collect()
}

/// SQLite's `LIKE`: `%` is any text, `_` any character, ASCII letters in any case.
fn is_like(text: &str, pattern: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    // Which beginnings of the text the pattern so far matches.
    let mut matched = vec![false; text.len() + 1];
    matched[0] = true;
    for p in pattern.chars() {
        if p == '%' {
            for i in 1..matched.len() {
                matched[i] |= matched[i - 1];
            }
        } else {
            for i in (1..matched.len()).rev() {
                let fits = p == '_' || p.eq_ignore_ascii_case(&text[i - 1]);
                matched[i] = matched[i - 1] && fits;
            }
            matched[0] = false;
        }
    }
    matched[text.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rusqlite::Connection;

    use super::*;

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn every_condition_has_values_on_both_sides() {
        use Operator::*;
        let numbers = [Equal, NotEqual, Less, LessOrEqual, Greater, GreaterOrEqual]
            .map(|operator| Comparison::Compare(operator, Value::Integer(20)));
        let others = [
            Comparison::Between(Value::Integer(3), Value::Integer(9)),
            Comparison::Among(vec![Value::Integer(3), Value::Integer(9)]),
            Comparison::Compare(Greater, text("2018-01-01")),
            Comparison::Like("%West%".to_owned()),
            Comparison::Like("A%".to_owned()),
            Comparison::Not(Box::new(Comparison::Like("%d".to_owned()))),
        ];
        for comparison in numbers.into_iter().chain(others) {
            let values = comparison.edge_values(false);
            let accepted = values
                .iter()
                .filter(|value| comparison.accepts(value))
                .count();
            assert!(
                0 < accepted && accepted < values.len(),
                "{comparison:?}: {values:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn like_agrees_with_sqlite(text in "[aAbé]{0,6}", pattern in "[aBé%_]{0,5}") {
            let sqlite: bool = Connection::open_in_memory()
                .unwrap()
                .query_row("SELECT ?1 LIKE ?2", [&text, &pattern], |row| row.get(0))
                .unwrap();
            prop_assert_eq!(is_like(&text, &pattern), sqlite);
        }
    }
}
