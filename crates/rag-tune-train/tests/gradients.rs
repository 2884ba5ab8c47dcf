//! The hand-written backward pass agrees with candle's autograd and with finite differences.
//!
//! The reference is a Llama built from candle's differentiable primitives only: its fused
//! operations (`rms_norm`, `rope`, `softmax_last_dim`) drop gradients without an error.

use std::path::Path;

use candle_core::{D, DType, Device, IndexOp, Tensor as Reference, Var};
use candle_nn::ops::{log_softmax, silu, softmax};
use rag_tune_kernels::{Sequences, Tensor};
use rag_tune_model::checkpoint::Checkpoint;
use rag_tune_model::config::{Compute, LlamaConfig, ModelConfig, Quantization};
use rag_tune_model::llama::{Keep, Llama, PassOptions, TrainBatch};
use rag_tune_model::lora::{Adapter, AdapterGradient, Place, Projection};
use rag_tune_model::lora_settings::LoraSettings;

const LENGTHS: [usize; 2] = [6, 9];

fn checkpoint() -> Checkpoint {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/golden/tiny_untied");
    Checkpoint::open(&path).unwrap()
}

/// An adapter whose `B` is not zero, so that every factor gets a gradient.
fn adapter(config: &LlamaConfig) -> Adapter {
    let mut adapter = Adapter::new(config, LoraSettings::uniform(3, 6.0, Projection::ALL), 11);
    let mut value = 0.0_f32;
    for factors in adapter.layers.values_mut() {
        factors.b.data_mut().iter_mut().for_each(|b| {
            value = (value * 1.7 + 0.31) % 1.0;
            *b = 0.2 * (value - 0.5);
        });
    }
    adapter
}

fn batch() -> TrainBatch {
    let tokens: usize = LENGTHS.iter().sum();
    let ids: Vec<u32> = (0..tokens).map(|at| ((at * 37 + 5) % 96) as u32).collect();
    let targets = [3, 4, 8, 9, 13]
        .map(|position| (position, ids[position + 1]))
        .to_vec();
    TrainBatch {
        ids,
        sequences: Sequences::from_lengths(&LENGTHS).unwrap(),
        targets,
    }
}

fn ours(llama: &Llama, adapter: &Adapter, batch: &TrainBatch) -> (f64, AdapterGradient) {
    let mut gradient = adapter.zero_gradient();
    let options = PassOptions {
        keep: Keep::Selective,
        dropout: None,
        gradient_scale: 1.0,
    };
    let loss = llama
        .forward_backward(adapter, batch, &options, &mut gradient)
        .unwrap();
    (loss, gradient)
}

fn load() -> Llama {
    let config = ModelConfig {
        quantization: Quantization::None,
        compute: Compute::F32,
        ..Default::default()
    };
    Llama::load(&checkpoint(), &config, &mut |_, _| ()).unwrap()
}

/// The same model over candle's autograd, one sequence at a time.
struct CandleLlama {
    checkpoint: Checkpoint,
    config: LlamaConfig,
    scaling: f64,
    factors: std::collections::BTreeMap<Place, (Var, Var)>,
}

impl CandleLlama {
    fn new(checkpoint: Checkpoint, adapter: &Adapter) -> Self {
        let var = |tensor: &Tensor| {
            Var::from_slice(tensor.data(), tensor.shape().as_slice(), &Device::Cpu).unwrap()
        };
        let factors = adapter
            .layers
            .iter()
            .map(|(place, f)| (*place, (var(&f.a), var(&f.b))))
            .collect();
        let config = checkpoint.config().clone();
        Self {
            checkpoint,
            config,
            scaling: f64::from(adapter.scaling((0, Projection::Q))),
            factors,
        }
    }

