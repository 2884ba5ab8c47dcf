//! 8-bit weights that outlive a start: in the cache of weights, and as a checkpoint of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rag_tune_kernels::Sequences;
use rag_tune_model::checkpoint::Checkpoint;
use rag_tune_model::config::{Compute, ModelConfig, Quantization};
use rag_tune_model::llama::{Llama, LoadStage, WeightCache};
use rag_tune_model::quantize::write_int8;

const MODELS: [&str; 3] = ["tiny_tied", "tiny_untied", "tiny_biases"];

fn golden(name: &str) -> PathBuf {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/golden");
    golden.join(name)
}

/// A copy of a tiny model that a test may change.
fn copied(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(golden(name).join(file), folder.path().join(file)).unwrap();
    }
    folder
}

fn config(compute: Compute) -> ModelConfig {
    ModelConfig {
        compute,
        ..ModelConfig::default()
    }
}

fn logits(model: &Llama) -> Vec<f32> {
    let ids = [1, 5, 7, 11, 90, 3];
    let sequences = Sequences::from_lengths(&[ids.len()]).unwrap();
    let logits = model.logits_at(None, &ids, &sequences, &[0, 5]).unwrap();
    logits.data().to_vec()
}

fn load_cached(model: &Path, folder: &Path, compute: Compute) -> (Llama, WeightCache) {
    let checkpoint = Checkpoint::open(model).unwrap();
    Llama::load_cached(&checkpoint, &config(compute), folder, &mut |_, _, _| ()).unwrap()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_second_start_maps_what_the_first_one_left() {
    for name in MODELS {
        let (model, cache) = (copied(name), tempfile::tempdir().unwrap());
        let folder = cache.path().join("weights");
        let mut stages = Vec::new();
        let checkpoint = Checkpoint::open(model.path()).unwrap();
        let bf16 = config(Compute::Bf16);
        let (first, outcome) =
            Llama::load_cached(&checkpoint, &bf16, &folder, &mut |stage, _, _| {
                stages.push(stage);
            })
            .unwrap();
        stages.dedup();
        assert_eq!(stages, [LoadStage::Loading, LoadStage::Writing]);
        let WeightCache::Written { path, bytes } = outcome else {
            panic!("{name}: {outcome:?}");
        };
        assert_eq!(fs::metadata(&path).unwrap().len(), bytes);
        assert_eq!(files(&folder), std::slice::from_ref(&path));

        // All that multiply 8-bit codes share them.
        for compute in [Compute::Bf16, Compute::Int8, Compute::LlmInt8] {
            let (second, outcome) = load_cached(model.path(), &folder, compute);
            assert!(matches!(outcome, WeightCache::Mapped(mapped) if mapped == path));
            let fresh = Llama::load(&checkpoint, &config(compute), &mut |_, _| ()).unwrap();
            assert_eq!(logits(&second), logits(&fresh), "{name} {compute:?}");
            assert_eq!(second.weight_bytes(), first.weight_bytes());
        }
    }
}

#[test]
fn weights_of_changed_files_are_quantised_again() {
    let (model, cache) = (copied("tiny_untied"), tempfile::tempdir().unwrap());
    let is_written = || {
        let (_, outcome) = load_cached(model.path(), cache.path(), Compute::Bf16);
        matches!(outcome, WeightCache::Written { .. })
    };
    assert!(is_written());
    assert!(!is_written());
    let weights = model.path().join("model.safetensors");
    let file = fs::File::options().write(true).open(&weights).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(9))
        .unwrap();
    assert!(is_written());
    assert!(!is_written());
    let config = model.path().join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("1e-05", "2e-05")).unwrap();
    assert!(is_written());
}

