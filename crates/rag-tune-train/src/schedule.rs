//! The learning rate of a step.
//!
//! Formulas are those of transformers' schedules, one step ahead: their step 0 has rate 0 after a
//! warmup of its own kind, ours never does, so that no step is wasted.

use crate::config::{Schedule, TrainConfig};

/// Linear warmup, then what the [`Schedule`] says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LearningRate {
    peak: f32,
    warmup: usize,
    total: usize,
    /// Steps of `wsd`'s decay.
    decay: usize,
    schedule: Schedule,
}

impl LearningRate {
    /// The schedule of a run of `total` steps.
    pub fn new(config: &TrainConfig, total: usize) -> Self {
        let warmup = config.warmup(total);
        let decay = (total as f64 * f64::from(config.decay_ratio)).round() as usize;
        Self {
            peak: config.learning_rate,
            warmup,
            total,
            // It begins at the peak: without this it would jump down after a warmup that it overlaps.
            decay: decay.min(total.saturating_sub(warmup)),
            schedule: config.schedule,
        }
    }

    /// The learning rate of `step`, which counts from 1. No step has rate 0.
    pub fn at(&self, step: usize) -> f32 {
        if step <= self.warmup {
            return self.peak * step as f32 / self.warmup as f32;
        }
        // The step after the last would have rate 0.
        let left = (self.total.max(step) + 1 - step) as f64;
        let whole = (self.total.max(step) + 1 - self.warmup) as f64;
        let factor = match self.schedule {
            Schedule::Constant => 1.0,
            Schedule::Cosine => 0.5 * (1.0 - (std::f64::consts::PI * left / whole).cos()),
            Schedule::Linear => left / whole,
            Schedule::Wsd => (left / (self.decay + 1) as f64).min(1.0),
        };
        (f64::from(self.peak) * factor) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(schedule: Schedule, total: usize) -> Vec<f32> {
        let config = TrainConfig {
            learning_rate: 1.0,
            warmup_steps: Some(4),
            schedule,
            ..Default::default()
        };
        let rate = LearningRate::new(&config, total);
        (1..=total).map(|step| rate.at(step)).collect()
    }

    #[test]
    fn warmup_rises_to_the_peak_and_the_cosine_falls_from_it() {
        let rates = rates(Schedule::Cosine, 11);
        assert_eq!(rates[..4], [0.25, 0.5, 0.75, 1.0]);
        assert!(rates[3..].windows(2).all(|pair| pair[1] < pair[0]));
        assert!(
            (rates[7] - 0.5).abs() < 1e-6,
            "half way down in the middle: {rates:?}"
        );
        assert!(rates.iter().all(|rate| *rate > 0.0));
    }

    #[test]
    fn linear_falls_by_the_same_each_step() {
        let rates = rates(Schedule::Linear, 11);
        let falls: Vec<f32> = rates[3..]
            .windows(2)
            .map(|pair| pair[0] - pair[1])
            .collect();
        assert!(
            falls.iter().all(|fall| (fall - 0.125).abs() < 1e-6),
            "{rates:?}"
        );
        assert!((rates[10] - 0.125).abs() < 1e-6);
    }

    #[test]
    fn wsd_stays_and_falls_at_the_end() {
        let rates = rates(Schedule::Wsd, 20);
        assert!(rates[3..18].iter().all(|rate| *rate == 1.0), "{rates:?}");
        assert!((rates[18] - 2.0 / 3.0).abs() < 1e-6 && (rates[19] - 1.0 / 3.0).abs() < 1e-6);
    }

    /// Warmup 4 and decay 18 do not fit into 20 steps: the decay is cut to the 16 that are left.
    #[test]
    fn wsd_falls_from_the_peak_where_warmup_and_decay_overlap() {
        let config = TrainConfig {
            learning_rate: 1.0,
            warmup_steps: Some(4),
            schedule: Schedule::Wsd,
            decay_ratio: 0.9,
            ..Default::default()
        };
        let rate = LearningRate::new(&config, 20);
        assert_eq!(rate.at(4), 1.0);
        assert!((rate.at(5) - 16.0 / 17.0).abs() < 1e-6, "{}", rate.at(5));
    }

    #[test]
    fn constant_stays_at_the_peak() {
        assert_eq!(rates(Schedule::Constant, 9)[3..], [1.0; 6]);
    }

    #[test]
    fn a_run_shorter_than_its_warmup_only_rises() {
        assert_eq!(rates(Schedule::Cosine, 3), [0.25, 0.5, 0.75]);
    }
}
