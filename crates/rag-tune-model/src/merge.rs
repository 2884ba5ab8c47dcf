//! Merging: a model whose weights are `W + scaling B A`, DoRA's lengths included, without an adapter.
//!
//! - `weights.rs` makes the merged values, some rows at a time.
//! - `safetensors.rs` writes them as a folder's files ([`write_merged`]).
//! - `gguf.rs` writes them as one file for llama.cpp ([`write_gguf`]).
//!
//! Sums are f32; a result is rounded once. Memory is that of the largest tensor in f32, and of a few of its rows as they
//! are written.
//!
//! `W` is the stored weight (dequantised, where the base is stored quantised), or what training made of it: with
//! [`Quantization::Int8`](crate::config::Quantization::Int8) or `Nf4` every tensor that the quantised model rounds is written as it
//! was rounded, so that the merged model is the one that was trained.

mod gguf;
mod safetensors;
mod weights;

pub use self::gguf::write_gguf;
pub use self::safetensors::write_merged;

use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::lora::Adapter;

/// What is merged.
#[derive(Debug, Clone, Copy)]
pub struct Merge<'a> {
    /// The base model.
    pub base: &'a Checkpoint,
    /// An adapter of its shape.
    pub adapter: &'a Adapter,
    /// What the base's weights are: as stored, or as that quantisation rounds them.
    pub held: &'a ModelConfig,
}
