//! Words to a tree, by the grammar of Spider's evaluation.
//!
//! It reads FROM first, so that names without a table find theirs, then SELECT, then the rest in order; words after the
//! end of the query are not looked at. An alias holds everywhere in the text and needs AS.

use std::collections::HashMap;

use super::query::{
    Aggregate, Arithmetic, Column, ColumnUnit, Comparison, Condition, Connective, Direction,
    Expression, OrderBy, Predicate, Query, SelectItem, SetOperator, Source, Value,
};
use super::schema::Schema;
use super::words::words;

/// Why a text is no query of the grammar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// A quote that nothing closes.
    #[error("a quote is not closed")]
    Quote,
    /// An alias that is the name of a table.
    #[error("the alias `{alias}` is the name of a table")]
    Alias {
        /// The alias.
        alias: String,
    },
    /// A word that cannot stand where it stands.
    #[error("expected {expected} at {}", found.as_deref().unwrap_or("the end"))]
    Unexpected {
        /// What could stand there.
        expected: &'static str,
        /// The word; none at the end of the text.
        found: Option<String>,
    },
    /// Queries within queries, deeper than anybody writes.
    #[error("more than {DEEPEST} queries within one another")]
    TooDeep,
}

/// Queries within one another that are read; model-written text must not overflow the stack.
const DEEPEST: usize = 100;

const CLAUSES: [&str; 9] = [
    "select",
    "from",
    "where",
    "group",
    "order",
    "limit",
    "intersect",
    "union",
    "except",
];
const JOIN_WORDS: [&str; 3] = ["join", "on", "as"];

/// The tree of `sql`, a query of a database with this schema.
///
/// # Errors
/// [`ParseError`] if it is no query of Spider's grammar.
pub fn parse(sql: &str, schema: &Schema) -> Result<Query, ParseError> {
    let words = words(sql).ok_or(ParseError::Quote)?;
    let names = Names {
        aliases: aliases(&words, schema)?,
        schema,
    };
    let mut parser = Parser {
        words: &words,
        at: 0,
        depth: 0,
        names: &names,
    };
    parser.query()
}

/// What names mean, everywhere in the text.
struct Names<'a> {
    /// Alias -> the word before its AS. That may be any word: `count(*) AS n` makes `n` an alias of `)`.
    aliases: HashMap<&'a str, &'a str>,
    schema: &'a Schema,
}

impl Names<'_> {
    fn table(&self, word: &str) -> Option<usize> {
        self.schema
            .table(self.aliases.get(word).copied().unwrap_or(word))
    }
}

fn aliases<'a>(
    words: &'a [String],
    schema: &Schema,
) -> Result<HashMap<&'a str, &'a str>, ParseError> {
    let mut aliases = HashMap::new();
    for (i, word) in words.iter().enumerate().skip(1) {
        if word == "as" {
            let alias = words.get(i + 1).ok_or(ParseError::Unexpected {
                expected: "an alias",
                found: None,
            })?;
            aliases.insert(alias.as_str(), words[i - 1].as_str());
        }
    }
    match schema.table_names().find(|name| aliases.contains_key(name)) {
        Some(name) => Err(ParseError::Alias {
            alias: name.to_owned(),
        }),
        None => Ok(aliases),
    }
}

struct Parser<'a> {
    words: &'a [String],
    at: usize,
    /// Queries around this place.
    depth: usize,
    names: &'a Names<'a>,
}

