//! Steps whose loss or gradient is not finite: they update nothing, and are written down.

use std::fmt;

use rag_tune_model::non_finite::{NonFinite, Operation, Pass};
use serde::{Deserialize, Serialize};

/// File with a line a skipped step; there is none where every step was finite.
pub const NON_FINITE_FILE: &str = "non_finite.jsonl";

/// What was not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// The loss of a micro-batch.
    Loss,
    /// The gradient, of a finite loss.
    Gradient,
}

/// One line of `non_finite.jsonl`: a step that updated neither adapter nor optimizer.
///
/// Where the numbers ended is found by running the micro-batch once more. `pass` is missing if it then was finite, as
/// when only the sum over several micro-batches is too large.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SkippedStep {
    /// Counts from 1; the step is not done again.
    pub step: usize,
    /// What was not finite.
    pub what: Quantity,
    /// The micro-batch of the step, from 0; those after it were not run.
    pub micro_batch: usize,
    /// The half of the pass in which it began.
    pub pass: Option<Pass>,
    /// The layer in which it began, from 0; missing for the output head.
    pub layer: Option<usize>,
    /// The operation in which it began.
    pub operation: Option<Operation>,
    /// Indices of the training rows concerned, from 0; the other rows of the micro-batch are innocent.
    pub rows: Vec<usize>,
    /// Largest finite absolute value of each layer's output, from the first layer to the last.
    pub max_activations: Vec<f32>,
    /// Largest finite absolute value of the gradient of each layer's input, from the last layer to the first.
    pub max_gradients: Vec<f32>,
    /// Learning rate that the step would have had.
    pub lr: f32,
}

impl SkippedStep {
    /// Adds what the search found in a micro-batch of these rows.
    pub(crate) fn locate(&mut self, found: Option<NonFinite>, rows: &[usize]) {
        let Some(found) = found else {
            self.rows = rows.to_vec();
            return;
        };
        self.pass = Some(found.pass);
        (self.layer, self.operation) = (found.layer, found.operation);
        self.rows = found.sequences.iter().map(|index| rows[*index]).collect();
        (self.max_activations, self.max_gradients) = (found.max_activations, found.max_gradients);
    }
}

impl fmt::Display for SkippedStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.what {
            Quantity::Loss => "loss",
            Quantity::Gradient => "gradient",
        };
        write!(f, "step {}: the {what} is not finite, ", self.step)?;
        match self.pass {
            Some(pass) => {
                let pass = match pass {
                    Pass::Forward => "forward",
                    Pass::Backward => "backward",
                };
                let operation = self.operation.map(|operation| operation.to_string());
                let operation = operation.as_deref().unwrap_or("the input");
                write!(f, "first in {operation}")?;
                if let Some(layer) = self.layer {
                    write!(f, " of layer {layer}")?;
                }
                write!(f, " ({pass} pass)")?;
            }
            None => write!(f, "but each pass run again is")?,
        }
        write!(f, "; training rows {:?}", self.rows)
    }
}
