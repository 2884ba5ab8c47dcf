//! Steps whose loss is not finite (complaint B7 of the field: "NaN or 0.0 loss in 8-bit").
//!
//! One token of the tiny model is made to overflow `v_proj` of layer 0, and one row has it: the step that holds this row
//! cannot be computed, whatever has been learnt, and all the others can.

mod rank_threads;
mod support;

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use rag_tune_kernels::cuda::Device;
use rag_tune_model::checkpoint::Checkpoint;
use rag_tune_model::config::{Compute, ModelConfig, Quantization};
use rag_tune_model::llama::Llama;
use rag_tune_model::non_finite::{Operation, Pass};
use rag_tune_model::tokenizer::EncodedRow;
use rag_tune_train::TrainError;
use rag_tune_train::batch::TrainSet;
use rag_tune_train::config::{LoraConfig, TrainConfig};
use rag_tune_train::event::Event;
use rag_tune_train::metrics::StepRecord;
use rag_tune_train::ranks::{Alone, Collective};
use rag_tune_train::skipped::{Quantity, SkippedStep};
use rag_tune_train::trainer::{Hooks, Start, TrainRequest, TrainSummary, train};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

/// The token that overflows.
const BAD_TOKEN: u32 = 95;
/// The row that has it.
const BAD_ROW: usize = 10;
/// The feature that only this token has.
const FEATURE: usize = 7;
const HIDDEN: usize = 32;

/// The tiny model, in which `BAD_TOKEN` alone has feature `FEATURE`, and `v_proj` of layer 0 makes too much of it.
fn write_model(folder: &Path) {
    let fixture =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/golden/tiny_untied");
    for entry in fs::read_dir(&fixture).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
        }
    }
    let bytes = fs::read(fixture.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let changed: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, view)| {
            assert_eq!(view.dtype(), safetensors::Dtype::F32);
            let (value_bytes, _) = view.data().as_chunks::<4>();
            let mut values: Vec<f32> = value_bytes.iter().map(|b| f32::from_le_bytes(*b)).collect();
            if name == "model.embed_tokens.weight" {
                for (token, row) in values.chunks_mut(HIDDEN).enumerate() {
                    row[FEATURE] = if token == BAD_TOKEN as usize {
                        1.0
                    } else {
                        0.0
                    };
                }
            }
            if name == "model.layers.0.self_attn.v_proj.weight" {
                values[FEATURE] = 3e38;
            }
            let bytes = values.iter().flat_map(|value| value.to_le_bytes());
            (name.to_owned(), view.shape().to_vec(), bytes.collect())
        })
        .collect();
    let views = changed.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap();
        (name, view)
    });
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}

fn rows() -> Vec<EncodedRow> {
    let mut rows = support::rows(0..24);
    rows[BAD_ROW].ids[1] = BAD_TOKEN;
    rows
}

fn config(batch_size: usize) -> TrainConfig {
    TrainConfig {
        batch_size: Some(batch_size),
        checkpoint_every: 1,
        ..support::train_config(12)
    }
}

/// Trains; `stop_after` kills the run in the event of that step.
fn run(
    out: &Path,
    config: &TrainConfig,
    start: Start,
    stop_after: Option<usize>,
) -> Result<(TrainSummary, Vec<SkippedStep>), TrainError> {
    run_as(&mut Alone, out, config, start, stop_after)
}

/// As one rank of several.
fn run_as(
    ranks: &mut dyn Collective,
    out: &Path,
    config: &TrainConfig,
    start: Start,
    stop_after: Option<usize>,
) -> Result<(TrainSummary, Vec<SkippedStep>), TrainError> {
    run_on(None, ranks, out, config, start, stop_after)
}

