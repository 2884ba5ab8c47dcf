//! Synthetic databases: what `--databases synthetic` says, and how often its verdicts are those on Spider's real
//! databases. The latter needs `RAG_TUNE_MIRROR` and `RAG_TUNE_DATABASES`. `SHOW_DISAGREEMENTS=1` prints each.

#![allow(
    clippy::print_stdout,
    reason = "says that it skipped, and what was counted"
)]

mod support;

use std::path::{Path, PathBuf};
use std::time::Instant;

use rag_tune_eval::sql::{
    DATABASES_VARIABLE, Databases, QueryLimits, Sandbox, SqlCase, SqlJudge, SyntheticCase,
    SyntheticDatabases,
};
use serde_json::Value;

const ROWS: &str = "datasets/samlhuillier/sql-create-context-spider-intersect/validation.jsonl";
const SEED: u64 = 0;

/// The validation rows with their real and their synthetic databases.
struct Both {
    contexts: Vec<String>,
    real: Vec<SqlCase>,
    synthetic: Vec<SqlCase>,
    real_judge: SqlJudge,
    synthetic_judge: SqlJudge,
    /// Keeps the files.
    _databases: SyntheticDatabases,
}

/// How often both say right, only the real, only the synthetic, neither.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
struct Agreement {
    both: usize,
    only_real: usize,
    only_synthetic: usize,
    neither: usize,
}

impl Agreement {
    fn add(&mut self, other: Self) {
        self.both += other.both;
        self.only_real += other.only_real;
        self.only_synthetic += other.only_synthetic;
        self.neither += other.neither;
    }
}

impl Both {
    /// Nothing where the data is not at hand.
    fn load(databases_per_row: usize) -> Option<Self> {
        let folder = |variable| std::env::var_os(variable).map(PathBuf::from);
        let rows = folder("RAG_TUNE_MIRROR").map(|mirror| mirror.join(ROWS));
        let databases = folder(DATABASES_VARIABLE);
        let (Some(rows), Some(databases)) = (rows.filter(|rows| rows.exists()), databases) else {
            println!("skipped: no mirror");
            return None;
        };
        let rows = json_lines(&rows);
        let text = |row: &Value, field: &str| row[field].as_str().unwrap().to_owned();
        let contexts: Vec<String> = rows.iter().map(|row| text(row, "context")).collect();
        let golds: Vec<String> = rows.iter().map(|row| text(row, "answer")).collect();
        let start = Instant::now();
        let cases: Vec<SyntheticCase> = contexts
            .iter()
            .zip(&golds)
            .map(|(context, gold)| SyntheticCase { context, gold })
            .collect();
        let made = SyntheticDatabases::build(&cases, databases_per_row, SEED).unwrap();
        let seconds = start.elapsed().as_secs_f64();
        println!("{databases_per_row} databases a row, made in {seconds:.1} s");
        println!("{:>6} {:>9} {:>9} {:>8}", "both", "only", "only", "neither");
        println!(
            "{:>6} {:>9} {:>9} {:>8}",
            "right", "real", "synthetic", "right"
        );
        let real_databases = Databases::open(&databases).unwrap();
        let case = |i: usize, databases: Vec<PathBuf>| SqlCase {
            db_id: text(&rows[i], "db_id"),
            gold: golds[i].clone(),
            databases,
        };
        let real = |i| {
            case(
                i,
                real_databases.files(i, &text(&rows[i], "db_id")).unwrap(),
            )
        };
        Some(Self {
            real: (0..rows.len()).map(real).collect(),
            synthetic: (0..rows.len())
                .map(|i| case(i, made.files(i).to_vec()))
                .collect(),
            real_judge: SqlJudge::new(sandbox(), QueryLimits::default()),
            synthetic_judge: SqlJudge::new(sandbox(), QueryLimits::default()),
            contexts,
            _databases: made,
        })
    }

    fn golds(&self) -> Vec<String> {
        self.real.iter().map(|case| case.gold.clone()).collect()
    }

    /// For each row the gold query of the next one, if that is on the same database.
    fn next_golds(&self) -> Vec<(usize, String)> {
        (1..self.real.len())
            .filter(|&next| self.real[next].db_id == self.real[next - 1].db_id)
            .map(|next| (next - 1, self.real[next].gold.clone()))
            .collect()
    }

