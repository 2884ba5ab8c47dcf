//! Gradients of queries, keys and values, from probabilities that are computed again.

use std::ops::Range;

use rayon::prelude::*;

use super::element::{Element, Keep, LANES};
use super::scratch::{Rows, Scratch, pack_columns, pack_rows};
use super::softmax::ScoreGradient;
use super::{
    Inputs, Task, by_columns, by_rows, from_panel, from_rows, head_rows, takes_bf16, with_inputs,
};
use crate::attention::{AttentionOutput, Heads, Qkv, QkvGradient};
use crate::cpu::fused::sum_of_lanes;
use crate::cpu::target::Target;
use crate::sequences::Sequences;
use crate::stored::{Stored, Values};
use crate::tensor::Tensor;

/// Blocks of keys that a task of the backward pass has where only keys' and values' gradients are computed.
const KEY_BLOCKS: usize = 4;

pub(crate) fn backward(
    d_out: &Tensor,
    qkv: Qkv<'_>,
    saved: &AttentionOutput,
    sequences: &Sequences,
    heads: Heads,
) -> QkvGradient {
    with_inputs!(qkv, heads, |inputs| {
        backward_of(inputs, d_out, saved, sequences, route(sequences, heads))
    })
}

/// How the backward pass is cut into tasks.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Route {
    /// One a (sequence, key/value head).
    Whole,
    /// Queries' gradients by blocks of queries, keys' by pieces of keys.
    Split,
}

/// Whole sequences, unless the longest ones would keep one thread busy while others wait.
fn route(sequences: &Sequences, heads: Heads) -> Route {
    let work = |length: usize| (length * length) as u64;
    let all: u64 = sequences.ranges().map(|range| work(range.len())).sum();
    let longest = sequences
        .ranges()
        .map(|range| work(range.len()))
        .max()
        .unwrap_or(0);
    match 2 * longest * rayon::current_num_threads() as u64 <= all * heads.key_value as u64 {
        true => Route::Whole,
        false => Route::Split,
    }
}

/// Where the backward pass writes.
struct GradientTargets<'a> {
    q: Target<'a, f32>,
    k: Target<'a, f32>,
    v: Target<'a, f32>,
}

fn backward_of<E: Element>(
    inputs: Inputs<'_, E>,
    d_out: &Tensor,
    saved: &AttentionOutput,
    sequences: &Sequences,
    route: Route,
) -> QkvGradient {
    let heads = inputs.heads;
    let tokens = sequences.tokens();
    let [query, key_value] = [heads.query, heads.key_value].map(|heads_of| heads_of * heads.dim);
    let mut gradient = QkvGradient {
        q: Tensor::stale(tokens, query),
        k: Tensor::stale(tokens, key_value),
        v: Tensor::stale(tokens, key_value),
    };
    let targets = GradientTargets {
        q: Target::new(gradient.q.data_mut(), query),
        k: Target::new(gradient.k.data_mut(), key_value),
        v: Target::new(gradient.v.data_mut(), key_value),
    };
    let run = |tasks: Vec<Task>, wanted: Wanted| {
        tasks.par_iter().with_max_len(1).for_each(|task| {
            E::scratch().with_borrow_mut(|scratch| {
                backward_task(task, inputs, d_out, saved, wanted, scratch, &targets);
            });
        });
    };
    match route {
        Route::Whole => {
            let whole = |count: usize| std::iter::once((0..count, 0..count));
            run(Task::list(sequences, heads, whole), Wanted::Both);
        }
        Route::Split => {
            let queries = |count: usize| (0..count).map(|block| (block..block + 1, 0..block + 1));
            run(Task::list(sequences, heads, queries), Wanted::Queries);
            let keys = |count: usize| {
                (0..count)
                    .step_by(KEY_BLOCKS)
                    .map(move |first| (first..count, first..count.min(first + KEY_BLOCKS)))
            };
            run(Task::list(sequences, heads, keys), Wanted::Keys);
        }
    }
    gradient
}

/// Which gradients a task computes.
#[derive(Clone, Copy, PartialEq)]
enum Wanted {
    Both,
    Queries,
    /// And values.
    Keys,
}

