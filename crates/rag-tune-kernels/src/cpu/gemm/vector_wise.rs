//! The left side as LLM.int8 has it (arXiv:2208.07339, as bitsandbytes computes it): one scale for a whole row, and columns
//! with an outlier left out, to be multiplied in floating point.

use rayon::prelude::*;

use super::int8::{GROUP, Int8Rows};
use crate::cpu::quantize_rows::{factor, round_to_f16, write_codes};
use crate::tensor::Tensor;

/// A column in which a value is this large in magnitude is not quantised.
pub(crate) const THRESHOLD: f32 = 6.0;

/// Codes of the rows, and what they leave out.
pub(crate) struct VectorWiseRows {
    /// Zeros in the columns that are left out.
    pub(crate) codes: Int8Rows,
    /// The columns that are left out, in order.
    pub(crate) outliers: Vec<usize>,
    /// Their values, rounded to f16: `[rows, outliers]`.
    pub(crate) values: Tensor,
}

impl VectorWiseRows {
    /// Of f32 rows `[rows, inner]`, which are rounded to f16 first.
    pub(crate) fn new(data: &[f32], rows: usize, inner: usize) -> Self {
        let mut rounded = data.to_vec();
        rounded.par_chunks_mut(inner.max(1)).for_each(round_to_f16);
        let is_outlier = |value: f32| value.abs() >= THRESHOLD;
        let mark = |mut marks: Vec<bool>, row: &[f32]| {
            for (mark, value) in marks.iter_mut().zip(row) {
                *mark |= is_outlier(*value);
            }
            marks
        };
        let none = || vec![false; inner];
        let marks = rounded.par_chunks(inner.max(1)).fold(none, mark);
        let marks = marks.reduce(none, |mut left, right| {
            left.iter_mut()
                .zip(right)
                .for_each(|(left, right)| *left |= right);
            left
        });
        let outliers: Vec<usize> = (0..inner).filter(|column| marks[*column]).collect();
        let values = Tensor::from_fn(rows, outliers.len(), |row, at| {
            rounded[row * inner + outliers[at]]
        });
        let mut codes = Int8Rows::stale(rows, inner);
        codes
            .par_rows_mut()
            .enumerate()
            .for_each(|(row, (codes, scales, offsets))| {
                let row = &rounded[row * inner..][..inner];
                // The outliers themselves do not count, but their neighbours in the column do.
                let absmax = row
                    .iter()
                    .filter(|value| !is_outlier(**value))
                    .fold(0.0_f32, |max, value| max.max(value.abs()));
                write_codes(row, factor(absmax), &mut codes[..inner]);
                outliers.iter().for_each(|column| codes[*column] = 0);
                // A value that is no number makes the whole row so.
                let finite: f32 = row.iter().map(|value| value * 0.0).sum();
                scales.fill(absmax / 127.0 + finite);
                for (offset, codes) in offsets.iter_mut().zip(codes.chunks(GROUP)) {
                    *offset = -128 * codes.iter().map(|code| i32::from(*code)).sum::<i32>();
                }
            });
        Self {
            codes,
            outliers,
            values,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::{Input, forward};
    use crate::processor::Level;
    use crate::reference::testing::{Golden, max_error};
    use crate::{Compute, Matrix};

    const CASES: [&str; 5] = ["plain", "columns", "some", "single", "zero_token"];
    const INNER: usize = 200;
    const OUT: usize = 70;

    #[test]
    fn codes_scales_and_outlier_columns_are_those_of_bitsandbytes() {
        let golden = Golden::llm_int8();
        for name in CASES {
            let part = |part: &str| golden.f32s(&format!("product.{name}.{part}"));
            let x = part("x");
            let rows = VectorWiseRows::new(&x, x.len() / INNER, INNER);
            let columns = golden.i32s(&format!("product.{name}.columns"));
            let columns: Vec<usize> = columns.iter().map(|column| *column as usize).collect();
            assert_eq!(rows.outliers, columns, "{name}");
            let codes = golden.i8s(&format!("product.{name}.x_codes"));
            let scales: Vec<f32> = part("x_absmax")
                .iter()
                .map(|absmax| absmax / 127.0)
                .collect();
            let expected: Vec<f32> = codes
                .iter()
                .enumerate()
                .map(|(at, code)| f32::from(*code) * scales[at / INNER])
                .collect();
            assert_eq!(rows.codes.dequantized(), expected, "{name}");
        }
    }

    /// bitsandbytes rounds to f16 three times: the result, the outliers' weights, and their product, all of the result's size at most.
    #[test]
    fn products_are_those_of_bitsandbytes_within_the_rounding_of_f16() {
        let golden = Golden::llm_int8();
        for name in CASES {
            let part = |part: &str| golden.f32s(&format!("product.{name}.{part}"));
            let x = part("x");
            let x = Tensor::from_vec(x.len() / INNER, INNER, x).unwrap();
            let codes = golden.i8s(&format!("product.{name}.codes"));
            let weight = Matrix::from_int8(OUT, INNER, &codes, &part("absmax")).unwrap();
            let expected = Tensor::from_vec(x.rows(), OUT, part("output")).unwrap();
            let largest = expected
                .data()
                .iter()
                .fold(0.0_f32, |max, y| max.max(y.abs()));
            for level in Level::available() {
                let y = forward(&Input::at_level(&x, Compute::LlmInt8, None, level), &weight);
                let error = max_error(&y.unwrap(), &expected);
                assert!(
                    error <= largest / 1024.0,
                    "{name} {level}: {error} of {largest}"
                );
            }
        }
    }

    #[test]
    fn a_value_that_is_no_number_is_not_lost() {
        let weight = Matrix::int8(3, 130, vec![0.5; 390]).unwrap();
        for bad in [f32::NAN, f32::INFINITY] {
            let x = Tensor::from_fn(
                2,
                130,
                |row, col| if (row, col) == (0, 7) { bad } else { 0.5 },
            );
            let y = forward(&Input::new(&x, Compute::LlmInt8), &weight).unwrap();
            assert!(y.row(0).iter().all(|value| !value.is_finite()), "{y:?}");
        }
    }
}
