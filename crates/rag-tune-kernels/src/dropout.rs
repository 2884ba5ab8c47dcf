//! dropout: each value is zeroed with a probability, the others are scaled up to keep the mean.
//!
//! The decision is a hash of (key, element), so that it needs no memory, does not depend on
//! threads, and the backward pass and a resumed run make it again.

use std::sync::Arc;

use crate::cpu;
use crate::cuda;
use crate::cuda::DeviceBuffer;
use crate::cuda::tensor::DeviceTensor;
use crate::cuda::view::{Element, View, ViewMut};
use crate::error::KernelError;
use crate::tensor::Tensor;

/// One dropout: which values fall out is fixed by `key`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Probability of falling out, in `[0, 1)`.
    pub probability: f32,
    /// Identifies the place and time: see [`Dropout::keyed`].
    pub key: u64,
}

impl Dropout {
    /// A dropout for one place (`parts`: step, layer, ...) of a run with this seed.
    pub fn keyed(probability: f32, seed: u64, parts: &[u64]) -> Self {
        Self {
            probability,
            key: keyed(seed, parts),
        }
    }

    /// `x` with some values dropped. Applied to a gradient, it is its own backward pass.
    ///
    /// # Errors
    /// [`KernelError::Device`] if the device's memory is not enough.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor, KernelError> {
        let mut y = x.clone();
        self.apply_in_place(&mut y)?;
        Ok(y)
    }

    /// Drops values of `x` in place.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn apply_in_place(&self, x: &mut Tensor) -> Result<(), KernelError> {
        let shape = x.shape();
        match x.on_device_mut() {
            None => cpu::dropout::apply(self.key, self.probability, x.data_mut()),
            Some(values) => match values {
                DeviceTensor::F32(values) => self.on_device(values, shape)?,
                DeviceTensor::Bf16(values) => self.on_device(values, shape)?,
            },
        }
        Ok(())
    }

    /// Into a buffer of its own: others may still read the old one.
    fn on_device<T: Element>(
        &self,
        values: &mut Arc<DeviceBuffer<T>>,
        shape: [usize; 2],
    ) -> Result<(), KernelError> {
        let mut dropped = DeviceBuffer::stale(values.device(), values.len())?;
        let to = ViewMut::new(&mut dropped, shape);
        cuda::dropout::apply(self, View::new(values, shape), to)?;
        *values = Arc::new(dropped);
        Ok(())
    }
}

/// A random number that a seed and a place (`parts`) fix, whatever was drawn before.
pub fn keyed(seed: u64, parts: &[u64]) -> u64 {
    parts
        .iter()
        .fold(mix(seed), |key, part| mix(key ^ mix(part.wrapping_add(1))))
}

/// The finaliser of splitmix64 (Steele et al. 2014): a bijection whose bits all depend on all.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_and_the_mean_are_kept() {
        let ones = Tensor::from_fn(400, 576, |_, _| 1.0);
        let dropped = Dropout::keyed(0.05, 42, &[1, 2]).apply(&ones).unwrap();
        let zeros = dropped.data().iter().filter(|value| **value == 0.0).count() as f64;
        let share = zeros / dropped.data().len() as f64;
        // Standard error of the share over 230 400 values: 0.00045.
        assert!((share - 0.05).abs() < 0.002, "{share}");
        assert!(
            dropped
                .data()
                .iter()
                .all(|value| *value == 0.0 || (*value - 1.0 / 0.95).abs() < 1e-6)
        );
        for row in [0, 17, 399] {
            let zeros = dropped
                .row(row)
                .iter()
                .filter(|value| **value == 0.0)
                .count();
            assert!((8..60).contains(&zeros), "row {row}: {zeros} of 576");
        }
    }

    #[test]
    fn the_key_decides() {
        let x = Tensor::from_fn(4, 100, |_, _| 1.0);
        let first = Dropout::keyed(0.5, 1, &[3, 4]);
        assert_eq!(first.apply(&x).unwrap(), first.apply(&x).unwrap());
        assert_ne!(
            first.apply(&x).unwrap(),
            Dropout::keyed(0.5, 1, &[4, 3]).apply(&x).unwrap()
        );
        assert_ne!(
            first.apply(&x).unwrap(),
            Dropout::keyed(0.5, 2, &[3, 4]).apply(&x).unwrap()
        );
    }

    #[test]
    fn probability_zero_changes_nothing() {
        let x = Tensor::from_fn(3, 7, |row, col| (row * col) as f32);
        assert_eq!(Dropout::keyed(0.0, 1, &[]).apply(&x).unwrap(), x);
    }
}
