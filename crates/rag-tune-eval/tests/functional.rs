//! Scores of meaning representations against a second scorer, and ViGGO's own lines.

#![allow(clippy::print_stdout)] // says that it skipped

use std::collections::BTreeMap;
use std::path::PathBuf;

use rag_tune_eval::TextScorer;
use rag_tune_eval::functional::parse;
use rag_tune_eval::{RowStatus, Scorer, Share};
use serde::Deserialize;

/// A row of what `scripts/check_functional.py --golden` wrote.
#[derive(Deserialize)]
struct Row {
    kind: String,
    gold: String,
    prediction: String,
    malformed: bool,
    metrics: BTreeMap<String, Share>,
}

#[derive(Deserialize)]
struct Golden {
    rows: Vec<Row>,
}

#[test]
fn figures_are_those_of_a_second_scorer() {
    let text = include_str!("../../../tests/fixtures/golden/functional.json");
    let Golden { rows } = serde_json::from_str(text).unwrap();
    assert!(rows.len() > 100);
    let scorer = TextScorer::functional(rows.iter().map(|row| row.gold.clone()).collect());
    let predictions: Vec<String> = rows.iter().map(|row| row.prediction.clone()).collect();
    for (row, ours) in rows.iter().zip(scorer.score(&predictions, &|| ()).unwrap()) {
        let what = format!("{}: {}", row.kind, row.prediction);
        let is_malformed = ours.status == RowStatus::PredictionError;
        assert_eq!(is_malformed, row.malformed, "{what}");
        assert_eq!(ours.metrics.len(), row.metrics.len());
        for (name, expected) in &row.metrics {
            let share = ours.metrics[name];
            let is_equal =
                (share.part - expected.part).abs() < 1e-12 && share.whole == expected.whole;
            assert!(
                is_equal,
                "{what}: {name} is {share:?}, expected {expected:?}"
            );
        }
    }
}

/// All lines of all splits are read, and written again as they were.
#[test]
fn viggo_reads_and_prints_back_as_the_same_text() {
    let Some(mirror) = std::env::var_os("RAG_TUNE_MIRROR").map(PathBuf::from) else {
        println!("skipped: no RAG_TUNE_MIRROR");
        return;
    };
    for (split, lines) in [("train", 5103), ("validation", 714), ("test", 1083)] {
        let file = mirror.join(format!("datasets/GEM/viggo/{split}.jsonl"));
        let Ok(text) = std::fs::read_to_string(&file) else {
            println!("skipped: no ViGGO in RAG_TUNE_MIRROR");
            return;
        };
        assert_eq!(text.lines().count(), lines);
        for line in text.lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let meaning = row["meaning_representation"].as_str().unwrap();
            let parsed = parse(meaning);
            assert_eq!(parsed.malformed, None, "{meaning}");
            assert_eq!(parsed.meaning.to_string(), meaning);
        }
    }
}
