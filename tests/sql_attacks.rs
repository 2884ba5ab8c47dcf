//! Hostile SQL: whatever a prediction says, `rag-tune score` ends in time, says what became of the row, scores the row
//! after it right, leaves every file as it was, and leaves no process behind.

mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rusqlite::Connection;
use serde_json::{Value, json};
use support::{files_below, rag_tune};
use tempfile::TempDir;

/// How an attack is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// `prediction_error`: SQLite or the authorizer refuses it, or it would need too much memory.
    Refused,
    /// `timeout`: it runs out of steps or time.
    Stopped,
    /// Either of the two: which limit strikes first depends on the machine.
    Either,
    /// `wrong`: it is a query, and harmless.
    Answers,
}
use Ends::{Answers, Either, Refused, Stopped};

/// `n(i)` counts without end.
const N: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)";

/// Queries that never end.
const BOMBS: &[(&str, Ends, &str)] = &[
    ("count", Stopped, "{N} SELECT count(*) FROM n"),
    (
        "union",
        Either,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION SELECT i + 1 FROM n) SELECT max(i) FROM n",
    ),
    ("all rows", Either, "{N} SELECT i FROM n"),
    (
        "text that grows",
        Either,
        "WITH RECURSIVE t(s) AS (SELECT 'x' UNION ALL SELECT s || s FROM t) SELECT max(length(s)) FROM t",
    ),
    (
        "text that grows slowly",
        Stopped,
        "WITH RECURSIVE t(s) AS (SELECT 'x' UNION ALL SELECT substr(s || 'x', 1, 999999) FROM t) SELECT max(s) FROM t",
    ),
    ("group_concat", Either, "{N} SELECT group_concat(i) FROM n"),
    (
        "json_group_array",
        Either,
        "{N} SELECT json_group_array(i) FROM n",
    ),
    (
        "sort",
        Either,
        "{N} SELECT i, randomblob(1000) FROM n ORDER BY 2",
    ),
    (
        "order by random",
        Either,
        "{N} SELECT i FROM n ORDER BY random()",
    ),
    ("distinct", Either, "{N} SELECT DISTINCT i FROM n"),
    (
        "group by",
        Either,
        "{N} SELECT i, count(*) FROM n GROUP BY i % 1000000007",
    ),
    (
        "window",
        Either,
        "{N} SELECT sum(i) OVER (ORDER BY i), ntile(3) OVER (ORDER BY -i) FROM n",
    ),
    (
        "window in a window",
        Either,
        "{N} SELECT max(r) FROM (SELECT rank() OVER (PARTITION BY i % 3 ORDER BY i) AS r FROM n)",
    ),
    (
        "huge join",
        Stopped,
        "SELECT count(*) FROM big a, big b, big c, big d",
    ),
    (
        "huge join with a sort",
        Either,
        "SELECT a.id FROM big a, big b, big c ORDER BY a.id + b.id * c.id",
    ),
    (
        "huge natural join",
        Stopped,
        "SELECT count(*) FROM big a JOIN big b ON a.id + b.id > 0 JOIN big c ON b.id <> c.id LEFT JOIN big d",
    ),
    (
        "correlated subqueries",
        Stopped,
        "SELECT (SELECT count(*) FROM big b, big c WHERE b.id + c.id > a.id) FROM big a",
    ),
    (
        "exists",
        Stopped,
        "SELECT count(*) FROM big a WHERE NOT EXISTS (SELECT 1 FROM big b, big c WHERE a.id + b.id + c.id < 0)",
    ),
    (
        "mandelbrot",
        Stopped,
        "WITH RECURSIVE z(x, y, i) AS (SELECT 0.1, 0.1, 0 UNION ALL SELECT x*x-y*y+0.1, 2*x*y+0.1, i+1 FROM z) SELECT sum(x) FROM z",
    ),
    (
        "json_each over itself",
        Stopped,
        "{N} SELECT count(*) FROM n, json_each('[1,2,3,4,5,6,7,8,9]'), json_tree('{\"a\":[[1],[2]]}')",
    ),
    (
        "two bombs that wait for each other",
        Stopped,
        "{N}, m(i) AS (SELECT i FROM n) SELECT count(*) FROM n JOIN m ON n.i < m.i",
    ),
    (
        "except",
        Either,
        "{N} SELECT i FROM n EXCEPT SELECT i FROM n",
    ),
    (
        "a bomb in LIMIT",
        Stopped,
        "{N} SELECT id FROM big LIMIT (SELECT count(*) FROM n)",
    ),
    (
        "a bomb in a bomb's CASE",
        Stopped,
        "{N} SELECT CASE WHEN (SELECT count(*) FROM n) THEN 1 END",
    ),
];

