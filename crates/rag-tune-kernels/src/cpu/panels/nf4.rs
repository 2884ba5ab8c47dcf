//! NF4 codes to panels of bf16 weights.

use half::bf16;

use crate::nf4::{BLOCK, LEVELS, Scales, ZERO};
#[cfg(target_arch = "x86_64")]
use crate::processor::{Level, level_in_use};

use super::{Direction, PANEL, PackedWeights};

/// Packed NF4 codes, `[out / 64][in / 2][64]` bytes, and the scales in row-major order of the weights.
#[derive(Clone, Copy)]
pub(crate) struct Nf4Codes<'a> {
    pub(crate) codes: &'a [u8],
    pub(crate) scales: &'a Scales,
}

/// One line of a panel before it is widened: 64 columns, each with two neighbours of the inner
/// dimension. `[2][64]`: the codes of the first neighbours, then of the second.
struct Line {
    codes: [[u8; PANEL]; 2],
    scales: [[f32; PANEL]; 2],
}

impl Nf4Codes<'_> {
    /// See [`PackedWeights::pairs`].
    pub(super) fn write_panel(
        self,
        weights: &PackedWeights<'_>,
        panel: usize,
        first_pair: usize,
        to: &mut [bf16],
    ) {
        let mut line = Line {
            codes: [[ZERO; PANEL]; 2],
            scales: [[0.0; PANEL]; 2],
        };
        for (index, to) in to.chunks_exact_mut(2 * PANEL).enumerate() {
            let pair = first_pair + index;
            match weights.direction {
                Direction::Forward => {
                    self.read_forward(weights, panel, pair, index == 0, &mut line);
                }
                Direction::Backward => self.read_backward(weights, panel, pair, &mut line),
            }
            widen(&line, to);
        }
    }

    /// Columns are outputs; the neighbours are inputs `2 * pair` and `2 * pair + 1`.
    fn read_forward(
        self,
        weights: &PackedWeights<'_>,
        panel: usize,
        pair: usize,
        first: bool,
        line: &mut Line,
    ) {
        let row_pairs = weights.in_features.div_ceil(2);
        let bytes = &self.codes[(panel * row_pairs + pair) * PANEL..][..PANEL];
        for (lane, byte) in bytes.iter().enumerate() {
            line.codes[0][lane] = byte >> 4;
            line.codes[1][lane] = byte & 15;
        }
        let aligned = weights.in_features.is_multiple_of(BLOCK);
        if aligned && !first && !(2 * pair).is_multiple_of(BLOCK) {
            return; // still in the blocks of the line before
        }
        for lane in 0..PANEL {
            let out = panel * PANEL + lane;
            line.scales[0][lane] = self.scale(weights, out, 2 * pair);
            line.scales[1][lane] = match aligned {
                true => line.scales[0][lane],
                false => self.scale(weights, out, 2 * pair + 1),
            };
        }
    }

    /// Columns are inputs; the neighbours are outputs `2 * pair` and `2 * pair + 1`.
    fn read_backward(
        self,
        weights: &PackedWeights<'_>,
        panel: usize,
        pair: usize,
        line: &mut Line,
    ) {
        let row_pairs = weights.in_features.div_ceil(2);
        let first_in_pair = panel * PANEL / 2;
        let in_pairs = (row_pairs - first_in_pair).min(PANEL / 2);
        let out = 2 * pair;
        let block = ((out / PANEL) * row_pairs + first_in_pair) * PANEL + out % PANEL;
        for in_pair in 0..in_pairs {
            let bytes = &self.codes[block + in_pair * PANEL..][..2];
            for (codes, byte) in line.codes.iter_mut().zip(bytes) {
                codes[2 * in_pair] = byte >> 4;
                codes[2 * in_pair + 1] = byte & 15;
            }
        }
        for (neighbour, scales) in line.scales.iter_mut().enumerate() {
            let out = out + neighbour;
            if weights.in_features.is_multiple_of(BLOCK) {
                // A panel's 64 inputs are one block.
                scales.fill(self.scale(weights, out, panel * PANEL));
                continue;
            }
            for (lane, scale) in scales.iter_mut().enumerate() {
                *scale = self.scale(weights, out, panel * PANEL + lane);
            }
        }
    }

    /// The scale of `weight[out, at]`; 0 for what pads a panel.
    fn scale(self, weights: &PackedWeights<'_>, out: usize, at: usize) -> f32 {
        if out < weights.out_features && at < weights.in_features {
            self.scales.get((out * weights.in_features + at) / BLOCK)
        } else {
            0.0
        }
    }
}

