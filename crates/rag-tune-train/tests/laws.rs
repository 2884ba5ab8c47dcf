//! What a batch may not change: packing, accumulation, ranks, masks. In f32, on the tiny model with
//! PEFT's random adapter, so that both factors have gradients.
//!
//! The trainer's other laws stand elsewhere. Every activation policy gives the same gradients: golden.rs
//! of rag-tune-model, and runs.rs here for a whole run. Merged equals applied: merge.rs there. Step 0 equals the base model: lora_variants.rs.
//! The same seed gives the same bytes on any number of threads: determinism.rs.

mod support;

use std::path::Path;

use proptest::prelude::*;
use rag_tune_kernels::{Sequences, Tensor};
use rag_tune_model::llama::{Keep, Llama, PassOptions, TrainBatch};
use rag_tune_model::lora::{Adapter, AdapterGradient};
use rag_tune_model::peft;
use rag_tune_model::tokenizer::EncodedRow;
use rag_tune_train::batch::{MicroBatch, TrainSet, ranks};
use rag_tune_train::config::TrainConfig;
use support::golden_model;

const EOS: u32 = 2;

struct Tiny {
    model: Llama,
    adapter: Adapter,
}

impl Tiny {
    fn new() -> Self {
        let folder = "../../tests/fixtures/golden/tiny_tied/adapter";
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let model = golden_model("tiny_tied");
        let adapter = peft::load(&folder, model.config()).unwrap();
        Self { model, adapter }
    }

    /// Summed loss and gradient, accumulated over micro-batches as a step does it.
    fn pass<'a>(
        &self,
        micro_batches: impl IntoIterator<Item = &'a TrainBatch>,
        supervised_tokens: usize,
    ) -> (f64, AdapterGradient) {
        let mut gradient = self.adapter.zero_gradient();
        let options = PassOptions {
            keep: Keep::Selective,
            dropout: None,
            gradient_scale: 1.0 / supervised_tokens as f32,
        };
        let mut loss = 0.0;
        for batch in micro_batches {
            let pass = self
                .model
                .forward_backward(&self.adapter, batch, &options, &mut gradient);
            loss += pass.unwrap();
        }
        (loss, gradient)
    }

    fn logits(&self, batch: &TrainBatch) -> Tensor {
        let all: Vec<usize> = (0..batch.ids.len()).collect();
        let logits = self
            .model
            .logits_at(Some(&self.adapter), &batch.ids, &batch.sequences, &all);
        logits.unwrap()
    }
}

/// Rows of 8 to 31 tokens, answers of 1 to 7.
fn rows(count: usize) -> Vec<EncodedRow> {
    let row = |row: usize| {
        let length = 8 + row * 29 % 24;
        EncodedRow {
            ids: (0..length).map(|at| id(row, at)).collect(),
            prompt_len: length - 1 - row % 7,
        }
    };
    (0..count).map(row).collect()
}

fn id(row: usize, at: usize) -> u32 {
    let mixed = ((row * 131 + at) as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 40) as u32 % 90 + 3
}

/// All rows as one step of micro-batches of at most `budget` tokens.
fn step(rows: &[EncodedRow], budget: usize) -> Vec<MicroBatch> {
    let config = TrainConfig {
        batch_size: Some(rows.len()),
        tokens_per_micro_batch: budget,
        max_length: 40,
        ..Default::default()
    };
    let set = TrainSet::new(&[rows.to_vec()], EOS, &config, 7).unwrap();
    set.micro_batches(1).unwrap()
}

fn batches(step: &[MicroBatch]) -> Vec<&TrainBatch> {
    step.iter().map(|micro| &micro.batch).collect()
}

fn supervised(step: &[MicroBatch]) -> usize {
    step.iter().map(|micro| micro.batch.targets.len()).sum()
}

/// The greatest difference of any component, as a share of the whole gradient's Euclidean norm.
///
/// What is left, 2e-7, is that f32 sums come in another order and cancel to a tenth of their terms.
fn relative_error(left: &AdapterGradient, right: &AdapterGradient) -> f64 {
    let pairs = left.tensors().zip(right.tensors());
    let differences = pairs.flat_map(|(left, right)| {
        let values = left.data().iter().zip(right.data());
        values.map(|(left, right)| (f64::from(*left) - f64::from(*right)).abs())
    });
    differences.fold(0.0, f64::max) / right.norm()
}

#[test]
fn accumulation_over_micro_batches_equals_one_batch() {
    let tiny = Tiny::new();
    let rows = rows(24);
    let whole = step(&rows, 4096);
    assert_eq!(whole.len(), 1);
    let (loss, gradient) = tiny.pass(batches(&whole), supervised(&whole));
    for budget in [200, 96, 40] {
        let parts = step(&rows, budget);
        assert!(parts.len() > 2, "{}", parts.len());
        let (summed, accumulated) = tiny.pass(batches(&parts), supervised(&parts));
        let error = relative_error(&accumulated, &gradient);
        assert!(error <= 1e-6, "{} micro-batches: {error}", parts.len());
        assert!((summed - loss).abs() <= 1e-6 * loss);
    }
}

