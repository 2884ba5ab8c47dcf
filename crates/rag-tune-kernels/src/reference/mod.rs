//! The same operations in plain loops: written to be read, and what the kernels are tested against.
//!
//! f32 values, f64 sums, no blocking, no shared code with the kernels.

mod attention;
mod cross_entropy;
mod encoder;
mod linear;
mod nearest;
mod pointwise;
mod quantize_rows;
#[cfg(test)]
pub(crate) mod testing;

pub use attention::{attention, attention_backward};
pub use cross_entropy::cross_entropy;
pub use encoder::{activation, encoder_attention, layer_norm};
pub use linear::{linear, linear_backward};
pub use nearest::nearest_value;
pub use pointwise::{
    adamw, add_bias, argmax, rms_norm, rms_norm_backward, rope, swiglu, swiglu_backward,
};
pub use quantize_rows::quantize_rows;
