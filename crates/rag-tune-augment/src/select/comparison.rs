//! Comparisons of an expression whose two sides can be seen without evaluating it.
//!
//! minijinja orders values of different kinds by their kind, so `"7" < 3` is false and no error: a
//! column that turned out to be text would silently rule out the wrong rows. The sides of
//! `example.level <= row.level`, and of any comparison of columns and literals, are therefore
//! checked to be of one kind. Where a side is itself computed, or the expression looks at kinds
//! itself (`is`, `if`), nothing is checked.

use minijinja::Value;

/// A comparison of two columns, or of a column and a literal.
#[derive(Debug, PartialEq)]
pub(super) struct Comparison {
    left: Operand,
    right: Operand,
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Column(Side, String),
    Literal(Kind),
}

/// Whose column it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Row,
    Example,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Booleans too: they compare as 0 and 1.
    Number,
    Text,
}

impl Kind {
    fn of(value: &Value) -> Option<Self> {
        use minijinja::value::ValueKind;
        match value.kind() {
            ValueKind::Number | ValueKind::Bool => Some(Self::Number),
            ValueKind::String => Some(Self::Text),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Number => "a number",
            Self::Text => "a text",
        }
    }
}

impl Comparison {
    /// Whether both sides are of one kind, where `value` gives a column's value.
    pub(super) fn check<'a>(
        &self,
        value: impl Fn(Side, &str) -> Option<&'a Value>,
    ) -> Result<(), String> {
        let kind = |operand: &Operand| match operand {
            Operand::Column(side, column) => value(*side, column).and_then(Kind::of),
            Operand::Literal(kind) => Some(*kind),
        };
        match (kind(&self.left), kind(&self.right)) {
            (Some(left), Some(right)) if left != right => Err(format!(
                "{} is {} and {} is {}, which do not compare",
                self.left.name(),
                left.name(),
                self.right.name(),
                right.name()
            )),
            _ => Ok(()),
        }
    }
}

impl Operand {
    fn of(token: &Token<'_>) -> Option<Self> {
        match token {
            Token::Number => Some(Self::Literal(Kind::Number)),
            Token::Text => Some(Self::Literal(Kind::Text)),
            Token::Word(path) => match path.split_once('.')? {
                ("row", column) if !column.contains('.') => {
                    Some(Self::Column(Side::Row, column.into()))
                }
                ("example", column) if !column.contains('.') => {
                    Some(Self::Column(Side::Example, column.into()))
                }
                _ => None,
            },
            Token::Sign(_) => None,
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Column(Side::Row, column) => format!("`row.{column}`"),
            Self::Column(Side::Example, column) => format!("`example.{column}`"),
            Self::Literal(_) => "the other side".into(),
        }
    }
}

/// The comparisons in `source`, which compiles.
pub(super) fn comparisons(source: &str) -> Vec<Comparison> {
    let tokens = tokens(source);
    if tokens.contains(&Token::Word("is")) || tokens.contains(&Token::Word("if")) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for at in 1..tokens.len().saturating_sub(1) {
        let whole = tokens[at].compares()
            && (at < 2 || tokens[at - 2].ends_operand())
            && tokens.get(at + 2).is_none_or(Token::ends_operand);
        if let Some((left, right)) = Operand::of(&tokens[at - 1])
            .zip(Operand::of(&tokens[at + 1]))
            .filter(|_| whole)
        {
            found.push(Comparison { left, right });
        }
    }
    found
}

#[derive(Debug, PartialEq)]
enum Token<'a> {
    Number,
    Text,
    /// A name, or names joined by dots.
    Word(&'a str),
    Sign(&'a str),
}

impl Token<'_> {
    fn compares(&self) -> bool {
        matches!(self, Self::Sign("<" | "<=" | ">" | ">=" | "==" | "!="))
    }

    /// Whether what stands beside it is an operand by itself, and no part of a sum or filter.
    fn ends_operand(&self) -> bool {
        self.compares()
            || matches!(
                self,
                Self::Word("and" | "or" | "not") | Self::Sign("(" | ")" | "," | "[" | "]")
            )
    }
}

fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = source.trim_start();
    while let Some(first) = rest.chars().next() {
        let in_number = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '_';
        let in_word = |c: char| c.is_alphanumeric() || c == '.' || c == '_';
        let negative = first == '-'
            && tokens.last().is_none_or(Token::compares)
            && rest[1..].starts_with(|c: char| c.is_ascii_digit());
        let until = |part: &dyn Fn(char) -> bool| {
            let after = rest[first.len_utf8()..].find(|c| !part(c));
            after.map_or(rest.len(), |at| at + first.len_utf8())
        };
        let (token, after) = if first == '"' || first == '\'' {
            let (_, after) = rest.split_at(text_length(rest, first));
            (Token::Text, after)
        } else if first.is_ascii_digit() || negative {
            let (_, after) = rest.split_at(until(&in_number));
            (Token::Number, after)
        } else if first.is_alphabetic() || first == '_' {
            let (word, after) = rest.split_at(until(&in_word));
            (Token::Word(word), after)
        } else {
            let double = ["<=", ">=", "==", "!=", "**", "//"]
                .iter()
                .any(|sign| rest.starts_with(sign));
            let length = if double { 2 } else { first.len_utf8() };
            let (sign, after) = rest.split_at(length);
            (Token::Sign(sign), after)
        };
        tokens.push(token);
        rest = after.trim_start();
    }
    tokens
}

/// Bytes of the text literal that `rest` begins with.
fn text_length(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        if c == quote && !escaped {
            return at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many comparisons are seen, and between what.
    fn seen(source: &str) -> Vec<String> {
        let name = |operand: &Operand| match operand {
            Operand::Literal(kind) => kind.name().to_owned(),
            column => column.name(),
        };
        comparisons(source)
            .iter()
            .map(|comparison| format!("{} ~ {}", name(&comparison.left), name(&comparison.right)))
            .collect()
    }

    #[test]
    fn plain_comparisons_are_seen() {
        assert_eq!(
            seen("example.level<=row.level and not (row.kind == 'a \\' < 3')"),
            ["`example.level` ~ `row.level`", "`row.kind` ~ a text"]
        );
        assert_eq!(
            seen("-1.5 < row.level <= 3"),
            ["a number ~ `row.level`", "`row.level` ~ a number"]
        );
    }

    #[test]
    fn computed_sides_are_left_alone() {
        for source in [
            "row.level|int < 3",
            "3 < row.level|int",
            "row.level + 1 < example.level",
            "row.name.lower() == 'a'",
            "row.level is number and row.level < 3",
            "(row.level if true else 'x') < 3",
            "row.level in [1, 2]",
        ] {
            assert_eq!(seen(source), [""; 0], "{source}");
        }
    }
}
