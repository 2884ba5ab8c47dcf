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
use rag_tune_model::generate::{Event, GenerateOptions, Generation, Sampling, generate};
use rag_tune_model::llama::Llama;
use rag_tune_model::lora::Projection;
use rag_tune_model::tokenizer::Tokenizer;
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

/// Prompts that begin with the same instruction, and how one is answered alone.
struct Asked {
    llama: Llama,
    tokenizer: Tokenizer,
    prompts: Vec<Vec<u32>>,
}

impl Asked {
    fn new(checkpoint: &Checkpoint, compute: Compute) -> Self {
        let tokenizer = checkpoint.tokenizer().unwrap();
        let questions = [
            "What is the capital of France?",
            "Name three colours.",
            "Write a sentence about a dog that likes to swim in the river near its house.",
            "What is 2 + 2?",
            "Say hello.",
        ];
        let ask = |question: &str| {
            let text = format!(
                "<|im_start|>system\nYou are a helpful assistant who answers in one line and without any further words.\
                 <|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
            );
            tokenizer.encode(&text).unwrap()
        };
        Self {
            llama: load(checkpoint, Quantization::Int8, compute),
            prompts: questions.into_iter().map(ask).collect(),
            tokenizer,
        }
    }

    /// What comes of some prompts, whose texts must come piece by piece.
    fn generate(&self, prompts: &[Vec<u32>], batch_size: usize, sampling: Sampling) -> Generation {
        let options = GenerateOptions {
            max_new_tokens: 24,
            batch_size,
            stop_texts: vec!["\n".to_owned()],
            sampling,
        };
        let mut seen = vec![(0, String::new()); prompts.len()];
        let mut on_event = |event: Event<'_>| match event {
            Event::Text { row, text } => seen[row].1 += text,
            Event::Done { row, .. } => seen[row].0 += 1,
        };
        let (llama, tokenizer) = (&self.llama, &self.tokenizer);
        let generated = generate(llama, None, tokenizer, prompts, &options, &mut on_event).unwrap();
        for ((finished, text), answer) in seen.iter().zip(&generated.answers) {
            assert_eq!((*finished, text), (1, answer));
        }
        generated
    }

    /// Each prompt's answer where no other is asked.
    fn alone(&self) -> Vec<String> {
        let prompts = self.prompts.iter().map(std::slice::from_ref);
        prompts
            .flat_map(|prompt| {
                let generated = self.generate(prompt, 1, Sampling::Greedy);
                assert_eq!(generated.shared_tokens, 0);
                generated.answers
            })
            .collect()
    }
}

#[test]
fn answers_are_those_of_single_rows_without_a_shared_prefix() {
    let Some(checkpoint) = checkpoint() else {
        return;
    };
    for compute in [Compute::F32, Compute::Bf16, Compute::Int8] {
        let asked = Asked::new(&checkpoint, compute);
        let alone = asked.alone();
        assert!(alone[0].contains("Paris"), "{}", alone[0]);
        assert!(
            alone
                .iter()
                .all(|answer| !answer.is_empty() && !answer.contains('\n'))
        );
        for batch_size in [1, 2, 3, 8] {
            let generated = asked.generate(&asked.prompts, batch_size, Sampling::Greedy);
            assert_eq!(
                generated.answers, alone,
                "{compute:?}, {batch_size} rows at a time"
            );
            let tokens: usize = asked.prompts.iter().map(Vec::len).sum();
            let shared = generated.shared_tokens;
            assert!(shared >= 20, "{shared}");
            assert_eq!(generated.prefilled_tokens, tokens - 4 * shared);
        }
    }
}

#[test]
fn sampled_answers_depend_on_the_seed_and_not_on_the_batch() {
    let Some(checkpoint) = checkpoint() else {
        return;
    };
    let asked = Asked::new(&checkpoint, Compute::Auto);
    let answers = |batch_size, top_p, seed| {
        let sampling = Sampling::Nucleus {
            temperature: 1.0,
            top_p,
            seed,
        };
        asked.generate(&asked.prompts, batch_size, sampling).answers
    };
    let first = answers(1, 0.9, 1);
    assert_eq!(answers(4, 0.9, 1), first);
    assert_ne!(answers(4, 0.9, 2), first);
    assert_eq!(
        answers(4, 1e-6, 1),
        asked.alone(),
        "a nucleus of one token is greedy"
    );
}
