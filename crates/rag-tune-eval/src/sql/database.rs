//! Finding SQLite databases, and opening them so that model-written SQL can only read.
//!
//! Three walls stand one behind the other: the file is opened read-only and immutable, an
//! authorizer lets nothing but `SELECT` through, and SQLite's own limits bound what a query may
//! allocate. The budget of steps and time is in [`super::execute`]; what the process itself may do, in
//! [`super::confine`].

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

/// Memory that SQLite may take in the process, in bytes.
///
/// Sorting happens in memory (`temp_store`), so that no query can fill the disk instead.
const HEAP_LIMIT_BYTES: i64 = 512 << 20;

/// A folder of databases, `<db_id>/<db_id>.sqlite`, and more beside it where a test suite has several.
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

    /// The files that queries of `db_id`, the name in row `row`, are judged on: every `*.sqlite` of its folder by
    /// name. A test suite has several of a database, which differ in their rows; `<db_id>.sqlite` is among them.
    ///
    /// # Errors
    /// [`EvalError::InvalidDatabaseId`] if it is no name, [`EvalError::MissingDatabase`] if it is not there,
    /// [`EvalError::Read`] if its folder cannot be read.
    pub fn files(&self, row: usize, db_id: &str) -> Result<Vec<PathBuf>, EvalError> {
        if db_id.is_empty() || db_id.starts_with('.') || db_id.contains(['/', '\\', '\0']) {
            return Err(EvalError::InvalidDatabaseId {
                row,
                db_id: db_id.to_owned(),
            });
        }
        let folder = self.folder.join(db_id);
        let path = folder.join(format!("{db_id}.sqlite"));
        if !path.is_file() {
            return Err(EvalError::MissingDatabase {
                row,
                db_id: db_id.to_owned(),
                path,
            });
        }
        let mut files = databases_in(&folder).map_err(|source| EvalError::Read {
            path: folder.clone(),
            source,
        })?;
        files.sort();
        Ok(files)
    }
}

/// Where databases come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseSource {
    /// They lie in a folder.
    Folder(Databases),
    /// They are made up from the rows' schemas, see [`SyntheticDatabases`](super::SyntheticDatabases).
    Synthetic,
}

impl DatabaseSource {
    /// What stands in place of a folder for databases that are made up. A folder of that name is `./synthetic`.
    pub const SYNTHETIC: &str = "synthetic";

    /// What a flag names, else the environment ([`DATABASES_VARIABLE`]), else the config.
    ///
    /// # Errors
    /// [`EvalError::DatabasesNotSet`] if none of them does,
    /// [`EvalError::MissingDatabaseFolder`] if the folder is not there.
    pub fn locate(flag: Option<&Path>, config: Option<&Path>) -> Result<Self, EvalError> {
        let environment = std::env::var_os(DATABASES_VARIABLE)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from);
        let named = flag.or(environment.as_deref()).or(config);
        Self::named(named.ok_or(EvalError::DatabasesNotSet)?)
    }

    fn named(path: &Path) -> Result<Self, EvalError> {
        if path.as_os_str() == Self::SYNTHETIC {
            return Ok(Self::Synthetic);
        }
        Databases::open(path).map(Self::Folder)
    }
}

/// The `*.sqlite` files of `folder`.
fn databases_in(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "sqlite") && path.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}

/// Opens `path` for queries that nobody has read beforehand.
///
/// # Errors
/// [`EvalError::OpenDatabase`] if the file is no SQLite database.
pub(super) fn open_read_only(path: &Path) -> Result<Connection, EvalError> {
    connect(path).map_err(|source| EvalError::OpenDatabase {
        path: path.to_owned(),
        source: source.into(),
    })
}

/// Opens `path` for our own look at its tables; queries that nobody has read belong to [`open_read_only`].
pub(super) fn open_for_schema(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(immutable_uri(path), flags)?;
    // SQLite opens lazily: reading the schema shows now whether this is a database at all.
    connection.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))?;
    Ok(connection)
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = open_for_schema(path)?;
    restrict(&connection)?;
    Ok(connection)
}

/// Lets `connection` do nothing but read from now on.
pub(super) fn restrict(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.pragma_update(None, "query_only", true)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    connection.pragma_update_and_check(None, "hard_heap_limit", HEAP_LIMIT_BYTES, |_| Ok(()))?;
    for (limit, value) in SQLITE_LIMITS {
        connection.set_limit(limit, value)?;
    }
    connection.authorizer(Some(authorize)) // last: it refuses the pragmas above
}

/// Functions that load code, or tell and take addresses.
const REFUSED_FUNCTIONS: [&str; 3] = ["load_extension", "fts3_tokenizer", "fts5"];

/// Lets queries read tables and call functions, and refuses everything else.
fn authorize(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Function { function_name }
            if REFUSED_FUNCTIONS
                .iter()
                .any(|refused| function_name.eq_ignore_ascii_case(refused)) =>
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
        let error = databases.files(3, "pets").unwrap_err();
        assert!(error.to_string().contains("`pets`"), "{error}");
        assert!(error.hint().unwrap().contains(DATABASES_VARIABLE));
    }

    #[test]
    fn synthetic_is_no_folder_unless_a_path_says_so() {
        let source = DatabaseSource::named(Path::new("synthetic")).unwrap();
        assert_eq!(source, DatabaseSource::Synthetic);
        let error = DatabaseSource::named(Path::new("./synthetic")).unwrap_err();
        assert!(error.to_string().contains("`./synthetic`"), "{error}");
        assert!(error.hint().unwrap().contains("--databases synthetic"));
    }

    #[test]
    fn a_database_name_cannot_leave_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let databases = Databases::open(folder.path()).unwrap();
        for db_id in ["../secret", "..", "a/b", "pets/", ""] {
            let error = databases.files(0, db_id).unwrap_err();
            assert!(
                matches!(error, EvalError::InvalidDatabaseId { .. }),
                "{db_id}: {error}"
            );
        }
    }

    #[test]
    fn all_databases_of_a_name_are_found_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let databases = Databases::open(folder.path()).unwrap();
        let pets = folder.path().join("pets");
        std::fs::create_dir_all(pets.join("folder.sqlite")).unwrap();
        for name in ["pets.sqlite", "b.sqlite", "a.sqlite", "schema.sql"] {
            std::fs::write(pets.join(name), "").unwrap();
        }
        let names = ["a.sqlite", "b.sqlite", "pets.sqlite"].map(|name| pets.join(name));
        assert_eq!(databases.files(0, "pets").unwrap(), names);
        std::fs::remove_file(pets.join("pets.sqlite")).unwrap();
        assert!(databases.files(0, "pets").is_err());
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
