//! all-MiniLM-L6-v2 against sentence-transformers, and on the text-to-SQL data set.
#![allow(
    clippy::print_stderr,
    reason = "a skipped test says so, a long one how long it took"
)]

mod common;

use std::path::Path;
use std::time::Instant;

use common::mirror_with;

const MODEL: &str = "models/sentence-transformers/all-MiniLM-L6-v2";
const DATA: &str = "datasets/samlhuillier/sql-create-context-spider-intersect";
use rag_tune_augment::embed::{BertEmbedder, Embedder, VectorCache};
use rag_tune_augment::{
    AugmentRequest, DataConfig, Hub, RetrievalConfig, Task, augment, read_augmented,
};
use rag_tune_kernels::Compute;
use serde::Deserialize;

/// `tests/fixtures/golden_minilm.json`.
#[derive(Deserialize)]
struct Golden {
    texts: Vec<String>,
    first_components: Vec<Vec<f32>>,
    dot_products: Vec<Vec<f32>>,
}

#[test]
fn vectors_equal_those_of_sentence_transformers() {
    let Some(mirror) = mirror_with(&[MODEL]) else {
        return;
    };
    // f32 sums of another order differ by about 1e-6; bf16 has 8 bits, and the vectors are of length 1.
    for (compute, bound) in [(Compute::F32, 2e-5), (Compute::Bf16, 4e-3)] {
        if compute.is_native() {
            check_golden(&mirror.join(MODEL), compute, bound);
        }
    }
}

fn check_golden(folder: &Path, compute: Compute, bound: f32) {
    let golden: Golden = serde_json::from_str(include_str!("fixtures/golden_minilm.json")).unwrap();
    let texts: Vec<&str> = golden.texts.iter().map(String::as_str).collect();
    let embedder = BertEmbedder::open(folder, "", compute).unwrap();
    let mut nothing_known = VectorCache::open(None, embedder.fingerprint()).unwrap();
    let vectors = nothing_known.embed(&embedder, &texts, &()).unwrap();

    let close = |a: f32, b: f32| (a - b).abs() < bound;
    for (index, text) in texts.iter().enumerate() {
        let expected = &golden.first_components[index];
        let first = &vectors.row(index)[..expected.len()];
        assert!(
            first.iter().zip(expected).all(|(a, b)| close(*a, *b)),
            "{text:?}: {first:?}"
        );
        for (other, expected) in golden.dot_products[index].iter().enumerate() {
            let pairs = vectors.row(index).iter().zip(vectors.row(other));
            let dot: f32 = pairs.map(|(a, b)| a * b).sum();
            assert!(
                close(dot, *expected),
                "{text:?} and {:?}: {dot}",
                texts[other]
            );
        }
    }
}

/// All 3,961 + 568 rows of the original experiment's data.
#[test]
fn every_row_of_the_sql_data_gets_a_near_question_about_another_database() {
    let Some(mirror) = mirror_with(&[MODEL, DATA]) else {
        return;
    };
    let out = tempfile::tempdir().unwrap();
    let data = DataConfig {
        source: "samlhuillier/sql-create-context-spider-intersect".into(),
        ..DataConfig::default()
    };
    let retrieval = RetrievalConfig {
        different: vec!["db_id".into()],
        ..RetrievalConfig::default()
    };
    let request = AugmentRequest {
        task: &Task::sql(),
        data: &data,
        retrieval: &retrieval,
        splits: &["train", "validation"],
        out: out.path(),
        seed: 42,
        epochs: 1,
        cache: None,
    };
    let started = Instant::now();
    augment(&request, &Hub::from_env(Some(mirror)), &()).unwrap();
    eprintln!(
        "4,529 rows augmented in {:.1} s",
        started.elapsed().as_secs_f32()
    );

    check_split(out.path(), "train", 3961);
    check_split(out.path(), "validation", 568);
}

fn check_split(folder: &Path, split: &str, expected_rows: usize) {
    let train = read_augmented(&folder.join("train.jsonl")).unwrap();
    let rows = read_augmented(&folder.join(format!("{split}.jsonl"))).unwrap();
    assert_eq!(rows.len(), expected_rows);
    let mut scores: Vec<f32> = rows.iter().map(|row| row.examples[0].score).collect();
    for (index, row) in rows.iter().enumerate() {
        let example = &train[row.examples[0].row];
        assert_ne!(
            example.text("db_id"),
            row.text("db_id"),
            "{split} row {index}"
        );
        assert_ne!(
            example.text("question").unwrap().trim(),
            row.text("question").unwrap().trim(),
            "{split} row {index}"
        );
    }
    scores.sort_by(f32::total_cmp);
    // Random pairs of questions have a cosine near 0.15; retrieved ones are far nearer.
    let median = scores[scores.len() / 2];
    assert!(
        (0.4..0.95).contains(&median),
        "{split}: median cosine {median}"
    );
}