/// Values that take much memory, or a single step that takes much time.
const GIANTS: &[(&str, Ends, &str)] = &[
    ("randomblob", Refused, "SELECT randomblob(2000000000)"),
    ("zeroblob", Refused, "SELECT zeroblob(2147483647)"),
    (
        "printf width",
        Answers,
        "SELECT length(printf('%2000000000d', 1)), length(printf('%*c', 2000000000, 'x'))",
    ),
    (
        "printf precision",
        Answers,
        "SELECT length(printf('%.2000000000f', 1.5))",
    ),
    (
        "hex doubles",
        Refused,
        "SELECT hex(hex(hex(hex(hex(hex(zeroblob(400000)))))))",
    ),
    (
        "replace multiplies",
        Refused,
        "SELECT replace(replace(replace(hex(zeroblob(50000)), '0', '0000000000'), '0', '0000000000'), '0', '0000000000')",
    ),
    (
        "group_concat of giants",
        Refused,
        "SELECT group_concat(hex(zeroblob(400000)), ',') FROM big",
    ),
    (
        "many giants",
        Refused,
        "{N} SELECT i, zeroblob(1000000) FROM n",
    ),
    (
        "sorted giants",
        Either,
        "{N} SELECT count(*) FROM (SELECT zeroblob(1000000) || i AS z FROM n ORDER BY z DESC)",
    ),
    (
        "a giant in a cell of each row",
        Either,
        "{N} SELECT sum(length(hex(randomblob(400000)))) FROM n",
    ),
    (
        "json_array doubles",
        Refused,
        "WITH RECURSIVE j(s) AS (SELECT json_array(1, 2, 3, 4) UNION ALL SELECT json_array(s, s) FROM j) SELECT max(length(s)) FROM j",
    ),
    (
        "json_each over a giant",
        Either,
        "{N} SELECT count(*) FROM n, json_each('[' || replace(hex(zeroblob(200000)), '0', '1,') || '1]')",
    ),
    (
        "deep JSON",
        Refused,
        "SELECT json(replace(hex(zeroblob(200000)), '0', '['))",
    ),
    // Eighty thousand million comparisons in one step: only the other process can stop it.
    (
        "trim with a giant set",
        Stopped,
        "SELECT length(trim(replace(hex(zeroblob(490000)), '0', 'x'), replace(hex(zeroblob(40000)), '0', 'y') || 'x'))",
    ),
    (
        "instr in a giant",
        Either,
        "{N} SELECT max(instr(zeroblob(1000000), zeroblob(500000) || x'01')) FROM n",
    ),
    (
        "LIKE with many wildcards",
        Either,
        "{N} SELECT max(hex(zeroblob(490000)) LIKE '%0%0%0%0%0%0%0%0%0%0%0%0%0%0%0%0%0%0%0%0%0%0%0%0%0%1') FROM n",
    ),
    (
        "LIKE with a giant pattern",
        Refused,
        "SELECT 'a' LIKE hex(zeroblob(400000))",
    ),
    (
        "GLOB with many wildcards",
        Either,
        "{N} SELECT max(hex(zeroblob(490000)) GLOB '*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*[^0]*0*[1-9]') FROM n",
    ),
    (
        "regexp",
        Refused,
        "SELECT 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' REGEXP '(a+)+$'",
    ),
    (
        "CAST beyond the range",
        Answers,
        "SELECT CAST('9999999999999999999999999' AS INTEGER), CAST(1e400 AS INTEGER), -9223372036854775808 / -1",
    ),
    (
        "sum beyond the range",
        Refused,
        "SELECT sum(9223372036854775807) FROM big",
    ),
    (
        "abs of the smallest",
        Refused,
        "SELECT abs(-9223372036854775808)",
    ),
    (
        "dates without end",
        Stopped,
        "WITH RECURSIVE d(t) AS (SELECT date('now') UNION ALL SELECT date(t, '+1 day') FROM d) SELECT max(strftime('%J %W', t)) FROM d",
    ),
    (
        "dates out of range",
        Answers,
        "SELECT date('9999-12-31', '+999999999999 years'), julianday('now', 'localtime', 'utc', 'weekday 99')",
    ),
];

