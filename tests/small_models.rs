//! The real small models on the synthetic data: a GGUF base and a BERT embedder, through every stage.
//!
//! Needs `RAG_TUNE_MIRROR` with both models; scripts/fetch-models.sh fills one.

mod support;

use std::path::Path;

use support::rag_tune;

const CONFIG: &str = r#"
output = "run"
[model]
base = "HuggingFaceTB/SmolLM2-135M-Instruct"
[data]
source = "data"
[retrieval]
examples = 1
different = ["db_id"]
[train]
batch_size = 2
max_steps = 1
warmup_steps = 0
max_length = 512
tokens_per_micro_batch = 512
[eval]
databases = "data/database"
max_new_tokens = 16
limit = 2
"#;

const MODELS: [&str; 2] = [
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "sentence-transformers/all-MiniLM-L6-v2",
];

/// The mirror, if it has both models.
fn mirror() -> Option<String> {
    let mirror = Path::new(&std::env::var_os("RAG_TUNE_MIRROR")?)
        .canonicalize()
        .ok()?;
    let complete = MODELS
        .iter()
        .all(|model| mirror.join("models").join(model).is_dir());
    complete.then(|| mirror.display().to_string())
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that checked nothing says so")]
fn a_run_on_the_real_small_models() {
    let Some(mirror) = mirror() else {
        eprintln!("skipped: no mirror");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("run.toml"), CONFIG).unwrap();
    let run = |arguments: &[&str]| rag_tune(folder.path(), arguments).ok();

    run(&["demo-data", "--out", "data"]);
    run(&["train", "run.toml", "--mirror", &mirror]);
    let metrics = std::fs::read_to_string(folder.path().join("run/metrics.jsonl")).unwrap();
    let step: serde_json::Value = serde_json::from_str(metrics.trim()).unwrap();
    // A model that reads English starts far below the loss of guessing among 49152 tokens (10.8).
    assert!(step["loss"].as_f64().unwrap() < 4.0, "{metrics}");

    let table = run(&["eval", "--adapter", "run", "--mirror", &mirror]);
    assert!(table.contains("the data is synthetic"), "{table}");
}
