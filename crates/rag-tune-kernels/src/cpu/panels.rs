//! How frozen weights lie in memory, and how a GEMM gets its panels from them.
//!
//! A weight `[out, in]` is stored as `[out / 64][in / 2][64][2]`, padded with zeros: the order in
//! which `vdpbf16ps` (pairs along the inner dimension, 64 outputs a tile) eats it. The forward
//! product reads panels straight from it; the backward product, whose inner dimension is `out`,
//! regroups one panel at a time into scratch.

use half::bf16;

use crate::buffer::Buffer;

use super::nf4::Nf4Codes;

/// Outputs a panel has.
pub(crate) const PANEL: usize = 64;

/// Length of the packed form of `[out, in]`.
pub(crate) fn packed_len(out_features: usize, in_features: usize) -> usize {
    out_features.div_ceil(PANEL) * PANEL * in_features.div_ceil(2) * 2
}

/// Where `weight[out, in]` stands in the packed form.
#[inline]
pub(crate) fn packed_index(in_features: usize, out: usize, at: usize) -> usize {
    let pairs = in_features.div_ceil(2);
    (((out / PANEL) * pairs + at / 2) * PANEL + out % PANEL) * 2 + at % 2
}

/// Which product the panels are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// `y = x W^T`: panels of 64 outputs, inner dimension `in`.
    Forward,
    /// `dx = dy W`: panels of 64 inputs, inner dimension `out`.
    Backward,
}

/// Packed codes: i8, bf16, or NF4 with its scales.
#[derive(Clone, Copy)]
pub(crate) enum Codes<'a> {
    Int8(&'a [i8]),
    Bf16(&'a [bf16]),
    Nf4(Nf4Codes<'a>),
}

/// A packed weight seen from one product.
#[derive(Clone, Copy)]
pub(crate) struct PackedWeights<'a> {
    pub(crate) codes: Codes<'a>,
    pub(crate) out_features: usize,
    pub(crate) in_features: usize,
    pub(crate) direction: Direction,
}

impl PackedWeights<'_> {
    /// Columns of the product's result.
    pub(crate) fn columns(&self) -> usize {
        match self.direction {
            Direction::Forward => self.out_features,
            Direction::Backward => self.in_features,
        }
    }

    /// Length of the product's inner dimension.
    pub(crate) fn inner(&self) -> usize {
        match self.direction {
            Direction::Forward => self.in_features,
            Direction::Backward => self.out_features,
        }
    }

    /// Pairs `first_pair..first_pair + pairs` of panel `panel`: where they lie, if they lie as the product reads them,
    /// else written to `scratch` by [`Self::write_panel`].
    pub(crate) fn panel<'s>(
        &'s self,
        panel: usize,
        first_pair: usize,
        pairs: usize,
        scratch: &'s mut Vec<bf16>,
    ) -> &'s [bf16] {
        let len = pairs * PANEL * 2;
        if let (Codes::Bf16(values), Direction::Forward) = (self.codes, self.direction) {
            let start = (panel * self.in_features.div_ceil(2) + first_pair) * PANEL * 2;
            return &values[start..start + len];
        }
        scratch.resize(len, bf16::ZERO);
        self.write_panel(panel, first_pair, scratch);
        scratch
    }

    /// Writes pairs `first_pair..first_pair + pairs` of panel `panel` as `[pairs][64][2]` into `to`.
    ///
    /// For the backward product `first_pair` must be a multiple of 32 (half a panel of `out`).
    pub(crate) fn write_panel(&self, panel: usize, first_pair: usize, to: &mut [bf16]) {
        match self.codes {
            Codes::Int8(codes) => self.convert(codes, panel, first_pair, to, widen),
            Codes::Bf16(values) => {
                let copy = |from: &[bf16], to: &mut [bf16]| to.copy_from_slice(from);
                self.convert(values, panel, first_pair, to, copy);
            }
            Codes::Nf4(codes) => codes.write_panel(self, panel, first_pair, to),
        }
    }

    fn convert<T: Copy + Default>(
        &self,
        codes: &[T],
        panel: usize,
        first_pair: usize,
        to: &mut [bf16],
        convert: impl Fn(&[T], &mut [bf16]),
    ) {
        match self.direction {
            Direction::Forward => {
                let row_pairs = self.in_features.div_ceil(2);
                let start = (panel * row_pairs + first_pair) * PANEL * 2;
                convert(&codes[start..start + to.len()], to);
            }
            Direction::Backward => self.regroup(codes, panel, first_pair, to, convert),
        }
    }

    /// `[in / 2][64 out][2 in]` blocks to `[out / 2][64 in][2 out]` ones.
    fn regroup<T: Copy + Default>(
        &self,
        codes: &[T],
        panel: usize,
        first_pair: usize,
        to: &mut [bf16],
        convert: impl Fn(&[T], &mut [bf16]),
    ) {
        debug_assert_eq!(first_pair % (PANEL / 2), 0);
        let row_pairs = self.in_features.div_ceil(2);
        let first_in_pair = panel * PANEL / 2;
        let in_pairs = (row_pairs - first_in_pair).min(PANEL / 2);
        // One line of the result: 64 inputs, each with two neighbouring outputs.
        let mut line = [T::default(); 2 * PANEL];
        for (index, to) in to.chunks_exact_mut(2 * PANEL).enumerate() {
            let out = (first_pair + index) * 2;
            let block = ((out / PANEL) * row_pairs + first_in_pair) * PANEL * 2 + (out % PANEL) * 2;
            for pair in 0..in_pairs {
                let from = &codes[block + pair * PANEL * 2..][..4];
                let to = &mut line[pair * 4..][..4];
                // (o, i) (o, i+1) (o+1, i) (o+1, i+1) -> (o, i) (o+1, i) (o, i+1) (o+1, i+1)
                to.copy_from_slice(&[from[0], from[2], from[1], from[3]]);
            }
            convert(&line, to);
        }
    }
}

