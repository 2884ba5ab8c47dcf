//! `LlamaConfig` from the `llama.*` metadata of a GGUF file.

use super::{LlamaConfig, RopeScaling};
use crate::error::ModelError;
use crate::gguf_metadata::GgufMetadata;

/// What the tensors of a GGUF say about the model, which its metadata does not.
pub(crate) struct GgufTensors {
    /// Rows of `token_embd.weight`.
    pub vocab_size: usize,
    /// Whether there is an `output.weight`; without it the embedding is tied.
    pub has_output: bool,
    /// Whether a layer of attention has a bias.
    pub attention_bias: bool,
    /// Whether a layer of the MLP has a bias.
    pub mlp_bias: bool,
    /// `rope_freqs.weight`, if there is one: how the converter writes Llama 3.1's RoPE scaling.
    pub rope_divisors: Option<Vec<f32>>,
}

/// The shape of the model that the metadata describes.
pub(crate) fn from_gguf_metadata(
    metadata: &GgufMetadata<'_>,
    tensors: &GgufTensors,
) -> Result<LlamaConfig, ModelError> {
    let architecture = metadata.text("general.architecture")?.unwrap_or("(none)");
    let path = metadata.path;
    if architecture != "llama" {
        return Err(ModelError::UnknownArchitecture {
            path: path.to_owned(),
            architecture: architecture.to_owned(),
        });
    }
    const EPSILON: &str = "llama.attention.layer_norm_rms_epsilon";
    let hidden_size = required(metadata, "llama.embedding_length")?;
    let num_attention_heads = required(metadata, "llama.attention.head_count")?;
    let head_dim = metadata
        .number("llama.attention.key_length")?
        // `max(1)`: zero heads are refused by `check`, with a message.
        .unwrap_or(hidden_size / num_attention_heads.max(1));
    refuse_unsupported(metadata, head_dim)?;
    LlamaConfig {
        hidden_size,
        intermediate_size: required(metadata, "llama.feed_forward_length")?,
        num_hidden_layers: required(metadata, "llama.block_count")?,
        num_attention_heads,
        num_key_value_heads: metadata
            .number("llama.attention.head_count_kv")?
            .unwrap_or(num_attention_heads),
        head_dim,
        vocab_size: tensors.vocab_size,
        rms_norm_eps: metadata
            .float(EPSILON)?
            .ok_or_else(|| metadata.absent(EPSILON))?,
        rope_theta: metadata.float("llama.rope.freq_base")?.unwrap_or(10_000.0),
        rope_scaling: rope_scaling(metadata, tensors)?,
        max_position_embeddings: required(metadata, "llama.context_length")?,
        tie_word_embeddings: !tensors.has_output,
        attention_bias: tensors.attention_bias,
        mlp_bias: tensors.mlp_bias,
        bos_token_id: metadata.number("tokenizer.ggml.bos_token_id")?,
        eos_token_ids: metadata.eos_token_ids()?,
    }
    .check(path)
}

/// The size that `key` must give.
fn required(metadata: &GgufMetadata<'_>, key: &str) -> Result<usize, ModelError> {
    metadata.number(key)?.ok_or_else(|| metadata.absent(key))
}

/// As llama.cpp reads it: linear unless another type is named, by a factor that an older key may give, together with
/// `rope_freqs.weight`.
fn rope_scaling(
    metadata: &GgufMetadata<'_>,
    tensors: &GgufTensors,
) -> Result<RopeScaling, ModelError> {
    let factor = match metadata.text("llama.rope.scaling.type")? {
        Some("none") => None,
        None | Some("linear") => match metadata.float("llama.rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => metadata.float("llama.rope.scale_linear")?,
        },
        Some(kind) => {
            return Err(ModelError::Unsupported {
                path: metadata.path.to_owned(),
                feature: format!("RoPE scaling of type `{kind}` (`llama.rope.scaling.type`)"),
            });
        }
    };
    // A zero means that there is no scaling.
    let factor = factor.filter(|factor| *factor != 0.0);
    Ok(match (&tensors.rope_divisors, factor) {
        (None, None) => RopeScaling::None,
        (None, Some(factor)) => RopeScaling::Linear { factor },
        (Some(divisors), factor) => {
            let factor = factor.unwrap_or(1.0);
            RopeScaling::Divisors(divisors.iter().map(|by| by * factor).collect())
        }
    })
}

