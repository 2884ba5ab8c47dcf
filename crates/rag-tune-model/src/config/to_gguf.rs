//! The `llama.*` metadata of a GGUF, as llama.cpp's `convert_hf_to_gguf.py` writes it.

use candle_core::quantized::gguf_file::Value;

use super::{LlamaConfig, RopeScaling};

impl LlamaConfig {
    /// Every key but those of the tokenizer; [`Self::rope_divisors`] is part of the description too.
    pub(crate) fn to_gguf(&self) -> Vec<(String, Value)> {
        // `check` has seen that they are far below.
        let number = |size: usize| Value::U32(size as u32);
        let mut metadata = vec![
            ("block_count", number(self.num_hidden_layers)),
            ("context_length", number(self.max_position_embeddings)),
            ("embedding_length", number(self.hidden_size)),
            ("feed_forward_length", number(self.intermediate_size)),
            ("attention.head_count", number(self.num_attention_heads)),
            ("attention.head_count_kv", number(self.num_key_value_heads)),
        ];
        if let RopeScaling::Linear { factor } = &self.rope_scaling {
            let kind = Value::String("linear".to_owned());
            metadata.push(("rope.scaling.type", kind));
            metadata.push(("rope.scaling.factor", Value::F32(*factor)));
        }
        metadata.extend([
            ("rope.freq_base", Value::F32(self.rope_theta)),
            (
                "attention.layer_norm_rms_epsilon",
                Value::F32(self.rms_norm_eps),
            ),
            ("attention.key_length", number(self.head_dim)),
            ("attention.value_length", number(self.head_dim)),
            ("vocab_size", number(self.vocab_size)),
            ("rope.dimension_count", number(self.head_dim)),
        ]);
        let keys = metadata.into_iter();
        keys.map(|(key, value)| (format!("llama.{key}"), value))
            .collect()
    }

    /// What `rope_freqs.weight` holds, `[head_dim / 2]`: by what each frequency is divided, where no key says it.
    pub(crate) fn rope_divisors(&self) -> Option<Vec<f32>> {
        match &self.rope_scaling {
            RopeScaling::None | RopeScaling::Linear { .. } => None,
            RopeScaling::Divisors(divisors) => Some(divisors.clone()),
            scaling @ RopeScaling::Llama3 { .. } => {
                let plain = RopeScaling::None.frequencies(self.head_dim, self.rope_theta);
                let scaled = scaling.frequencies(self.head_dim, self.rope_theta);
                let pairs = plain.iter().zip(scaled);
                Some(
                    pairs
                        .map(|(plain, scaled)| (plain / scaled) as f32)
                        .collect(),
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::Path;

    use super::*;
    use crate::config::{GgufTensors, from_gguf_metadata};
    use crate::gguf_metadata::GgufMetadata;

    fn read_back(config: &LlamaConfig) -> LlamaConfig {
        let architecture = Value::String("llama".to_owned());
        let mut values: HashMap<String, Value> = config.to_gguf().into_iter().collect();
        values.insert("general.architecture".to_owned(), architecture);
        let metadata = GgufMetadata {
            path: Path::new("written.gguf"),
            values: &values,
        };
        let tensors = GgufTensors {
            vocab_size: config.vocab_size,
            has_output: !config.tie_word_embeddings,
            attention_bias: config.attention_bias,
            mlp_bias: config.mlp_bias,
            rope_divisors: config.rope_divisors(),
        };
        from_gguf_metadata(&metadata, &tensors).unwrap()
    }

    #[test]
    fn a_configuration_comes_back() {
        let known = LlamaConfig::known("llama-2-7b").unwrap();
        let plain = LlamaConfig {
            bos_token_id: None,
            eos_token_ids: vec![],
            ..known
        };
        let linear = LlamaConfig {
            rope_scaling: RopeScaling::Linear { factor: 4.0 },
            head_dim: 64,
            num_key_value_heads: 8,
            ..plain.clone()
        };
        for config in [plain, linear] {
            assert_eq!(read_back(&config), config);
        }
    }

    /// Llama 3.1's scaling has no key: it comes back as what the frequencies are divided by.
    #[test]
    fn stretched_frequencies_come_back() {
        let config = LlamaConfig {
            rope_scaling: RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 8192,
            },
            rope_theta: 500_000.0,
            ..LlamaConfig::known("llama-2-7b").unwrap()
        };
        let (written, own) = (read_back(&config), config.rope_frequencies());
        assert!(matches!(written.rope_scaling, RopeScaling::Divisors(_)));
        for (read, own) in written.rope_frequencies().iter().zip(own) {
            assert!((read / own - 1.0).abs() < 1e-6, "{read} {own}");
        }
    }
}
