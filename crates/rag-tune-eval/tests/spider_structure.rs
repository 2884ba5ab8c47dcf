//! Exact-set match and hardness against Spider's official evaluation (`scripts/golden_spider_structure.py`).
//!
//! On a made-up schema always; on Spider's rows where `RAG_TUNE_MIRROR` and `RAG_TUNE_DATABASES` are set.

#![allow(clippy::print_stdout, reason = "says that it skipped")]

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use rag_tune_eval::sql::DATABASES_VARIABLE;
use rag_tune_eval::sql::structure::{Query, Schema, exact_set_match, hardness, parse};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// The schema and hand-written pairs, with the official verdicts.
#[derive(Deserialize)]
struct Pairs {
    schema: String,
    queries: Vec<GoldQuery>,
}

#[derive(Deserialize)]
struct GoldQuery {
    gold: String,
    hardness: String,
    /// Prediction and verdict; no verdict where the official evaluation fails.
    predictions: Vec<(String, Option<bool>)>,
}

/// The official verdicts on a split: a letter a row, `-` where the official evaluation fails.
#[derive(Deserialize)]
struct Split {
    queries_sha256: String,
    hardness: String,
    /// Row -> the other rows of its database whose gold query matches its own.
    matches: BTreeMap<usize, Vec<usize>>,
    itself: String,
    /// All occurrences of a text replaced by another.
    replaced: Vec<(String, String, String)>,
    /// Cut off after so many quarters of the characters.
    cut: Vec<(usize, String)>,
}

fn class_of(gold: Option<&Query>) -> &'static str {
    gold.map_or("unknown", |gold| hardness(gold).name())
}

#[test]
fn hand_written_pairs_are_judged_as_by_the_official_evaluation() {
    let golden = include_str!("../../../tests/fixtures/golden/spider_structure.json");
    let pairs: Pairs = serde_json::from_str(golden).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("zoo.sqlite");
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch(&pairs.schema).unwrap();
    let schema = Schema::read(&path).unwrap();

    let mut compared = 0;
    for query in &pairs.queries {
        let gold = parse(&query.gold, &schema);
        assert_eq!(class_of(gold.as_ref().ok()), query.hardness, "{gold:?}");
        for (prediction, verdict) in &query.predictions {
            let is_match = gold.as_ref().is_ok_and(|gold| {
                parse(prediction, &schema).is_ok_and(|it| exact_set_match(gold, &it, &schema))
            });
            if let Some(verdict) = verdict {
                assert_eq!(is_match, *verdict, "{}\n{prediction}", query.gold);
                compared += 1;
            }
        }
    }
    assert!(compared > 200, "{compared}");
}

/// A split's gold queries, with what they are judged in.
struct Rows {
    queries: Vec<(String, String)>,
    /// By `db_id`; those that are not at hand are left out.
    schemas: HashMap<String, Schema>,
}

impl Rows {
    /// Nothing where the rows are not at hand.
    fn read(split: &str) -> Option<Self> {
        let folder = |variable| std::env::var_os(variable).map(PathBuf::from);
        let (mirror, databases) = (folder("RAG_TUNE_MIRROR")?, folder(DATABASES_VARIABLE)?);
        let file =
            format!("datasets/samlhuillier/sql-create-context-spider-intersect/{split}.jsonl");
        let text = std::fs::read_to_string(mirror.join(file)).ok()?;
        let query = |line: &str| {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let text = |field: &str| row[field].as_str().unwrap().to_owned();
            (text("db_id"), text("answer"))
        };
        let queries: Vec<_> = text.lines().map(query).collect();
        let mut schemas = HashMap::new();
        for (db_id, _) in &queries {
            let path = databases.join(db_id).join(format!("{db_id}.sqlite"));
            if path.exists() && !schemas.contains_key(db_id) {
                schemas.insert(db_id.clone(), read_schema(&path));
            }
        }
        Some(Self { queries, schemas })
    }

    fn trees(&self) -> Vec<Option<Query>> {
        let queries = self.queries.iter();
        queries
            .map(|(db_id, query)| parse(query, self.schemas.get(db_id)?).ok())
            .collect()
    }

    /// A letter a row, as in the golden file, for predictions that `change` makes of the gold queries.
    fn verdicts(&self, change: impl Fn(&str) -> String) -> String {
        let verdict = |(gold, (db_id, text)): (&Option<Query>, &(String, String))| {
            let Some(gold) = gold else { return '-' };
            let schema = &self.schemas[db_id];
            let is_match = |prediction| exact_set_match(gold, &prediction, schema);
            let is_match = parse(&change(text), schema).is_ok_and(is_match);
            if is_match { '1' } else { '0' }
        };
        self.trees()
            .iter()
            .zip(&self.queries)
            .map(verdict)
            .collect()
    }
}

fn read_schema(path: &Path) -> Schema {
    Schema::read(path).unwrap()
}

fn check(name: &str, is_whole: fn(&Split) -> bool) {
    let Some(rows) = Rows::read(name) else {
        println!("skipped: no mirror");
        return;
    };
    let golden = include_str!("../../../tests/fixtures/golden/spider_structure_rows.json");
    let mut splits: HashMap<String, Split> = serde_json::from_str(golden).unwrap();
    let split = splits.remove(name).unwrap();
    assert!(is_whole(&split));
    let texts: Vec<&str> = rows
        .queries
        .iter()
        .map(|(_, query)| query.as_str())
        .collect();
    let hash = Sha256::digest(texts.join("\n"));
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hash, split.queries_sha256,
        "other rows than the golden file's"
    );

    let trees = rows.trees();
    let classes = trees.iter().map(|gold| match class_of(gold.as_ref()) {
        "extra" => 'x',
        class => class.chars().next().unwrap(),
    });
    assert_eq!(classes.collect::<String>(), split.hardness);

    let mut matches: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (i, (db_id, _)) in rows.queries.iter().enumerate() {
        for (j, (other_id, _)) in rows.queries.iter().enumerate() {
            if let (Some(gold), Some(other)) = (&trees[i], &trees[j])
                && i != j
                && db_id == other_id
                && exact_set_match(gold, other, &rows.schemas[db_id])
            {
                matches.entry(i).or_default().push(j);
            }
        }
    }
    assert_eq!(matches, split.matches);

    let agree = |what: &str, ours: &str, official: &str| {
        assert_eq!(ours.len(), official.len(), "{what}");
        let pairs = ours.chars().zip(official.chars()).enumerate();
        let differ = |(row, (ours, official))| (official != '-' && ours != official).then_some(row);
        let rows: Vec<usize> = pairs.filter_map(differ).collect();
        assert!(rows.is_empty(), "{what}: rows {rows:?}");
    };
    agree("itself", &rows.verdicts(str::to_owned), &split.itself);
    for (from, to, official) in &split.replaced {
        let what = format!("{from:?} -> {to:?}");
        agree(
            &what,
            &rows.verdicts(|gold| gold.replace(from, to)),
            official,
        );
    }
    for (quarters, official) in &split.cut {
        let cut = |gold: &str| {
            let length = gold.chars().count() * quarters / 4;
            gold.chars().take(length).collect()
        };
        agree(
            &format!("{quarters} quarters"),
            &rows.verdicts(cut),
            official,
        );
    }
}

#[test]
fn validation_rows_are_judged_as_by_the_official_evaluation() {
    check("validation", |split| {
        split.replaced.len() > 30 && split.cut.len() == 3
    });
}

#[test]
fn train_rows_are_judged_as_by_the_official_evaluation() {
    check("train", |split| split.matches.len() > 100);
}
