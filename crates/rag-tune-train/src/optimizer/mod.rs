//! AdamW over an adapter: parameter groups, state in f32 or 8 bits, gradient clipping.

mod moments;

use std::path::Path;

use rag_tune_kernels::adamw::{AdamState, AdamW};
use rag_tune_kernels::adamw_8bit::Adam8BitState;
use rag_tune_kernels::{KernelError, Tensor};
use rag_tune_model::error::ModelError;
use rag_tune_model::lora::{Adapter, AdapterGradient, Factor};

use self::moments::{Moment, Moments, Values};
use crate::config::{LoraConfig, OptimizerKind, TrainConfig};

const FIRST_MOMENTS: &str = "optimizer_first_moments.safetensors";
const SECOND_MOMENTS: &str = "optimizer_second_moments.safetensors";

/// AdamW with its moments for every factor of an adapter.
#[derive(Debug, Clone)]
pub struct Optimizer {
    groups: Groups,
    /// Running means of the gradient.
    first_moments: Moments,
    /// Running means of its square.
    second_moments: Moments,
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
            optimizer,
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
            first_moments: Moments::zeros(optimizer, adapter),
            second_moments: Moments::zeros(optimizer, adapter),
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
            let moments = first.iter_mut().zip(second.iter_mut());
            let tensors = factors.tensors_mut().zip(gradient.tensors()).zip(moments);
            for (((factor, parameter), (_, gradient)), moments) in tensors {
                let (lr, adamw) = groups.of(factor, lr);
                let (step, gradient) = (step as u64, gradient.data());
                update_tensor(
                    &adamw,
                    step,
                    lr,
                    gradient_scale,
                    gradient,
                    parameter,
                    moments,
                )?;
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
                self.first_moments.to_bytes(Path::new(FIRST_MOMENTS))?,
            ),
            (
                SECOND_MOMENTS,
                self.second_moments.to_bytes(Path::new(SECOND_MOMENTS))?,
            ),
        ])
    }

    /// Takes the state from the files of a checkpoint.
    ///
    /// # Errors
    /// [`ModelError`] if a file is missing, damaged, or another adapter's.
    pub(crate) fn restore(&mut self, checkpoint: &Path) -> Result<(), ModelError> {
        self.first_moments.read(&checkpoint.join(FIRST_MOMENTS))?;
        self.second_moments.read(&checkpoint.join(SECOND_MOMENTS))
    }
}

/// The update of one tensor, on moments of either kind.
fn update_tensor(
    adamw: &AdamW,
    step: u64,
    lr: f32,
    gradient_scale: f32,
    gradient: &[f32],
    parameter: &mut Tensor,
    (first, second): (&mut Moment, &mut Moment),
) -> Result<(), KernelError> {
    let parameter = parameter.data_mut();
    match (&mut first.values, &mut second.values) {
        (Values::F32(first_moment), Values::F32(second_moment)) => {
            let mut state = AdamState {
                parameter,
                first_moment,
                second_moment,
            };
            adamw.update(step, lr, gradient_scale, gradient, &mut state)
        }
        (Values::Bits8(first_moment), Values::Bits8(second_moment)) => {
            let mut state = Adam8BitState {
                parameter,
                first_moment,
                second_moment,
            };
            adamw.update_8bit(step, lr, gradient_scale, gradient, &mut state)
        }
        _ => unreachable!("both moments of a tensor are held alike: its length decides"),
    }
}

impl OptimizerKind {
    /// A shorter tensor has f32 moments in any case: little is saved there, and bitsandbytes does so.
    pub const MIN_8BIT_VALUES: usize = 4096;

    /// Whether the moments of a tensor of `values` values are held in 8 bits.
    pub fn is_8bit(self, values: usize) -> bool {
        self == Self::AdamW8bit && values >= Self::MIN_8BIT_VALUES
    }

    /// Bytes of both moments of a tensor of `values` values: 8 a value in f32, 2.03 in 8 bits.
    pub fn state_bytes(self, values: usize) -> usize {
        match self.is_8bit(values) {
            true => 2 * moments::bytes_8bit(values),
            false => 8 * values,
        }
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
    use rag_tune_model::config::{LlamaConfig, RopeScaling};
    use rag_tune_model::lora::LoraFactors;

    /// Tensors on both sides of the length from which moments are held in 8 bits.
    pub(super) fn adapter(lora: &LoraConfig) -> Adapter {
        let config = LlamaConfig {
            hidden_size: 64,
            intermediate_size: 96,
            num_hidden_layers: 1,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 16,
            vocab_size: 100,
            rms_norm_eps: 1e-5,
            rope_theta: 1e4,
            rope_scaling: RopeScaling::None,
            max_position_embeddings: 64,
            tie_word_embeddings: true,
            attention_bias: false,
            mlp_bias: false,
            bos_token_id: None,
            eos_token_ids: Vec::new(),
        };
        Adapter::new(&config, lora.settings(), 1)
    }

    /// A step on moments of zero: nothing has been rounded to 8 bits yet.
    fn after_one_step(optimizer: OptimizerKind, lora: &LoraConfig) -> Adapter {
        let mut adapter = adapter(lora);
        let train = TrainConfig {
            optimizer,
            weight_decay: 0.1,
            ..Default::default()
        };
        let mut gradient = adapter.zero_gradient();
        let tensors = gradient
            .layers
            .values_mut()
            .flat_map(LoraFactors::tensors_mut);
        for (_, tensor) in tensors {
            for (at, value) in tensor.data_mut().iter_mut().enumerate() {
                *value = (at as f32 * 0.37).sin();
            }
        }
        let mut optimizer = Optimizer::new(&train, lora, &adapter);
        optimizer
            .update(1, 1e-2, 0.5, &gradient, &mut adapter)
            .unwrap();
        adapter
    }

    #[test]
    fn groups_and_clipping_are_the_same_in_8_bits() {
        let lora = LoraConfig {
            rank: 64,
            use_dora: true,
            loraplus_lr_ratio: 16.0,
            ..Default::default()
        };
        let f32_state = after_one_step(OptimizerKind::AdamW, &lora);
        assert_ne!(f32_state, adapter(&lora));
        assert!(after_one_step(OptimizerKind::AdamW8bit, &lora) == f32_state);
    }

    #[test]
    fn only_long_gradients_are_clipped() {
        assert_eq!(clip_factor(4.0, 1.0), 0.25);
        assert_eq!(clip_factor(0.5, 1.0), 1.0);
        assert_eq!(clip_factor(4.0, 0.0), 1.0);
    }
}
