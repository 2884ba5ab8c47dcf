//! Floating point values as a file holds them.

use std::borrow::Cow;
use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

/// The type of stored values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloatType {
    /// 32 bits.
    F32,
    /// 16 bits, 11 of them significant.
    F16,
    /// 16 bits, 8 of them significant, with f32's range.
    Bf16,
}

impl FloatType {
    /// Bytes of a value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// Values in memory, or little-endian at any address, for instance in a mapped file.
#[derive(Debug, Clone)]
pub struct Floats<'a>(Held<'a>);

#[derive(Debug, Clone)]
enum Held<'a> {
    Values(Cow<'a, [f32]>),
    Bytes(FloatType, &'a [u8]),
}

impl<'a> Floats<'a> {
    /// `bytes` holds values of `dtype`; a rest that is no whole value is left out.
    pub fn new(dtype: FloatType, bytes: &'a [u8]) -> Self {
        Self(Held::Bytes(dtype, bytes))
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        match &self.0 {
            Held::Values(values) => values.len(),
            Held::Bytes(dtype, bytes) => bytes.len() / dtype.bytes(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Widens the values `range` into `to`, which has as many places.
    ///
    /// # Panics
    /// If `range` reaches beyond the values, or `to` has another length.
    pub fn read(&self, range: Range<usize>, to: &mut [f32]) {
        assert_eq!(range.len(), to.len(), "places for the values");
        let (dtype, bytes) = match &self.0 {
            Held::Values(values) => return to.copy_from_slice(&values[range]),
            Held::Bytes(dtype, bytes) => (*dtype, *bytes),
        };
        let bytes = &bytes[range.start * dtype.bytes()..range.end * dtype.bytes()];
        match dtype {
            FloatType::F32 => read_f32(bytes, to),
            FloatType::F16 => read_f16(bytes, to),
            FloatType::Bf16 => read_bf16(bytes, to),
        }
    }

    /// All of them.
    pub fn into_vec(self) -> Vec<f32> {
        if let Held::Values(values) = self.0 {
            return values.into_owned();
        }
        let mut values = vec![0.0; self.len()];
        let pieces = values.par_chunks_mut(PIECE).enumerate();
        pieces.for_each(|(piece, to)| self.read(piece * PIECE..piece * PIECE + to.len(), to));
        values
    }

    /// The largest magnitude of the finite values, and how many are not finite.
    pub fn extent(&self) -> (f32, usize) {
        let pieces = (0..self.len().div_ceil(PIECE)).into_par_iter();
        let extents = pieces.map_init(Vec::new, |values, piece| {
            let first = piece * PIECE;
            let end = self.len().min(first + PIECE);
            values.resize(end - first, 0.0);
            self.read(first..end, values);
            extent(values)
        });
        extents.reduce(
            || (0.0, 0),
            |left, right| (left.0.max(right.0), left.1 + right.1),
        )
    }
}

/// Values that a task widens.
const PIECE: usize = 1 << 16;

impl<'a> From<&'a [f32]> for Floats<'a> {
    fn from(values: &'a [f32]) -> Self {
        Self(Held::Values(Cow::Borrowed(values)))
    }
}

impl From<Vec<f32>> for Floats<'_> {
    fn from(values: Vec<f32>) -> Self {
        Self(Held::Values(Cow::Owned(values)))
    }
}

impl<'a> From<&'a Vec<f32>> for Floats<'a> {
    fn from(values: &'a Vec<f32>) -> Self {
        Self::from(values.as_slice())
    }
}

impl<'a, const N: usize> From<&'a [f32; N]> for Floats<'a> {
    fn from(values: &'a [f32; N]) -> Self {
        Self::from(values.as_slice())
    }
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx512dq", "x86_64+avx2"))]
fn extent(values: &[f32]) -> (f32, usize) {
    let (mut largest, mut count) = ([0.0_f32; 16], [0_u32; 16]);
    for values in values.chunks(16) {
        for ((largest, count), value) in largest.iter_mut().zip(&mut count).zip(values) {
            let is_finite = value.is_finite();
            *count += u32::from(!is_finite);
            *largest = largest.max(if is_finite { value.abs() } else { 0.0 });
        }
    }
    let largest = largest.into_iter().fold(0.0, f32::max);
    (largest, count.iter().sum::<u32>() as usize)
}

fn read_f32(bytes: &[u8], to: &mut [f32]) {
    for (to, bytes) in to.iter_mut().zip(bytes.as_chunks().0) {
        *to = f32::from_le_bytes(*bytes);
    }
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx512dq", "x86_64+avx2"))]
fn read_bf16(bytes: &[u8], to: &mut [f32]) {
    for (to, bytes) in to.iter_mut().zip(bytes.as_chunks().0) {
        *to = crate::cpu::convert::to_f32(bf16::from_le_bytes(*bytes));
    }
}

fn read_f16(bytes: &[u8], to: &mut [f32]) {
    let mut halves = [f16::ZERO; 64];
    for (to, bytes) in to.chunks_mut(64).zip(bytes.chunks(128)) {
        let halves = &mut halves[..to.len()];
        for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks().0) {
            *half = f16::from_le_bytes(*bytes);
        }
        halves.convert_to_f32_slice(to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_widened_exactly_at_any_address() {
        let values: Vec<f32> = (0..301).map(|at| (at as f32 - 150.0) / 8.0).collect();
        let bytes = |dtype| -> Vec<u8> {
            let each = values.iter().flat_map(|value| match dtype {
                FloatType::F32 => value.to_le_bytes().to_vec(),
                FloatType::F16 => f16::from_f32(*value).to_le_bytes().to_vec(),
                FloatType::Bf16 => bf16::from_f32(*value).to_le_bytes().to_vec(),
            });
            [0].into_iter().chain(each).collect()
        };
        for dtype in [FloatType::F32, FloatType::F16, FloatType::Bf16] {
            let bytes = bytes(dtype);
            let floats = Floats::new(dtype, &bytes[1..]);
            let expected: Vec<f32> = match dtype {
                FloatType::Bf16 => values.iter().map(|v| bf16::from_f32(*v).to_f32()).collect(),
                FloatType::F32 | FloatType::F16 => values.clone(),
            };
            assert_eq!(floats.clone().into_vec(), expected, "{dtype:?}");
            let mut some = [0.0; 70];
            floats.read(100..170, &mut some);
            assert_eq!(some, expected[100..170], "{dtype:?}");
        }
    }

    #[test]
    fn what_is_not_finite_is_counted_and_does_not_hide_the_largest() {
        let mut values = vec![0.5; 3 * PIECE + 5];
        values[PIECE + 1] = -7.0;
        values[7] = f32::NAN;
        values[3 * PIECE] = f32::NEG_INFINITY;
        assert_eq!(Floats::from(&values).extent(), (7.0, 2));
        assert_eq!(Floats::from(vec![]).extent(), (0.0, 0));
    }
}
