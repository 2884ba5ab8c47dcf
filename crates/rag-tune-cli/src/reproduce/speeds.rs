//! How fast this machine trains and answers with a model, by timing a little of each.

use std::time::Instant;

use rag_tune_augment::embed::{self, Embedder};
use rag_tune_augment::{AugmentedRow, Hub, RetrievalConfig};
use rag_tune_model::generate::{GenerateOptions, Sampling, generate};
use rag_tune_model::llama::Llama;
use rag_tune_model::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

use crate::base_model::FoundModel;
use crate::config::RunConfig;
use crate::encoding::{question, training_set};
use crate::forecast::Forecast;
use crate::output::Output;
use crate::probe::Measure;

/// Tokens of the question whose reading is timed.
const READ_TOKENS: usize = 512;
/// Tokens of each question before the timed writing: short, so that the time is the writing's.
const SHORT_QUESTION: usize = 16;
/// Tokens written for each row.
const WRITTEN_TOKENS: usize = 6;
/// Texts that are embedded.
const EMBEDDED: usize = 32;
/// Tokens that go through the model at once when questions are read; as `generate` has it.
const PREFILL_TOKENS: usize = 4096;

/// Speeds of a model on this machine, with all of its cores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Speeds {
    /// Until the weights are in memory.
    pub load_s: f64,
    /// Learnt from, forward and backward.
    pub train_tokens_per_s: f64,
    /// Memory of training.
    pub train_bytes: usize,
    /// Of questions.
    pub read_tokens_per_s: f64,
    /// Of answers, all rows in flight together.
    pub written_tokens_per_s: f64,
    /// Memory of answering, without keys and values.
    pub answer_bytes: usize,
    /// Of keys and values, for each token of each row in flight.
    pub cache_bytes_per_token: usize,
}

impl Speeds {
    /// Loads the model and times it on some rows.
    ///
    /// # Errors
    /// When it cannot be loaded, or the rows do not fit it.
    pub fn measure(
        config: &RunConfig,
        found: &FoundModel,
        rows: &[AugmentedRow],
        out: &Output,
    ) -> anyhow::Result<Self> {
        let set = training_set(
            &[rows.to_vec()],
            &found.tokenizer,
            &config.train,
            config.seed,
        )?;
        let training = Forecast::measure(found, &set, config, Measure::Once, out)?;
        let start = Instant::now();
        let model = found.load(&config.model, out)?;
        let load_s = start.elapsed().as_secs_f64();
        let questions = rows
            .iter()
            .map(|row| Ok(found.tokenizer.encode(&question(row))?))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let progress = out.progress();
        progress.start("timing answers", 1);
        let timed = time_answers(&model, &found.tokenizer, &questions, config.eval.batch_size);
        progress.finish();
        let (read_tokens_per_s, written_tokens_per_s) = timed?;
        let llama = model.config();
        let layer = llama.num_key_value_heads * llama.head_dim;
        // The widest point of a forward pass: gate, up and their product, and the hidden states around them.
        let block = 4 * PREFILL_TOKENS * (3 * llama.intermediate_size + 6 * llama.hidden_size);
        Ok(Self {
            load_s,
            train_tokens_per_s: training.tokens_per_s,
            train_bytes: training.peak_bytes,
            read_tokens_per_s,
            written_tokens_per_s,
            answer_bytes: model.weight_bytes() + block,
            cache_bytes_per_token: 2 * 4 * layer * llama.num_hidden_layers,
        })
    }
}

/// Tokens read and tokens written in a second.
fn time_answers(
    model: &Llama,
    tokenizer: &Tokenizer,
    questions: &[Vec<u32>],
    batch_size: usize,
) -> anyhow::Result<(f64, f64)> {
    let longest = questions.iter().max_by_key(|question| question.len());
    let long = shortened(longest.map_or(&[], |question| question), READ_TOKENS);
    let time = |prompts: &[Vec<u32>], tokens: usize| -> anyhow::Result<f64> {
        let options = GenerateOptions {
            max_new_tokens: tokens,
            batch_size,
            stop_texts: Vec::new(),
            sampling: Sampling::Greedy,
        };
        let start = Instant::now();
        let answers = generate(model, None, tokenizer, prompts, &options, &mut |_| {});
        answers?;
        Ok(start.elapsed().as_secs_f64())
    };
    let long = [long];
    let read = long[0].len() as f64 / time(&long, 1)?;
    let short: Vec<Vec<u32>> = questions
        .iter()
        .cycle()
        .take(batch_size)
        .map(|question| shortened(question, SHORT_QUESTION))
        .collect();
    let first = time(&short, 1)?;
    let all = time(&short, 1 + WRITTEN_TOKENS)?;
    // Rows that end early make this a lower bound of the time; the corrections while running mend it.
    let written = (short.len() * WRITTEN_TOKENS) as f64 / (all - first).max(1e-6);
    Ok((read, written))
}

fn shortened(ids: &[u32], tokens: usize) -> Vec<u32> {
    ids[ids.len().saturating_sub(tokens)..].to_vec()
}

/// Texts that the config's embedder embeds in a second.
///
/// # Errors
/// When it cannot be found or run.
pub fn embedded_per_s(config: &RetrievalConfig, texts: &[&str], hub: &Hub) -> anyhow::Result<f64> {
    let embedder: Box<dyn Embedder> = embed::open(config, hub)?;
    let texts = &texts[..texts.len().min(EMBEDDED)];
    // The first call also loads the weights.
    embedder.embed(&texts[..texts.len().min(1)], &|_, _| Ok(()))?;
    let start = Instant::now();
    embedder.embed(texts, &|_, _| Ok(()))?;
    Ok(texts.len() as f64 / start.elapsed().as_secs_f64())
}
