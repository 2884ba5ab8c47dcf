//! One block of queries a task: scores, softmax and sum, tile by tile of keys.

use rayon::prelude::*;

use super::element::{Element, Keep};
use super::scratch::{Scratch, pack_columns, pack_rows};
use super::softmax::{Softmax, SoftmaxState};
use super::{Inputs, Task, by_columns, by_rows, from_panel, head_rows, takes_bf16, with_inputs};
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
    let (dim, head, scale) = (heads.dim, task.key_value_head, inputs.scale());
    scratch.fit(heads);
    let block = task.queries.start;
    let queries = task.block(block);
    let first_head = head * inputs.shared();
    for (index, own) in scratch.heads.iter_mut().enumerate() {
        let rows = head_rows(
            inputs.q,
            queries.clone(),
            heads.query,
            first_head + index,
            dim,
        );
        pack_columns(rows, dim, &mut own.q_columns);
        own.state = SoftmaxState::EMPTY;
    }
    for keys in task.keys.clone() {
        let (diagonal, tokens) = (keys == block, task.block(keys));
        let k = head_rows(inputs.k, tokens.clone(), heads.key_value, head, dim);
        let v = head_rows(inputs.v, tokens.clone(), heads.key_value, head, dim);
        pack_rows(v, dim, &mut scratch.key_rows);
        for own in &mut scratch.heads {
            by_columns(k, &own.q_columns, dim, &mut scratch.scores);
            E::softmax(Softmax {
                scores: &scratch.scores,
                keys: tokens.len(),
                diagonal,
                scale,
                state: &mut own.state,
                to: &mut scratch.panel,
            });
            let keep = match keys {
                0 => Keep::Nothing,
                _ => Keep::Scaled(&own.state.factor),
            };
            let left = from_panel(&scratch.panel);
            by_rows(
                left,
                queries.len(),
                &scratch.key_rows,
                tokens.len(),
                dim,
                keep,
                &mut own.out,
            );
        }
    }
    for (index, own) in scratch.heads.iter().enumerate() {
        let head = first_head + index;
        for (query, token) in queries.clone().enumerate() {
            let (factor, log_sum) = own.state.finish(query, scale);
            // SAFETY: no other task has this token and head, and both references end here.
            let (to, lse) = unsafe { (out.part(token, head * dim, dim), lse.part(token, head, 1)) };
            lse[0] = log_sum;
            for (to, value) in to.iter_mut().zip(&own.out[query * dim..]) {
                *to = E::from_f32(value * factor);
            }
        }
    }
}
