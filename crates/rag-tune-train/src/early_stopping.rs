//! When a run stops because it gets no better, and which of its adapters was the best.

use serde::{Deserialize, Serialize};

use crate::config::{ValidationConfig, ValidationMetric};

/// The best validation of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// The optimizer step before it.
    pub step: usize,
    /// What was measured. As f32, because its decimal text is read back to the bit: a resumed run
    /// must compare with the same number.
    pub value: f32,
}

/// What a run's validations have shown so far.
///
/// The adapter that is kept and the patience look at the same values with different eyes: the best
/// adapter is the best however small its lead, while patience asks for `min_improvement`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyStopping {
    /// The best validation; the earlier one where values are equal.
    pub best: Option<Best>,
    /// The value that an improvement is measured from: that of the last improvement.
    pub reference: Option<f32>,
    /// Validations since the last improvement.
    pub without_improvement: usize,
}

impl EarlyStopping {
    /// Takes in the value after `step`; returns whether it is the best so far.
    pub fn add(&mut self, config: &ValidationConfig, step: usize, value: f32) -> bool {
        let gain_over = |before: f32| match config.metric {
            ValidationMetric::Loss => before - value,
            ValidationMetric::Task => value - before,
        };
        let improves = self
            .reference
            .is_none_or(|reference| gain_over(reference) > config.min_improvement);
        if improves {
            self.reference = Some(value);
            self.without_improvement = 0;
        } else {
            self.without_improvement += 1;
        }
        let is_best = self.best.is_none_or(|best| gain_over(best.value) > 0.0);
        if is_best {
            self.best = Some(Best { step, value });
        }
        is_best
    }

    /// Whether the run's patience is at its end.
    pub fn is_exhausted(&self, config: &ValidationConfig) -> bool {
        config.is_on() && config.patience > 0 && self.without_improvement >= config.patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config(metric: ValidationMetric, patience: usize, min_improvement: f32) -> ValidationConfig {
        ValidationConfig {
            every: 1,
            metric,
            patience,
            min_improvement,
            ..Default::default()
        }
    }

    /// The number of values after which the run stops, if it does, and what is known then.
    fn run(config: &ValidationConfig, values: &[f32]) -> (Option<usize>, EarlyStopping) {
        let mut state = EarlyStopping::default();
        for (index, value) in values.iter().enumerate() {
            state.add(config, index + 1, *value);
            if state.is_exhausted(config) {
                return (Some(index + 1), state);
            }
        }
        (None, state)
    }

    #[test]
    fn a_loss_that_rises_uses_up_the_patience() {
        let values = [2.0, 1.5, 1.6, 1.4, 1.41, 1.4, 1.3];
        let (stopped, state) = run(&config(ValidationMetric::Loss, 2, 0.0), &values);
        assert_eq!(stopped, Some(6), "1.41 and an equal 1.4 are no improvement");
        assert_eq!(
            state.best,
            Some(Best {
                step: 4,
                value: 1.4
            })
        );
    }

    /// Patience wants 0.25 at a time, and small gains add up to it; the adapter that is kept is the best all the same.
    #[test]
    fn small_gains_do_not_reset_patience_but_are_kept() {
        let config = config(ValidationMetric::Task, 2, 0.25);
        let (stopped, state) = run(&config, &[0.1, 0.2, 0.4, 0.5, 0.55, 0.9]);
        assert_eq!(stopped, Some(5));
        assert_eq!(state.best.unwrap().step, 5);
        assert_eq!(state.reference, Some(0.4));
    }

    fn values() -> impl Strategy<Value = Vec<f32>> {
        // Few different values, so that equal ones happen.
        prop::collection::vec((0_u8..20).prop_map(|value| f32::from(value) / 8.0), 1..30)
    }

    proptest! {
        #[test]
        fn it_stops_exactly_when_the_last_improvement_is_patience_validations_ago(
            values in values(), patience in 0_usize..5, min_improvement in prop::sample::select(vec![0.0, 0.25, 1.0]),
        ) {
            let config = config(ValidationMetric::Loss, patience, min_improvement);
            // The same by looking at the whole series: each improvement is the first value low enough below the one before.
            let mut improvements = vec![0];
            for at in 1..values.len() {
                let last = *improvements.last().unwrap();
                if patience > 0 && at - last > patience { break; }
                if values[last] - values[at] > min_improvement { improvements.push(at); }
            }
            let expected = improvements.last().unwrap() + patience;
            let expected = (patience > 0 && expected < values.len()).then_some(expected + 1);
            prop_assert_eq!(run(&config, &values).0, expected);
        }

        #[test]
        fn the_best_is_the_first_of_the_best_values(values in values()) {
            let (_, state) = run(&config(ValidationMetric::Loss, 0, 0.5), &values);
            let lowest = values.iter().copied().fold(f32::INFINITY, f32::min);
            let step = values.iter().position(|value| *value == lowest).unwrap() + 1;
            prop_assert_eq!(state.best, Some(Best { step, value: lowest }));
        }

        #[test]
        fn a_run_that_always_improves_is_never_stopped(count in 1_usize..40, patience in 1_usize..4) {
            let rising: Vec<f32> = (0..count).map(|at| at as f32).collect();
            prop_assert_eq!(run(&config(ValidationMetric::Task, patience, 0.5), &rising).0, None);
        }

        #[test]
        fn loss_and_task_are_mirror_images(values in values(), patience in 0_usize..5) {
            let mirrored: Vec<f32> = values.iter().map(|value| -value).collect();
            let (stopped, state) = run(&config(ValidationMetric::Loss, patience, 0.25), &values);
            let (mirror, mirror_state) = run(&config(ValidationMetric::Task, patience, 0.25), &mirrored);
            prop_assert_eq!(stopped, mirror);
            prop_assert_eq!(state.best.unwrap().step, mirror_state.best.unwrap().step);
        }

        #[test]
        fn a_checkpoint_gives_the_same_state_back(value in any::<f32>().prop_filter("finite", |value| value.is_finite())) {
            let mut state = EarlyStopping::default();
            state.add(&config(ValidationMetric::Loss, 1, 0.0), 7, value);
            let text = serde_json::to_string(&state).unwrap();
            prop_assert_eq!(serde_json::from_str::<EarlyStopping>(&text).unwrap(), state);
        }
    }
}
