//! Tables, columns and foreign keys of a database.

use std::collections::HashMap;
use std::path::Path;

use rusqlite::Connection;
use rusqlite::types::ValueRef;

use super::super::database::open_for_schema;
use crate::error::EvalError;

/// A column of a [`Schema`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ColumnId {
    /// Position of its table.
    pub table: usize,
    /// Position within the table.
    pub column: usize,
}

/// The names that a query can use, in lower case, and which columns are the same by foreign keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    tables: Vec<Table>,
    /// Each column that has a part in a foreign key -> the column that stands for all that are connected with it.
    representatives: HashMap<ColumnId, ColumnId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Table {
    name: String,
    columns: Vec<String>,
    /// Positions of the primary key's columns, in its order.
    primary_key: Vec<usize>,
}

/// A row of `PRAGMA foreign_key_list`.
struct ForeignKey {
    /// Position of this column within its key.
    sequence: usize,
    to_table: String,
    from_column: String,
    /// Nothing where the key refers to the primary key without naming it.
    to_column: Option<String>,
}

impl Schema {
    /// The schema of the SQLite database at `path`, which is opened read-only.
    ///
    /// # Errors
    /// [`EvalError::OpenDatabase`] if that is no SQLite database.
    pub fn read(path: &Path) -> Result<Self, EvalError> {
        let read = || Self::from_connection(&open_for_schema(path)?);
        read().map_err(|source: rusqlite::Error| EvalError::OpenDatabase {
            path: path.to_owned(),
            source: source.into(),
        })
    }

    fn from_connection(connection: &Connection) -> rusqlite::Result<Self> {
        let mut statement =
            connection.prepare("SELECT name FROM sqlite_master WHERE type = 'table'")?;
        let names: Vec<String> = statement
            .query_map([], |row| text(row.get_ref(0)?))?
            .collect::<Result<_, _>>()?;
        let mut schema = Self {
            tables: Vec::new(),
            representatives: HashMap::new(),
        };
        let mut foreign_keys = Vec::new();
        for name in names {
            foreign_keys.push(read_foreign_keys(connection, &name)?);
            schema.tables.push(read_table(connection, &name)?);
        }
        schema.connect(&foreign_keys);
        Ok(schema)
    }

    /// Puts the columns that foreign keys connect into sets, and lets the first column of each stand for the set.
    ///
    /// Kept from the official evaluation: a key joins the first set that it touches, and two sets that a later key
    /// connects stay two.
    fn connect(&mut self, foreign_keys: &[Vec<ForeignKey>]) {
        let mut sets: Vec<Vec<ColumnId>> = Vec::new();
        for (table, keys) in foreign_keys.iter().enumerate() {
            for key in keys {
                let from = self.column(table, &key.from_column);
                let (Some(from), Some(to)) = (from, self.referred(key)) else {
                    continue; // a key to what is not there connects nothing
                };
                match sets
                    .iter_mut()
                    .find(|set| set.contains(&from) || set.contains(&to))
                {
                    Some(set) => set.extend([from, to]),
                    None => sets.push(vec![from, to]),
                }
            }
        }
        for set in sets {
            let first = *set.iter().min().expect("a set starts with two columns");
            self.representatives
                .extend(set.into_iter().map(|column| (column, first)));
        }
    }

    /// The column that a foreign key refers to.
    fn referred(&self, key: &ForeignKey) -> Option<ColumnId> {
        let table = self.table(&key.to_table)?;
        match &key.to_column {
            Some(name) => self.column(table, name),
            None => {
                let primary_key = &self.tables[table].primary_key;
                let column = *primary_key.get(key.sequence)?;
                Some(ColumnId { table, column })
            }
        }
    }

    /// Position of the table `name`, in lower case.
    pub(super) fn table(&self, name: &str) -> Option<usize> {
        self.tables.iter().position(|table| table.name == name)
    }

    /// The column `name`, in lower case, of a table.
    pub(super) fn column(&self, table: usize, name: &str) -> Option<ColumnId> {
        let columns = &self.tables[table].columns;
        let column = columns.iter().position(|column| column == name)?;
        Some(ColumnId { table, column })
    }

    /// Names of the tables, in lower case.
    pub(super) fn table_names(&self) -> impl Iterator<Item = &str> {
        self.tables.iter().map(|table| table.name.as_str())
    }

