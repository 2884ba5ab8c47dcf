//! Llama-family models: checkpoint, 8-bit or 4-bit weights, forward, backward, generation.

mod block;
pub mod checkpoint;
pub mod config;
pub mod drift;
pub mod error;
pub mod flop;
pub mod generate;
mod gguf_metadata;
mod gguf_writer;
pub mod interchange;
mod linear;
pub mod llama;
mod loader;
pub mod lora;
pub mod lora_settings;
pub mod memory;
pub mod merge;
#[cfg(test)]
mod mirror;
pub mod non_finite;
pub mod peft;
mod q8_0;
pub mod quantize;
mod source;
pub mod tokenizer;
mod weight_cache;