#[test]
fn any_number_of_ranks_sums_to_the_same_gradient() {
    let tiny = Tiny::new();
    let step = step(&rows(24), 96);
    let (batches, tokens) = (batches(&step), supervised(&step));
    let (_, alone) = tiny.pass(batches.iter().copied(), tokens);
    for count in [2, 3, 5] {
        let mut summed = tiny.adapter.zero_gradient();
        for rank in 0..count {
            let share = ranks::share(batches.len(), rank, count).map(|at| batches[at]);
            let (_, part) = tiny.pass(share, tokens);
            let places = summed.layers.values_mut().zip(part.layers.values());
            for (sum, part) in places {
                for ((_, sum), (_, part)) in sum.tensors_mut().zip(part.tensors()) {
                    let values = sum.data_mut().iter_mut().zip(part.data());
                    values.for_each(|(sum, part)| *sum += part);
                }
            }
        }
        let error = relative_error(&summed, &alone);
        assert!(error <= 1e-6, "{count} ranks: {error}");
    }
}

#[test]
fn packed_equals_unpacked() {
    let tiny = Tiny::new();
    let rows = rows(12);
    let packed = step(&rows, 4096);
    let tokens = supervised(&packed);
    let alone: Vec<MicroBatch> = rows
        .iter()
        .flat_map(|row| step(std::slice::from_ref(row), 4096))
        .collect();
    assert_eq!((packed.len(), alone.len()), (1, 12));
    let (packed_loss, packed_gradient) = tiny.pass(batches(&packed), tokens);
    let (loss, gradient) = tiny.pass(batches(&alone), tokens);
    assert!(
        (packed_loss - loss).abs() <= 1e-6 * loss,
        "{packed_loss} {loss}"
    );
    let error = relative_error(&packed_gradient, &gradient);
    assert!(error <= 1e-6, "{error}");
}

#[test]
fn a_row_alone_equals_the_row_in_a_batch() {
    let tiny = Tiny::new();
    let rows = rows(9);
    let together = &step(&rows, 4096)[0];
    let logits = tiny.logits(&together.batch);
    for (range, row) in together.batch.sequences.ranges().zip(&together.rows) {
        let alone = &step(std::slice::from_ref(&rows[*row]), 4096)[0].batch;
        let of_row = tiny.logits(alone);
        for at in 0..range.len() {
            for (one, other) in of_row.row(at).iter().zip(logits.row(range.start + at)) {
                assert!(
                    (one - other).abs() <= 1e-5,
                    "row {row}, token {at}: {one} {other}"
                );
            }
        }
        // In the batch, loss on this row only.
        let mut only = together.batch.clone();
        only.targets
            .retain(|(position, _)| range.contains(position));
        let count = only.targets.len();
        let (batch_loss, in_batch) = tiny.pass([&only], count);
        let (row_loss, expected) = tiny.pass([alone], count);
        assert!((batch_loss - row_loss).abs() <= 1e-6 * row_loss);
        let error = relative_error(&in_batch, &expected);
        assert!(error <= 1e-6, "row {row}: {error}");
    }
}

/// Three rows; the loss is on tokens of the second only, none of them its last two.
fn masked(behind: &[u32], others: &[u32]) -> TrainBatch {
    let (before, after) = others.split_at(7);
    let row: Vec<u32> = (0..10).map(|at| id(0, at)).collect();
    let lengths = [before.len(), row.len() + behind.len(), after.len()];
    let targets = (4..9).map(|at| (before.len() + at, row[at + 1]));
    TrainBatch {
        targets: targets.collect(),
        ids: [before, &row, behind, after].concat(),
        sequences: Sequences::from_lengths(&lengths).unwrap(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A token without a label of its own matters only as what a supervised one is predicted from.
    /// Those behind the last supervised token, and whole rows without one, change no bit.
    #[test]
    fn masked_labels_change_nothing(
        behind in prop::collection::vec(3_u32..90, 3),
        others in prop::collection::vec(3_u32..90, 15),
    ) {
        let tiny = Tiny::new();
        let expected = tiny.pass([&masked(&[5, 6, 7], &[9; 15])], 5);
        prop_assert!(expected.1.norm() > 1e-3);
        let other = tiny.pass([&masked(&behind, &others)], 5);
        prop_assert_eq!(other.0, expected.0);
        prop_assert!(other.1 == expected.1);
    }
}

/// So that the law above says something: what stands before a supervised token does change the loss.
#[test]
fn prompts_matter() {
    let tiny = Tiny::new();
    let mut batch = masked(&[5, 6, 7], &[9; 15]);
    let (loss, _) = tiny.pass([&batch], 5);
    batch.ids[7 + 2] += 1;
    assert!((tiny.pass([&batch], 5).0 - loss).abs() > 1e-4);
}
