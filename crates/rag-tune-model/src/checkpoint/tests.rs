//! A tiny Llama, written in every format and then damaged in many ways.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::config::ModelConfig;
use crate::llama::Llama;

mod damaged;
mod golden;
mod tiny;

use tiny::{TINY_CONFIG, TinyLlama};

const Q_PROJ: &str = "model.layers.0.self_attn.q_proj.weight";
const K_PROJ: &str = "model.layers.0.self_attn.k_proj.weight";

#[test]
fn every_format_gives_the_same_values() {
    let model = TinyLlama::new();
    let folder = tempfile::tempdir().unwrap();
    for (dtype, tolerance) in [("F32", 0.0), ("F16", 1e-3), ("BF16", 1e-2)] {
        model.write_safetensors(folder.path(), dtype);
        model.assert_same(&Checkpoint::open(folder.path()).unwrap(), tolerance);
    }
    // Values are within 0.5 in blocks of 32: Q8_0 steps by at most
    // 0.5 / 127, Q4_0 by 0.5 / 8 and Q4_1 by 1 / 15.
    for (dtype, tolerance) in [
        ("F32", 0.0),
        ("F16", 1e-3),
        ("Q8_0", 5e-3),
        ("Q4_0", 7e-2),
        ("Q4_1", 7e-2),
    ] {
        let gguf = folder.path().join(format!("tiny.{dtype}.gguf"));
        model.write_gguf(&gguf, dtype);
        model.assert_same(&Checkpoint::open(&gguf).unwrap(), tolerance);
    }
}

/// Of q and k in another order in a GGUF, as the weights are.
#[test]
fn biases_are_the_same_in_every_format() {
    let model = TinyLlama::with_biases();
    let folder = tempfile::tempdir().unwrap();
    model.write_safetensors(folder.path(), "F32");
    let gguf = folder.path().join("tiny.gguf");
    model.write_gguf(&gguf, "F32");
    for path in [folder.path(), gguf.as_path()] {
        let checkpoint = Checkpoint::open(path).unwrap();
        let config = checkpoint.config();
        assert!(config.attention_bias && config.mlp_bias);
        model.assert_same(&checkpoint, 0.0);
    }
}

#[test]
fn tensors_that_the_model_does_not_use_are_named() {
    let mut model = TinyLlama::with_biases();
    model.config = TINY_CONFIG.to_owned();
    let folder = tempfile::tempdir().unwrap();
    model.write_safetensors(folder.path(), "F32");
    let error = Checkpoint::open(folder.path()).unwrap_err();
    let text = error.to_string();
    let named = "holds 7 tensors that a Llama of its configuration does not use: \
                 `model.layers.0.mlp.down_proj.bias`, `model.layers.0.mlp.gate_proj.bias`";
    assert!(text.contains(named) && text.ends_with(", ..."), "{text}");
    assert!(error.hint().unwrap().contains("`attention_bias`"));

    // Its `block_count` is 1.
    let mut model = TinyLlama::new();
    let norm = model.tensors["model.norm.weight"].clone();
    let name = "model.layers.1.input_layernorm.weight";
    model.tensors.insert(name.to_owned(), norm);
    let gguf = folder.path().join("tiny.gguf");
    model.write_gguf(&gguf, "F32");
    let error = Checkpoint::open(&gguf).unwrap_err().to_string();
    assert!(
        error.ends_with("holds a tensor that a Llama of its configuration does not use: `blk.1.attn_norm.weight`"),
        "{error}"
    );
}

#[test]
fn a_folder_with_both_formats_gives_the_safetensors() {
    let model = TinyLlama::new();
    let folder = tempfile::tempdir().unwrap();
    model.write_gguf(&folder.path().join("tiny.gguf"), "Q8_0");
    let gguf = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(
        (gguf.name().as_str(), gguf.config().tie_word_embeddings),
        ("tiny", true)
    );

    model.write_safetensors(folder.path(), "F32");
    let safetensors = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(safetensors.path(), folder.path());
    model.assert_same(&safetensors, 0.0);
    assert_ne!(safetensors.fingerprint(), gguf.fingerprint());
}

