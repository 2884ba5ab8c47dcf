//! The `[model]` section, and the shape of a Llama as its checkpoint states it.

use std::path::Path;

use rag_tune_kernels::cuda::DeviceError;
use serde::{Deserialize, Serialize};

use crate::error::ModelError;
use crate::lora::Projection;

mod bitsandbytes;
mod gguf;
mod hugging_face;
mod known;
mod rope_scaling;
mod to_gguf;
mod to_hugging_face;

pub use bitsandbytes::StoredQuantization;
pub(crate) use gguf::{GgufTensors, from_gguf_metadata};
pub(crate) use hugging_face::{from_config_json, token_ids};
pub use rope_scaling::RopeScaling;

/// `[model]`: the frozen base model and how it is held and computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// The base model: a hub id, a folder, or a .gguf file.
    pub base: String,
    /// How the block linears are held in memory: `int8` (1 byte a weight), `nf4` (half a byte: QLoRA) or `none`. A base
    /// that bitsandbytes has quantised must be named as what it is.
    pub quantization: Quantization,
    /// `nf4`: whether the scales of the weights are quantised too, to 8 bits.
    pub double_quantization: bool,
    /// Where the model runs: `cpu`, `cuda:N` (the GPU with that number; bf16 arithmetic, 8- or 16-bit weights) or `auto` (the first GPU where
    /// this program and the section's other settings allow it, else the CPU; of several training processes each takes a GPU of its own).
    pub device: Device,
    /// Arithmetic of the blocks: `auto`, `f32`, `bf16`, `int8` or `llm_int8` (as bitsandbytes computes it; needs `int8` weights).
    pub compute: Compute,
    /// Whether 8-bit weights are left in the user's cache folder, so that the next start maps them instead of quantising again:
    /// `auto` (where the base's files have 1 GiB or more), `always` or `never`.
    pub cache_weights: CacheWeights,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            base: "codellama/CodeLlama-7b-hf".to_owned(),
            quantization: Quantization::Int8,
            double_quantization: true,
            device: Device::Auto,
            compute: Compute::Auto,
            cache_weights: CacheWeights::Auto,
        }
    }
}

impl ModelConfig {
    /// Every problem of the section, each naming its key.
    pub fn validate(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.base.trim().is_empty() {
            problems.push("`model.base` must name a hub id, a folder or a .gguf file".to_owned());
        }
        if self.compute == Compute::LlmInt8 && self.quantization != Quantization::Int8 {
            let problem = "`model.compute = \"llm_int8\"` needs `model.quantization = \"int8\"`";
            problems.push(problem.to_owned());
        }
        if let Device::Cuda(ordinal) = self.device {
            if !matches!(self.compute, Compute::Auto | Compute::Bf16) {
                problems.push(format!(
                    "`model.device = \"cuda:{ordinal}\"` computes in bf16: set `model.compute` to \"auto\" or \"bf16\""
                ));
            }
            if self.quantization == Quantization::Nf4 {
                problems.push(format!(
                    "`model.device = \"cuda:{ordinal}\"` has no NF4 weights yet: set `model.quantization` to \"int8\" or \"none\""
                ));
            }
        }
        problems
    }

    /// The section with a GPU of its own for one of several processes of this machine, where `auto` gives one at all: that of its number
    /// `rank` among `at_least` or more. Where the launcher shows each process one GPU only, it is that one.
    ///
    /// # Errors
    /// [`DeviceError::TooFew`] if there are fewer GPUs than processes.
    pub fn for_local_rank(&self, rank: usize, at_least: usize) -> Result<Self, DeviceError> {
        if self.device != Device::Auto || !self.allows_gpu() {
            return Ok(self.clone());
        }
        let gpus = match rag_tune_kernels::cuda::Device::count() {
            Ok(gpus) => gpus,
            Err(DeviceError::Missing(_)) => 0,
            Err(error) => return Err(error),
        };
        let device = Device::of_local_rank(rank, at_least, gpus)?;
        Ok(Self {
            device,
            ..self.clone()
        })
    }

    /// Whether the section's settings other than `device` are those of a GPU.
    fn allows_gpu(&self) -> bool {
        matches!(self.compute, Compute::Auto | Compute::Bf16)
            && self.quantization != Quantization::Nf4
    }

    /// That the GPU which is named is there, if one is, without opening it.
    ///
    /// # Errors
    /// [`DeviceError::Missing`] if it is not.
    pub fn check_gpu(&self) -> Result<(), DeviceError> {
        match self.device {
            Device::Cuda(ordinal) => rag_tune_kernels::cuda::Device::check_gpu(ordinal),
            Device::Auto | Device::Cpu => Ok(()),
        }
    }

