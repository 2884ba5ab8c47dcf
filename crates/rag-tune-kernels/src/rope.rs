//! rope: rotary position embedding (arXiv:2104.09864), in the half-split order of Hugging Face's Llama.
//!
//! Pair `(x[i], x[i + d/2])` of a head turns by `position * frequency[i]`, plainly `theta^(-2i/d)`
//! ([`frequencies`]). The backward pass turns by the negative angle.

use std::sync::Arc;

use half::bf16;

use crate::buffer::Buffer;
use crate::cpu;
use crate::cuda::ids::Ids;
use crate::cuda::lazy::Lazy;
use crate::cuda::tensor::{DeviceTensor, own};
use crate::cuda::view::{Element, ViewMut};
use crate::cuda::{self, Device, DeviceBuffer};
use crate::error::{KernelError, check_shape};
use crate::matrix::Compute;
use crate::sequences::Positions;
use crate::stored::Stored;
use crate::tensor::Tensor;

/// Cosines and sines of every position up to a limit.
#[derive(Debug, Clone)]
pub struct RopeTable {
    head_dim: usize,
    positions: usize,
    /// `[positions, head_dim / 2]`
    cos: Vec<f32>,
    /// `[positions, head_dim / 2]`
    sin: Vec<f32>,
    on_device: Lazy<cuda::rope::Table>,
}

/// Which way heads turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The forward pass.
    Forward,
    /// The backward pass: by the negative angle.
    Backward,
}

/// What each pair of a head turns by from one position to the next, in radians, without scaling: `theta^(-2i/head_dim)`.
///
/// # Shapes
/// returns `[head_dim / 2]`
pub fn frequencies(head_dim: usize, theta: f32) -> Vec<f64> {
    (0..head_dim / 2)
        .map(|i| f64::from(theta).powf(-2.0 * i as f64 / head_dim as f64))
        .collect()
}

impl RopeTable {
    /// A table for `positions` positions of heads of `2 * frequencies.len()` features, whose pair `i` turns by
    /// `position * frequencies[i]`.
    pub fn new(positions: usize, frequencies: &[f64]) -> Self {
        let mut table = Self {
            head_dim: 2 * frequencies.len(),
            positions,
            cos: Vec::new(),
            sin: Vec::new(),
            on_device: Lazy::default(),
        };
        for position in 0..positions {
            for frequency in frequencies {
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                table.cos.push(cos as f32);
                table.sin.push(sin as f32);
            }
        }
        table
    }

    /// Positions it covers.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Turns every head of `x` in place.
    ///
    /// # Shapes
    /// `x`: `[tokens, heads * head_dim]`, `positions`: `[tokens]`
    ///
    /// # Errors
    /// [`KernelError`] if the shapes do not fit or a position is not in the table.
    pub fn apply(
        &self,
        x: &mut Tensor,
        positions: &Positions,
        turn: Turn,
    ) -> Result<(), KernelError> {
        let shape = x.shape();
        self.check(x, positions)?;
        match x.on_device_mut() {
            Some(DeviceTensor::F32(values)) => {
                return self.apply_there(own(values)?, shape, positions, turn);
            }
            Some(DeviceTensor::Bf16(values)) => {
                return self.apply_there(own(values)?, shape, positions, turn);
            }
            None => {}
        }
        let sign = if turn == Turn::Forward { 1.0 } else { -1.0 };
        let cols = x.cols();
        let table = self.table(sign);
        cpu::rope::apply(x.data_mut(), cols, positions, table);
        Ok(())
    }

    /// `x` with every head turned forward, as it waits for the backward pass: [`RopeTable::apply`] and [`Stored::new`] in one.
    ///
    /// # Shapes
    /// As [`RopeTable::apply`].
    ///
    /// # Errors
    /// As [`RopeTable::apply`].
    pub fn store(
        &self,
        mut x: Tensor,
        positions: &Positions,
        compute: Compute,
    ) -> Result<Stored, KernelError> {
        if compute == Compute::F32 {
            self.apply(&mut x, positions, Turn::Forward)?;
            return Ok(Stored::new(x, compute));
        }
        self.check(&x, positions)?;
        let [rows, cols] = x.shape();
        if let Some(there) = x.on_device() {
            let (table, positions) = self.there(there.device(), positions)?;
            let mut values = DeviceBuffer::<bf16>::stale(there.device(), rows * cols)?;
            let (wide, to) = (there.f32()?, ViewMut::new(&mut values, [rows, cols]));
            cuda::rope::apply_rounded(wide.view([rows, cols]), &table, &positions, to)?;
            return Ok(Stored::new(
                Tensor::from_device(rows, cols, values),
                compute,
            ));
        }
        let mut values = Buffer::stale(rows * cols);
        cpu::rope::narrow(x.data(), cols, positions, self.table(1.0), &mut values);
        Ok(Stored::from_bf16(rows, cols, values))
    }

