//! SmolLM2-135M-Instruct from its GGUF: logits equal PyTorch's (`scripts/golden_llama.py`), and
//! generation does not depend on how many rows run at a time.
//!
//! Needs `RAG_TUNE_MIRROR` with the model's GGUF; scripts/fetch-models.sh fills one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rag_tune_kernels::Sequences;
use rag_tune_kernels::nf4::{Nf4, Scales};
use rag_tune_model::checkpoint::Checkpoint;
use rag_tune_model::config::{Compute, ModelConfig, Quantization};
use rag_tune_model::generate::{GenerateOptions, generate};
use rag_tune_model::llama::Llama;
use rag_tune_model::lora::Projection;
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// Logits of one position.
#[derive(Deserialize)]
struct Position {
    top_ids: Vec<usize>,
    top_logits: Vec<f32>,
    fixed_ids: Vec<usize>,
    fixed_logits: Vec<f32>,
}

/// A prompt and the logits of its last two positions.
#[derive(Deserialize)]
struct Prompt {
    name: String,
    text: String,
    ids: Vec<u32>,
    f32: Vec<Position>,
    int8: Vec<Position>,
}

#[expect(clippy::print_stderr, reason = "a test that checked nothing says so")]
fn checkpoint() -> Option<Checkpoint> {
    let mirror = std::env::var_os("RAG_TUNE_MIRROR").map(PathBuf::from);
    let folder = mirror.map(|mirror| mirror.join("models/HuggingFaceTB/SmolLM2-135M-Instruct"));
    let gguf = folder.map(|folder| folder.join("SmolLM2-135M-Instruct.Q4_1.gguf"));
    let Some(gguf) = gguf.filter(|gguf| gguf.is_file()) else {
        eprintln!("skipped: no mirror with the GGUF of SmolLM2-135M-Instruct");
        return None;
    };
    Some(Checkpoint::open(&gguf).unwrap())
}

fn load(checkpoint: &Checkpoint, quantization: Quantization, compute: Compute) -> Llama {
    let config = ModelConfig {
        quantization,
        compute,
        ..Default::default()
    };
    Llama::load(checkpoint, &config, &mut |_, _| ()).unwrap()
}

fn prompts() -> Vec<Prompt> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/golden/smollm2.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The largest difference from the golden logits, over all prompts.
fn error<'a>(
    llama: &Llama,
    prompts: &'a [Prompt],
    golden: impl Fn(&'a Prompt) -> &'a [Position],
) -> f32 {
    let mut largest = 0.0_f32;
    for prompt in prompts {
        let count = prompt.ids.len();
        let sequences = Sequences::from_lengths(&[count]).unwrap();
        let logits = llama
            .logits_at(None, &prompt.ids, &sequences, &[count - 2, count - 1])
            .unwrap();
        for (row, position) in golden(prompt).iter().enumerate() {
            let ids = position.top_ids.iter().chain(&position.fixed_ids);
            let values = position.top_logits.iter().chain(&position.fixed_logits);
            for (id, value) in ids.zip(values) {
                let difference = (logits.row(row)[*id] - value).abs();
                assert!(difference.is_finite(), "{}", prompt.name);
                largest = largest.max(difference);
            }
        }
    }
    largest
}

#[test]
fn logits_equal_pytorch() {
    let Some(checkpoint) = checkpoint() else {
        return;
    };
    let tokenizer = checkpoint.tokenizer().unwrap();
    let prompts = prompts();
    for prompt in &prompts {
        assert_eq!(
            tokenizer.encode(&prompt.text).unwrap(),
            prompt.ids,
            "{}",
            prompt.name
        );
    }
    // Logits reach 36. The first bounds allow for sums in another order only.
    let exact = error(
        &load(&checkpoint, Quantization::None, Compute::F32),
        &prompts,
        |prompt| &prompt.f32,
    );
    assert!(exact < 2e-3, "f32: {exact}");
    let int8 = error(
        &load(&checkpoint, Quantization::Int8, Compute::F32),
        &prompts,
        |prompt| &prompt.int8,
    );
    assert!(int8 < 2e-3, "int8 weights, f32 compute: {int8}");
    if rag_tune_kernels::Compute::Bf16.is_native() {
        let bf16 = error(
            &load(&checkpoint, Quantization::Int8, Compute::Bf16),
            &prompts,
            |prompt| &prompt.int8,
        );
        assert!(bf16 < 1.0, "int8 weights, bf16 compute: {bf16}");
    }
}

