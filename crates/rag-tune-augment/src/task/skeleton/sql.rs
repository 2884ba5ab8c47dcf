//! The skeleton of a query: `SELECT COUNT ( * ) FROM _ WHERE _ > _`.
//!
//! Queries that differ in names, values, aliases or spelling only have equal skeletons; columns that follow each
//! other are one `_`, joined tables are counted.

use super::PLACEHOLDER;

/// Words of SQL that say how a query is built. All others are names, or functions where a parenthesis follows.
#[rustfmt::skip]
const KEYWORDS: &[&str] = &[
    "ALL", "AND", "BETWEEN", "BY", "CASE", "CREATE", "CROSS", "DELETE", "DESC", "DISTINCT", "ELSE", "END",
    "ESCAPE", "EXCEPT", "EXISTS", "FROM", "FULL", "GLOB", "GROUP", "HAVING", "IN", "INSERT", "INTERSECT",
    "INTO", "IS", "JOIN", "LEFT", "LIKE", "LIMIT", "NATURAL", "NOT", "NULL", "OFFSET", "ON", "OR", "ORDER",
    "OVER", "PARTITION", "RECURSIVE", "RIGHT", "SELECT", "SET", "TABLE", "THEN", "UNION", "UPDATE", "USING",
    "VALUES", "WHEN", "WHERE", "WITH",
];

/// Words that change nothing: an ascending order and an inner join are what is meant without them.
const EMPTY_WORDS: &[&str] = &["ASC", "INNER", "OUTER"];

/// The skeleton's tokens.
pub(super) fn skeleton(query: &str) -> Vec<String> {
    let tokens = tokens(query);
    let mut skeleton = Skeleton::default();
    let mut at = 0;
    while let Some(&token) = tokens.get(at) {
        let next = tokens.get(at + 1);
        at += 1;
        match token {
            Token::Word(word) => {
                let upper = word.to_ascii_uppercase();
                if upper == "AS" {
                    // The alias goes too. `CAST(x AS type)` loses its type, `WITH a AS (` keeps its query.
                    at += usize::from(matches!(next, Some(Token::Word(_) | Token::Name)));
                } else if KEYWORDS.contains(&upper.as_str()) {
                    skeleton.lists_tables = upper == "FROM";
                    skeleton.push(upper);
                } else if EMPTY_WORDS.contains(&upper.as_str()) {
                    continue;
                } else if next == Some(&Token::Symbol("(")) && !skeleton.wants_table() {
                    skeleton.push(upper);
                } else {
                    skeleton.name();
                }
            }
            Token::Name => skeleton.name(),
            Token::Symbol(";") => {}
            // `t1.name` and `t1.*` are what they are without the table.
            Token::Symbol(".") => {
                if skeleton.ends_with(PLACEHOLDER) {
                    skeleton.tokens.pop();
                }
            }
            Token::Symbol("<>") => skeleton.push("!=".into()),
            Token::Symbol("==") => skeleton.push("=".into()),
            Token::Symbol(symbol) => skeleton.push(symbol.into()),
        }
    }
    skeleton.tokens
}

#[derive(Default)]
struct Skeleton {
    tokens: Vec<String>,
    /// Whether the last keyword was FROM.
    lists_tables: bool,
}

impl Skeleton {
    fn ends_with(&self, token: &str) -> bool {
        self.tokens.last().is_some_and(|last| last == token)
    }

    fn push(&mut self, token: String) {
        self.tokens.push(token);
    }

    /// Whether a table's name comes next, so that a parenthesis after it opens no arguments.
    fn wants_table(&self) -> bool {
        ["FROM", "JOIN", "INTO", "TABLE"]
            .iter()
            .any(|word| self.ends_with(word))
    }

    /// Adds a name or a literal.
    fn name(&mut self) {
        let signed = self.ends_with("-") || self.ends_with("+");
        if signed
            && !self
                .tokens
                .iter()
                .rev()
                .nth(1)
                .is_some_and(|token| is_operand(token))
        {
            self.tokens.pop();
        }
        // An alias without AS, or words that are no SQL at all.
        if self.ends_with(PLACEHOLDER) {
            return;
        }
        let count = self.tokens.len();
        let lists = self.ends_with(",") && count > 1 && self.tokens[count - 2] == PLACEHOLDER;
        if lists && !self.lists_tables {
            self.tokens.pop();
            return;
        }
        self.push(PLACEHOLDER.into());
    }
}

