//! adamw: Adam with decoupled weight decay (arXiv:1711.05101), f32 state.

use crate::cpu;
use crate::error::{KernelError, check_shape};

/// What stays the same from step to step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Offset of the denominator.
    pub epsilon: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
}

impl AdamW {
    /// Updates parameters and moments in place. `step` counts from 1, `gradient` is scaled by
    /// `gradient_scale` first (clipping).
    ///
    /// # Errors
    /// [`KernelError::Shape`] if the lengths differ; [`KernelError::Value`] for step 0.
    pub fn update(
        &self,
        step: u64,
        lr: f32,
        gradient_scale: f32,
        gradient: &[f32],
        state: &mut AdamState<'_>,
    ) -> Result<(), KernelError> {
        let len = [state.parameter.len()];
        check_shape("adamw", "gradient", &[gradient.len()], &len)?;
        check_shape("adamw", "first_moment", &[state.first_moment.len()], &len)?;
        check_shape("adamw", "second_moment", &[state.second_moment.len()], &len)?;
        check_step("adamw", step)?;
        cpu::adamw::update(self, step, lr, gradient_scale, gradient, state);
        Ok(())
    }
}

/// Step 0 has no moments that could be corrected for their start.
pub(crate) fn check_step(operation: &'static str, step: u64) -> Result<(), KernelError> {
    if step == 0 {
        let problem = "steps count from 1".to_owned();
        return Err(KernelError::Value { operation, problem });
    }
    Ok(())
}

/// A parameter with its moments, all of one length.
pub struct AdamState<'a> {
    /// What is learnt.
    pub parameter: &'a mut [f32],
    /// Running mean of the gradient.
    pub first_moment: &'a mut [f32],
    /// Running mean of its square.
    pub second_moment: &'a mut [f32],
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;
    use crate::reference::testing::noise;

    #[test]
    fn adamw_matches_reference() {
        let config = AdamW {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
        };
        let mut parameter = noise(1, 37, 1).into_vec();
        let (mut first_moment, mut second_moment) = (vec![0.0; 37], vec![0.0; 37]);
        let mut expected: Vec<_> = parameter.iter().map(|p| (*p, 0.0, 0.0)).collect();
        for step in 1..=5 {
            let gradient = noise(1, 37, 10 + step).into_vec();
            let mut state = AdamState {
                parameter: &mut parameter,
                first_moment: &mut first_moment,
                second_moment: &mut second_moment,
            };
            config
                .update(step, 1e-2, 0.5, &gradient, &mut state)
                .unwrap();
            for (expected, gradient) in expected.iter_mut().zip(&gradient) {
                *expected = reference::adamw(&config, step, 1e-2, gradient * 0.5, *expected);
            }
        }
        for (parameter, expected) in parameter.iter().zip(&expected) {
            assert!(
                (parameter - expected.0).abs() < 1e-6,
                "{parameter} {}",
                expected.0
            );
        }
    }
}
