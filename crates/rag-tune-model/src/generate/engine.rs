//! The model's passes over cached sequences: prompts, beginnings that they share, and one token a row.

use rag_tune_kernels::attention::{self, Cache};
use rag_tune_kernels::{KernelError, Sequences, Tensor};
use rayon::prelude::*;

use super::device_steps::DeviceSteps;
use crate::error::ModelError;
use crate::linear::AppliedAdapter;
use crate::llama::Llama;

/// Tokens that went through the model, with the keys and values that they left.
#[derive(Clone, Default)]
pub(super) struct Sequence {
    /// How many.
    pub(super) tokens: usize,
    /// One a layer; none before the first pass. A clone shares what is there.
    pub(super) caches: Vec<Cache>,
}

/// How new tokens attend. The two agree to rounding only, so each place in a row has its own, whatever runs beside it.
#[derive(Clone, Copy)]
enum Pass {
    /// Any number of tokens, as in a pass over whole sequences.
    Prompt,
    /// One token a row, in host memory.
    Next,
}

pub(super) struct Engine<'a> {
    pub(super) model: &'a Llama,
    adapter: Option<&'a AppliedAdapter<'a>>,
    /// Where the model is on one.
    device_steps: Option<DeviceSteps<'a>>,
}

impl<'a> Engine<'a> {
    pub(super) fn new(model: &'a Llama, adapter: Option<&'a AppliedAdapter<'a>>) -> Self {
        let steps = |device| DeviceSteps::new(model, adapter, device);
        Self {
            model,
            adapter,
            device_steps: model.device().map(steps),
        }
    }

    /// Runs `prompt`, with which other prompts begin.
    pub(super) fn prefix(&self, prompt: &[u32]) -> Result<Sequence, ModelError> {
        let mut sequence = Sequence::default();
        self.extend(&[prompt], &mut [&mut sequence], Pass::Prompt)?;
        Ok(sequence)
    }

    /// Runs what each of `prompts` has behind its sequence; returns the logits `[prompts, vocab]` of their last tokens, where they are
    /// computed.
    pub(super) fn prefill(
        &self,
        prompts: &[&[u32]],
        sequences: &mut [&mut Sequence],
    ) -> Result<Tensor, ModelError> {
        let x = self.extend(prompts, sequences, Pass::Prompt)?;
        let ends = prompts.iter().scan(0, |end, prompt| {
            *end += prompt.len();
            Some(*end - 1)
        });
        let last = x.gather_rows(&ends.collect::<Vec<_>>())?;
        self.model.logits_of(&last)
    }

    /// Runs one token a row; returns the logits behind it where they are computed: `[rows, vocab]` or more. Each sequence has run a
    /// prompt, and what the last call has returned is of no more use.
    ///
    /// Runs on a thread of the pool, so that operations too small for tasks cost no message to one.
    pub(super) fn decode(
        &mut self,
        ids: &[u32],
        sequences: &mut [&mut Sequence],
    ) -> Result<Tensor, ModelError> {
        rayon::scope(|_| {
            if let Some(steps) = &mut self.device_steps {
                return steps.run(ids, sequences);
            }
            let new: Vec<&[u32]> = ids.chunks(1).collect();
            let x = self.extend(&new, sequences, Pass::Next)?;
            self.model.logits_of(&x)
        })
    }

    /// Runs `new` tokens behind each of `sequences`; returns the last block's output, packed.
    fn extend(
        &self,
        new: &[&[u32]],
        sequences: &mut [&mut Sequence],
        pass: Pass,
    ) -> Result<Tensor, ModelError> {
        let lengths: Vec<usize> = new.iter().map(|ids| ids.len()).collect();
        let packed = Sequences::from_lengths(&lengths)?;
        let positions = sequences.iter().zip(&lengths);
        let positions: Vec<u32> = positions
            .flat_map(|(sequence, length)| (sequence.tokens..).take(*length))
            .map(|position| position as u32)
            .collect();
        let positions = positions.into();
        let context = self.model.context(&positions, self.adapter, None);
        for sequence in sequences.iter_mut() {
            let empty = || self.model.empty_cache(context.heads);
            sequence.caches.resize_with(self.model.blocks.len(), empty);
        }
        let mut x = self.model.embedding.gather_rows(&new.concat())?;
        for (layer, block) in self.model.blocks.iter().enumerate() {
            let inputs = block.attention_inputs(&x, context)?;
            let push = |(sequence, range): (&mut &mut Sequence, _)| {
                sequence.caches[layer].push(&inputs.k, &inputs.v, range)
            };
            match pass {
                Pass::Prompt => {
                    let ranges: Vec<_> = packed.ranges().collect();
                    let rows = sequences.par_iter_mut().zip(ranges);
                    rows.map(push).collect::<Result<(), KernelError>>()?;
                }
                // A row of numbers a cache is not worth a task.
                Pass::Next => sequences
                    .iter_mut()
                    .zip(packed.ranges())
                    .try_for_each(push)?,
            }
            let caches: Vec<&Cache> = sequences.iter().map(|row| &row.caches[layer]).collect();
            let attended = match pass {
                Pass::Prompt => attention::behind(&inputs.q, &packed, &caches, context.heads),
                Pass::Next => attention::decode(&inputs.q, &caches, context.heads),
            };
            drop(inputs);
            x = block.after_attention(x, attended?, context)?;
        }
        for (sequence, length) in sequences.iter_mut().zip(&lengths) {
            sequence.tokens += length;
        }
        Ok(x)
    }
}
