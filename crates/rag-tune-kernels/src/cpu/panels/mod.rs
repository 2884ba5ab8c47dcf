//! How frozen weights lie in memory, and how a product gets its panels from them.
//!
//! A weight `[out, in]` is stored as `[out / 64][in / group][64][group]`, padded with zeros: panels of 64 outputs, each
//! output's values in groups along the inner dimension. Groups are pairs for bf16, as `vdpbf16ps` eats them, and
//! quadruples for 8-bit codes, as `vpdpbusd` does. The forward product reads panels as they are; the backward product,
//! whose inner dimension is `out`, regroups one panel at a time into scratch, so that one packing serves both.
//! What a product does not eat as it is, is widened on the way into scratch.

use std::ops::Range;

use half::bf16;

use crate::aligned::Aligned;

mod int8;
mod nf4;

#[cfg(target_arch = "x86_64")]
pub(crate) use int8::widen_quadruples;
pub(crate) use nf4::Nf4Codes;

/// Outputs a panel has.
pub(crate) const PANEL: usize = 64;

/// Values side by side in packed bf16 and NF4.
pub(crate) const PAIR: usize = 2;

/// Values side by side in packed 8-bit codes.
pub(crate) const QUADRUPLE: usize = 4;

/// Length of the packed form of `[out, in]` in groups of `group` values.
pub(crate) fn packed_len(out_features: usize, in_features: usize, group: usize) -> usize {
    out_features.next_multiple_of(PANEL) * in_features.next_multiple_of(group)
}

