//! Running one query within a budget.

use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};
use serde::{Deserialize, Serialize};

use super::table::{Cell, Table};

/// What one query may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryLimits {
    /// Steps of SQLite's virtual machine. Being the same on every machine, this is the limit that
    /// should strike first.
    pub steps: u64,
    /// Wall clock, for queries whose single steps are slow.
    pub wall_clock: Duration,
    /// Rows returned.
    pub rows: usize,
    /// Memory of the rows returned.
    pub result_bytes: usize,
}

impl Default for QueryLimits {
    /// Every gold query of Spider's validation split stays below a fortieth of each limit.
    fn default() -> Self {
        Self {
            steps: 50_000_000,
            wall_clock: Duration::from_secs(5),
            rows: 1_000_000,
            result_bytes: 256 << 20,
        }
    }
}

/// Why a query gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// There is no statement.
    #[error("there is no statement")]
    Empty,
    /// The statement is valid and returns no rows by its nature.
    #[error("the statement is no query")]
    NotAQuery,
    /// The step budget or the wall clock ran out.
    #[error("stopped after its budget of steps or time")]
    OutOfBudget,
    /// The result is larger than the limits allow.
    #[error("the result exceeds {rows} rows or {bytes} bytes")]
    TooLarge {
        /// Limit of rows.
        rows: usize,
        /// Limit of bytes.
        bytes: usize,
    },
    /// SQLite refused the query.
    #[error("{0}")]
    Sqlite(String),
}

impl From<rusqlite::Error> for QueryError {
    fn from(error: rusqlite::Error) -> Self {
        let is_interrupted = error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted);
        match error {
            _ if is_interrupted => Self::OutOfBudget,
            // Its own text repeats the whole query.
            rusqlite::Error::SqlInputError { msg, .. } => Self::Sqlite(short(&msg)),
            _ => Self::Sqlite(short(&error.to_string())),
        }
    }
}

/// SQLite's messages quote names from the query, which may be long.
fn short(message: &str) -> String {
    const LONGEST: usize = 300;
    match message.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}

/// VM steps between two looks at the budget.
const STEPS_PER_CHECK: u16 = 100;