/// Writing, and reading what is not the database.
const BREAK_OUTS: &[(&str, Ends, &str)] = &[
    (
        "ATTACH a new file",
        Refused,
        "ATTACH '{folder}/attached.sqlite' AS a",
    ),
    (
        "ATTACH another database",
        Refused,
        "ATTACH '{folder}/database/other/other.sqlite' AS a",
    ),
    (
        "ATTACH behind a query",
        Answers,
        "SELECT 1; ATTACH '{folder}/attached.sqlite' AS a",
    ),
    ("DETACH", Refused, "DETACH main"),
    (
        "VACUUM INTO",
        Refused,
        "VACUUM INTO '{folder}/vacuumed.sqlite'",
    ),
    ("VACUUM", Refused, "VACUUM"),
    ("PRAGMA query_only", Refused, "PRAGMA query_only = 0"),
    (
        "PRAGMA writable_schema",
        Refused,
        "PRAGMA writable_schema = ON",
    ),
    (
        "PRAGMA trusted_schema",
        Refused,
        "PRAGMA trusted_schema = 1",
    ),
    (
        "PRAGMA hard_heap_limit",
        Refused,
        "PRAGMA hard_heap_limit = 0",
    ),
    ("PRAGMA journal_mode", Refused, "PRAGMA journal_mode = WAL"),
    (
        "PRAGMA temp_store_directory",
        Refused,
        "PRAGMA temp_store_directory = '{folder}'",
    ),
    ("PRAGMA user_version", Refused, "PRAGMA user_version = 7"),
    ("PRAGMA that reads", Refused, "PRAGMA database_list"),
    (
        "PRAGMA as a table",
        Refused,
        "SELECT * FROM pragma_database_list",
    ),
    (
        "writable_schema and UPDATE",
        Refused,
        "UPDATE sqlite_master SET sql = 'CREATE TABLE big (x)'",
    ),
    (
        "DELETE FROM sqlite_master",
        Refused,
        "DELETE FROM sqlite_master",
    ),
    (
        "load_extension",
        Refused,
        "SELECT load_extension('{folder}/evil.so')",
    ),
    (
        "fts3_tokenizer",
        Refused,
        "SELECT fts3_tokenizer('simple', x'4141414141414141')",
    ),
    (
        "fts3_tokenizer reads a pointer",
        Refused,
        "SELECT hex(fts3_tokenizer('simple'))",
    ),
    ("readfile", Refused, "SELECT readfile('/etc/passwd')"),
    (
        "writefile",
        Refused,
        "SELECT writefile('{folder}/written', 'x')",
    ),
    ("edit", Refused, "SELECT edit('x', 'touch {folder}/edited')"),
    ("fsdir", Refused, "SELECT * FROM fsdir('/')"),
    (
        "csv table",
        Refused,
        "CREATE VIRTUAL TABLE temp.t USING csv(filename='/etc/passwd')",
    ),
    ("INSERT", Refused, "INSERT INTO big VALUES (1)"),
    (
        "INSERT RETURNING",
        Refused,
        "INSERT INTO big VALUES (1) RETURNING id",
    ),
    (
        "WITH and INSERT",
        Refused,
        "WITH x AS (SELECT 1) INSERT INTO big SELECT * FROM x",
    ),
    ("REPLACE", Refused, "REPLACE INTO big VALUES (1)"),
    ("UPDATE", Refused, "UPDATE big SET id = 0"),
    ("DELETE", Refused, "DELETE FROM big"),
    ("DROP", Refused, "DROP TABLE big"),
    ("ALTER", Refused, "ALTER TABLE big ADD COLUMN x"),
    ("CREATE TABLE", Refused, "CREATE TABLE t AS SELECT 1"),
    (
        "CREATE TEMP TABLE",
        Refused,
        "CREATE TEMP TABLE t AS SELECT 1",
    ),
    ("CREATE INDEX", Refused, "CREATE INDEX i ON big (id)"),
    ("CREATE VIEW", Refused, "CREATE TEMP VIEW v AS SELECT 1"),
    (
        "CREATE TRIGGER",
        Refused,
        "CREATE TEMP TRIGGER t AFTER INSERT ON big BEGIN DELETE FROM big; END",
    ),
    (
        "CREATE VIRTUAL TABLE",
        Refused,
        "CREATE VIRTUAL TABLE temp.t USING fts5(x)",
    ),
    ("BEGIN", Refused, "BEGIN EXCLUSIVE"),
    ("SAVEPOINT", Refused, "SAVEPOINT s"),
    ("ANALYZE", Refused, "ANALYZE"),
    ("REINDEX", Refused, "REINDEX big"),
    (
        "sqlite_dbpage",
        Refused,
        "UPDATE sqlite_dbpage SET data = zeroblob(4096) WHERE pgno = 1",
    ),
    (
        "generate_series",
        Refused,
        "SELECT count(*) FROM generate_series(1, 1000000000000)",
    ),
    (
        "writing behind a comment",
        Refused,
        "/* SELECT */ DELETE FROM big -- SELECT id FROM big",
    ),
    (
        "writing in a subquery",
        Refused,
        "SELECT * FROM (DELETE FROM big RETURNING id)",
    ),
    (
        "EXPLAIN a bomb",
        Answers,
        "EXPLAIN {N} SELECT count(*) FROM n",
    ),
    (
        "reading the schema",
        Answers,
        "SELECT sql FROM sqlite_master",
    ),
];

