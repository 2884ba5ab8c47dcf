//! How operands are brought into the order of the products' panels, and what a task works in.

use super::element::{BLOCK, Element, Left};
use super::softmax::SoftmaxState;
use crate::attention::Heads;

/// One head of some tokens: `count` rows of `dim` values, `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a, T> {
    pub(super) values: &'a [T],
    pub(super) count: usize,
    pub(super) stride: usize,
}

impl<'a, T> Rows<'a, T> {
    pub(super) fn row(&self, row: usize, dim: usize) -> &'a [T] {
        &self.values[row * self.stride..][..dim]
    }
}

impl<'a, E: Element> Rows<'a, E> {
    /// As the left side of a product over the features.
    pub(super) fn left(&self) -> Left<'a, E> {
        Left {
            values: self.values,
            row_stride: self.stride,
            group_stride: E::GROUP,
        }
    }
}

/// Panels of 64 columns that `dim` values take.
pub(super) fn panels(dim: usize) -> usize {
    dim.div_ceil(BLOCK)
}

/// Up to 64 rows as columns of a panel, `[dim / GROUP][64][GROUP]`; missing rows are zeros.
pub(super) fn pack_columns<E: Element>(rows: Rows<'_, E>, dim: usize, to: &mut [E]) {
    pack_columns_from(0, rows, dim, to);
}

/// As [`pack_columns`], with the rows in the columns from `first` on.
pub(super) fn pack_columns_from<E: Element>(
    first: usize,
    rows: Rows<'_, E>,
    dim: usize,
    to: &mut [E],
) {
    let to = &mut to[..dim * BLOCK];
    if rows.count < BLOCK {
        to.fill(E::zeroed());
    }
    for row in 0..rows.count {
        let (from, column) = (rows.row(row, dim), first + row);
        match E::GROUP {
            1 => {
                let to = to.iter_mut().skip(column).step_by(BLOCK);
                to.zip(from).for_each(|(to, value)| *to = *value);
            }
            _ => {
                let to = to.as_chunks_mut::<2>().0.iter_mut().skip(column);
                let from = from.as_chunks::<2>().0;
                to.step_by(BLOCK)
                    .zip(from)
                    .for_each(|(to, pair)| *to = *pair);
            }
        }
    }
}

/// Up to 64 rows along the inner dimension of panels of 64 columns, `[dim / 64][64 rows / GROUP][64][GROUP]`. The second
/// row of an odd pair is zeros; other rows and columns that are missing are left as they are.
pub(super) fn pack_rows<E: Element>(rows: Rows<'_, E>, dim: usize, to: &mut [E]) {
    for (panel, to) in to
        .chunks_exact_mut(BLOCK * BLOCK)
        .enumerate()
        .take(panels(dim))
    {
        let columns = panel * BLOCK..dim.min((panel + 1) * BLOCK);
        let lines = to.chunks_exact_mut(BLOCK * E::GROUP);
        for (row, to) in (0..rows.count).step_by(E::GROUP).zip(lines) {
            let first = &rows.row(row, dim)[columns.clone()];
            if E::GROUP == 1 {
                to[..first.len()].copy_from_slice(first);
                continue;
            }
            let zeros = [E::zeroed(); BLOCK];
            let second = match row + 1 < rows.count {
                true => &rows.row(row + 1, dim)[columns.clone()],
                false => &zeros,
            };
            let pairs = to.as_chunks_mut::<2>().0.iter_mut().zip(first).zip(second);
            pairs.for_each(|((to, first), second)| *to = [*first, *second]);
        }
    }
}

/// What the tasks of one thread work in.
#[derive(Default)]
pub(crate) struct Scratch<E> {
    /// Of each query head.
    pub(super) heads: Vec<HeadScratch<E>>,
    /// Keys or values of a block, by rows.
    pub(super) key_rows: Vec<E>,
    /// `[64 keys][64 queries]`
    pub(super) scores: Vec<f32>,
    pub(super) d_probabilities: Vec<f32>,
    pub(super) rows: Vec<E>,
    pub(super) d_rows: Vec<E>,
    pub(super) panel: Vec<E>,
    /// A block's gradient of the output, `[64][dim]`.
    pub(super) d_out: Vec<E>,
    /// `[keys][dim]`
    pub(super) d_keys: Vec<f32>,
    pub(super) d_values: Vec<f32>,
}

/// What belongs to one block of queries of one head.
pub(super) struct HeadScratch<E> {
    pub(super) state: SoftmaxState,
    /// The result, or the queries' gradient, `[64][dim]`.
    pub(super) out: Vec<f32>,
    /// Queries, and the output's gradient, as columns and as rows.
    pub(super) q_columns: Vec<E>,
    pub(super) q_rows: Vec<E>,
    pub(super) d_columns: Vec<E>,
    pub(super) d_rows: Vec<E>,
    pub(super) lse: [f32; BLOCK],
    pub(super) along: [f32; BLOCK],
}

impl<E: Element> Scratch<E> {
    /// Makes room for the query heads of one key/value head.
    pub(super) fn fit(&mut self, heads: Heads) {
        let dim = panels(heads.dim) * BLOCK;
        let empty = || HeadScratch {
            state: SoftmaxState::EMPTY,
            out: Vec::new(),
            q_columns: Vec::new(),
            q_rows: Vec::new(),
            d_columns: Vec::new(),
            d_rows: Vec::new(),
            lse: [0.0; BLOCK],
            along: [0.0; BLOCK],
        };
        self.heads.resize_with(heads.query / heads.key_value, empty);
        for head in &mut self.heads {
            head.out.resize(BLOCK * dim, 0.0);
            let parts = [
                &mut head.q_columns,
                &mut head.q_rows,
                &mut head.d_columns,
                &mut head.d_rows,
            ];
            parts
                .into_iter()
                .for_each(|part| part.resize(BLOCK * dim, E::zeroed()));
        }
        self.key_rows.resize(BLOCK * dim, E::zeroed());
        self.d_out.resize(BLOCK * dim, E::zeroed());
        self.scores.resize(BLOCK * BLOCK, 0.0);
        self.d_probabilities.resize(BLOCK * BLOCK, 0.0);
        let parts = [&mut self.rows, &mut self.d_rows, &mut self.panel];
        parts
            .into_iter()
            .for_each(|part| part.resize(BLOCK * BLOCK, E::zeroed()));
    }
}