impl<'a> Parser<'a> {
    fn query(&mut self) -> Result<Query, ParseError> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(ParseError::TooDeep);
        }
        let in_parentheses = self.take("(");
        let start = self.at;
        // The next FROM in the text, whatever it belongs to.
        let from = self.words[start..].iter().position(|word| word == "from");
        let from = from.ok_or_else(|| self.unexpected("FROM further on"))?;
        self.at = start + from + 1;
        let (sources, join_condition, tables) = self.from()?;
        let after_from = self.at;
        self.at = start;
        let (distinct, select) = self.select(&tables)?;
        self.at = after_from;
        let filter = self.condition_after("where", &tables)?;
        let group_by = self.group_by(&tables)?;
        let having = self.condition_after("having", &tables)?;
        let order_by = self.order_by(&tables)?;
        let has_limit = self.limit()?;
        self.skip_semicolons();
        if in_parentheses {
            self.expect(")", "a closing parenthesis")?;
        }
        self.skip_semicolons();
        let combined = match self.take_as(SetOperator::from_word) {
            Some(operator) => Some((operator, Box::new(self.query()?))),
            None => None,
        };
        self.depth -= 1;
        Ok(Query {
            sources,
            join_condition,
            distinct,
            select,
            filter,
            group_by,
            having,
            order_by,
            has_limit,
            combined,
        })
    }

    /// What FROM names, the conditions after ON, and the tables that names without a table are looked up in.
    fn from(&mut self) -> Result<(Vec<Source>, Condition, Vec<usize>), ParseError> {
        let (mut sources, mut condition, mut tables) =
            (Vec::new(), Condition::default(), Vec::new());
        while self.word().is_some() {
            let in_parentheses = self.take("(");
            if self.is("select") {
                sources.push(Source::Query(Box::new(self.query()?)));
            } else {
                self.take("join");
                let table = self.word().and_then(|word| self.names.table(word));
                let table = table.ok_or_else(|| self.unexpected("a table"))?;
                self.at += 1;
                if self.take("as") {
                    self.at += 1;
                }
                sources.push(Source::Table(table));
                tables.push(table);
            }
            if self.take("on") {
                if !condition.predicates.is_empty() {
                    condition.connectives.push(Connective::And);
                }
                let further = self.condition(&tables)?;
                condition.predicates.extend(further.predicates);
                condition.connectives.extend(further.connectives);
            }
            if in_parentheses {
                self.expect(")", "a closing parenthesis")?;
            }
            if self.is_end_of_clause() {
                break;
            }
        }
        Ok((sources, condition, tables))
    }

    /// Whether all is DISTINCT, and the items.
    fn select(&mut self, tables: &[usize]) -> Result<(bool, Vec<SelectItem>), ParseError> {
        self.expect("select", "SELECT")?;
        let distinct = self.take("distinct");
        let mut items = Vec::new();
        while self.word().is_some_and(|word| !CLAUSES.contains(&word)) {
            let aggregate = self.take_as(Aggregate::from_word);
            let expression = self.expression(tables)?;
            items.push(SelectItem {
                aggregate,
                expression,
            });
            self.take(",");
        }
        Ok((distinct, items))
    }

    fn condition_after(&mut self, clause: &str, tables: &[usize]) -> Result<Condition, ParseError> {
        if self.take(clause) {
            self.condition(tables)
        } else {
            Ok(Condition::default())
        }
    }

    fn condition(&mut self, tables: &[usize]) -> Result<Condition, ParseError> {
        let mut condition = Condition::default();
        while self.word().is_some() {
            if condition.predicates.len() > condition.connectives.len() {
                return Err(self.unexpected("AND or OR"));
            }
            condition.predicates.push(self.predicate(tables)?);
            if self.is_end_of_clause() || self.word().is_some_and(|word| JOIN_WORDS.contains(&word))
            {
                break;
            }
            condition
                .connectives
                .extend(self.take_as(Connective::from_word));
        }
        Ok(condition)
    }

    fn predicate(&mut self, tables: &[usize]) -> Result<Predicate, ParseError> {
        let subject = self.expression(tables)?;
        let negated = self.take("not");
        let comparison = self.take_as(Comparison::from_word);
        let comparison = comparison.ok_or_else(|| self.unexpected("a comparison"))?;
        let value = Some(self.value(tables)?);
        let mut upper = None;
        if comparison == Comparison::Between {
            self.expect("and", "AND")?;
            upper = Some(self.value(tables)?);
        }
        Ok(Predicate {
            negated,
            subject,
            comparison,
            value,
            upper,
        })
    }

    fn value(&mut self, tables: &[usize]) -> Result<Value, ParseError> {
        let start = self.at;
        let in_parentheses = self.take("(");
        let word = self.word().ok_or_else(|| self.unexpected("a value"))?;
        let value = if word == "select" {
            Value::Query(Box::new(self.query()?))
        } else if word.contains('"') {
            self.at += 1;
            Value::Text(word.to_owned())
        } else if let Ok(number) = word.parse() {
            self.at += 1;
            Value::Number(number)
        } else {
            self.column_value(start, tables)?
        };
        if in_parentheses {
            self.expect(")", "a closing parenthesis")?;
        }
        Ok(value)
    }

    /// A column as a value. What stands between it and the next AND, comma or clause is overlooked: `a = b OR c = 1`
    /// is one comparison. A column in parentheses, which start at `start`, is none.
    fn column_value(&mut self, start: usize, tables: &[usize]) -> Result<Value, ParseError> {
        let is_end = |word: &String| {
            let word = word.as_str();
            [",", ")", "and"].contains(&word)
                || CLAUSES.contains(&word)
                || JOIN_WORDS.contains(&word)
        };
        let length = self.words[self.at..].iter().position(is_end);
        let end = length.map_or(self.words.len(), |length| self.at + length);
        let mut value = Parser {
            words: &self.words[start..end],
            at: 0,
            ..*self
        };
        let column = value.column_unit(tables)?;
        self.at = end;
        Ok(Value::Column(column))
    }

    fn group_by(&mut self, tables: &[usize]) -> Result<Vec<ColumnUnit>, ParseError> {
        let mut columns = Vec::new();
        if !self.take("group") {
            return Ok(columns);
        }
        self.expect("by", "BY")?;
        while self.word().is_some() && !self.is_end_of_clause() {
            columns.push(self.column_unit(tables)?);
            if !self.take(",") {
                break;
            }
        }
        Ok(columns)
    }

    fn order_by(&mut self, tables: &[usize]) -> Result<Option<OrderBy>, ParseError> {
        if !self.take("order") {
            return Ok(None);
        }
        self.expect("by", "BY")?;
        let mut order = OrderBy {
            direction: Direction::Ascending,
            keys: Vec::new(),
        };
        while self.word().is_some() && !self.is_end_of_clause() {
            order.keys.push(self.expression(tables)?);
            if let Some(direction) = self.take_as(Direction::from_word) {
                order.direction = direction;
            }
            if !self.take(",") {
                break;
            }
        }
        Ok(Some(order))
    }

    fn limit(&mut self) -> Result<bool, ParseError> {
        let has_limit = self.take("limit");
        if has_limit {
            self.word().ok_or_else(|| self.unexpected("a number"))?;
            self.at += 1;
        }
        Ok(has_limit)
    }

    fn expression(&mut self, tables: &[usize]) -> Result<Expression, ParseError> {
        let in_parentheses = self.take("(");
        let left = self.column_unit(tables)?;
        let operator = self.take_as(Arithmetic::from_word);
        let right = match operator {
            Some(_) => Some(self.column_unit(tables)?),
            None => None,
        };
        if in_parentheses {
            self.expect(")", "a closing parenthesis")?;
        }
        Ok(Expression {
            operator,
            left,
            right,
        })
    }

    fn column_unit(&mut self, tables: &[usize]) -> Result<ColumnUnit, ParseError> {
        let in_parentheses = self.take("(");
        let aggregate = self.take_as(Aggregate::from_word);
        if aggregate.is_some() {
            self.expect("(", "an opening parenthesis")?;
        }
        let distinct = self.take("distinct");
        let column = self.column(tables)?;
        // Where there are parentheses and an aggregate, only those of the aggregate are closed here.
        if in_parentheses || aggregate.is_some() {
            self.expect(")", "a closing parenthesis")?;
        }
        Ok(ColumnUnit {
            aggregate,
            column,
            distinct,
        })
    }

    fn column(&mut self, tables: &[usize]) -> Result<Column, ParseError> {
        let schema = self.names.schema;
        let find = |word: &str| match word.split_once('.') {
            _ if word == "*" => Some(Column::All),
            Some((table, column)) => {
                let table = self.names.table(table)?;
                schema.column(table, column).map(Column::One)
            }
            None => {
                let mut columns = tables.iter().map(|&table| schema.column(table, word));
                columns.find_map(|column| column).map(Column::One)
            }
        };
        let column = self.word().and_then(find);
        let column = column.ok_or_else(|| self.unexpected("a column"))?;
        self.at += 1;
        Ok(column)
    }

    /// The word here; none at the end of the text.
    fn word(&self) -> Option<&'a str> {
        self.words.get(self.at).map(String::as_str)
    }

    fn is(&self, word: &str) -> bool {
        self.word() == Some(word)
    }

    /// Steps over `word` if it is here.
    fn take(&mut self, word: &str) -> bool {
        let is_here = self.is(word);
        self.at += usize::from(is_here);
        is_here
    }

    /// Steps over a keyword if one is here.
    fn take_as<T>(&mut self, keyword: impl Fn(&str) -> Option<T>) -> Option<T> {
        let found = self.word().and_then(keyword);
        self.at += usize::from(found.is_some());
        found
    }

    fn expect(&mut self, word: &str, expected: &'static str) -> Result<(), ParseError> {
        if self.take(word) {
            Ok(())
        } else {
            Err(self.unexpected(expected))
        }
    }

    /// Whether a clause, a closing parenthesis or a semicolon is here.
    fn is_end_of_clause(&self) -> bool {
        self.word()
            .is_some_and(|word| CLAUSES.contains(&word) || word == ")" || word == ";")
    }

    fn skip_semicolons(&mut self) {
        while self.take(";") {}
    }

    fn unexpected(&self, expected: &'static str) -> ParseError {
        ParseError::Unexpected {
            expected,
            found: self.word().map(|word| format!("`{word}`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::schema::tests::zoo;
    use super::*;

    fn failure(sql: &str) -> String {
        parse(sql, &zoo()).unwrap_err().to_string()
    }

    #[test]
    fn an_error_says_what_could_stand_where() {
        assert_eq!(failure("SELECT 'name FROM animal"), "a quote is not closed");
        assert_eq!(
            failure("SELECT name FROM animal AS keeper"),
            "the alias `keeper` is the name of a table"
        );
        assert_eq!(
            failure("SELECT wings FROM animal"),
            "expected a column at `wings`"
        );
        assert_eq!(
            failure("SELECT name FROM animal WHERE id"),
            "expected a comparison at the end"
        );
        assert_eq!(failure("hello"), "expected FROM further on at `hello`");
    }

    #[test]
    fn predicates_need_a_connective_between_them() {
        assert_eq!(
            failure("SELECT name FROM animal WHERE id = 1 name = 'x'"),
            "expected AND or OR at `name`"
        );
    }

    #[test]
    fn a_name_without_a_table_is_found_in_the_first_table_that_has_it() {
        let zoo = zoo();
        let select = |sql: &str| parse(sql, &zoo).unwrap().select;
        assert_eq!(
            select("SELECT name FROM keeper JOIN animal"),
            select("SELECT keeper.name FROM keeper JOIN animal")
        );
        assert_ne!(
            select("SELECT name FROM animal JOIN keeper"),
            select("SELECT keeper.name FROM animal JOIN keeper")
        );
    }

    #[test]
    fn deep_nesting_is_an_error_and_no_overflow() {
        let nested = |depth: usize| {
            let start = "SELECT id FROM animal WHERE id IN ( ".repeat(depth);
            parse(
                &(start + "SELECT id FROM animal" + &" )".repeat(depth)),
                &zoo(),
            )
        };
        assert!(nested(DEEPEST - 1).is_ok());
        assert_eq!(nested(DEEPEST), Err(ParseError::TooDeep));
        assert_eq!(nested(100_000), Err(ParseError::TooDeep));
        let chain = "SELECT id FROM animal UNION ".repeat(100_000);
        assert_eq!(parse(&chain, &zoo()), Err(ParseError::TooDeep));
    }

    proptest! {
        /// Whatever the words, there is a tree or an error.
        #[test]
        fn no_text_makes_it_panic(words in prop::collection::vec(
            prop::sample::select(vec![
                "select", "from", "where", "group", "by", "having", "order", "limit", "as", "on", "join", "and", "or", "not",
                "in", "between", "union", "distinct", "count", "(", ")", ",", ";", "*", "-", "=", "<", "1", "'x'", "id", "name",
                "animal", "keeper", "t", "t.id", ".", "'",
            ]),
            0..30,
        )) {
            let tree = parse(&words.join(" "), &zoo());
            prop_assert!(tree.is_ok() || tree.is_err());
            let started = parse(&format!("select * from animal {}", words.join(" ")), &zoo());
            prop_assert!(started.is_ok() || started.is_err());
        }
    }
}
