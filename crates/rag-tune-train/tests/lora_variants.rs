//! LoRA, rsLoRA, patterns, DoRA and LoRA+ compute what PEFT computes (`scripts/golden_lora_variants.py`).

use std::fs;
use std::path::{Path, PathBuf};

use rag_tune_kernels::{Sequences, Tensor};
use rag_tune_model::checkpoint::Checkpoint;
use rag_tune_model::config::{Compute, ModelConfig, Quantization};
use rag_tune_model::llama::{Keep, Llama, PassOptions, TrainBatch};
use rag_tune_model::lora::{Adapter, AdapterGradient, LoraDropout, LoraFactors, Place};
use rag_tune_model::lora_settings::LoraSettings;
use rag_tune_model::peft;
use rag_tune_train::config::{LoraConfig, TrainConfig};
use rag_tune_train::optimizer::Optimizer;
use safetensors::SafeTensors;

const VARIANTS: [&str; 5] = [
    "plain",
    "rslora",
    "patterns",
    "dora",
    "dora_rslora_patterns",
];
/// As in the script.
const STEPS: usize = 4;
const LEARNING_RATE: f32 = 1e-2;
const WEIGHT_DECAY: f32 = 0.1;
const LORAPLUS_RATIO: f32 = 8.0;
const DROPOUT: LoraDropout = LoraDropout {
    probability: 0.3,
    seed: 5,
    step: 3,
    micro_batch: 1,
};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/golden")
}

fn variant(name: &str) -> PathBuf {
    golden().join("lora_variants").join(name)
}

fn load(quantization: Quantization) -> Llama {
    let config = ModelConfig {
        quantization,
        compute: Compute::F32,
        ..Default::default()
    };
    let checkpoint = Checkpoint::open(&golden().join("tiny_untied")).unwrap();
    Llama::load(&checkpoint, &config, &mut |_, _| ()).unwrap()
}

fn floats(path: &Path, name: &str) -> Vec<f32> {
    let bytes = fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let values = tensors.tensor(name).unwrap().data().as_chunks::<4>().0;
    values
        .iter()
        .map(|value| f32::from_le_bytes(*value))
        .collect()
}

fn ints(path: &Path, name: &str) -> Vec<i64> {
    let bytes = fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let values = tensors.tensor(name).unwrap().data().as_chunks::<8>().0;
    values
        .iter()
        .map(|value| i64::from_le_bytes(*value))
        .collect()
}

/// Both golden sequences, packed.
fn batch() -> TrainBatch {
    let path = golden().join("tiny_untied/golden.safetensors");
    let both = |name: &str| [0, 1].map(|index| ints(&path, &format!("{name}.{index}")));
    let ids = both("ids");
    let labels = both("labels").concat().into_iter().enumerate();
    let targets = labels.filter(|(_, label)| *label >= 0);
    TrainBatch {
        sequences: Sequences::from_lengths(&[ids[0].len(), ids[1].len()]).unwrap(),
        ids: ids.concat().iter().map(|id| *id as u32).collect(),
        targets: targets
            .map(|(position, label)| (position, label as u32))
            .collect(),
    }
}

/// Mean loss and gradients.
fn pass(
    llama: &Llama,
    adapter: &Adapter,
    keep: Keep,
    dropout: Option<LoraDropout>,
) -> (f64, AdapterGradient) {
    let batch = batch();
    let mut gradient = adapter.zero_gradient();
    let options = PassOptions {
        keep,
        dropout,
        gradient_scale: 1.0 / batch.targets.len() as f32,
    };
    let sum = llama
        .forward_backward(adapter, &batch, &options, &mut gradient)
        .unwrap();
    (sum / batch.targets.len() as f64, gradient)
}

fn all_logits(llama: &Llama, adapter: Option<&Adapter>) -> Tensor {
    let batch = batch();
    let all: Vec<usize> = (0..batch.ids.len()).collect();
    llama
        .logits_at(adapter, &batch.ids, &batch.sequences, &all)
        .unwrap()
}

