//! A run on a device learns what the same run learns on the CPU.
//!
//! The device is emulated, or with `RAG_TUNE_TEST_DEVICE=cuda:0` a GPU.

mod support;

use rag_tune_kernels::cuda::Device;
use rag_tune_model::config::{LlamaConfig, ModelConfig};
use rag_tune_model::llama::Llama;
use rag_tune_model::tokenizer::EncodedRow;
use rag_tune_train::config::OptimizerKind;
use rag_tune_train::trainer::Start;
use support::{TinyRun, adapter_bytes};
use tempfile::tempdir;

fn on(device: &Device, mut run: TinyRun) -> TinyRun {
    run.model = run.model.into_device(device).unwrap();
    run
}

/// Losses of a run that begin together may part: the bound is that of the first steps, in which bf16 has not been learnt from yet.
#[test]
fn a_run_on_a_device_has_the_losses_of_the_cpu() {
    let folder = tempdir().unwrap();
    let cpu = TinyRun::new(8)
        .run(folder.path(), Start::Afresh)
        .ok()
        .records;
    let devices = Device::tested();
    let runs = devices.iter().map(|device| {
        let run = on(device, TinyRun::new(8));
        let folder = tempdir().unwrap();
        let records = run.run(folder.path(), Start::Afresh).ok().records;
        for (there, here) in records.iter().zip(&cpu) {
            let (step, got, expected) = (here.step, there.loss, here.loss);
            assert!(
                (got - expected).abs() < 0.01 * expected,
                "step {step}: {got}, {expected}"
            );
        }
        assert!(records[7].loss < records[0].loss, "it learns");
        adapter_bytes(folder.path())
    });
    let runs: Vec<_> = runs.collect();
    assert!(
        runs.iter().all(|run| *run == runs[0]),
        "whatever the order of threads"
    );
}

/// SmolLM2's shape, whose weights are too large to travel to a GPU with the tests: noise in their place. An emulated device gets a layer
/// of it and a small vocabulary.
#[test]
fn a_run_in_the_shape_of_smollm2_has_the_losses_of_the_cpu() {
    let is_gpu = std::env::var_os("RAG_TUNE_TEST_DEVICE").is_some();
    let mut shape = LlamaConfig::known("smollm2-135m").unwrap();
    if !is_gpu {
        (shape.num_hidden_layers, shape.vocab_size) = (1, 300);
    }
    let (steps, length) = if is_gpu { (12, 120) } else { (2, 14) };
    let run = || {
        let mut run = TinyRun::new(steps).with(|train| {
            train.learning_rate = 2e-3;
            train.tokens_per_micro_batch = 4 * (length + 1);
            train.max_length = length + 1;
        });
        run.model = Llama::synthetic(&shape, &ModelConfig::default()).unwrap();
        // Counting on from some number: what comes next can be learnt.
        let id = |row: usize, at: usize| ((row * 7 + at * 3) % 250) as u32;
        let row = |row: usize| EncodedRow {
            ids: (0..length).map(|at| id(row, at)).collect(),
            prompt_len: length / 2,
        };
        run.rows = (0..24).map(row).collect();
        run
    };
    let told = |run: TinyRun| {
        run.run(tempdir().unwrap().path(), Start::Afresh)
            .ok()
            .records
    };
    let cpu = told(run());
    let there = told(on(&Device::tested()[0], run()));
    for (there, here) in there.iter().zip(&cpu) {
        let (step, got, expected) = (here.step, there.loss, here.loss);
        assert!(
            (got - expected).abs() < 0.01 * expected,
            "step {step}: {got}, {expected}"
        );
    }
    // Two steps are not enough for that.
    assert!(
        !is_gpu || there[steps - 1].loss < there[0].loss,
        "it learns"
    );
}

/// A run goes on from a checkpoint to the same bytes.
#[test]
fn a_run_on_a_device_resumes_exactly() {
    let device = &Device::tested()[0];
    let run = || on(device, TinyRun::new(7));
    let (whole, cut) = (tempdir().unwrap(), tempdir().unwrap());
    run().run(whole.path(), Start::Afresh).ok();
    run().killed_after(6, cut.path(), Start::Afresh);
    run().run(cut.path(), Start::Resume).ok();
    assert!(adapter_bytes(whole.path()) == adapter_bytes(cut.path()));
}

/// Moments in 8 bits are the host's, adapter and gradient with them. Tensors as short as these are f32 there too.
#[test]
fn the_host_updates_what_a_device_does_not() {
    let device = &Device::tested()[0];
    let losses = |optimizer| -> Vec<f64> {
        let run = TinyRun::new(3).with(|train| train.optimizer = optimizer);
        let folder = tempdir().unwrap();
        let told = on(device, run).run(folder.path(), Start::Afresh).ok();
        told.records.iter().map(|step| step.loss).collect()
    };
    let there = losses(OptimizerKind::AdamW);
    for (here, there) in losses(OptimizerKind::AdamW8bit).iter().zip(&there) {
        assert!((here - there).abs() < 1e-3 * there, "{here}, {there}");
    }
}

/// A step is made of the same rows, whatever fits at once; a row that does not fit alone stops the run and says what was asked.
#[test]
fn micro_batches_that_do_not_fit_an_emulated_device_are_divided() {
    let run = |device: &Device| {
        let run = TinyRun::new(3).with(|train| train.tokens_per_micro_batch = 400);
        let mut run = on(device, run);
        run.lora.dropout = 0.0; // parts have masks of their own
        let folder = tempdir().unwrap();
        run.run(folder.path(), Start::Afresh)
    };
    let whole = run(&Device::emulated(0).unwrap()).ok();
    assert!(whole.bounds.is_empty());
    let small = run(&Device::emulated_with_memory(0, 150 << 10).unwrap()).ok();
    assert!(!small.bounds.is_empty(), "micro-batches were divided");
    for (got, expected) in small.records.iter().zip(&whole.records) {
        assert_eq!(got.tokens, expected.tokens);
        let step = got.step;
        let (got, expected) = (
            [got.loss, got.grad_norm],
            [expected.loss, expected.grad_norm],
        );
        for (got, expected) in got.into_iter().zip(expected) {
            assert!(
                (got - expected).abs() < 0.01 * expected,
                "step {step}: {got}, {expected}"
            );
        }
    }
    let error = run(&Device::emulated_with_memory(0, 120 << 10).unwrap()).error();
    let said = error.to_string();
    assert!(said.starts_with("the device is out of memory: "), "{said}");
    assert!(error.hint().unwrap().contains("train.max_length"));
}
