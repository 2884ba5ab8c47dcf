//! Multiply-add that is one instruction where there is one.

/// `a * b + c`, rounded once if `FMA`.
///
/// `FMA` must say what the surrounding `multiversion` function was compiled for: without the instruction,
/// `mul_add` is a call of the C library.
#[inline(always)]
pub(super) fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Lanes of the widest register: sums and maxima run in so many, in an order that does not depend on the processor.
pub(super) const LANES: usize = 16;

/// The sum of the lanes, by halves.
#[inline(always)]
pub(super) fn sum_of_lanes(lanes: [f32; LANES]) -> f32 {
    fold_lanes(lanes, |a, b| a + b)
}

/// The largest of the lanes.
#[inline(always)]
pub(super) fn max_of_lanes(lanes: [f32; LANES]) -> f32 {
    fold_lanes(lanes, |a, b| if a > b { a } else { b })
}

#[inline(always)]
fn fold_lanes(lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    // Array by array rather than in place: each becomes a register.
    let eight: [f32; 8] = std::array::from_fn(|lane| join(lanes[lane], lanes[lane + 8]));
    let four: [f32; 4] = std::array::from_fn(|lane| join(eight[lane], eight[lane + 4]));
    let two: [f32; 2] = std::array::from_fn(|lane| join(four[lane], four[lane + 2]));
    join(two[0], two[1])
}
