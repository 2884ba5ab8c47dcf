//! Runs whose optimizer holds its state in 8 bits: they learn, resume, and are told from others.

mod support;

use std::fs;
use std::path::Path;

use rag_tune_train::config::OptimizerKind;
use rag_tune_train::trainer::Start;
use support::{TinyRun, adapter_bytes};

/// Rank 128 gives tensors of 2,048 values and of 4,096: moments in f32 and in 8 bits.
fn run(optimizer: OptimizerKind, steps: usize) -> TinyRun {
    let mut run = TinyRun::new(steps).with(|train| {
        train.optimizer = optimizer;
        train.learning_rate = 5e-3;
        train.weight_decay = 0.01;
    });
    run.lora.rank = 128;
    run.lora.loraplus_lr_ratio = 2.0;
    run
}

fn moments_bytes(out: &Path, step: usize) -> Vec<Vec<u8>> {
    let checkpoint = out.join(format!("checkpoints/step-{step:06}"));
    ["first", "second"]
        .map(|which| fs::read(checkpoint.join(format!("optimizer_{which}_moments.safetensors"))))
        .map(Result::unwrap)
        .into()
}

#[test]
fn a_run_with_8_bit_state_learns_as_one_with_f32_state() {
    let losses = [OptimizerKind::AdamW, OptimizerKind::AdamW8bit].map(|optimizer| {
        let folder = tempfile::tempdir().unwrap();
        let told = run(optimizer, 40).run(folder.path(), Start::Afresh).ok();
        let losses: Vec<f64> = told.records.iter().map(|record| record.loss).collect();
        (losses, moments_bytes(folder.path(), 40).concat().len())
    });
    let [(f32_state, f32_bytes), (bits8, bits8_bytes)] = losses;
    assert!(f32_state[39] < 0.5 * f32_state[0], "{f32_state:?}");
    // The first step knows no earlier state.
    assert_eq!(f32_state[..2], bits8[..2]);
    assert_ne!(f32_state, bits8);
    let last = |losses: &[f64]| losses[35..].iter().sum::<f64>() / 5.0;
    let (f32_state, bits8) = (last(&f32_state), last(&bits8));
    assert!(
        (f32_state - bits8).abs() < 0.1 * f32_state,
        "{f32_state} {bits8}"
    );
    assert!(bits8_bytes < f32_bytes, "{bits8_bytes} {f32_bytes}");
}

#[test]
fn a_resumed_run_with_8_bit_state_equals_an_uninterrupted_one() {
    let run = run(OptimizerKind::AdamW8bit, 12);
    let (whole, resumed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    run.run(whole.path(), Start::Afresh).ok();
    run.killed_after(7, resumed.path(), Start::Afresh);
    let told = run.run(resumed.path(), Start::Resume).ok();
    assert_eq!(told.resumed, Some(5));
    assert!(adapter_bytes(whole.path()) == adapter_bytes(resumed.path()));
    assert!(moments_bytes(whole.path(), 12) == moments_bytes(resumed.path(), 12));
}

#[test]
fn a_run_with_state_of_the_other_kind_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    run(OptimizerKind::AdamW, 12).killed_after(7, folder.path(), Start::Afresh);
    let told = run(OptimizerKind::AdamW8bit, 12).run(folder.path(), Start::Resume);
    let error = told.error().to_string();
    assert!(
        error.contains("`train.optimizer` was \"adamw\" and is \"adamw_8bit\""),
        "{error}"
    );
}

/// bitsandbytes' rule: tensors of fewer than 4,096 values are not worth it.
#[test]
fn short_tensors_make_no_difference_between_f32_and_8_bits() {
    let bytes = [OptimizerKind::AdamW, OptimizerKind::AdamW8bit].map(|optimizer| {
        let folder = tempfile::tempdir().unwrap();
        let mut run = run(optimizer, 5);
        run.lora.rank = 8;
        run.run(folder.path(), Start::Afresh).ok();
        (
            adapter_bytes(folder.path()),
            moments_bytes(folder.path(), 5),
        )
    });
    assert!(bytes[0] == bytes[1]);
}