/// Whether a minus after `token` takes away, rather than being a sign.
fn is_operand(token: &str) -> bool {
    matches!(token, PLACEHOLDER | ")" | "*")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    /// A keyword, a function or a name.
    Word(&'a str),
    /// A quoted name, a text or a number.
    Name,
    /// Anything else.
    Symbol(&'a str),
}

/// The query's tokens, without comments.
fn tokens(query: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = query.trim_start();
    while let Some(first) = rest.chars().next() {
        if rest.starts_with("--") {
            rest = rest
                .split_once('\n')
                .map_or("", |(_, after)| after)
                .trim_start();
            continue;
        }
        let length = match first {
            '"' | '\'' | '`' => {
                tokens.push(Token::Name);
                quoted_length(rest, first)
            }
            _ if first.is_ascii_digit() => {
                tokens.push(Token::Name);
                length_while(rest, |character| {
                    character.is_alphanumeric() || character == '.'
                })
            }
            _ if first.is_alphanumeric() || first == '_' => {
                let length = length_while(rest, |character| {
                    character.is_alphanumeric() || matches!(character, '_' | '$')
                });
                tokens.push(Token::Word(&rest[..length]));
                length
            }
            _ => {
                const PAIRS: [&str; 6] = ["<=", ">=", "<>", "!=", "==", "||"];
                let pair = PAIRS.iter().find(|pair| rest.starts_with(**pair));
                let length = pair.map_or(first.len_utf8(), |pair| pair.len());
                tokens.push(Token::Symbol(&rest[..length]));
                length
            }
        };
        rest = rest[length..].trim_start();
    }
    tokens
}

fn length_while(text: &str, belongs: impl Fn(char) -> bool) -> usize {
    let end = text.find(|character| !belongs(character));
    end.unwrap_or(text.len())
}

/// The length of the quoted text at the start, where a doubled quote is part of it; all of `text` if it never ends.
fn quoted_length(text: &str, quote: char) -> usize {
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        if character == quote && characters.next_if(|&(_, next)| next == quote).is_none() {
            return at + 1;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(query: &str) -> String {
        skeleton(query).join(" ")
    }

    #[test]
    fn names_values_aliases_and_spelling_do_not_matter() {
        let one = of(
            "SELECT T1.fname ,  T1.lname FROM Faculty AS T1 JOIN Student AS T2 ON T1.FacID  =  T2.advisor \
             WHERE T2.age <> 3 GROUP BY T1.FacID ORDER BY count(*) ASC LIMIT 1;",
        );
        assert_eq!(
            one,
            "SELECT _ FROM _ JOIN _ ON _ = _ WHERE _ != _ GROUP BY _ ORDER BY COUNT ( * ) LIMIT _"
        );
        assert_eq!(
            of(
                "select a from b x inner join c on x.d == c.d where c.e != 'it''s' group by e order by COUNT(*) limit 20"
            ),
            one
        );
    }

    #[test]
    fn structure_does() {
        let distinct = [
            "SELECT a FROM t",
            "SELECT * FROM t",
            "SELECT DISTINCT a FROM t",
            "SELECT max(a) FROM t",
            "SELECT min(a) FROM t",
            "SELECT a, max(a) FROM t",
            "SELECT a FROM t, u",
            "SELECT a FROM t JOIN u",
            "SELECT a FROM t ORDER BY a",
            "SELECT a FROM t ORDER BY a DESC",
            "SELECT a FROM t WHERE a IN (SELECT b FROM u)",
            "SELECT a FROM t WHERE a NOT IN (SELECT b FROM u)",
            "SELECT a FROM t EXCEPT SELECT a FROM t",
            "SELECT a - b FROM t",
        ];
        let skeletons: std::collections::HashSet<_> =
            distinct.iter().map(|query| of(query)).collect();
        assert_eq!(skeletons.len(), distinct.len());
    }

    #[test]
    fn corners() {
        assert_eq!(of("SELECT t1.* FROM t AS t1"), "SELECT * FROM _");
        assert_eq!(
            of("SELECT a FROM t WHERE b > -1"),
            "SELECT _ FROM _ WHERE _ > _"
        );
        assert_eq!(
            of("SELECT sum(a)-1, b FROM t"),
            "SELECT SUM ( _ ) - _ FROM _"
        );
        assert_eq!(
            of("SELECT avg(x) FROM (SELECT a AS x FROM t)"),
            "SELECT AVG ( _ ) FROM ( SELECT _ FROM _ )"
        );
        assert_eq!(of("I cannot answer that"), "_");
        assert_eq!(of("SELECT 'never closed FROM t"), "SELECT _");
        assert_eq!(of(""), "");
    }
}
