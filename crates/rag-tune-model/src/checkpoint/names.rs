//! Whether a checkpoint has the tensors of its model, and no others.
//!
//! Whoever trained a model read all of its tensors: without some of them the outputs would be others.

use std::collections::BTreeSet;
use std::path::Path;

use super::gguf_name;
use crate::config::LlamaConfig;
use crate::error::ModelError;
use crate::llama::{EMBEDDING, HEAD};
use crate::lora::Projection;

/// What bitsandbytes stores beside `X.weight`, by what replaces or follows that name.
const COMPANIONS_OF_MODULE: [&str; 2] = ["SCB", "weight_format"];
const COMPANIONS_OF_WEIGHT: [&str; 5] = [
    "absmax",
    "quant_map",
    "nested_absmax",
    "nested_quant_map",
    "quant_state.bitsandbytes__nf4",
];

/// Which names the tensors of a file go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// Hugging Face's.
    HuggingFace,
    /// Hugging Face's, with what bitsandbytes stores beside quantised weights.
    Bitsandbytes,
    /// llama.cpp's.
    Gguf,
}

/// Refuses a checkpoint at `path` that lacks a tensor of this configuration, or has one that it does not.
pub(super) fn check<'a>(
    path: &Path,
    config: &LlamaConfig,
    naming: Naming,
    stored: impl Iterator<Item = &'a str>,
) -> Result<(), ModelError> {
    let stored: BTreeSet<&str> = stored.collect();
    let mut used = BTreeSet::new();
    for name in tensor_names(config) {
        let own = match naming {
            Naming::HuggingFace | Naming::Bitsandbytes => Some(name.clone()),
            Naming::Gguf => gguf_name(&name),
        };
        if !own
            .as_ref()
            .is_some_and(|own| stored.contains(own.as_str()))
        {
            return Err(ModelError::MissingTensor {
                path: path.to_owned(),
                name: own.unwrap_or(name),
            });
        }
        if naming == Naming::Bitsandbytes {
            used.extend(companions(&name));
        }
        used.extend(own);
    }
    let unused: Vec<String> = stored
        .into_iter()
        .filter(|name| !used.contains(*name) && !is_harmless(name, naming, config))
        .map(str::to_owned)
        .collect();
    match unused.is_empty() {
        true => Ok(()),
        false => Err(ModelError::UnusedTensors {
            path: path.to_owned(),
            names: unused,
        }),
    }
}

/// Every tensor of a Llama, by Hugging Face's name. One after the other: a configuration may lie about its layers.
pub(crate) fn tensor_names(config: &LlamaConfig) -> impl Iterator<Item = String> {
    let head = (!config.tie_word_embeddings).then_some(HEAD);
    let around = [EMBEDDING, "model.norm.weight"].into_iter().chain(head);
    let blocks = (0..config.num_hidden_layers).flat_map(|layer| {
        let norms = ["input_layernorm", "post_attention_layernorm"];
        let norms = norms.into_iter().map(|norm| format!("{norm}.weight"));
        let weights = Projection::ALL
            .into_iter()
            .map(|of| format!("{}.weight", of.path()));
        let biases = Projection::ALL
            .into_iter()
            .filter(|of| config.has_bias(*of))
            .map(|of| format!("{}.bias", of.path()));
        let of_block = norms.chain(weights).chain(biases);
        of_block.map(move |rest| format!("model.layers.{layer}.{rest}"))
    });
    around.map(str::to_owned).chain(blocks)
}

/// What bitsandbytes may store beside the tensor `name`.
fn companions(name: &str) -> impl Iterator<Item = String> {
    let module = name.strip_suffix(".weight");
    let of_module = module
        .into_iter()
        .flat_map(|module| COMPANIONS_OF_MODULE.map(|companion| format!("{module}.{companion}")));
    of_module.chain(COMPANIONS_OF_WEIGHT.map(|companion| format!("{name}.{companion}")))
}

