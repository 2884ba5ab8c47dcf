//! The tables that a `context` describes: `CREATE TABLE` statements, read and never executed.
//!
//! Data sets such as b-mc2/sql-create-context derive them from the gold query. Types are loose (`VARCHAR` for a year),
//! a table may come twice with different columns, a column twice in different case. Here tables and columns of the same
//! name, without regard to case, are one.

use crate::sql::tokens::{Token, TokenKind, tokenize};

/// Why no tables can be made from a `context`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// There is nothing but white space and comments.
    #[error("it is empty")]
    Empty,
    /// A statement is something else than `CREATE TABLE name (...)`.
    #[error("`{found}` is no CREATE TABLE statement")]
    NotCreateTable {
        /// The statement's beginning.
        found: String,
    },
    /// A table without a list of columns, such as `CREATE TABLE t AS SELECT ...`.
    #[error("the table `{table}` names no columns")]
    NoColumns {
        /// The table.
        table: String,
    },
    /// The list of columns never ends.
    #[error("the columns of the table `{table}` have no closing parenthesis")]
    Unclosed {
        /// The table.
        table: String,
    },
    /// SQLite cannot have a table or column of this name, or not as many.
    #[error("SQLite cannot create its tables: {reason}")]
    Refused {
        /// SQLite's reason.
        reason: String,
    },
}

/// What a column's declared type says about its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeclaredType {
    /// `VARCHAR`, `TEXT`, none, or an unknown type. Says little: it is what loose schemas write for everything.
    Text,
    /// Whole numbers.
    Integer,
    /// Numbers with a fraction.
    Real,
    /// A date, time or both.
    Date,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) declared: DeclaredType,
    /// Declared as the primary key, or unique.
    pub(super) is_key: bool,
    /// Table and column that it is declared to refer to; without a column, that table's key.
    pub(super) references: Option<(String, Option<String>)>,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableSchema {
    pub(super) name: String,
    pub(super) columns: Vec<Column>,
}

impl TableSchema {
    /// The column `name`, in any case.
    pub(super) fn column(&self, name: &str) -> Option<usize> {
        self.columns
            .iter()
            .position(|column| is_same_name(&column.name, name))
    }

    /// Adds a column unless there is one of that name, whose type becomes more precise.
    fn merge(&mut self, column: Column) {
        let Some(at) = self.column(&column.name) else {
            self.columns.push(column);
            return;
        };
        let known = &mut self.columns[at];
        if known.declared == DeclaredType::Text {
            known.declared = column.declared;
        }
        known.is_key |= column.is_key;
        known.references = known.references.take().or(column.references);
    }
}

/// Tables, in the order of the context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Schema {
    pub(super) tables: Vec<TableSchema>,
}

impl Schema {
    /// Reads `context`.
    pub(super) fn parse(context: &str) -> Result<Self, ContextError> {
        let tokens: Vec<Token> = tokenize(context)
            .into_iter()
            .filter(|token| !is_comment(token))
            .collect();
        let mut schema = Self { tables: Vec::new() };
        let mut rest = tokens.as_slice();
        loop {
            rest = skip_while(rest, |token| {
                token.kind == TokenKind::Space || token.is_symbol(";")
            });
            if rest.is_empty() {
                break;
            }
            let (table, tail) = parse_table(rest)?;
            rest = tail;
            let at = schema.add_table(&table.name);
            for column in table.columns {
                schema.tables[at].merge(column);
            }
        }
        if schema.tables.is_empty() {
            return Err(ContextError::Empty);
        }
        Ok(schema)
    }

    /// The table `name`, in any case.
    pub(super) fn table(&self, name: &str) -> Option<usize> {
        self.tables
            .iter()
            .position(|table| is_same_name(&table.name, name))
    }

    /// The table `name`, added without columns where there is none.
    pub(super) fn add_table(&mut self, name: &str) -> usize {
        self.table(name).unwrap_or_else(|| {
            self.tables.push(TableSchema {
                name: name.to_owned(),
                columns: Vec::new(),
            });
            self.tables.len() - 1
        })
    }

    /// The column `name` of a table, added where there is none.
    pub(super) fn add_column(&mut self, table: usize, name: &str) -> usize {
        let table = &mut self.tables[table];
        table.column(name).unwrap_or_else(|| {
            table.columns.push(Column {
                name: name.to_owned(),
                declared: DeclaredType::Text,
                is_key: false,
                references: None,
            });
            table.columns.len() - 1
        })
    }
}

