//! `[validation]`: judging the adapter while it is trained.

use serde::{Deserialize, Serialize};

/// `[validation]`: judging the adapter while it is trained, and stopping when it gets no better.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ValidationConfig {
    /// Steps between validations; the last step has one too. 0: no validation.
    pub every: usize,
    /// What is measured: `loss` (nats per supervised token, without dropout) or `task` (answers are generated
    /// and scored as `rag-tune eval` does it).
    pub metric: ValidationMetric,
    /// Rows that are looked at, spread over the split by the seed, every time the same.
    pub rows: usize,
    /// Split that they are of. Empty: `eval.split`.
    pub split: String,
    /// The run stops after so many validations in a row without improvement; 0 never stops it.
    pub patience: usize,
    /// Smallest difference to the value before that counts as improvement, for `patience` alone: nats, or a share
    /// of the rows.
    pub min_improvement: f32,
    /// The adapter that the run ends with: `best` (of the validation with the best value) or `last`.
    pub keep: KeptAdapter,
}

impl Default for ValidationConfig {
    fn default() -> Self {
        Self {
            every: 0,
            metric: ValidationMetric::Loss,
            rows: 100,
            split: String::new(),
            patience: 0,
            min_improvement: 0.0,
            keep: KeptAdapter::Best,
        }
    }
}

impl ValidationConfig {
    /// Whether there is any validation.
    pub fn is_on(&self) -> bool {
        self.every > 0
    }

    /// Whether `step` of a run of `total` steps is followed by a validation.
    pub fn is_due(&self, step: usize, total: usize) -> bool {
        self.is_on() && (step.is_multiple_of(self.every) || step == total)
    }

    /// Every problem of the section, each naming its key.
    pub fn validate(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.rows == 0 {
            problems.push(
                "`validation.rows` must be at least 1; `validation.every = 0` turns validation off"
                    .to_owned(),
            );
        }
        if !(self.min_improvement >= 0.0 && self.min_improvement.is_finite()) {
            problems.push(format!(
                "`validation.min_improvement` must be at least 0, got {}",
                self.min_improvement
            ));
        }
        if self.patience > 0 && !self.is_on() {
            problems.push(
                "`validation.patience` counts validations, and `validation.every` is 0: set it to the steps between two"
                    .to_owned(),
            );
        }
        problems
    }
}

/// What a validation measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValidationMetric {
    /// Nats per supervised token; lower is better.
    Loss,
    /// The task's main metric, from 0 to 1; higher is better.
    Task,
}

/// The adapter that a run ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeptAdapter {
    /// That of the best validation; the last where there was none.
    Best,
    /// That of the last step.
    Last,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_off() {
        let config = ValidationConfig::default();
        assert!(config.validate().is_empty());
        assert!(!config.is_due(600, 600));
    }

    #[test]
    fn the_last_step_is_judged_too() {
        let config = ValidationConfig {
            every: 4,
            ..Default::default()
        };
        let due: Vec<usize> = (1..=10).filter(|step| config.is_due(*step, 10)).collect();
        assert_eq!(due, [4, 8, 10]);
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let config = ValidationConfig {
            rows: 0,
            min_improvement: f32::NAN,
            patience: 2,
            ..Default::default()
        };
        assert_eq!(config.validate().len(), 3, "{:?}", config.validate());
    }
}
