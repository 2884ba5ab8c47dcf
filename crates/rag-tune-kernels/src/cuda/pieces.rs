//! The table of an adapter's tensors that kernels/pieces.cuh describes.

use bytemuck::{Pod, Zeroable};

use super::buffer::DeviceBuffer;
use super::device::Device;
use crate::error::{KernelError, check_shape};

/// Values of a piece: four packs of 16 bytes for each of 256 threads.
const PIECE: usize = 4096;

/// A tensor with what its update reads and writes, all of one length.
#[derive(Debug)]
pub(crate) struct Tensor<'a> {
    pub(crate) parameter: &'a mut DeviceBuffer<f32>,
    pub(crate) gradient: &'a DeviceBuffer<f32>,
    pub(crate) first_moment: &'a mut DeviceBuffer<f32>,
    pub(crate) second_moment: &'a mut DeviceBuffer<f32>,
}

/// How a tensor's update differs from others'.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Group {
    /// Its learning rate over that of the step.
    pub lr_ratio: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
}

/// Where tensors lie. It borrows none: a launch is given them again, and they must be those.
#[derive(Debug)]
pub(crate) struct Table {
    places: Vec<Place>,
    pieces: DeviceBuffer<Piece>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Place {
    parameter: u64,
    gradient: u64,
    first_moment: u64,
    second_moment: u64,
    len: usize,
}

/// `Piece` of kernels/pieces.cuh.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Piece {
    parameter: u64,
    gradient: u64,
    first_moment: u64,
    second_moment: u64,
    lr_ratio: f32,
    weight_decay: f32,
    len: u64,
}

// SAFETY: numbers alone, for which all zeros are values.
unsafe impl Zeroable for Piece {}
// SAFETY: numbers alone, without a gap between them: 6 of 8 bytes, of which one is two of 4.
unsafe impl Pod for Piece {}

impl Table {
    /// The table of these tensors, each with its group.
    ///
    /// # Errors
    /// [`KernelError`] if the lengths of a tensor's buffers differ, or memory is not enough.
    pub(crate) fn new(
        device: &Device,
        tensors: &[Tensor<'_>],
        groups: &[Group],
    ) -> Result<Self, KernelError> {
        check_shape("adamw", "groups", &[groups.len()], &[tensors.len()])?;
        let mut places = Vec::new();
        let mut pieces = Vec::new();
        for (tensor, group) in tensors.iter().zip(groups) {
            let place = Place::of(tensor, device)?;
            places.push(place);
            for first in (0..place.len).step_by(PIECE) {
                let at = |address: u64| address + (first * size_of::<f32>()) as u64;
                pieces.push(Piece {
                    parameter: at(place.parameter),
                    gradient: at(place.gradient),
                    first_moment: at(place.first_moment),
                    second_moment: at(place.second_moment),
                    lr_ratio: group.lr_ratio,
                    weight_decay: group.weight_decay,
                    len: PIECE.min(place.len - first) as u64,
                });
            }
        }
        Ok(Self {
            places,
            pieces: DeviceBuffer::from_slice(device, &pieces)?,
        })
    }

    /// Whether these are the tensors of the table, in its order.
    ///
    /// # Errors
    /// As [`Table::new`].
    pub(super) fn is_of(&self, tensors: &[Tensor<'_>]) -> Result<bool, KernelError> {
        let found = tensors.iter().map(|it| Place::of(it, self.device()));
        Ok(found.collect::<Result<Vec<_>, _>>()? == self.places)
    }

    /// That they are.
    ///
    /// # Errors
    /// As [`Table::new`].
    ///
    /// # Panics
    /// If they are others.
    pub(super) fn check(&self, tensors: &[Tensor<'_>]) -> Result<(), KernelError> {
        assert!(self.is_of(tensors)?, "the tensors are those of the table");
        Ok(())
    }

    /// As [`Table::check`], where gradients alone are read.
    pub(super) fn check_gradients(&self, gradients: &[&DeviceBuffer<f32>]) {
        let found = gradients.iter().map(|it| (it.at(0), it.len()));
        let places = self.places.iter().map(|it| (it.gradient, it.len));
        assert!(
            found.eq(places) && gradients.iter().all(|it| it.device() == self.device()),
            "the gradients are those of the table"
        );
    }

    pub(super) fn pieces(&self) -> &DeviceBuffer<Piece> {
        &self.pieces
    }

    pub(super) fn device(&self) -> &Device {
        self.pieces.device()
    }
}

impl Place {
    fn of(tensor: &Tensor<'_>, device: &Device) -> Result<Self, KernelError> {
        let Tensor {
            parameter,
            gradient,
            first_moment,
            second_moment,
        } = tensor;
        let len = parameter.len();
        for (argument, buffer) in [
            ("parameter", &**parameter),
            ("gradient", *gradient),
            ("first_moment", &**first_moment),
            ("second_moment", &**second_moment),
        ] {
            check_shape("adamw", argument, &[buffer.len()], &[len])?;
            assert!(buffer.device() == device, "adamw: one device");
        }
        Ok(Self {
            parameter: parameter.at(0),
            gradient: gradient.at(0),
            first_moment: first_moment.at(0),
            second_moment: second_moment.at(0),
            len,
        })
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::reference::testing::noise;

    /// The four buffers of a [`Tensor`], zero moments.
    pub(crate) struct Owned {
        pub(crate) parameter: DeviceBuffer<f32>,
        pub(crate) gradient: DeviceBuffer<f32>,
        pub(crate) first_moment: DeviceBuffer<f32>,
        pub(crate) second_moment: DeviceBuffer<f32>,
    }

    impl Owned {
        pub(crate) fn new(device: &Device, len: usize, seed: u64) -> Self {
            let parameter = noise(1, len, seed);
            Self {
                parameter: DeviceBuffer::from_slice(device, parameter.data()).unwrap(),
                gradient: DeviceBuffer::zeros(device, len).unwrap(),
                first_moment: DeviceBuffer::zeros(device, len).unwrap(),
                second_moment: DeviceBuffer::zeros(device, len).unwrap(),
            }
        }

        pub(crate) fn tensor(&mut self) -> Tensor<'_> {
            Tensor {
                parameter: &mut self.parameter,
                gradient: &self.gradient,
                first_moment: &mut self.first_moment,
                second_moment: &mut self.second_moment,
            }
        }
    }
}
