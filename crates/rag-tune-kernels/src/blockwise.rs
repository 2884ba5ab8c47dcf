//! blockwise: 8-bit codes with one scale a block (Dettmers et al. 2021, arXiv:2110.02861).
//!
//! `code = nearest(values, x / absmax)`, `x' = values[code] * absmax`, with the absolute maximum of
//! each block of 256 values and 256 code values that are dense near zero: a code has a decimal
//! exponent of 0 to -6 and the more bits of fraction, the larger it is. NF4 holds its scales so
//! ([`crate::nf4`]), and [`crate::adamw_8bit`] its moments.
//!
//! Bytes are those of bitsandbytes' portable implementation (`scripts/golden_bitsandbytes.py`).

use std::sync::LazyLock;

use crate::error::{KernelError, check_shape};

/// Values that share a scale.
pub const BLOCK: usize = 256;

/// A scale is never taken to be smaller; bitsandbytes' guard against a division by zero.
pub(crate) const SMALLEST_ABSMAX: f32 = 1e-38;

/// The values that 8-bit codes stand for, ascending.
pub struct DynamicMap {
    values: [f32; 256],
    /// `bounds[i]` lies between the values `i` and `i + 1`.
    bounds: [f32; 255],
}

impl DynamicMap {
    /// From -0.993 to 1, with zero.
    pub fn signed() -> &'static Self {
        static MAP: LazyLock<DynamicMap> = LazyLock::new(|| DynamicMap::new(true));
        &MAP
    }

    /// From 0 to 1.
    pub fn unsigned() -> &'static Self {
        static MAP: LazyLock<DynamicMap> = LazyLock::new(|| DynamicMap::new(false));
        &MAP
    }

    /// For each decade from 1e-6 to 1, the means of neighbours among evenly spaced numbers from 0.1
    /// to 1: twice as many as in the decade below. Then 0 and 1.
    fn new(signed: bool) -> Self {
        let mut values = vec![0.0_f32, 1.0];
        for exponent in 0..7 {
            let pieces = if signed { 1 << exponent } else { 2 << exponent };
            let magnitude = 10_f64.powi(exponent - 6) as f32;
            for piece in 0..pieces {
                let mean = (spaced(pieces, piece) + spaced(pieces, piece + 1)) / 2.0;
                values.push(magnitude * mean);
                if signed {
                    values.push(-(magnitude * mean));
                }
            }
        }
        values.sort_by(f32::total_cmp);
        Self::from_values(values.try_into().expect("2 + (2 * 127) values"))
    }

    fn from_values(values: [f32; 256]) -> Self {
        let bounds = std::array::from_fn(|i| (values[i] + values[i + 1]) / 2.0);
        Self { values, bounds }
    }

    /// What the codes stand for.
    pub fn values(&self) -> &[f32; 256] {
        &self.values
    }

    /// The code of the value that is nearest to `x`; the lower one of two.
    pub fn code(&self, x: f32) -> u8 {
        self.bounds.partition_point(|bound| *bound < x) as u8
    }

    /// What a code stands for, before its scale.
    pub fn value(&self, code: u8) -> f32 {
        self.values[usize::from(code)]
    }

    /// Values of one block, written to `values`.
    pub(crate) fn dequantize_block(&self, codes: &[u8], absmax: f32, values: &mut [f32]) {
        for (value, code) in values.iter_mut().zip(codes) {
            *value = self.value(*code) * absmax;
        }
    }

    /// Codes of one block, written to `codes`; returns its scale.
    pub(crate) fn quantize_block(&self, values: &[f32], codes: &mut [u8]) -> f32 {
        let (absmax, normal) = normalization(values, BLOCK);
        for (code, value) in codes.iter_mut().zip(values) {
            *code = self.code(normal.apply(*value));
        }
        absmax
    }
}

/// Place `at` of `pieces + 1` numbers evenly spaced from 0.1 to 1, counted from the nearer end and
/// rounded once, as PyTorch's `linspace` does: that decides the last bit.
fn spaced(pieces: i32, at: i32) -> f32 {
    let step = (1.0 - 0.1_f32) / pieces as f32;
    if at < (pieces + 1) / 2 {
        step.mul_add(at as f32, 0.1)
    } else {
        (-step).mul_add((pieces - at) as f32, 1.0)
    }
}

/// How the values of a block are brought to `[-1, 1]`.
#[derive(Clone, Copy)]
pub(crate) enum Normalization {
    /// A whole block is multiplied by the reciprocal of its scale.
    Times(f32),
    /// A shorter last block is divided by it.
    Over(f32),
}

impl Normalization {
    #[inline]
    pub(crate) fn apply(self, value: f32) -> f32 {
        match self {
            Self::Times(factor) => value * factor,
            Self::Over(divisor) => value / divisor,
        }
        .clamp(-1.0, 1.0)
    }
}

