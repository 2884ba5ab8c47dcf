//! A sequence's keys and values in the order in which the products of decoding read them.

use std::sync::Arc;

use super::element::{BLOCK, Element};
use super::scratch::panels;
use crate::attention::Heads;
use crate::buffer::Buffer;

/// Pages of 64 positions. A page has for each key/value head the keys as columns, `[dim / GROUP][64][GROUP]`, and then the
/// values as rows, `[dim / 64][64 / GROUP][64][GROUP]`; zeros where nothing is yet. A clone shares its pages until one of the two
/// writes to the last.
#[derive(Debug, Clone)]
pub(crate) struct Pages<E: Element> {
    heads: usize,
    dim: usize,
    positions: usize,
    pages: Vec<Arc<Buffer<E>>>,
}

impl<E: Element> Pages<E> {
    pub(crate) fn new(heads: Heads) -> Self {
        Self {
            heads: heads.key_value,
            dim: heads.dim,
            positions: 0,
            pages: Vec::new(),
        }
    }

    pub(crate) fn positions(&self) -> usize {
        self.positions
    }

    /// `[key/value heads, dim]`
    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.heads, self.dim]
    }

    /// Bytes of what was put in.
    pub(crate) fn bytes(&self) -> usize {
        2 * self.positions * self.heads * self.dim * size_of::<E>()
    }

    fn head_len(&self) -> usize {
        BLOCK * (self.dim + panels(self.dim) * BLOCK)
    }

    /// Appends positions, `[any, heads * dim]` each.
    pub(crate) fn push(&mut self, keys: &[E], values: &[E]) {
        let width = self.heads * self.dim;
        for (keys, values) in keys.chunks_exact(width).zip(values.chunks_exact(width)) {
            self.push_position(keys, values);
        }
    }

    fn push_position(&mut self, keys: &[E], values: &[E]) {
        let (dim, head_len) = (self.dim, self.head_len());
        let at = self.positions % BLOCK;
        if at == 0 {
            self.pages
                .push(Arc::new(Buffer::zeros(self.heads * head_len)));
        }
        self.positions += 1;
        let Some(page) = self.pages.last_mut() else {
            return;
        };
        let heads = Arc::make_mut(page).chunks_exact_mut(head_len);
        let rows = keys.chunks_exact(dim).zip(values.chunks_exact(dim));
        for (to, (key, value)) in heads.zip(rows) {
            let (columns, rows) = to.split_at_mut(BLOCK * dim);
            let columns = columns.chunks_exact_mut(BLOCK * E::GROUP);
            for (line, key) in columns.zip(key.chunks_exact(E::GROUP)) {
                line[at * E::GROUP..][..E::GROUP].copy_from_slice(key);
            }
            let rows = rows.chunks_exact_mut(BLOCK * BLOCK);
            for (panel, value) in rows.zip(value.chunks(BLOCK)) {
                let line = &mut panel[at / E::GROUP * E::GROUP * BLOCK..];
                let line = line.iter_mut().skip(at % E::GROUP).step_by(E::GROUP);
                line.zip(value).for_each(|(to, value)| *to = *value);
            }
        }
    }

    /// Keys and values of one head, page by page with the positions that each has.
    pub(super) fn of_head(&self, head: usize) -> impl Iterator<Item = (&[E], &[E], usize)> {
        let (head_len, keys) = (self.head_len(), BLOCK * self.dim);
        let pages = self.pages.iter().enumerate();
        pages.map(move |(page, values)| {
            let (keys, values) = values[head * head_len..][..head_len].split_at(keys);
            (keys, values, (self.positions - page * BLOCK).min(BLOCK))
        })
    }
}