/// Where `weight[out, at]` stands in the packed form.
#[inline]
pub(crate) fn packed_index(in_features: usize, group: usize, out: usize, at: usize) -> usize {
    let groups = in_features.div_ceil(group);
    (((out / PANEL) * groups + at / group) * PANEL + out % PANEL) * group + at % group
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

/// Memory for one panel, kept from panel to panel.
#[derive(Default)]
pub(crate) struct PanelScratch {
    regrouped: Aligned<i8>,
    pairs: Aligned<bf16>,
    lines: Aligned<f32>,
}

impl<'a> PackedWeights<'a> {
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

    /// Some values of the inner dimension of panel `panel` as bf16, `[inner / 2][64][2]`, zeros behind an odd number.
    ///
    /// `inner` must begin at a multiple of 64.
    pub(crate) fn pairs<'s>(
        &self,
        panel: usize,
        inner: Range<usize>,
        scratch: &'s mut PanelScratch,
    ) -> &'s [bf16]
    where
        'a: 's,
    {
        let PanelScratch {
            regrouped, pairs, ..
        } = scratch;
        let len = inner.len().next_multiple_of(PAIR) * PANEL;
        match self.codes {
            Codes::Bf16(values) if self.direction == Direction::Forward => {
                let start = panel_start(self.in_features, PAIR, panel, inner.start);
                &values[start..start + len]
            }
            Codes::Bf16(values) => {
                pairs.resize(len);
                self.regroup_pairs(values, panel, inner.start, pairs);
                pairs
            }
            Codes::Int8(codes) => {
                let codes = self.quadruples_of(codes, panel, inner, regrouped);
                pairs.resize(codes.len());
                int8::widen_to_pairs(codes, pairs);
                &pairs[..len]
            }
            Codes::Nf4(codes) => {
                pairs.resize(len);
                codes.write_panel(self, panel, inner.start / PAIR, pairs);
                pairs
            }
        }
    }

    /// As [`Self::pairs`], but f32 in lines: `[inner][64]`, each line times its scale where `inner` scales are given.
    /// Codes of 8 bits are exact, NF4 is rounded to bf16.
    pub(crate) fn lines<'s>(
        &self,
        panel: usize,
        inner: Range<usize>,
        scales: Option<&[f32]>,
        scratch: &'s mut PanelScratch,
    ) -> &'s [f32]
    where
        'a: 's,
    {
        let mut lines = std::mem::take(&mut scratch.lines);
        if let Codes::Int8(codes) = self.codes {
            let codes = self.quadruples_of(codes, panel, inner.clone(), &mut scratch.regrouped);
            lines.resize(codes.len());
            int8::widen_to_lines(codes, &mut lines);
        } else {
            let pairs = self.pairs(panel, inner.clone(), scratch);
            lines.resize(pairs.len());
            lines_of_pairs(pairs, &mut lines);
        }
        if let Some(scales) = scales {
            let scales = &scales[inner.clone()];
            for (line, scale) in lines.chunks_exact_mut(PANEL).zip(scales) {
                line.iter_mut().for_each(|value| *value *= scale);
            }
        }
        scratch.lines = lines;
        &scratch.lines[..inner.len() * PANEL]
    }

    /// The codes of a panel in quadruples, `[inner / 4][64][4]`.
    fn quadruples_of<'s>(
        &self,
        codes: &'a [i8],
        panel: usize,
        inner: Range<usize>,
        scratch: &'s mut Aligned<i8>,
    ) -> &'s [i8]
    where
        'a: 's,
    {
        let len = inner.len().next_multiple_of(QUADRUPLE) * PANEL;
        if self.direction == Direction::Forward {
            let start = panel_start(self.in_features, QUADRUPLE, panel, inner.start);
            return &codes[start..start + len];
        }
        scratch.resize(len);
        int8::regroup(codes, self.in_features, panel, inner.start, scratch);
        scratch
    }

    /// As [`Self::pairs`], but 8-bit codes, `[inner / 4][64][4]`, zeros behind a number that is no multiple of 4.
    ///
    /// # Panics
    /// If these are no 8-bit codes.
    pub(crate) fn quadruples<'s>(
        &self,
        panel: usize,
        inner: Range<usize>,
        scratch: &'s mut PanelScratch,
    ) -> &'s [i8]
    where
        'a: 's,
    {
        let Codes::Int8(codes) = self.codes else {
            unreachable!("only 8-bit codes are multiplied as integers");
        };
        self.quadruples_of(codes, panel, inner, &mut scratch.regrouped)
    }

    /// `[in / 2][64 out][2 in]` blocks to `[out / 2][64 in][2 out]` ones.
    fn regroup_pairs(&self, values: &[bf16], panel: usize, first: usize, to: &mut [bf16]) {
        assert_eq!(first % PANEL, 0);
        let row_pairs = self.in_features.div_ceil(PAIR);
        let first_in_pair = panel * PANEL / PAIR;
        // Inputs behind the last one are columns that the product does not store; they only must be numbers.
        let in_pairs = (row_pairs - first_in_pair).min(PANEL / PAIR);
        if in_pairs < PANEL / PAIR {
            to.fill(bf16::ZERO);
        }
        for (block, to) in to.chunks_mut(PANEL * PANEL).enumerate() {
            let out_panel = first / PANEL + block;
            let start = (out_panel * row_pairs + first_in_pair) * PANEL * PAIR;
            let values = &values[start..start + in_pairs * PANEL * PAIR];
            for (pair, line) in values.chunks_exact(PANEL * PAIR).enumerate() {
                let lines = line.chunks_exact(4).zip(to.chunks_exact_mut(PANEL * PAIR));
                for (from, to) in lines {
                    // (o, i) (o, i+1) (o+1, i) (o+1, i+1) -> (o, i) (o+1, i) (o, i+1) (o+1, i+1)
                    to[4 * pair..][..4].copy_from_slice(&[from[0], from[2], from[1], from[3]]);
                }
            }
        }
    }
}

/// Where the value `first` of panel `panel` begins in the packed form; `first` is a multiple of `group`.
fn panel_start(in_features: usize, group: usize, panel: usize, first: usize) -> usize {
    (panel * in_features.next_multiple_of(group) + first) * PANEL
}

