//! Greedy generation with a KV cache, many rows at a time.
//!
//! Rows are taken in order of length. A finished row leaves the batch and the next one takes its
//! place, so a batch never waits for its longest answer.

use std::iter::Peekable;

use rag_tune_kernels::attention::{self, Cache};
use rag_tune_kernels::{KernelError, Sequences, Tensor};
use rayon::prelude::*;

use crate::error::ModelError;
use crate::linear::AppliedAdapter;
use crate::llama::Llama;
use crate::lora::Adapter;
use crate::tokenizer::Tokenizer;

mod timing;

pub use timing::{GenerationTimes, time_generation};

/// When generation stops, and how many rows run at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerateOptions {
    /// Tokens an answer has at most.
    pub max_new_tokens: usize,
    /// Rows in flight.
    pub batch_size: usize,
    /// Text that ends an answer and is not part of it, besides the end-of-sequence token.
    ///
    /// White space at the start of an answer is skipped, so that a stop at `"\n"` means the
    /// answer's first line.
    pub stop_text: Option<String>,
}

/// Tokens of prompts that go through the model at once.
const PREFILL_TOKENS: usize = 4096;

/// A row that is being answered.
struct Active {
    row: usize,
    /// Tokens in the cache.
    position: usize,
    generated: Vec<u32>,
    /// One a layer.
    caches: Vec<Cache>,
}

/// Answers every prompt greedily.
///
/// Returns the answers in the order of the prompts; `on_done` is called with each row's index and
/// answer as it finishes.
///
/// # Errors
/// [`ModelError`] if a prompt is empty, leaves no room for an answer or has ids outside the vocabulary.
pub fn generate(
    model: &Llama,
    adapter: Option<&Adapter>,
    tokenizer: &Tokenizer,
    prompts: &[Vec<u32>],
    options: &GenerateOptions,
    on_done: &mut dyn FnMut(usize, &str),
) -> Result<Vec<String>, ModelError> {
    check_prompts(model, prompts)?;
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|row| std::cmp::Reverse(prompts[*row].len()));
    let mut waiting = order.into_iter().peekable();
    let mut answers = vec![String::new(); prompts.len()];
    let mut active: Vec<Active> = Vec::new();
    let applied = adapter.map(|adapter| model.applied(adapter)).transpose()?;
    let engine = Engine {
        model,
        adapter: applied.as_ref(),
    };
    let ends = Ends {
        model,
        tokenizer,
        options,
    };
    let mut done = |row: usize, answer: String| {
        on_done(row, &answer);
        answers[row] = answer;
    };
    while waiting.peek().is_some() || !active.is_empty() {
        let free = options.batch_size.max(1) - active.len();
        // A prefill of a few rows costs as much as one of many: wait for a quarter of the places.
        if active.is_empty() || free >= options.batch_size.div_ceil(4) {
            let admitted = admit(&mut waiting, prompts, free);
            if !admitted.is_empty() {
                active.extend(engine.prefill(prompts, &admitted)?);
                ends.retire(&mut active, &mut done)?;
            }
        }
        if !active.is_empty() {
            engine.decode(&mut active)?;
            ends.retire(&mut active, &mut done)?;
        }
    }
    Ok(answers)
}

/// The next rows, as many as are free and as fit into one prefill.
fn admit(
    waiting: &mut Peekable<impl Iterator<Item = usize>>,
    prompts: &[Vec<u32>],
    free: usize,
) -> Vec<usize> {
    let mut tokens = 0;
    let mut admitted = Vec::new();
    while admitted.len() < free
        && let Some(row) = waiting
            .next_if(|row| admitted.is_empty() || tokens + prompts[*row].len() <= PREFILL_TOKENS)
    {
        tokens += prompts[row].len();
        admitted.push(row);
    }
    admitted
}

fn check_prompts(model: &Llama, prompts: &[Vec<u32>]) -> Result<(), ModelError> {
    let limit = model.config().max_position_embeddings;
    for (row, prompt) in prompts.iter().enumerate() {
        if prompt.is_empty() || prompt.len() >= limit {
            let expected = format!("1 to {} for this model (row {row})", limit - 1);
            return Err(ModelError::Argument {
                what: "the prompt's length in tokens",
                got: prompt.len(),
                expected,
            });
        }
    }
    Ok(())
}

struct Engine<'a> {
    model: &'a Llama,
    adapter: Option<&'a AppliedAdapter<'a>>,
}

