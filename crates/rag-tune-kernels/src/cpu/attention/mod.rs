//! Attention in tiles of 64 queries by 64 keys that stay in the L2 cache (arXiv:2205.14135).
//!
//! A tile holds its scores as keys by queries, so that the softmax runs along registers, and so that keys and values
//! are read where they lie: of the forward pass's two products and of the backward pass's five, queries (and the output's
//! gradient) are packed once for a block, keys once for a tile, for all query heads that share them. Tiles beyond the diagonal
//! are skipped.
//!
//! Queries whose keys and values lie in a cache take the same steps over its pages, so their results are the same bits.
//!
//! Forward: one task a (sequence, key/value head, block of queries). Backward: one task a (sequence, key/value head); where
//! those are too few for the threads, queries' gradients by blocks of queries and keys' by pieces of keys, which
//! computes the scores twice. Either way every value is summed in the same order.

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(not(target_arch = "x86_64"))]
use self::element::avx512;
mod backward;
mod behind;
mod decode;
mod element;
mod forward;
mod pages;
mod scratch;
mod softmax;

use std::ops::Range;

pub(crate) use self::backward::backward;
pub(crate) use self::behind::behind;
pub(crate) use self::decode::decode;
use self::element::{BLOCK, Element, Keep, Left, Product};
pub(crate) use self::forward::forward;
pub(crate) use self::pages::Pages;
use self::scratch::{Rows, panels};
use crate::attention::Heads;
use crate::processor::has_bf16;
use crate::sequences::Sequences;

/// What products read.
#[derive(Clone, Copy)]
struct Inputs<'a, E> {
    /// `[tokens, query heads * dim]`
    q: &'a [E],
    /// `[tokens, key/value heads * dim]`
    k: &'a [E],
    /// `[tokens, key/value heads * dim]`
    v: &'a [E],
    heads: Heads,
}

impl<'a, E: Element> Inputs<'a, E> {
    fn shared(&self) -> usize {
        self.heads.query / self.heads.key_value
    }

    fn scale(&self) -> f32 {
        head_scale(self.heads.dim)
    }
}

/// What scores of heads with `dim` features are multiplied by.
fn head_scale(dim: usize) -> f32 {
    1.0 / (dim as f32).sqrt()
}

/// Whether heads are held as bf16 where they are stored so.
pub(crate) fn takes_bf16(heads: Heads) -> bool {
    has_bf16() && heads.dim.is_multiple_of(2)
}

/// One head of `tokens` in `values` `[any, heads * dim]`.
fn head_rows<T>(
    values: &[T],
    tokens: Range<usize>,
    heads: usize,
    head: usize,
    dim: usize,
) -> Rows<'_, T> {
    let stride = heads * dim;
    Rows {
        values: &values[tokens.start * stride + head * dim..],
        count: tokens.len(),
        stride,
    }
}

/// A sequence's key/value head, and which of its blocks of 64 tokens a task computes.
struct Task {
    /// Tokens of the sequence in the packed batch.
    tokens: Range<usize>,
    key_value_head: usize,
    /// Blocks of queries and of keys.
    queries: Range<usize>,
    keys: Range<usize>,
}

impl Task {
    /// Tokens of a block in the packed batch.
    fn block(&self, block: usize) -> Range<usize> {
        let start = self.tokens.start + block * BLOCK;
        start..(start + BLOCK).min(self.tokens.end)
    }

    /// Of each (sequence, key/value head), what `split` makes of its number of blocks.
    fn list<I: Iterator<Item = (Range<usize>, Range<usize>)>>(
        sequences: &Sequences,
        heads: Heads,
        split: impl Fn(usize) -> I,
    ) -> Vec<Self> {
        let mut tasks = Vec::new();
        for tokens in sequences.ranges() {
            for key_value_head in 0..heads.key_value {
                let parts = split(tokens.len().div_ceil(BLOCK));
                tasks.extend(parts.map(|(queries, keys)| Self {
                    tokens: tokens.clone(),
                    key_value_head,
                    queries,
                    keys,
                }));
            }
        }
        tasks
    }
}

/// Calls `$body` with the inputs as slices of one [`Element`].
macro_rules! with_inputs {
    ($qkv:expr, $heads:expr, |$inputs:ident| $body:expr) => {{
        let (qkv, heads): (Qkv<'_>, Heads) = ($qkv, $heads);
        match (qkv.q.values(), qkv.k.values(), qkv.v.values()) {
            (Values::Bf16(q), Values::Bf16(k), Values::Bf16(v)) if takes_bf16(heads) => {
                let $inputs = Inputs { q, k, v, heads };
                $body
            }
            _ => {
                let [q, k, v] = [qkv.q, qkv.k, qkv.v].map(Stored::widened);
                let (q, k, v) = (q.data(), k.data(), v.data());
                let $inputs = Inputs { q, k, v, heads };
                $body
            }
        }
    }};
}
use with_inputs;

/// `[keys][64]`: products of `rows` rows with packed columns over the head's features.
fn by_columns<E: Element>(
    left: Left<'_, E>,
    rows: usize,
    columns: &[E],
    dim: usize,
    out: &mut [f32],
) {
    let product = Product {
        left,
        rows,
        panel: columns,
        groups: dim / E::GROUP,
        is_triangle: false,
        out_stride: BLOCK,
        columns: BLOCK,
        keep: Keep::Nothing,
    };
    E::multiply(&product, out);
}

/// A panel as the left side of a product: its 64 columns become rows.
fn from_panel<E: Element>(panel: &[E]) -> Left<'_, E> {
    Left {
        values: panel,
        row_stride: E::GROUP,
        group_stride: BLOCK * E::GROUP,
    }
}

/// Rows of 64 values as the left side of a product.
fn from_rows<E: Element>(rows: &[E]) -> Left<'_, E> {
    Left {
        values: rows,
        row_stride: BLOCK,
        group_stride: E::GROUP,
    }
}

/// `[rows][dim]`: products of `left` with packed rows over the `inner` tokens of a block; a triangle's row `r` has the first `r + 1`.
fn by_rows<E: Element>(
    left: Left<'_, E>,
    (rows, is_triangle): (usize, bool),
    packed: &[E],
    inner: usize,
    dim: usize,
    keep: Keep<'_>,
    out: &mut [f32],
) {
    for panel in 0..panels(dim) {
        let product = Product {
            left,
            rows,
            panel: &packed[panel * BLOCK * BLOCK..],
            groups: inner.div_ceil(E::GROUP),
            is_triangle,
            out_stride: dim,
            columns: BLOCK.min(dim - panel * BLOCK),
            keep,
        };
        E::multiply(&product, &mut out[panel * BLOCK..]);
    }
}
