//! How full micro-batches are on the three real data sets, and that the order of an epoch does not
//! follow the rows' lengths. Prints the table of docs/training.md:
//!
//!   RAG_TUNE_MIRROR=... cargo test -p rag-tune-train --test real_packing -- --nocapture --test-threads 1

#![allow(
    clippy::print_stdout,
    reason = "a table for the docs; a skipped test says so"
)]

use std::path::{Path, PathBuf};

use rag_tune_augment::{
    AugmentRequest, DataConfig, Hub, RetrievalConfig, Selector, TaskName, augment, output_path,
    read_augmented,
};
use rag_tune_model::checkpoint::Checkpoint;
use rag_tune_model::tokenizer::{EncodedRow, Tokenizer};
use rag_tune_train::batch::{Ends, TrainSet};
use rag_tune_train::config::{TrainConfig, Truncation};
use rayon::prelude::*;

/// Task, data set, columns that an example must differ in, `max_length` of the task's configs.
const DATA: [(&str, &str, &[&str], usize); 3] = [
    (
        "sql",
        "samlhuillier/sql-create-context-spider-intersect",
        &["db_id"],
        1024,
    ),
    ("gsm8k", "openai/gsm8k:main", &[], 1408),
    ("functional", "GEM/viggo", &["meaning_representation"], 1024),
];

const CODE_LLAMA: &str = "models/codellama/CodeLlama-7b-Python-hf/tokenizer.json";

/// A mirror that has all of it: `scripts/fetch-models.sh` makes one without data sets.
fn mirror() -> Option<PathBuf> {
    let has_all = |mirror: &PathBuf| {
        let repositories = DATA.map(|(_, source, _, _)| source.split(':').next().unwrap_or(source));
        repositories
            .iter()
            .all(|name| mirror.join("datasets").join(name).is_dir())
            && mirror.join(CODE_LLAMA).is_file()
    };
    let mirror = std::env::var_os("RAG_TUNE_MIRROR").map(PathBuf::from);
    let mirror = mirror.filter(has_all);
    if mirror.is_none() {
        println!("skipped: no mirror with data sets and tokenizers (RAG_TUNE_MIRROR)");
    }
    mirror
}

