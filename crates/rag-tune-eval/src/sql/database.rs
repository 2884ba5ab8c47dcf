//! Finding SQLite databases, and opening them so that model-written SQL can only read.
//!
//! Three walls stand one behind the other: the file is opened read-only and immutable, an
//! authorizer lets nothing but `SELECT` through, and SQLite's own limits bound what a query may
//! allocate. The budget of steps and time is in [`super::execute`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags};

use crate::error::EvalError;

/// Environment variable that names the folder of databases.
pub const DATABASES_VARIABLE: &str = "RAG_TUNE_DATABASES";

/// What SQLite itself may use for one statement; generous against real queries and tables.
const SQLITE_LIMITS: [(Limit, i32); 7] = [
    // Also bounds what one VM step can cost, such as `randomblob(n)` or `replace(...)`.
    (Limit::SQLITE_LIMIT_LENGTH, 1_000_000),
    (Limit::SQLITE_LIMIT_SQL_LENGTH, 100_000),
    (Limit::SQLITE_LIMIT_EXPR_DEPTH, 200),
    (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 100),
    (Limit::SQLITE_LIMIT_ATTACHED, 0),
    // Matching is exponential in the wildcards of a pattern and runs within one VM step.
    (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 200),
    (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
];

/// Memory that all queries of the process may take together, in bytes.
///
/// Sorting happens in memory (`temp_store`), so that no query can fill the disk instead.
const HEAP_LIMIT_BYTES: i64 = 2 << 30;

/// A folder of databases, `<db_id>/<db_id>.sqlite`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Databases {
    folder: PathBuf,
}

impl Databases {
    /// The databases in `folder`.
    ///
    /// # Errors
    /// [`EvalError::MissingDatabaseFolder`] if there is no such folder.
    pub fn open(folder: &Path) -> Result<Self, EvalError> {
        if !folder.is_dir() {
            return Err(EvalError::MissingDatabaseFolder {
                path: folder.to_owned(),
            });
        }
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// The folder that a flag names, else the environment ([`DATABASES_VARIABLE`]), else the
    /// config.
    ///
    /// # Errors
    /// [`EvalError::DatabasesNotSet`] if none of them does,
    /// [`EvalError::MissingDatabaseFolder`] if the folder is not there.
    pub fn locate(flag: Option<&Path>, config: Option<&Path>) -> Result<Self, EvalError> {
        let environment = std::env::var_os(DATABASES_VARIABLE)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from);
        let folder = flag.or(environment.as_deref()).or(config);
        Self::open(folder.ok_or(EvalError::DatabasesNotSet)?)
    }

    /// The file of each database that `db_ids`, the names by row, need.
    ///
    /// # Errors
    /// [`EvalError::MissingDatabase`] for the first one that is not there.
    pub(super) fn files<'a>(
        &self,
        db_ids: impl IntoIterator<Item = &'a str>,
    ) -> Result<BTreeMap<&'a str, PathBuf>, EvalError> {
        let mut files = BTreeMap::new();
        for (row, db_id) in db_ids.into_iter().enumerate() {
            if files.contains_key(db_id) {
                continue;
            }
            if db_id.is_empty() || db_id.starts_with('.') || db_id.contains(['/', '\\', '\0']) {
                return Err(EvalError::InvalidDatabaseId {
                    row,
                    db_id: db_id.to_owned(),
                });
            }
            let path = self.folder.join(db_id).join(format!("{db_id}.sqlite"));
            if !path.is_file() {
                return Err(EvalError::MissingDatabase {
                    row,
                    db_id: db_id.to_owned(),
                    path,
                });
            }
            files.insert(db_id, path);
        }
        Ok(files)
    }
}

/// Opens `path` for queries that nobody has read beforehand.
///
/// # Errors
/// [`EvalError::OpenDatabase`] if the file is no SQLite database.
pub(super) fn open_read_only(path: &Path) -> Result<Connection, EvalError> {
    connect(path).map_err(|source| EvalError::OpenDatabase {
        path: path.to_owned(),
        source,
    })
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(immutable_uri(path), flags)?;
    // SQLite opens lazily: reading the schema shows now whether this is a database at all.
    connection.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.pragma_update(None, "query_only", true)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    connection.pragma_update_and_check(None, "hard_heap_limit", HEAP_LIMIT_BYTES, |_| Ok(()))?;
    for (limit, value) in SQLITE_LIMITS {
        connection.set_limit(limit, value)?;
    }
    connection.authorizer(Some(authorize))?; // last: it refuses the pragmas above
    Ok(connection)
}

/// Lets queries read tables and call functions, and refuses everything else.
fn authorize(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Function { function_name }
            if function_name.eq_ignore_ascii_case("load_extension") =>
        {
            Authorization::Deny
        }
        AuthAction::Select
        | AuthAction::Read { .. }
        | AuthAction::Function { .. }
        | AuthAction::Recursive => Authorization::Allow,
        _ => Authorization::Deny,
    }
}

/// `path` as a SQLite URI. `immutable` promises that nobody writes to the file, so SQLite needs
/// neither locks nor a journal beside it and can read from folders that nobody may write to.
fn immutable_uri(path: &Path) -> String {
    let mut uri = "file:".to_owned();
    for &byte in path.as_os_str().as_encoded_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            write!(uri, "%{byte:02X}").expect("writing to a string cannot fail");
        }
    }
    uri + "?immutable=1"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_folder_and_a_missing_database_are_named() {
        let error = Databases::open(Path::new("no/such/folder")).unwrap_err();
        assert!(error.to_string().contains("no/such/folder"), "{error}");

        let folder = tempfile::tempdir().unwrap();
        let databases = Databases::open(folder.path()).unwrap();
        let error = databases.files(["pets"]).unwrap_err();
        assert!(error.to_string().contains("`pets`"), "{error}");
        assert!(error.hint().unwrap().contains(DATABASES_VARIABLE));
    }

    #[test]
    fn a_database_name_cannot_leave_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let databases = Databases::open(folder.path()).unwrap();
        for db_id in ["../secret", "..", "a/b", ""] {
            let error = databases.files(["pets/", db_id]).unwrap_err();
            assert!(
                matches!(error, EvalError::InvalidDatabaseId { .. }),
                "{db_id}: {error}"
            );
        }
    }

    #[test]
    fn a_path_with_special_characters_opens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("what? 100% #1 ü.sqlite");
        Connection::open(&path)
            .unwrap()
            .execute_batch("CREATE TABLE t (a)")
            .unwrap();
        open_read_only(&path).unwrap();
    }

    #[test]
    fn a_file_that_is_no_database_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text.sqlite");
        std::fs::write(
            &path,
            "this is not a database, but it is long enough".repeat(40),
        )
        .unwrap();
        let error = open_read_only(&path).unwrap_err();
        assert!(error.to_string().contains("text.sqlite"), "{error}");
    }
}
