//! MPNet's bias of attention by how far apart two tokens stand (T5's buckets; Raffel et al. 2020, arXiv:1910.10683).

use rag_tune_kernels::Tensor;
use rag_tune_kernels::encoder_attention::DistanceBias;

/// Distances from here on share the last bucket.
const MAX_DISTANCE: f32 = 128.0;

/// `table` is `[buckets, heads]`, of a model that takes `longest` tokens.
pub(super) fn distance_bias(table: &[f32], buckets: usize, longest: usize) -> DistanceBias {
    let heads = table.len() / buckets;
    let zero = longest.saturating_sub(1);
    let by_distance = Tensor::from_fn(heads, 2 * zero + 1, |head, distance| {
        table[bucket(buckets, zero, distance) * heads + head]
    });
    DistanceBias::new(by_distance).expect("2 n + 1 distances")
}

/// The first half of the buckets is for keys before the query, the second for keys behind it; half of each has a
/// bucket per distance, the rest grows logarithmically.
fn bucket(buckets: usize, query: usize, key: usize) -> usize {
    let half = buckets / 2;
    let exact = half / 2;
    let distance = query.abs_diff(key);
    let side = if key > query { half } else { 0 };
    if distance < exact {
        return side + distance;
    }
    let (distance, exact_f32) = (distance as f32, exact as f32);
    let large =
        (distance / exact_f32).ln() / (MAX_DISTANCE / exact_f32).ln() * (half - exact) as f32;
    side + (exact + large as usize).min(half - 1)
}
