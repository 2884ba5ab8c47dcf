//! What the tests of this crate make for themselves: a toy data set and a toy embedder.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use candle_nn::{VarBuilder, VarMap};
use candle_transformers::models::bert::{BertModel, Config};
use serde_json::json;

/// The mirror, if it has all of `paths`; says that the test was skipped where not.
pub fn mirror_with(paths: &[&str]) -> Option<PathBuf> {
    let mirror = std::env::var_os("RAG_TUNE_MIRROR").map(PathBuf::from);
    let mirror = mirror.filter(|mirror| paths.iter().all(|path| mirror.join(path).exists()));
    if mirror.is_none() {
        eprintln!(
            "skipped: no mirror with {} (RAG_TUNE_MIRROR)",
            paths.join(", ")
        );
    }
    mirror
}

/// `train.jsonl` with 8 rows over 4 databases, `validation.jsonl` with 2 rows.
pub fn write_toy_data(folder: &Path) {
    let row = |question: &str, database: usize| {
        let fields = json!({
            "db_id": format!("db{database}"),
            "context": format!("CREATE TABLE t{database} (a INTEGER)"),
            "question": question,
            "answer": format!("SELECT a FROM t{database}"),
            "difficulty": 1.5,
        });
        format!("{fields}\n")
    };
    let questions = [
        "one",
        "two",
        "one two",
        "three",
        "four",
        "three four",
        "five",
        "one five",
    ];
    let train: String = questions
        .iter()
        .enumerate()
        .map(|(index, question)| row(question, index / 2))
        .collect();
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("train.jsonl"), train).unwrap();
    fs::write(
        folder.join("validation.jsonl"),
        row("two five", 7) + &row("one", 8),
    )
    .unwrap();
}

/// A BERT of one layer and random weights, with a tokenizer that knows a few words.
pub fn write_toy_embedder(folder: &Path) {
    let vocabulary = ["[UNK]", "one", "two", "three", "four", "five"];
    let config = json!({
        "model_type": "bert", "vocab_size": vocabulary.len(), "hidden_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
        "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "max_position_embeddings": 32,
        "type_vocab_size": 2, "initializer_range": 0.02, "layer_norm_eps": 1e-12,
        "pad_token_id": 0
    });
    let ids: serde_json::Map<_, _> = vocabulary
        .iter()
        .enumerate()
        .map(|(id, word)| ((*word).into(), json!(id)))
        .collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
        "decoder": null, "model": {"type": "WordLevel", "vocab": ids, "unk_token": "[UNK]"}
    });
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    // Loading from an empty map fills it with initial weights.
    let weights = VarMap::new();
    let builder = VarBuilder::from_varmap(&weights, DType::F32, &Device::Cpu);
    let config: Config = serde_json::from_value(config).unwrap();
    BertModel::load(builder, &config).unwrap();
    weights.save(folder.join("model.safetensors")).unwrap();
}
