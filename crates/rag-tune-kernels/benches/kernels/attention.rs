//! Attention: packed sequences in training, one token a row in generation.

use rag_tune_kernels::attention::{Cache, Heads, Qkv, backward, decode, forward};
use rag_tune_kernels::{Compute, Sequences, Stored};

use crate::report::{Report, Work};
use crate::{computes, noise};

/// SmolLM2-135M and CodeLlama-7B.
const HEADS: [Heads; 2] = [
    Heads {
        query: 9,
        key_value: 3,
        dim: 64,
    },
    Heads {
        query: 32,
        key_value: 32,
        dim: 128,
    },
];

fn label(heads: Heads) -> String {
    format!("{}/{} heads of {}", heads.query, heads.key_value, heads.dim)
}

/// What products of operands that are stored for `compute` run in, and bytes of a number.
fn arithmetic(compute: Compute) -> (Compute, usize) {
    match compute {
        Compute::F32 => (Compute::F32, 4),
        _ => (Compute::Bf16, 2),
    }
}

/// Forward and backward.
pub fn training(report: &mut Report<'_>) {
    for (heads, compute) in HEADS
        .into_iter()
        .flat_map(|h| computes().map(move |c| (h, c)))
    {
        let (arithmetic, number) = arithmetic(compute);
        for (rows, length) in [(8, 256), (1, 2048)] {
            let tokens = rows * length;
            let (query, key_value) = (heads.query * heads.dim, heads.key_value * heads.dim);
            let [q, k, v] = [query, key_value, key_value]
                .map(|width| Stored::new(noise(tokens, width), compute));
            let qkv = Qkv {
                q: &q,
                k: &k,
                v: &v,
            };
            let sequences = Sequences::from_lengths(&vec![length; rows]).expect("rows have tokens");
            let pairs = rows * length * (length + 1) / 2;
            let shape = format!("{rows}x{length}, {} {compute:?}", label(heads));
            let bytes = number * tokens * 2 * (query + key_value);
            let work = Work::products(4 * query * pairs, arithmetic, bytes);
            report.time("attention forward", &shape, work, || {
                forward(qkv, &sequences, heads)
            });
            let saved = forward(qkv, &sequences, heads).expect("operands fit");
            let d_out = noise(tokens, query);
            let work = Work::products(10 * query * pairs, arithmetic, 2 * bytes);
            report.time("attention backward", &shape, work, || {
                backward(&d_out, qkv, &saved, &sequences, heads)
            });
        }
    }
}

/// One query a row over its cache.
pub fn decoding(report: &mut Report<'_>) {
    for (heads, compute) in HEADS
        .into_iter()
        .flat_map(|h| computes().map(move |c| (h, c)))
    {
        let (arithmetic, number) = arithmetic(compute);
        for rows in [1, 32] {
            let length = 512;
            let width = heads.key_value * heads.dim;
            let cache = || {
                let [k, v] = [(); 2].map(|()| Stored::new(noise(length, width), compute));
                let mut cache = Cache::new(heads, compute);
                cache
                    .push(&k, &v, 0..length)
                    .expect("keys and values alike");
                cache
            };
            let caches: Vec<_> = (0..rows).map(|_| cache()).collect();
            let caches: Vec<_> = caches.iter().collect();
            let q = Stored::new(noise(rows, heads.query * heads.dim), compute);
            let shape = format!("{rows} over {length}, {} {compute:?}", label(heads));
            let operations = 4 * rows * length * heads.query * heads.dim;
            let bytes = number * 2 * (rows * length * width + rows * heads.query * heads.dim);
            let work = Work::products(operations, arithmetic, bytes);
            report.time("attention decode", &shape, work, || {
                decode(&q, &caches, heads)
            });
        }
    }
}
