//! attention: causal self-attention over packed sequences, with grouped key/value heads.
//!
//! Per head: `out = softmax(scale q k^T + causal mask) v`, `scale = 1 / sqrt(head_dim)`. The
//! forward pass keeps only the log-sum-exp of each row; the backward pass recomputes the
//! probabilities from it (arXiv:2205.14135). Where queries, keys and values are stored as bf16, so are probabilities and
//! gradients as products read them; sums are f32.

use std::ops::Range;

use half::bf16;

use crate::cpu;
use crate::cpu::attention::Pages;
use crate::cuda::Device;
use crate::cuda::cache::{self, DeviceCache};
use crate::error::{KernelError, check_shape};
use crate::matrix::Compute;
use crate::sequences::Sequences;
use crate::stored::{Stored, Values};
use crate::tensor::{Tensor, two_places};

/// How features divide into heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub query: usize,
    /// Key/value heads, a divisor of `query`: `query / key_value` heads share one.
    pub key_value: usize,
    /// Features a head has.
    pub dim: usize,
}

/// Queries, keys and values of a packed batch, after RoPE.
#[derive(Clone, Copy)]
pub struct Qkv<'a> {
    /// `[tokens, query heads * dim]`
    pub q: &'a Stored,
    /// `[tokens, key/value heads * dim]`
    pub k: &'a Stored,
    /// `[tokens, key/value heads * dim]`
    pub v: &'a Stored,
}

/// What the forward pass returns.
#[derive(Debug, Clone)]
pub struct AttentionOutput {
    /// `[tokens, query heads * dim]`, stored as the queries are.
    pub out: Stored,
    /// `[tokens, query heads]`: log-sum-exp of each row of scores, for the backward pass.
    pub lse: Tensor,
}

/// The gradients that the backward pass returns, shaped as their inputs.
#[derive(Debug, Clone)]
pub struct QkvGradient {
    /// d loss / d q
    pub q: Tensor,
    /// d loss / d k
    pub k: Tensor,
    /// d loss / d v
    pub v: Tensor,
}

/// A sequence's keys and values so far. A clone shares what both have: sequences with the same beginning hold it once.
#[derive(Debug, Clone)]
pub struct Cache(CachePages);

#[derive(Debug, Clone)]
enum CachePages {
    F32(Pages<f32>),
    Bf16(Pages<bf16>),
    Device(DeviceCache),
}

impl Cache {
    /// An empty one on `device`, bf16.
    pub fn on_device(heads: Heads, device: &Device) -> Self {
        Self(CachePages::Device(DeviceCache::new(heads, device)))
    }

    /// An empty one, bf16 unless `compute` is f32 or the processor multiplies no bf16.
    pub fn new(heads: Heads, compute: Compute) -> Self {
        let is_bf16 = compute != Compute::F32 && cpu::attention::takes_bf16(heads);
        Self(match is_bf16 {
            true => CachePages::Bf16(Pages::new(heads)),
            false => CachePages::F32(Pages::new(heads)),
        })
    }

    /// Appends some rows of `keys` and `values`, `[tokens, key/value heads * dim]`, stored in the cache's compute.
    ///
    /// # Errors
    /// [`KernelError`] if shapes do not fit, the rows are not there, or they are stored otherwise.
    pub fn push(
        &mut self,
        keys: &Stored,
        values: &Stored,
        rows: Range<usize>,
    ) -> Result<(), KernelError> {
        const OPERATION: &str = "attention::Cache::push";
        let [heads, dim] = self.shape();
        let [tokens, _] = keys.shape();
        let width = heads * dim;
        check_shape(OPERATION, "keys", &keys.shape(), &[tokens, width])?;
        check_shape(OPERATION, "values", &values.shape(), &keys.shape())?;
        let problem = |problem| KernelError::Value {
            operation: OPERATION,
            problem,
        };
        if rows.start > rows.end || rows.end > tokens {
            return Err(problem(format!("rows {rows:?} of {tokens}")));
        }
        if let CachePages::Device(cache) = &mut self.0 {
            let (Some(keys), Some(values)) = (keys.on_device(), values.on_device()) else {
                return Err(two_places(OPERATION));
            };
            return cache.push([keys?.buffer(), values?.buffer()], rows);
        }
        let part = rows.start * width..rows.end * width;
        match (&mut self.0, keys.values(), values.values()) {
            (CachePages::F32(pages), keys, values) => {
                pages.push(&keys.widened(part.clone()), &values.widened(part));
            }
            (CachePages::Bf16(pages), Values::Bf16(keys), Values::Bf16(values)) => {
                pages.push(&keys[part.clone()], &values[part]);
            }
            _ => return Err(problem("f32 for a cache of bf16".to_owned())),
        }
        Ok(())
    }

