//! Whole runs on a tiny model: they learn, repeat, and resume.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use rag_tune_model::checkpoint::Checkpoint;
use rag_tune_model::config::{Compute, ModelConfig, Quantization};
use rag_tune_model::llama::Llama;
use rag_tune_model::tokenizer::EncodedRow;
use rag_tune_train::TrainError;
use rag_tune_train::batch::TrainSet;
use rag_tune_train::config::{Activations, LoraConfig, TrainConfig};
use rag_tune_train::event::Event;
use rag_tune_train::metrics::StepRecord;
use rag_tune_train::trainer::{Hooks, Start, TrainRequest, train};

fn model() -> Llama {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/golden/tiny_tied");
    let config = ModelConfig {
        quantization: Quantization::Int8,
        compute: Compute::F32,
        ..Default::default()
    };
    Llama::load(&Checkpoint::open(&path).unwrap(), &config, &mut |_, _| ()).unwrap()
}

/// The answer repeats the prompt's last token three times.
fn rows() -> Vec<EncodedRow> {
    let row = |index: usize| {
        let last = (index * 13 % 80 + 4) as u32;
        let mut ids: Vec<u32> = (0..3 + index % 4)
            .map(|at| ((index * 7 + at * 3) % 90 + 3) as u32)
            .collect();
        let prompt_len = ids.len() + 1;
        ids.extend([last; 4]);
        EncodedRow { ids, prompt_len }
    };
    (0..24).map(row).collect()
}

fn config(steps: usize) -> TrainConfig {
    TrainConfig {
        learning_rate: 2e-2,
        tokens_per_micro_batch: 40,
        max_length: 20,
        batch_size: Some(8),
        warmup_steps: Some(2),
        max_steps: Some(steps),
        checkpoint_every: 5,
        ..Default::default()
    }
}

fn lora() -> LoraConfig {
    LoraConfig {
        rank: 8,
        alpha: 16.0,
        dropout: 0.1,
        ..Default::default()
    }
}

fn run(
    out: &Path,
    train_config: &TrainConfig,
    start: Start,
    stop_after: Option<usize>,
) -> Result<Vec<StepRecord>, TrainError> {
    let model = model();
    let set = TrainSet::new(&[rows()], 2, train_config, 1)?;
    let lora = lora();
    let request = TrainRequest {
        model: &model,
        base: "tiny",
        set: &set,
        lora: &lora,
        train: train_config,
        seed: 1,
        out,
        start,
    };
    let mut records = Vec::new();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut observe = |event: Event<'_>| {
            let Event::Step(record) = event else { return };
            records.push(record.clone());
            // As a kill does: in the middle of a run, with nothing tidied up.
            assert!(Some(record.step) != stop_after, "killed");
        };
        let mut hooks = Hooks {
            observe: &mut observe,
            stop: &AtomicBool::new(false),
            validation: None,
        };
        train(&request, &mut hooks)
    }));
    match outcome {
        Ok(result) => result.map(|_| records),
        Err(_) => Ok(records),
    }
}

fn adapter_bytes(out: &Path) -> Vec<u8> {
    fs::read(out.join("adapter_model.safetensors")).unwrap()
}

#[test]
fn a_run_learns_and_leaves_a_peft_adapter() {
    let folder = tempfile::tempdir().unwrap();
    let records = run(folder.path(), &config(60), Start::Afresh, None).unwrap();
    let (first, last) = (records[0].loss, records[59].loss);
    assert!(last < 0.5 * first, "loss {first} -> {last}");
    let adapter: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.path().join("adapter_config.json")).unwrap())
            .unwrap();
    assert_eq!(adapter["peft_type"], "LORA");
    assert_eq!(adapter["r"], 8);
    let lines = fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 60);
    let checkpoints: Vec<_> = fs::read_dir(folder.path().join("checkpoints"))
        .unwrap()
        .collect();
    assert_eq!(
        checkpoints.len(),
        2,
        "older checkpoints and temporary folders are gone"
    );
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    run(one.path(), &config(6), Start::Afresh, None).unwrap();
    run(two.path(), &config(6), Start::Afresh, None).unwrap();
    assert!(adapter_bytes(one.path()) == adapter_bytes(two.path()));
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one() {
    let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    run(whole.path(), &config(12), Start::Afresh, None).unwrap();
    let before = run(cut.path(), &config(12), Start::Afresh, Some(8)).unwrap();
    assert_eq!(before.len(), 8);
    assert!(
        !cut.path().join("adapter_model.safetensors").exists(),
        "an unfinished run has no adapter"
    );
    let after = run(cut.path(), &config(12), Start::Resume, None).unwrap();
    assert_eq!(after[0].step, 6, "the last checkpoint was step 5's");
    assert!(adapter_bytes(whole.path()) == adapter_bytes(cut.path()));
    let steps = fs::read_to_string(cut.path().join("metrics.jsonl")).unwrap();
    let steps: Vec<usize> = steps
        .lines()
        .map(|line| serde_json::from_str::<StepRecord>(line).unwrap().step)
        .collect();
    assert_eq!(steps, (1..=12).collect::<Vec<_>>());
}

#[test]
fn a_checkpoint_of_other_settings_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), &config(6), Start::Afresh, None).unwrap();
    let other = TrainConfig {
        learning_rate: 1e-3,
        ..config(6)
    };
    let error = run(folder.path(), &other, Start::Resume, None).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("`train.learning_rate` was 0.02 and is 0.001"),
        "{text}"
    );
    let empty = tempfile::tempdir().unwrap();
    let error = run(empty.path(), &config(6), Start::Resume, None).unwrap_err();
    assert!(
        matches!(error, TrainError::NothingToResume { .. }),
        "{error}"
    );
}

#[test]
fn activation_policies_give_the_same_adapter() {
    let bytes = [Activations::Selective, Activations::Full].map(|activations| {
        let folder = tempfile::tempdir().unwrap();
        run(
            folder.path(),
            &TrainConfig {
                activations,
                ..config(4)
            },
            Start::Afresh,
            None,
        )
        .unwrap();
        adapter_bytes(folder.path())
    });
    assert!(bytes[0] == bytes[1]);
}