/// Text that is hard to read. Numbers are depths that no query by hand has.
fn texts() -> Vec<(&'static str, Ends, String)> {
    let repeat = str::repeat;
    vec![
        ("nothing", Refused, String::new()),
        ("only a comment", Refused, "/* SELECT 1".to_owned()),
        ("NUL", Refused, "SELECT\0 1".to_owned()),
        (
            "NUL behind a query",
            Answers,
            "SELECT id FROM big WHERE id < 0 \0; DROP TABLE big".to_owned(),
        ),
        (
            "other control characters",
            Refused,
            "\u{1}\u{7f}\u{85}\u{200b}\u{202e}SELECT 1".to_owned(),
        ),
        (
            "not characters at all",
            Answers,
            "SELECT '\u{fffd}\u{10ffff}\u{fdd0}', CAST(x'c328ff' AS TEXT)".to_owned(),
        ),
        (
            "a string that does not end",
            Refused,
            "SELECT 'oops".to_owned(),
        ),
        (
            "a name that does not end",
            Refused,
            "SELECT [oops FROM big; \"".to_owned(),
        ),
        ("a megabyte of letters", Refused, repeat("x", 1_000_000)),
        (
            "a megabyte of query",
            Refused,
            format!("SELECT {}1", repeat("1+", 500_000)),
        ),
        (
            "a megabyte of comments",
            Refused,
            format!("{}DROP TABLE big", repeat("/**/", 250_000)),
        ),
        (
            "a megabyte of DISTINCT",
            Refused,
            format!("SELECT {}1", repeat("DISTINCT/**/ ", 80_000)),
        ),
        (
            "a megabyte of years",
            Refused,
            format!("SELECT {}1", repeat("YEAR ( CURDATE ( ", 60_000)),
        ),
        ("a megabyte of semicolons", Refused, repeat(" ;", 500_000)),
        ("a megabyte of quotes", Refused, repeat("'", 1_000_001)),
        (
            "deep parentheses",
            Answers,
            format!("SELECT {}1{}", repeat("(", 20_000), repeat(")", 20_000)),
        ),
        (
            "deep expressions",
            Refused,
            format!("SELECT {}1", repeat("-(", 5_000)),
        ),
        (
            "deep subqueries",
            Refused,
            format!("{}1{}", repeat("SELECT (", 3_000), repeat(")", 3_000)),
        ),
        (
            "deep tables",
            Answers,
            format!(
                "{}big{}",
                repeat("SELECT * FROM (", 3_000),
                repeat(")", 3_000)
            ),
        ),
        (
            "deep CASE",
            Refused,
            format!(
                "SELECT {}1{}",
                repeat("CASE WHEN 1 THEN ", 3_000),
                repeat(" END", 3_000)
            ),
        ),
        (
            "many UNIONs",
            Refused,
            format!("SELECT 1{}", repeat(" UNION SELECT 1", 5_000)),
        ),
        (
            "many tables",
            Refused,
            format!("SELECT 1 FROM big{}", repeat(", big", 5_000)),
        ),
        ("many CTEs that double", Either, doubling_tables(40)),
        (
            "views of views",
            Answers,
            format!(
                "SELECT count(*) FROM big a{}",
                repeat(" JOIN big USING (id)", 60)
            ),
        ),
        (
            "thousands of columns",
            Answers,
            format!("SELECT 1{}", repeat(", 1", 1_900)),
        ),
        (
            "too many columns",
            Refused,
            format!("SELECT 1{}", repeat(", 1", 9_000)),
        ),
        (
            "thousands of arguments",
            Refused,
            format!("SELECT max(1{})", repeat(", 1", 9_000)),
        ),
        ("parameters", Refused, "SELECT ?1, :name, @x, $y".to_owned()),
        (
            "a huge parameter number",
            Refused,
            "SELECT ?2000000000".to_owned(),
        ),
        (
            "JSON of our own protocol",
            Refused,
            "\"}\n{\"judged\":{\"status\":\"correct\"}}".to_owned(),
        ),
    ]
}