fn refuse_unsupported(metadata: &GgufMetadata<'_>, head_dim: usize) -> Result<(), ModelError> {
    let refuse = |feature| {
        Err(ModelError::Unsupported {
            path: metadata.path.to_owned(),
            feature,
        })
    };
    if let Some(turned) = metadata
        .number::<usize>("llama.rope.dimension_count")?
        .filter(|n| *n != head_dim)
    {
        return refuse(format!(
            "partial RoPE ({turned} of {head_dim} values of a head)"
        ));
    }
    if let Some(value_dim) = metadata
        .number::<usize>("llama.attention.value_length")?
        .filter(|n| *n != head_dim)
    {
        return refuse(format!(
            "values of another width than keys ({value_dim}, {head_dim})"
        ));
    }
    if let Some(experts) = metadata
        .number::<usize>("llama.expert_count")?
        .filter(|n| *n != 0)
    {
        return refuse(format!(
            "a mixture of experts (`llama.expert_count` = {experts})"
        ));
    }
    if let Some(window) = metadata
        .number::<usize>("llama.attention.sliding_window")?
        .filter(|n| *n != 0)
    {
        return refuse(format!("sliding-window attention of {window} tokens"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::Path;

    use candle_core::quantized::gguf_file::Value;

    use super::*;

    const TENSORS: GgufTensors = GgufTensors {
        vocab_size: 96,
        has_output: false,
        attention_bias: false,
        mlp_bias: false,
        rope_divisors: None,
    };

    fn metadata(extra: &[(&str, Value)]) -> HashMap<String, Value> {
        let mut metadata: HashMap<String, Value> = [
            ("general.architecture", Value::String("llama".to_owned())),
            ("llama.block_count", Value::U32(2)),
            ("llama.context_length", Value::U64(64)),
            ("llama.embedding_length", Value::U32(32)),
            ("llama.feed_forward_length", Value::I32(48)),
            ("llama.attention.head_count", Value::U32(4)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
            ("tokenizer.ggml.eos_token_id", Value::U32(2)),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        metadata.extend(
            extra
                .iter()
                .map(|(key, value)| ((*key).to_owned(), value.clone())),
        );
        metadata
    }

    fn read(extra: &[(&str, Value)]) -> Result<LlamaConfig, ModelError> {
        read_with(&metadata(extra), &TENSORS)
    }

    fn read_with(
        values: &HashMap<String, Value>,
        tensors: &GgufTensors,
    ) -> Result<LlamaConfig, ModelError> {
        from_gguf_metadata(
            &GgufMetadata {
                path: Path::new("tiny.gguf"),
                values,
            },
            tensors,
        )
    }

    #[test]
    fn absent_keys_take_the_defaults_of_the_format() {
        let config = read(&[]).unwrap();
        assert_eq!((config.num_key_value_heads, config.head_dim), (4, 8));
        assert_eq!(
            (config.rope_theta, config.tie_word_embeddings),
            (10_000.0, true)
        );
        assert_eq!((config.bos_token_id, config.eos_token_ids), (None, vec![2]));
    }

    #[test]
    fn what_our_llama_does_not_compute_is_refused() {
        for (key, value) in [
            ("llama.rope.scaling.type", Value::String("yarn".to_owned())),
            ("llama.rope.dimension_count", Value::U32(4)),
            ("llama.expert_count", Value::U32(8)),
            ("llama.attention.sliding_window", Value::U32(4096)),
            ("llama.attention.value_length", Value::U32(16)),
        ] {
            let error = read(&[(key, value)]).unwrap_err();
            assert!(
                matches!(error, ModelError::Unsupported { .. }),
                "{key}: {error}"
            );
        }
    }

    #[test]
    fn rope_scaling_is_what_llama_cpp_makes_of_it() {
        let kind = |kind: &str| ("llama.rope.scaling.type", Value::String(kind.to_owned()));
        let factor = ("llama.rope.scaling.factor", Value::F32(4.0));
        let old_factor = ("llama.rope.scale_linear", Value::F32(2.0));
        let linear = |factor| RopeScaling::Linear { factor };
        let cases = [
            (vec![kind("linear"), factor.clone()], linear(4.0)),
            (vec![factor.clone(), old_factor.clone()], linear(4.0)),
            (vec![old_factor], linear(2.0)),
            (vec![kind("none"), factor.clone()], RopeScaling::None),
            (vec![kind("linear")], RopeScaling::None),
        ];
        for (extra, expected) in cases {
            assert_eq!(read(&extra).unwrap().rope_scaling, expected, "{extra:?}");
        }
        let tensors = GgufTensors {
            rope_divisors: Some(vec![1.0, 1.5, 8.0, 8.0]),
            ..TENSORS
        };
        let scaling = |extra: &[(&str, Value)]| {
            let config = read_with(&metadata(extra), &tensors).unwrap();
            config.rope_scaling
        };
        let divisors = |values: [f32; 4]| RopeScaling::Divisors(values.to_vec());
        assert_eq!(scaling(&[]), divisors([1.0, 1.5, 8.0, 8.0]));
        assert_eq!(scaling(&[factor]), divisors([4.0, 6.0, 32.0, 32.0]));
        let short = GgufTensors {
            rope_divisors: Some(vec![1.0]),
            ..TENSORS
        };
        let error = read_with(&metadata(&[]), &short).unwrap_err();
        assert!(error.to_string().contains("1 divisors"), "{error}");
    }

    #[test]
    fn a_wrong_type_or_an_absent_key_is_named() {
        let error = read(&[("llama.block_count", Value::Bool(true))]).unwrap_err();
        assert!(error.to_string().contains("`llama.block_count`"), "{error}");
        let mut without = metadata(&[]);
        without.remove("llama.context_length");
        let error = read_with(&without, &TENSORS).unwrap_err();
        assert!(
            error.to_string().contains("no `llama.context_length`"),
            "{error}"
        );
    }
}
