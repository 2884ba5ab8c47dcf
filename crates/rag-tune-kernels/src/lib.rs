//! Tensor, and one safe function per operation.
//!
//! An operation `x` stands on three files of one name: `x.rs` checks its arguments and dispatches,
//! `cpu/x.rs` is the CPU kernel, `reference/x.rs` the same mathematics in plain loops, which the
//! tests compare with. Operations that take part in training come as a pair of a forward and a
//! backward function; there is no autograd.
//!
//! Activations are `[tokens, features]`, f32, with sequences packed end to end (see [`Sequences`]).

pub mod activation;
pub mod adamw;
pub mod adamw_8bit;
pub mod adapted;
mod aligned;
mod arena;
pub mod argmax;
pub mod attention;
pub mod bias;
pub mod blockwise;
mod buffer;
pub mod cross_entropy;
pub mod cuda;
pub mod dropout;
pub mod encoder_attention;
pub mod error;
pub mod floats;
pub mod gated;
pub mod layer_norm;
pub mod linear;
pub mod matrix;
pub mod nf4;
pub mod peak;
pub mod processor;
pub mod quantize_rows;
pub mod reference;
pub mod rms_norm;
pub mod rope;
pub mod sequences;
pub mod stored;
pub mod swiglu;
pub mod tensor;

mod cpu;

pub use error::KernelError;
pub use floats::{FloatType, Floats};
pub use matrix::{Compute, Matrix};
pub use sequences::Sequences;
pub use stored::Stored;
pub use tensor::Tensor;