/// `a1` joins `a0` with itself, `a2` joins `a1`...: two to the power of `depth` tables in a short text.
fn doubling_tables(depth: usize) -> String {
    let mut text = "WITH a0 AS (SELECT id FROM big)".to_owned();
    for i in 1..=depth {
        let before = i - 1;
        text += &format!(", a{i} AS (SELECT x.id FROM a{before} x, a{before} y)");
    }
    text + &format!(" SELECT count(*) FROM a{depth}")
}

/// A folder with the database `zoo`, and `other`, which no row names.
struct Zoo {
    folder: TempDir,
}

impl Zoo {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["zoo", "other"] {
            let file = folder.path().join(format!("database/{name}/{name}.sqlite"));
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            let connection = Connection::open(file).unwrap();
            connection
                .execute_batch("CREATE TABLE big (id INTEGER)")
                .unwrap();
            let fill = format!("INSERT INTO big {N} SELECT i FROM n LIMIT 2000");
            connection.execute_batch(&fill).unwrap();
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes rows that all ask for `GOLD`, with these answers.
    fn write<'a>(&self, predictions: impl Iterator<Item = &'a str>) {
        let (mut data, mut answers) = (String::new(), String::new());
        for prediction in predictions {
            data += &format!("{}\n", json!({"db_id": "zoo", "answer": GOLD}));
            answers += &format!("{}\n", json!({ "prediction": prediction }));
        }
        std::fs::write(self.path("data.jsonl"), data).unwrap();
        std::fs::write(self.path("answers.jsonl"), answers).unwrap();
    }

    fn state(&self) -> Vec<(PathBuf, Vec<u8>, SystemTime)> {
        let files = files_below(self.folder.path()).into_iter();
        files
            .map(|file| {
                let changed = file.metadata().unwrap().modified().unwrap();
                (file.clone(), std::fs::read(file).unwrap(), changed)
            })
            .collect()
    }
}

const GOLD: &str = "SELECT count(*), 'gold' FROM big";

const SCORE: [&str; 11] = [
    "score",
    "--task",
    "sql",
    "--data",
    "data.jsonl",
    "--predictions",
    "answers.jsonl",
    "--databases",
    "database",
    "--rows",
    "rows.jsonl",
];

