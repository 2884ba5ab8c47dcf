//! Decoding on a device. A step is some hundreds of launches, for which the host needs longer than the device for what they do: so it is
//! recorded, and done again with other rows.

use std::collections::HashMap;

use rag_tune_kernels::Tensor;
use rag_tune_kernels::attention::Cache;
use rag_tune_kernels::cuda::{DecodeShape, DecodeStep, DecodeTables, Device, Recording, Scratch};

use super::engine::Sequence;
use crate::error::ModelError;
use crate::linear::AppliedAdapter;
use crate::llama::Llama;

/// Steps with one model and adapter.
pub(super) struct DeviceSteps<'a> {
    passes: Passes<'a>,
    device: &'a Device,
    scratch: Scratch,
    shapes: HashMap<DecodeShape, Known>,
}

#[derive(Clone, Copy)]
struct Passes<'a> {
    model: &'a Llama,
    adapter: Option<&'a AppliedAdapter<'a>>,
}

/// A shape that came before.
struct Known {
    tables: DecodeTables,
    /// What a step of it does, and the logits that it leaves; none before the second one.
    recorded: Option<(Recording, Tensor)>,
}

impl<'a> DeviceSteps<'a> {
    pub(super) fn new(
        model: &'a Llama,
        adapter: Option<&'a AppliedAdapter<'a>>,
        device: &'a Device,
    ) -> Self {
        Self {
            passes: Passes { model, adapter },
            device,
            scratch: Scratch::new(device),
            shapes: HashMap::new(),
        }
    }

    /// Runs one token a row; returns the logits behind it, `[rows, vocab]` and more rows, on the device. The next call overwrites them.
    pub(super) fn run(
        &mut self,
        ids: &[u32],
        sequences: &mut [&mut Sequence],
    ) -> Result<Tensor, ModelError> {
        let keys: Vec<usize> = sequences.iter().map(|row| row.tokens + 1).collect();
        let shape = DecodeShape::of(&keys);
        for sequence in sequences.iter_mut() {
            sequence.tokens += 1;
        }
        let caches = sequences.iter_mut().map(|row| &mut row.caches[..]);
        let mut caches: Vec<&mut [Cache]> = caches.collect();
        let passes = self.passes;
        let Some(known) = self.shapes.get_mut(&shape) else {
            // It may never come again, and then a recording would not be worth its while.
            let mut tables = passes.tables(self.device, shape)?;
            let logits = passes.logits(&tables.begin(ids, &mut caches)?)?;
            let recorded = None;
            self.shapes.insert(shape, Known { tables, recorded });
            return Ok(logits);
        };
        let step = known.tables.begin(ids, &mut caches)?;
        let logits = match &mut known.recorded {
            Some((recording, logits)) => {
                // SAFETY: model and adapter are borrowed as long as `self`, the tables lie beside the recording, and `begin` has filled
                // them within the same limits, for caches that `step` has borrowed.
                unsafe { recording.replay() }?;
                logits
            }
            none => {
                let work = || passes.logits(&step);
                let recorded = self.device.record(&self.scratch, work)?;
                &mut none.insert(recorded).1
            }
        };
        Ok(logits.clone())
    }
}

impl Passes<'_> {
    fn tables(self, device: &Device, shape: DecodeShape) -> Result<DecodeTables, ModelError> {
        let config = self.model.config();
        let limits = [config.vocab_size, self.model.rope.positions()];
        let layers = config.num_hidden_layers;
        let heads = self.model.heads();
        Ok(DecodeTables::new(device, heads, layers, limits, shape)?)
    }

    /// Logits of all rows of the tables, on the device. Nothing here may depend on what the step's rows are.
    fn logits(self, step: &DecodeStep<'_>) -> Result<Tensor, ModelError> {
        let context = self.model.context(step.positions(), self.adapter, None);
        let mut x = step.embed(&self.model.embedding)?;
        for (layer, block) in self.model.blocks.iter().enumerate() {
            let inputs = block.projected(&x, context)?;
            let qk = [&inputs.q, &inputs.k];
            let attended = step.attend(layer, context.rope, qk, &inputs.v)?;
            drop(inputs);
            x = block.after_attention(x, attended, context)?;
        }
        self.model.logits_of(&x)
    }
}