/// The rows that `sql`, a single statement, returns.
pub fn execute(
    connection: &Connection,
    sql: &str,
    limits: &QueryLimits,
) -> Result<Table, QueryError> {
    if sql.is_empty() {
        return Err(QueryError::Empty);
    }
    let deadline = Instant::now() + limits.wall_clock;
    let mut checks_left = limits.steps / u64::from(STEPS_PER_CHECK);
    let is_over = move || {
        checks_left = checks_left.saturating_sub(1);
        checks_left == 0 || Instant::now() >= deadline
    };
    connection.progress_handler(i32::from(STEPS_PER_CHECK), Some(is_over))?;

    let mut statement = connection.prepare(sql)?;
    let names: Vec<String> = statement
        .column_names()
        .into_iter()
        .map(str::to_owned)
        .collect();
    let columns = names.len();
    if columns == 0 {
        return Err(QueryError::NotAQuery);
    }
    let mut table = Table::new(names);
    let mut bytes = 0;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        for column in 0..columns {
            let cell = Cell::from(row.get_ref(column)?);
            bytes += cell.size_bytes();
            table.push(cell);
        }
        if bytes > limits.result_bytes || table.rows() > limits.rows {
            return Err(QueryError::TooLarge {
                rows: limits.rows,
                bytes: limits.result_bytes,
            });
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::database::open_read_only;
    use super::*;

    /// A database with three pets, opened as for model-written SQL.
    fn pets() -> (tempfile::TempDir, PathBuf, Connection) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pets.sqlite");
        Connection::open(&path)
            .unwrap()
            .execute_batch(
                "CREATE TABLE pet (name TEXT, age REAL);
                 INSERT INTO pet VALUES ('Ada', 3.0), ('Bo', NULL), (CAST(x'ff41' AS TEXT), 1.5);",
            )
            .unwrap();
        let connection = open_read_only(&path).unwrap();
        (folder, path, connection)
    }

    fn query(sql: &str) -> Result<Table, QueryError> {
        execute(&pets().2, sql, &QueryLimits::default())
    }

    #[test]
    fn a_query_returns_its_cells_also_where_text_is_not_utf8() {
        let table = query("SELECT age, name FROM pet ORDER BY age DESC").unwrap();
        let ages: Vec<_> = table.column(0).cloned().collect();
        assert_eq!(ages, [Cell::Integer(3), Cell::from(1.5), Cell::Null]);
        assert_eq!(table.column(1).nth(1), Some(&Cell::Text(vec![0xff, 0x41])));
    }

    #[test]
    fn an_endless_query_stops() {
        let bomb = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
                    SELECT count(*) FROM n";
        assert_eq!(query(bomb), Err(QueryError::OutOfBudget));
    }

    #[test]
    fn slow_steps_stop_by_the_clock() {
        let bomb = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
                    SELECT sum(length(hex(randomblob(400000)))) FROM n";
        let limits = QueryLimits {
            wall_clock: Duration::from_millis(200),
            ..QueryLimits::default()
        };
        let start = Instant::now();
        assert_eq!(
            execute(&pets().2, bomb, &limits),
            Err(QueryError::OutOfBudget)
        );
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{:?}",
            start.elapsed()
        );
    }

    #[test]
    fn a_large_result_is_cut_off() {
        let long = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000) \
                    SELECT i, zeroblob(1000) FROM n";
        let limits = |rows, result_bytes| QueryLimits {
            rows,
            result_bytes,
            ..Default::default()
        };
        let connection = pets().2;
        for limits in [limits(999, usize::MAX), limits(1000, 1_000_000)] {
            let error = execute(&connection, long, &limits).unwrap_err();
            assert!(matches!(error, QueryError::TooLarge { .. }), "{error}");
        }
        let table = execute(&connection, long, &limits(1000, 2_000_000)).unwrap();
        assert_eq!(table.rows(), 1000);
    }

    #[test]
    fn one_value_cannot_take_much_memory() {
        for sql in [
            "SELECT randomblob(1e9)",
            "SELECT zeroblob(1e9)",
            "SELECT printf('%.*c', 1e9, 'x')",
            "SELECT replace(hex(zeroblob(400000)), '0', '0000000000')",
            "SELECT 'a' LIKE hex(zeroblob(300))",
        ] {
            let is_small = |table: Table| table.column(0).all(|cell| cell.size_bytes() < 1_001_000);
            assert!(query(sql).map_or(true, is_small), "{sql}");
        }
        assert!(query("SELECT randomblob(1e9)").is_err());
    }

    #[test]
    fn writes_and_other_files_are_refused() {
        let (folder, path, connection) = pets();
        let before = std::fs::read(&path).unwrap();
        let other = folder.path().join("other.sqlite");
        let attach = format!("ATTACH '{}' AS other", other.display());
        let vacuum = format!("VACUUM INTO '{}'", other.display());
        for sql in [
            attach.as_str(),
            vacuum.as_str(),
            "INSERT INTO pet VALUES ('Cy', 1)",
            "INSERT INTO pet VALUES ('Cy', 1) RETURNING name",
            "UPDATE pet SET age = 0",
            "DELETE FROM pet",
            "DROP TABLE pet",
            "CREATE TEMP TABLE t AS SELECT 1",
            "PRAGMA query_only = 0",
            "PRAGMA writable_schema = 1",
            "SELECT * FROM pragma_database_list",
            "SELECT load_extension('x.so')",
            "BEGIN",
        ] {
            let error = execute(&connection, sql, &QueryLimits::default()).unwrap_err();
            // SQLite asks the authorizer about VACUUM only when it runs, and it does not run.
            let is_refused = matches!(error, QueryError::Sqlite(_) | QueryError::NotAQuery);
            assert!(is_refused, "{sql}: {error}");
        }
        assert_eq!(std::fs::read(&path).unwrap(), before);
        assert!(!other.exists());
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            1,
            "a file was left"
        );
    }

    #[test]
    fn text_that_is_no_query_is_an_error_and_no_panic() {
        assert_eq!(query(""), Err(QueryError::Empty));
        assert_eq!(query("-- nothing"), Err(QueryError::NotAQuery));
        assert_eq!(
            query("SELECT wings FROM pet"),
            Err(QueryError::Sqlite("no such column: wings".to_owned()))
        );
        let long = query(&format!("SELECT {} FROM pet", "é".repeat(10_000)));
        assert!(long.unwrap_err().to_string().chars().count() < 310);
        let failed = |sql| matches!(query(sql), Err(QueryError::Sqlite(_)));
        assert!(failed("SELECT nothing FROM nowhere") && failed("hello") && failed("SELECT\0 1"));
    }
}
