//! Predictions, corrected by what steps of the same kind took.

use std::collections::BTreeMap;

use super::cell::Step;

/// Steps whose predictions are wrong in the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Augment,
    Train,
    AnswerTuned,
    AnswerUntrained,
}

impl Kind {
    fn of(step: &Step) -> Self {
        match step {
            Step::Augment { .. } => Self::Augment,
            Step::Train { .. } => Self::Train,
            Step::Evaluate(cell) if cell.adapter.is_some() => Self::AnswerTuned,
            Step::Evaluate(_) => Self::AnswerUntrained,
        }
    }
}

/// Added to both sides, so that steps of less than a second do not decide.
const SMOOTHING_S: f64 = 1.0;

/// How far off predictions were, by kind of step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Corrections {
    /// Predicted and taken seconds of finished steps.
    seconds: BTreeMap<Kind, (f64, f64)>,
}

impl Corrections {
    /// Takes note of a finished step.
    pub fn learn(&mut self, step: &Step, predicted_s: f64, taken_s: f64) {
        if predicted_s > 0.0 && taken_s > 0.0 {
            let (predicted, taken) = self.seconds.entry(Kind::of(step)).or_default();
            *predicted += predicted_s;
            *taken += taken_s;
        }
    }

    /// A prediction as it looks by now.
    pub fn expected(&self, step: &Step, predicted_s: f64) -> f64 {
        let factor = self.seconds.get(&Kind::of(step));
        let factor =
            factor.map(|(predicted, taken)| (taken + SMOOTHING_S) / (predicted + SMOOTHING_S));
        predicted_s * factor.unwrap_or(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reproduce::cell::{Cell, Prompts, Task};

    #[test]
    fn a_kind_of_step_is_corrected_by_its_own_kind() {
        let train = |seed| Step::Train {
            task: Task::Sql,
            prompts: Prompts::ZeroShot,
            seed,
        };
        let answer = Step::Evaluate(Cell::tuned(Task::Sql, Prompts::ZeroShot, 1));
        let mut corrections = Corrections::default();
        assert_eq!(corrections.expected(&train(1), 10.0), 10.0);
        corrections.learn(&train(1), 10.0, 30.0);
        corrections.learn(&train(2), 29.0, 29.0);
        // 60 / 40, a second added to each.
        assert_eq!(corrections.expected(&train(3), 10.0), 15.0);
        assert_eq!(corrections.expected(&answer, 10.0), 10.0);
    }
}
