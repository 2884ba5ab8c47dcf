//! A real GGUF against what transformers makes of it
//! (`scripts/golden_weights.py`).

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::*;
use crate::mirror::mirror_with;

#[derive(Deserialize)]
struct Golden {
    model: String,
    tensors: Vec<GoldenTensor>,
}

#[derive(Deserialize)]
struct GoldenTensor {
    name: String,
    shape: Vec<usize>,
    /// Over the values as little-endian f32.
    sha256: String,
    /// Flat index and value.
    samples: Vec<(usize, f32)>,
}

#[test]
fn smollm2_has_the_weights_that_transformers_loads() {
    let golden = fs::read_to_string(fixture("golden_weights.json")).unwrap();
    let golden: Golden = serde_json::from_str(&golden).unwrap();
    // The hub's own safetensors are not rounded to 4 bits.
    let gguf = format!("{}/SmolLM2-135M-Instruct.Q4_1.gguf", golden.model);
    let Some(mirror) = mirror_with(&gguf) else {
        return;
    };
    let checkpoint = Checkpoint::open(&mirror.join(gguf)).unwrap();

    let config = checkpoint.config();
    assert_eq!(
        (config.num_attention_heads, config.num_key_value_heads),
        (9, 3)
    );
    assert_eq!(
        (config.hidden_size, config.head_dim, config.vocab_size),
        (576, 64, 49_152)
    );
    assert_eq!(
        (config.rope_theta, config.tie_word_embeddings),
        (100_000.0, true)
    );

    for tensor in golden.tensors {
        let values = checkpoint.tensor(&tensor.name, &tensor.shape).unwrap();
        for (index, expected) in tensor.samples {
            assert_eq!(values[index], expected, "{} at {index}", tensor.name);
        }
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let digest = Sha256::digest(bytes);
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, tensor.sha256, "{}", tensor.name);
    }
}