/// As one rank of several, on a device.
fn run_on(
    device: Option<&Device>,
    ranks: &mut dyn Collective,
    out: &Path,
    config: &TrainConfig,
    start: Start,
    stop_after: Option<usize>,
) -> Result<(TrainSummary, Vec<SkippedStep>), TrainError> {
    let model_folder = tempfile::tempdir().unwrap();
    write_model(model_folder.path());
    let model_config = ModelConfig {
        quantization: Quantization::None,
        compute: Compute::F32,
        ..Default::default()
    };
    let checkpoint = Checkpoint::open(model_folder.path()).unwrap();
    let mut model = Llama::load(&checkpoint, &model_config, &mut |_, _| ()).unwrap();
    if let Some(device) = device {
        model = model.into_device(device).unwrap();
    }
    let lora = LoraConfig {
        rank: 4,
        dropout: 0.1,
        ..Default::default()
    };
    let request = TrainRequest {
        model: &model,
        base: "tiny",
        set: &TrainSet::new(&[rows()], 2, config, 1)?,
        lora: &lora,
        train: config,
        seed: 1,
        out,
        start,
    };
    let mut skipped = Vec::new();
    let stop = AtomicBool::new(false);
    let mut observe = |event: Event<'_>| {
        let step = match event {
            Event::Step(record) => record.step,
            Event::Skipped(step) => {
                skipped.push(step.clone());
                step.step
            }
            _ => return,
        };
        if Some(step) == stop_after {
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    };
    let mut hooks = Hooks {
        observe: &mut observe,
        stop: &stop,
        validation: None,
    };
    let summary = train(&request, &mut hooks, ranks)?;
    Ok((summary, skipped))
}

fn lines<T: serde::de::DeserializeOwned>(out: &Path, name: &str) -> Vec<T> {
    let text = fs::read_to_string(out.join(name)).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn adapter_bytes(out: &Path) -> Vec<u8> {
    fs::read(out.join("adapter_model.safetensors")).unwrap()
}

#[test]
fn a_step_that_is_not_finite_is_skipped_and_its_row_and_layer_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (summary, skipped) = run(folder.path(), &config(8), Start::Afresh, None).unwrap();
    assert_eq!(
        skipped.len(),
        4,
        "four epochs of three steps, each with the row once"
    );
    assert_eq!(summary.skipped_steps, 4);
    for step in &skipped {
        assert_eq!(
            step.rows,
            [BAD_ROW],
            "the other rows of the micro-batch are innocent"
        );
        assert_eq!(
            (step.what, step.pass),
            (Quantity::Loss, Some(Pass::Forward))
        );
        assert_eq!(
            (step.layer, step.operation),
            (Some(0), Some(Operation::VProj))
        );
        assert_eq!(step.max_activations.len(), 2);
    }
    assert_eq!(
        lines::<SkippedStep>(folder.path(), "non_finite.jsonl"),
        skipped
    );
    let records: Vec<StepRecord> = lines(folder.path(), "metrics.jsonl");
    assert_eq!(records.len(), 8, "the other lines are as ever");
    assert!(records.iter().all(|record| record.loss.is_finite()));
    assert!(
        records
            .iter()
            .all(|record| skipped.iter().all(|step| step.step != record.step))
    );
    assert!(records[7].loss < records[0].loss, "it learns all the same");
}

/// As PyTorch's `GradScaler`, which leaves the optimizer's own step count where it was.
#[test]
fn a_skipped_step_changes_nothing_but_the_step_number() {
    let (all, none) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // Every row in every step: none can be computed.
    let hopeless = TrainConfig {
        max_non_finite_steps: 12,
        ..config(24)
    };
    let (summary, _) = run(all.path(), &hopeless, Start::Afresh, None).unwrap();
    assert_eq!(
        (summary.steps, summary.skipped_steps, summary.last),
        (12, 12, None)
    );
    let one = TrainConfig {
        max_steps: Some(1),
        ..hopeless
    };
    run(none.path(), &one, Start::Afresh, None).unwrap();
    assert!(adapter_bytes(all.path()) == adapter_bytes(none.path()));
}

#[test]
fn a_run_stops_after_too_many_in_a_row_and_keeps_its_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let error = run(folder.path(), &config(24), Start::Afresh, None).unwrap_err();
    let text = error.to_string();
    let TrainError::NonFinite { steps } = error else {
        panic!("{text}")
    };
    assert_eq!(
        steps.iter().map(|step| step.step).collect::<Vec<_>>(),
        [1, 2, 3, 4]
    );
    assert!(text.contains("4 steps in a row"), "{text}");
    assert!(
        text.contains("\nstep 2: the loss is not finite, first in v_proj of layer 0 (forward pass); training rows [10]"),
        "{text}"
    );
    assert!(folder.path().join("checkpoints/step-000003").exists());
    assert!(!folder.path().join("adapter_model.safetensors").exists());

    let first = tempfile::tempdir().unwrap();
    let strict = TrainConfig {
        max_non_finite_steps: 0,
        ..config(24)
    };
    let error = run(first.path(), &strict, Start::Afresh, None).unwrap_err();
    assert!(
        error.to_string().contains("not finite in a step:\nstep 1:"),
        "{error}"
    );
}