    fn apply_there<T: Element>(
        &self,
        x: &mut DeviceBuffer<T>,
        shape: [usize; 2],
        positions: &Positions,
        turn: Turn,
    ) -> Result<(), KernelError> {
        let (table, positions) = self.there(x.device(), positions)?;
        cuda::rope::apply(ViewMut::new(x, shape), &table, &positions, turn)
    }

    /// What a device needs of the table and of some positions.
    pub(crate) fn there(
        &self,
        device: &Device,
        positions: &Positions,
    ) -> Result<(Arc<cuda::rope::Table>, Arc<Ids>), KernelError> {
        let table = self.on_device.get(
            |table| table.device() == device,
            || cuda::rope::Table::new(device, self),
        )?;
        Ok((table, positions.on(device, self.positions)?))
    }

    pub(crate) fn table(&self, sign: f32) -> cpu::rope::Table<'_> {
        cpu::rope::Table {
            cos: &self.cos,
            sin: &self.sin,
            head_dim: self.head_dim,
            sign,
        }
    }

    fn check(&self, x: &Tensor, positions: &[u32]) -> Result<(), KernelError> {
        check_shape("rope", "positions", &[positions.len()], &[x.rows()])?;
        if !x.cols().is_multiple_of(self.head_dim) {
            let problem = format!(
                "{} features are no multiple of head_dim {}",
                x.cols(),
                self.head_dim
            );
            return Err(KernelError::Value {
                operation: "rope",
                problem,
            });
        }
        if let Some(position) = positions
            .iter()
            .find(|position| **position as usize >= self.positions)
        {
            let problem = format!("position {position}, the table has {}", self.positions);
            return Err(KernelError::Value {
                operation: "rope",
                problem,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;
    use crate::reference::testing::{max_error, noise};

    #[test]
    fn rope_matches_reference_and_turns_back() {
        let plain = frequencies(8, 10_000.0);
        let uneven = vec![0.7, 0.2, 0.01, 3.0];
        for frequencies in [plain, uneven] {
            let table = RopeTable::new(50, &frequencies);
            let positions = Positions::from(vec![0, 1, 2, 49, 0, 7]);
            let x = noise(6, 24, 1);
            let mut turned = x.clone();
            table.apply(&mut turned, &positions, Turn::Forward).unwrap();
            assert!(max_error(&turned, &reference::rope(&x, &positions, &frequencies)) < 1e-5);
            table
                .apply(&mut turned, &positions, Turn::Backward)
                .unwrap();
            assert!(max_error(&turned, &x) < 1e-6);
        }
    }

    #[test]
    fn frequencies_fall_from_one_by_powers_of_theta() {
        let frequencies = frequencies(8, 10_000.0);
        let expected = [1.0, 0.1, 0.01, 0.001];
        let pairs = frequencies.iter().zip(expected);
        assert_eq!(frequencies.len(), 4);
        assert!(
            pairs
                .into_iter()
                .all(|(got, expected)| (got - expected).abs() < 1e-15),
            "{frequencies:?}"
        );
    }

    #[test]
    fn storing_is_turning_and_rounding() {
        let table = RopeTable::new(50, &frequencies(12, 10_000.0));
        let positions: Vec<u32> = (0..70).map(|row| row * 7 % 50).collect();
        let positions = Positions::from(positions);
        let x = noise(70, 36, 1);
        for compute in [Compute::F32, Compute::Bf16] {
            let mut turned = x.clone();
            table.apply(&mut turned, &positions, Turn::Forward).unwrap();
            let expected = Stored::new(turned, compute).into_tensor();
            let stored = table.store(x.clone(), &positions, compute).unwrap();
            assert_eq!(stored.into_tensor(), expected, "{compute:?}");
        }
    }

    #[test]
    fn a_position_beyond_the_table_is_refused() {
        let table = RopeTable::new(3, &frequencies(4, 10_000.0));
        let error = table
            .apply(&mut Tensor::zeros(1, 4), &vec![3].into(), Turn::Forward)
            .unwrap_err();
        assert_eq!(error.to_string(), "rope: position 3, the table has 3");
    }
}
