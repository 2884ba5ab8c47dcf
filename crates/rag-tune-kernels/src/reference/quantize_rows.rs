//! Row-wise absmax codes.

use half::f16;

use crate::quantize_rows::QuantizedRows;

/// `codes = round(h(W) * (1 / absmax * 127))`, row by row (arXiv:2208.07339); `h` rounds to f16.
pub fn quantize_rows(out_features: usize, in_features: usize, weights: &[f32]) -> QuantizedRows {
    let mut result = QuantizedRows {
        codes: Vec::new(),
        absmax: Vec::new(),
    };
    for out in 0..out_features {
        let row = &weights[out * in_features..(out + 1) * in_features];
        let row: Vec<f32> = row
            .iter()
            .map(|value| f16::from_f32(*value).to_f32())
            .collect();
        let absmax = row.iter().map(|value| value.abs()).fold(0.0, f32::max);
        result.absmax.push(absmax);
        let code = |value: &f32| match absmax {
            0.0 => 0,
            _ => (value * (1.0 / absmax * 127.0)).round_ties_even() as i8,
        };
        result.codes.extend(row.iter().map(code));
    }
    result
}
