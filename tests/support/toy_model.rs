//! A tiny Llama with random weights and a byte tokenizer: everything works on it, nothing is learnt from it.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

/// 256 bytes, `<s>` and `</s>`.
const VOCABULARY: usize = 258;
const HIDDEN: usize = 64;
const INTERMEDIATE: usize = 128;
const LAYERS: usize = 2;
const HEADS: usize = 4;
const KEY_VALUE_HEADS: usize = 2;

/// Writes the model into `folder`; another `seed` is another model.
pub fn write(folder: &Path, seed: u64) {
    std::fs::create_dir_all(folder).unwrap();
    write_json(&folder.join("config.json"), &config());
    write_json(&folder.join("tokenizer.json"), &tokenizer());
    write_json(
        &folder.join("tokenizer_config.json"),
        &json!({"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": false}),
    );
    let tensors = tensors(seed);
    let views = tensors.iter().map(|(name, (shape, bytes))| {
        (
            name,
            TensorView::new(Dtype::F32, shape.clone(), bytes).expect("bytes fit the shape"),
        )
    });
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}

fn write_json(path: &Path, value: &Value) {
    std::fs::write(path, value.to_string()).unwrap();
}

fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "vocab_size": VOCABULARY,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": true,
        "bos_token_id": 256,
        "eos_token_id": 257,
    })
}

/// Byte-level BPE without merges: one token a byte.
fn tokenizer() -> Value {
    let mut vocabulary = serde_json::Map::new();
    for byte in 0..=255u8 {
        vocabulary.insert(byte_symbol(byte).to_string(), json!(byte));
    }
    let special = |id: u32, text: &str| {
        json!({"id": id, "content": text, "special": true, "single_word": false,
               "lstrip": false, "rstrip": false, "normalized": false})
    };
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [special(256, "<s>"), special(257, "</s>")],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "vocab": vocabulary, "merges": []},
    })
}

/// GPT-2's printable stand-in for a byte: itself where it is printable, else a character from U+0100 on.
fn byte_symbol(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let position = (0..byte).filter(|&earlier| !printable(earlier)).count() as u32;
    char::from_u32(0x100 + position).expect("below U+0200 every number is a character")
}

fn tensors(seed: u64) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let mut random = Random(seed);
    let mut tensors = BTreeMap::new();
    let mut add = |name: String, shape: &[usize]| {
        let count = shape.iter().product();
        let is_norm = shape.len() == 1;
        let bytes = (0..count)
            .flat_map(|_| (if is_norm { 1.0 } else { 0.1 * random.next() }).to_le_bytes())
            .collect();
        tensors.insert(name, (shape.to_vec(), bytes));
    };
    let key_value = HIDDEN / HEADS * KEY_VALUE_HEADS;
    add(
        "model.embed_tokens.weight".to_owned(),
        &[VOCABULARY, HIDDEN],
    );
    add("model.norm.weight".to_owned(), &[HIDDEN]);
    for layer in 0..LAYERS {
        let mut block = |name: &str, shape: &[usize]| {
            add(format!("model.layers.{layer}.{name}.weight"), shape);
        };
        block("input_layernorm", &[HIDDEN]);
        block("post_attention_layernorm", &[HIDDEN]);
        block("self_attn.q_proj", &[HIDDEN, HIDDEN]);
        block("self_attn.k_proj", &[key_value, HIDDEN]);
        block("self_attn.v_proj", &[key_value, HIDDEN]);
        block("self_attn.o_proj", &[HIDDEN, HIDDEN]);
        block("mlp.gate_proj", &[INTERMEDIATE, HIDDEN]);
        block("mlp.up_proj", &[INTERMEDIATE, HIDDEN]);
        block("mlp.down_proj", &[HIDDEN, INTERMEDIATE]);
    }
    tensors
}

/// A linear congruential generator (Knuth's MMIX constants): the toy needs no better one.
struct Random(u64);

impl Random {
    /// Uniform in `[-1, 1)`.
    fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}
