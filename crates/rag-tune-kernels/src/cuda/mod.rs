//! Devices: memory, kernels by name, and products of matrices; and what an operation launches, one file each.
//!
//! A [`Device`] is a GPU (feature `cuda`), or an emulation of one that runs the same kernels' sources on the CPU (feature
//! `emulator`), by which the whole path is tested on machines without. Everything that is launched goes to one stream, in order:
//! memory that is given up may be used again at once, and only reading results waits.

pub(crate) mod adamw;
pub(crate) mod attention;
pub(crate) mod buffer;
pub(crate) mod convert;
pub(crate) mod cross_entropy;
pub(crate) mod dequantize_rows;
pub mod device;
pub(crate) mod driver;
pub(crate) mod dropout;
mod elementwise;
#[cfg(any(test, feature = "emulator"))]
mod emulator;
#[cfg(feature = "cuda")]
mod gpu;
pub(crate) mod grad_norm;
pub(crate) mod ids;
pub(crate) mod int8_gemm;
pub(crate) mod int8_matmul;
pub(crate) mod lora;
pub(crate) mod pieces;
pub(crate) mod quantize_rows;
pub(crate) mod rms_norm;
pub(crate) mod rope;
pub(crate) mod rows;
pub(crate) mod swiglu;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod view;

pub use buffer::DeviceBuffer;
pub use device::{Device, DeviceError, DeviceMemory};
