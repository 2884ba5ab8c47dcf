//! Where a pass left the finite numbers: which layer and operation, which sequences, and how large values were before.
//!
//! The pass is run once more, with the dropout that it had. Sequences of a batch never read each other, so in both
//! directions the tokens that are not finite tell whose fault it is.

use std::fmt;

use rag_tune_kernels::{Sequences, Tensor, cross_entropy};
use serde::{Deserialize, Serialize};

use crate::block::Kept;
use crate::error::ModelError;
use crate::llama::{Llama, PassOptions, TrainBatch};
use crate::lora::{Adapter, AdapterGradient, LoraFactors, Projection};

/// An operation of the forward pass, or the layer whose factors a gradient is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// `self_attn.q_proj`, RoPE included.
    QProj,
    /// `self_attn.k_proj`, RoPE included.
    KProj,
    /// `self_attn.v_proj`
    VProj,
    /// Scores, softmax, and the weighted sum of values.
    Attention,
    /// `self_attn.o_proj` and the residual sum after it.
    OProj,
    /// `mlp.gate_proj`
    GateProj,
    /// `mlp.up_proj`
    UpProj,
    /// `mlp.down_proj` with the SwiGLU product that it reads, and the residual sum after it.
    DownProj,
    /// The output head: logits and loss.
    LmHead,
}

impl From<Projection> for Operation {
    fn from(projection: Projection) -> Self {
        match projection {
            Projection::Q => Self::QProj,
            Projection::K => Self::KProj,
            Projection::V => Self::VProj,
            Projection::O => Self::OProj,
            Projection::Gate => Self::GateProj,
            Projection::Up => Self::UpProj,
            Projection::Down => Self::DownProj,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
            Self::Attention => "attention",
            Self::OProj => "o_proj",
            Self::GateProj => "gate_proj",
            Self::UpProj => "up_proj",
            Self::DownProj => "down_proj",
            Self::LmHead => "lm_head",
        })
    }
}

/// Which half of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pass {
    /// From the ids to the loss.
    Forward,
    /// From the loss to the gradients.
    Backward,
}

/// Where a pass over a batch left the finite numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct NonFinite {
    /// In which half.
    pub pass: Pass,
    /// The first layer, in the order of that half; `None` for the head.
    pub layer: Option<usize>,
    /// The first operation there. Backward: the first projection whose factors' gradient is not finite; `None` if only
    /// the gradient of the layer's input is not.
    pub operation: Option<Operation>,
    /// The sequences of the batch concerned, anywhere in that half.
    pub sequences: Vec<usize>,
    /// Largest finite absolute value of each layer's output, from the first layer to the last.
    pub max_activations: Vec<f32>,
    /// Largest finite absolute value of the gradient of each layer's input, from the last layer to the first.
    /// Empty where the forward pass was at fault.
    pub max_gradients: Vec<f32>,
}

impl Llama {
    /// Runs a training pass again to find where it leaves the finite numbers; `None` if it does not.
    ///
    /// `options` are those of the pass: with another dropout the values are others.
    ///
    /// # Errors
    /// [`ModelError`] if the batch does not fit the model.
    pub fn find_non_finite(
        &self,
        adapter: &Adapter,
        batch: &TrainBatch,
        options: &PassOptions,
    ) -> Result<Option<NonFinite>, ModelError> {
        let positions = batch.sequences.positions();
        let applied = self.applied(adapter)?;
        let context = self.context(&positions, Some(&applied), options.dropout);
        let mut found = Finding::new(&batch.sequences);
        let mut inputs = Vec::with_capacity(self.blocks.len());
        let mut x = self.embedding.gather_rows(&batch.ids)?;
        for block in &self.blocks {
            inputs.push(x.clone());
            let mut tell = |operation, output: &Tensor| {
                found.look(output, (Some(block.layer), Some(operation)));
            };
            x = block.forward_told(x, &batch.sequences, context, &mut tell)?;
            found.max_activations.push(max_finite(&*x.to_host()?));
        }
        self.look_at_losses(&x, batch, &mut found)?;
        if found.place.is_some() {
            return Ok(Some(found.ended(Pass::Forward)));
        }

        let mut gradient = adapter.zero_gradient_on(self.device())?;
        let (_, mut d_x) = self.loss(&x, batch, options.gradient_scale)?;
        found.look(&*d_x.to_host()?, (None, Some(Operation::LmHead)));
        for (block, input) in self.blocks.iter().zip(inputs).rev() {
            let kept = Kept::BlockInput(input);
            d_x = block.backward(d_x, kept, &batch.sequences, context, &mut gradient)?;
            let factors = last_non_finite(&gradient, block.layer)?;
            let place = (Some(block.layer), factors.map(Operation::from));
            let looked_at = d_x.to_host()?;
            found.look(&looked_at, place);
            if factors.is_some() {
                found.place.get_or_insert(place);
            }
            found.max_gradients.push(max_finite(&looked_at));
        }
        if found.place.is_none() {
            return Ok(None);
        }
        self.look_at_sums(adapter, batch, options, &mut found.is_bad)?;
        Ok(Some(found.ended(Pass::Backward)))
    }

