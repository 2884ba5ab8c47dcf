//! Devices: memory, kernels by name, and products of matrices; and what an operation launches, one file each.
//!
//! A [`Device`] is a GPU (feature `cuda`), or an emulation of one that runs the same kernels' sources on the CPU (feature
//! `emulator`), by which the whole path is tested on machines without. Everything that is launched goes to one stream, in order:
//! memory that is given up may be used again at once, and only reading results waits.

pub(crate) mod attention;
pub(crate) mod buffer;
pub mod device;
pub(crate) mod driver;
#[cfg(any(test, feature = "emulator"))]
mod emulator;
#[cfg(feature = "cuda")]
mod gpu;
pub(crate) mod rms_norm;
#[cfg(test)]
pub(crate) mod testing;

pub use buffer::DeviceBuffer;
pub use device::{Device, DeviceError, DeviceMemory};
