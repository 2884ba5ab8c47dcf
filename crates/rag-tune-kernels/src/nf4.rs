//! nf4: 4-bit NormalFloat (QLoRA, Dettmers et al. 2023, arXiv:2305.14314), as bitsandbytes stores it.
//!
//! A weight `[out, in]` is read row by row as one list of values and cut into blocks of 64, which may
//! span rows. `code = nearest(LEVELS, w / absmax)`, `w' = LEVELS[code] * absmax`. Two codes make a
//! byte, the first in its high half.
//!
//! With double quantisation the scales themselves become 8-bit codes: their mean is subtracted, the
//! rest is quantised in blocks of 256 ([`crate::blockwise`]). A weight then takes 4.127 bits.

use rayon::prelude::*;

use crate::blockwise::{self, Blockwise, DynamicMap, normalization};
use crate::error::{KernelError, check_shape};

/// Weights that share a scale.
pub const BLOCK: usize = 64;

/// What the 16 codes stand for: quantiles of the normal distribution, scaled to `[-1, 1]`
/// (arXiv:2305.14314, appendix E).
pub const LEVELS: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Halfway between neighbouring levels.
const BOUNDS: [f32; 15] = {
    let mut bounds = [0.0; 15];
    let mut i = 0;
    while i < bounds.len() {
        bounds[i] = (LEVELS[i] + LEVELS[i + 1]) / 2.0;
        i += 1;
    }
    bounds
};

/// The code of the level that is nearest to `x`; the lower one of two.
fn code(x: f32) -> u8 {
    // Counting is quicker than a search here: it has no branches.
    BOUNDS.iter().map(|bound| u8::from(*bound < x)).sum()
}

/// How the scales of the blocks are held.
#[derive(Debug, Clone, PartialEq)]
pub enum Scales {
    /// As they are.
    Plain(Vec<f32>),
    /// As 8-bit codes of their distance from `offset`.
    Double {
        /// Signed dynamic codes, in blocks of 256.
        codes: Blockwise,
        /// The mean of the scales.
        offset: f32,
    },
}

impl Scales {
    /// Quantises scales: bitsandbytes' `compress_statistics`.
    pub fn double(absmax: &[f32]) -> Self {
        let offset = mean(absmax);
        let rest: Vec<f32> = absmax.iter().map(|absmax| absmax - offset).collect();
        Self::Double {
            codes: Blockwise::quantize(DynamicMap::signed(), &rest),
            offset,
        }
    }

    /// The scale of a block.
    ///
    /// # Panics
    /// If there is no such block.
    #[inline]
    pub fn get(&self, block: usize) -> f32 {
        match self {
            Self::Plain(absmax) => absmax[block],
            Self::Double { codes, offset } => codes.value(DynamicMap::signed(), block) + offset,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Plain(absmax) => absmax.len(),
            Self::Double { codes, .. } => codes.codes.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory they take.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Plain(absmax) => 4 * absmax.len(),
            Self::Double { codes, .. } => codes.codes.len() + 4 * codes.absmax.len() + 4,
        }
    }

    /// What [`Scales::bytes`] is for `weights` weights.
    pub fn bytes_of(weights: usize, double: bool) -> usize {
        let blocks = weights.div_ceil(BLOCK);
        match double {
            false => 4 * blocks,
            true => blocks + 4 * blocks.div_ceil(blockwise::BLOCK) + 4,
        }
    }
}

/// A weight in NF4, byte for byte as bitsandbytes holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Nf4 {
    /// Two codes a byte. An odd number of weights is followed by the code of zero.
    pub codes: Vec<u8>,
    /// One scale a block of [`BLOCK`] weights; the last block may be shorter.
    pub scales: Scales,
}

/// The code of zero.
pub(crate) const ZERO: u8 = 7;