    /// The head's part of the forward pass: each sequence's own loss.
    fn look_at_losses(
        &self,
        x: &Tensor,
        batch: &TrainBatch,
        found: &mut Finding<'_>,
    ) -> Result<(), ModelError> {
        for (index, range) in batch.sequences.ranges().enumerate() {
            let own = batch.targets.iter().filter(|(at, _)| range.contains(at));
            let (rows, labels): (Vec<usize>, Vec<u32>) = own.copied().unzip();
            let normed = self.final_norm(&x.gather_rows(&rows)?)?;
            let loss =
                cross_entropy::cross_entropy(&normed, self.head(), &labels, 1.0, self.compute)?;
            if !loss.sum.is_finite() {
                found.is_bad[index] = true;
                found.place.get_or_insert((None, Some(Operation::LmHead)));
            }
        }
        Ok(())
    }

    /// Sequences whose every token is fine, and a sum over their tokens is not.
    fn look_at_sums(
        &self,
        adapter: &Adapter,
        batch: &TrainBatch,
        options: &PassOptions,
        is_bad: &mut [bool],
    ) -> Result<(), ModelError> {
        let ranges: Vec<_> = batch.sequences.ranges().collect();
        let is_sum_finite = |members: &[usize]| -> Result<bool, ModelError> {
            // The whole batch again, so that its dropout is the same, with the loss of these only.
            let is_member = |at: &usize| members.iter().any(|index| ranges[*index].contains(at));
            let own = batch.targets.iter().filter(|(at, _)| is_member(at));
            let part = TrainBatch {
                targets: own.copied().collect(),
                ..batch.clone()
            };
            let mut gradient = adapter.zero_gradient();
            self.forward_backward(adapter, &part, options, &mut gradient)?;
            Ok(gradient.tensors().all(Tensor::is_finite))
        };
        let rest: Vec<usize> = (0..is_bad.len()).filter(|index| !is_bad[*index]).collect();
        if is_sum_finite(&rest)? {
            return Ok(());
        }
        for index in rest {
            is_bad[index] = !is_sum_finite(&[index])?;
        }
        // Only all of them together are too large.
        if !is_bad.contains(&true) {
            is_bad.fill(true);
        }
        Ok(())
    }
}

type Where = (Option<usize>, Option<Operation>);

/// What is known so far.
struct Finding<'a> {
    sequences: &'a Sequences,
    /// The first place.
    place: Option<Where>,
    /// By sequence.
    is_bad: Vec<bool>,
    max_activations: Vec<f32>,
    max_gradients: Vec<f32>,
}

impl<'a> Finding<'a> {
    fn new(sequences: &'a Sequences) -> Self {
        Self {
            sequences,
            place: None,
            is_bad: vec![false; sequences.len()],
            max_activations: Vec::new(),
            max_gradients: Vec::new(),
        }
    }

    /// Notes which sequences have values in `output` `[tokens, any]` that are not finite.
    fn look(&mut self, output: &Tensor, place: Where) {
        if output.is_finite() {
            return;
        }
        self.place.get_or_insert(place);
        for (range, is_bad) in self.sequences.ranges().zip(&mut self.is_bad) {
            let is_finite = |token| output.row(token).iter().all(|value| value.is_finite());
            *is_bad |= !range.clone().all(is_finite);
        }
    }

    fn ended(self, pass: Pass) -> NonFinite {
        let (layer, operation) = self.place.unwrap_or_default();
        let sequences = self.is_bad.iter().enumerate();
        NonFinite {
            pass,
            layer,
            operation,
            sequences: sequences
                .filter_map(|(index, is_bad)| is_bad.then_some(index))
                .collect(),
            max_activations: self.max_activations,
            max_gradients: self.max_gradients,
        }
    }
}

