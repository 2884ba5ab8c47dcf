//! What tests of several operations share.

use crate::Tensor;

/// `[rows, cols]` of reproducible values in `[-1, 1)`.
pub(crate) fn noise(rows: usize, cols: usize, seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Tensor::from_fn(rows, cols, |_, _| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed >> 40) as f32) / (1 << 23) as f32 - 1.0
    })
}

/// The largest absolute difference; NaN if any value is not finite.
pub(crate) fn max_error(left: &Tensor, right: &Tensor) -> f32 {
    assert_eq!(left.shape(), right.shape());
    let pairs = left.data().iter().zip(right.data());
    pairs.fold(0.0, |max, (left, right)| {
        let error = (left - right).abs();
        if error.is_nan() || error > max {
            error
        } else {
            max
        }
    })
}