fn backward_task<E: Element>(
    task: &Task,
    inputs: Inputs<'_, E>,
    d_out: &Tensor,
    saved: &AttentionOutput,
    wanted: Wanted,
    scratch: &mut Scratch<E>,
    targets: &GradientTargets<'_>,
) {
    let heads = inputs.heads;
    let (dim, head) = (heads.dim, task.key_value_head);
    let (of_queries, of_keys) = (wanted != Wanted::Keys, wanted != Wanted::Queries);
    scratch.fit(heads);
    let first_key = task.block(task.keys.start).start;
    let last_key = task.block(task.keys.end - 1).end;
    if of_keys {
        for sums in [&mut scratch.d_keys, &mut scratch.d_values] {
            sums.clear();
            sums.resize((last_key - first_key) * dim, 0.0);
        }
    }
    for block in task.queries.clone() {
        let queries = task.block(block);
        pack_queries(task, queries.clone(), inputs, d_out, saved, scratch);
        for keys in task.keys.start..task.keys.end.min(block + 1) {
            let tokens = task.block(keys);
            if of_queries {
                let k = head_rows(inputs.k, tokens.clone(), heads.key_value, head, dim);
                pack_rows(k, dim, &mut scratch.key_rows);
            }
            for index in 0..scratch.heads.len() {
                score_gradient(task, tokens.clone(), keys == block, index, inputs, scratch);
                let own = &mut scratch.heads[index];
                if of_keys {
                    let place = (tokens.start - first_key) * dim;
                    let d_v = &mut scratch.d_values[place..];
                    let left = from_rows(&scratch.rows);
                    by_rows(
                        left,
                        (tokens.len(), false),
                        &own.d_rows,
                        queries.len(),
                        dim,
                        Keep::All,
                        d_v,
                    );
                    let d_k = &mut scratch.d_keys[place..];
                    let left = from_rows(&scratch.d_rows);
                    by_rows(
                        left,
                        (tokens.len(), false),
                        &own.q_rows,
                        queries.len(),
                        dim,
                        Keep::All,
                        d_k,
                    );
                }
                if of_queries {
                    let keep = if keys == 0 { Keep::Nothing } else { Keep::All };
                    let left = from_panel(&scratch.panel);
                    by_rows(
                        left,
                        (queries.len(), keys == block),
                        &scratch.key_rows,
                        tokens.len(),
                        dim,
                        keep,
                        &mut own.out,
                    );
                }
            }
        }
        if of_queries {
            for (index, own) in scratch.heads.iter().enumerate() {
                let column = (head * inputs.shared() + index) * dim;
                write_rows(&targets.q, queries.clone(), column, dim, &own.out);
            }
        }
    }
    if of_keys {
        write_rows(
            &targets.k,
            first_key..last_key,
            head * dim,
            dim,
            &scratch.d_keys,
        );
        write_rows(
            &targets.v,
            first_key..last_key,
            head * dim,
            dim,
            &scratch.d_values,
        );
    }
}

/// `rows` `[tokens][dim]` to their place. Each (token, head) is written by one task only.
fn write_rows(
    target: &Target<'_, f32>,
    tokens: Range<usize>,
    column: usize,
    dim: usize,
    rows: &[f32],
) {
    for (token, row) in tokens.zip(rows.chunks_exact(dim)) {
        // SAFETY: no other task of the pass has these tokens of this head.
        unsafe { target.part(token, column, dim) }.copy_from_slice(row);
    }
}

/// Brings a block of queries, and the gradients of their outputs, into order for the products.
fn pack_queries<E: Element>(
    task: &Task,
    queries: Range<usize>,
    inputs: Inputs<'_, E>,
    d_out: &Tensor,
    saved: &AttentionOutput,
    scratch: &mut Scratch<E>,
) {
    let heads = inputs.heads;
    let dim = heads.dim;
    for (index, own) in scratch.heads.iter_mut().enumerate() {
        let head = task.key_value_head * inputs.shared() + index;
        let q = head_rows(inputs.q, queries.clone(), heads.query, head, dim);
        pack_columns(q, dim, &mut own.q_columns);
        pack_rows(q, dim, &mut own.q_rows);
        own.lse.fill(0.0);
        own.along.fill(0.0);
        for (query, token) in queries.clone().enumerate() {
            own.lse[query] = saved.lse.row(token)[head];
            let d_row = &d_out.row(token)[head * dim..][..dim];
            let to = &mut scratch.d_out[query * dim..][..dim];
            to.iter_mut()
                .zip(d_row)
                .for_each(|(to, value)| *to = E::from_f32(*value));
            let place = (token * heads.query + head) * dim..(token * heads.query + head + 1) * dim;
            own.along[query] = match saved.out.values() {
                Values::F32(out) => dot(to, &out[place]),
                Values::Bf16(out) => dot(to, &out[place]),
            };
        }
        let d_rows = Rows {
            values: &scratch.d_out,
            count: queries.len(),
            stride: dim,
        };
        pack_columns(d_rows, dim, &mut own.d_columns);
        pack_rows(d_rows, dim, &mut own.d_rows);
    }
}

