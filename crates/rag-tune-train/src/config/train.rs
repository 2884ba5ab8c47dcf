//! `[train]`: batches, optimizer, schedule, checkpoints.

use serde::{Deserialize, Serialize};

/// `[train]`: batches, optimizer, schedule, checkpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Peak learning rate of AdamW.
    pub learning_rate: f32,
    /// Tokens that go through the model at once; rows are packed without padding. Memory grows with it.
    pub tokens_per_micro_batch: usize,
    /// Rows an optimizer step, reached by accumulation over micro-batches.
    pub batch_size: usize,
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
    /// Rows with more tokens are left out of training, and counted.
    pub max_length: usize,
    /// Which tokens carry loss: `completion` (answer and end of sequence) or `all`.
    pub loss_on: LossOn,
    /// Steps between checkpoints.
    pub checkpoint_every: usize,
    /// Checkpoints that are kept: the last ones, so that a damaged one costs little.
    pub keep_checkpoints: usize,
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
    /// `full` (block inputs only: least memory, a third more time), or `auto` (the first of them that fits into
    /// memory). All give the same gradients.
    pub activations: Activations,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            learning_rate: 3e-4,
            tokens_per_micro_batch: 4096,
            batch_size: 128,
            warmup_steps: None,
            warmup_ratio: None,
            max_steps: None,
            epochs: None,
            schedule: Schedule::Cosine,
            decay_ratio: 0.1,
            max_length: 1024,
            loss_on: LossOn::Completion,
            checkpoint_every: 50,
            keep_checkpoints: 2,
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

    /// Optimizer steps of a run over `rows` training rows.
    ///
    /// The last batch of an epoch may be short; it is a step too.
    pub fn total_steps(&self, rows: usize) -> usize {
        match (self.max_steps, self.epochs) {
            (Some(steps), _) => steps,
            (None, Some(epochs)) => {
                let per_epoch = rows.div_ceil(self.batch_size);
                ((per_epoch as f64 * f64::from(epochs)).round() as usize).max(1)
            }
            (None, None) => Self::DEFAULT_MAX_STEPS,
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
        check(self.batch_size > 0, "`train.batch_size` must be at least 1");
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
    /// `all`, `selective` or `full`: the first that fits into memory.
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
        assert_eq!(config.total_steps(3961), 600);
        assert_eq!(config.warmup(600), 100);
        assert!(config.validate().is_empty());
    }

    #[test]
    fn an_epoch_counts_its_short_last_batch() {
        let config = TrainConfig {
            batch_size: 16,
            epochs: Some(1.0),
            warmup_ratio: Some(0.05),
            ..Default::default()
        };
        assert_eq!(config.total_steps(3961), 248);
        assert_eq!(config.warmup(248), 12);
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