    /// All edits of all gold queries.
    fn edited_golds(&self) -> Vec<(usize, String)> {
        let rows = self.real.iter().enumerate();
        rows.flat_map(|(row, case)| {
            edits(&case.gold)
                .into_iter()
                .map(move |edited| (row, edited))
        })
        .collect()
    }

    /// The agreement on predictions of some of the rows, each by row and query.
    fn agreement(&self, name: &str, predictions: &[(usize, String)]) -> Agreement {
        let queries: Vec<String> = predictions.iter().map(|(_, query)| query.clone()).collect();
        let of = |cases: &[SqlCase]| -> Vec<SqlCase> {
            predictions
                .iter()
                .map(|(row, _)| cases[*row].clone())
                .collect()
        };
        let real = self
            .real_judge
            .judge(&of(&self.real), &queries, &|| ())
            .unwrap();
        let synthetic = self
            .synthetic_judge
            .judge(&of(&self.synthetic), &queries, &|| ())
            .unwrap();
        let mut agreement = Agreement::default();
        for (i, (row, query)) in predictions.iter().enumerate() {
            let verdicts = (real[i].correct, synthetic[i].correct);
            let count = match verdicts {
                (true, true) => &mut agreement.both,
                (true, false) => &mut agreement.only_real,
                (false, true) => &mut agreement.only_synthetic,
                (false, false) => &mut agreement.neither,
            };
            *count += 1;
            if verdicts.0 != verdicts.1 && std::env::var_os("RAG_TUNE_SHOW").is_some() {
                let side = if verdicts.0 {
                    "only real"
                } else {
                    "only synthetic"
                };
                println!(
                    "{side}\t{row}\t{}\n\t{}\n\t{query}\n\t{:?}",
                    self.contexts[*row], self.real[*row].gold, synthetic[i].detail
                );
            }
        }
        println!("{name}: {agreement:?}");
        agreement
    }
}

fn json_lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Each with its row.
fn numbered(queries: Vec<String>) -> Vec<(usize, String)> {
    queries.into_iter().enumerate().collect()
}

/// Edits of gold queries as words in the text, one at a time.
fn edits(gold: &str) -> Vec<String> {
    let words: Vec<&str> = gold.split_whitespace().collect();
    let mut edits = Vec::new();
    for (i, word) in words.iter().enumerate() {
        let lower = word.to_ascii_lowercase();
        let other = match lower.as_str() {
            "and" => Some("OR"),
            "or" => Some("AND"),
            "desc" => Some("ASC"),
            "asc" => Some("DESC"),
            "distinct" | "not" => Some(""),
            "<" => Some(">"),
            ">" => Some(">="),
            "=" => Some("!="),
            "intersect" | "except" => Some("UNION"),
            "union" => Some("INTERSECT"),
            _ => None,
        };
        let with = |text: &str| {
            let mut edited = words.clone();
            edited[i] = text;
            edited.join(" ")
        };
        edits.extend(other.map(with));
        if let Ok(number) = word.parse::<i64>() {
            edits.push(with(&(number + 1).to_string()));
        }
        if ["where", "having", "limit"].contains(&lower.as_str()) && !gold.contains(" (") {
            edits.push(words[..i].join(" "));
        }
        for (a, b) in [
            ("max(", "min("),
            ("min(", "max("),
            ("avg(", "sum("),
            ("sum(", "avg("),
        ] {
            if let Some(rest) = lower.strip_prefix(a) {
                edits.push(with(&format!("{b}{}", &word[word.len() - rest.len()..])));
            }
        }
    }
    edits
}

/// On queries of which one knows beforehand what they are.
#[test]
fn verdicts_agree_with_real_databases() {
    let Some(both) = Both::load(SyntheticDatabases::PER_ROW) else {
        return;
    };
    let golds = both.golds();
    let expected = Agreement {
        both: 568,
        ..Agreement::default()
    };
    assert_eq!(both.agreement("gold", &numbered(golds)), expected);

    // All 21 that only the real databases take for right ask something else: 14 name columns that the row's schema
    // lacks, and most return nothing on the real database, as gold does.
    let expected = Agreement {
        both: 19,
        only_real: 21,
        only_synthetic: 0,
        neither: 508,
    };
    assert_eq!(
        both.agreement("the next row's gold", &both.next_golds()),
        expected
    );

    let expected = Agreement {
        both: 43,
        only_real: 213,
        only_synthetic: 4,
        neither: 1342,
    };
    assert_eq!(
        both.agreement("edited gold", &both.edited_golds()),
        expected
    );
}

