//! Row-major weights to panels (see `cpu::panels`), a task a panel.

use half::bf16;
use rayon::prelude::*;

use crate::aligned::Aligned;
use crate::cpu::convert::narrow_piece;
use crate::cpu::panels::{PAIR, PANEL, QUADRUPLE, packed_len};
use crate::cpu::quantize_rows::quantize_row;
use crate::floats::Floats;

/// Quantised codes of `[out, in]` weights, packed, and the rows' absmax `[out]`.
pub(super) fn quantized([out, inner]: [usize; 2], weights: &Floats<'_>) -> (Aligned<i8>, Vec<f32>) {
    let mut absmax = vec![0.0; out];
    let mut packed = Aligned::zeros(packed_len(out, inner, QUADRUPLE));
    let panels = packed
        .par_chunks_mut(packed_len(1, inner, QUADRUPLE).max(1))
        .zip(absmax.par_chunks_mut(PANEL));
    panels.enumerate().for_each_init(
        || (vec![0.0; inner], vec![0; inner.next_multiple_of(QUADRUPLE)]),
        |(values, codes), (panel, (packed, absmax))| {
            for (lane, absmax) in absmax.iter_mut().enumerate() {
                let row = panel * PANEL + lane;
                *absmax = quantize_row(weights, row, values, &mut codes[..inner]);
                scatter::<QUADRUPLE, _>(codes, lane, packed);
            }
        },
    );
    (packed, absmax)
}

/// Row-major codes `[out, in]`, packed.
pub(super) fn codes([out, inner]: [usize; 2], codes: &[i8]) -> Aligned<i8> {
    let mut packed = Aligned::zeros(packed_len(out, inner, QUADRUPLE));
    let panels = packed.par_chunks_mut(packed_len(1, inner, QUADRUPLE).max(1));
    panels.enumerate().for_each_init(
        || vec![0; inner.next_multiple_of(QUADRUPLE)],
        |row, (panel, packed)| {
            let outs = (panel * PANEL)..out.min((panel + 1) * PANEL);
            for (lane, out) in outs.enumerate() {
                row[..inner].copy_from_slice(&codes[out * inner..][..inner]);
                scatter::<QUADRUPLE, _>(row, lane, packed);
            }
        },
    );
    packed
}

/// `[out, in]` weights rounded to bf16, packed.
pub(super) fn rounded([out, inner]: [usize; 2], weights: &Floats<'_>) -> Aligned<bf16> {
    let mut packed = Aligned::zeros(packed_len(out, inner, PAIR));
    let panels = packed.par_chunks_mut(packed_len(1, inner, PAIR).max(1));
    panels.enumerate().for_each_init(
        || {
            (
                vec![0.0; inner],
                vec![bf16::ZERO; inner.next_multiple_of(PAIR)],
            )
        },
        |(values, row), (panel, packed)| {
            let outs = (panel * PANEL)..out.min((panel + 1) * PANEL);
            for (lane, out) in outs.enumerate() {
                weights.read(out * inner..(out + 1) * inner, values);
                narrow_piece(values, &mut row[..inner]);
                scatter::<PAIR, _>(row, lane, packed);
            }
        },
    );
    packed
}

/// A row, in whole groups, to lane `lane` of its panel.
fn scatter<const GROUP: usize, T: Copy>(row: &[T], lane: usize, panel: &mut [T]) {
    let lines = panel.as_chunks_mut::<GROUP>().0.iter_mut();
    let places = lines.skip(lane).step_by(PANEL);
    for (place, group) in places.zip(row.as_chunks::<GROUP>().0) {
        *place = *group;
    }
}
