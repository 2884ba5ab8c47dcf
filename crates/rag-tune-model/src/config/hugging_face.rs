//! `LlamaConfig` from a Hugging Face config.json, with transformers' defaults.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::{LlamaConfig, RopeScaling};
use crate::error::ModelError;

/// The keys of config.json that change what a Llama computes. Keys beyond
/// these (`torch_dtype`, `use_cache`, ...) do not, and are ignored.
#[derive(Deserialize)]
#[serde(default)]
struct ConfigJson {
    model_type: Option<String>,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    hidden_act: String,
    max_position_embeddings: usize,
    rms_norm_eps: f32,
    tie_word_embeddings: bool,
    rope_theta: Option<f32>,
    rope_parameters: Option<RopeParameters>,
    rope_scaling: Option<RopeParameters>,
    partial_rotary_factor: Option<f32>,
    attention_bias: bool,
    mlp_bias: bool,
    sliding_window: Option<usize>,
    bos_token_id: Option<u32>,
    eos_token_id: Value,
}

/// `rope_parameters` (transformers 5) or `rope_scaling` (before it).
#[derive(Deserialize)]
struct RopeParameters {
    rope_type: Option<String>,
    /// What `rope_type` was called first. Some files have both.
    #[serde(rename = "type")]
    old_type: Option<String>,
    rope_theta: Option<f32>,
    partial_rotary_factor: Option<f32>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_max_position_embeddings: Option<usize>,
}

/// transformers' `LlamaConfig()`: what an absent key means.
impl Default for ConfigJson {
    fn default() -> Self {
        Self {
            model_type: None,
            vocab_size: 32_000,
            hidden_size: 4096,
            intermediate_size: 11_008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            head_dim: None,
            hidden_act: "silu".to_owned(),
            max_position_embeddings: 2048,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: false,
            rope_theta: None,
            rope_parameters: None,
            rope_scaling: None,
            partial_rotary_factor: None,
            attention_bias: false,
            mlp_bias: false,
            sliding_window: None,
            bos_token_id: Some(1),
            eos_token_id: Value::from(2),
        }
    }
}

/// Parses the text of the config.json at `path`.
pub(crate) fn from_config_json(path: &Path, text: &str) -> Result<LlamaConfig, ModelError> {
    let json: ConfigJson =
        serde_json::from_str(text).map_err(|error| ModelError::config(path, error))?;
    match json.model_type.as_deref() {
        Some("llama") => {}
        other => {
            return Err(ModelError::UnknownArchitecture {
                path: path.to_owned(),
                architecture: other.unwrap_or("(no model_type)").to_owned(),
            });
        }
    }
    if let Some(feature) = json.unsupported() {
        return Err(ModelError::Unsupported {
            path: path.to_owned(),
            feature,
        });
    }
    let eos_token_ids = token_ids(&json.eos_token_id).ok_or_else(|| {
        let detail = format!(
            "`eos_token_id` = {} is no token id or list",
            json.eos_token_id
        );
        ModelError::config(path, detail)
    })?;
    let rope_scaling = json.rope_scaling(path)?;
    LlamaConfig {
        hidden_size: json.hidden_size,
        intermediate_size: json.intermediate_size,
        num_hidden_layers: json.num_hidden_layers,
        num_attention_heads: json.num_attention_heads,
        num_key_value_heads: json.num_key_value_heads.unwrap_or(json.num_attention_heads),
        // `max(1)`: zero heads are refused by `check`, with a message.
        head_dim: json
            .head_dim
            .unwrap_or(json.hidden_size / json.num_attention_heads.max(1)),
        vocab_size: json.vocab_size,
        rms_norm_eps: json.rms_norm_eps,
        rope_theta: json
            .ropes()
            .find_map(|(_, rope)| rope.rope_theta)
            .or(json.rope_theta)
            .unwrap_or(10_000.0),
        rope_scaling,
        max_position_embeddings: json.max_position_embeddings,
        tie_word_embeddings: json.tie_word_embeddings,
        attention_bias: json.attention_bias,
        mlp_bias: json.mlp_bias,
        bos_token_id: json.bos_token_id,
        eos_token_ids,
    }
    .check(path)
}