/// What follows from the configuration, and is stored all the same: RoPE's frequencies, in older files; a head that is the
/// embedding once more. What the frequencies of a GGUF are divided by is in the configuration.
fn is_harmless(name: &str, naming: Naming, config: &LlamaConfig) -> bool {
    match naming {
        Naming::Gguf => name == super::gguf::ROPE_DIVISORS || name.contains(".attn_rot_embd"),
        Naming::HuggingFace | Naming::Bitsandbytes => {
            name.ends_with("rotary_emb.inv_freq") || (name == HEAD && config.tie_word_embeddings)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> LlamaConfig {
        LlamaConfig {
            num_hidden_layers: 2,
            ..LlamaConfig::known("llama-2-7b").unwrap()
        }
    }

    fn unused(config: &LlamaConfig, naming: Naming, more: &[&str]) -> Vec<String> {
        let own = tensor_names(config).map(|name| match naming {
            Naming::Gguf => gguf_name(&name).unwrap(),
            _ => name,
        });
        let own: Vec<String> = own.collect();
        let stored = own.iter().map(String::as_str).chain(more.iter().copied());
        match check(Path::new("model"), config, naming, stored) {
            Ok(()) => Vec::new(),
            Err(ModelError::UnusedTensors { names, .. }) => names,
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn all_tensors_of_a_llama_are_used() {
        for tied in [false, true] {
            for bias in [false, true] {
                let config = LlamaConfig {
                    tie_word_embeddings: tied,
                    attention_bias: bias,
                    mlp_bias: bias,
                    ..config()
                };
                let count = 2 + usize::from(!tied) + 2 * (9 + if bias { 7 } else { 0 });
                assert_eq!(tensor_names(&config).count(), count);
                for naming in [Naming::HuggingFace, Naming::Bitsandbytes, Naming::Gguf] {
                    assert!(unused(&config, naming, &[]).is_empty());
                }
            }
        }
    }

    #[test]
    fn a_tensor_that_is_missing_is_named() {
        let config = config();
        let names: Vec<String> = tensor_names(&config).collect();
        for missing in [0, 1, 7, names.len() - 1] {
            let mut stored: Vec<&str> = names.iter().map(String::as_str).collect();
            let name = stored.remove(missing);
            let error = check(
                Path::new("model"),
                &config,
                Naming::HuggingFace,
                stored.into_iter(),
            );
            let error = error.unwrap_err().to_string();
            assert_eq!(error, format!("`model` has no tensor `{name}`"));
        }
    }

    #[test]
    fn what_another_architecture_has_is_unused() {
        for (naming, name) in [
            (Naming::HuggingFace, "model.layers.2.mlp.down_proj.weight"),
            (
                Naming::HuggingFace,
                "model.layers.0.self_attn.q_norm.weight",
            ),
            (Naming::HuggingFace, "model.layers.0.self_attn.q_proj.bias"),
            (Naming::HuggingFace, "model.layers.0.input_layernorm.bias"),
            (Naming::HuggingFace, "score.weight"),
            (Naming::HuggingFace, "model.layers.0.self_attn.q_proj.SCB"),
            (Naming::HuggingFace, "rope_freqs.weight"),
            (Naming::Gguf, "blk.2.ffn_down.weight"),
            (Naming::Gguf, "blk.0.attn_q_norm.weight"),
            (Naming::Gguf, "blk.0.attn_q.bias"),
            (Naming::Gguf, "rope_factors_long.weight"),
        ] {
            assert_eq!(unused(&config(), naming, &[name]), [name]);
        }
    }

    #[test]
    fn what_follows_from_the_configuration_is_harmless() {
        let tied = LlamaConfig {
            tie_word_embeddings: true,
            ..config()
        };
        let of_hugging_face = [
            "model.layers.0.self_attn.rotary_emb.inv_freq",
            "model.rotary_emb.inv_freq",
            "lm_head.weight",
        ];
        assert!(unused(&tied, Naming::HuggingFace, &of_hugging_face).is_empty());
        assert!(unused(&tied, Naming::Gguf, &["rope_freqs.weight"]).is_empty());
        let companions = [
            "model.layers.1.mlp.up_proj.SCB",
            "model.layers.1.mlp.up_proj.weight_format",
            "model.layers.0.self_attn.q_proj.weight.quant_state.bitsandbytes__nf4",
            "model.layers.0.self_attn.q_proj.weight.nested_absmax",
        ];
        assert!(unused(&tied, Naming::Bitsandbytes, &companions).is_empty());
        let stray = ["model.layers.5.mlp.up_proj.SCB"];
        assert_eq!(unused(&tied, Naming::Bitsandbytes, &stray), stray);
    }
}
