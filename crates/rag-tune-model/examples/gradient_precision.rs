//! How far the adapter's gradients in bf16 and in 8-bit compute are from those in f32, layer by layer, on real rows.
//!
//! usage: gradient_precision BASE ADAPTER AUGMENTED.jsonl [ROWS] (default: 32)
//!
//! BASE: a .gguf file or a folder; ADAPTER: a trained adapter (an untrained one has gradients of B only);
//! AUGMENTED.jsonl: what `rag-tune augment` wrote. Prints a table of cosine and `|difference| / |f32 gradient|`, both
//! factors of all projections of a layer together, and the loss in nats a token.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use rag_tune_kernels::Sequences;
use rag_tune_model::checkpoint::Checkpoint;
use rag_tune_model::config::{Compute, ModelConfig};
use rag_tune_model::llama::{Keep, Llama, PassOptions, TrainBatch};
use rag_tune_model::lora::{Adapter, AdapterGradient};
use rag_tune_model::peft;
use rag_tune_model::tokenizer::EncodedRow;

/// Tokens of a pass at most.
const TOKENS: usize = 2048;

#[derive(serde::Deserialize)]
struct Row {
    inference_prompt: String,
    full_prompt: String,
}

#[expect(clippy::print_stdout, reason = "the figures are this program's result")]
fn main() -> Result<(), Box<dyn Error>> {
    let usage = "usage: gradient_precision BASE ADAPTER AUGMENTED.jsonl [ROWS]";
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [base, adapter, rows, rest @ ..] = arguments.as_slice() else {
        return Err(usage.into());
    };
    let count = rest.first().map_or(Ok(32), |count| count.parse())?;
    let checkpoint = Checkpoint::open(Path::new(base))?;
    let adapter = peft::load(Path::new(adapter), checkpoint.config())?;
    let tokenizer = checkpoint.tokenizer()?;
    let text = std::fs::read_to_string(rows)?;
    let mut encoded = Vec::new();
    for line in text.lines().take(count) {
        let row: Row = serde_json::from_str(line)?;
        encoded.push(tokenizer.encode_pair(&row.inference_prompt, &row.full_prompt)?);
    }
    let batches = batches(&encoded)?;
    let pass = |compute| gradient(&checkpoint, &adapter, &batches, compute);
    let (loss, exact) = pass(Compute::F32)?;
    println!("loss f32 {loss:.5}\n");
    println!("| layer | bf16: cosine | difference | int8: cosine | difference |");
    println!("| --- | --- | --- | --- | --- |");
    let rounded = [pass(Compute::Bf16)?, pass(Compute::Int8)?];
    for (layer, exact) in &exact {
        let compare = |gradients: &Gradients| comparison(exact, &gradients[layer]);
        let [bf16, int8] = rounded.each_ref().map(|(_, gradients)| compare(gradients));
        println!("| {layer} | {bf16} | {int8} |");
    }
    let all = |gradients: &Gradients| gradients.values().flatten().copied().collect::<Vec<_>>();
    let [bf16, int8] = rounded
        .each_ref()
        .map(|(_, gradients)| comparison(&all(&exact), &all(gradients)));
    println!("| all | {bf16} | {int8} |");
    println!("\nloss bf16 {:.5}, int8 {:.5}", rounded[0].0, rounded[1].0);
    Ok(())
}

/// The gradient's values by layer.
type Gradients = BTreeMap<usize, Vec<f32>>;

fn comparison(exact: &[f32], other: &[f32]) -> String {
    let sum = |value: &dyn Fn(f64, f64) -> f64| -> f64 {
        let pairs = exact.iter().zip(other);
        pairs
            .map(|(a, b)| value(f64::from(*a), f64::from(*b)))
            .sum()
    };
    let norm = sum(&|a, _| a * a).sqrt();
    let cosine = sum(&|a, b| a * b) / norm / sum(&|_, b| b * b).sqrt();
    let difference = sum(&|a, b| (a - b) * (a - b)).sqrt() / norm;
    format!("{cosine:.5} | {difference:.4}")
}

fn batches(rows: &[EncodedRow]) -> Result<Vec<TrainBatch>, Box<dyn Error>> {
    let mut batches: Vec<Vec<&EncodedRow>> = vec![Vec::new()];
    let mut tokens = 0;
    for row in rows {
        if tokens + row.ids.len() > TOKENS && tokens > 0 {
            batches.push(Vec::new());
            tokens = 0;
        }
        tokens += row.ids.len();
        batches.last_mut().ok_or("there is a batch")?.push(row);
    }
    let batch = |rows: &Vec<&EncodedRow>| -> Result<TrainBatch, Box<dyn Error>> {
        let lengths: Vec<usize> = rows.iter().map(|row| row.ids.len()).collect();
        let mut batch = TrainBatch {
            ids: Vec::new(),
            sequences: Sequences::from_lengths(&lengths)?,
            targets: Vec::new(),
        };
        for row in rows {
            let start = batch.ids.len();
            let targets = (row.prompt_len..row.ids.len()).map(|at| (start + at - 1, row.ids[at]));
            batch.targets.extend(targets);
            batch.ids.extend(&row.ids);
        }
        Ok(batch)
    };
    batches.iter().map(batch).collect()
}

/// Mean loss and its gradient by layer.
fn gradient(
    checkpoint: &Checkpoint,
    adapter: &Adapter,
    batches: &[TrainBatch],
    compute: Compute,
) -> Result<(f64, Gradients), Box<dyn Error>> {
    let config = ModelConfig {
        compute,
        ..Default::default()
    };
    let model = Llama::load(checkpoint, &config, &mut |_, _| ())?;
    let supervised: usize = batches.iter().map(|batch| batch.targets.len()).sum();
    let options = PassOptions {
        keep: Keep::Selective,
        dropout: None,
        gradient_scale: 1.0 / supervised as f32,
    };
    let mut gradient: AdapterGradient = adapter.zero_gradient();
    let mut loss = 0.0;
    for batch in batches {
        loss += model.forward_backward(adapter, batch, &options, &mut gradient)?;
    }
    let mut by_layer = Gradients::new();
    for ((layer, _), factors) in &gradient.layers {
        let values = by_layer.entry(*layer).or_default();
        for (_, tensor) in factors.tensors() {
            values.extend_from_slice(tensor.data());
        }
    }
    Ok((loss / supervised as f64, by_layer))
}
