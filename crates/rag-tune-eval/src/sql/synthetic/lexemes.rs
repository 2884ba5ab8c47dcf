//! The words and signs of a query, as far as its reader tells them apart.

use super::schema::unquoted;
use super::values::{Operator, Value};
use crate::sql::tokens::{TokenKind, tokenize};

/// Words that are no names.
const KEYWORDS: [&str; 43] = [
    "all",
    "and",
    "as",
    "asc",
    "between",
    "by",
    "case",
    "cast",
    "collate",
    "cross",
    "desc",
    "distinct",
    "else",
    "end",
    "except",
    "exists",
    "from",
    "full",
    "glob",
    "group",
    "having",
    "in",
    "inner",
    "intersect",
    "is",
    "join",
    "left",
    "like",
    "limit",
    "natural",
    "not",
    "null",
    "offset",
    "on",
    "or",
    "order",
    "outer",
    "right",
    "select",
    "then",
    "union",
    "using",
    "when",
];
const MORE_KEYWORDS: [&str; 3] = ["where", "with", "escape"];

/// What a piece of a query is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Lexeme {
    /// In lower case.
    Keyword(String),
    /// A name, `table.name`, or a text in double quotes, which SQLite takes for a name where there is one.
    Name {
        qualifier: Option<String>,
        name: String,
        is_double_quoted: bool,
    },
    Literal(Value),
    Symbol(String),
}

impl Lexeme {
    pub(super) fn is_keyword(&self, word: &str) -> bool {
        matches!(self, Self::Keyword(keyword) if keyword == word)
    }

    pub(super) fn is_symbol(&self, text: &str) -> bool {
        matches!(self, Self::Symbol(symbol) if symbol == text)
    }
}

/// A lexeme and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    pub(super) lexeme: Lexeme,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// The lexemes of `sql`, without space and comments.
pub(super) fn lex(sql: &str) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut start = 0;
    for token in tokenize(sql) {
        let end = start + token.text.len();
        let lexeme = match token.kind {
            TokenKind::Space => None,
            TokenKind::Word => Some(word(token.text)),
            TokenKind::Quoted if token.text.starts_with('\'') => {
                Some(Lexeme::Literal(Value::Text(unquoted(token.text))))
            }
            TokenKind::Quoted => Some(Lexeme::Name {
                qualifier: None,
                name: unquoted(token.text),
                is_double_quoted: token.text.starts_with('"'),
            }),
            TokenKind::Symbol => Some(Lexeme::Symbol(token.text.to_owned())),
        };
        if let Some(lexeme) = lexeme {
            let piece = Piece { lexeme, start, end };
            if !join_last(&mut pieces, &piece) {
                pieces.push(piece);
            }
        }
        start = end;
    }
    pieces
}

fn word(text: &str) -> Lexeme {
    let lower = text.to_ascii_lowercase();
    let is_keyword = KEYWORDS.contains(&lower.as_str()) || MORE_KEYWORDS.contains(&lower.as_str());
    if is_keyword {
        return Lexeme::Keyword(lower);
    }
    if text.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && let Ok(number) = text.parse::<f64>()
        && number.is_finite()
    {
        return Lexeme::Literal(Value::number(number));
    }
    let (qualifier, name) = match text.rsplit_once('.') {
        Some((qualifier, name)) if !qualifier.is_empty() => {
            (Some(unquoted(qualifier)), name.to_owned())
        }
        _ => (None, text.to_owned()),
    };
    Lexeme::Name {
        qualifier,
        name,
        is_double_quoted: false,
    }
}

/// Makes `piece` a part of the piece before it where they belong together: `<` and `=`, `-` and a number, `t.` and
/// `"name"`.
fn join_last(pieces: &mut [Piece], piece: &Piece) -> bool {
    let before_last = pieces
        .len()
        .checked_sub(2)
        .map(|i| pieces[i].lexeme.clone());
    let Some(last) = pieces.last_mut() else {
        return false;
    };
    let joined = match (&last.lexeme, &piece.lexeme) {
        (Lexeme::Symbol(a), Lexeme::Symbol(b)) if last.end == piece.start => {
            let both = format!("{a}{b}");
            let is_operator = Operator::parse(&both).is_some() || both == "||";
            is_operator.then_some(Lexeme::Symbol(both))
        }
        (Lexeme::Symbol(minus), Lexeme::Literal(value @ (Value::Integer(_) | Value::Real(_))))
            if minus == "-" =>
        {
            let is_sign = match before_last {
                Some(Lexeme::Symbol(symbol)) => symbol != ")",
                Some(Lexeme::Keyword(_)) => true,
                _ => false,
            };
            let number = value.as_number().map(|number| Value::number(-number));
            number.filter(|_| is_sign).map(Lexeme::Literal)
        }
        (
            Lexeme::Name {
                qualifier: Some(qualifier),
                name,
                ..
            },
            Lexeme::Name {
                qualifier: None,
                name: column,
                ..
            },
        ) if name.is_empty() && last.end == piece.start => Some(Lexeme::Name {
            qualifier: Some(qualifier.clone()),
            name: column.clone(),
            is_double_quoted: false,
        }),
        _ => None,
    };
    let Some(lexeme) = joined else {
        return false;
    };
    last.lexeme = lexeme;
    last.end = piece.end;
    true
}
