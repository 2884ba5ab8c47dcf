//! A Llama of one layer with made-up weights, and how to write it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};

use super::{Checkpoint, shape_of};
use crate::checkpoint::gguf_names::gguf_name;

pub const TINY_CONFIG: &str = r#"{
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 96, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "max_position_embeddings": 128, "tie_word_embeddings": true
}"#;
const HEAD_DIM: usize = 8;

pub struct TinyLlama {
    pub config: String,
    pub tensors: BTreeMap<String, TinyTensor>,
}

#[derive(Clone)]
pub struct TinyTensor {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

impl TinyLlama {
    pub fn new() -> Self {
        let layer = "model.layers.0";
        let shapes: [(String, &[usize]); 11] = [
            ("model.embed_tokens.weight".to_owned(), &[96, 32]),
            ("model.norm.weight".to_owned(), &[32]),
            (format!("{layer}.input_layernorm.weight"), &[32]),
            (format!("{layer}.self_attn.q_proj.weight"), &[32, 32]),
            (format!("{layer}.self_attn.k_proj.weight"), &[16, 32]),
            (format!("{layer}.self_attn.v_proj.weight"), &[16, 32]),
            (format!("{layer}.self_attn.o_proj.weight"), &[32, 32]),
            (format!("{layer}.post_attention_layernorm.weight"), &[32]),
            (format!("{layer}.mlp.gate_proj.weight"), &[64, 32]),
            (format!("{layer}.mlp.up_proj.weight"), &[64, 32]),
            (format!("{layer}.mlp.down_proj.weight"), &[32, 64]),
        ];
        let mut number = 0_u32;
        let tensors = shapes.map(|(name, shape)| {
            let length = shape.iter().product();
            let values = std::iter::repeat_with(|| {
                // A linear congruence: different everywhere, the same every time.
                number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (number >> 8) as f32 / (1 << 24) as f32 - 0.5
            });
            (
                name,
                TinyTensor {
                    shape: shape.to_vec(),
                    values: values.take(length).collect(),
                },
            )
        });
        Self {
            config: TINY_CONFIG.to_owned(),
            tensors: tensors.into(),
        }
    }

