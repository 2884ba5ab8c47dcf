//! Devices: memory, kernels by name, and products of matrices; and what an operation launches, one file each.
//!
//! Operations outside this module look where their arguments lie, and call what is here for those on a device.
//!
//! A [`Device`] is a GPU (feature `cuda`), or an emulation of one that runs the same kernels' sources on the CPU (feature
//! `emulator`), by which the whole path is tested on machines without. Everything that is launched goes to one stream, in order:
//! memory that is given up may be used again at once, and only reading results waits.

pub(crate) mod adamw;
pub(crate) mod adapted;
pub(crate) mod argmax;
pub(crate) mod attention;
pub(crate) mod buffer;
pub(crate) mod cache;
pub(crate) mod convert;
pub(crate) mod cross_entropy;
mod decode;
pub(crate) mod dequantize_rows;
#[cfg_attr(
    not(any(test, feature = "cuda", feature = "emulator")),
    expect(
        dead_code,
        reason = "a build without a kind of device launches nothing"
    )
)]
pub mod device;
#[cfg_attr(
    not(any(test, feature = "cuda", feature = "emulator")),
    expect(
        dead_code,
        reason = "a build without a kind of device launches nothing"
    )
)]
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
pub(crate) mod lazy;
#[cfg_attr(
    not(test),
    expect(
        dead_code,
        reason = "updates are products of their own so far; tests launch it"
    )
)]
pub(crate) mod lora;
pub(crate) mod matrix;
#[cfg(feature = "cuda")]
mod nccl;
pub(crate) mod optimizer;
pub(crate) mod peers;
pub(crate) mod pieces;
mod profile;
#[cfg_attr(
    not(test),
    expect(
        dead_code,
        reason = "weights are quantised on the host so far; tests launch it"
    )
)]
pub(crate) mod quantize_rows;
mod recording;
pub(crate) mod rms_norm;
pub(crate) mod rope;
pub(crate) mod row;
pub(crate) mod rows;
pub(crate) mod swiglu;
pub(crate) mod tensor;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod view;

pub use adamw::Step;
pub use buffer::DeviceBuffer;
pub use decode::{DecodeShape, DecodeStep, DecodeTables};
pub use device::{Device, DeviceError, DeviceMemory};
pub use matrix::peak_op_per_s;
pub use optimizer::DeviceAdamW;
pub use peers::{IsLost, Member, PeerId, Peers};
pub use pieces::Group;
pub use profile::WorkTime;
pub use recording::{Recording, Scratch};
pub use row::{Row, Vector};