impl Engine<'_> {
    /// Runs the prompts of `rows` and samples the first token of each.
    fn prefill(&self, prompts: &[Vec<u32>], rows: &[usize]) -> Result<Vec<Active>, ModelError> {
        let lengths: Vec<usize> = rows.iter().map(|row| prompts[*row].len()).collect();
        let sequences = Sequences::from_lengths(&lengths)?;
        let ids: Vec<u32> = rows
            .iter()
            .flat_map(|row| prompts[*row].iter().copied())
            .collect();
        let positions = sequences.positions();
        let context = self.model.context(&positions, self.adapter, None);
        let mut active: Vec<Active> = rows
            .iter()
            .zip(&lengths)
            .map(|(row, length)| Active {
                row: *row,
                position: *length,
                generated: Vec::new(),
                caches: Vec::new(),
            })
            .collect();
        let mut x = self.model.embedding.gather_rows(&ids)?;
        for block in &self.model.blocks {
            let inputs = block.attention_inputs(&x, context)?;
            let ranges: Vec<_> = sequences.ranges().collect();
            let rows = active.par_iter_mut().zip(ranges);
            rows.try_for_each(|(active, range)| {
                let mut cache = Cache::new(context.heads, context.compute);
                cache.push(&inputs.k, &inputs.v, range)?;
                active.caches.push(cache);
                Ok::<_, KernelError>(())
            })?;
            let attended = attention::forward(inputs.qkv(), &sequences, context.heads)?;
            drop(inputs);
            x = block.after_attention(x, attended.out, context)?;
        }
        let last: Vec<usize> = sequences.ranges().map(|range| range.end - 1).collect();
        self.sample(&self.model.logits(&x, &last)?, &mut active);
        Ok(active)
    }

    /// Feeds each row's last token and samples the next.
    ///
    /// Runs on a thread of the pool, so that operations too small for tasks cost no message to one.
    fn decode(&self, active: &mut [Active]) -> Result<(), ModelError> {
        rayon::scope(|_| self.decode_here(active))
    }

    fn decode_here(&self, active: &mut [Active]) -> Result<(), ModelError> {
        let ids: Vec<u32> = active
            .iter()
            .filter_map(|active| active.generated.last().copied())
            .collect();
        let positions: Vec<u32> = active.iter().map(|active| active.position as u32).collect();
        let context = self.model.context(&positions, self.adapter, None);
        let mut x = self.model.embedding.gather_rows(&ids)?;
        for (layer, block) in self.model.blocks.iter().enumerate() {
            let inputs = block.attention_inputs(&x, context)?;
            for (index, active) in active.iter_mut().enumerate() {
                active.caches[layer].push(&inputs.k, &inputs.v, index..index + 1)?;
            }
            let caches: Vec<_> = active.iter().map(|active| &active.caches[layer]).collect();
            let attended = attention::decode(&inputs.q, &caches, context.heads)?;
            x = block.after_attention(x, attended, context)?;
        }
        active.iter_mut().for_each(|active| active.position += 1);
        let all: Vec<usize> = (0..active.len()).collect();
        self.sample(&self.model.logits(&x, &all)?, active);
        Ok(())
    }

    /// Greedy: the highest logit, the lower id among equals.
    fn sample(&self, logits: &Tensor, active: &mut [Active]) {
        for (index, active) in active.iter_mut().enumerate() {
            let mut best = (f32::NEG_INFINITY, 0);
            for (id, &logit) in logits.row(index).iter().enumerate() {
                if logit > best.0 {
                    best = (logit, id as u32);
                }
            }
            active.generated.push(best.1);
        }
    }
}

/// Knows when a row is finished.
struct Ends<'a> {
    model: &'a Llama,
    tokenizer: &'a Tokenizer,
    options: &'a GenerateOptions,
}

impl Ends<'_> {
    /// Takes finished rows out of the batch.
    fn retire(
        &self,
        active: &mut Vec<Active>,
        done: &mut impl FnMut(usize, String),
    ) -> Result<(), ModelError> {
        let mut index = 0;
        while index < active.len() {
            match self.answer(&active[index])? {
                Some(answer) => {
                    let finished = active.swap_remove(index);
                    done(finished.row, answer);
                }
                None => index += 1,
            }
        }
        Ok(())
    }

    /// The row's answer, if it is finished.
    fn answer(&self, active: &Active) -> Result<Option<String>, ModelError> {
        let ended = active
            .generated
            .last()
            .is_some_and(|id| self.tokenizer.eos_ids().contains(id));
        let ids = &active.generated[..active.generated.len() - usize::from(ended)];
        let text = self.tokenizer.decode(ids)?;
        let text = text.trim_start();
        let stop = self
            .options
            .stop_text
            .as_deref()
            .and_then(|stop| text.find(stop));
        let full = active.generated.len() >= self.options.max_new_tokens
            || active.position + 1 >= self.model.config().max_position_embeddings;
        Ok(match stop {
            Some(at) => Some(text[..at].to_owned()),
            None => (ended || full).then(|| text.to_owned()),
        })
    }
}