/// The scale of a block as it is stored, and how its values are normalised; `block` is the length of
/// a whole one. bitsandbytes treats a shorter one differently in the last bit, and never stores zero for it.
pub(crate) fn normalization(values: &[f32], block: usize) -> (f32, Normalization) {
    let absmax = values
        .iter()
        .fold(0.0_f32, |max, value| max.max(value.abs()));
    let divisor = absmax.max(SMALLEST_ABSMAX);
    if values.len() == block {
        (absmax, Normalization::Times(1.0 / divisor))
    } else {
        (divisor, Normalization::Over(divisor))
    }
}

/// Codes and scales of values in blocks.
#[derive(Debug, Clone, PartialEq)]
pub struct Blockwise {
    /// One code a value.
    pub codes: Vec<u8>,
    /// One scale a block of [`BLOCK`] values; the last block may be shorter.
    pub absmax: Vec<f32>,
}

impl Blockwise {
    /// `len` zeros: their scales are zero, whatever the map.
    pub fn zeros(len: usize) -> Self {
        Self {
            codes: vec![0; len],
            absmax: vec![0.0; len.div_ceil(BLOCK)],
        }
    }

    /// `Err` unless this holds `len` values.
    pub(crate) fn check(
        &self,
        operation: &'static str,
        [codes, absmax]: [&'static str; 2],
        len: usize,
    ) -> Result<(), KernelError> {
        check_shape(operation, codes, &[self.codes.len()], &[len])?;
        let blocks = [len.div_ceil(BLOCK)];
        check_shape(operation, absmax, &[self.absmax.len()], &blocks)
    }

    /// Quantises `values`, one after the other in blocks.
    pub fn quantize(map: &DynamicMap, values: &[f32]) -> Self {
        let mut codes = vec![0; values.len()];
        let blocks = values.chunks(BLOCK).zip(codes.chunks_mut(BLOCK));
        let absmax = blocks
            .map(|(values, codes)| map.quantize_block(values, codes))
            .collect();
        Self { codes, absmax }
    }

    /// The value that stands at `index`.
    ///
    /// # Panics
    /// If there is none.
    pub fn value(&self, map: &DynamicMap, index: usize) -> f32 {
        map.value(self.codes[index]) * self.absmax[index / BLOCK]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;
    use crate::reference::testing::Golden;
    use proptest::prelude::*;

    fn maps() -> [(&'static str, &'static DynamicMap); 2] {
        [
            ("signed", DynamicMap::signed()),
            ("unsigned", DynamicMap::unsigned()),
        ]
    }

    #[test]
    fn maps_equal_those_of_bitsandbytes() {
        let golden = Golden::bitsandbytes();
        for (name, map) in maps() {
            let expected = golden.f32s(&format!("map.{name}"));
            assert_eq!(
                map.values().map(f32::to_bits).to_vec(),
                bits(&expected),
                "{name}"
            );
        }
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn bytes_equal_those_of_bitsandbytes() {
        let golden = Golden::bitsandbytes();
        for (name, map) in maps() {
            let values = golden.f32s(&format!("blockwise.{name}.input"));
            let quantized = Blockwise::quantize(map, &values);
            assert_eq!(
                quantized.codes,
                golden.bytes(&format!("blockwise.{name}.codes")),
                "{name}"
            );
            let absmax = golden.f32s(&format!("blockwise.{name}.absmax"));
            assert_eq!(bits(&quantized.absmax), bits(&absmax), "{name}");
            let expected = golden.f32s(&format!("blockwise.{name}.dequantized"));
            let ours: Vec<f32> = (0..values.len())
                .map(|index| quantized.value(map, index))
                .collect();
            assert_eq!(bits(&ours), bits(&expected), "{name}");
        }
    }

    proptest! {
        #[test]
        fn blockwise_matches_reference(
            values in prop::collection::vec(-3.0_f32..3.0, 0..600),
            exponents in prop::collection::vec(-9..3_i32, 600),
        ) {
            let values: Vec<f32> = values
                .iter()
                .zip(exponents)
                .map(|(value, exponent)| value * 10_f32.powi(exponent))
                .collect();
            let map = DynamicMap::signed();
            let quantized = Blockwise::quantize(map, &values);
            for (index, value) in values.iter().enumerate() {
                let absmax = quantized.absmax[index / BLOCK];
                let expected = reference::nearest_value(map.values(), value / absmax) * absmax;
                let error = (value - quantized.value(map, index)).abs();
                // The nearest, but for rounding where two are as near.
                prop_assert!(error <= (value - expected).abs() + 1e-6 * absmax);
            }
        }
    }
}
