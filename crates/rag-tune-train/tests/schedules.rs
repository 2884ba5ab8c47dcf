//! Learning rates and clipping against transformers and PyTorch (scripts/golden_schedules.py).
//!
//! Our step counts from 1 and theirs from 0, and they give rate 0 to a step; ours of a run of `total` steps are
//! theirs of `total + 1` without that step (and `wsd`'s decay is one longer, for the same reason).

use rag_tune_train::config::{Schedule, TrainConfig};
use rag_tune_train::optimizer::clip_factor;
use rag_tune_train::schedule::LearningRate;
use serde_json::Value;

fn golden() -> Value {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fixtures/golden/schedules.json"
    );
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn learning_rates_are_transformers_one_step_on() {
    for case in golden()["schedules"].as_array().unwrap() {
        let count = |key: &str| case[key].as_u64().unwrap() as usize;
        let total = count("total") - 1;
        let schedule: Schedule = serde_json::from_value(case["schedule"].clone()).unwrap();
        let config = TrainConfig {
            learning_rate: 1.0,
            warmup_steps: Some(count("warmup")),
            schedule,
            decay_ratio: (count("decay") - 1) as f32 / total as f32,
            ..Default::default()
        };
        let rate = LearningRate::new(&config, total);
        let theirs = case["rates"].as_array().unwrap();
        for step in 1..=total {
            let (ours, theirs) = (rate.at(step), theirs[step].as_f64().unwrap());
            assert!(
                (f64::from(ours) - theirs).abs() < 1e-6,
                "{schedule:?}, step {step} of {total}: {ours} {theirs}"
            );
        }
    }
}

/// PyTorch adds 1e-6 to the norm.
#[test]
fn clipping_is_pytorchs() {
    for case in golden()["clips"].as_array().unwrap() {
        let values = |key: &str| -> Vec<f64> {
            let list = case[key].as_array().unwrap();
            list.iter().map(|value| value.as_f64().unwrap()).collect()
        };
        let max_norm = case["max_norm"].as_f64().unwrap() as f32;
        let factor = clip_factor(case["norm"].as_f64().unwrap(), max_norm);
        for (gradient, clipped) in values("gradient").iter().zip(values("clipped")) {
            let ours = gradient * f64::from(factor);
            assert!((ours - clipped).abs() < 1e-5, "{case}: {ours}");
        }
    }
}
