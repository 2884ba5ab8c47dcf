//! Two runs with the same seed give the same bytes, whatever the number of threads.

#![allow(clippy::print_stdout, reason = "tells what is skipped")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rag_tune_model::config::{Compute, Quantization};
use rag_tune_model::lora::Projection;
use rag_tune_model::tokenizer::EncodedRow;
use rag_tune_train::config::{OptimizerKind, Targets};
use rag_tune_train::trainer::Start;
use safetensors::tensor::{Dtype, TensorView};
use support::{TinyRun, adapter_bytes, load, timeless_metrics};

const VOCABULARY: usize = 1000;
const HIDDEN: usize = 256;
const INTERMEDIATE: usize = 704;

/// A model with random weights, large enough that every kernel splits its work: an activation of 512
/// tokens has 131072 values, four times what one task takes.
fn write_medium_model(folder: &Path) {
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": VOCABULARY,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 512,
        "tie_word_embeddings": false,
        "bos_token_id": 1,
        "eos_token_id": 2,
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut state = 7_u64;
    let mut tensors = BTreeMap::new();
    let mut add = |name: String, shape: &[usize]| {
        let count: usize = shape.iter().product();
        let value = |_| {
            // Knuth's MMIX generator; norms near 1, matrices small.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let uniform = (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0;
            if shape.len() == 1 {
                1.0 + 0.1 * uniform
            } else {
                0.08 * uniform
            }
        };
        let bytes: Vec<u8> = (0..count).map(value).flat_map(f32::to_le_bytes).collect();
        tensors.insert(name, (shape.to_vec(), bytes));
    };
    add(
        "model.embed_tokens.weight".to_owned(),
        &[VOCABULARY, HIDDEN],
    );
    add("lm_head.weight".to_owned(), &[VOCABULARY, HIDDEN]);
    add("model.norm.weight".to_owned(), &[HIDDEN]);
    for layer in 0..2 {
        let shapes = [
            ("input_layernorm", &[HIDDEN][..]),
            ("post_attention_layernorm", &[HIDDEN]),
            ("self_attn.q_proj", &[HIDDEN, HIDDEN]),
            ("self_attn.k_proj", &[HIDDEN / 2, HIDDEN]),
            ("self_attn.v_proj", &[HIDDEN / 2, HIDDEN]),
            ("self_attn.o_proj", &[HIDDEN, HIDDEN]),
            ("mlp.gate_proj", &[INTERMEDIATE, HIDDEN]),
            ("mlp.up_proj", &[INTERMEDIATE, HIDDEN]),
            ("mlp.down_proj", &[HIDDEN, INTERMEDIATE]),
        ];
        for (name, shape) in shapes {
            add(format!("model.layers.{layer}.{name}.weight"), shape);
        }
    }
    let views = tensors.iter().map(|(name, (shape, bytes))| {
        (
            name,
            TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap(),
        )
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    fs::write(folder.join("model.safetensors"), bytes).unwrap();
}

/// Rows of 20 to 200 tokens: about 900 in a step of 8 rows.
fn long_rows() -> Vec<EncodedRow> {
    let row = |index: usize| {
        let length = 20 + index * 53 % 180;
        let ids = (0..length).map(|at| ((index * 131 + at * 17) % (VOCABULARY - 3) + 3) as u32);
        EncodedRow {
            ids: ids.collect(),
            prompt_len: length / 2,
        }
    };
    (0..24).map(row).collect()
}

/// The adapter, the optimizer's state and the metrics, as bytes, of a run with so many threads.
fn left_by(run: &TinyRun, threads: usize) -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.unwrap().install(|| run.run(out, Start::Afresh).ok());
    let last = format!("checkpoints/step-{:06}", run.train.max_steps.unwrap());
    let moments = ["first", "second"].map(|which| {
        let name = format!("optimizer_{which}_moments.safetensors");
        fs::read(out.join(&last).join(name)).unwrap()
    });
    let metrics = timeless_metrics(out).join("\n").into_bytes();
    [adapter_bytes(out), metrics]
        .into_iter()
        .chain(moments)
        .collect()
}

fn assert_threads_change_nothing(run: &TinyRun, what: &str) {
    let one = left_by(run, 1);
    for threads in [2, 3, 5] {
        assert!(left_by(run, threads) == one, "{what}, {threads} threads");
    }
}

#[test]
fn a_tiny_run_gives_the_same_bytes_on_any_number_of_threads() {
    assert_threads_change_nothing(&TinyRun::new(6), "tiny");
}

/// f32 and bf16, 8 bits and 16, all projections, dropout: every kernel that a run uses.
#[test]
fn a_run_whose_work_is_split_gives_the_same_bytes_on_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    write_medium_model(folder.path());
    let mut computes = vec![Compute::F32];
    let fastest = load(folder.path(), Quantization::Int8, Compute::Auto).compute();
    if fastest == rag_tune_kernels::matrix::Compute::Bf16 {
        computes.push(Compute::Bf16);
    } else {
        println!("skipped: bf16, which this processor cannot compute in");
    }
    for compute in computes {
        for quantization in [Quantization::Int8, Quantization::None] {
            let mut run = TinyRun::new(2).with(|train| {
                train.tokens_per_micro_batch = 600;
                train.max_length = 300;
            });
            run.model = load(folder.path(), quantization, compute);
            run.rows = long_rows();
            run.lora.target_modules = Targets::Named(Projection::ALL.into_iter().collect());
            assert_threads_change_nothing(&run, &format!("{compute:?} {quantization:?}"));
        }
    }
}

/// DoRA's norms and magnitudes are sums of their own.
#[test]
fn a_dora_run_gives_the_same_bytes_on_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    write_medium_model(folder.path());
    let mut run = TinyRun::new(2).with(|train| {
        train.tokens_per_micro_batch = 600;
        train.max_length = 300;
    });
    run.model = load(folder.path(), Quantization::Int8, Compute::F32);
    run.rows = long_rows();
    run.lora.use_dora = true;
    assert_threads_change_nothing(&run, "DoRA");
}

/// Rank 128 gives tensors of 2,048 values and of 4,096: moments in f32 and in 8 bits.
#[test]
fn a_run_with_8_bit_state_gives_the_same_bytes_on_any_number_of_threads() {
    let mut run = TinyRun::new(4).with(|train| train.optimizer = OptimizerKind::AdamW8bit);
    run.lora.rank = 128;
    assert_threads_change_nothing(&run, "8-bit AdamW");
}

/// Otherwise the laws above would hold for any two runs.
#[test]
fn another_seed_gives_other_bytes() {
    let mut other = TinyRun::new(3);
    other.seed = 2;
    let (one, two) = (left_by(&TinyRun::new(3), 1), left_by(&other, 1));
    assert!(one.iter().zip(&two).all(|(one, two)| one != two));
}
