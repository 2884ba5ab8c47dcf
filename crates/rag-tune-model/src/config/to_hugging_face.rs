//! config.json of a model that came without one.

use std::path::Path;

use serde_json::{Value, json};

use super::{LlamaConfig, RopeScaling};
use crate::error::ModelError;

impl LlamaConfig {
    /// As transformers writes it, but for the type of the weights. `path` is the file to blame.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] where RoPE is scaled as no key of config.json can say.
    pub(crate) fn to_config_json(&self, path: &Path) -> Result<Value, ModelError> {
        let rope_scaling = match &self.rope_scaling {
            RopeScaling::None => Value::Null,
            RopeScaling::Linear { factor } => {
                json!({"rope_type": "linear", "factor": shortest(*factor)})
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => json!({
                "rope_type": "llama3",
                "factor": shortest(*factor),
                "low_freq_factor": shortest(*low_freq_factor),
                "high_freq_factor": shortest(*high_freq_factor),
                "original_max_position_embeddings": original_max_position_embeddings,
            }),
            RopeScaling::Divisors(_) => {
                return Err(ModelError::Unsupported {
                    path: path.to_owned(),
                    feature: "a divisor for each frequency of RoPE (`rope_freqs.weight`), for which config.json has no key"
                        .to_owned(),
                });
            }
        };
        let eos = match self.eos_token_ids.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            several => json!(several),
        };
        Ok(json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab_size,
            "rms_norm_eps": shortest(self.rms_norm_eps),
            "rope_theta": shortest(self.rope_theta),
            "rope_scaling": rope_scaling,
            "max_position_embeddings": self.max_position_embeddings,
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": eos,
        }))
    }
}

/// The number with the fewest digits that is read as this one: 0.00001, not 9.999999747378752e-6.
fn shortest(value: f32) -> f64 {
    let text = value.to_string();
    text.parse().unwrap_or(f64::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_config_json;

    #[test]
    fn a_configuration_comes_back() {
        let known = LlamaConfig::known("llama-2-7b").unwrap();
        let scalings = [
            RopeScaling::None,
            RopeScaling::Linear { factor: 2.5 },
            RopeScaling::Llama3 {
                factor: 32.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 8192,
            },
        ];
        for (scaling, eos_token_ids) in scalings.into_iter().zip([vec![], vec![2], vec![2, 7]]) {
            let config = LlamaConfig {
                rope_scaling: scaling,
                eos_token_ids,
                tie_word_embeddings: true,
                attention_bias: true,
                ..known.clone()
            };
            let path = Path::new("config.json");
            let text = config.to_config_json(path).unwrap().to_string();
            assert_eq!(from_config_json(path, &text).unwrap(), config, "{text}");
        }
        let divided = LlamaConfig {
            rope_scaling: RopeScaling::Divisors(vec![1.0; 64]),
            ..known
        };
        let error = divided.to_config_json(Path::new("a.gguf")).unwrap_err();
        assert!(error.to_string().contains("rope_freqs.weight"), "{error}");
    }

    #[test]
    fn numbers_are_written_as_people_write_them() {
        assert_eq!(json!(shortest(1e-5)).to_string(), "0.00001");
        assert_eq!(json!(shortest(500_000.0)).to_string(), "500000.0");
    }
}
