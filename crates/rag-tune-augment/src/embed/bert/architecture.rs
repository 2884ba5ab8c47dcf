//! What `config.json` says of an encoder, and what its tensors are called: one form for all families.

use std::path::Path;

use rag_tune_kernels::activation::Activation;
use serde::Deserialize;

use crate::AugmentError;
use crate::embed::{read_json, unsupported};

/// A post-norm transformer encoder.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Architecture {
    pub family: Family,
    pub hidden_size: usize,
    pub layers: usize,
    pub heads: usize,
    pub intermediate_size: usize,
    pub activation: Activation,
    pub layer_norm_eps: f32,
    /// Rows of the table of positions.
    pub positions: usize,
    /// The position of a text's first token.
    pub first_position: usize,
    /// MPNet: buckets of the relative positions that bias attention.
    pub relative_buckets: Option<usize>,
}

/// Families differ in the names of their tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// BERT, RoBERTa, XLM-RoBERTa, CamemBERT.
    Bert,
    DistilBert,
    MpNet,
}

/// `config.json`; the aliases are DistilBERT's.
#[derive(Deserialize)]
struct Config {
    #[serde(alias = "dim")]
    hidden_size: usize,
    #[serde(alias = "n_layers")]
    num_hidden_layers: usize,
    #[serde(alias = "n_heads")]
    num_attention_heads: usize,
    #[serde(alias = "hidden_dim")]
    intermediate_size: usize,
    #[serde(alias = "activation", default = "gelu")]
    hidden_act: String,
    #[serde(default = "layer_norm_eps")]
    layer_norm_eps: f32,
    #[serde(default = "max_position_embeddings")]
    max_position_embeddings: usize,
    position_embedding_type: Option<String>,
    pad_token_id: Option<usize>,
    relative_attention_num_buckets: Option<usize>,
}

fn gelu() -> String {
    "gelu".into()
}

fn layer_norm_eps() -> f32 {
    1e-12
}

fn max_position_embeddings() -> usize {
    512
}

const FAMILIES: &str = "`bert`, `roberta`, `xlm-roberta`, `camembert`, `distilbert`, `mpnet` and static embeddings \
                        (`model2vec`)";

impl Architecture {
    /// Reads `config.json`.
    pub(super) fn read(path: &Path) -> Result<Self, AugmentError> {
        /// Read first, because another family's config may lack what is needed here.
        #[derive(Deserialize)]
        struct ModelType {
            model_type: Option<String>,
        }
        let ModelType { model_type } = read_json(path)?;
        let model_type = model_type.as_deref().unwrap_or("bert");
        let family = match model_type {
            "bert" | "roberta" | "xlm-roberta" | "camembert" => Family::Bert,
            "distilbert" => Family::DistilBert,
            "mpnet" => Family::MpNet,
            _ => {
                let problem = format!(
                    "it is of the family `{model_type}`, which is not supported; {FAMILIES} are"
                );
                return Err(unsupported(path, problem));
            }
        };
        let config: Config = read_json(path)?;
        let first_position = match (family, model_type) {
            (Family::Bert, "bert") | (Family::DistilBert, _) => 0,
            // RoBERTa and its kin count positions from behind the padding token's id, which is 1 for MPNet.
            (Family::MpNet, _) => 2,
            (Family::Bert, _) => config.pad_token_id.unwrap_or(1) + 1,
        };
        let architecture = Self {
            family,
            hidden_size: config.hidden_size,
            layers: config.num_hidden_layers,
            heads: config.num_attention_heads,
            intermediate_size: config.intermediate_size,
            activation: activation_named(&config.hidden_act).ok_or_else(|| {
                unsupported(path, format!("its activation is `{}`", config.hidden_act))
            })?,
            layer_norm_eps: config.layer_norm_eps,
            positions: config.max_position_embeddings,
            first_position,
            relative_buckets: (family == Family::MpNet)
                .then(|| config.relative_attention_num_buckets.unwrap_or(32)),
        };
        if let Some(kind) = config
            .position_embedding_type
            .filter(|kind| kind != "absolute")
        {
            return Err(unsupported(
                path,
                format!("its positions are `{kind}`, not `absolute`"),
            ));
        }
        match architecture.problem() {
            Some(problem) => Err(AugmentError::BadJson {
                path: path.to_owned(),
                problem,
            }),
            None => Ok(architecture),
        }
    }

