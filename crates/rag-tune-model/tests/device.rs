//! A model on a device computes what it computes on the CPU, as exactly as bf16 allows.
//!
//! The device is emulated (the GPU's kernels on the CPU, with threads in order and shuffled), or with
//! `RAG_TUNE_TEST_DEVICE=cuda:0` a GPU. What bf16 allows is told by the CPU in bf16 compute: at most twice its distance to f32.

use std::path::{Path, PathBuf};

use rag_tune_kernels::cuda::Device;
use rag_tune_kernels::{Sequences, Tensor};
use rag_tune_model::checkpoint::Checkpoint;
use rag_tune_model::config::{Compute, ModelConfig, Quantization};
use rag_tune_model::llama::{Keep, Llama, PassOptions, TrainBatch};
use rag_tune_model::lora::{Adapter, AdapterGradient, LoraDropout};
use rag_tune_model::peft;

/// Tied embeddings; a head of its own; Llama 3.1's RoPE scaling and biases.
const MODELS: [&str; 3] = ["tiny_tied", "tiny_untied", "tiny_llama3"];

fn folder(model: &str) -> PathBuf {
    // The tests may run on a machine with a GPU and another path to the sources (scripts/gpu-check.sh).
    let sources = std::env::var_os("RAG_TUNE_SOURCES").map(PathBuf::from);
    let sources = sources.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
    sources.join("tests/fixtures/golden").join(model)
}

fn load(model: &str, quantization: Quantization, compute: Compute) -> Llama {
    let checkpoint = Checkpoint::open(&folder(model)).unwrap();
    let config = ModelConfig {
        quantization,
        compute,
        ..Default::default()
    };
    Llama::load(&checkpoint, &config, &mut |_, _| ()).unwrap()
}

/// Rows of several lengths; every other token carries loss. Where there are many, products go another way than for a few.
fn batch(lengths: &[usize]) -> TrainBatch {
    let sequences = Sequences::from_lengths(lengths).unwrap();
    let ids: Vec<u32> = (0..sequences.tokens() as u32)
        .map(|at| 3 + at * 37 % 90)
        .collect();
    let targets = (0..ids.len())
        .step_by(2)
        .map(|at| (at, 3 + at as u32 * 11 % 90));
    TrainBatch {
        targets: targets.collect(),
        ids,
        sequences,
    }
}

const LENGTHS: [&[usize]; 3] = [&[5, 1, 9], &[40, 33, 3], &[60, 60, 60, 60, 30]];

fn logits(llama: &Llama, adapter: Option<&Adapter>, batch: &TrainBatch) -> Tensor {
    let all: Vec<usize> = (0..batch.ids.len()).collect();
    llama
        .logits_at(adapter, &batch.ids, &batch.sequences, &all)
        .unwrap()
}

/// Euclidean distance over the length of `exact`.
fn distance<'a>(
    values: impl Iterator<Item = &'a f32>,
    exact: impl Iterator<Item = &'a f32>,
) -> f64 {
    let (mut difference, mut length) = (0.0, 0.0);
    for (value, exact) in values.zip(exact) {
        difference += f64::from(value - exact).powi(2);
        length += f64::from(*exact).powi(2);
    }
    (difference / length).sqrt()
}

fn gradient(
    llama: &Llama,
    adapter: &Adapter,
    batch: &TrainBatch,
    keep: Keep,
    dropout: Option<LoraDropout>,
) -> (f64, AdapterGradient) {
    let mut gradient = adapter.zero_gradient();
    let options = PassOptions {
        keep,
        dropout,
        gradient_scale: 1.0 / batch.targets.len() as f32,
    };
    let loss = llama.forward_backward(adapter, batch, &options, &mut gradient);
    (loss.unwrap() / batch.targets.len() as f64, gradient)
}

fn values(gradient: &AdapterGradient) -> impl Iterator<Item = &f32> {
    gradient.tensors().flat_map(|tensor| tensor.data())
}

#[test]
fn logits_on_a_device_are_those_of_the_cpu() {
    for model in MODELS {
        let exact = load(model, Quantization::Int8, Compute::F32);
        let plain = load(model, Quantization::Int8, Compute::Bf16);
        let adapter = peft::load(&folder(model).join("adapter"), exact.config()).unwrap();
        for device in Device::tested() {
            let there = load(model, Quantization::Int8, Compute::Bf16)
                .into_device(&device)
                .unwrap();
            for lengths in LENGTHS {
                let batch = batch(lengths);
                for adapter in [None, Some(&adapter)] {
                    let expected = logits(&exact, adapter, &batch);
                    let error = |llama| {
                        let logits = logits(llama, adapter, &batch);
                        distance(logits.data().iter(), expected.data().iter())
                    };
                    let (got, allowed) = (error(&there), 2.0 * error(&plain));
                    assert!(
                        got <= allowed,
                        "{model} {lengths:?}: {got}, at most {allowed}"
                    );
                }
            }
        }
    }
}

