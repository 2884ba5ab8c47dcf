//! Attention: packed sequences in training, one token a row in generation.

use rag_tune_kernels::Sequences;
use rag_tune_kernels::attention::{Heads, KeyValues, Qkv, backward, decode, forward};
use rag_tune_kernels::peak::Arithmetic;

use crate::noise;
use crate::report::{Report, Work};

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

/// Forward and backward.
pub fn training(report: &mut Report<'_>) {
    for heads in HEADS {
        for (rows, length) in [(8, 256), (1, 2048)] {
            let tokens = rows * length;
            let (query, key_value) = (heads.query * heads.dim, heads.key_value * heads.dim);
            let [q, k, v] = [query, key_value, key_value].map(|width| noise(tokens, width));
            let qkv = Qkv {
                q: &q,
                k: &k,
                v: &v,
            };
            let sequences = Sequences::from_lengths(&vec![length; rows]).expect("rows have tokens");
            let pairs = rows * length * (length + 1) / 2;
            let shape = format!("{rows}x{length}, {}", label(heads));
            let bytes = 4 * tokens * 2 * (query + key_value);
            let work = Work::products(4 * query * pairs, Arithmetic::F32, bytes);
            report.time("attention forward", &shape, work, || {
                forward(qkv, &sequences, heads)
            });
            let saved = forward(qkv, &sequences, heads).expect("operands fit");
            let d_out = noise(tokens, query);
            let work = Work::products(10 * query * pairs, Arithmetic::F32, 2 * bytes);
            report.time("attention backward", &shape, work, || {
                backward(&d_out, qkv, &saved, &sequences, heads)
            });
        }
    }
}

/// One query a row over its cache.
pub fn decoding(report: &mut Report<'_>) {
    for heads in HEADS {
        for rows in [1, 32] {
            let length = 512;
            let width = heads.key_value * heads.dim;
            let caches: Vec<_> = (0..2 * rows).map(|_| noise(length, width)).collect();
            let caches: Vec<_> = caches
                .chunks(2)
                .map(|pair| KeyValues {
                    keys: pair[0].data(),
                    values: pair[1].data(),
                })
                .collect();
            let q = noise(rows, heads.query * heads.dim);
            let shape = format!("{rows} over {length}, {}", label(heads));
            let operations = 4 * rows * length * heads.query * heads.dim;
            let bytes = 4 * (2 * rows * length * width + 2 * rows * heads.query * heads.dim);
            let work = Work::products(operations, Arithmetic::F32, bytes);
            report.time("attention decode", &shape, work, || {
                decode(&q, &caches, heads)
            });
        }
    }
}