#[test]
fn shards_are_one_model_with_one_fingerprint() {
    let model = TinyLlama::new();
    let (single, sharded) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    model.write_safetensors(single.path(), "BF16");
    model.write_shards(sharded.path(), "BF16");
    let sharded = Checkpoint::open(sharded.path()).unwrap();
    model.assert_same(&sharded, 1e-2);
    let single = Checkpoint::open(single.path()).unwrap();
    assert_eq!(single.fingerprint(), sharded.fingerprint());
    assert!(
        single.fingerprint().starts_with("sha256:"),
        "{}",
        single.fingerprint()
    );
}

#[test]
fn the_fingerprint_sees_weights_and_configuration() {
    let mut model = TinyLlama::new();
    let folder = tempfile::tempdir().unwrap();
    let mut fingerprints = Vec::new();
    let mut record = |model: &TinyLlama| {
        model.write_safetensors(folder.path(), "F32");
        fingerprints.push(
            Checkpoint::open(folder.path())
                .unwrap()
                .fingerprint()
                .to_owned(),
        );
    };
    record(&model);
    model.tensors.get_mut(K_PROJ).unwrap().values[5] += 0.25;
    record(&model);
    model.config = TINY_CONFIG.replace("10000.0", "500000.0");
    record(&model);
    fingerprints.dedup();
    assert_eq!(fingerprints.len(), 3);
}

#[test]
fn a_missing_or_mis_shaped_tensor_is_named_with_its_file() {
    let model = TinyLlama::new();
    let folder = tempfile::tempdir().unwrap();
    let gguf = folder.path().join("tiny.gguf");
    model.write_safetensors(folder.path(), "F32");
    model.write_gguf(&gguf, "F32");
    for path in [folder.path(), gguf.as_path()] {
        let checkpoint = Checkpoint::open(path).unwrap();
        let error = checkpoint.tensor(Q_PROJ, &[32, 16]).unwrap_err();
        assert!(matches!(error, ModelError::Shape { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains(Q_PROJ) && text.contains("[32, 16] (out, in)"),
            "{text}"
        );

        let error = checkpoint.tensor("lm_head.weight", &[96, 32]).unwrap_err();
        assert!(matches!(error, ModelError::MissingTensor { .. }), "{error}");
        let error = checkpoint
            .tensor("model.layers.9.mlp.up_proj.weight", &[1])
            .unwrap_err();
        assert!(matches!(error, ModelError::MissingTensor { .. }), "{error}");
    }
}

/// Of weights, norms and biases, in both formats, by the whole way that a model takes into memory.
#[test]
fn what_is_wrong_with_a_tensor_is_named_when_a_model_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = folder.path().join("tiny.gguf");
    let bias = Q_PROJ.replace(".weight", ".bias");
    let names = [
        "model.embed_tokens.weight",
        "model.norm.weight",
        "model.layers.0.post_attention_layernorm.weight",
        Q_PROJ,
        &bias,
    ];
    let told = |path: &Path, name: &str, change: &dyn Fn(&mut TinyLlama)| {
        let mut model = TinyLlama::with_biases();
        change(&mut model);
        match path.is_dir() {
            true => model.write_safetensors(path, "F32"),
            false => model.write_gguf(path, "F32"),
        }
        let load = Checkpoint::open(path).and_then(|checkpoint| {
            Llama::load(&checkpoint, &ModelConfig::default(), &mut |_, _| ())
        });
        let text = load.err().expect("it is wrong").to_string();
        let stored = gguf_name(name).unwrap();
        assert!(text.contains(name) || text.contains(&stored), "{text}");
        text
    };
    fs::write(&gguf, "").unwrap();
    for path in [folder.path(), gguf.as_path()] {
        for name in names {
            let text = told(path, name, &|model| {
                model.tensors.remove(name);
            });
            assert!(text.contains("has no tensor"), "{text}");
            let text = told(path, name, &|model| {
                let tensor = model.tensors.get_mut(name).unwrap();
                tensor.values.extend_from_within(..);
                *tensor.shape.last_mut().unwrap() *= 2;
            });
            assert!(text.contains("expected ["), "{text}");
            let text = told(path, name, &|model| {
                model.tensors.get_mut(name).unwrap().values[3] = f32::NAN;
            });
            assert!(
                text.contains("holds 1 values that are not finite"),
                "{text}"
            );
        }
    }
}

#[test]
fn tensors_that_are_no_floats_are_refused_by_type() {
    let folder = tempfile::tempdir().unwrap();
    TinyLlama::new().write_safetensors(folder.path(), "I32");
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let error = checkpoint.tensor(Q_PROJ, &[32, 32]).unwrap_err();
    assert!(error.to_string().contains("I32"), "{error}");
}

#[test]
fn an_ambiguous_or_empty_folder_says_what_it_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err();
    assert!(matches!(error, ModelError::NoWeights { .. }), "{error}");
    assert!(error.hint().unwrap().contains("pytorch_model.bin"));

    fs::write(folder.path().join("b.gguf"), "").unwrap();
    fs::write(folder.path().join("a.GGUF"), "").unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err();
    assert!(
        error.to_string().ends_with("2 .gguf files: a.GGUF, b.gguf"),
        "{error}"
    );

    let error = Checkpoint::open(&folder.path().join("nowhere")).unwrap_err();
    assert!(matches!(error, ModelError::Io { .. }), "{error}");
    assert!(error.hint().unwrap().contains("--mirror"));
}

