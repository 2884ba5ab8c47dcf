//! What a device can do, in terms of addresses.

use std::fmt::Debug;

use super::device::{DeviceError, DeviceMemory};
use super::peers::{IsLost, Member, PeerId, PeerSum};
use super::recording::{Graph, Operation};

/// A GPU's driver, or what stands for it.
///
/// Every call but [`Driver::download`] and [`Driver::synchronize`] may return before it is done; calls are done in order.
pub(crate) trait Driver: Debug + Send + Sync {
    /// For people: the processor's name.
    fn name(&self) -> String;

    /// Rows of square matrices whose product shows how fast it is.
    fn telling_size(&self) -> usize;

    /// Of the whole device.
    fn memory(&self) -> Result<DeviceMemory, DeviceError>;

    /// The address of `bytes` new bytes, a multiple of 256; what they hold is not specified.
    fn allocate(&self, bytes: usize) -> Result<u64, DeviceError>;

    /// Gives up what [`Driver::allocate`] has returned; calls before this one may still use it.
    ///
    /// # Safety
    /// `address` is from `allocate`, and no later call uses it.
    unsafe fn free(&self, address: u64);

    /// # Safety
    /// `from.len()` bytes at `to` are allocated.
    unsafe fn upload(&self, to: u64, from: &[u8]) -> Result<(), DeviceError>;

    /// Waits for all calls before.
    ///
    /// # Safety
    /// `to.len()` bytes at `from` are allocated.
    unsafe fn download(&self, to: &mut [u8], from: u64) -> Result<(), DeviceError>;

    /// # Safety
    /// `bytes` bytes at both addresses are allocated, and do not overlap.
    unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), DeviceError>;

    /// # Safety
    /// `bytes` bytes at `at` are allocated.
    unsafe fn clear(&self, at: u64, bytes: usize) -> Result<(), DeviceError>;

    /// # Safety
    /// The arguments are those of the kernel, and what they say of memory is true.
    unsafe fn launch(&self, launch: &Launch) -> Result<(), DeviceError>;

    /// # Safety
    /// The matrices lie in allocated memory, and `c` overlaps neither `a` nor `b`.
    unsafe fn multiply(&self, product: &Product) -> Result<(), DeviceError>;

    /// Waits for all calls before.
    fn synchronize(&self) -> Result<(), DeviceError>;

    /// Notes when all calls before are done.
    fn mark(&self) -> Result<Mark, DeviceError>;

    /// From one mark to a later one; waits for it, and gives up both.
    fn seconds(&self, from: Mark, to: Mark) -> Result<f64, DeviceError>;

    /// The operations in a form that starts faster than one after the other, where there is one. All were done before.
    fn graph(&self, _operations: &[Operation]) -> Result<Option<Box<dyn Graph>>, DeviceError> {
        Ok(None)
    }

    /// What no other device has, where that is known.
    fn uuid(&self) -> Option<String> {
        None
    }

    /// The version of the library that adds up over devices.
    fn peer_version(&self) -> Result<String, DeviceError> {
        Err(no_peers())
    }

    /// An id for devices that are to join.
    fn new_peer_id(&self) -> Result<PeerId, DeviceError> {
        Err(no_peers())
    }

    /// Joins the devices of other processes; waits for them, until `is_lost`.
    fn join_peers(
        &self,
        _id: &PeerId,
        _member: Member,
        _is_lost: IsLost<'_>,
    ) -> Result<Box<dyn PeerSum>, DeviceError> {
        Err(no_peers())
    }
}

fn no_peers() -> DeviceError {
    DeviceError::Call {
        call: "sums over devices".to_owned(),
        problem: "there is no library for them on this kind of device".to_owned(),
    }
}

/// A moment of a device's work, as its driver notes it.
#[derive(Debug)]
pub(crate) struct Mark(pub(crate) u64);

/// A kernel's launch.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    /// As it is called in its `.cu`.
    pub(crate) kernel: &'static str,
    /// Blocks.
    pub(crate) grid: [u32; 3],
    /// Threads of a block, along x.
    pub(crate) threads: u32,
    /// Dynamic shared memory of a block.
    pub(crate) shared_bytes: u32,
    pub(crate) arguments: Vec<Argument>,
}

/// An argument of a kernel; its bits begin at the lowest address, whatever its size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Argument {
    pub(crate) bits: u64,
    /// `p`ointer, `i`nteger of 32 bits, `l`ong integer, `f`loat: compared with the kernel's in emulation.
    #[cfg_attr(
        all(feature = "cuda", not(any(test, feature = "emulator"))),
        expect(dead_code, reason = "only an emulated launch compares kinds")
    )]
    pub(crate) kind: u8,
}

impl Argument {
    pub(crate) fn address(address: u64) -> Self {
        Self {
            bits: address,
            kind: b'p',
        }
    }
}

impl From<i32> for Argument {
    fn from(value: i32) -> Self {
        Self {
            bits: u64::from(value.cast_unsigned()),
            kind: b'i',
        }
    }
}

impl From<u64> for Argument {
    fn from(value: u64) -> Self {
        Self {
            bits: value,
            kind: b'l',
        }
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Self {
            bits: u64::from(value.to_bits()),
            kind: b'f',
        }
    }
}

/// `d = alpha op(a) op(b) + beta c` of row-major matrices, f32 sums.
///
/// `op(a)` is `[rows, inner]`, `op(b)` `[inner, cols]`, `c` and `d` `[rows, cols]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Product {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) inner: usize,
    pub(crate) alpha: f32,
    pub(crate) a: Factor,
    pub(crate) b: Factor,
    pub(crate) beta: f32,
    /// Read unless `beta` is 0; of the type and the stride of `d`, and may be `d`.
    pub(crate) c: u64,
    pub(crate) d: u64,
    /// From one row of `c` and `d` to the next, in values.
    pub(crate) stride: usize,
    pub(crate) d_type: ProductType,
}

/// A factor of a [`Product`]: bf16.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Factor {
    pub(crate) address: u64,
    /// From one row as it lies in memory to the next, in values.
    pub(crate) stride: usize,
    /// Whether its transpose lies in memory.
    pub(crate) transposed: bool,
}

/// What a product's result is held in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ProductType {
    F32,
    Bf16,
}
