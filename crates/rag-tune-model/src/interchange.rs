//! Adapters for other programs, and what those programs ask of one.
//!
//! - [`AdapterFiles`] is an adapter folder as it lies on disk, whoever wrote it.
//! - [`check`] says whether PEFT, vLLM and llama.cpp load it, rule by rule.
//! - [`peft_folder`] is the plain folder in PEFT's format, without files of our own.
//! - [`gguf_lora`] is the file that llama.cpp loads with `--lora`.

pub mod check;
mod dtype;
mod files;
pub mod gguf_lora;
pub mod peft_folder;

pub use dtype::ExportDtype;
pub use files::{AdapterFiles, StoredFactor};

#[cfg(test)]
mod tests {
    use crate::config::{LlamaConfig, RopeScaling};

    /// Two layers, four query heads on two key and value heads of four.
    pub fn tiny_config() -> LlamaConfig {
        LlamaConfig {
            hidden_size: 16,
            intermediate_size: 24,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 4,
            vocab_size: 32,
            rms_norm_eps: 1e-5,
            rope_theta: 10000.0,
            rope_scaling: RopeScaling::None,
            max_position_embeddings: 64,
            tie_word_embeddings: true,
            attention_bias: false,
            mlp_bias: false,
            bos_token_id: None,
            eos_token_ids: vec![1],
        }
    }
}
