//! AdamW over an adapter: parameter groups, state on disk, gradient clipping.

use std::path::Path;

use rag_tune_kernels::adamw::{AdamState, AdamW};
use rag_tune_kernels::{KernelError, Tensor};
use rag_tune_model::error::ModelError;
use rag_tune_model::lora::{Adapter, AdapterGradient, Factor};
use rag_tune_model::peft;

use crate::config::{LoraConfig, TrainConfig};

const FIRST_MOMENTS: &str = "optimizer_first_moments.safetensors";
const SECOND_MOMENTS: &str = "optimizer_second_moments.safetensors";

/// AdamW with f32 moments for every factor of an adapter.
#[derive(Debug, Clone)]
pub struct Optimizer {
    groups: Groups,
    /// Running means of the gradient.
    first_moments: AdapterGradient,
    /// Running means of its square.
    second_moments: AdapterGradient,
}

/// How the factors' updates differ.
#[derive(Debug, Clone, Copy)]
struct Groups {
    adamw: AdamW,
    /// LoRA+ (arXiv:2402.12354): the learning rate of `B` and, as in PEFT, of DoRA's magnitude, over that of `A`.
    b_lr_ratio: f32,
}

impl Groups {
    /// The learning rate of a factor and how it is updated.
    fn of(&self, factor: Factor, lr: f32) -> (f32, AdamW) {
        match factor {
            Factor::A => (lr, self.adamw),
            Factor::B => (lr * self.b_lr_ratio, self.adamw),
            // It starts as the length of the base's row: decay would shrink the base itself.
            Factor::Magnitude => (
                lr * self.b_lr_ratio,
                AdamW {
                    weight_decay: 0.0,
                    ..self.adamw
                },
            ),
        }
    }
}

impl Optimizer {
    /// Zero moments for `adapter`.
    pub fn new(config: &TrainConfig, lora: &LoraConfig, adapter: &Adapter) -> Self {
        let TrainConfig {
            beta1,
            beta2,
            epsilon,
            weight_decay,
            ..
        } = *config;
        Self {
            groups: Groups {
                adamw: AdamW {
                    beta1,
                    beta2,
                    epsilon,
                    weight_decay,
                },
                b_lr_ratio: lora.loraplus_lr_ratio,
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
        let groups = self.groups;
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
            let moments = first.tensors_mut().zip(second.tensors_mut());
            let tensors = factors.tensors_mut().zip(gradient.tensors()).zip(moments);
            for (((factor, parameter), (_, gradient)), ((_, first), (_, second))) in tensors {
                let (lr, adamw) = groups.of(factor, lr);
                let mut state = state(parameter, first, second);
                adamw.update(step as u64, lr, gradient_scale, gradient.data(), &mut state)?;
            }
        }
        Ok(())
    }

    /// The state as files of a checkpoint: name and bytes.
    ///
    /// # Errors
    /// [`ModelError`] if serialisation fails.
    pub(crate) fn files(&self) -> Result<Vec<(&'static str, Vec<u8>)>, ModelError> {
        Ok(vec![
            (
                FIRST_MOMENTS,
                peft::factors_bytes(&self.first_moments.layers)?,
            ),
            (
                SECOND_MOMENTS,
                peft::factors_bytes(&self.second_moments.layers)?,
            ),
        ])
    }

    /// Takes the state from the files of a checkpoint.
    ///
    /// # Errors
    /// [`ModelError`] if a file is missing, damaged, or another adapter's.
    pub(crate) fn restore(&mut self, checkpoint: &Path) -> Result<(), ModelError> {
        peft::read_factors(
            &checkpoint.join(FIRST_MOMENTS),
            &mut self.first_moments.layers,
        )?;
        peft::read_factors(
            &checkpoint.join(SECOND_MOMENTS),
            &mut self.second_moments.layers,
        )
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
