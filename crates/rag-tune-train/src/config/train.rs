//! `[train]`: batches, optimizer, schedule, checkpoints.

use serde::{Deserialize, Serialize};

/// `[train]`: batches, optimizer, schedule, checkpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// `adamw`, or `adamw_8bit`: its state takes 2 bytes a trained value instead of 8, as in bitsandbytes.
    pub optimizer: OptimizerKind,
    /// Peak learning rate of AdamW.
    pub learning_rate: f32,
    /// Tokens that go through the model at once; rows are packed without padding. Memory grows with it.
    pub tokens_per_micro_batch: usize,
    /// Rows an optimizer step, reached by accumulation over micro-batches. Default 128; excludes `grad_accum_steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<usize>,
    /// Micro-batches an optimizer step, each packed as full as the rows of the whole epoch allow.
    /// Excludes `batch_size`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_accum_steps: Option<usize>,
    /// Steps over which the learning rate rises from 0. Default 100; excludes `warmup_ratio`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<usize>,
    /// The warmup as a share of all steps, in `[0, 1]`. Excludes `warmup_steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_ratio: Option<f32>,
    /// Optimizer steps. Default 600; excludes `epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<usize>,
    /// Passes over the training rows. Excludes `max_steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f32>,
    /// What the learning rate does after the warmup: `cosine` or `linear` (down to 0), `constant`, or `wsd`
    /// (constant, then linear down to 0 over the last steps).
    pub schedule: Schedule,
    /// `wsd`: the share of all steps over which the learning rate falls at the end.
    pub decay_ratio: f32,
    /// The most tokens of a row, its end of sequence included.
    pub max_length: usize,
    /// What becomes of longer rows, which are counted: `drop` leaves them out, `left` cuts the left of
    /// their prompt (never answer or end of sequence), `error` refuses to train.
    pub truncation: Truncation,
    /// Which tokens carry loss: `completion` (answer and end of sequence) or `all`.
    pub loss_on: LossOn,
    /// Steps between checkpoints.
    pub checkpoint_every: usize,
    /// Checkpoints that are kept: the last ones, so that a damaged one costs little.
    pub keep_checkpoints: usize,
    /// Steps in a row that may be skipped because loss or gradient are not finite: such a step updates nothing and is
    /// a line of `non_finite.jsonl`. One more stops the run; 0 stops it at the first.
    pub max_non_finite_steps: usize,
    /// Gradients are scaled down to this norm; 0 turns clipping off.
    pub max_grad_norm: f32,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f32,
    /// AdamW's decay of the first moment.
    pub beta1: f32,
    /// AdamW's decay of the second moment.
    pub beta2: f32,
    /// AdamW's denominator offset.
    pub epsilon: f32,
    /// What is kept for the backward pass: `all`, `selective` (norms and the SwiGLU product are computed again),
    /// `full` (block inputs only: least memory, a third more time), or `auto` (`selective`, or `full` where that would
    /// not fit into memory). All give the same gradients.
    pub activations: Activations,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            optimizer: OptimizerKind::AdamW,
            learning_rate: 3e-4,
            tokens_per_micro_batch: 4096,
            batch_size: None,
            grad_accum_steps: None,
            warmup_steps: None,
            warmup_ratio: None,
            max_steps: None,
            epochs: None,
            schedule: Schedule::Cosine,
            decay_ratio: 0.1,
            max_length: 1024,
            truncation: Truncation::Drop,
            loss_on: LossOn::Completion,
            checkpoint_every: 50,
            keep_checkpoints: 2,
            max_non_finite_steps: 3,
            max_grad_norm: 1.0,
            weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            activations: Activations::Auto,
        }
    }
}

impl TrainConfig {
    /// Optimizer steps when neither `max_steps` nor `epochs` is given: the original experiment's.
    pub const DEFAULT_MAX_STEPS: usize = 600;
    /// Warmup when neither `warmup_steps` nor `warmup_ratio` is given: the original experiment's.
    pub const DEFAULT_WARMUP_STEPS: usize = 100;

    /// Rows a step when neither `batch_size` nor `grad_accum_steps` is given: the original experiment's.
    pub const DEFAULT_BATCH_SIZE: usize = 128;

    /// What an optimizer step is made of.
    pub fn step_size(&self) -> StepSize {
        match (self.batch_size, self.grad_accum_steps) {
            (Some(rows), _) => StepSize::Rows(rows),
            (None, Some(count)) => StepSize::MicroBatches(count),
            (None, None) => StepSize::Rows(Self::DEFAULT_BATCH_SIZE),
        }
    }

    /// How long a run is.
    pub fn run_length(&self) -> RunLength {
        match (self.max_steps, self.epochs) {
            (Some(steps), _) => RunLength::Steps(steps),
            (None, Some(epochs)) => RunLength::Epochs(epochs),
            (None, None) => RunLength::Steps(Self::DEFAULT_MAX_STEPS),
        }
    }

    /// Warmup steps of a run of `total_steps`.
    pub fn warmup(&self, total_steps: usize) -> usize {
        match (self.warmup_steps, self.warmup_ratio) {
            (Some(steps), _) => steps,
            (None, Some(ratio)) => (total_steps as f64 * f64::from(ratio)).round() as usize,
            (None, None) => Self::DEFAULT_WARMUP_STEPS,
        }
    }

