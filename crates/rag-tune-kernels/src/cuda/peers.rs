//! Sums over the devices of several processes.
//!
//! A library of the device's maker adds up, over whatever joins the devices ([`nccl`](super::nccl) on GPUs). How the processes
//! find each other, and how they notice that one of them is lost, is the caller's: it carries an id to all of them, and
//! is asked while they wait.

use std::fmt::Debug;

use super::buffer::DeviceBuffer;
use super::device::{Device, DeviceError};
use crate::error::KernelError;
use crate::tensor::{Tensor, two_places};

/// A process among those that add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its number, from 0.
    pub rank: usize,
    /// How many there are.
    pub size: usize,
}

/// By what the devices of one sum find each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerId(pub [u8; Self::BYTES]);

impl PeerId {
    /// Of an id.
    pub const BYTES: usize = 128;
}

/// Whether a member is known to be lost: asked again and again while a sum waits for the others.
pub type IsLost<'a> = &'a dyn Fn() -> bool;

/// What a device's library does.
pub(crate) trait PeerSum: Debug + Send {
    /// Adds `len` f32 at `at` over all members, in place, after all that was launched before. Waits for it.
    ///
    /// # Safety
    /// They are allocated on the device, and nothing else writes to them.
    unsafe fn sum(&mut self, at: u64, len: usize, is_lost: IsLost<'_>) -> Result<(), DeviceError>;
}

/// The devices of other processes, joined for sums.
#[derive(Debug)]
pub struct Peers {
    device: Device,
    by: Box<dyn PeerSum>,
    /// All tensors one behind the other: one large sum is quicker than many small ones.
    packed: Option<DeviceBuffer<f32>>,
}

impl Peers {
    /// The version of the library that would add up on `device`: members must have the same.
    ///
    /// # Errors
    /// [`DeviceError::Call`] if there is none, or it is too old.
    pub fn version(device: &Device) -> Result<String, DeviceError> {
        device.driver().peer_version()
    }

    /// A new id: one member makes it, all join by it.
    ///
    /// # Errors
    /// [`DeviceError::Call`] if there is no library, or it fails.
    pub fn new_id(device: &Device) -> Result<PeerId, DeviceError> {
        device.driver().new_peer_id()
    }

    /// Joins the others, each of which has a device of its own. Waits for them, until `is_lost`.
    ///
    /// # Errors
    /// [`DeviceError::Call`] if the library fails, or a member is lost.
    pub fn join(
        device: &Device,
        id: &PeerId,
        member: Member,
        is_lost: IsLost<'_>,
    ) -> Result<Self, DeviceError> {
        let by = device.driver().join_peers(id, member, is_lost)?;
        Ok(Self::of(device, by))
    }

    fn of(device: &Device, by: Box<dyn PeerSum>) -> Self {
        let device = device.clone();
        let packed = None;
        Self { device, by, packed }
    }

    /// Replaces f32 tensors by their sums over all members, which give tensors of the same shapes in the same order. Every member gets
    /// the same bits; which, depends on the number of members. Waits, until `is_lost`.
    ///
    /// # Errors
    /// [`KernelError::Value`] if a tensor lies elsewhere; [`KernelError::Device`] if memory is not enough, the library fails, or a member is lost.
    /// After an error nobody goes on with these sums.
    pub fn sum(
        &mut self,
        tensors: &mut [&mut Tensor],
        is_lost: IsLost<'_>,
    ) -> Result<(), KernelError> {
        const OPERATION: &str = "Peers::sum";
        if tensors.iter().any(|it| it.device() != Some(&self.device)) {
            return Err(two_places(OPERATION));
        }
        let len = tensors.iter().map(|it| it.len()).sum();
        let packed = match &mut self.packed {
            Some(packed) if packed.len() == len => packed,
            packed => packed.insert(DeviceBuffer::stale(&self.device, len)?),
        };
        let mut first = 0;
        for tensor in tensors.iter_mut() {
            let len = tensor.len();
            packed.copy_from(first, tensor.f32_on_device(OPERATION)?, 0..len)?;
            first += len;
        }
        // SAFETY: the whole buffer, which is this value's own.
        unsafe { self.by.sum(packed.at(0), len, is_lost) }?;
        let mut first = 0;
        for tensor in tensors.iter_mut() {
            let len = tensor.len();
            tensor
                .f32_on_device(OPERATION)?
                .copy_from(0, packed, first..first + len)?;
            first += len;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many members as asked for, all of which have what this one has.
    #[derive(Debug)]
    struct Likes(Device, f32);

    impl PeerSum for Likes {
        unsafe fn sum(
            &mut self,
            at: u64,
            len: usize,
            is_lost: IsLost<'_>,
        ) -> Result<(), DeviceError> {
            if is_lost() {
                return Err(DeviceError::Call {
                    call: "sum".to_owned(),
                    problem: "a member is lost".to_owned(),
                });
            }
            let mut values = vec![0.0_f32; len];
            // SAFETY: the caller's promise.
            unsafe {
                let driver = self.0.driver();
                driver.download(bytemuck::cast_slice_mut(&mut values), at)?;
                values.iter_mut().for_each(|value| *value *= self.1);
                driver.upload(at, bytemuck::cast_slice(&values))
            }
        }
    }

    #[test]
    fn every_tensor_gets_its_own_sum() {
        let device = Device::emulated(0).unwrap();
        let mut peers = Peers::of(&device, Box::new(Likes(device.clone(), 3.0)));
        for shapes in [vec![[2, 3], [1, 1], [0, 5], [4, 2]], vec![[7, 1]], vec![]] {
            let value = |at: usize, row: usize, col: usize| (100 * at + 10 * row + col) as f32;
            let here = shapes.iter().enumerate().map(|(at, [rows, cols])| {
                Tensor::from_fn(*rows, *cols, |row, col| value(at, row, col))
            });
            let here: Vec<Tensor> = here.collect();
            let there = here.iter().map(|it| it.to_device(&device).unwrap());
            let mut there: Vec<Tensor> = there.collect();
            let mut tensors: Vec<&mut Tensor> = there.iter_mut().collect();
            peers.sum(&mut tensors, &|| false).unwrap();
            for (here, there) in here.iter().zip(&there) {
                let tripled: Vec<f32> = here.data().iter().map(|value| 3.0 * value).collect();
                assert_eq!(there.to_host().unwrap().data(), tripled);
            }
        }
    }

    #[test]
    fn what_cannot_be_summed_is_refused() {
        let device = Device::emulated(0).unwrap();
        let mut peers = Peers::of(&device, Box::new(Likes(device.clone(), 2.0)));
        let mut here = Tensor::zeros(1, 2);
        let refused = peers.sum(&mut [&mut here], &|| false).unwrap_err();
        assert!(matches!(refused, KernelError::Value { .. }), "{refused}");
        let mut there = Tensor::zeros_on(&device, 1, 2).unwrap();
        let lost = peers.sum(&mut [&mut there], &|| true).unwrap_err();
        assert_eq!(lost.to_string(), "sum: a member is lost");
        let alone = Peers::version(&device).unwrap_err();
        assert!(
            alone.to_string().starts_with("sums over devices: "),
            "{alone}"
        );
    }
}
