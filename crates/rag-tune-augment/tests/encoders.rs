//! Local embedders against sentence-transformers and model2vec, on tiny models with random weights.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rag_tune_augment::embed::{self, Embedder};
use rag_tune_augment::{AugmentError, EmbedderCompute, Hub, RetrievalConfig};
use rag_tune_kernels::Compute;
use serde::Deserialize;
use serde_json::json;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn open(folder: &Path, prompt: &str) -> Result<Box<dyn Embedder>, AugmentError> {
    open_in(EmbedderCompute::F32, folder, prompt)
}

fn open_in(
    compute: EmbedderCompute,
    folder: &Path,
    prompt: &str,
) -> Result<Box<dyn Embedder>, AugmentError> {
    let config = RetrievalConfig {
        embedder: folder.to_str().unwrap().into(),
        embedder_prompt: prompt.into(),
        embedder_compute: compute,
        ..RetrievalConfig::default()
    };
    embed::open(&config, &Hub::from_env(None))
}

fn vectors(embedder: &dyn Embedder, texts: &[&str]) -> Vec<Vec<f32>> {
    let made = Mutex::new(vec![Vec::new(); texts.len()]);
    let done = |positions: &[usize], vectors: &embed::Embeddings| {
        let mut made = made.lock().unwrap();
        for (index, position) in positions.iter().enumerate() {
            assert!(made[*position].is_empty(), "each text once");
            made[*position] = vectors.row(index).to_vec();
        }
        Ok(())
    };
    embedder.embed(texts, &done).unwrap();
    made.into_inner().unwrap()
}

/// `golden.json`.
#[derive(Deserialize)]
struct Golden {
    texts: Vec<String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    model: String,
    prompt: String,
    vectors: Vec<Vec<f32>>,
}

fn check_golden(folder: &str, compute: EmbedderCompute, bound: f32) {
    let folder = fixtures().join(folder);
    let golden = std::fs::read_to_string(folder.join("golden.json")).unwrap();
    let golden: Golden = serde_json::from_str(&golden).unwrap();
    let texts: Vec<&str> = golden.texts.iter().map(String::as_str).collect();
    for case in &golden.cases {
        let embedder = open_in(compute, &folder.join(&case.model), &case.prompt).unwrap();
        let made = vectors(&*embedder, &texts);
        for ((text, made), expected) in texts.iter().zip(&made).zip(&case.vectors) {
            assert_eq!(made.len(), expected.len());
            let largest = made
                .iter()
                .zip(expected)
                .fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
            let Case { model, prompt, .. } = case;
            assert!(
                largest < bound,
                "{model} {prompt:?} {text:?} is off by {largest}: {made:?}"
            );
        }
    }
}

#[test]
fn every_family_and_pooling_equals_sentence_transformers() {
    check_golden("encoders", EmbedderCompute::F32, 1e-5);
    if Compute::Bf16.is_native() {
        // bf16 has 8 bits, and the vectors are of length 1.
        check_golden("encoders", EmbedderCompute::Bf16, 2e-2);
    }
}

#[test]
fn static_embeddings_equal_model2vec() {
    check_golden("static", EmbedderCompute::Auto, 1e-5);
}

#[test]
fn the_prompt_is_part_of_the_fingerprint() {
    let folder = fixtures().join("encoders/roberta");
    let fingerprint = |prompt| open(&folder, prompt).unwrap().fingerprint().to_owned();
    assert_eq!(fingerprint(""), fingerprint("query"), "its default");
    assert_ne!(fingerprint("query"), fingerprint("passage"));
    assert_eq!(
        fingerprint("passage"),
        fingerprint("passage: "),
        "by name or literally"
    );
}

/// Vectors of two precisions never meet in a cache or a store: both are found by the fingerprint.
#[test]
fn the_compute_is_part_of_the_fingerprint() {
    let folder = fixtures().join("encoders/bge");
    let fingerprint = |compute| {
        let embedder = open_in(compute, &folder, "").unwrap();
        embedder.fingerprint().to_owned()
    };
    let [auto, f32, bf16] = [
        EmbedderCompute::Auto,
        EmbedderCompute::F32,
        EmbedderCompute::Bf16,
    ]
    .map(fingerprint);
    assert_ne!(f32, bf16);
    let best = if Compute::Bf16.is_native() { bf16 } else { f32 };
    assert_eq!(auto, best);
}

#[test]
fn an_unknown_prompt_lists_those_there_are() {
    let error = open(&fixtures().join("encoders/roberta"), "nonsense")
        .err()
        .unwrap();
    assert!(
        error.to_string().contains("no prompt `nonsense`"),
        "{error}"
    );
    let hint = error.hint().unwrap();
    assert!(hint.contains("`passage`, `query`"), "{hint}");
    let error = open(&fixtures().join("static/float32"), "query: ")
        .err()
        .unwrap();
    assert!(error.hint().unwrap().starts_with("it has none"));
}