    /// Every problem of the section, each naming its key.
    pub fn validate(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, text: &str| {
            if !ok {
                problems.push(text.to_owned());
            }
        };
        check(
            self.learning_rate > 0.0 && self.learning_rate.is_finite(),
            "`train.learning_rate` must be above 0",
        );
        check(
            self.batch_size.is_none() || self.grad_accum_steps.is_none(),
            "`train.batch_size` and `train.grad_accum_steps` exclude each other: remove one",
        );
        check(
            self.batch_size != Some(0),
            "`train.batch_size` must be at least 1",
        );
        check(
            self.grad_accum_steps != Some(0),
            "`train.grad_accum_steps` must be at least 1",
        );
        check(
            self.max_length >= 2,
            "`train.max_length` must be at least 2 tokens",
        );
        check(
            self.tokens_per_micro_batch >= self.max_length,
            "`train.tokens_per_micro_batch` must be at least `train.max_length`: a row is never split",
        );
        check(
            self.checkpoint_every > 0,
            "`train.checkpoint_every` must be at least 1",
        );
        check(
            self.keep_checkpoints > 0,
            "`train.keep_checkpoints` must be at least 1",
        );
        check(
            self.max_steps.is_none() || self.epochs.is_none(),
            "`train.max_steps` and `train.epochs` exclude each other: remove one",
        );
        check(
            self.max_steps != Some(0),
            "`train.max_steps` must be at least 1",
        );
        check(
            self.epochs
                .is_none_or(|epochs| epochs > 0.0 && epochs.is_finite()),
            "`train.epochs` must be above 0",
        );
        check(
            self.warmup_steps.is_none() || self.warmup_ratio.is_none(),
            "`train.warmup_steps` and `train.warmup_ratio` exclude each other: remove one",
        );
        check(
            self.warmup_ratio
                .is_none_or(|ratio| (0.0..=1.0).contains(&ratio)),
            "`train.warmup_ratio` must be 0 to 1",
        );
        check(
            (0.0..=1.0).contains(&self.decay_ratio),
            "`train.decay_ratio` must be 0 to 1",
        );
        check(
            self.max_grad_norm >= 0.0,
            "`train.max_grad_norm` must be at least 0 (0 turns clipping off)",
        );
        check(
            self.weight_decay >= 0.0,
            "`train.weight_decay` must be at least 0",
        );
        check(
            (0.0..1.0).contains(&self.beta1),
            "`train.beta1` must be at least 0 and below 1",
        );
        check(
            (0.0..1.0).contains(&self.beta2),
            "`train.beta2` must be at least 0 and below 1",
        );
        check(self.epsilon > 0.0, "`train.epsilon` must be above 0");
        problems
    }
}

/// What an optimizer step is made of. A short last step of an epoch is a step too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepSize {
    /// So many rows, in as few micro-batches as they take.
    Rows(usize),
    /// So many micro-batches, as full as can be.
    MicroBatches(usize),
}

/// How long a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RunLength {
    /// Optimizer steps.
    Steps(usize),
    /// Passes over the rows.
    Epochs(f32),
}

/// What becomes of rows with more tokens than `max_length`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Truncation {
    /// They are left out.
    #[default]
    Drop,
    /// Their prompts lose tokens on the left, behind the beginning of sequence. A row whose answer
    /// alone is too long is left out.
    Left,
    /// Training does not start.
    Error,
}

/// What updates the adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OptimizerKind {
    /// AdamW with its moments in f32.
    #[serde(rename = "adamw")]
    AdamW,
    /// AdamW with its moments in 8 bits, as bitsandbytes' `AdamW8bit` has them.
    #[serde(rename = "adamw_8bit")]
    AdamW8bit,
}

/// What the learning rate does after the warmup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Half a cosine down to 0 at the last step.
    Cosine,
    /// A straight line down to 0 at the last step.
    Linear,
    /// It stays at its peak.
    Constant,
    /// Warmup, stable, decay (arXiv:2404.06395): it stays at its peak, then falls to 0 in a straight line.
    Wsd,
}

/// Which tokens carry loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossOn {
    /// The answer and the end-of-sequence token.
    Completion,
    /// Every token but the first.
    All,
}

/// What the forward pass keeps for the backward pass. All give the same gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activations {
    /// `selective`, or `full` where that would not fit into memory.
    Auto,
    /// Keep everything.
    All,
    /// Recompute the norms and the SwiGLU product: little more than half of the memory of keeping all.
    Selective,
    /// Keep only each block's input and recompute the rest: least memory, a third more time.
    Full,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_original_experiment() {
        let config = TrainConfig::default();
        assert_eq!(config.step_size(), StepSize::Rows(128));
        assert_eq!(config.run_length(), RunLength::Steps(600));
        assert_eq!(config.warmup(600), 100);
        assert!(config.validate().is_empty());
    }

    #[test]
    fn a_step_is_rows_or_micro_batches_not_both() {
        let mut config = TrainConfig {
            grad_accum_steps: Some(4),
            warmup_ratio: Some(0.05),
            ..Default::default()
        };
        assert_eq!(config.step_size(), StepSize::MicroBatches(4));
        assert_eq!(config.warmup(248), 12);
        assert!(config.validate().is_empty());
        config.batch_size = Some(128);
        assert!(config.validate()[0].contains("exclude each other"));
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let config = TrainConfig {
            learning_rate: 0.0,
            max_steps: Some(3),
            epochs: Some(1.0),
            tokens_per_micro_batch: 10,
            ..Default::default()
        };
        assert_eq!(config.validate().len(), 3, "{:?}", config.validate());
    }
}