impl Nf4 {
    /// Quantises weights, with scales in f32.
    pub fn quantize(weights: &[f32]) -> Self {
        let mut codes = vec![0; weights.len().div_ceil(2)];
        let blocks = weights
            .par_chunks(BLOCK)
            .zip(codes.par_chunks_mut(BLOCK / 2));
        let absmax = blocks.map(|(weights, codes)| {
            let (absmax, normal) = normalization(weights, BLOCK);
            for (byte, pair) in codes.iter_mut().zip(weights.chunks(2)) {
                let low = pair
                    .get(1)
                    .map_or(ZERO, |weight| code(normal.apply(*weight)));
                *byte = code(normal.apply(pair[0])) << 4 | low;
            }
            absmax
        });
        Self {
            scales: Scales::Plain(absmax.collect()),
            codes,
        }
    }

    /// Quantises weights, and their scales too.
    pub fn quantize_double(weights: &[f32]) -> Self {
        let Self { codes, scales } = Self::quantize(weights);
        let Scales::Plain(absmax) = scales else {
            unreachable!("`quantize` leaves the scales plain")
        };
        Self {
            codes,
            scales: Scales::double(&absmax),
        }
    }

    /// The code at `index`.
    ///
    /// # Panics
    /// If there is none.
    pub fn code(&self, index: usize) -> u8 {
        let byte = self.codes[index / 2];
        if index.is_multiple_of(2) {
            byte >> 4
        } else {
            byte & 15
        }
    }

    /// The weight at `index`, dequantised.
    ///
    /// # Panics
    /// If there is none.
    pub fn value(&self, index: usize) -> f32 {
        LEVELS[usize::from(self.code(index))] * self.scales.get(index / BLOCK)
    }

    /// `Err` unless this holds `count` weights.
    pub(crate) fn check(&self, operation: &'static str, count: usize) -> Result<(), KernelError> {
        let (bytes, blocks) = (count.div_ceil(2), count.div_ceil(BLOCK));
        check_shape(operation, "codes", &[self.codes.len()], &[bytes])?;
        check_shape(operation, "scales", &[self.scales.len()], &[blocks])?;
        if let Scales::Double { codes, .. } = &self.scales {
            let nested = blocks.div_ceil(crate::blockwise::BLOCK);
            check_shape(
                operation,
                "scales of scales",
                &[codes.absmax.len()],
                &[nested],
            )?;
        }
        Ok(())
    }
}

/// The mean, summed in the order in which PyTorch sums on one thread of an x86 processor: only so
/// does the offset of the scales equal bitsandbytes' in its last bit.
///
/// Eight lanes are summed in four strands, each in up to four levels of chunks (PyTorch,
/// `aten/src/ATen/native/cpu/SumKernel.cpp`).
fn mean(values: &[f32]) -> f32 {
    let (vectors, rest) = values.as_chunks::<8>();
    let (groups, single) = vectors.as_chunks::<4>();
    let mut strands = cascade(groups);
    for vector in single {
        add(&mut strands[0], vector);
    }
    let [mut lanes, others @ ..] = strands;
    others.iter().for_each(|strand| add(&mut lanes, strand));
    let mut sum: f32 = rest.iter().fold(0.0, |sum, value| sum + value);
    for lane in lanes {
        sum += lane;
    }
    sum / values.len() as f32
}

/// Sums groups in chunks of `2^power`, chunks of chunks, and so on.
fn cascade(groups: &[[[f32; 8]; 4]]) -> [[f32; 8]; 4] {
    let power = (groups.len().next_power_of_two().ilog2() / 4).max(4);
    let mut levels = [[[0.0; 8]; 4]; 4];
    let add_all = |to: &mut [[f32; 8]; 4], from: &[[f32; 8]; 4]| {
        to.iter_mut().zip(from).for_each(|(to, from)| add(to, from));
    };
    let chunks = groups.chunks_exact(1 << power);
    let rest = chunks.remainder();
    for (index, chunk) in chunks.enumerate() {
        for group in chunk {
            add_all(&mut levels[0], group);
        }
        let done = (index + 1) << power;
        for level in 1..levels.len() {
            let below = std::mem::take(&mut levels[level - 1]);
            add_all(&mut levels[level], &below);
            // This level's chunk is not full yet.
            if done & (((1 << power) - 1) << (level as u32 * power)) != 0 {
                break;
            }
        }
    }
    for group in rest {
        add_all(&mut levels[0], group);
    }
    let [mut sums, others @ ..] = levels;
    others.iter().for_each(|level| add_all(&mut sums, level));
    sums
}

