//! Queries that are nearly the gold query and ask something else: another literal, comparison, aggregate, column or
//! direction, a condition less. Databases are chosen so that these return something else.
//!
//! The idea is the test suite of Zhong et al. 2020 (arXiv:2010.02840), which keeps the fuzzed databases that tell gold
//! from its neighbours.

use super::lexemes::Lexeme;
use super::query::Query;
use super::schema::Schema;
use super::values::Value;

/// Neighbours of the query `sql`, of which `query` is the reading. Some may not run, and some may be equivalent.
pub(super) fn neighbours(sql: &str, query: &Query, schema: &Schema) -> Vec<String> {
    let editor = Editor { sql, query, schema };
    let mut neighbours: Vec<String> = Vec::new();
    for at in 0..query.pieces.len() {
        for neighbour in editor.edits(at) {
            if neighbour != sql && !neighbours.contains(&neighbour) {
                neighbours.push(neighbour);
            }
        }
    }
    neighbours
}

const AGGREGATES: [&str; 4] = ["sum", "avg", "min", "max"];

struct Editor<'a> {
    sql: &'a str,
    query: &'a Query,
    schema: &'a Schema,
}

impl Editor<'_> {
    fn keyword(&self, at: usize) -> Option<&str> {
        match &self.query.pieces.get(at)?.lexeme {
            Lexeme::Keyword(keyword) => Some(keyword),
            _ => None,
        }
    }

    /// The query with the pieces from `first` to before `end` replaced.
    fn with(&self, first: usize, end: usize, text: &str) -> String {
        let start = |at: usize| {
            let piece = self.query.pieces.get(at);
            piece.map_or(self.sql.len(), |piece| piece.start)
        };
        format!(
            "{} {text} {}",
            &self.sql[..start(first)],
            &self.sql[start(end)..]
        )
    }

    /// The neighbours that another piece at `at` makes.
    fn edits(&self, at: usize) -> Vec<String> {
        let one = |text: &str| self.with(at, at + 1, text);
        match &self.query.pieces[at].lexeme {
            Lexeme::Literal(literal) => self.other_literals(at, literal),
            Lexeme::Symbol(symbol) => {
                let others: &[&str] = match symbol.as_str() {
                    "=" => &["!=", ">="],
                    "!=" | "<>" => &["="],
                    "<" => &["<=", ">"],
                    "<=" => &["<", ">="],
                    ">" => &[">=", "<"],
                    ">=" => &[">", "<="],
                    _ => &[],
                };
                others.iter().map(|other| one(other)).collect()
            }
            Lexeme::Keyword(keyword) => self.other_keywords(at, keyword),
            Lexeme::Name { .. } => self.other_names(at),
        }
    }

    fn other_literals(&self, at: usize, literal: &Value) -> Vec<String> {
        let one = |text: &str| self.with(at, at + 1, text);
        match literal {
            Value::Text(_) => vec![one("'No such text'")],
            _ => literal
                .as_number()
                .map(|number| {
                    let step = if number.fract() == 0.0 { 1.0 } else { 0.25 };
                    vec![
                        one(&(number + step).to_string()),
                        one(&(number - step).to_string()),
                    ]
                })
                .unwrap_or_default(),
        }
    }

    fn other_keywords(&self, at: usize, keyword: &str) -> Vec<String> {
        let one = |text: &str| self.with(at, at + 1, text);
        let is_between = keyword == "and" && at >= 2 && self.keyword(at - 2) == Some("between");
        match keyword {
            "desc" => vec![one("ASC")],
            "asc" => vec![one("DESC")],
            "distinct" | "not" => vec![one("")],
            "union" => vec![one("INTERSECT"), self.cut(at)],
            "intersect" => vec![one("UNION"), self.cut(at)],
            "except" => vec![one("INTERSECT"), self.cut(at)],
            "and" if !is_between => vec![one("OR"), self.without_clause(at, &["and", "or"])],
            "or" => vec![one("AND"), self.without_clause(at, &["and", "or"])],
            "where" => {
                let mut without = vec![self.without_clause(at, &[])];
                let end = self.end_of_clause(at, &["and", "or"]);
                if matches!(self.keyword(end), Some("and" | "or")) {
                    without.push(self.with(at + 1, end + 1, ""));
                }
                without
            }
            "having" | "limit" | "order" => vec![self.without_clause(at, &[])],
            _ => Vec::new(),
        }
    }

    fn other_names(&self, at: usize) -> Vec<String> {
        let Lexeme::Name {
            qualifier, name, ..
        } = &self.query.pieces[at].lexeme
        else {
            return Vec::new();
        };
        let one = |text: &str| self.with(at, at + 1, text);
        let is_function = self
            .query
            .pieces
            .get(at + 1)
            .is_some_and(|next| next.lexeme.is_symbol("("));
        let lower = name.to_ascii_lowercase();
        if is_function && AGGREGATES.contains(&lower.as_str()) {
            let others = AGGREGATES.iter().filter(|other| **other != lower);
            return others.map(|other| one(other)).collect();
        }
        let Some(node) = self.query.nodes[at] else {
            return Vec::new();
        };
        let prefix = qualifier
            .as_ref()
            .map_or(String::new(), |name| format!("\"{name}\"."));
        let columns = self.schema.tables[self.query.table(node)]
            .columns
            .iter()
            .enumerate();
        let mut others: Vec<String> = columns
            .filter(|(column, _)| *column != node.column)
            .take(3)
            .map(|(_, column)| one(&format!("{prefix}\"{}\"", column.name.replace('"', "\"\""))))
            .collect();
        if self.query.ordered.contains(&node)
            && !matches!(self.keyword(at + 1), Some("asc" | "desc"))
        {
            others.push(self.with(at + 1, at + 1, "DESC"));
        }
        others
    }

    /// The query up to before `at`.
    fn cut(&self, at: usize) -> String {
        self.sql[..self.query.pieces[at].start].to_owned()
    }

    /// The query without the clause that starts at `at`, which also ends at one of `ends`.
    fn without_clause(&self, at: usize, ends: &[&str]) -> String {
        self.with(at, self.end_of_clause(at, ends), "")
    }

    /// The piece after the clause that starts at `at`.
    fn end_of_clause(&self, at: usize, ends: &[&str]) -> usize {
        let mut depth = 0_usize;
        let mut is_between = false;
        for next in at + 1..self.query.pieces.len() {
            match &self.query.pieces[next].lexeme {
                Lexeme::Symbol(symbol) if symbol == "(" => depth += 1,
                Lexeme::Symbol(symbol) if symbol == ")" => match depth.checked_sub(1) {
                    Some(outer) => depth = outer,
                    None => return next,
                },
                Lexeme::Keyword(keyword) if depth == 0 => match keyword.as_str() {
                    "between" => is_between = true,
                    "and" if is_between => is_between = false,
                    "group" | "having" | "order" | "limit" | "union" | "intersect" | "except" => {
                        return next;
                    }
                    other if ends.contains(&other) => return next,
                    _ => {}
                },
                _ => {}
            }
        }
        self.query.pieces.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_the_query_has_a_neighbour() {
        let sql = "SELECT max(a) FROM t WHERE b > 3 AND (c = 'x' OR c BETWEEN 1 AND 2) ORDER BY a LIMIT 1";
        let mut schema = Schema::parse("CREATE TABLE t (a INT, b INT, c VARCHAR)").unwrap();
        let query = Query::read(sql, &mut schema);
        let found: Vec<String> = neighbours(sql, &query, &schema)
            .iter()
            .map(|neighbour| neighbour.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        for expected in [
            "SELECT min (a) FROM t WHERE b > 3 AND (c = 'x' OR c BETWEEN 1 AND 2) ORDER BY a LIMIT 1",
            "SELECT max(a) FROM t WHERE b >= 3 AND (c = 'x' OR c BETWEEN 1 AND 2) ORDER BY a LIMIT 1",
            "SELECT max(a) FROM t WHERE b > 4 AND (c = 'x' OR c BETWEEN 1 AND 2) ORDER BY a LIMIT 1",
            "SELECT max(a) FROM t WHERE b > 3 ORDER BY a LIMIT 1",
            "SELECT max(a) FROM t WHERE (c = 'x' OR c BETWEEN 1 AND 2) ORDER BY a LIMIT 1",
            "SELECT max(a) FROM t WHERE b > 3 AND (c = 'x' ) ORDER BY a LIMIT 1",
            "SELECT max(a) FROM t WHERE b > 3 AND (c = 'x' OR c BETWEEN 1 AND 2) ORDER BY a DESC LIMIT 1",
            "SELECT max(a) FROM t WHERE b > 3 AND (c = 'x' OR c BETWEEN 1 AND 2) ORDER BY a",
            "SELECT max( \"b\" ) FROM t WHERE b > 3 AND (c = 'x' OR c BETWEEN 1 AND 2) ORDER BY a LIMIT 1",
        ] {
            assert!(
                found.contains(&expected.to_owned()),
                "{expected}\n{found:#?}"
            );
        }
    }
}