/// Scores all `attacks` in one run, each followed by a row that is right.
fn withstand(attacks: &[(&str, Ends, String)]) {
    let zoo = Zoo::new();
    let folder = zoo.folder.path().to_str().unwrap();
    let queries: Vec<String> = attacks
        .iter()
        .map(|(_, _, sql)| sql.replace("{N}", N).replace("{folder}", folder))
        .collect();
    zoo.write(queries.iter().flat_map(|query| [query.as_str(), GOLD]));
    let before = zoo.state();

    let start = Instant::now();
    rag_tune(zoo.folder.path(), &SCORE).ok();
    // At most 8 s each, with both processors busy: a bound against hanging, and no measurement.
    let bound = Duration::from_secs(20 + 16 * attacks.len() as u64);
    assert!(start.elapsed() < bound, "{:?}", start.elapsed());

    let rows = std::fs::read_to_string(zoo.path("rows.jsonl")).unwrap();
    std::fs::remove_file(zoo.path("rows.jsonl")).unwrap();
    let rows: Vec<Value> = rows
        .lines()
        .map(|row| serde_json::from_str(row).unwrap())
        .collect();
    assert_eq!(rows.len(), 2 * attacks.len());
    let mut surprises = Vec::new();
    for ((name, ends, _), rows) in attacks.iter().zip(rows.chunks(2)) {
        let status = rows[0]["status"].as_str().unwrap();
        let is_expected = match ends {
            Refused => status == "prediction_error",
            Stopped => status == "timeout",
            Either => ["prediction_error", "timeout"].contains(&status),
            Answers => status == "wrong",
        };
        if !is_expected {
            surprises.push(format!("{name}: {status}, {}", rows[0]["detail"]));
        }
        assert_eq!(
            rows[1]["status"], "correct",
            "the row after `{name}`: {}",
            rows[1]
        );
    }
    assert!(surprises.is_empty(), "{surprises:#?}");
    assert_eq!(zoo.state(), before, "a file was changed, made or removed");
}

fn table(attacks: &[(&'static str, Ends, &str)]) -> Vec<(&'static str, Ends, String)> {
    let own = |&(name, ends, sql): &(&'static str, Ends, &str)| (name, ends, sql.to_owned());
    attacks.iter().map(own).collect()
}

/// One test, so that a process left behind by one part is not taken for one that another part is using.
#[test]
fn no_attack_harms_hangs_or_crashes() {
    let all = [table(BOMBS), table(GIANTS), table(BREAK_OUTS), texts()];
    assert!(all.iter().map(Vec::len).sum::<usize>() >= 40);
    for attacks in &all {
        withstand(attacks);
        assert_eq!(workers(), Vec::<PathBuf>::new());
    }
    #[cfg(target_os = "linux")]
    workers_die_with_their_judge();
}

/// Also where the judge had no time to end them, and the worker is inside a step that takes minutes.
#[cfg(target_os = "linux")]
fn workers_die_with_their_judge() {
    let zoo = Zoo::new();
    let (_, _, endless) = GIANTS
        .iter()
        .find(|(name, ..)| name.starts_with("trim"))
        .unwrap();
    zoo.write([*endless].into_iter());
    let mut judge = support::command(zoo.folder.path(), &SCORE).spawn().unwrap();
    await_workers(1);
    std::thread::sleep(Duration::from_millis(500)); // now it is inside
    judge.kill().unwrap(); // SIGKILL
    judge.wait().unwrap();
    await_workers(0);
}

#[cfg(target_os = "linux")]
fn await_workers(count: usize) {
    let start = Instant::now();
    while workers().len() != count {
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", workers());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Processes of this build's program that run queries, as folders of `/proc`; none where there is no such folder.
fn workers() -> Vec<PathBuf> {
    let program = Path::new(env!("CARGO_BIN_EXE_rag-tune"))
        .canonicalize()
        .unwrap();
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let is_worker = |process: &PathBuf| {
        // Either fails when the process ends meanwhile, or belongs to somebody else.
        let is_ours = std::fs::read_link(process.join("exe")).is_ok_and(|exe| exe == program);
        let arguments = std::fs::read_to_string(process.join("cmdline"));
        is_ours && arguments.is_ok_and(|text| text.contains("sql-worker"))
    };
    let paths = processes.filter_map(|process| Some(process.ok()?.path()));
    paths.filter(is_worker).collect()
}
