//! What a database has, as text-to-SQL data sets say it: `CREATE TABLE a (x INTEGER, y TEXT); CREATE TABLE b (...)`.

use std::path::Path;

use super::database::open_for_schema;
use crate::error::EvalError;

/// Its tables with their columns and declared types on one line, in the order in which they were made.
///
/// Keys and constraints are left out, as in the data that models learn from. Names that SQL could not read otherwise are quoted.
///
/// # Errors
/// [`EvalError::OpenDatabase`] if the file is no SQLite database.
pub fn schema_text(database: &Path) -> Result<String, EvalError> {
    let read = || -> rusqlite::Result<String> {
        let connection = open_for_schema(database)?;
        let mut names = connection.prepare(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY rowid",
        )?;
        let names = names.query_map([], |row| row.get::<_, String>(0))?;
        let mut columns = connection.prepare("SELECT name, type FROM pragma_table_info(?1)")?;
        let mut tables = Vec::new();
        for name in names {
            let name = name?;
            let columns = columns.query_map([&name], |row| {
                let kind: String = row.get(1)?;
                let column = quoted(&row.get::<_, String>(0)?);
                Ok(format!("{column} {kind}").trim_end().to_owned())
            })?;
            let columns = columns.collect::<rusqlite::Result<Vec<_>>>()?;
            let table = format!("CREATE TABLE {} ({})", quoted(&name), columns.join(", "));
            tables.push(table);
        }
        Ok(tables.join("; "))
    };
    read().map_err(|source| EvalError::OpenDatabase {
        path: database.to_owned(),
        source: source.into(),
    })
}

fn quoted(name: &str) -> String {
    let mut letters = name.chars();
    let begins = |c: char| c.is_alphabetic() || c == '_';
    let is_plain =
        letters.next().is_some_and(begins) && letters.all(|c| c.is_alphanumeric() || c == '_');
    match is_plain {
        true => name.to_owned(),
        false => format!("\"{}\"", name.replace('"', "\"\"")),
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    #[test]
    fn tables_come_on_one_line_with_names_that_sql_reads() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("zoo.sqlite");
        Connection::open(&file)
            .unwrap()
            .execute_batch(
                "CREATE TABLE zoo (
                    id INTEGER PRIMARY KEY AUTOINCREMENT, -- not a word of this
                    \"opened in\" DATE, anything
                 );
                 CREATE TABLE animal (name VARCHAR(20), zoo REFERENCES zoo (id));
                 CREATE VIEW all_animals AS SELECT * FROM animal;",
            )
            .unwrap();
        assert_eq!(
            schema_text(&file).unwrap(),
            "CREATE TABLE zoo (id INTEGER, \"opened in\" DATE, anything); CREATE TABLE animal (name VARCHAR(20), zoo)"
        );
        let error = schema_text(&folder.path().join("none.sqlite")).unwrap_err();
        assert!(error.to_string().contains("none.sqlite"), "{error}");
    }
}
