//! adamw_8bit: AdamW whose moments are 8-bit codes in blocks of 256 (arXiv:2110.02861).
//!
//! Each block of both moments is dequantised, takes its step in f32 as [`AdamW::update`] does it,
//! and is quantised again: the first moment with the signed map of [`crate::blockwise`], the second
//! with the unsigned one. Two bytes and 8/256 a parameter instead of eight.
//!
//! Codes are those of bitsandbytes' `AdamW8bit` on a CPU (`scripts/golden_bitsandbytes.py`). Its
//! CUDA kernel also moves a first moment's code by one where its sign would be lost.

use crate::adamw::{AdamW, check_step};
use crate::blockwise::Blockwise;
use crate::cpu;
use crate::error::{KernelError, check_shape};

impl AdamW {
    /// As [`AdamW::update`], on moments in 8 bits. The same bytes on any number of threads.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if the lengths differ; [`KernelError::Value`] for step 0.
    pub fn update_8bit(
        &self,
        step: u64,
        lr: f32,
        gradient_scale: f32,
        gradient: &[f32],
        state: &mut Adam8BitState<'_>,
    ) -> Result<(), KernelError> {
        let operation = "adamw_8bit";
        let len = state.parameter.len();
        check_shape(operation, "gradient", &[gradient.len()], &[len])?;
        let names = ["codes of the first moment", "scales of the first moment"];
        state.first_moment.check(operation, names, len)?;
        let names = ["codes of the second moment", "scales of the second moment"];
        state.second_moment.check(operation, names, len)?;
        check_step(operation, step)?;
        cpu::adamw_8bit::update(self, step, lr, gradient_scale, gradient, state);
        Ok(())
    }
}