fn add(to: &mut [f32; 8], from: &[f32; 8]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;
    use crate::reference::testing::Golden;
    use proptest::prelude::*;

    #[test]
    fn means_equal_those_of_pytorch() {
        let golden = Golden::bitsandbytes();
        for count in [1_u64, 5, 31, 32, 33, 100, 2400, 13824, 32767, 262_144] {
            let values: Vec<f32> = (0..count)
                .map(|at| ((at * 2_654_435_761 % (1 << 32)) >> 8) as f32 / (1 << 24) as f32)
                .collect();
            let expected = golden.f32s(&format!("mean.{count}"));
            assert_eq!(mean(&values), expected[0], "{count}");
        }
    }

    #[test]
    fn bytes_equal_those_of_bitsandbytes() {
        let golden = Golden::bitsandbytes();
        let names = golden.weights("nf4");
        assert_eq!(names.len(), 13);
        for name in names {
            let place = |what: &str| format!("nf4.{name}.{what}");
            let weights = golden.f32s(&place("input"));
            let plain = Nf4::quantize(&weights);
            assert_eq!(plain.codes, golden.bytes(&place("weight")), "{name}");
            let absmax = golden.f32s(&place("plain.absmax"));
            assert_eq!(plain.scales, Scales::Plain(absmax), "{name}");

            let double = Nf4::quantize_double(&weights);
            let expected = Scales::Double {
                codes: Blockwise {
                    codes: golden.bytes(&place("double.absmax")),
                    absmax: golden.f32s(&place("nested_absmax")),
                },
                offset: golden.f32s(&place("offset"))[0],
            };
            assert_eq!(double.codes, plain.codes, "{name}");
            assert_eq!(double.scales, expected, "{name}");
            double.check("test", weights.len()).unwrap();

            for (kind, ours) in [("plain", &plain), ("double", &double)] {
                let Some(expected) = golden.get(&place(&format!("{kind}.dequantized"))) else {
                    continue;
                };
                for (index, expected) in expected.iter().enumerate() {
                    let value = ours.value(index);
                    assert_eq!(value, *expected, "{name} {kind} {index}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn nf4_matches_reference(weights in prop::collection::vec(-3.0_f32..3.0, 1..300)) {
            let quantized = Nf4::quantize(&weights);
            for (index, weight) in weights.iter().enumerate() {
                let absmax = quantized.scales.get(index / BLOCK);
                let expected = reference::nearest_value(&LEVELS, weight / absmax) * absmax;
                let error = (weight - quantized.value(index)).abs();
                prop_assert!(error <= (weight - expected).abs() + 1e-6 * absmax);
            }
        }

        #[test]
        fn a_scale_twice_quantized_stays_near(weights in prop::collection::vec(-3.0_f32..3.0, 1..3000)) {
            let plain = Nf4::quantize(&weights).scales;
            let double = Nf4::quantize_double(&weights).scales;
            let Scales::Double { codes, .. } = &double else { unreachable!() };
            for block in 0..plain.len() {
                // Half of the largest step between neighbouring codes, 0.0141.
                let bound = 0.0071 * codes.absmax[block / crate::blockwise::BLOCK] + 1e-6;
                prop_assert!((plain.get(block) - double.get(block)).abs() <= bound);
            }
        }
    }
}