/// `eos_token_id` is a number, a list, or null in the files of the hub.
pub(crate) fn token_ids(value: &Value) -> Option<Vec<u32>> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Null => Some(Vec::new()),
        Value::Array(ids) => ids.iter().map(id).collect(),
        one => id(one).map(|id| vec![id]),
    }
}

impl ConfigJson {
    /// What is said of RoPE, under its key. As in transformers, `rope_scaling` counts where there are both.
    fn ropes(&self) -> impl Iterator<Item = (&'static str, &RopeParameters)> {
        let ropes = [
            ("rope_scaling", &self.rope_scaling),
            ("rope_parameters", &self.rope_parameters),
        ];
        ropes
            .into_iter()
            .filter_map(|(key, rope)| Some((key, rope.as_ref()?)))
    }

    fn rope_scaling(&self, path: &Path) -> Result<RopeScaling, ModelError> {
        let Some((key, rope)) = self.ropes().next() else {
            return Ok(RopeScaling::None);
        };
        let absent = |name: &str| ModelError::config(path, format!("no `{name}` in `{key}`"));
        let factor = || rope.factor.ok_or_else(|| absent("factor"));
        let kind = rope.rope_type.as_ref().or(rope.old_type.as_ref());
        match kind.map(String::as_str) {
            None | Some("default") => Ok(RopeScaling::None),
            Some("linear") => Ok(RopeScaling::Linear { factor: factor()? }),
            Some("llama3") => Ok(RopeScaling::Llama3 {
                factor: factor()?,
                low_freq_factor: rope
                    .low_freq_factor
                    .ok_or_else(|| absent("low_freq_factor"))?,
                high_freq_factor: rope
                    .high_freq_factor
                    .ok_or_else(|| absent("high_freq_factor"))?,
                original_max_position_embeddings: rope
                    .original_max_position_embeddings
                    .ok_or_else(|| absent("original_max_position_embeddings"))?,
            }),
            Some(kind) => Err(ModelError::Unsupported {
                path: path.to_owned(),
                feature: format!("RoPE scaling of type `{kind}` (`{key}`)"),
            }),
        }
    }

