//! AdamW over an adapter, with gradient clipping.

use rag_tune_kernels::adamw::{AdamState, AdamW};
use rag_tune_kernels::{KernelError, Tensor};
use rag_tune_model::lora::{Adapter, AdapterGradient};

use crate::config::TrainConfig;

/// AdamW with f32 moments for every factor of an adapter.
#[derive(Debug, Clone)]
pub struct Optimizer {
    adamw: AdamW,
    /// Running means of the gradient.
    pub first_moments: AdapterGradient,
    /// Running means of its square.
    pub second_moments: AdapterGradient,
}

impl Optimizer {
    /// Zero moments for `adapter`.
    pub fn new(config: &TrainConfig, adapter: &Adapter) -> Self {
        let TrainConfig {
            beta1,
            beta2,
            epsilon,
            weight_decay,
            ..
        } = *config;
        Self {
            adamw: AdamW {
                beta1,
                beta2,
                epsilon,
                weight_decay,
            },
            first_moments: adapter.zero_gradient(),
            second_moments: adapter.zero_gradient(),
        }
    }

    /// One update. `gradient_scale` multiplies the gradient first; `step` counts from 1.
    ///
    /// # Errors
    /// [`KernelError`] if the gradient is not shaped like the adapter.
    pub fn update(
        &mut self,
        step: usize,
        lr: f32,
        gradient_scale: f32,
        gradient: &AdapterGradient,
        adapter: &mut Adapter,
    ) -> Result<(), KernelError> {
        let moments = self
            .first_moments
            .layers
            .values_mut()
            .zip(self.second_moments.layers.values_mut());
        let layers = adapter
            .layers
            .values_mut()
            .zip(gradient.layers.values())
            .zip(moments);
        for ((factors, gradient), (first, second)) in layers {
            let pairs = [
                (&mut factors.a, &gradient.a, &mut first.a, &mut second.a),
                (&mut factors.b, &gradient.b, &mut first.b, &mut second.b),
            ];
            for (parameter, gradient, first, second) in pairs {
                let mut state = state(parameter, first, second);
                self.adamw
                    .update(step as u64, lr, gradient_scale, gradient.data(), &mut state)?;
            }
        }
        Ok(())
    }
}

fn state<'a>(
    parameter: &'a mut Tensor,
    first: &'a mut Tensor,
    second: &'a mut Tensor,
) -> AdamState<'a> {
    AdamState {
        parameter: parameter.data_mut(),
        first_moment: first.data_mut(),
        second_moment: second.data_mut(),
    }
}

/// The factor that scales a gradient of norm `norm` down to `max_norm`; 1 where it is not longer,
/// or `max_norm` is 0.
pub fn clip_factor(norm: f64, max_norm: f32) -> f32 {
    if max_norm > 0.0 && norm > f64::from(max_norm) {
        (f64::from(max_norm) / norm) as f32
    } else {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_gradients_are_clipped() {
        assert_eq!(clip_factor(4.0, 1.0), 0.25);
        assert_eq!(clip_factor(0.5, 1.0), 1.0);
        assert_eq!(clip_factor(4.0, 0.0), 1.0);
    }
}