/// Whether SQLite takes two names for the same.
pub(super) fn is_same_name(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// A name as written in SQL: without its quotes.
pub(super) fn unquoted(text: &str) -> String {
    let mut characters = text.chars();
    let close = match characters.next() {
        Some('[') => ']',
        Some(quote @ ('"' | '`' | '\'')) => quote,
        _ => return text.to_owned(),
    };
    let inner = characters.as_str();
    let inner = inner.strip_suffix(close).unwrap_or(inner);
    if close == ']' {
        inner.to_owned()
    } else {
        inner.replace(&format!("{close}{close}"), &close.to_string())
    }
}

fn is_comment(token: &Token) -> bool {
    token.kind == TokenKind::Space && !token.text.trim().is_empty()
}

fn skip_while<'a, 'b>(tokens: &'a [Token<'b>], test: impl Fn(&Token) -> bool) -> &'a [Token<'b>] {
    let count = tokens.iter().take_while(|token| test(token)).count();
    &tokens[count..]
}

fn skip_space<'a, 'b>(tokens: &'a [Token<'b>]) -> &'a [Token<'b>] {
    skip_while(tokens, |token| token.kind == TokenKind::Space)
}

fn joined(tokens: &[Token]) -> String {
    let text: String = tokens.iter().map(|token| token.text).collect();
    text.trim().to_owned()
}

/// `tokens` after `words`, if they start with them.
fn after_words<'a, 'b>(tokens: &'a [Token<'b>], words: &[&str]) -> Option<&'a [Token<'b>]> {
    let mut rest = tokens;
    for word in words {
        let (first, tail) = skip_space(rest).split_first()?;
        if !first.is_word(word) {
            return None;
        }
        rest = tail;
    }
    Some(rest)
}

/// The table that `tokens`, which are not empty, start with, and the tokens after its statement.
fn parse_table<'a, 'b>(
    tokens: &'a [Token<'b>],
) -> Result<(TableSchema, &'a [Token<'b>]), ContextError> {
    let rest = after_words(tokens, &["create", "table"])
        .or_else(|| after_words(tokens, &["create", "temp", "table"]))
        .or_else(|| after_words(tokens, &["create", "temporary", "table"]))
        .ok_or_else(|| ContextError::NotCreateTable {
            found: joined(tokens).chars().take(40).collect(),
        })?;
    let rest = after_words(rest, &["if", "not", "exists"]).unwrap_or(rest);
    let open = rest
        .iter()
        .position(|token| token.is_symbol("(") || token.is_symbol(";"))
        .unwrap_or(rest.len());
    // Without a list of columns the name would be all that follows.
    let table = table_name(&rest[..open]);
    if !rest.get(open).is_some_and(|token| token.is_symbol("(")) {
        let table = table
            .split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned();
        return Err(ContextError::NoColumns { table });
    }
    let Some((items, rest)) = parenthesised(&rest[open..]) else {
        return Err(ContextError::Unclosed { table });
    };
    let mut schema = TableSchema {
        name: table,
        columns: Vec::new(),
    };
    for item in items {
        add_item(&mut schema, skip_space(item));
    }
    if schema.columns.is_empty() || schema.name.is_empty() {
        return Err(ContextError::NoColumns { table: schema.name });
    }
    // Options such as WITHOUT ROWID or ENGINE = InnoDB mean nothing here.
    let rest = skip_while(rest, |token| {
        !token.is_symbol(";") && !token.is_word("create")
    });
    Ok((schema, rest))
}

/// Without the schema that may stand before it.
fn table_name(tokens: &[Token]) -> String {
    let is_name = |token: &&Token| token.kind != TokenKind::Space;
    let names: Vec<&Token> = tokens.iter().filter(is_name).collect();
    match names.as_slice() {
        [name] if name.kind == TokenKind::Word => {
            let name = name.text.rsplit('.').next();
            name.unwrap_or_default().to_owned()
        }
        [.., dot, name] if dot.text == "." && name.kind == TokenKind::Quoted => unquoted(name.text),
        _ => unquoted(&joined(tokens)),
    }
}

type Items<'a, 'b> = Vec<&'a [Token<'b>]>;

