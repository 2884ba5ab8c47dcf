//! AdamW over an adapter: parameter groups, state in f32 or 8 bits, gradient clipping.

mod moments;

use std::borrow::Cow;
use std::path::Path;

use rag_tune_kernels::adamw::{AdamState, AdamW};
use rag_tune_kernels::adamw_8bit::Adam8BitState;
use rag_tune_kernels::cuda::{self, DeviceAdamW};
use rag_tune_kernels::{KernelError, Tensor};
use rag_tune_model::error::ModelError;
use rag_tune_model::lora::{Adapter, AdapterGradient, Factor, LoraFactors};

use self::moments::{Moment, Moments, Values};
use crate::config::{LoraConfig, OptimizerKind, TrainConfig};

const FIRST_MOMENTS: &str = "optimizer_first_moments.safetensors";
const SECOND_MOMENTS: &str = "optimizer_second_moments.safetensors";

/// AdamW with its moments for every factor of an adapter, where that lies.
#[derive(Debug)]
pub struct Optimizer {
    groups: Groups,
    /// Running means of the gradient. Of an adapter on a device only how a checkpoint holds them.
    first_moments: Moments,
    /// Running means of its square.
    second_moments: Moments,
    /// The moments of an adapter on a device.
    there: Option<DeviceAdamW>,
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
    ///
    /// # Errors
    /// [`KernelError`] if the memory of its device is not enough, or it lies on one and the moments are to be held in 8 bits.
    pub fn new(
        config: &TrainConfig,
        lora: &LoraConfig,
        adapter: &Adapter,
    ) -> Result<Self, KernelError> {
        let TrainConfig {
            optimizer,
            beta1,
            beta2,
            epsilon,
            weight_decay,
            ..
        } = *config;
        let groups = Groups {
            adamw: AdamW {
                beta1,
                beta2,
                epsilon,
                weight_decay,
            },
            b_lr_ratio: lora.loraplus_lr_ratio,
        };
        let there = match adapter.device() {
            None => None,
            Some(_) if !optimizer.is_on_devices() => {
                return Err(KernelError::Value {
                    operation: "Optimizer::new",
                    problem: "8-bit moments are not held on a device".to_owned(),
                });
            }
            Some(device) => {
                let tensors = adapter.layers.values().flat_map(LoraFactors::tensors);
                let tensors = tensors.map(|(factor, tensor)| {
                    let (lr_ratio, AdamW { weight_decay, .. }) = groups.of(factor, 1.0);
                    let group = cuda::Group {
                        lr_ratio,
                        weight_decay,
                    };
                    (tensor.len(), group)
                });
                Some(DeviceAdamW::new(device, tensors)?)
            }
        };
        Ok(Self {
            groups,
            first_moments: Moments::zeros(optimizer, adapter),
            second_moments: Moments::zeros(optimizer, adapter),
            there,
        })
    }

    /// Euclidean norm of a gradient that lies where the adapter does.
    ///
    /// # Errors
    /// [`KernelError`] if it is not shaped like the adapter, or the driver of the device fails.
    pub fn norm(
        &mut self,
        gradient: &AdapterGradient,
        adapter: &mut Adapter,
    ) -> Result<f64, KernelError> {
        match &mut self.there {
            None => Ok(gradient.norm()),
            Some(there) => {
                let gradients: Vec<&Tensor> = gradient.tensors().collect();
                there.grad_norm(adapter.tensors_mut().collect(), &gradients)
            }
        }
    }