#[test]
fn safetensors_need_their_config_and_a_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    TinyLlama::new().write_safetensors(folder.path(), "F32");
    let error = Checkpoint::open(folder.path())
        .unwrap()
        .tokenizer()
        .unwrap_err();
    assert!(
        error.to_string().contains("neither tokenizer.json"),
        "{error}"
    );
    fs::remove_file(folder.path().join("config.json")).unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err();
    assert!(error.to_string().contains("config.json"), "{error}");
}

#[test]
fn a_tokenizer_model_is_read_where_there_is_no_tokenizer_json() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = TinyLlama::new();
    model.write_safetensors(folder.path(), "F32");
    let tokenizer = folder.path().join("tokenizer.model");
    fs::copy(fixture("sentencepiece/tokenizer.model"), tokenizer).unwrap();
    let open = || Checkpoint::open(folder.path()).unwrap().tokenizer();
    let error = open().unwrap_err().to_string();
    assert!(
        error.contains("607 tokens, but the model's embedding has 96 rows"),
        "{error}"
    );

    model.config = TINY_CONFIG.replace(r#""vocab_size": 96"#, r#""vocab_size": 607"#);
    let embedding = model.tensors.get_mut("model.embed_tokens.weight").unwrap();
    embedding.shape[0] = 607;
    embedding.values.resize(607 * 32, 0.0);
    model.write_safetensors(folder.path(), "F32");
    assert_eq!(open().unwrap().encode("▁<EOT>").unwrap(), [1, 606]);

    fs::write(folder.path().join("tokenizer.json"), "{").unwrap();
    let error = open().unwrap_err().to_string();
    assert!(error.contains("tokenizer.json"), "{error}");
}

#[test]
fn a_name_is_the_hub_id_where_the_path_shows_it() {
    let root = tempfile::tempdir().unwrap();
    let cached = root
        .path()
        .join("models--codellama--CodeLlama-7b-hf/snapshots/0123abcd");
    let plain = root.path().join("my-model");
    for folder in [&cached, &plain] {
        fs::create_dir_all(folder).unwrap();
        TinyLlama::new().write_safetensors(folder, "F32");
    }
    assert_eq!(
        Checkpoint::open(&cached).unwrap().name(),
        "codellama/CodeLlama-7b-hf"
    );
    assert_eq!(Checkpoint::open(&plain).unwrap().name(), "my-model");
}

/// The shape that the tiny model's files give a tensor.
fn shape_of(model: &TinyLlama, name: &str) -> Vec<usize> {
    model.tensors[name].shape.clone()
}

/// The repository's test fixtures for this crate.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/model")
        .join(name)
}