fn max_error(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len());
    let pairs = left.iter().zip(right);
    pairs.map(|(l, r)| (l - r).abs()).fold(0.0, f32::max)
}

/// The largest error over all factors, against a file in PEFT's names that must hold exactly these.
fn factors_error<'a>(
    path: &Path,
    layers: impl IntoIterator<Item = (&'a Place, &'a LoraFactors)>,
    like: &Adapter,
) -> f32 {
    let mut expected = like.zero_gradient().layers;
    peft::read_factors(path, &mut expected).unwrap();
    let errors = layers.into_iter().flat_map(|(place, factors)| {
        let pairs = factors.tensors().zip(expected[place].tensors());
        pairs
            .map(|((_, ours), (_, theirs))| max_error(ours.data(), theirs.data()))
            .collect::<Vec<_>>()
    });
    errors.fold(0.0, f32::max)
}

#[test]
fn logits_loss_and_gradients_of_every_variant_equal_pefts() {
    let llama = load(Quantization::None);
    for name in VARIANTS {
        let folder = variant(name);
        let numbers = folder.join("golden.safetensors");
        let adapter = peft::load(&folder.join("adapter"), llama.config()).unwrap();
        assert_eq!(
            adapter
                .layers
                .values()
                .all(|factors| factors.magnitude.is_some()),
            name.contains("dora")
        );
        let logits = [0, 1].map(|index| floats(&numbers, &format!("logits.{index}")));
        let error = max_error(all_logits(&llama, Some(&adapter)).data(), &logits.concat());
        assert!(error < 5e-5, "{name}: logits {error}");
        for keep in [Keep::Selective, Keep::BlockInput] {
            let (loss, gradient) = pass(&llama, &adapter, keep, None);
            let expected = f64::from(floats(&numbers, "loss")[0]);
            assert!((loss - expected).abs() < 1e-5, "{name}: {loss}, {expected}");
            let path = folder.join("gradients.safetensors");
            let error = factors_error(&path, &gradient.layers, &adapter);
            assert!(error < 1e-5, "{name} {keep:?}: gradients {error}");
        }
    }
}

/// In DoRA dropout also falls on what the base adds to the update, and not on the base's own output.
#[test]
fn dropout_falls_where_pefts_does() {
    let llama = load(Quantization::None);
    for name in VARIANTS {
        let folder = variant(name);
        let adapter = peft::load(&folder.join("adapter"), llama.config()).unwrap();
        let expected = f64::from(floats(&folder.join("golden.safetensors"), "dropout_loss")[0]);
        for keep in [Keep::Selective, Keep::BlockInput] {
            let (loss, gradient) = pass(&llama, &adapter, keep, Some(DROPOUT));
            assert!((loss - expected).abs() < 1e-5, "{name}: {loss}, {expected}");
            let path = folder.join("dropout_gradients.safetensors");
            let error = factors_error(&path, &gradient.layers, &adapter);
            assert!(error < 1e-5, "{name} {keep:?}: gradients {error}");
        }
    }
}

fn optimizer(adapter: &Adapter, weight_decay: f32, loraplus_lr_ratio: f32) -> Optimizer {
    let train = TrainConfig {
        weight_decay,
        ..Default::default()
    };
    let lora = LoraConfig {
        loraplus_lr_ratio,
        ..Default::default()
    };
    Optimizer::new(&train, &lora, adapter).unwrap()
}

/// Steps of AdamW; returns the losses before each.
fn trained(llama: &Llama, adapter: &mut Adapter, mut optimizer: Optimizer) -> Vec<f32> {
    let steps = 1..=STEPS;
    steps
        .map(|step| {
            let (loss, gradient) = pass(llama, adapter, Keep::Selective, None);
            optimizer
                .update(step, LEARNING_RATE, 1.0, &gradient, adapter)
                .unwrap();
            loss as f32
        })
        .collect()
}