/// On predictions of models, and with other numbers of databases; prints tables and is run by
/// scripts/synthetic_agreement.sh.
#[test]
#[ignore = "prints tables, and needs predictions"]
fn agreement_by_number_of_databases() {
    for count in [1, 2, 3, 5, 10] {
        let Some(both) = Both::load(count) else {
            return;
        };
        both.agreement("the next row's gold", &both.next_golds());
        both.agreement("edited gold", &both.edited_golds());
        let mut sum = Agreement::default();
        for file in prediction_files() {
            let predictions = json_lines(&file);
            let text = |line: &Value| line["prediction"].as_str().unwrap().to_owned();
            let predictions = numbered(predictions.iter().map(text).collect());
            sum.add(both.agreement(&file.display().to_string(), &predictions));
        }
        println!(
            "{:>6} {:>9} {:>9} {:>8}  all predictions",
            sum.both, sum.only_real, sum.only_synthetic, sum.neither
        );
    }
}

fn prediction_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = std::env::var_os("RAG_TUNE_PREDICTIONS")
        .map(PathBuf::from)
        .into_iter()
        .collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.ends_with("predictions.jsonl") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn sandbox() -> Sandbox {
    Sandbox::program(env!("CARGO_BIN_EXE_rag-tune"), &["sql-worker"])
}

/// Two rows without a `db_id`, and a prediction for each.
const DATA: &str = "\
{\"context\": \"CREATE TABLE singer (name VARCHAR, age INTEGER)\", \"question\": \"q\", \
\"answer\": \"SELECT name FROM singer WHERE age > 20\"}
{\"context\": \"CREATE TABLE singer (name VARCHAR)\", \"question\": \"q\", \
\"answer\": \"SELECT year(name) FROM singer\"}
";

/// `rag-tune score` of two predictions on `data`.
fn score(folder: &Path, data: &str, databases: &[&str]) -> support::Run {
    std::fs::write(folder.join("data.jsonl"), data).unwrap();
    let predictions = "SELECT name FROM singer WHERE NOT age <= 20\nSELECT name FROM singer\n";
    std::fs::write(folder.join("predictions.txt"), predictions).unwrap();
    let mut arguments = vec!["score", "--task", "sql", "--data", "data.jsonl"];
    arguments.extend([
        "--predictions",
        "predictions.txt",
        "--json",
        "--rows",
        "rows.jsonl",
    ]);
    arguments.extend(databases);
    support::rag_tune(folder, &arguments)
}

#[test]
fn rows_without_databases_are_scored_and_the_score_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let report = score(folder.path(), DATA, &["--databases", "synthetic"]).ok();
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(
        (&report["correct"], &report["gold_errors"]),
        (&1.into(), &1.into())
    );
    assert_eq!(
        report["notes"][0],
        "executed on 5 synthetic databases a row, made from the schema: an estimate of execution accuracy"
    );
    let rows = json_lines(&folder.path().join("rows.jsonl"));
    let detail = rows[1]["detail"].as_str().unwrap();
    assert!(
        detail.contains("no such function: year") && detail.contains("synthetic_0.sqlite"),
        "{detail}"
    );
}

#[test]
fn a_row_whose_context_is_of_no_use_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = DATA.replace("CREATE TABLE singer (name VARCHAR)", "DROP TABLE singer");
    let text = score(folder.path(), &data, &["--databases", "synthetic"]).refused();
    for expected in [
        "row 1",
        "`DROP TABLE singer` is no CREATE TABLE statement",
        "hint: ",
    ] {
        assert!(text.contains(expected), "{text}");
    }
    let data = DATA.replace("context", "schema");
    let text = score(folder.path(), &data, &["--databases", "synthetic"]).refused();
    assert!(text.contains("context"), "{text}");
}

#[test]
fn who_has_no_databases_is_told_of_synthetic_ones() {
    let folder = tempfile::tempdir().unwrap();
    let text = score(folder.path(), DATA, &[]).refused();
    assert!(text.contains("--databases synthetic"), "{text}");
    let text = score(folder.path(), DATA, &["--databases", "./synthetic"]).refused();
    assert!(text.contains("`./synthetic` does not exist"), "{text}");
}