/// `smollm2_nf4.json`
#[derive(Deserialize)]
struct Nf4Golden {
    /// Of the prompts of the same names.
    logits: BTreeMap<String, Vec<Position>>,
    /// Of each block linear's bytes.
    sha256: BTreeMap<String, String>,
}

impl Nf4Golden {
    fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/fixtures/golden/smollm2_nf4.json");
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }
}

#[test]
fn nf4_bytes_equal_those_of_bitsandbytes() {
    let Some(checkpoint) = checkpoint() else {
        return;
    };
    let golden = Nf4Golden::read().sha256;
    let mut checked = 0;
    for layer in 0..checkpoint.config().num_hidden_layers {
        for projection in Projection::ALL {
            let name = format!("model.layers.{layer}.{}.weight", projection.path());
            let shape = projection.shape(checkpoint.config());
            let values = checkpoint.tensor(&name, &shape).unwrap();
            let weights = Nf4::quantize_double(&values);
            let Scales::Double { codes, offset } = &weights.scales else {
                unreachable!("quantised twice")
            };
            let mut hash = Sha256::new();
            hash.update(&weights.codes);
            hash.update(&codes.codes);
            for scale in codes.absmax.iter().chain([offset]) {
                hash.update(scale.to_le_bytes());
            }
            let digest: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(golden[&name], digest, "{name}");
            checked += 1;
        }
    }
    assert_eq!(checked, 210);
}

#[test]
fn nf4_logits_equal_those_of_bitsandbytes() {
    let Some(checkpoint) = checkpoint() else {
        return;
    };
    let (prompts, golden) = (prompts(), Nf4Golden::read());
    let of = |compute| {
        let llama = load(&checkpoint, Quantization::Nf4, compute);
        error(&llama, &prompts, |prompt| &golden.logits[&prompt.name])
    };
    // Logits reach 36; sums in another order only.
    let exact = of(Compute::F32);
    assert!(exact < 1e-4, "nf4 weights, f32 compute: {exact}");
    if rag_tune_kernels::Compute::Bf16.is_native() {
        let bf16 = of(Compute::Bf16);
        assert!(bf16 < 1.0, "nf4 weights, bf16 compute: {bf16}");
    }
}

#[test]
fn batched_and_single_answers_are_identical() {
    let Some(checkpoint) = checkpoint() else {
        return;
    };
    let llama = load(&checkpoint, Quantization::Int8, Compute::Auto);
    let tokenizer = checkpoint.tokenizer().unwrap();
    let ask = |question: &str| {
        let text = format!("<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n");
        tokenizer.encode(&text).unwrap()
    };
    let questions = [
        "What is the capital of France?",
        "Name three colours.",
        "Write a sentence about a dog that likes to swim in the river near its house.",
        "What is 2 + 2?",
        "Say hello.",
    ];
    let prompts: Vec<_> = questions.into_iter().map(ask).collect();
    let answers = |batch_size| {
        let options = GenerateOptions {
            max_new_tokens: 24,
            batch_size,
            stop_text: Some("\n".to_owned()),
        };
        let mut seen = vec![0; prompts.len()];
        let mut on_done = |row: usize, _: &str| seen[row] += 1;
        let answers = generate(&llama, None, &tokenizer, &prompts, &options, &mut on_done).unwrap();
        assert_eq!(seen, [1; 5], "every row is finished once");
        answers
    };
    let single = answers(1);
    assert_eq!(single[0], "The capital of France is Paris.");
    assert!(
        single
            .iter()
            .all(|answer| !answer.is_empty() && !answer.contains('\n'))
    );
    for batch_size in [2, 3, 8] {
        assert_eq!(answers(batch_size), single, "{batch_size} rows at a time");
    }
}