/// A copy of a fixture, which a test may break.
fn copy_of(model: &str) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let from = entry.unwrap().path();
            let to = to.join(from.file_name().unwrap());
            if from.is_dir() {
                copy(&from, &to);
            } else {
                std::fs::write(&to, std::fs::read(&from).unwrap()).unwrap();
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    copy(&fixtures().join(model), folder.path());
    folder
}

#[test]
fn every_file_that_matters_changes_the_fingerprint() {
    let original = open(&fixtures().join("encoders/dense"), "").unwrap();
    let changed = |file: &str, change: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        let folder = copy_of("encoders/dense");
        let path = folder.path().join(file);
        std::fs::write(&path, change(std::fs::read(&path).unwrap())).unwrap();
        open(folder.path(), "").unwrap().fingerprint() != original.fingerprint()
    };
    let last_byte = |mut bytes: Vec<u8>| {
        *bytes.last_mut().unwrap() ^= 1;
        bytes
    };
    assert!(changed("model.safetensors", &last_byte));
    assert!(changed("2_Dense/model.safetensors", &last_byte));
    let with = |from: &'static str, to: &'static str| {
        move |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).unwrap();
            assert!(text.contains(from), "{text}");
            text.replace(from, to).into_bytes()
        }
    };
    assert!(changed(
        "1_Pooling/config.json",
        &with("weightedmean", "max")
    ));
    assert!(changed("sentence_bert_config.json", &with("40", "30")));
    assert!(changed("config.json", &with("gelu_new", "gelu")));
    assert!(changed(
        "tokenizer.json",
        &with("\"version\"", " \"version\"")
    ));
    assert!(!changed("modules.json", &|bytes| bytes), "nothing changed");
}

#[test]
fn what_cannot_be_run_is_named() {
    let error_after = |model: &str, file: &str, contents: Option<&str>| {
        let folder = copy_of(model);
        let path = folder.path().join(file);
        match contents {
            Some(contents) => std::fs::write(&path, contents).unwrap(),
            None => std::fs::rename(&path, folder.path().join("pytorch_model.bin")).unwrap(),
        }
        let embedder = open(folder.path(), "");
        let error = embedder.and_then(|embedder| embedder.embed(&["a"], &|_, _| Ok(())));
        error.unwrap_err().to_string()
    };
    let pickled = error_after("encoders/bge", "model.safetensors", None);
    assert!(
        pickled.contains("`pytorch_model.bin`, which is not read"),
        "{pickled}"
    );
    let module =
        json!([{"path": "", "type": "a.Transformer"}, {"path": "1", "type": "a.WordWeights"}]);
    let module = error_after("encoders/bge", "modules.json", Some(&module.to_string()));
    assert!(
        module.contains("`a.WordWeights` (`1`) is not supported"),
        "{module}"
    );
    let pooling = json!({"pooling_mode": "attention"}).to_string();
    let pooling = error_after("encoders/bge", "1_Pooling/config.json", Some(&pooling));
    assert!(pooling.contains("its pooling is `attention`"), "{pooling}");
    let config = json!({"model_type": "t5"}).to_string();
    let config = error_after("encoders/bge", "config.json", Some(&config));
    assert!(config.contains("family `t5`"), "{config}");
    let damaged = error_after("encoders/bge", "model.safetensors", Some("damaged"));
    assert!(damaged.contains("model.safetensors` failed"), "{damaged}");

    // Another model's weights.
    let folder = copy_of("encoders/bge");
    let other = fixtures().join("encoders/distilbert/model.safetensors");
    std::fs::copy(other, folder.path().join("model.safetensors")).unwrap();
    let error = open(folder.path(), "")
        .unwrap()
        .embed(&["a"], &|_, _| Ok(()))
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("`embeddings.position_embeddings.weight` is [32, 24], expected [40, 24]"),
        "{error}"
    );
}

/// The beginning of a long text is all that the model sees, with and without white space in it.
#[test]
fn a_text_of_a_megabyte_costs_no_more_than_its_beginning() {
    for model in [
        "encoders/bge",
        "encoders/e5_multilingual",
        "encoders/roberta",
        "static/vocabulary_quantized",
    ] {
        let embedder = open(&fixtures().join(model), "").unwrap();
        let words = |count: usize| "word heads ".repeat(count);
        let started = Instant::now();
        let long = [
            words(100_000),
            format!("{}{}", words(1000), "x".repeat(1_000_000)),
        ];
        let of_long = vectors(&*embedder, &[&long[0], &long[1]]);
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "{model}: {:?}",
            started.elapsed()
        );
        let of_short = vectors(&*embedder, &[&words(1000)]);
        assert_eq!(
            of_long,
            [of_short[0].clone(), of_short[0].clone()],
            "{model}"
        );
    }
}