    /// One update. `gradient_scale` multiplies the gradient first; `step` counts from 1.
    ///
    /// # Errors
    /// [`KernelError`] if the gradient is not shaped like the adapter, or lies elsewhere.
    pub fn update(
        &mut self,
        step: usize,
        lr: f32,
        gradient_scale: f32,
        gradient: &AdapterGradient,
        adapter: &mut Adapter,
    ) -> Result<(), KernelError> {
        let groups = self.groups;
        if let Some(there) = &mut self.there {
            let AdamW {
                beta1,
                beta2,
                epsilon,
                ..
            } = groups.adamw;
            let step = cuda::Step {
                step: step as u64,
                lr,
                gradient_scale,
                beta1,
                beta2,
                epsilon,
            };
            let gradients: Vec<&Tensor> = gradient.tensors().collect();
            return there.update(step, adapter.tensors_mut().collect(), &gradients);
        }
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
    /// [`ModelError`] if serialisation fails, or the moments cannot be read from their device.
    pub(crate) fn files(&self) -> Result<Vec<(&'static str, Vec<u8>)>, ModelError> {
        let (mut first, mut second) = (
            Cow::Borrowed(&self.first_moments),
            Cow::Borrowed(&self.second_moments),
        );
        if let Some(there) = &self.there {
            let firsts = first.to_mut().f32_values_mut();
            for (index, (first, second)) in firsts.zip(second.to_mut().f32_values_mut()).enumerate()
            {
                there.read_moments(index, first, second)?;
            }
        }
        Ok(vec![
            (FIRST_MOMENTS, first.to_bytes(Path::new(FIRST_MOMENTS))?),
            (SECOND_MOMENTS, second.to_bytes(Path::new(SECOND_MOMENTS))?),
        ])
    }

    /// Takes the state from the files of a checkpoint.
    ///
    /// # Errors
    /// [`ModelError`] if a file is missing, damaged, or another adapter's.
    pub(crate) fn restore(&mut self, checkpoint: &Path) -> Result<(), ModelError> {
        let (first, second) = (&mut self.first_moments, &mut self.second_moments);
        first.read(&checkpoint.join(FIRST_MOMENTS))?;
        second.read(&checkpoint.join(SECOND_MOMENTS))?;
        if let Some(there) = &mut self.there {
            let pairs = first.f32_values_mut().zip(second.f32_values_mut());
            for (index, (first, second)) in pairs.enumerate() {
                there.write_moments(index, first, second)?;
            }
        }
        Ok(())
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

    /// Whether an adapter on a device can be updated there.
    pub fn is_on_devices(self) -> bool {
        self == Self::AdamW
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
    use rag_tune_kernels::cuda::Device;
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
        let mut optimizer = Optimizer::new(&train, lora, &adapter).unwrap();
        optimizer
            .update(1, 1e-2, 0.5, &gradient, &mut adapter)
            .unwrap();
        adapter
    }

    /// Three updates, a way through the files of a checkpoint, and one more: on a device as in host memory.
    #[test]
    fn a_device_updates_as_the_host_does() {
        let lora = LoraConfig {
            rank: 8,
            loraplus_lr_ratio: 16.0,
            ..Default::default()
        };
        let train = TrainConfig {
            weight_decay: 0.1,
            ..Default::default()
        };
        let device = Device::emulated(0).unwrap();
        let run = |mut adapter: Adapter| {
            let mut optimizer = Optimizer::new(&train, &lora, &adapter).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let mut norms = Vec::new();
            for step in 1..=4 {
                let mut gradient = adapter.zero_gradient_on(adapter.device()).unwrap();
                for tensor in gradient.tensors_mut() {
                    let values = (0..tensor.len()).map(|at| ((at * step) as f32 * 0.37).sin());
                    tensor.write(&values.collect::<Vec<_>>()).unwrap();
                }
                norms.push(optimizer.norm(&gradient, &mut adapter).unwrap());
                if step == 4 {
                    for (name, bytes) in optimizer.files().unwrap() {
                        std::fs::write(folder.path().join(name), bytes).unwrap();
                    }
                    optimizer = Optimizer::new(&train, &lora, &adapter).unwrap();
                    optimizer.restore(folder.path()).unwrap();
                }
                optimizer
                    .update(step, 1e-2, 0.5, &gradient, &mut adapter)
                    .unwrap();
            }
            (adapter.to_host().unwrap().into_owned(), norms)
        };
        let (here, norms_here) = run(adapter(&lora));
        let (there, norms_there) = run(adapter(&lora).to_device(&device).unwrap());
        for (here, there) in norms_here.iter().zip(&norms_there) {
            assert!((here - there).abs() < 1e-6 * here, "{here} {there}");
        }
        for (place, here) in &here.layers {
            let tensors = here.tensors().zip(there.layers[place].tensors());
            for ((factor, here), (_, there)) in tensors {
                for (here, there) in here.data().iter().zip(there.data()) {
                    assert!(
                        (here - there).abs() < 2e-6,
                        "{place:?} {factor:?}: {here} {there}"
                    );
                }
            }
        }
        let eight = TrainConfig {
            optimizer: OptimizerKind::AdamW8bit,
            ..train
        };
        let there = adapter(&lora).to_device(&device).unwrap();
        let error = Optimizer::new(&eight, &lora, &there).unwrap_err();
        assert!(
            error.to_string().contains("not held on a device"),
            "{error}"
        );
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