    /// The first thing in the file that our Llama would silently get wrong.
    fn unsupported(&self) -> Option<String> {
        let rotary = self
            .ropes()
            .find_map(|(_, rope)| rope.partial_rotary_factor)
            .or(self.partial_rotary_factor);
        if let Some(factor) = rotary.filter(|factor| *factor != 1.0) {
            return Some(format!("partial RoPE (`partial_rotary_factor` = {factor})"));
        }
        if let Some(window) = self.sliding_window {
            return Some(format!(
                "sliding-window attention (`sliding_window` = {window})"
            ));
        }
        if self.hidden_act != "silu" {
            return Some(format!(
                "the activation `{}` (`hidden_act`)",
                self.hidden_act
            ));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lora::Projection;

    fn parse(text: &str) -> Result<LlamaConfig, ModelError> {
        from_config_json(Path::new("config.json"), text)
    }

    #[test]
    fn absent_keys_take_the_defaults_of_transformers() {
        let config = parse(r#"{"model_type": "llama", "torch_dtype": "bfloat16"}"#).unwrap();
        assert_eq!(
            (config.hidden_size, config.head_dim, config.vocab_size),
            (4096, 128, 32_000)
        );
        assert_eq!(
            (config.num_key_value_heads, config.rope_theta),
            (32, 10_000.0)
        );
        assert_eq!(
            (config.bos_token_id, config.eos_token_ids),
            (Some(1), vec![2])
        );
    }

    #[test]
    fn rope_theta_is_read_where_either_transformers_writes_it() {
        let v4 = r#"{"model_type": "llama", "rope_theta": 1000000, "rope_scaling": null}"#;
        let v5 = r#"{"model_type": "llama", "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}"#;
        assert_eq!(parse(v4).unwrap().rope_theta, 1e6);
        assert_eq!(parse(v5).unwrap().rope_theta, 1e6);
    }

    #[test]
    fn rope_scaling_is_read_as_either_transformers_writes_it() {
        let scaling = |keys: &str| {
            let text = format!(r#"{{"model_type": "llama", {keys}}}"#);
            parse(&text).map(|config| (config.rope_scaling, config.rope_theta))
        };
        let linear = RopeScaling::Linear { factor: 4.0 };
        let v4 = r#""rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 4}"#;
        assert_eq!(scaling(v4).unwrap(), (linear.clone(), 1e6));
        let v5 =
            r#""rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500000.0}"#;
        assert_eq!(scaling(v5).unwrap(), (linear, 5e5));
        // As Llama 3.1's own file has it, with the old key beside the new one.
        let llama3 = r#""rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3", "type": "llama3"}"#;
        let expected = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        assert_eq!(scaling(llama3).unwrap(), (expected, 1e4));
        for missing in [
            "\"factor\": 8.0,",
            "\"low_freq_factor\": 1.0,",
            "\"high_freq_factor\": 4.0,",
            "\"original_max_position_embeddings\": 8192,",
        ] {
            let error = scaling(&llama3.replace(missing, "")).unwrap_err();
            let key = missing.split('"').nth(1).unwrap();
            let expected = format!("no `{key}` in `rope_scaling`");
            assert!(error.to_string().contains(&expected), "{error}");
        }
        let error = scaling(&v4.replace("4}", "0}")).unwrap_err();
        assert!(error.to_string().contains("`factor` = 0"), "{error}");
    }

    #[test]
    fn biases_are_off_unless_the_file_says_so() {
        let config = parse(r#"{"model_type": "llama", "attention_bias": true}"#).unwrap();
        assert!(config.attention_bias && !config.mlp_bias);
        assert!(config.has_bias(Projection::O) && !config.has_bias(Projection::Up));
        let config = parse(r#"{"model_type": "llama", "mlp_bias": true}"#).unwrap();
        assert!(config.has_bias(Projection::Down) && !config.has_bias(Projection::Q));
    }

    #[test]
    fn eos_may_be_a_list_or_null() {
        let list = parse(r#"{"model_type": "llama", "eos_token_id": [2, 32003]}"#).unwrap();
        assert_eq!(list.eos_token_ids, [2, 32003]);
        let null = parse(r#"{"model_type": "llama", "eos_token_id": null}"#).unwrap();
        assert!(null.eos_token_ids.is_empty());
        assert!(parse(r#"{"model_type": "llama", "eos_token_id": "</s>"}"#).is_err());
    }

    #[test]
    fn what_our_llama_does_not_compute_is_refused_by_name() {
        let cases = [
            (
                r#""rope_scaling": {"type": "dynamic", "factor": 2.0}"#,
                "`dynamic` (`rope_scaling`)",
            ),
            (
                r#""rope_parameters": {"rope_type": "yarn", "factor": 4.0}"#,
                "`yarn` (`rope_parameters`)",
            ),
            (r#""rope_scaling": {"rope_type": "longrope"}"#, "`longrope`"),
            (r#""partial_rotary_factor": 0.5"#, "partial_rotary_factor"),
            (r#""sliding_window": 4096"#, "sliding_window"),
            (r#""hidden_act": "gelu""#, "gelu"),
        ];
        for (key, name) in cases {
            let error = parse(&format!(r#"{{"model_type": "llama", {key}}}"#)).unwrap_err();
            assert!(matches!(error, ModelError::Unsupported { .. }), "{error}");
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn other_architectures_and_impossible_shapes_are_refused() {
        let error = parse(r#"{"model_type": "gpt2"}"#).unwrap_err();
        assert!(error.to_string().contains("`gpt2`"), "{error}");
        for key in [
            r#""num_attention_heads": 0"#,
            r#""num_key_value_heads": 5"#,
            r#""head_dim": 7"#,
            r#""rms_norm_eps": 0.0"#,
            r#""hidden_size": 9000000000"#,
            r#""hidden_size": "wide""#,
        ] {
            let error = parse(&format!(r#"{{"model_type": "llama", {key}}}"#)).unwrap_err();
            assert!(matches!(error, ModelError::Config { .. }), "{key}: {error}");
        }
    }
}
