//! Training throughput of full optimizer steps on random ids, for `scripts/bench-train.sh` and
//! `scripts/bench-quantization.sh`.
//!
//! usage: throughput BASE [ROWS] [TOKENS] [STEPS] [COMPUTE] [QUANTIZATION] (defaults: 8 256 5 auto int8)
//!
//! The same work as `scripts/bench_peft.py`: a LoRA of rank 8 on q, k, v, o, loss on every token.
//! The first step is not counted. Prints one JSON line; the processor's time is what to compare on a machine that has
//! other work.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use rag_tune_model::checkpoint::Checkpoint;
use rag_tune_model::config::ModelConfig;
use rag_tune_model::llama::Llama;
use rag_tune_model::tokenizer::EncodedRow;
use rag_tune_train::batch::TrainSet;
use rag_tune_train::config::{LoraConfig, LossOn, TrainConfig};
use rag_tune_train::event::Event;
use rag_tune_train::trainer::{Hooks, Start, TrainRequest, train};

/// The allocator of the `rag-tune` binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[expect(clippy::print_stdout, reason = "the figures are this program's result")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let base = arguments
        .get(1)
        .ok_or("usage: throughput BASE [ROWS] [TOKENS] [STEPS] [COMPUTE] [QUANTIZATION]")?;
    let number =
        |at: usize, default: usize| arguments.get(at).map_or(Ok(default), |text| text.parse());
    let (rows, tokens, steps) = (number(2, 8)?, number(3, 256)?, number(4, 5)?);
    let word = |at: usize, default: &'static str| arguments.get(at).map_or(default, String::as_str);
    let compute = serde_json::from_value(word(5, "auto").into())?;
    let quantization = serde_json::from_value(word(6, "int8").into())?;

    let checkpoint = Checkpoint::open(Path::new(base))?;
    let config = ModelConfig {
        base: base.clone(),
        compute,
        quantization,
        ..Default::default()
    };
    let model = Llama::load(&checkpoint, &config, &mut |_, _| ())?;
    let vocab = model.config().vocab_size as u64;
    // Each row is one token short: the trainer appends the end of the sequence.
    let row = |row: usize| EncodedRow {
        ids: (0..tokens - 1)
            .map(|at| ((row * tokens + at) as u64 * 2_654_435_761 % vocab) as u32)
            .collect(),
        prompt_len: 1,
    };
    let encoded: Vec<_> = (0..rows).map(row).collect();
    let train_config = TrainConfig {
        learning_rate: 1e-4,
        tokens_per_micro_batch: rows * tokens,
        batch_size: Some(rows),
        max_length: tokens,
        max_steps: Some(steps + 1),
        warmup_steps: Some(0),
        loss_on: LossOn::All,
        checkpoint_every: steps + 1,
        ..Default::default()
    };
    let lora = LoraConfig {
        rank: 8,
        alpha: 16.0,
        dropout: 0.0,
        ..Default::default()
    };
    let set = TrainSet::new(&[encoded], 2, &train_config, 0)?;
    let out = tempfile::tempdir()?;
    let request = TrainRequest {
        model: &model,
        base,
        set: &set,
        lora: &lora,
        train: &train_config,
        seed: 0,
        out: out.path(),
        start: Start::Afresh,
    };
    let (mut seconds, mut cpu_seconds) = (Vec::new(), vec![cpu_time()]);
    let mut observe = |event: Event<'_>| {
        if let Event::Step(record) = event {
            seconds.push(record.seconds);
            cpu_seconds.push(cpu_time());
        }
    };
    let mut hooks = Hooks {
        observe: &mut observe,
        stop: &AtomicBool::new(false),
        validation: None,
    };
    train(&request, &mut hooks)?;
    seconds.remove(0);
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    // The first step lies between the first two.
    let cpu_seconds = match (cpu_seconds[1], cpu_seconds[cpu_seconds.len() - 1]) {
        (Some(first), Some(last)) => Some((last - first) / seconds.len() as f64),
        _ => None,
    };
    let result = serde_json::json!({
        "compute": format!("{:?}", model.compute()).to_lowercase(),
        "quantization": format!("{:?}", model.quantization()).to_lowercase(),
        "weight_bytes": model.weight_bytes(),
        "tokens_per_s": ((rows * tokens) as f64 / median * 10.0).round() / 10.0,
        "seconds_per_step": (median * 1e3).round() / 1e3,
        "cpu_seconds_per_step": cpu_seconds.map(|cpu| (cpu * 1e3).round() / 1e3),
        "peak_rss_mib": peak_rss_mib(),
    });
    println!("{result}");
    Ok(())
}

/// Seconds that the processor has worked for the process so far, where the system tells.
fn cpu_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The program's name, in brackets, may have spaces. Then come the state, and the times as the 12th and 13th.
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    // Linux counts 100 ticks a second for programs, whatever its own clock.
    Some((ticks(11)? + ticks(12)?) / 100.0)
}

/// The process's peak resident memory, where the system tells.
fn peak_rss_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}
