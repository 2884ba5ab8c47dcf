//! ggml's `Q8_0`: blocks of 32 values, each a scale in f16 and 32 codes of 8 bits.
//!
//! As `quantize_row_q8_0_ref` of ggml and `gguf.quants` make them, bit for bit: `d = absmax / 127` in f32, a code is
//! `x * (1 / d)` rounded to the nearest, halves away from zero; only then is `d` rounded to f16.

use half::f16;
use rayon::prelude::*;

/// Values in a block; a row must be a multiple of it.
pub(crate) const BLOCK: usize = 32;
/// What a block takes: the scale, then the codes.
pub(crate) const BLOCK_BYTES: usize = 2 + BLOCK;

/// Blocks that a thread takes at a time.
const BLOCKS_AT_A_TIME: usize = 4096;

/// The blocks of `values`, whole ones, little-endian; or how many scales are beyond f16 (a NaN's is).
pub(crate) fn quantize(values: &[f32]) -> Result<Vec<u8>, usize> {
    let (blocks, rest) = values.as_chunks::<BLOCK>();
    assert!(rest.is_empty(), "whole blocks");
    let mut bytes = vec![0; blocks.len() * BLOCK_BYTES];
    let pieces = bytes.par_chunks_mut(BLOCKS_AT_A_TIME * BLOCK_BYTES);
    let beyond = pieces
        .zip(blocks.par_chunks(BLOCKS_AT_A_TIME))
        .map(|(bytes, blocks)| {
            let (bytes, _) = bytes.as_chunks_mut::<BLOCK_BYTES>();
            let quantized = bytes.iter_mut().zip(blocks);
            quantized
                .filter_map(|(bytes, block)| (!quantize_block(block, bytes)).then_some(()))
                .count()
        })
        .sum();
    match beyond {
        0 => Ok(bytes),
        count => Err(count),
    }
}

/// Whether the scale is finite.
fn quantize_block(block: &[f32; BLOCK], bytes: &mut [u8; BLOCK_BYTES]) -> bool {
    // `f32::max` would pass over a NaN.
    let absmax = block.iter().map(|value| value.abs());
    let absmax = absmax.fold(
        0.0,
        |max: f32, value| if value <= max { max } else { value },
    );
    let is_nan = block.iter().any(|value| value.is_nan());
    let d = absmax / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let scale = f16::from_f32(d);
    bytes[..2].copy_from_slice(&scale.to_le_bytes());
    for (byte, value) in bytes[2..].iter_mut().zip(block) {
        *byte = (value * inverse).round() as i8 as u8;
    }
    scale.is_finite() && !is_nan
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use safetensors::SafeTensors;

    use super::*;

    fn dequantized(bytes: &[u8]) -> Vec<f32> {
        let (blocks, _) = bytes.as_chunks::<BLOCK_BYTES>();
        let values = blocks.iter().flat_map(|block| {
            let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
            block[2..]
                .iter()
                .map(move |code| f32::from(*code as i8) * d)
        });
        values.collect()
    }

    /// scripts/golden_q8_0.py, by llama.cpp's own Python package.
    #[test]
    fn blocks_are_those_of_the_gguf_package() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/fixtures/golden/q8_0.safetensors");
        let file = std::fs::read(path).unwrap();
        let tensors = SafeTensors::deserialize(&file).unwrap();
        let values = tensors.tensor("values").unwrap();
        let values: Vec<f32> = values
            .data()
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect();
        let ours = quantize(&values).unwrap();
        let expected = tensors.tensor("blocks").unwrap();
        assert!(expected.data().len() > 100 * BLOCK_BYTES);
        assert_eq!(ours.len(), expected.data().len());
        let (ours, _) = ours.as_chunks::<BLOCK_BYTES>();
        let (expected, _) = expected.data().as_chunks::<BLOCK_BYTES>();
        for (index, (ours, expected)) in ours.iter().zip(expected).enumerate() {
            assert_eq!(ours, expected, "block {index}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_value_comes_back_within_half_a_step(
            values in proptest::collection::vec(-100.0f32..100.0, BLOCK..=BLOCK),
        ) {
            let absmax = values.iter().fold(0.0, |max: f32, value| max.max(value.abs()));
            let step = absmax / 127.0;
            for (value, back) in values.iter().zip(dequantized(&quantize(&values).unwrap())) {
                // Half a step, and what f16 takes off the scale: 2^-11 of at most 127 steps.
                proptest::prop_assert!((value - back).abs() <= 0.57 * step);
            }
        }
    }

    #[test]
    fn halves_round_away_from_zero_and_zeros_stay() {
        let mut values = [0.0; BLOCK];
        assert_eq!(quantize(&values).unwrap(), [0; BLOCK_BYTES]);
        // d = 1: a value is its own code.
        values[..5].copy_from_slice(&[127.0, 2.5, -2.5, 3.5, -0.5]);
        let bytes = quantize(&values).unwrap();
        assert_eq!(bytes[2..7], [127, 3, 0xfd, 4, 0xff]);
    }

    #[test]
    fn what_f16_cannot_scale_is_told() {
        let mut values = [1.0; 2 * BLOCK];
        values[0] = 65_505.0 * 127.0 * 1.001;
        assert_eq!(quantize(&values), Err(1));
        values[0] = f32::NAN;
        values[BLOCK] = f32::INFINITY;
        assert_eq!(quantize(&values), Err(2));
    }
}