/// A parameter with its moments in 8 bits, all of one length.
pub struct Adam8BitState<'a> {
    /// What is learnt.
    pub parameter: &'a mut [f32],
    /// Running mean of the gradient, in codes of the signed map.
    pub first_moment: &'a mut Blockwise,
    /// Running mean of its square, in codes of the unsigned map.
    pub second_moment: &'a mut Blockwise,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adamw::AdamState;
    use crate::blockwise::{BLOCK, DynamicMap};
    use crate::reference;
    use crate::reference::testing::{Golden, noise};

    /// Those of `scripts/golden_bitsandbytes.py`.
    const CONFIG: AdamW = AdamW {
        beta1: 0.875,
        beta2: 0.984_375,
        epsilon: 1e-8,
        weight_decay: 0.125,
    };
    const LR: f32 = 1.0 / 128.0;

    /// What bitsandbytes had after a step.
    fn moment(golden: &Golden, which: usize, step: u64) -> Blockwise {
        if step == 0 {
            return Blockwise::zeros(4296);
        }
        Blockwise {
            codes: golden.bytes(&format!("adamw.large.state{which}.{step}")),
            absmax: golden.f32s(&format!("adamw.large.absmax{which}.{step}")),
        }
    }

    /// The largest difference relative to the value.
    fn relative_error(ours: &[f32], theirs: &[f32]) -> f32 {
        assert_eq!(ours.len(), theirs.len());
        let pairs = ours.iter().zip(theirs);
        pairs.fold(0.0, |max: f32, (ours, theirs)| {
            max.max((ours - theirs).abs() / theirs.abs().max(f32::MIN_POSITIVE))
        })
    }

    /// The largest difference of parameters, relative to the value before the step or to the step.
    fn step_error(before: &[f32], ours: &[f32], theirs: &[f32]) -> f32 {
        assert_eq!(ours.len(), theirs.len());
        let pairs = before.iter().zip(ours).zip(theirs);
        pairs.fold(0.0, |max: f32, ((before, ours), theirs)| {
            let size = before.abs().max((theirs - before).abs());
            max.max((ours - theirs).abs() / size)
        })
    }

    /// The order of f32 operations differs, so the last bits may.
    #[test]
    fn every_step_is_that_of_bitsandbytes() {
        let golden = Golden::bitsandbytes();
        let large = |what: &str, step: u64| golden.f32s(&format!("adamw.large.{what}.{step}"));
        for step in 1..=4 {
            let before = large("parameter", step - 1);
            let mut parameter = before.clone();
            let mut first_moment = moment(&golden, 1, step - 1);
            let mut second_moment = moment(&golden, 2, step - 1);
            let mut state = Adam8BitState {
                parameter: &mut parameter,
                first_moment: &mut first_moment,
                second_moment: &mut second_moment,
            };
            let gradient = large("gradient", step);
            CONFIG
                .update_8bit(step, LR, 1.0, &gradient, &mut state)
                .unwrap();
            let error = step_error(&before, &parameter, &large("parameter", step));
            assert!(error <= 1e-6, "step {step}: {error}");
            for (which, ours) in [(1, &first_moment), (2, &second_moment)] {
                let theirs = moment(&golden, which, step);
                assert_eq!(ours.codes, theirs.codes, "step {step}, moment {which}");
                let error = relative_error(&ours.absmax, &theirs.absmax);
                assert!(error <= 3e-7, "step {step}, moment {which}: {error}");
            }
        }
    }

    /// bitsandbytes holds moments of fewer than 4,096 values in f32.
    #[test]
    fn f32_steps_are_those_of_bitsandbytes() {
        let golden = Golden::bitsandbytes();
        let small = |what: &str, step: u64| golden.f32s(&format!("adamw.small.{what}.{step}"));
        let mut parameter = small("parameter", 0);
        let (mut first, mut second) = (vec![0.0; 50], vec![0.0; 50]);
        for step in 1..=4 {
            let before = parameter.clone();
            let mut state = AdamState {
                parameter: &mut parameter,
                first_moment: &mut first,
                second_moment: &mut second,
            };
            let gradient = small("gradient", step);
            CONFIG.update(step, LR, 1.0, &gradient, &mut state).unwrap();
            for (what, ours) in [("state1", &first), ("state2", &second)] {
                let error = relative_error(ours, &small(what, step));
                assert!(error <= 1e-6, "step {step}, {what}: {error}");
            }
            let error = step_error(&before, &parameter, &small("parameter", step));
            assert!(error <= 1e-6, "step {step}: {error}");
        }
    }

    #[test]
    fn adamw_8bit_matches_reference() {
        let len = 2 * BLOCK + 37;
        let mut parameter = noise(1, len, 1).into_vec();
        let mut first_moment = Blockwise::zeros(len);
        let mut second_moment = Blockwise::zeros(len);
        for step in 1..=5 {
            let before: Vec<_> = (0..len)
                .map(|at| {
                    let m = first_moment.value(DynamicMap::signed(), at);
                    let v = second_moment.value(DynamicMap::unsigned(), at);
                    (parameter[at], m, v)
                })
                .collect();
            let gradient = noise(1, len, 10 + step).into_vec();
            let mut state = Adam8BitState {
                parameter: &mut parameter,
                first_moment: &mut first_moment,
                second_moment: &mut second_moment,
            };
            CONFIG
                .update_8bit(step, 1e-2, 0.5, &gradient, &mut state)
                .unwrap();
            for (at, before) in before.into_iter().enumerate() {
                let expected = reference::adamw(&CONFIG, step, 1e-2, gradient[at] * 0.5, before);
                assert!((parameter[at] - expected.0).abs() < 1e-6);
                let moments = [
                    (DynamicMap::signed(), &first_moment, expected.1),
                    (DynamicMap::unsigned(), &second_moment, expected.2),
                ];
                for (map, moment, exact) in moments {
                    let absmax = moment.absmax[at / BLOCK];
                    let nearest = reference::nearest_value(map.values(), exact / absmax) * absmax;
                    let error = (exact - moment.value(map, at)).abs();
                    assert!(error <= (exact - nearest).abs() + 1e-6 * absmax);
                }
            }
        }
    }

    #[test]
    fn lengths_that_differ_are_refused() {
        let (mut first_moment, mut second_moment) = (Blockwise::zeros(300), Blockwise::zeros(256));
        let mut state = Adam8BitState {
            parameter: &mut [0.0; 300],
            first_moment: &mut first_moment,
            second_moment: &mut second_moment,
        };
        let error = CONFIG.update_8bit(1, 1e-2, 1.0, &[0.0; 300], &mut state);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("codes of the second moment"), "{error}");
    }
}
