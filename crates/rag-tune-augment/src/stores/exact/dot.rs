//! The score of a row: a dot product whose additions come in a fixed order.
//!
//! Equal vectors get equal scores, on every machine and whatever they are compared together with.

/// Sums side by side, so that the compiler can use vector registers.
const LANES: usize = 16;

/// Roundings between a product and the sum that it ends in, in [`dot`]: one for the product, one for
/// each addition to its lane, and those that join lanes and the rest.
pub(super) fn roundings(dimension: usize) -> usize {
    dimension / LANES + LANES + 8
}

/// How far, in parts of `|a| |b|`, so many roundings to f32 can move a dot product.
/// (Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, section 3.1: gamma_n.)
pub(super) fn rounding_error(roundings: usize) -> f64 {
    let error = roundings as f64 * f64::from(f32::EPSILON) / 2.0;
    error / (1.0 - error)
}

/// The dot product of two vectors.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut score = [0.0];
    dots(a, b, &mut score);
    score[0]
}

/// The dot products of `query` and each of the `scores.len()` vectors in `rows`.
pub(super) fn dots(query: &[f32], rows: &[f32], scores: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if has!("avx512f") {
            // SAFETY: the processor has AVX-512.
            return unsafe { avx512_dots(query, rows, scores) };
        }
        if has!("avx2") {
            // SAFETY: the processor has AVX2.
            return unsafe { avx2_dots(query, rows, scores) };
        }
    }
    lane_wise_dots(query, rows, scores);
}

/// # Safety
/// The processor must have AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512_dots(query: &[f32], rows: &[f32], scores: &mut [f32]) {
    lane_wise_dots(query, rows, scores);
}

/// # Safety
/// The processor must have AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2_dots(query: &[f32], rows: &[f32], scores: &mut [f32]) {
    lane_wise_dots(query, rows, scores);
}

/// Inlined into the functions above, which compile it for wider registers; the order of the
/// additions, and with it every bit of the result, is the same.
#[inline(always)]
fn lane_wise_dots(query: &[f32], rows: &[f32], scores: &mut [f32]) {
    for (score, row) in scores.iter_mut().zip(rows.chunks_exact(query.len())) {
        *score = lane_wise_dot(query, row);
    }
}

#[inline(always)]
fn lane_wise_dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0.0f32; LANES];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            // Not `mul_add`: without FMA in the processor that is a slow call.
            sums[lane] += a[lane] * b[lane];
        }
    }
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            let other = sums[lane + half];
            sums[lane] += other;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums[0] + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_way_gives_the_same_bits(
            query in prop::collection::vec(-1.0f32..1.0, 1..200), rows in 1usize..5, seed in -1.0f32..1.0,
        ) {
            let rows: Vec<f32> = (0..rows * query.len()).map(|at| (seed * at as f32).sin()).collect();
            let mut plain = vec![0.0; rows.len() / query.len()];
            lane_wise_dots(&query, &rows, &mut plain);
            let mut found = plain.clone();
            dots(&query, &rows, &mut found);
            prop_assert_eq!(&plain, &found);
            for (row, score) in rows.chunks_exact(query.len()).zip(&plain) {
                prop_assert_eq!(dot(&query, row), *score);
            }
        }

        #[test]
        fn the_rounding_stays_within_its_bound(
            pairs in prop::collection::vec((-1.0f32..1.0, -1.0f32..1.0), 1..500),
        ) {
            let (a, b): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let product = |a: &[f32], b: &[f32]| -> f64 {
                a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
            };
            let norms = (product(&a, &a) * product(&b, &b)).sqrt();
            let bound = rounding_error(roundings(a.len())) * norms + f64::from(f32::MIN_POSITIVE);
            prop_assert!((f64::from(dot(&a, &b)) - product(&a, &b)).abs() <= bound);
        }
    }
}
