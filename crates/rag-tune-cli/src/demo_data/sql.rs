//! Pieces of SQL text, and the record of what a query names.

use rusqlite::types::Value;

use super::schema::{Domain, Reference};

/// The tables and columns that a query has named, which become its `context`.
///
/// Names come out of this record and nowhere else, so that no query can name a column that its
/// context lacks.
pub struct Used<'a> {
    domain: &'a Domain,
    tables: Vec<(usize, Vec<usize>)>,
}

impl<'a> Used<'a> {
    /// Nothing named yet.
    pub fn new(domain: &'a Domain) -> Self {
        Self {
            domain,
            tables: Vec::new(),
        }
    }

    /// The name of a table.
    pub fn table(&mut self, table: usize) -> &'a str {
        self.columns_of(table);
        &self.domain.tables[table].name
    }

    /// The name of a column, after `alias`: "", "T1." or the like.
    pub fn column(&mut self, table: usize, column: usize, alias: &str) -> String {
        let columns = self.columns_of(table);
        if !columns.contains(&column) {
            columns.push(column);
        }
        format!("{alias}{}", self.domain.tables[table].columns[column].name)
    }

    /// CREATE TABLE for each table named, with the columns named.
    ///
    /// A table without any (`SELECT count(*)`) shows its key, since no table is without columns.
    pub fn context(&self) -> String {
        let tables: Vec<String> = self
            .tables
            .iter()
            .map(|(table, columns)| self.create_table(*table, columns))
            .collect();
        tables.join("; ")
    }

    fn create_table(&self, table: usize, columns: &[usize]) -> String {
        let table = &self.domain.tables[table];
        let columns = if columns.is_empty() { &[0] } else { columns };
        let columns: Vec<String> = columns
            .iter()
            .map(|&column| &table.columns[column])
            .map(|column| format!("{} {}", column.name, column.sql_type()))
            .collect();
        format!("CREATE TABLE {} ({})", table.name, columns.join(", "))
    }

    fn columns_of(&mut self, table: usize) -> &mut Vec<usize> {
        let place = self.tables.iter().position(|(named, _)| *named == table);
        let place = place.unwrap_or_else(|| {
            self.tables.push((table, Vec::new()));
            self.tables.len() - 1
        });
        &mut self.tables[place].1
    }
}

/// A foreign key in use: rows of `child` belong to rows of `parent`.
#[derive(Debug, Clone, Copy)]
pub struct Relation<'a> {
    /// The table with the foreign key.
    pub child: usize,
    /// Its column that holds the parent's key.
    pub column: usize,
    /// The table referred to.
    pub parent: usize,
    /// The words for it.
    pub words: &'a Reference,
}

impl Relation<'_> {
    /// `child AS T1 JOIN parent AS T2 ON ...`.
    pub fn child_first(&self, used: &mut Used<'_>) -> String {
        let (child, parent) = (used.table(self.child), used.table(self.parent));
        let foreign = used.column(self.child, self.column, "T1.");
        let key = used.column(self.parent, 0, "T2.");
        format!("{child} AS T1 JOIN {parent} AS T2 ON {foreign} = {key}")
    }

    /// `parent AS T1 JOIN child AS T2 ON ...`.
    pub fn parent_first(&self, used: &mut Used<'_>) -> String {
        let (parent, child) = (used.table(self.parent), used.table(self.child));
        let key = used.column(self.parent, 0, "T1.");
        let foreign = used.column(self.child, self.column, "T2.");
        format!("{parent} AS T1 JOIN {child} AS T2 ON {key} = {foreign}")
    }
}

/// `value` as SQL spells it.
pub fn literal(value: &Value) -> String {
    match value {
        Value::Text(text) => format!("'{}'", text.replace('\'', "''")),
        other => plain(other),
    }
}

/// `value` as a reader spells it.
pub fn plain(value: &Value) -> String {
    match value {
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => number.to_string(),
        Value::Text(text) => text.clone(),
        Value::Null | Value::Blob(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::domains;
    use super::*;

    #[test]
    fn context_has_only_what_was_named_and_the_key_where_nothing_was() {
        let library = domains::all().unwrap().remove(0);
        let mut used = Used::new(&library);
        let names = [
            used.column(1, 3, ""),
            used.column(1, 1, "T1."),
            used.column(1, 3, ""),
        ];
        assert_eq!(names, ["pages", "T1.title", "pages"]);
        used.table(0);
        assert_eq!(
            used.context(),
            "CREATE TABLE book (pages INTEGER, title VARCHAR); CREATE TABLE author (author_id INTEGER)"
        );
    }

    #[test]
    fn literals_double_their_quotes() {
        assert_eq!(
            literal(&Value::Text("Widow's Drop".into())),
            "'Widow''s Drop'"
        );
        assert_eq!(literal(&Value::Real(7.0)), "7");
    }
}
