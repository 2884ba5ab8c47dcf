//! Models that transformers has stored in NF4 and in 8 bits load as they are
//! (`scripts/golden_bitsandbytes.py stored`).

use std::fs;
use std::path::{Path, PathBuf};

use rag_tune_kernels::Sequences;
use rag_tune_model::checkpoint::Checkpoint;
use rag_tune_model::config::{Compute, ModelConfig, Quantization, StoredQuantization};
use rag_tune_model::error::ModelError;
use rag_tune_model::llama::Llama;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

/// Folder, base of its golden ids, and the settings that it must be loaded with.
const STORED: [(&str, &str, Quantization, bool); 3] = [
    ("nf4_double", "tiny_untied", Quantization::Nf4, true),
    ("nf4_mixed", "tiny_tied", Quantization::Nf4, false),
    ("int8", "tiny_untied", Quantization::Int8, true),
];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/golden")
}

fn stored(name: &str) -> PathBuf {
    golden().join("bitsandbytes").join(name)
}

fn config(quantization: Quantization, double_quantization: bool) -> ModelConfig {
    ModelConfig {
        quantization,
        double_quantization,
        compute: Compute::F32,
        ..Default::default()
    }
}

fn load(folder: &Path, config: &ModelConfig) -> Result<Llama, ModelError> {
    Llama::load(&Checkpoint::open(folder)?, config, &mut |_, _| ())
}

/// Bytes of one tensor of a file.
fn bytes(path: &Path, name: &str) -> Vec<u8> {
    let file = fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    tensors.tensor(name).unwrap().data().to_vec()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let values = bytes.as_chunks::<4>().0.iter();
    values.map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// The ids of both golden sequences.
fn sequences(base: &str) -> Vec<Vec<u32>> {
    let path = golden().join(base).join("golden.safetensors");
    let ids = |index: usize| {
        let bytes = bytes(&path, &format!("ids.{index}"));
        let ids = bytes.as_chunks::<8>().0.iter();
        ids.map(|bytes| u32::try_from(i64::from_le_bytes(*bytes)).unwrap())
            .collect()
    };
    (0..2).map(ids).collect()
}

#[test]
fn logits_equal_those_of_the_model_that_transformers_loads() {
    for (name, base, quantization, double) in STORED {
        let llama = load(&stored(name), &config(quantization, double)).unwrap();
        for (index, ids) in sequences(base).into_iter().enumerate() {
            let sequence = Sequences::from_lengths(&[ids.len()]).unwrap();
            let all: Vec<usize> = (0..ids.len()).collect();
            let logits = llama.logits_at(None, &ids, &sequence, &all).unwrap();
            let path = stored(name).join("logits.safetensors");
            let expected = floats(&bytes(&path, &format!("logits.{index}")));
            assert_eq!(logits.data().len(), expected.len());
            for (ours, theirs) in logits.data().iter().zip(&expected) {
                assert!((ours - theirs).abs() < 2e-5, "{name}: {ours} {theirs}");
            }
        }
    }
}

#[test]
fn tensors_are_given_dequantised() {
    let checkpoint = Checkpoint::open(&stored("int8")).unwrap();
    assert_eq!(
        checkpoint.stored_quantization(),
        Some(StoredQuantization::Int8)
    );
    let name = "model.layers.0.self_attn.q_proj.weight";
    let values = checkpoint.tensor(name, &[32, 32]).unwrap();
    let plain = Checkpoint::open(&golden().join("tiny_untied")).unwrap();
    let exact = plain.tensor(name, &[32, 32]).unwrap();
    for (row, exact) in values.chunks(32).zip(exact.chunks(32)) {
        let absmax = exact
            .iter()
            .fold(0.0_f32, |max, value| max.max(value.abs()));
        for (value, exact) in row.iter().zip(exact) {
            // Half a step, and what bf16 loses before that.
            assert!((value - exact).abs() <= absmax * (0.5 / 127.0 + 1.0 / 128.0));
        }
    }
}

#[test]
fn settings_that_contradict_the_checkpoint_are_refused() {
    let wrong = [
        ("nf4_double", Quantization::Int8, true, "model.quantization"),
        (
            "nf4_double",
            Quantization::Nf4,
            false,
            "model.double_quantization",
        ),
        ("int8", Quantization::None, true, "model.quantization"),
    ];
    for (name, quantization, double, key) in wrong {
        let error = load(&stored(name), &config(quantization, double))
            .err()
            .unwrap();
        assert!(
            matches!(error, ModelError::QuantizationMismatch { .. }),
            "{error}"
        );
        assert!(error.to_string().contains(key), "{error}");
        assert!(error.hint().unwrap().contains(key), "{error:?}");
    }
}

/// A copy of a stored model with one tensor changed, or removed where `change` returns `None`.
fn damaged(
    from: &str,
    tensor: &str,
    change: impl Fn(Dtype, Vec<usize>, Vec<u8>) -> Option<(Dtype, Vec<usize>, Vec<u8>)>,
) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (source, file) = (stored(from), "model.safetensors");
    fs::copy(
        source.join("config.json"),
        folder.path().join("config.json"),
    )
    .unwrap();
    let read = fs::read(source.join(file)).unwrap();
    let all = SafeTensors::deserialize(&read).unwrap();
    let mut tensors = Vec::new();
    for (name, view) in all.tensors() {
        let kept = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        let kept = match name == tensor {
            true => change(kept.0, kept.1, kept.2),
            false => Some(kept),
        };
        tensors.extend(kept.map(|kept| (name, kept)));
    }
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    fs::write(folder.path().join(file), bytes).unwrap();
    folder
}