    fn weight(&self, name: &str, shape: &[usize]) -> Reference {
        let values = self.checkpoint.tensor(name, shape).unwrap();
        Reference::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn linear(&self, x: &Reference, layer: usize, projection: Projection) -> Reference {
        let name = format!("model.layers.{layer}.{}.weight", projection.path());
        let weight = self.weight(&name, &projection.shape(&self.config));
        let (a, b) = &self.factors[&(layer, projection)];
        let update = x
            .matmul(&a.t().unwrap())
            .unwrap()
            .matmul(&b.t().unwrap())
            .unwrap();
        (x.matmul(&weight.t().unwrap()).unwrap() + (update * self.scaling).unwrap()).unwrap()
    }

    fn norm(&self, x: &Reference, name: &str) -> Reference {
        let weight = self.weight(name, &[self.config.hidden_size]);
        let eps = f64::from(self.config.rms_norm_eps);
        let mean_square = x.sqr().unwrap().mean_keepdim(D::Minus1).unwrap();
        let rms = (mean_square + eps).unwrap().sqrt().unwrap();
        x.broadcast_div(&rms)
            .unwrap()
            .broadcast_mul(&weight)
            .unwrap()
    }

    /// `[tokens, heads * dim]` to `[heads, tokens, dim]`, turned by RoPE if asked for.
    fn heads(&self, x: &Reference, heads: usize, turn: bool) -> Reference {
        let (tokens, dim) = (x.dim(0).unwrap(), self.config.head_dim);
        let x = x
            .reshape((tokens, heads, dim))
            .unwrap()
            .transpose(0, 1)
            .unwrap()
            .contiguous()
            .unwrap();
        if !turn {
            return x;
        }
        let half = dim / 2;
        let angle = |at: usize| {
            let (position, i) = (at / half, at % half);
            position as f32 * self.config.rope_theta.powf(-2.0 * i as f32 / dim as f32)
        };
        let angles: Vec<f32> = (0..tokens * half).map(angle).collect();
        let angles = Reference::from_vec(angles, (tokens, half), &Device::Cpu).unwrap();
        let (cos, sin) = (angles.cos().unwrap(), angles.sin().unwrap());
        let first = x.narrow(2, 0, half).unwrap();
        let second = x.narrow(2, half, half).unwrap();
        let times = |x: &Reference, factor: &Reference| x.broadcast_mul(factor).unwrap();
        let turned_first = (times(&first, &cos) - times(&second, &sin)).unwrap();
        let turned_second = (times(&second, &cos) + times(&first, &sin)).unwrap();
        Reference::cat(&[turned_first, turned_second], 2).unwrap()
    }

    fn attention(&self, x: &Reference, layer: usize) -> Reference {
        let c = &self.config;
        let q = self.heads(
            &self.linear(x, layer, Projection::Q),
            c.num_attention_heads,
            true,
        );
        let k = self.heads(
            &self.linear(x, layer, Projection::K),
            c.num_key_value_heads,
            true,
        );
        let v = self.heads(
            &self.linear(x, layer, Projection::V),
            c.num_key_value_heads,
            false,
        );
        let tokens = x.dim(0).unwrap();
        let mask: Vec<f32> = (0..tokens * tokens)
            .map(|at| {
                if at % tokens > at / tokens {
                    f32::NEG_INFINITY
                } else {
                    0.0
                }
            })
            .collect();
        let mask = Reference::from_vec(mask, (tokens, tokens), &Device::Cpu).unwrap();
        let shared = c.num_attention_heads / c.num_key_value_heads;
        let head = |head: usize| {
            let (q, k, v) = (
                q.i(head).unwrap(),
                k.i(head / shared).unwrap(),
                v.i(head / shared).unwrap(),
            );
            let scores = (q.matmul(&k.t().unwrap()).unwrap() / (c.head_dim as f64).sqrt()).unwrap();
            softmax(&(scores + &mask).unwrap(), 1)
                .unwrap()
                .matmul(&v)
                .unwrap()
        };
        let heads: Vec<_> = (0..c.num_attention_heads).map(head).collect();
        self.linear(&Reference::cat(&heads, 1).unwrap(), layer, Projection::O)
    }

    fn block(&self, x: Reference, layer: usize) -> Reference {
        let name = |norm: &str| format!("model.layers.{layer}.{norm}.weight");
        let x = (&x + self.attention(&self.norm(&x, &name("input_layernorm")), layer)).unwrap();
        let normed = self.norm(&x, &name("post_attention_layernorm"));
        let gate = silu(&self.linear(&normed, layer, Projection::Gate)).unwrap();
        let product = (gate * self.linear(&normed, layer, Projection::Up)).unwrap();
        (x + self.linear(&product, layer, Projection::Down)).unwrap()
    }

    /// Summed cross entropy of the targets of one sequence.
    fn loss(&self, ids: &[u32], targets: &[(usize, u32)]) -> Reference {
        let vocab = [self.config.vocab_size, self.config.hidden_size];
        let embedding = self.weight("model.embed_tokens.weight", &vocab);
        let mut x = embedding
            .index_select(&Reference::new(ids, &Device::Cpu).unwrap(), 0)
            .unwrap();
        for layer in 0..self.config.num_hidden_layers {
            x = self.block(x, layer);
        }
        let head = self.weight("lm_head.weight", &vocab);
        let logits = self
            .norm(&x, "model.norm.weight")
            .matmul(&head.t().unwrap())
            .unwrap();
        let log_probabilities = log_softmax(&logits, 1).unwrap();
        let picked: Vec<_> = targets
            .iter()
            .map(|(position, label)| log_probabilities.i((*position, *label as usize)).unwrap())
            .collect();
        Reference::stack(&picked, 0)
            .unwrap()
            .sum_all()
            .unwrap()
            .neg()
            .unwrap()
    }
}

#[test]
fn gradients_equal_candle_autograd() {
    let llama = load();
    let (adapter, batch) = (adapter(llama.config()), batch());
    let (loss, gradient) = ours(&llama, &adapter, &batch);

    let reference = CandleLlama::new(checkpoint(), &adapter);
    let mut total = Reference::zeros((), DType::F32, &Device::Cpu).unwrap();
    for range in batch.sequences.ranges() {
        let inside = batch
            .targets
            .iter()
            .filter(|(position, _)| range.contains(position));
        let targets: Vec<_> = inside
            .map(|(position, label)| (position - range.start, *label))
            .collect();
        total = (total + reference.loss(&batch.ids[range], &targets)).unwrap();
    }
    let expected_loss = total.to_scalar::<f32>().unwrap();
    assert!(
        (loss - f64::from(expected_loss)).abs() < 1e-4,
        "{loss} {expected_loss}"
    );
    let expected = total.backward().unwrap();
    for (place, (a, b)) in &reference.factors {
        for (name, var, ours) in [
            ("A", a, &gradient.layers[place].a),
            ("B", b, &gradient.layers[place].b),
        ] {
            let expected = expected
                .get(var)
                .unwrap_or_else(|| panic!("{place:?} {name} got no gradient"));
            let expected: Vec<f32> = expected.flatten_all().unwrap().to_vec1().unwrap();
            let largest = expected
                .iter()
                .fold(0.0_f32, |max, value| max.max(value.abs()));
            assert!(
                largest > 1e-4,
                "{place:?} {name}: the reference gradient is empty"
            );
            let errors = ours
                .data()
                .iter()
                .zip(&expected)
                .map(|(o, e)| (o - e).abs());
            let error = errors.fold(0.0, f32::max);
            assert!(
                error < 1e-4 * largest.max(1.0),
                "{place:?} {name}: off by {error} of {largest}"
            );
        }
    }
}

#[test]
fn gradients_equal_finite_differences() {
    let llama = load();
    let (adapter, batch) = (adapter(llama.config()), batch());
    let (_, gradient) = ours(&llama, &adapter, &batch);
    for (index, place) in adapter.layers.keys().enumerate() {
        // One value of each factor; f32 losses need a step this large.
        const STEP: f32 = 2e-2;
        let at = 7 * index % adapter.layers[place].b.data().len();
        let loss_at = |offset: f32| {
            let mut moved = adapter.clone();
            moved.layers.get_mut(place).unwrap().b.data_mut()[at] += offset;
            ours(&llama, &moved, &batch).0
        };
        let numeric = (loss_at(STEP) - loss_at(-STEP)) / f64::from(2.0 * STEP);
        let analytic = f64::from(gradient.layers[place].b.data()[at]);
        let error = (numeric - analytic).abs();
        assert!(
            error < 2e-3 + 0.02 * analytic.abs(),
            "{place:?}: {numeric} {analytic}"
        );
    }
}