#[test]
fn a_damaged_file_is_written_anew() {
    let (model, cache) = (copied("tiny_tied"), tempfile::tempdir().unwrap());
    let (first, _) = load_cached(model.path(), cache.path(), Compute::Bf16);
    let path = files(cache.path()).remove(0);
    let bytes = fs::read(&path).unwrap();
    for damaged in [&bytes[..bytes.len() - 1], &bytes[..4], b"nonsense nonsense"] {
        fs::write(&path, damaged).unwrap();
        let (again, outcome) = load_cached(model.path(), cache.path(), Compute::Bf16);
        assert!(
            matches!(outcome, WeightCache::Written { .. }),
            "{outcome:?}"
        );
        assert_eq!(logits(&again), logits(&first));
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
}

#[test]
fn a_folder_that_takes_nothing_costs_no_model() {
    let (model, cache) = (copied("tiny_tied"), tempfile::tempdir().unwrap());
    let file = cache.path().join("file");
    fs::write(&file, "").unwrap();
    let (loaded, outcome) = load_cached(model.path(), &file, Compute::Bf16);
    assert!(
        matches!(outcome, WeightCache::NotWritten { .. }),
        "{outcome:?}"
    );
    assert!(logits(&loaded).iter().all(|logit| logit.is_finite()));
}

#[test]
fn weights_that_are_not_in_8_bit_panels_are_not_kept() {
    let (model, cache) = (copied("tiny_tied"), tempfile::tempdir().unwrap());
    let (_, outcome) = load_cached(model.path(), cache.path(), Compute::F32);
    assert!(matches!(outcome, WeightCache::Unused), "{outcome:?}");
    let checkpoint = Checkpoint::open(model.path()).unwrap();
    for quantization in [Quantization::None, Quantization::Nf4] {
        let config = ModelConfig {
            quantization,
            ..config(Compute::Bf16)
        };
        let loaded = Llama::load_cached(&checkpoint, &config, cache.path(), &mut |_, _, _| ());
        assert!(matches!(loaded.unwrap().1, WeightCache::Unused));
    }
    assert!(files(cache.path()).is_empty());
}

#[test]
fn a_quantised_checkpoint_is_the_model_that_loading_quantises() {
    for name in MODELS {
        let folder = tempfile::tempdir().unwrap();
        let source = Checkpoint::open(&golden(name)).unwrap();
        let mut last = (0, 0);
        let bytes = write_int8(folder.path(), &source, &mut |done, all| last = (done, all));
        assert!(bytes.unwrap() > 0 && last.0 == last.1 && last.0 > 0);
        let quantized = Checkpoint::open(folder.path()).unwrap();
        assert!(quantized.stored_quantization().is_some());
        for compute in [Compute::F32, Compute::Bf16] {
            let load = |from| Llama::load(from, &config(compute), &mut |_, _| ()).unwrap();
            assert_eq!(
                logits(&load(&quantized)),
                logits(&load(&source)),
                "{name} {compute:?}"
            );
        }
        let text = fs::read_to_string(folder.path().join("config.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["quantization_config"]["load_in_8bit"], true);
        assert_eq!(json["hidden_size"], 32);

        let again = write_int8(folder.path(), &quantized, &mut |_, _| ()).unwrap_err();
        assert!(again.to_string().contains("quantized already"), "{again}");
        assert!(again.hint().unwrap().contains("original model"));
    }
}

/// The codes of transformers' own folder of the same weights, in bf16.
#[test]
fn a_quantised_checkpoint_holds_the_bytes_that_transformers_stores() {
    let expected = fs::read(golden("bitsandbytes/int8/model.safetensors")).unwrap();
    let expected = safetensors::SafeTensors::deserialize(&expected).unwrap();
    let source = tempfile::tempdir().unwrap();
    let plain = fs::read(golden("tiny_untied/model.safetensors")).unwrap();
    let plain = safetensors::SafeTensors::deserialize(&plain).unwrap();
    // transformers had the model in bf16 before it quantised.
    let rounded: Vec<(String, Vec<usize>, Vec<u8>)> = plain
        .iter()
        .map(|(name, tensor)| {
            let values = tensor.data().as_chunks().0.iter();
            let bytes = values
                .flat_map(|bytes| half::bf16::from_f32(f32::from_le_bytes(*bytes)).to_le_bytes());
            (name.to_owned(), tensor.shape().to_vec(), bytes.collect())
        })
        .collect();
    let views = rounded.iter().map(|(name, shape, bytes)| {
        let bf16 = safetensors::Dtype::BF16;
        let view = safetensors::tensor::TensorView::new(bf16, shape.clone(), bytes).unwrap();
        (name.clone(), view)
    });
    let file = safetensors::serialize(views, None).unwrap();
    fs::write(source.path().join("model.safetensors"), file).unwrap();
    fs::copy(
        golden("tiny_untied/config.json"),
        source.path().join("config.json"),
    )
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::open(source.path()).unwrap();
    write_int8(folder.path(), &checkpoint, &mut |_, _| ()).unwrap();
    let written = fs::read(folder.path().join("model.safetensors")).unwrap();
    let written = safetensors::SafeTensors::deserialize(&written).unwrap();
    assert_eq!(written.len(), expected.len());
    for (name, tensor) in expected.iter() {
        let ours = written.tensor(name).unwrap();
        assert_eq!(
            (ours.dtype(), ours.shape()),
            (tensor.dtype(), tensor.shape()),
            "{name}"
        );
        assert!(ours.data() == tensor.data(), "{name}");
    }
}

#[test]
fn a_weight_that_cannot_be_quantised_is_named() {
    let model = copied("tiny_untied");
    let path = model.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let name = "model.layers.1.mlp.up_proj.weight";
    let start = {
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let data = file.tensor(name).unwrap().data().as_ptr() as usize;
        data - bytes.as_ptr() as usize
    };
    for (value, message) in [
        (f32::NAN, "1 values that are not finite"),
        (1e5, "magnitude 100000"),
    ] {
        bytes[start..start + 4].copy_from_slice(&value.to_le_bytes());
        fs::write(&path, &bytes).unwrap();
        let checkpoint = Checkpoint::open(model.path()).unwrap();
        let loaded = Llama::load(&checkpoint, &config(Compute::Bf16), &mut |_, _| ());
        let folder = tempfile::tempdir().unwrap();
        let written = write_int8(folder.path(), &checkpoint, &mut |_, _| ());
        for error in [loaded.err().unwrap(), written.unwrap_err()] {
            let text = error.to_string();
            assert!(text.contains(name) && text.contains(message), "{text}");
        }
    }
}