    /// Bytes of its keys and values.
    pub fn bytes(&self) -> usize {
        match &self.0 {
            CachePages::F32(pages) => pages.bytes(),
            CachePages::Bf16(pages) => pages.bytes(),
            CachePages::Device(cache) => cache.bytes(),
        }
    }

    fn f32s(&self) -> Option<&Pages<f32>> {
        match &self.0 {
            CachePages::F32(pages) => Some(pages),
            CachePages::Bf16(_) | CachePages::Device(_) => None,
        }
    }

    fn bf16s(&self) -> Option<&Pages<bf16>> {
        match &self.0 {
            CachePages::F32(_) | CachePages::Device(_) => None,
            CachePages::Bf16(pages) => Some(pages),
        }
    }

    pub(crate) fn on_a_device_mut(&mut self) -> Option<&mut DeviceCache> {
        match &mut self.0 {
            CachePages::Device(cache) => Some(cache),
            CachePages::F32(_) | CachePages::Bf16(_) => None,
        }
    }

    fn on_a_device(&self) -> Option<&DeviceCache> {
        match &self.0 {
            CachePages::Device(cache) => Some(cache),
            CachePages::F32(_) | CachePages::Bf16(_) => None,
        }
    }

    /// Where it is; `None` is host memory.
    pub(crate) fn device(&self) -> Option<&Device> {
        self.on_a_device().map(DeviceCache::device)
    }

    pub(crate) fn positions(&self) -> usize {
        match &self.0 {
            CachePages::F32(pages) => pages.positions(),
            CachePages::Bf16(pages) => pages.positions(),
            CachePages::Device(cache) => cache.positions(),
        }
    }

    /// `[key/value heads, dim]`
    pub(crate) fn shape(&self) -> [usize; 2] {
        match &self.0 {
            CachePages::F32(pages) => pages.shape(),
            CachePages::Bf16(pages) => pages.shape(),
            CachePages::Device(cache) => cache.shape(),
        }
    }
}

fn check_heads(operation: &'static str, heads: Heads) -> Result<(), KernelError> {
    let shared = heads.key_value != 0 && heads.query.is_multiple_of(heads.key_value);
    if !shared || heads.dim == 0 {
        let problem = format!(
            "{} query heads of {} features do not share {} evenly",
            heads.query, heads.dim, heads.key_value
        );
        return Err(KernelError::Value { operation, problem });
    }
    Ok(())
}

fn check(
    operation: &'static str,
    qkv: Qkv<'_>,
    sequences: &Sequences,
    heads: Heads,
) -> Result<(), KernelError> {
    check_heads(operation, heads)?;
    let tokens = sequences.tokens();
    check_shape(
        operation,
        "q",
        &qkv.q.shape(),
        &[tokens, heads.query * heads.dim],
    )?;
    check_shape(
        operation,
        "k",
        &qkv.k.shape(),
        &[tokens, heads.key_value * heads.dim],
    )?;
    check_shape(
        operation,
        "v",
        &qkv.v.shape(),
        &[tokens, heads.key_value * heads.dim],
    )
}

/// Attention of every token to itself and the tokens before it in its sequence.
///
/// # Errors
/// [`KernelError`] if the shapes do not fit.
pub fn forward(
    qkv: Qkv<'_>,
    sequences: &Sequences,
    heads: Heads,
) -> Result<AttentionOutput, KernelError> {
    check("attention::forward", qkv, sequences, heads)?;
    if qkv.q.on_device().is_some() {
        return cache::forward(qkv, sequences, heads);
    }
    Ok(cpu::attention::forward(qkv, sequences, heads))
}

/// Gradients of `q`, `k`, `v`, given that of `out`.
///
/// # Errors
/// [`KernelError`] if the shapes do not fit.
pub fn backward(
    d_out: &Tensor,
    qkv: Qkv<'_>,
    saved: &AttentionOutput,
    sequences: &Sequences,
    heads: Heads,
) -> Result<QkvGradient, KernelError> {
    check("attention::backward", qkv, sequences, heads)?;
    check_shape(
        "attention::backward",
        "d_out",
        &d_out.shape(),
        &qkv.q.shape(),
    )?;
    check_shape(
        "attention::backward",
        "out",
        &saved.out.shape(),
        &qkv.q.shape(),
    )?;
    check_shape(
        "attention::backward",
        "lse",
        &saved.lse.shape(),
        &[sequences.tokens(), heads.query],
    )?;
    if qkv.q.on_device().is_some() {
        return cache::backward(d_out, qkv, saved, sequences, heads);
    }
    Ok(cpu::attention::backward(
        d_out, qkv, saved, sequences, heads,
    ))
}

