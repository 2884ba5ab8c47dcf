//! Whole runs on a tiny model: they learn, repeat, and resume.

mod support;

use std::fs;

use rag_tune_train::TrainError;
use rag_tune_train::config::Activations;
use rag_tune_train::metrics::StepRecord;
use rag_tune_train::trainer::Start;
use support::{TinyRun, adapter_bytes};
use tempfile::tempdir;

#[test]
fn a_run_learns_and_leaves_a_peft_adapter() {
    let folder = tempdir().unwrap();
    let records = TinyRun::new(60)
        .run(folder.path(), Start::Afresh)
        .ok()
        .records;
    let (first, last) = (records[0].loss, records[59].loss);
    assert!(last < 0.5 * first, "loss {first} -> {last}");
    let adapter: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.path().join("adapter_config.json")).unwrap())
            .unwrap();
    assert_eq!(adapter["peft_type"], "LORA");
    assert_eq!(adapter["r"], 8);
    let lines = fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 60);
    let checkpoints = fs::read_dir(folder.path().join("checkpoints")).unwrap();
    assert_eq!(
        checkpoints.count(),
        2,
        "older checkpoints and temporary folders are gone"
    );
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one() {
    let (whole, cut) = (tempdir().unwrap(), tempdir().unwrap());
    let run = TinyRun::new(12);
    run.run(whole.path(), Start::Afresh).ok();
    let before = run.killed_after(8, cut.path(), Start::Afresh);
    assert_eq!(before.records.len(), 8);
    assert!(
        !cut.path().join("adapter_model.safetensors").exists(),
        "an unfinished run has no adapter"
    );
    let after = run.run(cut.path(), Start::Resume).ok();
    assert_eq!(after.records[0].step, 6, "the last checkpoint was step 5's");
    assert!(adapter_bytes(whole.path()) == adapter_bytes(cut.path()));
    let steps = fs::read_to_string(cut.path().join("metrics.jsonl")).unwrap();
    let steps: Vec<usize> = steps
        .lines()
        .map(|line| serde_json::from_str::<StepRecord>(line).unwrap().step)
        .collect();
    assert_eq!(steps, (1..=12).collect::<Vec<_>>());
}

#[test]
fn where_there_is_no_checkpoint_there_is_nothing_to_resume() {
    let empty = tempdir().unwrap();
    let error = TinyRun::new(6).run(empty.path(), Start::Resume).error();
    assert!(
        matches!(error, TrainError::NothingToResume { .. }),
        "{error}"
    );
}

#[test]
fn activation_policies_give_the_same_adapter() {
    let policies = [Activations::All, Activations::Selective, Activations::Full];
    let [all, selective, full] = policies.map(|activations| {
        let folder = tempdir().unwrap();
        let run = TinyRun::new(4).with(|train| train.activations = activations);
        run.run(folder.path(), Start::Afresh).ok();
        adapter_bytes(folder.path())
    });
    assert!(all == selective && selective == full);
}