    /// The GPU to run on, if there is to be one.
    ///
    /// # Errors
    /// [`DeviceError`] if the GPU that is named is not there, or one is there and does not work.
    pub fn gpu(&self) -> Result<Option<rag_tune_kernels::cuda::Device>, DeviceError> {
        match self.device {
            Device::Cuda(ordinal) => rag_tune_kernels::cuda::Device::gpu(ordinal).map(Some),
            Device::Auto if self.allows_gpu() => match rag_tune_kernels::cuda::Device::gpu(0) {
                Ok(gpu) => Ok(Some(gpu)),
                Err(DeviceError::Missing(_)) => Ok(None),
                Err(error) => Err(error),
            },
            Device::Auto | Device::Cpu => Ok(None),
        }
    }
}

/// How the weights of the block linears are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantization {
    /// As 16- or 32-bit floating point numbers.
    None,
    /// As int8 codes with one scale per output row (row-wise absmax).
    #[default]
    Int8,
    /// As 4-bit NormalFloat codes with one scale for 64 weights, as bitsandbytes makes them.
    Nf4,
}

/// Where the model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// The best device that is there.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU with this number.
    Cuda(usize),
}

impl Device {
    /// What `auto` is for a process of a machine that has `gpus` GPUs.
    fn of_local_rank(rank: usize, at_least: usize, gpus: usize) -> Result<Self, DeviceError> {
        let ranks = at_least.max(rank + 1);
        match gpus {
            0 => Ok(Self::Auto),
            1 => Ok(Self::Cuda(0)),
            gpus if ranks <= gpus => Ok(Self::Cuda(rank)),
            gpus => Err(DeviceError::TooFew { gpus, ranks }),
        }
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        match device {
            Device::Auto => "auto".to_owned(),
            Device::Cpu => "cpu".to_owned(),
            Device::Cuda(ordinal) => format!("cuda:{ordinal}"),
        }
    }
}

impl TryFrom<String> for Device {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let ordinal = |name: &str| name.strip_prefix("cuda:")?.parse().ok();
        match name.as_str() {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            other => ordinal(other).map(Self::Cuda).ok_or_else(|| {
                format!("`{other}` is no device: `auto`, `cpu` or `cuda:N`, N being a GPU's number")
            }),
        }
    }
}

/// Whether quantised weights are left on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheWeights {
    /// Where quantising takes a while.
    #[default]
    Auto,
    /// Those of every model.
    Always,
    /// None.
    Never,
}

impl CacheWeights {
    /// Files that are smaller are quantised in a second or two.
    const LEAST_FILE_BYTES: u64 = 1 << 30;

    /// Whether those of a base whose files have so many bytes are.
    pub fn covers(self, file_bytes: u64) -> bool {
        match self {
            Self::Auto => file_bytes >= Self::LEAST_FILE_BYTES,
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// Arithmetic of the blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compute {
    /// The quickest that passes the accuracy tests on the device.
    #[default]
    Auto,
    /// 32-bit floating point.
    F32,
    /// bfloat16 products, summed in f32.
    Bf16,
    /// Products of 8-bit weights with activations that are quantised to 8 bits in groups of 128 features.
    Int8,
    /// LLM.int8 as bitsandbytes computes it: activations quantised row by row, but for columns with a value of 6 or more.
    LlmInt8,
}

/// Shape and constants of a Llama, from config.json or GGUF metadata.
///
/// Names are config.json's. Reading it refuses, by name, whatever this
/// crate's Llama does not compute (sliding windows, other activations, ...).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LlamaConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width between `up_proj` and `down_proj`.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides the query heads.
    pub num_key_value_heads: usize,
    /// Width of a head; even, because RoPE turns pairs.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f32,
    /// Base of the RoPE frequencies.
    pub rope_theta: f32,
    /// How those frequencies are stretched.
    pub rope_scaling: RopeScaling,
    /// Longest sequence that the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// Whether the output layer is the embedding.
    pub tie_word_embeddings: bool,
    /// Whether `q_proj`, `k_proj`, `v_proj` and `o_proj` add a bias.
    pub attention_bias: bool,
    /// Whether `gate_proj`, `up_proj` and `down_proj` add a bias.
    pub mlp_bias: bool,
    /// The token that begins a sequence, if the model has one.
    pub bos_token_id: Option<u32>,
    /// The tokens that end a generation; may be empty.
    pub eos_token_ids: Vec<u32>,
}

impl LlamaConfig {
    /// The shape that a Hugging Face config.json states.
    ///
    /// # Errors
    /// [`ModelError`] if the file cannot be read, or is not of a Llama that this crate computes.
    pub fn from_file(path: &Path) -> Result<Self, ModelError> {
        let text = std::fs::read_to_string(path).map_err(ModelError::io(path))?;
        from_config_json(path, &text)
    }