/// In 16 lanes, so that the compiler may use SIMD. Of what the products read, so that it cancels against them.
fn dot<L: Element, R: Element>(left: &[L], right: &[R]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    for (left, right) in left.chunks(LANES).zip(right.chunks(LANES)) {
        for ((lane, left), right) in lanes.iter_mut().zip(left).zip(right) {
            *lane += left.to_f32() * right.to_f32();
        }
    }
    sum_of_lanes(lanes)
}

/// Probabilities of a tile and the gradients of its scores, into the scratch.
fn score_gradient<E: Element>(
    task: &Task,
    keys: Range<usize>,
    diagonal: bool,
    index: usize,
    inputs: Inputs<'_, E>,
    scratch: &mut Scratch<E>,
) {
    let (heads, head, dim) = (inputs.heads, task.key_value_head, inputs.heads.dim);
    let own = &scratch.heads[index];
    let k = head_rows(inputs.k, keys.clone(), heads.key_value, head, dim);
    by_columns(k.left(), k.count, &own.q_columns, dim, &mut scratch.scores);
    let v = head_rows(inputs.v, keys.clone(), heads.key_value, head, dim);
    by_columns(
        v.left(),
        v.count,
        &own.d_columns,
        dim,
        &mut scratch.d_probabilities,
    );
    E::score_gradient(ScoreGradient {
        scores: &scratch.scores,
        d_probabilities: &scratch.d_probabilities,
        keys: keys.len(),
        diagonal,
        scale: inputs.scale(),
        lse: &own.lse,
        along: &own.along,
        rows: &mut scratch.rows,
        d_rows: &mut scratch.d_rows,
        d_panel: &mut scratch.panel,
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::attention::forward;
    use crate::matrix::Compute;
    use crate::reference::testing::noise;

    /// How the work is cut depends on the number of threads; what comes out must not.
    #[test]
    fn both_routes_give_the_same_bytes() {
        let heads = Heads {
            query: 6,
            key_value: 2,
            dim: 72,
        };
        let sequences = Sequences::from_lengths(&[300, 1, 65, 511]).unwrap();
        for compute in [Compute::F32, Compute::Bf16] {
            let stored = |heads: usize, seed: u64| {
                Stored::new(noise(sequences.tokens(), heads * 72, seed), compute)
            };
            let (q, k, v) = (stored(6, 1), stored(2, 2), stored(2, 3));
            let qkv = Qkv {
                q: &q,
                k: &k,
                v: &v,
            };
            let d_out = noise(sequences.tokens(), 6 * 72, 4);
            let saved = forward(qkv, &sequences, heads);
            let [whole, split] = [Route::Whole, Route::Split].map(|route| {
                with_inputs!(qkv, heads, |inputs| {
                    backward_of(inputs, &d_out, &saved, &sequences, route)
                })
            });
            assert!(whole.q == split.q && whole.k == split.k && whole.v == split.v);
        }
    }

    #[test]
    fn few_long_sequences_are_split_and_many_short_ones_are_not() {
        let heads = Heads {
            query: 9,
            key_value: 3,
            dim: 64,
        };
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(2)
            .build()
            .unwrap();
        let of = |lengths: &[usize]| {
            pool.install(|| route(&Sequences::from_lengths(lengths).unwrap(), heads))
        };
        assert_eq!(of(&[4096]), Route::Split);
        assert_eq!(of(&[256; 8]), Route::Whole);
        assert_eq!(of(&[4096, 10, 10]), Route::Split);
    }
}