/// The comma-separated items of the parentheses that open at the first token, and the tokens after them.
fn parenthesised<'a, 'b>(tokens: &'a [Token<'b>]) -> Option<(Items<'a, 'b>, &'a [Token<'b>])> {
    let mut items = Vec::new();
    let (mut depth, mut start) = (0_usize, 1);
    for (i, token) in tokens.iter().enumerate() {
        if token.is_symbol("(") {
            depth += 1;
        } else if token.is_symbol(")") {
            depth -= 1; // the first token opened
        }
        if depth == 0 || (depth == 1 && token.is_symbol(",")) {
            items.push(&tokens[start..i]);
            start = i + 1;
        }
        if depth == 0 {
            return Some((items, &tokens[start..]));
        }
    }
    None
}

/// Adds the column that `item` declares, or what a constraint says about columns.
fn add_item(table: &mut TableSchema, item: &[Token]) {
    let constraint = match after_words(item, &["constraint"]) {
        // Its name comes first.
        Some(rest) => skip_space(rest).get(1..).unwrap_or_default(),
        None => item,
    };
    let is_single = |columns: &[String]| columns.len() == 1;
    let key = after_words(constraint, &["primary", "key"]).or_else(|| {
        let rest = after_words(constraint, &["unique"])?;
        skip_space(rest).first()?.is_symbol("(").then_some(rest)
    });
    if let Some((columns, _)) = key.and_then(name_list) {
        // Columns that are unique together say nothing about each of them.
        if let Some(at) = columns.first().and_then(|name| table.column(name))
            && is_single(&columns)
        {
            table.columns[at].is_key = true;
        }
        return;
    }
    if let Some((columns, rest)) = after_words(constraint, &["foreign", "key"]).and_then(name_list)
    {
        if let Some(at) = columns.first().and_then(|name| table.column(name))
            && is_single(&columns)
        {
            table.columns[at].references = referenced(rest);
        }
        return;
    }
    let is_check = |rest: &[Token]| skip_space(rest).first().is_some_and(|t| t.is_symbol("("));
    if after_words(constraint, &["check"]).is_some_and(is_check) {
        return;
    }
    if let Some(column) = parse_column(item) {
        table.merge(column);
    }
}

/// The names in parentheses at the start of `tokens`, and what follows.
fn name_list<'a, 'b>(tokens: &'a [Token<'b>]) -> Option<(Vec<String>, &'a [Token<'b>])> {
    let tokens = skip_space(tokens);
    tokens.first().filter(|token| token.is_symbol("("))?;
    let (items, rest) = parenthesised(tokens)?;
    Some((
        items
            .into_iter()
            .map(|item| unquoted(&joined(item)))
            .collect(),
        rest,
    ))
}

/// What the first `REFERENCES table (column)` names.
fn referenced(tokens: &[Token]) -> Option<(String, Option<String>)> {
    let at = tokens
        .iter()
        .position(|token| token.is_word("references"))?;
    let (table, rest) = skip_space(&tokens[at + 1..]).split_first()?;
    let column = name_list(rest).and_then(|(names, _)| names.into_iter().next());
    Some((unquoted(table.text), column))
}

fn parse_column(item: &[Token]) -> Option<Column> {
    let first = item.first()?;
    // A name may have blanks and signs without quotes around it: it ends where a known type starts, in `start date
    // VARCHAR` the last in a row of them.
    let is_type = |&i: &usize| declared_type(item[i].text).is_some();
    let is_last = |&i: &usize| {
        let next = skip_space(&item[i + 1..]).first();
        next.is_none_or(|next| declared_type(next.text).is_none())
    };
    let typed = (1..item.len()).filter(is_type).find(is_last);
    let (name, definition) = match typed {
        Some(at) if first.kind != TokenKind::Quoted => (joined(&item[..at]), &item[at..]),
        _ => (unquoted(first.text), &item[1..]),
    };
    let declared = definition
        .iter()
        .find_map(|token| declared_type(token.text))
        .unwrap_or(DeclaredType::Text);
    let has_words = |words: &[&str]| {
        (0..definition.len()).any(|i| after_words(&definition[i..], words).is_some())
    };
    (!name.is_empty()).then(|| Column {
        name,
        declared,
        is_key: has_words(&["primary", "key"]) || has_words(&["unique"]),
        references: referenced(definition),
    })
}