/// The last layer of a block whose factors have a gradient that is not finite: the backward pass comes to it first.
fn last_non_finite(
    gradient: &AdapterGradient,
    layer: usize,
) -> Result<Option<Projection>, ModelError> {
    for projection in Projection::ALL.into_iter().rev() {
        let factors = gradient.layers.get(&(layer, projection));
        for (_, tensor) in factors.into_iter().flat_map(LoraFactors::tensors) {
            if !tensor.to_host()?.is_finite() {
                return Ok(Some(projection));
            }
        }
    }
    Ok(None)
}

fn max_finite(tensor: &Tensor) -> f32 {
    let finite = tensor.data().iter().filter(|value| value.is_finite());
    finite.fold(0.0, |largest, value| largest.max(value.abs()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::config::{Compute, ModelConfig, Quantization};
    use crate::llama::Keep;
    use crate::lora::LoraDropout;
    use crate::lora_settings::LoraSettings;

    fn llama() -> Llama {
        model("tiny_untied")
    }

    fn model(name: &str) -> Llama {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/golden");
        let path = golden.join(name);
        let config = ModelConfig {
            quantization: Quantization::None,
            compute: Compute::F32,
            ..Default::default()
        };
        Llama::load(&Checkpoint::open(&path).unwrap(), &config, &mut |_, _| ()).unwrap()
    }

    /// Three sequences, each with loss on its last two tokens.
    fn batch() -> TrainBatch {
        let lengths = [6, 9, 5];
        let ids: Vec<u32> = (0..20).map(|at| ((at * 37 + 5) % 96) as u32).collect();
        TrainBatch {
            targets: [3, 4, 12, 13, 17, 18].map(|at| (at, ids[at + 1])).to_vec(),
            ids,
            sequences: Sequences::from_lengths(&lengths).unwrap(),
        }
    }

    fn options(gradient_scale: f32, dropout: f32) -> PassOptions {
        let dropout = (dropout > 0.0).then_some(LoraDropout {
            probability: dropout,
            seed: 3,
            step: 5,
            micro_batch: 0,
        });
        PassOptions {
            keep: Keep::Selective,
            dropout,
            gradient_scale,
        }
    }

    fn adapter(llama: &Llama) -> Adapter {
        let settings = LoraSettings::uniform(2, 4.0, Projection::ALL);
        Adapter::new(llama.config(), settings, 11)
    }

    /// One sequence of the batch, as a batch of its own.
    fn alone(index: usize) -> TrainBatch {
        let batch = batch();
        let range = batch.sequences.ranges().nth(index).unwrap();
        let own = batch.targets.iter().filter(|(at, _)| range.contains(at));
        TrainBatch {
            ids: batch.ids[range.clone()].to_vec(),
            sequences: Sequences::from_lengths(&[range.len()]).unwrap(),
            targets: own.map(|(at, label)| (at - range.start, *label)).collect(),
        }
    }

    /// Whether loss and gradient are finite.
    fn is_finite(
        llama: &Llama,
        adapter: &Adapter,
        batch: &TrainBatch,
        options: &PassOptions,
    ) -> [bool; 2] {
        let mut gradient = adapter.zero_gradient();
        let loss = llama
            .forward_backward(adapter, batch, options, &mut gradient)
            .unwrap();
        [loss.is_finite(), gradient.tensors().all(Tensor::is_finite)]
    }

    #[test]
    fn a_finite_pass_has_no_such_place() {
        let llama = llama();
        let found = llama.find_non_finite(&adapter(&llama), &batch(), &options(1.0, 0.1));
        assert_eq!(found.unwrap(), None);
    }

    #[test]
    fn the_first_layer_and_operation_are_named() {
        for (layer, projection) in
            (0..2).flat_map(|layer| Projection::ALL.map(|projection| (layer, projection)))
        {
            for llama in [llama(), model("tiny_biases")] {
                let mut adapter = adapter(&llama);
                let factors = adapter.layers.get_mut(&(layer, projection)).unwrap();
                factors.b.data_mut().fill(3e38);
                factors.a.data_mut().iter_mut().for_each(|a| *a *= 1e4);
                let found = llama
                    .find_non_finite(&adapter, &batch(), &options(1.0, 0.0))
                    .unwrap()
                    .unwrap();
                assert_eq!(found.pass, Pass::Forward);
                let place = (found.layer, found.operation);
                assert_eq!(place, (Some(layer), Some(projection.into())));
                assert_eq!(found.max_activations.len(), 2);
                assert!(found.max_gradients.is_empty());
            }
        }
    }

    /// As the update grows, one sequence after the other overflows; those that did not are not blamed.
    #[test]
    fn only_sequences_that_overflow_are_named() {
        let llama = llama();
        let mut told_apart = 0;
        for exponent in 0..200 {
            let mut adapter = adapter(&llama);
            let factors = adapter.layers.get_mut(&(1, Projection::O)).unwrap();
            factors
                .b
                .data_mut()
                .fill(1e38 * 1.05_f32.powi(exponent - 40));
            let options = options(1.0, 0.0);
            let ends_forward = |batch| {
                let found = llama.find_non_finite(&adapter, &batch, &options).unwrap();
                found.is_some_and(|found| found.pass == Pass::Forward)
            };
            let bad: Vec<usize> = (0..3).filter(|index| ends_forward(alone(*index))).collect();
            for index in 0..3 {
                let [loss, _] = is_finite(&llama, &adapter, &alone(index), &options);
                assert!(loss || bad.contains(&index));
            }
            let found = llama.find_non_finite(&adapter, &batch(), &options).unwrap();
            let Some(found) = found.filter(|found| found.pass == Pass::Forward) else {
                assert!(bad.is_empty());
                continue;
            };
            assert_eq!(found.sequences, bad, "{found:?}");
            told_apart += usize::from(bad.len() < 3);
        }
        assert!(
            told_apart > 0,
            "the search never met a batch with an innocent row"
        );
    }

    /// Without the step's dropout the pass would be finite, and the search find nothing.
    #[test]
    fn the_dropout_of_the_step_is_used_again() {
        let llama = llama();
        let mut only_with_dropout = 0;
        for exponent in 0..60 {
            let mut adapter = adapter(&llama);
            let factors = adapter.layers.get_mut(&(0, Projection::V)).unwrap();
            factors.b.data_mut().fill(1e37 * 1.1_f32.powi(exponent));
            let [with, without] = [0.5, 0.0].map(|dropout| {
                is_finite(&llama, &adapter, &batch(), &options(1.0, dropout)) == [true; 2]
            });
            if !with && without {
                only_with_dropout += 1;
                let found = llama
                    .find_non_finite(&adapter, &batch(), &options(1.0, 0.5))
                    .unwrap();
                assert!(found.is_some());
            }
        }
        assert!(only_with_dropout > 0, "the search never met such an update");
    }

    /// `A = 0`: the update is 0 in the forward pass, however large `B` is, and the gradient of `A` is not.
    #[test]
    fn a_gradient_that_overflows_is_found_in_its_layer() {
        let llama = llama();
        let mut told_apart = 0;
        for exponent in 0..120 {
            let mut adapter = adapter(&llama);
            let factors = adapter.layers.get_mut(&(1, Projection::Up)).unwrap();
            factors.a.data_mut().fill(0.0);
            factors.b.data_mut().fill(3e38);
            let options = options(1e-2 * 1.2_f32.powi(exponent), 0.0);
            let [loss, gradient] = is_finite(&llama, &adapter, &batch(), &options);
            assert!(loss);
            let found = llama.find_non_finite(&adapter, &batch(), &options).unwrap();
            assert_eq!(
                found.is_none(),
                gradient,
                "scale {}",
                options.gradient_scale
            );
            let Some(found) = found else { continue };
            assert_eq!((found.pass, found.layer), (Pass::Backward, Some(1)));
            assert_eq!(found.operation, Some(Operation::UpProj));
            assert!(!found.sequences.is_empty() && !found.max_gradients.is_empty());
            let bad: Vec<usize> = (0..3)
                .filter(|index| !is_finite(&llama, &adapter, &alone(*index), &options)[1])
                .collect();
            // Where only their sum is too large, all are named.
            let expected = if bad.is_empty() { vec![0, 1, 2] } else { bad };
            assert_eq!(found.sequences, expected, "{found:?}");
            told_apart += usize::from(found.sequences.len() < 3);
        }
        assert!(
            told_apart > 0,
            "the search never met a batch with an innocent row"
        );
    }
}