    /// With a bias at every linear layer.
    pub fn with_biases() -> Self {
        let mut model = Self::new();
        let keys = r#""attention_bias": true, "mlp_bias": true, "model_type""#;
        model.config = TINY_CONFIG.replace(r#""model_type""#, keys);
        let weights: Vec<(String, usize)> = model
            .tensors
            .iter()
            .filter(|(name, _)| name.contains("_proj"))
            .map(|(name, tensor)| (name.clone(), tensor.shape[0]))
            .collect();
        for (at, (name, length)) in weights.into_iter().enumerate() {
            let values = (0..length).map(|index| (at * 100 + index) as f32 / 64.0);
            let bias = TinyTensor {
                shape: vec![length],
                values: values.collect(),
            };
            model.tensors.insert(name.replace(".weight", ".bias"), bias);
        }
        model
    }

    pub fn assert_same(&self, checkpoint: &Checkpoint, tolerance: f32) {
        for (name, tensor) in &self.tensors {
            let values = checkpoint.tensor(name, &shape_of(self, name)).unwrap();
            assert_eq!(values.len(), tensor.values.len());
            for (got, expected) in values.iter().zip(&tensor.values) {
                assert!(
                    (got - expected).abs() <= tolerance,
                    "{name}: {got} for {expected}"
                );
            }
        }
    }

    pub fn write_safetensors(&self, folder: &Path, dtype: &str) {
        fs::write(folder.join("config.json"), &self.config).unwrap();
        self.write_tensors(&folder.join("model.safetensors"), dtype, |_| true);
    }

    /// Two shards and their index.
    pub fn write_shards(&self, folder: &Path, dtype: &str) {
        fs::write(folder.join("config.json"), &self.config).unwrap();
        let shard = |name: &str| match name.contains("mlp") {
            true => "model-00002-of-00002.safetensors",
            false => "model-00001-of-00002.safetensors",
        };
        for file in [shard("mlp"), shard("attention")] {
            self.write_tensors(&folder.join(file), dtype, |name| shard(name) == file);
        }
        let map: BTreeMap<_, _> = self
            .tensors
            .keys()
            .map(|name| (name, shard(name)))
            .collect();
        let index = serde_json::json!({ "metadata": {}, "weight_map": map });
        fs::write(
            folder.join("model.safetensors.index.json"),
            index.to_string(),
        )
        .unwrap();
    }

    fn write_tensors(&self, path: &Path, dtype: &str, wanted: impl Fn(&str) -> bool) {
        let dtype = match dtype {
            "F32" => DType::F32,
            "F16" => DType::F16,
            "BF16" => DType::BF16,
            "I32" => DType::I32,
            other => panic!("the tests write no {other}"),
        };
        let tensors = self
            .tensors
            .iter()
            .filter(|(name, _)| wanted(name))
            .map(|(name, tensor)| {
                (
                    name.clone(),
                    tensor.to_candle(&tensor.values).to_dtype(dtype).unwrap(),
                )
            });
        candle_core::safetensors::save(&tensors.collect(), path).unwrap();
    }

    /// A GGUF with the row order of llama.cpp's converter; norms stay f32.
    pub fn write_gguf(&self, path: &Path, dtype: &str) {
        let dtype = match dtype {
            "F32" => GgmlDType::F32,
            "F16" => GgmlDType::F16,
            "Q8_0" => GgmlDType::Q8_0,
            "Q4_0" => GgmlDType::Q4_0,
            "Q4_1" => GgmlDType::Q4_1,
            other => panic!("the tests write no {other}"),
        };
        let tensors = self.tensors.iter().map(|(name, tensor)| {
            let stored_dtype = if tensor.shape.len() == 1 {
                GgmlDType::F32
            } else {
                dtype
            };
            let heads_turn = name.contains("q_proj") || name.contains("k_proj");
            let stored = if heads_turn {
                tensor.interleaved()
            } else {
                tensor.values.clone()
            };
            let stored = QTensor::quantize(&tensor.to_candle(&stored), stored_dtype).unwrap();
            (gguf_name(name).unwrap(), stored)
        });
        let metadata = gguf_metadata();
        let metadata: Vec<_> = metadata.iter().map(|(key, value)| (*key, value)).collect();
        let tensors: Vec<_> = tensors.collect();
        let tensors: Vec<_> = tensors
            .iter()
            .map(|(name, stored)| (name.as_str(), stored))
            .collect();
        gguf_file::write(&mut File::create(path).unwrap(), &metadata, &tensors).unwrap();
    }
}

impl TinyTensor {
    fn to_candle(&self, values: &[f32]) -> Tensor {
        Tensor::from_slice(values, self.shape.as_slice(), &Device::Cpu).unwrap()
    }

    /// The converter's own formula: `reshape(heads, 2, head_dim / 2, in)
    /// .swapaxes(1, 2).reshape(rows, in)`.
    fn interleaved(&self) -> Vec<f32> {
        let rows = self.shape[0];
        let columns = self.shape[1..].iter().product::<usize>();
        let reordered = self
            .to_candle(&self.values)
            .reshape((rows / HEAD_DIM, 2, HEAD_DIM / 2, columns))
            .and_then(|tensor| {
                tensor
                    .transpose(1, 2)?
                    .contiguous()?
                    .flatten_all()?
                    .to_vec1()
            });
        reordered.unwrap()
    }
}

fn gguf_metadata() -> Vec<(&'static str, Value)> {
    vec![
        ("general.architecture", Value::String("llama".to_owned())),
        ("general.alignment", Value::U32(32)),
        ("llama.block_count", Value::U32(1)),
        ("llama.context_length", Value::U32(128)),
        ("llama.embedding_length", Value::U32(32)),
        ("llama.feed_forward_length", Value::U32(64)),
        ("llama.attention.head_count", Value::U32(4)),
        ("llama.attention.head_count_kv", Value::U32(2)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("tokenizer.ggml.eos_token_id", Value::U32(2)),
    ]
}
