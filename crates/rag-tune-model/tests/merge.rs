//! A merged model is the adapter applied, and what PEFT's `merge_and_unload` makes (`scripts/golden_lora_variants.py`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use rag_tune_kernels::{Sequences, Tensor};
use rag_tune_model::checkpoint::Checkpoint;
use rag_tune_model::config::{Compute, ModelConfig, Quantization};
use rag_tune_model::drift::{Outcome, Row};
use rag_tune_model::error::ModelError;
use rag_tune_model::interchange::ExportDtype;
use rag_tune_model::llama::Llama;
use rag_tune_model::lora::{Adapter, Projection};
use rag_tune_model::lora_settings::LoraSettings;
use rag_tune_model::merge::{Merge, write_gguf, write_merged};
use rag_tune_model::peft;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

const VARIANTS: [&str; 5] = [
    "plain",
    "rslora",
    "patterns",
    "dora",
    "dora_rslora_patterns",
];
const QUANTIZATIONS: [Quantization; 3] =
    [Quantization::None, Quantization::Int8, Quantization::Nf4];
const IDS: [u32; 9] = [1, 17, 95, 3, 40, 40, 8, 66, 2];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/golden")
}

fn tiny(name: &str) -> Checkpoint {
    Checkpoint::open(&golden().join(name)).unwrap()
}

fn variant(name: &str, checkpoint: &Checkpoint) -> Adapter {
    let folder = golden().join("lora_variants").join(name).join("adapter");
    peft::load(&folder, checkpoint.config()).unwrap()
}

fn held(quantization: Quantization) -> ModelConfig {
    ModelConfig {
        quantization,
        compute: Compute::F32,
        ..Default::default()
    }
}

fn logits(checkpoint: &Checkpoint, held: &ModelConfig, adapter: Option<&Adapter>) -> Tensor {
    let model = Llama::load(checkpoint, held, &mut |_, _| ()).unwrap();
    let sequences = Sequences::from_lengths(&[IDS.len()]).unwrap();
    let positions: Vec<usize> = (0..IDS.len()).collect();
    model
        .logits_at(adapter, &IDS, &sequences, &positions)
        .unwrap()
}

fn max_error(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len());
    let pairs = left.iter().zip(right);
    pairs.map(|(l, r)| (l - r).abs()).fold(0.0, f32::max)
}

/// The merged checkpoint, in a folder that goes with the first value.
fn merged(
    base: &Checkpoint,
    adapter: &Adapter,
    held: &ModelConfig,
) -> (tempfile::TempDir, Checkpoint) {
    let folder = tempfile::tempdir().unwrap();
    let config = base.path().join("config.json");
    fs::copy(config, folder.path().join("config.json")).unwrap();
    let merge = Merge {
        base,
        adapter,
        held,
    };
    write_merged(folder.path(), merge, None, &mut |_, _| ()).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    (folder, checkpoint)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let values = bytes.as_chunks::<4>().0.iter();
    values.map(|value| f32::from_le_bytes(*value)).collect()
}

#[test]
fn merged_equals_adapter_applied() {
    let base = tiny("tiny_untied");
    for quantization in QUANTIZATIONS {
        let held = held(quantization);
        for name in VARIANTS {
            let adapter = variant(name, &base);
            let (_folder, merged) = merged(&base, &adapter, &held);
            let applied = logits(&base, &held, Some(&adapter));
            let without = logits(&base, &held, None);
            let ours = logits(&merged, &self::held(Quantization::None), None);
            let error = max_error(ours.data(), applied.data());
            assert!(error < 2e-5, "{name}, {quantization:?}: {error}");
            let effect = max_error(without.data(), applied.data());
            assert!(effect > 0.1, "{name}: an adapter that does nothing");
        }
    }
}