/// Attention of the last tokens of each sequence to all positions up to them in its cache: what [`forward`] gives for these
/// tokens where it has the whole sequences, to the bit.
///
/// # Shapes
/// `q`: `[tokens, query heads * dim]`, packed as `sequences` says; one [`Cache`] a sequence, these tokens' keys and values
/// included; returns the shape of `q`, stored as `q` is
///
/// # Errors
/// [`KernelError`] if the shapes do not fit, a cache has fewer positions than there are tokens, or they are stored in two
/// precisions.
pub fn behind(
    q: &Stored,
    sequences: &Sequences,
    caches: &[&Cache],
    heads: Heads,
) -> Result<Stored, KernelError> {
    let operation = "attention::behind";
    check_shape(operation, "caches", &[caches.len()], &[sequences.len()])?;
    let lengths: Vec<usize> = sequences.ranges().map(|range| range.len()).collect();
    check_caches(operation, q, caches, &lengths, heads)?;
    if q.on_device().is_some() {
        return cache::behind(q, sequences, &on_a_device(operation, caches)?, heads);
    }
    let (f32s, bf16s) = by_precision(caches);
    match q.values() {
        Values::Bf16(values) if bf16s.len() == caches.len() => {
            Ok(cpu::attention::behind(values, sequences, &bf16s, heads))
        }
        _ if f32s.len() == caches.len() => {
            let out = cpu::attention::behind(q.widened().data(), sequences, &f32s, heads);
            Ok(out.alike(q))
        }
        _ => Err(two_precisions(operation)),
    }
}

/// Attention of one new token a sequence to all positions in its cache, in host memory; on a device
/// [`DecodeStep::attend`](crate::cuda::DecodeStep::attend) does it.
///
/// # Shapes
/// `q`: `[sequences, query heads * dim]`; one [`Cache`] a sequence, the new token's keys and values included; returns the shape of `q`,
/// stored as `q` is
///
/// # Errors
/// [`KernelError`] if the shapes do not fit, a cache is empty, or they are stored in two precisions or on a device.
pub fn decode(q: &Stored, caches: &[&Cache], heads: Heads) -> Result<Stored, KernelError> {
    let operation = "attention::decode";
    check_caches(operation, q, caches, &vec![1; caches.len()], heads)?;
    if q.on_device().is_some() {
        return Err(two_places(operation));
    }
    let (f32s, bf16s) = by_precision(caches);
    match q.values() {
        Values::Bf16(values) if bf16s.len() == caches.len() => {
            Ok(cpu::attention::decode(values, &bf16s, heads))
        }
        _ if f32s.len() == caches.len() => {
            let out = cpu::attention::decode(q.widened().data(), &f32s, heads);
            Ok(out.alike(q))
        }
        _ => Err(two_precisions(operation)),
    }
}

/// That `q` has `lengths` queries a cache, and each cache as many positions.
fn check_caches(
    operation: &'static str,
    q: &Stored,
    caches: &[&Cache],
    lengths: &[usize],
    heads: Heads,
) -> Result<(), KernelError> {
    check_heads(operation, heads)?;
    let width = heads.query * heads.dim;
    check_shape(operation, "q", &q.shape(), &[lengths.iter().sum(), width])?;
    for (cache, &length) in caches.iter().zip(lengths) {
        let expected = [heads.key_value, heads.dim];
        check_shape(operation, "cache", &cache.shape(), &expected)?;
        let positions = cache.positions();
        if positions < length {
            let problem = format!("a cache of {positions} positions for {length} tokens");
            return Err(KernelError::Value { operation, problem });
        }
    }
    Ok(())
}

fn on_a_device<'a>(
    operation: &'static str,
    caches: &[&'a Cache],
) -> Result<Vec<&'a DeviceCache>, KernelError> {
    let there = caches.iter().map(|cache| cache.on_a_device());
    there
        .collect::<Option<_>>()
        .ok_or_else(|| two_places(operation))
}

fn by_precision<'a>(caches: &[&'a Cache]) -> (Vec<&'a Pages<f32>>, Vec<&'a Pages<bf16>>) {
    let f32s = caches.iter().filter_map(|cache| cache.f32s());
    let bf16s = caches.iter().filter_map(|cache| cache.bf16s());
    (f32s.collect(), bf16s.collect())
}