#[test]
fn a_run_stopped_at_a_skipped_step_resumes_exactly() {
    let whole = tempfile::tempdir().unwrap();
    let (_, skipped) = run(whole.path(), &config(8), Start::Afresh, None).unwrap();
    let cut = tempfile::tempdir().unwrap();
    let at = skipped[1].step;
    run(cut.path(), &config(8), Start::Afresh, Some(at)).unwrap();
    let (summary, after) = run(cut.path(), &config(8), Start::Resume, None).unwrap();
    assert!(adapter_bytes(whole.path()) == adapter_bytes(cut.path()));
    assert_eq!((summary.skipped_steps, after.len()), (4, 2));
    let steps = |out| -> Vec<usize> {
        let lines: Vec<SkippedStep> = lines(out, "non_finite.jsonl");
        lines.iter().map(|step| step.step).collect()
    };
    assert_eq!(steps(cut.path()), steps(whole.path()));

    // The count in a row goes on too.
    let hopeless = tempfile::tempdir().unwrap();
    run(hopeless.path(), &config(24), Start::Afresh, Some(2)).unwrap();
    let error = run(hopeless.path(), &config(24), Start::Resume, None).unwrap_err();
    assert!(error.to_string().contains("4 steps in a row"), "{error}");
}

/// Whoever computes the bad micro-batch: all ranks skip the same steps, and name the same row.
#[test]
fn all_ranks_skip_the_same_steps() {
    let config = TrainConfig {
        tokens_per_micro_batch: 20,
        ..config(8)
    };
    let alone = tempfile::tempdir().unwrap();
    let (_, expected) = run(alone.path(), &config, Start::Afresh, None).unwrap();
    assert!(expected.iter().any(|step| step.micro_batch % 3 > 0));
    let folder = tempfile::tempdir().unwrap();
    let told = rank_threads::on_ranks(3, |ranks| {
        run_as(ranks, folder.path(), &config, Start::Afresh, None).unwrap()
    });
    for (summary, skipped) in told {
        assert_eq!((summary.skipped_steps, &skipped), (4, &expected));
    }
    assert_eq!(
        lines::<SkippedStep>(folder.path(), "non_finite.jsonl"),
        expected
    );
    assert!(adapter_bytes(alone.path()) == adapter_bytes(folder.path()));
    // All give up together.
    let hopeless = tempfile::tempdir().unwrap();
    let config = TrainConfig {
        tokens_per_micro_batch: 20,
        max_non_finite_steps: 0,
        ..self::config(24)
    };
    let errors = rank_threads::on_ranks(2, |ranks| {
        let result = run_as(ranks, hopeless.path(), &config, Start::Afresh, None);
        result.unwrap_err().to_string()
    });
    assert!(
        errors[0].contains("not finite in a step:\nstep 1:"),
        "{errors:?}"
    );
    assert_eq!(errors[0], errors[1]);
}

/// One epoch: one of its three steps has the row, in a micro-batch of one of the ranks.
#[test]
fn ranks_on_devices_skip_the_same_step_and_name_the_row() {
    let config = TrainConfig {
        tokens_per_micro_batch: 20,
        max_steps: Some(3),
        ..config(8)
    };
    let folder = tempfile::tempdir().unwrap();
    let told = rank_threads::on_ranks(2, |ranks| {
        let device = Device::emulated(0).unwrap();
        let out = folder.path();
        run_on(Some(&device), ranks, out, &config, Start::Afresh, None).unwrap()
    });
    let alone = tempfile::tempdir().unwrap();
    let (_, expected) = run(alone.path(), &config, Start::Afresh, None).unwrap();
    let place = |skipped: &[SkippedStep]| {
        let [step] = skipped else {
            panic!("{skipped:?}")
        };
        let (rows, operation) = (step.rows.clone(), step.operation);
        (step.step, step.micro_batch, step.what, rows, operation)
    };
    for (summary, skipped) in &told {
        assert_eq!(summary.skipped_steps, 1);
        assert_eq!(place(skipped), place(&expected));
    }
}
