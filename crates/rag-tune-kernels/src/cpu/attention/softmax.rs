//! A tile of scores, keys by queries, to probabilities and to gradients. Queries lie along the registers' lanes, so that
//! no sum or maximum runs across lanes.

use super::element::{BLOCK, Element, LANES};
use crate::cpu::exp::exp;

/// One step of the softmax over blocks of keys (arXiv:1805.02867).
pub(crate) struct Softmax<'a, E> {
    /// `[keys][64]`, before scaling.
    pub(super) scores: &'a [f32],
    pub(super) keys: usize,
    /// Whether queries and keys are the same tokens: a query then sees no key behind it.
    pub(super) diagonal: bool,
    pub(super) scale: f32,
    pub(super) state: &'a mut SoftmaxState,
    /// Probabilities as far as the maximum is known, a panel `[keys / GROUP][64][GROUP]`.
    pub(super) to: &'a mut [E],
}

/// Of each query of a block, over the keys so far.
#[derive(Clone)]
pub(super) struct SoftmaxState {
    /// Before scaling.
    max: [f32; BLOCK],
    sum: [f32; BLOCK],
    /// What everything before the last step is to be multiplied by.
    pub(super) factor: [f32; BLOCK],
}

impl SoftmaxState {
    pub(super) const EMPTY: Self = Self {
        max: [f32::NEG_INFINITY; BLOCK],
        sum: [0.0; BLOCK],
        factor: [0.0; BLOCK],
    };

    /// `(1 / sum, log-sum-exp)` of one query.
    pub(super) fn finish(&self, query: usize, scale: f32) -> (f32, f32) {
        let sum = self.sum[query];
        (1.0 / sum, self.max[query] * scale + sum.ln())
    }
}

/// `write` puts two keys' probabilities of 16 queries into their place in two keys' part of the panel.
#[inline(always)]
pub(super) fn softmax_any<E: Element>(
    tile: Softmax<'_, E>,
    write: impl Fn([&[f32; LANES]; 2], &mut [E], usize),
) {
    let rows = &tile.scores.as_chunks::<BLOCK>().0[..tile.keys];
    let state = tile.state;
    for lane in 0..BLOCK / LANES {
        let lanes = lane * LANES..(lane + 1) * LANES;
        let row = |key: usize| -> &[f32; LANES] { &rows[key].as_chunks().0[lane] };
        // Keys up to this one are seen by all 16 queries.
        let open = if tile.diagonal {
            lanes.start + 1
        } else {
            tile.keys
        }
        .min(tile.keys);
        let sees = |key: usize, query: usize| lanes.start + query >= key;
        let old = state.max.as_chunks::<LANES>().0[lane];
        let mut max = old;
        for key in 0..open {
            for (max, score) in max.iter_mut().zip(row(key)) {
                *max = if *score > *max { *score } else { *max };
            }
        }
        for key in open..tile.keys {
            for (query, (max, score)) in max.iter_mut().zip(row(key)).enumerate() {
                *max = if sees(key, query) && *score > *max {
                    *score
                } else {
                    *max
                };
            }
        }
        let mut sum = [0.0; LANES];
        for at in 0..LANES {
            let factor = exp((old[at] - max[at]) * tile.scale);
            state.factor[lanes.start + at] = factor;
            sum[at] = state.sum[lanes.start + at] * factor;
        }
        for (pair, to) in tile
            .to
            .chunks_exact_mut(2 * BLOCK)
            .enumerate()
            .take(tile.keys.div_ceil(2))
        {
            let mut probabilities = [[0.0; LANES]; 2];
            for (key, probabilities) in (2 * pair..tile.keys).zip(&mut probabilities) {
                let row = row(key);
                for ((p, score), max) in probabilities.iter_mut().zip(row).zip(max) {
                    *p = exp((score - max) * tile.scale);
                }
                if key >= open {
                    for (query, p) in probabilities.iter_mut().enumerate() {
                        *p = if sees(key, query) { *p } else { 0.0 };
                    }
                }
                for (sum, p) in sum.iter_mut().zip(probabilities) {
                    *sum += *p;
                }
            }
            write(probabilities.each_ref(), to, lane);
        }
        state.max[lanes.clone()].copy_from_slice(&max);
        state.sum[lanes].copy_from_slice(&sum);
    }
}

/// `p = exp(scale s - lse)` and `ds = p (dp - along) scale`.
pub(crate) struct ScoreGradient<'a, E> {
    /// `[keys][64]`, before scaling.
    pub(super) scores: &'a [f32],
    /// Gradients of the probabilities, `[keys][64]`.
    pub(super) d_probabilities: &'a [f32],
    pub(super) keys: usize,
    /// As in [`Softmax`].
    pub(super) diagonal: bool,
    pub(super) scale: f32,
    /// Log-sum-exp of each query.
    pub(super) lse: &'a [f32; BLOCK],
    /// Product of each query's output and its gradient.
    pub(super) along: &'a [f32; BLOCK],
    /// Probabilities, `[keys][64]`.
    pub(super) rows: &'a mut [E],
    /// Gradients of the scores, `[keys][64]`.
    pub(super) d_rows: &'a mut [E],
    /// Gradients of the scores, a panel `[keys / GROUP][64][GROUP]`.
    pub(super) d_panel: &'a mut [E],
}

/// `narrow` writes 16 values of a row; `write` is that of [`softmax_any`].
#[inline(always)]
pub(super) fn score_gradient_any<E: Element>(
    tile: ScoreGradient<'_, E>,
    narrow: impl Fn(&[f32; LANES], &mut [E]),
    write: impl Fn([&[f32; LANES]; 2], &mut [E], usize),
) {
    let scores = &tile.scores.as_chunks::<BLOCK>().0[..tile.keys];
    let d_probabilities = &tile.d_probabilities.as_chunks::<BLOCK>().0[..tile.keys];
    let lines = tile
        .rows
        .chunks_exact_mut(2 * BLOCK)
        .zip(tile.d_rows.chunks_exact_mut(2 * BLOCK));
    let lines = lines.zip(tile.d_panel.chunks_exact_mut(2 * BLOCK));
    for (pair, ((rows, d_rows), d_panel)) in lines.enumerate().take(tile.keys.div_ceil(2)) {
        for lane in 0..BLOCK / LANES {
            let lse: &[f32; LANES] = &tile.lse.as_chunks().0[lane];
            let along: &[f32; LANES] = &tile.along.as_chunks().0[lane];
            let mut d_scores = [[0.0; LANES]; 2];
            for (half, d_score) in d_scores.iter_mut().enumerate() {
                let key = 2 * pair + half;
                let mut p = [0.0; LANES];
                if key < tile.keys {
                    let score: &[f32; LANES] = &scores[key].as_chunks().0[lane];
                    let d_p: &[f32; LANES] = &d_probabilities[key].as_chunks().0[lane];
                    for at in 0..LANES {
                        p[at] = exp(score[at] * tile.scale - lse[at]);
                        d_score[at] = p[at] * (d_p[at] - along[at]) * tile.scale;
                    }
                    if tile.diagonal && key > lane * LANES {
                        for at in 0..LANES {
                            let sees = lane * LANES + at >= key;
                            p[at] = if sees { p[at] } else { 0.0 };
                            d_score[at] = if sees { d_score[at] } else { 0.0 };
                        }
                    }
                }
                let place = half * BLOCK + lane * LANES..half * BLOCK + (lane + 1) * LANES;
                narrow(&p, &mut rows[place.clone()]);
                narrow(d_score, &mut d_rows[place]);
            }
            write(d_scores.each_ref(), d_panel, lane);
        }
    }
}