/// `[count / 2][64][2]` to `[count][64]`.
fn lines_of_pairs(pairs: &[bf16], lines: &mut [f32]) {
    let both = pairs
        .chunks_exact(PAIR * PANEL)
        .zip(lines.chunks_exact_mut(PAIR * PANEL));
    for (pairs, lines) in both {
        let (first, second) = lines.split_at_mut(PANEL);
        for ((pair, first), second) in pairs.chunks_exact(PAIR).zip(first).zip(second) {
            *first = super::convert::to_f32(pair[0]);
            *second = super::convert::to_f32(pair[1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPES: [(usize, usize); 7] = [
        (64, 64),
        (70, 130),
        (1, 1),
        (130, 7),
        (192, 65),
        (65, 128),
        (67, 66),
    ];

    fn code(out: usize, at: usize) -> i8 {
        (((out * 31 + at * 7) % 255) as i32 - 127) as i8
    }

    /// Calls `check` with each value of every panel of both products, from its second 64 values on where there are any.
    fn check_all(
        codes: Codes<'_>,
        (out_features, in_features): (usize, usize),
        mut check: impl FnMut(&PackedWeights<'_>, [usize; 4], &mut dyn FnMut(usize, usize, f32)),
    ) {
        for direction in [Direction::Forward, Direction::Backward] {
            let weights = PackedWeights {
                codes,
                out_features,
                in_features,
                direction,
            };
            for panel in 0..weights.columns().div_ceil(PANEL) {
                let lanes = PANEL.min(weights.columns() - panel * PANEL);
                for first in [0, 64] {
                    if first >= weights.inner() {
                        continue;
                    }
                    let count = weights.inner() - first;
                    let mut expect = |inner: usize, lane: usize, got: f32| {
                        let (column, inner) = (panel * PANEL + lane, first + inner);
                        let (out, at) = match direction {
                            Direction::Forward => (column, inner),
                            Direction::Backward => (inner, column),
                        };
                        let case = format!("{direction:?} {out_features}x{in_features} {out} {at}");
                        assert_eq!(got, f32::from(code(out, at)), "{case}");
                    };
                    check(&weights, [panel, first, count, lanes], &mut expect);
                }
            }
        }
    }

    #[test]
    fn both_directions_hold_the_same_weights_in_every_form() {
        let mut scratch = PanelScratch::default();
        for shape in SHAPES {
            let (out_features, in_features) = shape;
            let mut codes = vec![0; packed_len(out_features, in_features, QUADRUPLE)];
            let mut values = vec![bf16::ZERO; packed_len(out_features, in_features, PAIR)];
            for out in 0..out_features {
                for at in 0..in_features {
                    codes[packed_index(in_features, QUADRUPLE, out, at)] = code(out, at);
                    values[packed_index(in_features, PAIR, out, at)] =
                        bf16::from_f32(f32::from(code(out, at)));
                }
            }
            for codes in [Codes::Int8(&codes), Codes::Bf16(&values)] {
                check_all(
                    codes,
                    shape,
                    |weights, [panel, first, count, lanes], expect| {
                        let pairs = weights
                            .pairs(panel, first..first + count, &mut scratch)
                            .to_vec();
                        let lines = weights.lines(panel, first..first + count, None, &mut scratch);
                        assert!(pairs.iter().all(|value| value.is_finite()));
                        for inner in 0..count {
                            for lane in 0..lanes {
                                let pair = ((inner / 2) * PANEL + lane) * 2 + inner % 2;
                                expect(inner, lane, pairs[pair].to_f32());
                                expect(inner, lane, lines[inner * PANEL + lane]);
                            }
                        }
                        let padding = (count..count.next_multiple_of(2)).flat_map(|inner| {
                            (0..PANEL).map(move |lane| ((inner / 2) * PANEL + lane) * 2 + inner % 2)
                        });
                        // An inner dimension's padding meets zeros of the left side; it only must be a number.
                        padding.for_each(|at| assert!(pairs[at].is_finite()));
                    },
                );
            }
            check_all(
                Codes::Int8(&codes),
                shape,
                |weights, [panel, first, count, lanes], expect| {
                    let codes = weights.quadruples(panel, first..first + count, &mut scratch);
                    for inner in 0..count {
                        for lane in 0..lanes {
                            let at = ((inner / 4) * PANEL + lane) * 4 + inner % 4;
                            expect(inner, lane, f32::from(codes[at]));
                        }
                    }
                },
            );
        }
    }
}