/// i8 to bf16; exact.
fn widen(codes: &[i8], to: &mut [bf16]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") {
        // SAFETY: AVX-512F was just found.
        unsafe { widen_avx512(codes, to) };
        return;
    }
    widen_any(codes, to);
}

/// `widen` compiled for AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn widen_avx512(codes: &[i8], to: &mut [bf16]) {
    widen_any(codes, to);
}

#[inline(always)]
fn widen_any(codes: &[i8], to: &mut [bf16]) {
    for (code, to) in codes.iter().zip(to) {
        // 8 significant bits fit bf16, so cutting the f32 off is exact.
        *to = bf16::from_bits((f32::from(*code).to_bits() >> 16) as u16);
    }
}

/// The left side of a product: rows of bf16 with a zero behind an odd length.
pub(crate) struct Bf16Rows {
    pub(crate) rows: usize,
    pub(crate) inner: usize,
    pub(crate) data: Buffer<bf16>,
}

impl Bf16Rows {
    /// Values a row takes.
    pub(crate) fn stride(&self) -> usize {
        self.inner.div_ceil(2) * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(out_features: usize, in_features: usize) -> Vec<i8> {
        let mut codes = vec![0; packed_len(out_features, in_features)];
        for out in 0..out_features {
            for at in 0..in_features {
                codes[packed_index(in_features, out, at)] = ((out * 31 + at * 7) % 255) as i8;
            }
        }
        codes
    }

    #[test]
    fn both_directions_hold_the_same_weights() {
        for (out_features, in_features) in [(64, 64), (70, 130), (1, 1), (130, 7), (192, 65)] {
            let codes = packed(out_features, in_features);
            for direction in [Direction::Forward, Direction::Backward] {
                let weights = PackedWeights {
                    codes: Codes::Int8(&codes),
                    out_features,
                    in_features,
                    direction,
                };
                let pairs = weights.inner().div_ceil(2);
                for panel in 0..weights.columns().div_ceil(PANEL) {
                    let mut to = vec![bf16::NAN; pairs * PANEL * 2];
                    weights.write_panel(panel, 0, &mut to);
                    for inner in 0..weights.inner() {
                        for lane in 0..PANEL.min(weights.columns() - panel * PANEL) {
                            let column = panel * PANEL + lane;
                            let (out, at) = match direction {
                                Direction::Forward => (column, inner),
                                Direction::Backward => (inner, column),
                            };
                            let got = to[((inner / 2) * PANEL + lane) * 2 + inner % 2];
                            let expected = codes[packed_index(in_features, out, at)];
                            assert_eq!(
                                got.to_f32(),
                                f32::from(expected),
                                "{direction:?} {out} {at}"
                            );
                        }
                    }
                }
            }
        }
    }
}