    /// Whether a linear layer of the blocks adds a bias.
    pub fn has_bias(&self, projection: Projection) -> bool {
        match projection {
            Projection::Q | Projection::K | Projection::V | Projection::O => self.attention_bias,
            Projection::Gate | Projection::Up | Projection::Down => self.mlp_bias,
        }
    }

    /// What each pair of a head turns by from one position to the next, `[head_dim / 2]`, in radians.
    pub fn rope_frequencies(&self) -> Vec<f64> {
        self.rope_scaling
            .frequencies(self.head_dim, self.rope_theta)
    }

    /// Whether the tensors of both models have the same shapes.
    pub fn has_shapes_of(&self, other: &Self) -> bool {
        let shapes = |config: &Self| {
            [
                config.hidden_size,
                config.intermediate_size,
                config.num_hidden_layers,
                config.num_attention_heads,
                config.num_key_value_heads,
                config.head_dim,
                config.vocab_size,
            ]
        };
        shapes(self) == shapes(other)
            && Projection::ALL
                .into_iter()
                .all(|of| self.has_bias(of) == other.has_bias(of))
    }

    /// Refuses shapes that no Llama can have. `path` is the file to blame.
    fn check(self, path: &Path) -> Result<Self, ModelError> {
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        for (name, size) in sizes {
            if size == 0 || size > MAX_SIZE {
                return Err(ModelError::config(
                    path,
                    format!("`{name}` = {size} is impossible"),
                ));
            }
        }
        if !self
            .num_attention_heads
            .is_multiple_of(self.num_key_value_heads)
        {
            return Err(ModelError::config(
                path,
                format!(
                    "`num_key_value_heads` = {} does not divide `num_attention_heads` = {}",
                    self.num_key_value_heads, self.num_attention_heads
                ),
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            let detail = format!("`head_dim` = {} is odd; RoPE needs pairs", self.head_dim);
            return Err(ModelError::config(path, detail));
        }
        for (name, value) in [
            ("rms_norm_eps", self.rms_norm_eps),
            ("rope_theta", self.rope_theta),
        ] {
            if !(value.is_finite() && value > 0.0) {
                let detail = format!("`{name}` = {value} must be a positive number");
                return Err(ModelError::config(path, detail));
            }
        }
        match self.rope_scaling.problem(self.head_dim) {
            Some(problem) => Err(ModelError::config(path, problem)),
            None => Ok(self),
        }
    }
}

/// No real model has an axis this long, and products of three such numbers
/// stay far inside `usize`: a corrupt file cannot overflow the arithmetic.
const MAX_SIZE: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_base_is_a_named_problem() {
        let config = ModelConfig {
            base: " ".to_owned(),
            ..ModelConfig::default()
        };
        assert!(config.validate()[0].contains("`model.base`"));
        assert!(ModelConfig::default().validate().is_empty());
        let config = ModelConfig {
            compute: Compute::LlmInt8,
            quantization: Quantization::Nf4,
            ..ModelConfig::default()
        };
        assert!(config.validate()[0].contains("needs `model.quantization"));
    }

    #[test]
    fn every_local_rank_has_a_gpu_of_its_own() {
        let of = |rank, at_least, gpus| {
            let device = Device::of_local_rank(rank, at_least, gpus);
            device.map(String::from).map_err(|error| error.to_string())
        };
        let is = |device: &str| Ok(device.to_owned());
        assert_eq!(of(1, 2, 0), is("auto"), "the CPU then");
        assert_eq!(of(3, 4, 1), is("cuda:0"), "the one that it is shown");
        assert_eq!(of(3, 4, 8), is("cuda:3"));
        let too_few = Err("this machine has 2 GPUs for 4 ranks or more".to_owned());
        assert_eq!(
            of(0, 4, 2),
            too_few,
            "said by all, where the launcher counts"
        );
        assert_eq!(of(3, 0, 2), too_few);
    }

    #[test]
    fn names_in_toml_are_snake_case() {
        let config: ModelConfig =
            serde_json::from_str(r#"{"quantization": "none", "compute": "bf16", "device": "cpu"}"#)
                .unwrap();
        assert_eq!(config.quantization, Quantization::None);
        assert_eq!(config.compute, Compute::Bf16);
        assert!(serde_json::from_str::<ModelConfig>(r#"{"quantisation": "none"}"#).is_err());
    }
}
