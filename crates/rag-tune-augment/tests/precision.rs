//! What bf16 products change: vectors and neighbours beside those of f32, on real questions.
#![allow(
    clippy::print_stderr,
    reason = "a skipped test says so, the others what they measured"
)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::mirror_with;
use rag_tune_augment::dataset::{BadRows, Reading, Split};
use rag_tune_augment::embed::{BertEmbedder, Embedder, Embeddings, VectorCache};
use rag_tune_augment::{DataConfig, Hub, Task};
use rag_tune_kernels::Compute;
use rayon::ThreadPoolBuilder;

const MODEL: &str = "models/sentence-transformers/all-MiniLM-L6-v2";

fn embed(folder: &Path, compute: Compute, texts: &[&str]) -> Embeddings {
    let embedder = BertEmbedder::open(folder, "", compute).unwrap();
    let mut nothing_known = VectorCache::open(None, embedder.fingerprint()).unwrap();
    nothing_known.embed(&embedder, texts, &()).unwrap()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    let pairs = a.iter().zip(b);
    pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// The questions of a split, at most `most`.
fn questions(mirror: &Path, source: &str, task: &Task, split: &str, most: usize) -> Vec<String> {
    let data = DataConfig {
        source: source.into(),
        ..DataConfig::default()
    };
    let files = Hub::from_env(Some(mirror.to_owned())).split_files(&data, split);
    let columns = [task.query_column.as_str()];
    let reading = Reading {
        columns: &BTreeMap::new(),
        required: &columns,
        given: &[],
        filled: &columns,
        id: None,
        bad_rows: BadRows::Error,
    };
    let split = Split::open(&files.unwrap(), &reading).unwrap();
    let rows = split.rows(0..split.len().min(most)).unwrap();
    rows.iter()
        .map(|row| row.text(&task.query_column).into_owned())
        .collect()
}

/// A mirror with the model and data, on a processor with bf16 instructions: without, the test would take minutes.
fn mirror(data: &str) -> Option<PathBuf> {
    if !Compute::Bf16.is_native() {
        eprintln!("skipped: this processor has no bf16 instructions");
        return None;
    }
    mirror_with(&[MODEL, &format!("datasets/{data}")])
}

/// Real questions of all three tasks: the cosine of a vector in bf16 with the same in f32.
#[test]
fn bf16_vectors_are_near_those_of_f32() {
    for (task, source, id) in [
        (Task::sql(), SQL, SQL),
        (Task::gsm8k(), "openai/gsm8k:main", "openai/gsm8k"),
        (Task::functional(), "GEM/viggo", "GEM/viggo"),
    ] {
        let Some(mirror) = mirror(id) else { continue };
        let texts = questions(&mirror, source, &task, "train", 1000);
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let folder = mirror.join(MODEL);
        let exact = embed(&folder, Compute::F32, &texts);
        let rounded = embed(&folder, Compute::Bf16, &texts);
        let cosines = (0..texts.len()).map(|row| dot(exact.row(row), rounded.row(row)));
        let cosines: Vec<f64> = cosines.collect();
        let mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
        let least = cosines.iter().copied().fold(1.0, f64::min);
        eprintln!(
            "{source}: cosine at least {least:.6}, mean {mean:.6}, of {} questions",
            texts.len()
        );
        assert!(least > 0.9999, "{source}");
    }
}

const SQL: &str = "samlhuillier/sql-create-context-spider-intersect";

/// The rows of the 8 nearest others to each query, and their scores.
fn nearest(queries: &Embeddings, rows: &Embeddings, own: bool) -> Vec<Vec<(usize, f64)>> {
    let of_query = |query: usize| {
        let others = (0..rows.len()).filter(|row| !own || *row != query);
        let mut scores: Vec<(usize, f64)> = others
            .map(|row| (row, dot(queries.row(query), rows.row(row))))
            .collect();
        scores.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        scores.truncate(8);
        scores
    };
    use rayon::prelude::*;
    (0..queries.len()).into_par_iter().map(of_query).collect()
}

#[test]
fn bf16_finds_the_neighbours_of_f32_in_all_but_near_ties() {
    let Some(mirror) = mirror(SQL) else { return };
    let folder = mirror.join(MODEL);
    let split = |name: &str| questions(&mirror, SQL, &Task::sql(), name, usize::MAX);
    let (train, validation) = (split("train"), split("validation"));
    let both = |texts: &[String]| {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        [Compute::F32, Compute::Bf16].map(|compute| embed(&folder, compute, &texts))
    };
    let (train, validation) = (both(&train), both(&validation));
    for (name, queries, own) in [("train", &train, true), ("validation", &validation, false)] {
        let [exact, rounded] =
            [0, 1].map(|compute| nearest(&queries[compute], &train[compute], own));
        let (mut first, mut eight, mut loss) = (0, 0, 0.0_f64);
        for (query, (exact, rounded)) in exact.iter().zip(&rounded).enumerate() {
            first += usize::from(exact[0].0 == rounded[0].0);
            let same = |row: &&(usize, f64)| exact.iter().any(|other| other.0 == row.0);
            eight += rounded.iter().filter(same).count();
            // What the choice by bf16 is worse, as f32 sees it.
            let chosen = dot(queries[0].row(query), train[0].row(rounded[0].0));
            loss = loss.max(exact[0].1 - chosen);
        }
        let count = exact.len() as f64;
        let (first, eight) = (first as f64 / count, eight as f64 / (8.0 * count));
        eprintln!(
            "{name}: the first of {count} is the same for {:.2} %, of the 8 nearest {:.2} % are; a first \
             that differs is worse by at most {loss:.5}",
            100.0 * first,
            100.0 * eight
        );
        assert!(first > 0.99 && eight > 0.99 && loss < 0.002, "{name}");
    }
}

/// Which thread takes which texts is chance; what comes of them is not.
#[test]
fn vectors_do_not_depend_on_the_number_of_threads_or_on_other_texts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/encoders/bge");
    let texts: Vec<String> = (0..300)
        .map(|text| {
            "how many heads of the departments are older ".repeat(1 + text % 5) + &text.to_string()
        })
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    for compute in [Compute::F32, Compute::Bf16] {
        if !compute.is_native() {
            continue;
        }
        let with = |threads: usize, texts: &[&str]| {
            let pool = ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| embed(&folder, compute, texts))
        };
        let one = with(1, &texts);
        for threads in [2, 3] {
            assert_eq!(one, with(threads, &texts), "{compute:?}, {threads} threads");
        }
        // f32 products of other sizes add up in another order.
        if compute == Compute::Bf16 {
            assert_eq!(one.row(7), with(1, &texts[7..8]).row(0));
        }
    }
}