/// What a type's name means, if it is one.
fn declared_type(name: &str) -> Option<DeclaredType> {
    let name = name.to_ascii_lowercase();
    Some(match name.as_str() {
        "int" | "integer" | "bigint" | "smallint" | "tinyint" | "mediumint" | "int2" | "int4"
        | "int8" | "serial" | "bigserial" | "bool" | "boolean" | "bit" | "year" => {
            DeclaredType::Integer
        }
        "real" | "float" | "double" | "decimal" | "numeric" | "number" | "money" => {
            DeclaredType::Real
        }
        "date" | "datetime" | "time" | "timestamp" | "timestamptz" => DeclaredType::Date,
        "varchar" | "varchar2" | "nvarchar" | "nvarchar2" | "text" | "char" | "nchar"
        | "character" | "string" | "clob" | "blob" | "tinytext" | "mediumtext" | "longtext"
        | "enum" | "json" | "jsonb" | "uuid" => DeclaredType::Text,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `table(column, ...)` of each table.
    fn summary(context: &str) -> Result<Vec<String>, ContextError> {
        let schema = Schema::parse(context)?;
        Ok(schema
            .tables
            .iter()
            .map(|table| {
                let names: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
                format!("{}({})", table.name, names.join(", "))
            })
            .collect())
    }

    #[test]
    fn tables_and_columns_of_one_name_are_merged() {
        let context = "CREATE TABLE CARS_DATA (Id VARCHAR, Weight INTEGER); \
                       CREATE TABLE cars_data (weight VARCHAR, id VARCHAR, YEAR VARCHAR)";
        assert_eq!(summary(context).unwrap(), ["CARS_DATA(Id, Weight, YEAR)"]);
        let schema = Schema::parse(context).unwrap();
        assert_eq!(schema.tables[0].columns[1].declared, DeclaredType::Integer);
    }

    #[test]
    fn names_may_be_quoted_have_blanks_or_be_keywords() {
        let context = "CREATE TABLE `my table` (\"Home \"\"team\"\"\" VARCHAR, [Date (UTC)] TEXT, Away team INTEGER, start date VARCHAR, \
                       order VARCHAR, w/l VARCHAR, untyped)";
        assert_eq!(
            summary(context).unwrap(),
            ["my table(Home \"team\", Date (UTC), Away team, start date, order, w/l, untyped)"]
        );
    }

    #[test]
    fn statements_need_no_semicolon_and_options_are_ignored() {
        let context = "-- two tables\nCREATE TABLE IF NOT EXISTS main.a (x INT) WITHOUT ROWID\n\
                       create table b (y DECIMAL(10, 2) NOT NULL);";
        assert_eq!(summary(context).unwrap(), ["a(x)", "b(y)"]);
    }

    #[test]
    fn declared_keys_and_references_are_read() {
        let schema = Schema::parse(
            "CREATE TABLE a (id INTEGER PRIMARY KEY, b_id INT REFERENCES b(id), c INT,
             CONSTRAINT link FOREIGN KEY (c) REFERENCES c, UNIQUE (c, b_id), CHECK (c > 0))",
        )
        .unwrap();
        let columns = &schema.tables[0].columns;
        let keys: Vec<bool> = columns.iter().map(|column| column.is_key).collect();
        assert_eq!(keys, [true, false, false]);
        assert_eq!(
            columns[1].references,
            Some(("b".to_owned(), Some("id".to_owned())))
        );
        assert_eq!(columns[2].references, Some(("c".to_owned(), None)));
    }

    #[test]
    fn what_is_no_create_table_is_refused() {
        assert_eq!(summary(" ; -- nothing\n"), Err(ContextError::Empty));
        for (context, message) in [
            (
                "CREATE TABLE a (x INT); DROP TABLE a",
                "`DROP TABLE a` is no CREATE TABLE statement",
            ),
            (
                "CREATE VIEW v AS SELECT 1",
                "`CREATE VIEW v AS SELECT 1` is no CREATE TABLE statement",
            ),
            (
                "CREATE TABLE t AS SELECT 1",
                "the table `t` names no columns",
            ),
            ("CREATE TABLE t ()", "the table `t` names no columns"),
            (
                "CREATE TABLE t (a INT",
                "the columns of the table `t` have no closing parenthesis",
            ),
        ] {
            assert_eq!(summary(context).unwrap_err().to_string(), message);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_tables_or_an_error(
            text in "(CREATE TABLE )?[a-z \"'`\\[\\](),;.*é\u{0}-]{0,40}( VARCHAR\\))?"
        ) {
            if let Ok(schema) = Schema::parse(&text) {
                prop_assert!(schema.tables.iter().all(|table| !table.columns.is_empty()));
            }
        }
    }
}
