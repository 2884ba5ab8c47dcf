//! One domain with its rows, in SQLite.

use std::path::Path;

use anyhow::{Context, Result};
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::rng::Rng;
use super::rows::{Rows, rows_of};
use super::schema::{Domain, Role, Table};

/// A filled database, held in memory while questions are asked about it.
pub struct Database {
    /// What the tables and columns are and how they are called.
    pub domain: Domain,
    /// `rows[table][row][column]`.
    pub rows: Vec<Rows>,
    connection: Connection,
}

impl Database {
    /// Fills `domain` with the rows that belong to `seed`.
    ///
    /// # Errors
    /// If SQLite refuses a table or row.
    pub fn build(domain: Domain, seed: u64) -> Result<Self> {
        let rows = rows_of(
            &domain,
            &mut Rng::named(seed, &format!("{} rows", domain.id)),
        );
        let connection = Connection::open_in_memory().context("cannot open SQLite in memory")?;
        fill(&connection, &domain, &rows)?;
        Ok(Self {
            domain,
            rows,
            connection,
        })
    }

    /// Writes the same tables and rows to a new file.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn save(&self, path: &Path) -> Result<()> {
        let file = Connection::open(path)
            .with_context(|| format!("cannot create database `{}`", path.display()))?;
        fill(&file, &self.domain, &self.rows)
    }

    /// All rows that `sql` gives.
    ///
    /// # Errors
    /// If it does not run: then a question's answer is wrong.
    pub fn query(&self, sql: &str) -> Result<Rows> {
        let wrong = || format!("`{sql}` does not run on `{}`", self.domain.id);
        let mut statement = self.connection.prepare(sql).with_context(wrong)?;
        let width = statement.column_count();
        let rows =
            statement.query_map([], |row| (0..width).map(|column| row.get(column)).collect());
        rows.and_then(Iterator::collect).with_context(wrong)
    }

    /// The values of one column, in row order.
    pub fn values(&self, table: usize, column: usize) -> impl Iterator<Item = &Value> {
        self.rows[table].iter().map(move |row| &row[column])
    }
}

fn fill(connection: &Connection, domain: &Domain, tables: &[Rows]) -> Result<()> {
    let wrong = || format!("cannot fill database `{}`", domain.id);
    let transaction = connection.unchecked_transaction().with_context(wrong)?;
    for (table, rows) in domain.tables.iter().zip(tables) {
        transaction
            .execute(&create_table(domain, table), [])
            .with_context(wrong)?;
        let gaps = vec!["?"; table.columns.len()].join(", ");
        let insert = format!("INSERT INTO {} VALUES ({gaps})", table.name);
        let mut insert = transaction.prepare(&insert).with_context(wrong)?;
        for row in rows {
            insert.execute(params_from_iter(row)).with_context(wrong)?;
        }
    }
    transaction.commit().with_context(wrong)
}

fn create_table(domain: &Domain, table: &Table) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut foreign_keys = Vec::new();
    for column in &table.columns {
        let primary = if matches!(column.role, Role::Key) {
            " PRIMARY KEY"
        } else {
            ""
        };
        parts.push(format!("{} {}{primary}", column.name, column.sql_type()));
        if let Role::Ref(reference) = &column.role
            && let Some(parent) = domain.table_index(&reference.table)
        {
            let key = &domain.tables[parent].columns[0].name;
            foreign_keys.push(format!(
                "FOREIGN KEY ({}) REFERENCES {}({key})",
                column.name, reference.table
            ));
        }
    }
    parts.extend(foreign_keys);
    format!("CREATE TABLE {} ({})", table.name, parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::domains;
    use super::*;

    #[test]
    fn no_foreign_key_is_broken() {
        for domain in domains::all().unwrap() {
            let database = Database::build(domain, 3).unwrap();
            let broken = database.query("PRAGMA foreign_key_check").unwrap();
            assert!(broken.is_empty(), "{}: {broken:?}", database.domain.id);
        }
    }

    #[test]
    fn a_query_that_does_not_run_names_itself_and_the_database() {
        let domain = domains::all().unwrap().remove(0);
        let error = Database::build(domain, 1)
            .unwrap()
            .query("SELECT nothing")
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("`SELECT nothing` does not run on `village_library`")
        );
    }
}
