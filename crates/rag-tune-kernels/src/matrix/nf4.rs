//! NF4 weights in the order in which products read them, and back in bitsandbytes' order.

use rayon::prelude::*;

use crate::cpu::panels::{PAIR, PANEL, packed_index, packed_len};
use crate::nf4::{BLOCK, LEVELS, Nf4, Scales, ZERO};

/// NF4 codes as `[out / 64][in / 2][64]` bytes: one byte holds two neighbouring inputs of an output,
/// the first in its high half, as bitsandbytes' bytes do where rows have an even length.
///
/// The scales keep bitsandbytes' order, so that blocks may span rows.
#[derive(Debug, Clone)]
pub(super) struct PackedNf4 {
    pub(super) codes: Vec<u8>,
    pub(super) scales: Scales,
}

impl PackedNf4 {
    /// `weights` holds `out * in` codes.
    pub(super) fn new([out_features, in_features]: [usize; 2], weights: &Nf4) -> Self {
        // What pads a panel is zero.
        let mut codes = vec![ZERO << 4 | ZERO; packed_len(out_features, in_features, PAIR) / 2];
        let panel_len = packed_len(1, in_features, PAIR) / 2;
        let panels = codes.par_chunks_mut(panel_len.max(1)).enumerate();
        panels.for_each(|(panel, codes)| {
            let outs = (panel * PANEL)..out_features.min((panel + 1) * PANEL);
            for (lane, out) in outs.enumerate() {
                for at in 0..in_features {
                    let code = weights.code(out * in_features + at);
                    let byte = &mut codes[packed_index(in_features, PAIR, lane, at) / 2];
                    *byte = match at % 2 {
                        0 => code << 4 | *byte & 15,
                        _ => *byte & 0xf0 | code,
                    };
                }
            }
        });
        let scales = weights.scales.clone();
        Self { codes, scales }
    }

    /// The same weights in bitsandbytes' order.
    pub(super) fn unpack(&self, [out_features, in_features]: [usize; 2]) -> Nf4 {
        let count = out_features * in_features;
        let code = |index: usize| match index < count {
            true => self.code(in_features, index / in_features, index % in_features),
            false => ZERO,
        };
        let byte = |byte: usize| code(2 * byte) << 4 | code(2 * byte + 1);
        Nf4 {
            codes: (0..count.div_ceil(2)).into_par_iter().map(byte).collect(),
            scales: self.scales.clone(),
        }
    }

    fn code(&self, in_features: usize, out: usize, at: usize) -> u8 {
        let byte = self.codes[packed_index(in_features, PAIR, out, at) / 2];
        if at.is_multiple_of(2) {
            byte >> 4
        } else {
            byte & 15
        }
    }

    /// Row `out`, dequantised.
    pub(super) fn read_row(&self, out: usize, row: &mut [f32]) {
        let in_features = row.len();
        let (mut block, mut scale) = (usize::MAX, 0.0);
        for (at, value) in row.iter_mut().enumerate() {
            let its_block = (out * in_features + at) / BLOCK;
            if its_block != block {
                (block, scale) = (its_block, self.scales.get(its_block));
            }
            *value = LEVELS[usize::from(self.code(in_features, out, at))] * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Matrix;
    use crate::reference::testing::Golden;
    use proptest::prelude::*;

    #[test]
    fn a_matrix_gives_back_the_bytes_of_bitsandbytes() {
        let golden = Golden::bitsandbytes();
        for name in golden.weights("nf4") {
            let [out, inner] = golden.shape(&format!("nf4.{name}.input"));
            let weights = golden.f32s(&format!("nf4.{name}.input"));
            for quantized in [Nf4::quantize(&weights), Nf4::quantize_double(&weights)] {
                let matrix = Matrix::from_nf4(out, inner, &quantized).unwrap();
                let back = matrix.to_nf4().unwrap();
                assert_eq!(
                    back.codes,
                    golden.bytes(&format!("nf4.{name}.weight")),
                    "{name}"
                );
                assert_eq!(back, quantized, "{name}");
            }
        }
    }

    proptest! {
        #[test]
        fn packing_keeps_every_weight((out, inner, seed) in (1_usize..140, 1_usize..200, 0_u64..100)) {
            let weights = crate::reference::testing::noise(out, inner, seed).into_vec();
            let quantized = Nf4::quantize_double(&weights);
            let matrix = Matrix::from_nf4(out, inner, &quantized).unwrap();
            prop_assert_eq!(matrix.to_nf4().unwrap(), quantized.clone());
            let mut row = vec![0.0; inner];
            for o in 0..out {
                matrix.read_row(o, &mut row).unwrap();
                for (at, value) in row.iter().enumerate() {
                    prop_assert_eq!(*value, quantized.value(o * inner + at));
                }
            }
        }
    }
}