/// A DoRA adapter rescales a weight and not its bias; the biases are the base's.
#[test]
fn a_model_with_biases_is_merged_as_it_is_adapted() {
    let base = tiny("tiny_biases");
    let adapter = peft::load(&golden().join("tiny_biases/adapter"), base.config()).unwrap();
    for quantization in QUANTIZATIONS {
        let held = held(quantization);
        let (folder, merged) = merged(&base, &adapter, &held);
        let applied = logits(&base, &held, Some(&adapter));
        let ours = logits(&merged, &self::held(Quantization::None), None);
        let error = max_error(ours.data(), applied.data());
        assert!(error < 2e-5, "{quantization:?}: {error}");
        let rows = [Row {
            ids: IDS.to_vec(),
            first: 1,
        }];
        let outcome = |checkpoint, held, adapter| {
            Outcome::of(checkpoint, held, adapter, &rows, &mut |_, _| ()).unwrap()
        };
        let of_adapter = outcome(&base, &held, Some(&adapter));
        let of_merged = outcome(&merged, &self::held(Quantization::None), None);
        let drift = of_merged.drift_from(&of_adapter).unwrap();
        assert!(drift.max_abs_logit_difference < 2e-5, "{drift:?}");

        let before = fs::read(base.path().join("model.safetensors")).unwrap();
        let after = fs::read(folder.path().join("model.safetensors")).unwrap();
        let before = SafeTensors::deserialize(&before).unwrap();
        let after = SafeTensors::deserialize(&after).unwrap();
        let mut biases = 0;
        for (name, view) in before.iter().filter(|(name, _)| name.ends_with(".bias")) {
            assert_eq!(view.data(), after.tensor(name).unwrap().data(), "{name}");
            biases += 1;
        }
        assert_eq!(biases, 2 * Projection::ALL.len());
    }
}

#[test]
fn merged_weights_equal_those_of_peft() {
    let base = tiny("tiny_untied");
    for name in VARIANTS {
        let (folder, _) = merged(&base, &variant(name, &base), &held(Quantization::None));
        let ours = fs::read(folder.path().join("model.safetensors")).unwrap();
        let ours = SafeTensors::deserialize(&ours).unwrap();
        let path = golden().join(format!("lora_variants/{name}/merged.safetensors"));
        let theirs = fs::read(path).unwrap();
        let theirs = SafeTensors::deserialize(&theirs).unwrap();
        assert_eq!(theirs.len(), 2 * Projection::ALL.len());
        for (tensor, view) in theirs.iter() {
            let weight = ours.tensor(tensor).unwrap();
            let width = weight.shape()[1];
            let values = floats(weight.data());
            // The script keeps every eighth row.
            let rows: Vec<f32> = values.chunks(width).step_by(8).flatten().copied().collect();
            let error = max_error(&rows, &floats(view.data()));
            assert!(error < 1e-6, "{name}, {tensor}: {error}");
        }
    }
}

/// Everything else in the file is the base's, byte for byte.
#[test]
fn only_adapted_weights_change() {
    let base = tiny("tiny_tied");
    let settings = LoraSettings::uniform(2, 4.0, [Projection::V]);
    let mut adapter = Adapter::new(base.config(), settings, 1);
    for lora in adapter.layers.values_mut() {
        lora.b.data_mut().fill(0.1);
    }
    let (folder, _) = merged(&base, &adapter, &held(Quantization::None));
    let before = fs::read(base.path().join("model.safetensors")).unwrap();
    let after = fs::read(folder.path().join("model.safetensors")).unwrap();
    let before = SafeTensors::deserialize(&before).unwrap();
    let after = SafeTensors::deserialize(&after).unwrap();
    assert_eq!(before.names().len(), after.names().len());
    for (name, view) in before.iter() {
        let other = after.tensor(name).unwrap();
        assert_eq!(view.shape(), other.shape());
        assert_eq!(
            view.data() != other.data(),
            name.contains("v_proj"),
            "{name}"
        );
    }
}