fn two_precisions(operation: &'static str) -> KernelError {
    KernelError::Value {
        operation,
        problem: "queries and caches of two precisions".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;
    use crate::reference::testing::{max_error, noise};

    const CASES: [(&[usize], Heads); 4] = [
        (
            &[1],
            Heads {
                query: 1,
                key_value: 1,
                dim: 2,
            },
        ),
        (
            &[5, 1, 9],
            Heads {
                query: 4,
                key_value: 2,
                dim: 8,
            },
        ),
        (
            &[130, 64, 65],
            Heads {
                query: 3,
                key_value: 1,
                dim: 16,
            },
        ),
        (
            &[70],
            Heads {
                query: 9,
                key_value: 3,
                dim: 64,
            },
        ),
    ];

    fn inputs(tokens: usize, heads: Heads) -> [Tensor; 4] {
        let mut q = noise(tokens, heads.query * heads.dim, 1);
        q.data_mut().iter_mut().for_each(|value| *value *= 3.0);
        let width = heads.key_value * heads.dim;
        let d_out = noise(tokens, heads.query * heads.dim, 4);
        [q, noise(tokens, width, 2), noise(tokens, width, 3), d_out]
    }

    fn stored(tensors: [&Tensor; 3], compute: Compute) -> [Stored; 3] {
        tensors.map(|tensor| Stored::new(tensor.clone(), compute))
    }

    fn qkv([q, k, v]: &[Stored; 3]) -> Qkv<'_> {
        Qkv { q, k, v }
    }

    /// Output, log-sum-exp, and the gradients of q, k, v.
    fn reference_of(
        inputs: &[Stored; 3],
        d_out: &Tensor,
        sequences: &Sequences,
        heads: Heads,
    ) -> [Tensor; 5] {
        let (out, lse) = reference::attention(qkv(inputs), sequences, heads);
        let gradient = reference::attention_backward(d_out, qkv(inputs), sequences, heads);
        [out, lse, gradient.q, gradient.k, gradient.v]
    }

    /// f32 to within its sums' rounding; bf16 to within 4 times the error of rounding the inputs.
    #[test]
    fn attention_matches_reference() {
        for (lengths, heads) in CASES {
            let sequences = Sequences::from_lengths(lengths).unwrap();
            let [q, k, v, d_out] = inputs(sequences.tokens(), heads);
            let wide = stored([&q, &k, &v], Compute::F32);
            let expected = reference_of(&wide, &d_out, &sequences, heads);
            for compute in [Compute::F32, Compute::Bf16] {
                let inputs = stored([&q, &k, &v], compute);
                let output = forward(qkv(&inputs), &sequences, heads).unwrap();
                let gradient = backward(&d_out, qkv(&inputs), &output, &sequences, heads).unwrap();
                let out = output.out.into_tensor();
                let got = [out, output.lse, gradient.q, gradient.k, gradient.v];
                let d_rounded = Stored::new(d_out.clone(), compute).into_tensor();
                let rounded = reference_of(&inputs, &d_rounded, &sequences, heads);
                for (index, name) in ["out", "lse", "dq", "dk", "dv"].into_iter().enumerate() {
                    let error = max_error(&got[index], &expected[index]);
                    let of_rounding = max_error(&rounded[index], &expected[index]);
                    let bound = 4.0 * of_rounding + if index < 2 { 1e-5 } else { 5e-5 };
                    assert!(
                        error <= bound,
                        "{compute:?} {lengths:?} {name}: {error}, {of_rounding} of rounding"
                    );
                }
            }
        }
    }

    #[test]
    fn decoding_equals_the_last_row_of_a_full_pass() {
        let (lengths, heads) = (
            &[7, 80],
            Heads {
                query: 6,
                key_value: 2,
                dim: 24,
            },
        );
        let sequences = Sequences::from_lengths(lengths).unwrap();
        let [q, k, v, _] = inputs(sequences.tokens(), heads);
        // bf16 rounds the result, and in the full pass the probabilities: each to 1/256 of a value below 1.
        for (compute, bound) in [(Compute::F32, 1e-5), (Compute::Bf16, 8e-3)] {
            let [q, k, v] = stored([&q, &k, &v], compute);
            let full = forward(qkv(&[q.clone(), k.clone(), v.clone()]), &sequences, heads).unwrap();
            let ranges = sequences.ranges();
            let caches = ranges.map(|range| {
                let mut cache = Cache::new(heads, compute);
                cache.push(&k, &v, range.start..range.start + 3).unwrap();
                cache.push(&k, &v, range.start + 3..range.end).unwrap();
                cache
            });
            let caches: Vec<_> = caches.collect();
            let last = [lengths[0] - 1, lengths[0] + lengths[1] - 1];
            let q = Stored::new(q.into_tensor().gather_rows(&last).unwrap(), compute);
            let decoded = decode(&q, &[&caches[0], &caches[1]], heads).unwrap();
            let full = full.out.into_tensor().gather_rows(&last).unwrap();
            assert!(
                max_error(&decoded.into_tensor(), &full) < bound,
                "{compute:?}"
            );
        }
    }

    /// However a sequence is cut, and whatever else runs: with the beginning shared by clones of one cache, too.
    #[test]
    fn tokens_behind_a_cache_give_the_bits_of_a_full_pass() {
        for (lengths, heads) in CASES {
            let sequences = Sequences::from_lengths(lengths).unwrap();
            let [q, k, v, _] = inputs(sequences.tokens(), heads);
            for compute in [Compute::F32, Compute::Bf16] {
                let [q, k, v] = stored([&q, &k, &v], compute);
                let full = forward(qkv(&[q.clone(), k.clone(), v.clone()]), &sequences, heads);
                let full = full.unwrap().out.into_tensor();
                for cached in [0, 1, 3, 63, 64, 69, 128] {
                    let cached: Vec<usize> =
                        lengths.iter().map(|len| cached.min(len - 1)).collect();
                    let (mut rows, mut caches) = (Vec::new(), Vec::new());
                    for (range, cached) in sequences.ranges().zip(&cached) {
                        let (start, middle) = (range.start, range.start + cached);
                        let mut beginning = Cache::new(heads, compute);
                        beginning.push(&k, &v, start..middle).unwrap();
                        let mut cache = beginning.clone();
                        cache.push(&k, &v, middle..range.end).unwrap();
                        // What another sequence puts behind the same beginning must not be seen.
                        beginning.push(&v, &k, middle..range.end).unwrap();
                        rows.extend(middle..range.end);
                        caches.push(cache);
                    }
                    let new: Vec<usize> = lengths.iter().zip(&cached).map(|(l, c)| l - c).collect();
                    let new = Sequences::from_lengths(&new).unwrap();
                    let q =
                        Stored::new(q.clone().into_tensor().gather_rows(&rows).unwrap(), compute);
                    let caches: Vec<&Cache> = caches.iter().collect();
                    let got = behind(&q, &new, &caches, heads).unwrap().into_tensor();
                    let expected = full.gather_rows(&rows).unwrap();
                    assert!(got == expected, "{compute:?} {lengths:?} behind {cached:?}");
                }
            }
        }
    }

    #[test]
    fn a_cache_has_one_precision_and_whole_rows() {
        let [wide, narrow] = [Compute::F32, Compute::Bf16].map(|c| Stored::new(noise(2, 4, 1), c));
        let heads = |dim| Heads {
            query: 1,
            key_value: 1,
            dim,
        };
        let mut cache = Cache::new(heads(4), Compute::Bf16);
        assert!(cache.push(&narrow, &narrow, 1..3).is_err());
        cache.push(&narrow, &narrow, 1..2).unwrap();
        let is_bf16 = cache.bf16s().is_some();
        assert_eq!(cache.bytes(), 2 * 4 * if is_bf16 { 2 } else { 4 });
        assert_eq!(cache.push(&wide, &wide, 0..1).is_err(), is_bf16);
        let q = |dim| Stored::new(noise(1, dim, 1), Compute::Bf16);
        assert!(decode(&q(4), &[&cache], heads(4)).is_ok());
        assert!(decode(&q(3), &[&cache], heads(3)).is_err());
        let mut other = Cache::new(heads(4), Compute::F32);
        assert!(decode(&q(4), &[&other], heads(4)).is_err(), "empty");
        let one = Sequences::from_lengths(&[1]).unwrap();
        assert!(behind(&q(4), &one, &[&cache], heads(4)).is_ok());
        assert!(behind(&q(4), &one, &[&other], heads(4)).is_err(), "empty");
        assert!(behind(&q(4), &one, &[], heads(4)).is_err(), "no cache");
        other.push(&wide, &wide, 0..2).unwrap();
        let two_rows = Stored::new(noise(2, 4, 1), Compute::Bf16);
        let mixed = decode(&two_rows, &[&cache, &other], heads(4));
        assert_eq!(mixed.is_err(), is_bf16);
    }
}