fn tokenizers(mirror: &Path) -> [(&'static str, Tokenizer); 2] {
    let smollm2 = mirror.join("models/HuggingFaceTB/SmolLM2-135M-Instruct");
    let smollm2 = Checkpoint::open(&smollm2).unwrap();
    [
        ("SmolLM2", smollm2.tokenizer().unwrap()),
        (
            "CodeLlama",
            Tokenizer::from_file(&mirror.join(CODE_LLAMA)).unwrap(),
        ),
    ]
}

/// The training split's prompts and answers. BM25 chooses examples of about the same length as an
/// embedder does, in a fraction of the time.
fn prompts(
    mirror: &Path,
    task: &str,
    source: &str,
    differ: &[&str],
    examples: usize,
) -> Vec<(String, String)> {
    let out = tempfile::tempdir().unwrap();
    let request = AugmentRequest {
        task: &TaskName::new(task).load().unwrap(),
        data: &DataConfig {
            source: source.to_owned(),
            ..Default::default()
        },
        retrieval: &RetrievalConfig {
            examples,
            selector: Selector::Bm25,
            different: differ.iter().map(|column| (*column).to_owned()).collect(),
            ..Default::default()
        },
        splits: &["train"],
        out: out.path(),
        seed: 42,
        epochs: 1,
        cache: None,
    };
    augment(&request, &Hub::from_env(Some(mirror.to_owned())), &()).unwrap();
    let rows = read_augmented(&output_path(out.path(), "train", 0)).unwrap();
    rows.into_iter()
        .map(|row| (row.inference_prompt + "\n", row.full_prompt))
        .collect()
}

fn encode(prompts: &[(String, String)], tokenizer: &Tokenizer) -> Vec<EncodedRow> {
    let encode = |(prompt, full): &(String, String)| tokenizer.encode_pair(prompt, full).unwrap();
    prompts.par_iter().map(encode).collect()
}

fn set(rows: &[EncodedRow], tokenizer: &Tokenizer, config: &TrainConfig) -> TrainSet {
    let ends = Ends {
        bos: tokenizer.bos_id(),
        eos: tokenizer.eos_ids()[0],
    };
    TrainSet::new(&[rows.to_vec()], ends, config, 42).unwrap()
}

/// Pearson's correlation of a micro-batch's place in the epoch with the mean length of its rows.
fn correlation_with_length(set: &TrainSet) -> (f64, usize) {
    let mut means = Vec::new();
    for step in 1..=set.summary().epoch.steps {
        for micro in set.micro_batches(step).unwrap() {
            means.push(micro.batch.ids.len() as f64 / micro.rows.len() as f64);
        }
    }
    let count = means.len() as f64;
    let (x, y) = ((count - 1.0) / 2.0, means.iter().sum::<f64>() / count);
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (at, mean) in means.iter().enumerate() {
        let (dx, dy) = (at as f64 - x, mean - y);
        xy += dx * dy;
        xx += dx * dx;
        yy += dy * dy;
    }
    (xy / (xx * yy).sqrt(), means.len())
}

#[test]
fn micro_batches_of_the_real_data_sets_are_97_percent_full() {
    let Some(mirror) = mirror() else { return };
    println!(
        "| data | examples | tokenizer | budget | micro-batches | full | correlation | 16 rows a step |"
    );
    println!("| --- | --: | --- | --: | --: | --: | --: | --: |");
    for (task, source, differ, max_length) in DATA {
        for examples in [0, 1] {
            let prompts = prompts(&mirror, task, source, differ, examples);
            for (name, tokenizer) in &tokenizers(&mirror) {
                let rows = encode(&prompts, tokenizer);
                for budget in [2048, 4096] {
                    let by_micro_batches = TrainConfig {
                        tokens_per_micro_batch: budget,
                        max_length,
                        grad_accum_steps: Some(4),
                        ..Default::default()
                    };
                    let by_rows = TrainConfig {
                        grad_accum_steps: None,
                        batch_size: Some(16),
                        ..by_micro_batches.clone()
                    };
                    let set_of = |config| set(&rows, tokenizer, config);
                    let packed = set_of(&by_micro_batches);
                    let (correlation, micro_batches) = correlation_with_length(&packed);
                    let full = packed.summary().epoch.fullness();
                    println!(
                        "| {task} | {examples} | {name} | {budget} | {micro_batches} | {:.1} % | {correlation:+.3} | {:.1} % |",
                        100.0 * full,
                        100.0 * set_of(&by_rows).summary().epoch.fullness(),
                    );
                    assert!(full >= 0.97, "{full}");
                    // Three standard errors of a correlation that is 0.
                    assert!(correlation.abs() < 3.0 / (micro_batches as f64).sqrt());
                }
            }
        }
    }
}

#[test]
fn truncation_of_the_real_data_sets_is_counted() {
    let Some(mirror) = mirror() else { return };
    println!(
        "| data | examples | tokenizer | max_length | rows | drop | left: cut | left: left out |"
    );
    println!("| --- | --: | --- | --: | --: | --: | --: | --: |");
    for (task, source, differ, usual) in DATA {
        for examples in [0, 1] {
            let prompts = prompts(&mirror, task, source, differ, examples);
            for (name, tokenizer) in &tokenizers(&mirror) {
                let rows = encode(&prompts, tokenizer);
                for max_length in [384, 512, usual] {
                    let config = |truncation| TrainConfig {
                        truncation,
                        max_length,
                        ..Default::default()
                    };
                    let of = |truncation| set(&rows, tokenizer, &config(truncation)).summary();
                    let (drop, left) = (of(Truncation::Drop), of(Truncation::Left));
                    println!(
                        "| {task} | {examples} | {name} | {max_length} | {} | {} | {} | {} |",
                        drop.rows_given, drop.too_long, left.cut, left.answer_too_long
                    );
                    assert_eq!(drop.rows + drop.too_long, rows.len());
                    assert_eq!(left.cut + left.answer_too_long, drop.too_long);
                    assert_eq!(left.rows + left.answer_too_long, rows.len());
                }
            }
        }
    }
}
