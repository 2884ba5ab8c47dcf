//! Identity of a model's weights, from a sample of their bytes.

use sha2::{Digest, Sha256};

use super::StoredTensor;
use crate::config::LlamaConfig;

/// Samples per tensor, and bytes per sample: about 300 tensors make a
/// fingerprint of 5 MB read, in milliseconds, for a model of any size.
const SAMPLES: usize = 4;
const SAMPLE_BYTES: usize = 4096;

/// `sha256:<hex>` over `config` and `tensors` (ordered by name).
pub(super) fn fingerprint<'a>(
    config: &LlamaConfig,
    tensors: impl Iterator<Item = StoredTensor<'a>>,
) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("{config:?}\n"));
    for tensor in tensors {
        let StoredTensor {
            name,
            dtype,
            shape,
            bytes,
        } = tensor;
        hash.update(format!("{name} {dtype} {shape:?} {}\n", bytes.len()));
        for sample in samples(bytes) {
            hash.update(sample);
        }
    }
    let hex: String = hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

/// Evenly spaced pieces, the first and the last bytes among them; all bytes of
/// a small tensor.
fn samples(bytes: &[u8]) -> Vec<&[u8]> {
    if bytes.len() <= SAMPLES * SAMPLE_BYTES {
        return vec![bytes];
    }
    let last_start = bytes.len() - SAMPLE_BYTES;
    (0..SAMPLES)
        .map(|index| {
            let start = last_start / (SAMPLES - 1) * index;
            &bytes[start..start + SAMPLE_BYTES]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_tensor_is_hashed_whole_and_a_large_one_at_both_ends() {
        let small = vec![7; SAMPLES * SAMPLE_BYTES];
        assert_eq!(samples(&small), [small.as_slice()]);
        let large: Vec<u8> = (0..100_001_u32).map(|index| (index % 251) as u8).collect();
        let pieces = samples(&large);
        assert_eq!(pieces.len(), SAMPLES);
        assert_eq!(pieces[0], &large[..SAMPLE_BYTES]);
        assert!(pieces.iter().all(|piece| piece.len() == SAMPLE_BYTES));
    }
}