/// Copies a checkpoint as `dtype`, spread over two files.
fn write_shards(base: &Checkpoint, folder: &Path, dtype: Dtype) {
    let bytes = fs::read(base.path().join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut shards = [BTreeMap::new(), BTreeMap::new()];
    for (index, (name, view)) in tensors.iter().enumerate() {
        let values = floats(view.data()).into_iter();
        let bytes: Vec<u8> = match dtype {
            Dtype::BF16 => values
                .flat_map(|value| bf16::from_f32(value).to_le_bytes())
                .collect(),
            Dtype::F16 => values
                .flat_map(|value| f16::from_f32(value).to_le_bytes())
                .collect(),
            _ => view.data().to_vec(),
        };
        shards[index % 2].insert(name.to_owned(), (view.shape().to_vec(), bytes));
    }
    let mut weight_map = BTreeMap::new();
    for (index, shard) in shards.iter().enumerate() {
        let file = format!("model-0000{}-of-00002.safetensors", index + 1);
        let views = shard.iter().map(|(name, (shape, bytes))| {
            (name, TensorView::new(dtype, shape.clone(), bytes).unwrap())
        });
        safetensors::serialize_to_file(views, None, &folder.join(&file)).unwrap();
        weight_map.extend(shard.keys().map(|name| (name.clone(), file.clone())));
    }
    let index = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": weight_map});
    fs::write(
        folder.join("model.safetensors.index.json"),
        index.to_string(),
    )
    .unwrap();
    fs::copy(base.path().join("config.json"), folder.join("config.json")).unwrap();
}

/// One rounding, of the exact sum, to the nearest; the files, headers and index are those of the base.
#[test]
fn shards_keep_their_type_and_are_rounded_once() {
    let tiny = tiny("tiny_untied");
    let adapter = variant("dora_rslora_patterns", &tiny);
    for dtype in [Dtype::BF16, Dtype::F16] {
        let folder = tempfile::tempdir().unwrap();
        write_shards(&tiny, folder.path(), dtype);
        let base = Checkpoint::open(folder.path()).unwrap();
        let (written, rounded) = merged(&base, &adapter, &held(Quantization::None));
        // The tiny model's weights are exact in both types.
        let (_exact_folder, exact) = merged(&tiny, &adapter, &held(Quantization::None));
        for projection in Projection::ALL {
            let name = format!("model.layers.1.{}.weight", projection.path());
            let shape = projection.shape(tiny.config());
            let expected = exact.tensor(&name, &shape).unwrap().into_iter();
            let expected: Vec<f32> = match dtype {
                Dtype::BF16 => expected
                    .map(|value| bf16::from_f32(value).to_f32())
                    .collect(),
                _ => expected
                    .map(|value| f16::from_f32(value).to_f32())
                    .collect(),
            };
            assert_eq!(rounded.tensor(&name, &shape).unwrap(), expected, "{name}");
        }
        for name in [
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        ] {
            let bytes = |folder: &Path| fs::read(folder.join(name)).unwrap();
            let (before, after) = (bytes(folder.path()), bytes(written.path()));
            assert_eq!(before.len(), after.len());
            let (header, _) = SafeTensors::read_metadata(&before).unwrap();
            assert_eq!(before[..header + 8], after[..header + 8]);
        }
        let index = "model.safetensors.index.json";
        let read = |folder: &Path| fs::read(folder.join(index)).unwrap();
        assert_eq!(read(folder.path()), read(written.path()));
    }
}

#[test]
fn what_cannot_be_merged_is_refused_by_name() {
    let base = tiny("tiny_untied");
    let folder = tempfile::tempdir().unwrap();
    let merge = |base: &Checkpoint, adapter: &Adapter| {
        let merge = Merge {
            base,
            adapter,
            held: &held(Quantization::None),
        };
        write_merged(folder.path(), merge, None, &mut |_, _| ()).unwrap_err()
    };
    let mut adapter = variant("plain", &base);
    let lora = adapter.layers.get_mut(&(1, Projection::Up)).unwrap();
    lora.b.data_mut()[0] = f32::NAN;
    let error = merge(&base, &adapter).to_string();
    assert!(
        error.contains("`model.layers.1.mlp.up_proj.weight`"),
        "{error}"
    );

    // An update of another model.
    let mut other = base.config().clone();
    other.hidden_size *= 2;
    let settings = LoraSettings::uniform(2, 4.0, [Projection::Q]);
    let error = merge(&base, &Adapter::new(&other, settings.clone(), 1)).to_string();
    assert!(error.contains("for a weight of [32, 32]"), "{error}");
    let mut deeper = base.config().clone();
    deeper.num_hidden_layers = 3;
    let error = merge(&base, &Adapter::new(&deeper, settings, 1));
    assert!(
        matches!(&error, ModelError::MissingTensor { name, .. } if name.contains("layers.2")),
        "{error}"
    );
}

/// Block by block is the same model.
#[test]
fn drift_is_measured_on_the_models_own_logits() {
    let base = tiny("tiny_untied");
    let adapter = variant("dora_rslora_patterns", &base);
    let rows = [
        Row {
            ids: IDS.to_vec(),
            first: 1,
        },
        Row {
            ids: IDS[..5].to_vec(),
            first: 4,
        },
    ];
    let outcome = |quantization, adapter| {
        Outcome::of(&base, &held(quantization), adapter, &rows, &mut |_, _| ()).unwrap()
    };
    let int8 = outcome(Quantization::Int8, Some(&adapter));
    let exact = outcome(Quantization::None, Some(&adapter));
    let drift = exact.drift_from(&int8).unwrap();
    assert_eq!(exact.positions(), 8 + 1);

    let of_exact = logits(&base, &held(Quantization::None), Some(&adapter));
    let of_int8 = logits(&base, &held(Quantization::Int8), Some(&adapter));
    // The second row is the beginning of the first, so its one position is there too: the fourth.
    let positions = (0..8).chain([3]);
    let mut mean = 0.0;
    let (mut max, mut loss) = (0.0_f64, 0.0);
    for position in positions.clone() {
        let (ours, theirs) = (of_exact.row(position), of_int8.row(position));
        for (a, b) in ours.iter().zip(theirs) {
            let difference = f64::from((a - b).abs());
            mean += difference / (9.0 * ours.len() as f64);
            max = max.max(difference);
        }
        let sum: f64 = ours.iter().map(|logit| f64::from(*logit).exp()).sum();
        loss += (sum.ln() - f64::from(ours[IDS[position + 1] as usize])) / 9.0;
    }
    assert!((drift.mean_abs_logit_difference - mean).abs() < 1e-6);
    assert!((drift.max_abs_logit_difference - max).abs() < 1e-5);
    assert!((exact.loss().unwrap() - loss).abs() < 1e-5);
    assert!(drift.kl_nats > 0.0 && drift.kl_nats <= drift.max_kl_nats);

    let same = exact.drift_from(&exact).unwrap();
    assert_eq!(same.max_abs_logit_difference, 0.0);
    assert_eq!(same.equal_argmax, 1.0);

    let empty = [Row {
        ids: vec![1, 2],
        first: 2,
    }];
    let error = Outcome::of(
        &base,
        &held(Quantization::None),
        None,
        &empty,
        &mut |_, _| (),
    );
    assert!(error.is_err());
}

fn write_q8_0(base: &Checkpoint, adapter: &Adapter, folder: &Path) -> PathBuf {
    let path = folder.join("merged.gguf");
    let merge = Merge {
        base,
        adapter,
        held: &held(Quantization::None),
    };
    let mut seen = 0;
    let bytes = write_gguf(&path, merge, "tiny", &mut |done, total| {
        assert!(done <= total);
        seen = done;
    });
    assert_eq!(bytes.unwrap(), fs::metadata(&path).unwrap().len());
    assert!(seen > 2 * Projection::ALL.len());
    path
}

/// A vocabulary for the tiny models, which have none.
fn with_tokenizer(base: &Checkpoint) -> (tempfile::TempDir, Checkpoint) {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(base.path().join(file), folder.path().join(file)).unwrap();
    }
    let vocab: BTreeMap<String, u32> = ('!'..='~')
        .zip(0..)
        .map(|(symbol, id)| (symbol.to_string(), id))
        .collect();
    let tokenizer = serde_json::json!({
        "added_tokens": [],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    let names = serde_json::json!({"eos_token": "!"});
    fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(
        folder.path().join("tokenizer_config.json"),
        names.to_string(),
    )
    .unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    (folder, checkpoint)
}

/// Every weight of the GGUF is the merged one, rounded once to Q8_0 (f16 where a row is no whole number of blocks): biases,
/// grouped heads, both kinds of RoPE scaling, tied and untied.
#[test]
fn a_gguf_holds_the_merged_weights_in_q8_0() {
    for name in ["tiny_tied", "tiny_untied", "tiny_biases", "tiny_llama3"] {
        let (_base_folder, base) = with_tokenizer(&tiny(name));
        let adapter = peft::load(&golden().join(name).join("adapter"), base.config()).unwrap();
        let (_folder, merged) = merged(&base, &adapter, &held(Quantization::None));
        let folder = tempfile::tempdir().unwrap();
        let gguf = Checkpoint::open(&write_q8_0(&base, &adapter, folder.path())).unwrap();
        let config = base.config();
        assert!(gguf.config().has_shapes_of(config), "{name}");
        let tied = [gguf.config(), config].map(|config| config.tie_word_embeddings);
        assert_eq!(tied[0], tied[1], "{name}");
        assert_eq!(gguf.config().eos_token_ids[0], 0);
        for (read, own) in gguf
            .config()
            .rope_frequencies()
            .iter()
            .zip(config.rope_frequencies())
        {
            assert!((read / own - 1.0).abs() < 1e-6, "{name}: {read} {own}");
        }

        let vocab = [config.vocab_size, config.hidden_size];
        let hidden = vec![config.hidden_size];
        let mut tensors = vec![
            ("model.embed_tokens.weight".to_owned(), vocab.to_vec()),
            ("model.norm.weight".to_owned(), hidden.clone()),
            ("model.layers.1.input_layernorm.weight".to_owned(), hidden),
        ];
        for projection in Projection::ALL {
            let module = format!("model.layers.1.{}", projection.path());
            let shape = projection.shape(config).to_vec();
            if config.has_bias(projection) {
                tensors.push((format!("{module}.bias"), shape[..1].to_vec()));
            }
            tensors.push((format!("{module}.weight"), shape));
        }
        for (tensor, shape) in tensors {
            let exact = merged.tensor(&tensor, &shape).unwrap();
            let read = gguf.tensor(&tensor, &shape).unwrap();
            let error = max_error(&read, &exact);
            if shape.len() == 1 {
                assert_eq!(error, 0.0, "{name}, {tensor}");
                continue;
            }
            let largest = exact
                .iter()
                .fold(0.0, |max: f32, value| max.max(value.abs()));
            assert!(error <= 0.57 * largest / 127.0, "{name}, {tensor}: {error}");
            let is_f16 = shape[1] % 32 != 0;
            assert!(error > 0.0 || is_f16, "{name}, {tensor} is not rounded");
        }
    }
}

/// What rounding to 8 bits does to the logits, and no more: a wrong order of rows or a wrong scaling would be of the logits' own size.
#[test]
fn a_gguf_answers_as_the_merged_model() {
    for name in ["tiny_untied", "tiny_biases", "tiny_llama3"] {
        let (_base_folder, base) = with_tokenizer(&tiny(name));
        let adapter = peft::load(&golden().join(name).join("adapter"), base.config()).unwrap();
        let (_folder, merged) = merged(&base, &adapter, &held(Quantization::None));
        let folder = tempfile::tempdir().unwrap();
        let gguf = Checkpoint::open(&write_q8_0(&base, &adapter, folder.path())).unwrap();
        let plain = held(Quantization::None);
        let exact = logits(&merged, &plain, None);
        let rounded = logits(&gguf, &plain, None);
        let without = logits(&base, &plain, None);
        let error = max_error(rounded.data(), exact.data());
        let effect = max_error(without.data(), exact.data());
        assert!(error < 0.1 * effect, "{name}: {error} of {effect}");
    }
}

/// A base in another type, or one that somebody has quantised, is written in the type that is asked for.
#[test]
fn a_merged_model_is_written_in_the_type_that_is_asked_for() {
    let tiny = tiny("tiny_untied");
    let adapter = variant("dora_rslora_patterns", &tiny);
    let (_exact_folder, exact) = merged(&tiny, &adapter, &held(Quantization::None));
    let sharded = tempfile::tempdir().unwrap();
    write_shards(&tiny, sharded.path(), Dtype::F16);
    let sharded = Checkpoint::open(sharded.path()).unwrap();
    let (_base_folder, with_words) = with_tokenizer(&tiny);
    let gguf_folder = tempfile::tempdir().unwrap();
    let nothing = Adapter::new(
        tiny.config(),
        LoraSettings::uniform(1, 1.0, [Projection::V]),
        1,
    );
    let gguf = Checkpoint::open(&write_q8_0(&with_words, &nothing, gguf_folder.path())).unwrap();
    for (base, wanted, expected) in [
        (&tiny, Some(ExportDtype::Bf16), "bfloat16"),
        (&tiny, Some(ExportDtype::F16), "float16"),
        (&sharded, Some(ExportDtype::F32), "float32"),
        (&sharded, Some(ExportDtype::Bf16), "bfloat16"),
        (&gguf, None, "bfloat16"),
        (&gguf, Some(ExportDtype::F32), "float32"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let merge = Merge {
            base,
            adapter: &adapter,
            held: &held(Quantization::None),
        };
        write_merged(folder.path(), merge, wanted, &mut |_, _| ()).unwrap();
        let config = fs::read_to_string(folder.path().join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        let stated = config.get("dtype").unwrap_or(&config["torch_dtype"]);
        assert_eq!(stated, expected);
        let merged = Checkpoint::open(folder.path()).unwrap();
        assert!(merged.config().has_shapes_of(tiny.config()));
        // 2^-9 of the largest, or half a step of Q8_0 before that.
        let step = match base.path() == gguf.path() {
            true => 1.0 / 127.0,
            false => 1.0 / 256.0,
        };
        for projection in Projection::ALL {
            let name = format!("model.layers.1.{}.weight", projection.path());
            let shape = projection.shape(tiny.config());
            let (read, exact) = (merged.tensor(&name, &shape), exact.tensor(&name, &shape));
            let (read, exact) = (read.unwrap(), exact.unwrap());
            let largest = exact
                .iter()
                .fold(0.0, |max: f32, value| max.max(value.abs()));
            let error = max_error(&read, &exact);
            // DoRA divides by the length of a rounded row: twice the step is room enough.
            assert!(error <= 2.0 * step * largest, "{expected}, {name}: {error}");
        }
    }
}

/// Weights that bitsandbytes has quantised are dequantised, and the update is added to that.
#[test]
fn a_base_of_bitsandbytes_is_merged_dequantised() {
    for (name, quantization) in [
        ("int8", Quantization::Int8),
        ("nf4_double", Quantization::Nf4),
    ] {
        let base = Checkpoint::open(&golden().join("bitsandbytes").join(name)).unwrap();
        let settings = LoraSettings::uniform(2, 4.0, Projection::ALL);
        let mut adapter = Adapter::new(base.config(), settings, 1);
        for lora in adapter.layers.values_mut() {
            lora.b.data_mut().fill(0.05);
        }
        let folder = tempfile::tempdir().unwrap();
        let held = held(quantization);
        let merge = Merge {
            base: &base,
            adapter: &adapter,
            held: &held,
        };
        write_merged(folder.path(), merge, Some(ExportDtype::F32), &mut |_, _| ()).unwrap();
        let merged = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(merged.stored_quantization(), None);
        let ours = logits(&merged, &self::held(Quantization::None), None);
        let applied = logits(&base, &held, Some(&adapter));
        let without = logits(&base, &held, None);
        let effect = max_error(without.data(), applied.data());
        let error = max_error(ours.data(), applied.data());
        assert!(error < 1e-2 * effect, "{name}: {error} of {effect}");
    }
}

/// One base in memory, several adapters: each answers as on a base of its own, and as merged into the weights it was
/// put over.
#[test]
fn adapters_share_a_base_without_reloading_it() {
    let base = tiny("tiny_untied");
    for quantization in QUANTIZATIONS {
        let held = held(quantization);
        let shared = Llama::load(&base, &held, &mut |_, _| ()).unwrap();
        let sequences = Sequences::from_lengths(&[IDS.len()]).unwrap();
        let positions: Vec<usize> = (0..IDS.len()).collect();
        let on_shared = |adapter: Option<&Adapter>| {
            shared
                .logits_at(adapter, &IDS, &sequences, &positions)
                .unwrap()
        };
        let without = on_shared(None);
        let mut outputs: Vec<Tensor> = Vec::new();
        for name in VARIANTS {
            let adapter = variant(name, &base);
            let ours = on_shared(Some(&adapter));
            let alone = logits(&base, &held, Some(&adapter));
            assert!(ours.data() == alone.data(), "{name}: not as alone");
            let (_folder, merged) = merged(&base, &adapter, &held);
            let of_merged = logits(&merged, &self::held(Quantization::None), None);
            assert!(max_error(ours.data(), of_merged.data()) < 2e-5, "{name}");
            assert!(
                outputs.iter().all(|other| other.data() != ours.data()),
                "{name}: another's answer"
            );
            outputs.push(ours);
        }
        assert!(on_shared(None).data() == without.data(), "the base changed");
    }
}