/// AdamW that decays `A` and `B` only; and PEFT's `create_loraplus_optimizer`.
#[test]
fn every_variant_trains_as_in_pytorch() {
    let llama = load(Quantization::None);
    for name in VARIANTS {
        // PEFT's groups would decay magnitudes.
        let loraplus_decay = match name.contains("dora") {
            true => 0.0,
            false => WEIGHT_DECAY,
        };
        // Adam's steps are as long as the learning rate however small the gradient, so that its
        // rounding weighs more the faster a factor learns.
        for (label, decay, ratio, bound) in [
            ("plain", WEIGHT_DECAY, 1.0, 1e-5),
            ("loraplus", loraplus_decay, LORAPLUS_RATIO, 3e-5),
        ] {
            let folder = variant(name);
            let mut adapter = peft::load(&folder.join("adapter"), llama.config()).unwrap();
            let optimizer = optimizer(&adapter, decay, ratio);
            let losses = trained(&llama, &mut adapter, optimizer);
            let expected = floats(
                &folder.join("golden.safetensors"),
                &format!("losses_{label}"),
            );
            let error = max_error(&losses, &expected);
            assert!(error < 2e-5, "{name} {label}: losses {error}");
            let path = folder.join(format!("trained_{label}.safetensors"));
            let error = factors_error(&path, &adapter.layers, &adapter);
            assert!(error < bound, "{name} {label}: factors {error}");
        }
    }
}

/// The settings of every variant.
fn settings(llama: &Llama) -> impl Iterator<Item = (&'static str, LoraSettings)> {
    VARIANTS.into_iter().map(|name| {
        let adapter = peft::load(&variant(name).join("adapter"), llama.config()).unwrap();
        (name, adapter.settings)
    })
}

#[test]
fn step_0_equals_the_base_model() {
    for quantization in [Quantization::None, Quantization::Int8] {
        let llama = load(quantization);
        let base = all_logits(&llama, None);
        for (name, settings) in settings(&llama) {
            let adapter = llama.fresh_adapter(settings, 7).unwrap();
            assert_eq!(all_logits(&llama, Some(&adapter)), base, "{name}");
            // With dropout too: what falls out of the update is a part of nothing.
            let options = |dropout| PassOptions {
                keep: Keep::Selective,
                dropout,
                gradient_scale: 1.0,
            };
            let [with, without] = [Some(DROPOUT), None].map(|dropout| {
                let mut gradient = adapter.zero_gradient();
                llama
                    .forward_backward(&adapter, &batch(), &options(dropout), &mut gradient)
                    .unwrap()
            });
            assert_eq!(with, without, "{name}");
        }
    }
}

#[test]
fn loraplus_moves_b_faster() {
    let llama = load(Quantization::Int8);
    for (name, settings) in settings(&llama) {
        let fresh = llama.fresh_adapter(settings, 7).unwrap();
        let (_, gradient) = pass(&llama, &fresh, Keep::Selective, None);
        let [slow, quick] = [1.0, LORAPLUS_RATIO].map(|ratio| {
            let mut adapter = fresh.clone();
            optimizer(&adapter, 0.0, ratio)
                .update(1, LEARNING_RATE, 1.0, &gradient, &mut adapter)
                .unwrap();
            adapter
        });
        for (place, slow) in &slow.layers {
            assert_eq!(slow.a, quick.layers[place].a, "{name} {place:?}");
            // `B` starts at zero and the ratio is a power of two, so that nothing is rounded away.
            let moved = |factors: &LoraFactors, factor: f32| -> Vec<f32> {
                factors
                    .b
                    .data()
                    .iter()
                    .map(|value| value * factor)
                    .collect()
            };
            assert!(slow.b.data().iter().any(|value| *value != 0.0));
            assert_eq!(
                moved(slow, LORAPLUS_RATIO),
                moved(&quick.layers[place], 1.0),
                "{name} {place:?}"
            );
        }
    }
}
