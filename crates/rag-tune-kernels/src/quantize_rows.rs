//! quantize_rows: row-wise absmax codes in 8 bits, bit for bit as bitsandbytes makes them.
//!
//! `absmax[o] = max |h(W[o, :])|`, `codes = round(h(W) * (1 / absmax * 127))`, ties to even, where `h` rounds to f16
//! (LLM.int8, arXiv:2208.07339). bitsandbytes casts a weight to f16 before it quantises, so `h` is part of the definition.

use rayon::prelude::*;

use crate::cpu::quantize_rows::quantize_row;
use crate::error::{KernelError, check_shape};
use crate::floats::Floats;

/// 8-bit codes, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedRows {
    /// `[out, in]`, -127 to 127.
    pub codes: Vec<i8>,
    /// `[out]`: `weight[o, i]` is about `codes[o, i] * absmax[o] / 127`.
    pub absmax: Vec<f32>,
}

/// Quantises `weights` `[out, in]`.
///
/// # Errors
/// [`KernelError::Shape`] if there are not `out * in` weights, [`KernelError::NotFinite`], and
/// [`KernelError::BeyondF16`] if a weight is beyond what f16 can hold.
pub fn quantize_rows<'a>(
    out_features: usize,
    in_features: usize,
    weights: impl Into<Floats<'a>>,
) -> Result<QuantizedRows, KernelError> {
    let weights = weights.into();
    check(&weights, [out_features, in_features])?;
    let mut codes = vec![0; out_features * in_features];
    let mut absmax = vec![0.0; out_features];
    let rows = codes
        .par_chunks_mut(in_features.max(1))
        .zip(&mut absmax)
        .enumerate();
    rows.for_each_init(
        || vec![0.0; in_features],
        |values, (row, (codes, absmax))| {
            *absmax = quantize_row(&weights, row, values, codes);
        },
    );
    finite(&weights, &absmax)?;
    Ok(QuantizedRows { codes, absmax })
}

/// Whether there is one weight for each place.
pub(crate) fn check(weights: &Floats<'_>, [out, inner]: [usize; 2]) -> Result<(), KernelError> {
    let expected = [out * inner];
    check_shape("quantize_rows", "weights", &[weights.len()], &expected)
}

/// Refuses rows that have no scale.
pub(crate) fn finite(weights: &Floats<'_>, absmax: &[f32]) -> Result<(), KernelError> {
    if absmax.iter().all(|absmax| absmax.is_finite()) {
        return Ok(());
    }
    match weights.extent() {
        (largest, 0) => Err(KernelError::BeyondF16 { largest }),
        (_, count) => Err(KernelError::NotFinite { count }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Matrix;
    use crate::reference::{self, testing::Golden};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn quantize_rows_matches_reference(
            (out, inner, values) in (1_usize..20, 1_usize..100).prop_flat_map(|(out, inner)| {
                (Just(out), Just(inner), prop::collection::vec(-3.0_f32..3.0, out * inner))
            })
        ) {
            let quantized = quantize_rows(out, inner, &values).unwrap();
            prop_assert_eq!(&quantized, &reference::quantize_rows(out, inner, &values));
            for (at, value) in values.iter().enumerate() {
                let step = quantized.absmax[at / inner] / 127.0;
                // Half a step, and f16's rounding.
                let error = (value - f32::from(quantized.codes[at]) * step).abs();
                prop_assert!(error <= 0.501 * step + value.abs() / 2048.0 + 1e-7);
            }
        }
    }

    /// Random weights, zeros, numbers too small for f16, an outlier, ties, in f32, bf16 and f16.
    #[test]
    fn every_code_and_scale_is_that_of_bitsandbytes() {
        let golden = Golden::llm_int8();
        let names = golden.weights("rows");
        assert_eq!(names.len(), 12);
        for name in names {
            let input = format!("rows.{name}.input");
            let [out, inner] = golden.shape(&input);
            let values = golden.f32s(&input);
            let quantized = quantize_rows(out, inner, &values).unwrap();
            let expected = golden.i8s(&format!("rows.{name}.codes"));
            let both = quantized.codes.iter().zip(&expected);
            let differ = both.filter(|(code, expected)| code != expected).count();
            assert_eq!((differ, expected.len()), (0, out * inner), "{name}");
            assert_eq!(
                quantized.absmax,
                golden.f32s(&format!("rows.{name}.absmax")),
                "{name}"
            );
            let packed = Matrix::int8(out, inner, &values).unwrap();
            let kept = Matrix::from_int8(out, inner, &quantized.codes, &quantized.absmax).unwrap();
            let ids: Vec<u32> = (0..out as u32).collect();
            assert_eq!(packed.gather_rows(&ids), kept.gather_rows(&ids), "{name}");
        }
    }

    #[test]
    fn what_has_no_scale_is_refused_by_kind() {
        let zeros = quantize_rows(1, 3, &[0.0, -0.0, 1e-9]).unwrap();
        assert_eq!((zeros.codes, zeros.absmax), (vec![0; 3], vec![0.0]));
        for bad in [f32::NAN, f32::INFINITY] {
            let error = quantize_rows(2, 2, &[1.0, 2.0, bad, 1.0]).unwrap_err();
            assert_eq!(error, KernelError::NotFinite { count: 1 });
        }
        let error = quantize_rows(1, 2, &[70_000.0, 1.0]).unwrap_err();
        assert_eq!(error, KernelError::BeyondF16 { largest: 70_000.0 });
        assert!(quantize_rows(2, 2, &[1.0; 3]).is_err());
    }
}