/// Levels times scales, rounded to bf16, the two neighbours side by side.
fn widen(line: &Line, to: &mut [bf16]) {
    #[cfg(target_arch = "x86_64")]
    if level_in_use() >= Level::Avx512 {
        assert_eq!(to.len(), 2 * PANEL);
        // SAFETY: the level says that there is AVX-512F, and `to` has the length that is written.
        unsafe { widen_avx512(line, to) };
        return;
    }
    widen_any(line, to);
}

fn widen_any(line: &Line, to: &mut [bf16]) {
    for (lane, pair) in to.chunks_exact_mut(2).enumerate() {
        for (neighbour, to) in pair.iter_mut().enumerate() {
            let level = LEVELS[usize::from(line.codes[neighbour][lane])];
            *to = bf16::from_f32(level * line.scales[neighbour][lane]);
        }
    }
}

/// [`widen_any`], 16 columns at a time: the 16 levels are one register.
///
/// # Safety
/// `to` must hold `2 * PANEL` values, and the processor must have AVX-512F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn widen_avx512(line: &Line, to: &mut [bf16]) {
    use std::arch::x86_64::{
        __m512i, _mm_loadu_si128, _mm512_add_epi32, _mm512_and_si512, _mm512_castps_si512,
        _mm512_cvtepu8_epi32, _mm512_loadu_ps, _mm512_mul_ps, _mm512_or_si512,
        _mm512_permutexvar_ps, _mm512_set1_epi32, _mm512_slli_epi32, _mm512_srli_epi32,
        _mm512_storeu_si512,
    };
    // SAFETY: `LEVELS` has 16 values.
    let levels = unsafe { _mm512_loadu_ps(LEVELS.as_ptr()) };
    for lane in (0..PANEL).step_by(16) {
        // The bits of the bf16 in the low half of each lane, rounded to nearest, ties to even.
        let rounded = |neighbour: usize| -> __m512i {
            // SAFETY: `lane + 16 <= PANEL`, the length of both arrays.
            let (codes, scales) = unsafe {
                (
                    _mm_loadu_si128(line.codes[neighbour].as_ptr().add(lane).cast()),
                    _mm512_loadu_ps(line.scales[neighbour].as_ptr().add(lane)),
                )
            };
            let levels = _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(codes), levels);
            let bits = _mm512_castps_si512(_mm512_mul_ps(levels, scales));
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
            _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, half))
        };
        let pairs = _mm512_or_si512(rounded(0), _mm512_slli_epi32::<16>(rounded(1)));
        // SAFETY: `2 * lane + 32 <= 2 * PANEL`, the caller's promise about `to`.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().add(2 * lane).cast(), pairs) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Matrix;
    use crate::cpu::panels::PanelScratch;
    use crate::nf4::Nf4;
    use crate::reference::testing::noise;

    #[test]
    fn panels_of_both_directions_hold_the_weights() {
        for [out_features, in_features] in
            [[64, 64], [70, 130], [1, 1], [130, 7], [192, 65], [65, 128]]
        {
            let values = noise(out_features, in_features, 3).into_vec();
            let nf4 = Nf4::quantize_double(&values);
            let matrix = Matrix::from_nf4(out_features, in_features, &nf4).unwrap();
            for direction in [Direction::Forward, Direction::Backward] {
                let (weights, row_scale) = matrix.packed(direction).unwrap();
                assert!(row_scale.is_none());
                let pairs = weights.inner().div_ceil(2);
                for panel in 0..weights.columns().div_ceil(PANEL) {
                    let mut scratch = PanelScratch::default();
                    let to = weights.pairs(panel, 0..2 * pairs, &mut scratch);
                    assert!(
                        to.iter().all(|value| value.is_finite()),
                        "padding is a number"
                    );
                    for inner in 0..weights.inner() {
                        for lane in 0..PANEL.min(weights.columns() - panel * PANEL) {
                            let column = panel * PANEL + lane;
                            let (out, at) = match direction {
                                Direction::Forward => (column, inner),
                                Direction::Backward => (inner, column),
                            };
                            let got = to[((inner / 2) * PANEL + lane) * 2 + inner % 2];
                            let expected = bf16::from_f32(nf4.value(out * in_features + at));
                            assert_eq!(got, expected, "{direction:?} {out} {at}");
                        }
                    }
                }
            }
        }
    }
}