    /// What cannot be.
    fn problem(&self) -> Option<String> {
        let sizes = [self.hidden_size, self.heads, self.intermediate_size];
        if sizes.contains(&0) || !self.hidden_size.is_multiple_of(self.heads) {
            return Some(format!(
                "{} attention heads do not divide hidden_size {}",
                self.heads, self.hidden_size
            ));
        }
        (self.max_tokens() == 0).then(|| "it has no positions for tokens".into())
    }

    /// The most tokens a text may have.
    pub(super) fn max_tokens(&self) -> usize {
        self.positions.saturating_sub(self.first_position)
    }

    /// The names of a layer's tensors, without `.weight` and `.bias`.
    pub(super) fn layer_names(&self, layer: usize) -> LayerNames {
        let (prefix, names) = match self.family {
            Family::Bert => (
                "encoder",
                [
                    "attention.self.query",
                    "attention.self.key",
                    "attention.self.value",
                    "attention.output.dense",
                    "attention.output.LayerNorm",
                    "intermediate.dense",
                    "output.dense",
                    "output.LayerNorm",
                ],
            ),
            Family::MpNet => (
                "encoder",
                [
                    "attention.attn.q",
                    "attention.attn.k",
                    "attention.attn.v",
                    "attention.attn.o",
                    "attention.LayerNorm",
                    "intermediate.dense",
                    "output.dense",
                    "output.LayerNorm",
                ],
            ),
            Family::DistilBert => (
                "transformer",
                [
                    "attention.q_lin",
                    "attention.k_lin",
                    "attention.v_lin",
                    "attention.out_lin",
                    "sa_layer_norm",
                    "ffn.lin1",
                    "ffn.lin2",
                    "output_layer_norm",
                ],
            ),
        };
        let [query, key, value, output, attention_norm, up, down, norm] =
            names.map(|name| format!("{prefix}.layer.{layer}.{name}"));
        LayerNames {
            query_key_value: [query, key, value],
            output,
            attention_norm,
            up,
            down,
            norm,
        }
    }
}

/// The names of a layer's tensors.
pub(super) struct LayerNames {
    pub query_key_value: [String; 3],
    pub output: String,
    pub attention_norm: String,
    pub up: String,
    pub down: String,
    pub norm: String,
}

fn activation_named(name: &str) -> Option<Activation> {
    match name {
        "gelu" | "gelu_python" => Some(Activation::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Some(Activation::GeluTanh),
        "relu" => Some(Activation::Relu),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(changes: serde_json::Value) -> Result<Architecture, AugmentError> {
        let mut config = json!({
            "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
            "max_position_embeddings": 32, "pad_token_id": 1
        });
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, config.to_string()).unwrap();
        Architecture::read(&path)
    }

    #[test]
    fn roberta_counts_positions_from_behind_the_padding() {
        let roberta = read(json!({"model_type": "xlm-roberta"})).unwrap();
        assert_eq!((roberta.first_position, roberta.max_tokens()), (2, 30));
        let bert = read(json!({"model_type": "bert"})).unwrap();
        assert_eq!((bert.first_position, bert.max_tokens()), (0, 32));
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let problem = |changes| read(changes).unwrap_err().to_string();
        assert!(problem(json!({"model_type": "llama"})).contains("the family `llama`"));
        assert!(problem(json!({"hidden_act": "silu"})).contains("`silu`"));
        let relative = json!({"position_embedding_type": "relative_key"});
        assert!(problem(relative).contains("`relative_key`"));
        assert!(problem(json!({"num_attention_heads": 3})).contains("3 attention heads"));
        assert!(problem(json!({"num_attention_heads": 0})).contains("0 attention heads"));
    }
}
