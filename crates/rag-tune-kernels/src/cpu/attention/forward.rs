//! One block of queries a task: scores, softmax and sum, tile by tile of keys.

use std::ops::Range;

use rayon::prelude::*;

use super::element::{Element, Keep, Left};
use super::scratch::{HeadScratch, Scratch, pack_columns_from, pack_rows};
use super::softmax::{Softmax, SoftmaxState};
use super::{
    Inputs, Task, by_columns, by_rows, from_panel, head_rows, head_scale, takes_bf16, with_inputs,
};
use crate::attention::{AttentionOutput, Heads, Qkv};
use crate::buffer::Buffer;
use crate::cpu::target::Target;
use crate::sequences::Sequences;
use crate::stored::{Stored, Values};
use crate::tensor::Tensor;

pub(crate) fn forward(qkv: Qkv<'_>, sequences: &Sequences, heads: Heads) -> AttentionOutput {
    let AttentionOutput { out, lse } =
        with_inputs!(qkv, heads, |inputs| forward_of(inputs, sequences));
    let out = out.alike(qkv.q);
    AttentionOutput { out, lse }
}

fn forward_of<E: Element>(inputs: Inputs<'_, E>, sequences: &Sequences) -> AttentionOutput {
    let heads = inputs.heads;
    let (tokens, width) = (sequences.tokens(), heads.query * heads.dim);
    let mut out = Buffer::<E>::stale(tokens * width);
    let mut lse = Tensor::stale(tokens, heads.query);
    let targets = (
        Target::new(&mut out, width),
        Target::new(lse.data_mut(), heads.query),
    );
    let one_block = |count: usize| (0..count).map(|block| (block..block + 1, 0..block + 1));
    let tasks = Task::list(sequences, heads, one_block);
    tasks.par_iter().with_max_len(1).for_each(|task| {
        E::scratch().with_borrow_mut(|scratch| {
            forward_task(task, inputs, scratch, &targets.0, &targets.1);
        });
    });
    AttentionOutput {
        out: E::stored(tokens, width, out),
        lse,
    }
}

/// One block of queries, all query heads of one key/value head.
fn forward_task<E: Element>(
    task: &Task,
    inputs: Inputs<'_, E>,
    scratch: &mut Scratch<E>,
    out: &Target<'_, E>,
    lse: &Target<'_, f32>,
) {
    let heads = inputs.heads;
    let (dim, head) = (heads.dim, task.key_value_head);
    let block = task.queries.start;
    let queries = Queries {
        tokens: task.block(block),
        before: 0,
        head,
        heads,
    };
    queries.pack(inputs.q, scratch);
    for keys in task.keys.clone() {
        let tokens = task.block(keys);
        let k = head_rows(inputs.k, tokens.clone(), heads.key_value, head, dim);
        let v = head_rows(inputs.v, tokens.clone(), heads.key_value, head, dim);
        pack_rows(v, dim, &mut scratch.key_rows);
        let keys = KeyBlock {
            keys: k.left(),
            values: &scratch.key_rows,
            count: tokens.len(),
            is_first: keys == 0,
            is_diagonal: keys == block,
        };
        let (scores, panel) = (&mut scratch.scores, &mut scratch.panel);
        queries.attend(keys, &mut scratch.heads, scores, panel);
    }
    queries.write(&scratch.heads, out, Some(lse));
}

/// Up to 64 queries of all the query heads that share a key/value head.
pub(super) struct Queries {
    /// In the packed batch.
    pub(super) tokens: Range<usize>,
    /// Tokens of their block that come before them and are no queries.
    pub(super) before: usize,
    /// Of keys and values.
    pub(super) head: usize,
    pub(super) heads: Heads,
}

/// Up to 64 positions of one head's keys and values.
pub(super) struct KeyBlock<'a, E> {
    /// `[positions, dim]`
    pub(super) keys: Left<'a, E>,
    /// Packed by rows.
    pub(super) values: &'a [E],
    pub(super) count: usize,
    pub(super) is_first: bool,
    /// Whether the queries are of the same block.
    pub(super) is_diagonal: bool,
}

impl Queries {
    fn shared(&self) -> usize {
        self.heads.query / self.heads.key_value
    }

    /// Packs the queries of `q` `[tokens, query heads * dim]`, which have seen no key yet.
    pub(super) fn pack<E: Element>(&self, q: &[E], scratch: &mut Scratch<E>) {
        let dim = self.heads.dim;
        scratch.fit(self.heads);
        let first_head = self.head * self.shared();
        for (index, own) in scratch.heads.iter_mut().enumerate() {
            let head = first_head + index;
            let rows = head_rows(q, self.tokens.clone(), self.heads.query, head, dim);
            pack_columns_from(self.before, rows, dim, &mut own.q_columns);
            own.state = SoftmaxState::EMPTY;
        }
    }

    /// Takes a block of keys and values into each head's softmax and sum.
    pub(super) fn attend<E: Element>(
        &self,
        block: KeyBlock<'_, E>,
        heads: &mut [HeadScratch<E>],
        scores: &mut [f32],
        panel: &mut [E],
    ) {
        let (dim, rows) = (self.heads.dim, self.before + self.tokens.len());
        for own in heads {
            by_columns(block.keys, block.count, &own.q_columns, dim, scores);
            E::softmax(Softmax {
                scores,
                keys: block.count,
                diagonal: block.is_diagonal,
                scale: head_scale(dim),
                state: &mut own.state,
                to: panel,
            });
            let keep = match block.is_first {
                true => Keep::Nothing,
                false => Keep::Scaled(&own.state.factor),
            };
            let left = from_panel(panel);
            by_rows(
                left,
                (rows, block.is_diagonal),
                block.values,
                block.count,
                dim,
                keep,
                &mut own.out,
            );
        }
    }

    /// Writes the results to their rows of `out`, and of `lse` where that is wanted.
    pub(super) fn write<E: Element>(
        &self,
        scratch: &[HeadScratch<E>],
        out: &Target<'_, E>,
        lse: Option<&Target<'_, f32>>,
    ) {
        let dim = self.heads.dim;
        let first_head = self.head * self.shared();
        for (index, own) in scratch.iter().enumerate() {
            let head = first_head + index;
            for (query, token) in (self.before..).zip(self.tokens.clone()) {
                let (factor, log_sum) = own.state.finish(query, head_scale(dim));
                // SAFETY: no other task has this token and head, and both references end here.
                let to = unsafe { out.part(token, head * dim, dim) };
                if let Some(lse) = lse {
                    // SAFETY: as above.
                    let lse = unsafe { lse.part(token, head, 1) };
                    lse[0] = log_sum;
                }
                for (to, value) in to.iter_mut().zip(&own.out[query * dim..]) {
                    *to = E::from_f32(value * factor);
                }
            }
        }
    }
}