#[test]
fn gradients_on_a_device_are_those_of_the_cpu() {
    let dropout = LoraDropout {
        probability: 0.2,
        seed: 1,
        step: 2,
        micro_batch: 3,
    };
    for model in MODELS {
        let exact = load(model, Quantization::Int8, Compute::F32);
        let plain = load(model, Quantization::Int8, Compute::Bf16);
        let adapter = peft::load(&folder(model).join("adapter"), exact.config()).unwrap();
        for device in Device::tested() {
            let there = load(model, Quantization::Int8, Compute::Bf16)
                .into_device(&device)
                .unwrap();
            for (lengths, dropout) in LENGTHS.into_iter().zip([None, Some(dropout), None]) {
                let batch = batch(lengths);
                let of = |llama, keep| gradient(llama, &adapter, &batch, keep, dropout);
                let (loss, expected) = of(&exact, Keep::All);
                let (_, plain) = of(&plain, Keep::All);
                let allowed = 2.0 * distance(values(&plain), values(&expected));
                let (got_loss, got) = of(&there, Keep::All);
                let error = distance(values(&got), values(&expected));
                assert!(
                    error <= allowed,
                    "{model} {lengths:?}: {error}, at most {allowed}"
                );
                // One number: that bf16 on the CPU happens to come close to it says nothing.
                assert!(
                    (got_loss - loss).abs() <= 1e-3 * loss,
                    "{model}: loss {got_loss}, {loss}"
                );
                for keep in [Keep::Selective, Keep::BlockInput] {
                    assert!(
                        of(&there, keep) == (got_loss, got.clone()),
                        "{model} {keep:?}"
                    );
                }
            }
        }
    }
}

/// A pass that is not finite is traced there too.
#[test]
fn what_is_not_finite_is_found_on_a_device() {
    let device = Device::tested().remove(0);
    let here = load("tiny_untied", Quantization::Int8, Compute::Bf16);
    let mut adapter = peft::load(&folder("tiny_untied").join("adapter"), here.config()).unwrap();
    let there = load("tiny_untied", Quantization::Int8, Compute::Bf16);
    let there = there.into_device(&device).unwrap();
    let options = PassOptions {
        keep: Keep::All,
        dropout: None,
        gradient_scale: 1.0,
    };
    let batch = batch(LENGTHS[0]);
    let found = there.find_non_finite(&adapter, &batch, &options).unwrap();
    assert!(found.is_none(), "{found:?}");
    let factors = adapter.layers.values_mut().next().unwrap();
    factors.b.data_mut().fill(3e38);
    factors.a.data_mut().fill(1e4);
    let [expected, found] = [here, there].map(|llama| {
        let found = llama.find_non_finite(&adapter, &batch, &options).unwrap();
        let found = found.expect("it is not finite");
        (found.pass, found.layer, found.operation, found.sequences)
    });
    assert_eq!(found, expected);
}

/// The order of threads and blocks changes no bit.
#[test]
fn emulated_devices_agree() {
    let [first, second] = [0, 7].map(|seed| {
        let device = Device::emulated(seed).unwrap();
        let llama = load("tiny_untied", Quantization::Int8, Compute::Bf16);
        let llama = llama.into_device(&device).unwrap();
        let adapter = peft::load(&folder("tiny_untied").join("adapter"), llama.config()).unwrap();
        gradient(&llama, &adapter, &batch(LENGTHS[1]), Keep::Selective, None)
    });
    assert!(first == second);
}

#[test]
fn sixteen_bit_weights_are_on_devices_too() {
    let exact = load("tiny_tied", Quantization::None, Compute::F32);
    let plain = load("tiny_tied", Quantization::None, Compute::Bf16);
    let device = Device::tested().remove(0);
    let there = load("tiny_tied", Quantization::None, Compute::Bf16)
        .into_device(&device)
        .unwrap();
    let batch = batch(LENGTHS[0]);
    let expected = logits(&exact, None, &batch);
    let error = |llama| {
        distance(
            logits(llama, None, &batch).data().iter(),
            expected.data().iter(),
        )
    };
    assert!(error(&there) <= 2.0 * error(&plain));
}

#[test]
fn what_devices_do_not_have_yet_is_refused_by_name() {
    let device = Device::tested().remove(0);
    let nf4 = load("tiny_tied", Quantization::Nf4, Compute::Bf16).into_device(&device);
    let message = nf4.err().expect("NF4 is refused").to_string();
    assert!(message.contains("NF4"), "{message}");
    let llama = load("tiny_biases", Quantization::Int8, Compute::Bf16)
        .into_device(&device)
        .unwrap();
    let adapter = peft::load(&folder("tiny_biases").join("adapter"), llama.config()).unwrap();
    let batch = batch(LENGTHS[0]);
    let refused = llama.logits_at(Some(&adapter), &batch.ids, &batch.sequences, &[0]);
    let message = refused.expect_err("DoRA is refused").to_string();
    assert!(message.contains("DoRA"), "{message}");
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_build_without_gpus_says_so() {
    let message = Device::gpu(0).expect_err("there is none").to_string();
    assert!(message.contains("--features cuda"), "{message}");
}
