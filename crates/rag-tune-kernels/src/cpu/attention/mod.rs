//! Attention in tiles of 64 queries by 64 keys that stay in the L2 cache (arXiv:2205.14135).
//!
//! A tile holds its scores as keys by queries, so that the softmax runs along registers, and so that keys and values
//! are read where they lie: of the forward pass's two products and of the backward pass's five, queries (and the output's
//! gradient) are packed once for a block, keys once for a tile, for all query heads that share them. Tiles beyond the diagonal
//! are skipped.
//!
//! Forward: one task a (sequence, key/value head, block of queries). Backward: one task a (sequence, key/value head); where
//! those are too few for the threads, queries' gradients by blocks of queries and keys' by pieces of keys, which
//! computes the scores twice. Either way every value is summed in the same order.

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(not(target_arch = "x86_64"))]
use self::element::avx512;
mod decode;
mod element;
mod pages;
mod scratch;
mod softmax;

use std::ops::Range;

use rayon::prelude::*;

pub(crate) use self::decode::decode;
use self::element::{BLOCK, Element, Keep, Left, Product};
pub(crate) use self::pages::Pages;
use self::scratch::{Rows, Scratch, pack_columns, pack_rows, panels};
use self::softmax::{ScoreGradient, Softmax, SoftmaxState};
use crate::attention::{AttentionOutput, Heads, Qkv, QkvGradient};
use crate::buffer::Buffer;
use crate::cpu::target::Target;
use crate::processor::has_bf16;
use crate::sequences::Sequences;
use crate::stored::{Stored, Values};
use crate::tensor::Tensor;

/// Blocks of keys that a task of the backward pass has where only keys' and values' gradients are computed.
const KEY_BLOCKS: usize = 4;

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

/// `[keys][64]`: products of rows with packed columns over the head's features.
fn by_columns<E: Element>(rows: Rows<'_, E>, columns: &[E], dim: usize, out: &mut [f32]) {
    let product = Product {
        left: Left {
            values: rows.values,
            row_stride: rows.stride,
            group_stride: E::GROUP,
        },
        rows: rows.count,
        panel: columns,
        groups: dim / E::GROUP,
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

/// `[rows][dim]`: products of `left` with packed rows over the `inner` tokens of a block.
fn by_rows<E: Element>(
    left: Left<'_, E>,
    rows: usize,
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
            out_stride: dim,
            columns: BLOCK.min(dim - panel * BLOCK),
            keep,
        };
        E::multiply(&product, &mut out[panel * BLOCK..]);
    }
}

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
                        tokens.len(),
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
                        tokens.len(),
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
                        queries.len(),
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
    let mut lanes = [0.0_f32; 16];
    for (left, right) in left.chunks(16).zip(right.chunks(16)) {
        for ((lane, left), right) in lanes.iter_mut().zip(left).zip(right) {
            *lane += left.to_f32() * right.to_f32();
        }
    }
    lanes.iter().sum()
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
    by_columns(k, &own.q_columns, dim, &mut scratch.scores);
    let v = head_rows(inputs.v, keys.clone(), heads.key_value, head, dim);
    by_columns(v, &own.d_columns, dim, &mut scratch.d_probabilities);
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