    /// The column that stands for `id` and all columns that foreign keys connect with it.
    pub(super) fn representative(&self, id: ColumnId) -> ColumnId {
        self.representatives.get(&id).copied().unwrap_or(id)
    }
}

fn read_table(connection: &Connection, name: &str) -> rusqlite::Result<Table> {
    let mut table = Table {
        name: name.to_lowercase(),
        columns: Vec::new(),
        primary_key: Vec::new(),
    };
    let mut primary_key = Vec::new();
    connection.pragma(None, "table_info", name, |row| {
        let place_in_key: u32 = row.get("pk")?;
        if place_in_key > 0 {
            primary_key.push((place_in_key, table.columns.len()));
        }
        table.columns.push(text(row.get_ref("name")?)?);
        Ok(())
    })?;
    primary_key.sort_unstable();
    table.primary_key = primary_key.into_iter().map(|(_, column)| column).collect();
    Ok(table)
}

fn read_foreign_keys(connection: &Connection, table: &str) -> rusqlite::Result<Vec<ForeignKey>> {
    let mut keys = Vec::new();
    connection.pragma(None, "foreign_key_list", table, |row| {
        let to_column = row.get_ref("to")?;
        keys.push(ForeignKey {
            sequence: row.get::<_, u32>("seq")? as usize,
            to_table: text(row.get_ref("table")?)?,
            from_column: text(row.get_ref("from")?)?,
            to_column: match to_column {
                ValueRef::Null => None,
                name => Some(text(name)?),
            },
        });
        Ok(())
    })?;
    Ok(keys)
}

/// A name in lower case. Old databases have names that are not UTF-8; they are no reason to fail.
fn text(value: ValueRef) -> rusqlite::Result<String> {
    Ok(String::from_utf8_lossy(value.as_bytes()?).to_lowercase())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The schema that these statements make.
    fn schema_of(statements: &str) -> Schema {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(statements).unwrap();
        Schema::from_connection(&connection).unwrap()
    }

    /// A small schema for tests of queries.
    pub fn zoo() -> Schema {
        schema_of(
            "CREATE TABLE keeper (id INTEGER PRIMARY KEY, name TEXT, salary REAL);
             CREATE TABLE animal (id INTEGER, name TEXT, weight REAL, keeper_id INTEGER REFERENCES keeper(id));",
        )
    }

    fn id(schema: &Schema, table: &str, column: &str) -> ColumnId {
        schema.column(schema.table(table).unwrap(), column).unwrap()
    }

    #[test]
    fn names_are_in_lower_case_and_quoted_ones_are_read() {
        let schema = schema_of("CREATE TABLE \"Order Item\" (\"Item Id\" INTEGER, B TEXT)");
        let column = id(&schema, "order item", "item id");
        assert_eq!((column.table, column.column), (0, 0));
        assert_eq!(schema.table("Order Item"), None);
    }

    #[test]
    fn foreign_keys_make_columns_the_same() {
        let schema = schema_of(
            "CREATE TABLE pet (id INTEGER, owner INTEGER REFERENCES person(id));
             CREATE TABLE person (id INTEGER PRIMARY KEY, boss REFERENCES Person(ID), city REFERENCES city);
             CREATE TABLE city (name TEXT, code TEXT PRIMARY KEY);
             CREATE TABLE lost (to_nothing REFERENCES nowhere(id));",
        );
        let representative = |table, column| schema.representative(id(&schema, table, column));
        // The first of pet.owner, person.id and person.boss.
        let owner = id(&schema, "pet", "owner");
        assert_eq!(representative("person", "id"), owner);
        assert_eq!(representative("person", "boss"), owner);
        // A key that names no column means the primary key.
        assert_eq!(
            representative("city", "code"),
            id(&schema, "person", "city")
        );
        for (table, column) in [("pet", "id"), ("city", "name"), ("lost", "to_nothing")] {
            assert_eq!(representative(table, column), id(&schema, table, column));
        }
    }

    #[test]
    fn a_file_that_is_no_database_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text.sqlite");
        std::fs::write(&path, "no database".repeat(200)).unwrap();
        let error = Schema::read(&path).unwrap_err();
        assert!(error.to_string().contains("text.sqlite"), "{error}");
    }
}