#[test]
fn damaged_and_foreign_weights_are_refused_by_name() {
    let q = "model.layers.1.self_attn.q_proj";
    let state = format!("{q}.weight.quant_state.bitsandbytes__nf4");
    let said = |from: &str, folder: &tempfile::TempDir| {
        let (_, _, quantization, double) = STORED.into_iter().find(|it| it.0 == from).unwrap();
        load(folder.path(), &config(quantization, double))
            .err()
            .unwrap()
            .to_string()
    };
    let replaced = |old: &str, new: &str| {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(old, new);
        let folder = damaged("nf4_double", &state, |dtype, _, bytes| {
            let bytes = text(bytes).into_bytes();
            Some((dtype, vec![bytes.len()], bytes))
        });
        said("nf4_double", &folder)
    };
    let error = replaced("\"blocksize\": 64", "\"blocksize\": 128");
    assert!(error.contains("blocks of 128 values"), "{error}");
    let error = replaced("[32, 32]", "[16, 32]");
    assert!(error.contains("[16, 32], expected [32, 32]"), "{error}");
    let error = replaced("\"nested_blocksize\": 256, ", "");
    assert!(error.contains("`nested_blocksize`"), "{error}");
    let error = replaced("{", "");
    assert!(error.contains("quant_state"), "{error}");

    let changed = |from: &str, suffix: &str, change: fn(&mut Vec<u8>)| {
        let folder = damaged(from, &format!("{q}{suffix}"), |dtype, shape, mut bytes| {
            change(&mut bytes);
            let shape = match shape.len() {
                1 => vec![bytes.len() / (dtype.bitsize() / 8)],
                _ => shape,
            };
            Some((dtype, shape, bytes))
        });
        said(from, &folder)
    };
    let error = changed("nf4_double", ".weight.quant_map", |bytes| bytes[3] = 0);
    assert!(error.contains("other meanings"), "{error}");
    let error = changed("nf4_double", ".weight.nested_absmax", |bytes| {
        bytes.copy_from_slice(&f32::NAN.to_le_bytes());
    });
    assert!(error.contains("nested_absmax"), "{error}");
    let error = changed("nf4_mixed", ".weight.absmax", |bytes| {
        bytes.truncate(bytes.len() - 4);
    });
    assert!(error.contains("absmax"), "{error}");
    let format = format!("{q}.weight_format");
    for (number, name) in [
        (1, "`col32`"),
        (2, "`col_turing`"),
        (3, "`col_ampere`"),
        (4, "unknown order"),
    ] {
        let folder = damaged("int8", &format, |dtype, shape, mut bytes| {
            bytes[0] = number;
            Some((dtype, shape, bytes))
        });
        let error = said("int8", &folder);
        assert!(
            error.contains(name) && error.contains(&format!("(`{format}` = {number})")),
            "{error}"
        );
    }
    let error = changed("int8", ".SCB", |bytes| {
        bytes[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    });
    assert!(error.contains("SCB"), "{error}");

    let absmax = format!("{q}.weight.absmax");
    let folder = damaged("nf4_double", &absmax, |_, _, _| None);
    let error = said("nf4_double", &folder);
    assert!(error.contains(&format!("no tensor `{absmax}`")), "{error}");
}
