//! Generation with a KV cache, many rows at a time.
//!
//! Rows are taken in order of length. A finished row leaves the batch and the next one takes its place, so a batch never waits
//! for its longest answer. What all prompts begin with, mostly an instruction, runs through the model once. A row's answer
//! depends on its prompt (and when it is sampled, on its index and the seed), not on what runs beside it.

use std::iter::Peekable;

use rag_tune_kernels::Tensor;

use crate::error::ModelError;
use crate::llama::Llama;
use crate::lora::Adapter;
use crate::tokenizer::Tokenizer;

mod answer;
mod device_steps;
mod engine;
mod sampling;
#[cfg(test)]
mod tests;
mod timing;

use self::answer::{Answer, Piece};
use self::engine::{Engine, Sequence};
pub use self::sampling::Sampling;
pub use self::timing::{GenerationTimes, time_generation};

/// How tokens are chosen, when generation stops, and how many rows run at a time.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// Tokens an answer has at most.
    pub max_new_tokens: usize,
    /// Rows in flight.
    pub batch_size: usize,
    /// Texts that end an answer and are not part of it, besides the end-of-sequence token; the first that comes.
    ///
    /// White space at the start of an answer is skipped, so that a stop at `"\n"` means the
    /// answer's first line.
    pub stop_texts: Vec<String>,
    /// How the next token is chosen.
    pub sampling: Sampling,
}

impl GenerateOptions {
    fn check(&self) -> Result<(), ModelError> {
        if self.stop_texts.iter().any(String::is_empty) {
            return Err(ModelError::Generation {
                what: "a text that ends an answer",
                got: "empty".to_owned(),
                expected: "a character at least",
            });
        }
        self.sampling.check()
    }
}

/// What [`generate`] tells of a row while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// New text of its answer. It comes when it is certain: whole characters that cannot become a stop any more.
    Text {
        /// Index of the prompt.
        row: usize,
        /// Not empty.
        text: &'a str,
    },
    /// The answer is finished: the sum of its texts.
    Done {
        /// Index of the prompt.
        row: usize,
        /// The whole answer.
        answer: &'a str,
    },
}

/// What [`generate`] returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// In the order of the prompts.
    pub answers: Vec<String>,
    /// Tokens that all prompts begin with and that ran through the model once; 0 where none were shared.
    pub shared_tokens: usize,
    /// Tokens of prompts that ran through the model, the shared ones counted once.
    pub prefilled_tokens: usize,
}

/// Tokens of prompts that go through the model at once.
const PREFILL_TOKENS: usize = 4096;
/// Fewer tokens that prompts share are not worth a pass of their own.
const LEAST_SHARED_TOKENS: usize = 16;

/// A row that is being answered.
struct Active {
    row: usize,
    sequence: Sequence,
    /// The last token, which is not in the sequence yet.
    last: u32,
    /// Tokens so far.
    generated: usize,
    answer: Answer,
}

/// Answers every prompt.
///
/// `on_event` is called with each row's text as it comes, and as it is finished.
///
/// # Errors
/// [`ModelError`] if a prompt is empty, leaves no room for an answer or has ids outside the vocabulary, or an option is out of
/// range.
pub fn generate(
    model: &Llama,
    adapter: Option<&Adapter>,
    tokenizer: &Tokenizer,
    prompts: &[Vec<u32>],
    options: &GenerateOptions,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<Generation, ModelError> {
    options.check()?;
    check_prompts(model, prompts)?;
    let applied = adapter.map(|adapter| model.applied(adapter)).transpose()?;
    let engine = Engine::new(model, applied.as_ref());
    let shared_tokens = shared_tokens(prompts);
    let shared = match shared_tokens {
        0 => Sequence::default(),
        tokens => engine.prefix(&prompts[0][..tokens])?,
    };
    let mut rows = Rows {
        engine,
        tokenizer,
        options,
        on_event,
        answers: vec![String::new(); prompts.len()],
    };
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|row| std::cmp::Reverse(prompts[*row].len()));
    let mut waiting = order.into_iter().peekable();
    let mut active: Vec<Active> = Vec::new();
    while waiting.peek().is_some() || !active.is_empty() {
        let free = options.batch_size.max(1) - active.len();
        // A prefill of a few rows costs as much as one of many: wait for a quarter of the places.
        if active.is_empty() || free >= options.batch_size.div_ceil(4) {
            let admitted = admit(&mut waiting, |row| prompts[row].len() - shared_tokens, free);
            if !admitted.is_empty() {
                active.extend(rows.begin(prompts, &admitted, &shared)?);
            }
        }
        if !active.is_empty() {
            active = rows.go_on(active)?;
        }
    }
    let own_tokens = prompts.iter().map(|prompt| prompt.len() - shared_tokens);
    Ok(Generation {
        prefilled_tokens: shared_tokens + own_tokens.sum::<usize>(),
        answers: rows.answers,
        shared_tokens,
    })
}

/// The next rows, as many as are free and as fit into one prefill.
fn admit(
    waiting: &mut Peekable<impl Iterator<Item = usize>>,
    length: impl Fn(usize) -> usize,
    free: usize,
) -> Vec<usize> {
    let mut tokens = 0;
    let mut admitted = Vec::new();
    while admitted.len() < free
        && let Some(row) =
            waiting.next_if(|row| admitted.is_empty() || tokens + length(*row) <= PREFILL_TOKENS)
    {
        tokens += length(row);
        admitted.push(row);
    }
    admitted
}

/// Tokens that all prompts begin with, less the last one of the shortest: its logits are each row's own. 0 where sharing them
/// is not worth it.
fn shared_tokens(prompts: &[Vec<u32>]) -> usize {
    let [first, others @ ..] = prompts else {
        return 0;
    };
    let common = |prompt: &Vec<u32>| {
        let pairs = first.iter().zip(prompt);
        pairs.take_while(|(a, b)| a == b).count()
    };
    let shortest = prompts.iter().map(Vec::len).min().unwrap_or(0);
    let shared = others.iter().map(common).min().unwrap_or(0);
    match shared.min(shortest.saturating_sub(1)) {
        few if few < LEAST_SHARED_TOKENS => 0,
        many => many,
    }
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

/// Takes rows from their prompts to their answers.
struct Rows<'a> {
    engine: Engine<'a>,
    tokenizer: &'a Tokenizer,
    options: &'a GenerateOptions,
    on_event: &'a mut dyn FnMut(Event<'_>),
    answers: Vec<String>,
}

impl Rows<'_> {
    /// Runs the prompts of `rows` behind what they share; returns those that have more than one token to say.
    fn begin(
        &mut self,
        prompts: &[Vec<u32>],
        rows: &[usize],
        shared: &Sequence,
    ) -> Result<Vec<Active>, ModelError> {
        let own: Vec<&[u32]> = rows
            .iter()
            .map(|row| &prompts[*row][shared.tokens..])
            .collect();
        let mut sequences = vec![shared.clone(); rows.len()];
        let logits = self
            .engine
            .prefill(&own, &mut sequences.iter_mut().collect::<Vec<_>>())?;
        let active = rows.iter().zip(sequences).map(|(row, sequence)| Active {
            row: *row,
            sequence,
            last: 0,
            generated: 0,
            answer: Answer::default(),
        });
        self.take_tokens(active.collect(), &logits)
    }

    /// Runs the last token of each row; returns those that are not finished.
    fn go_on(&mut self, mut active: Vec<Active>) -> Result<Vec<Active>, ModelError> {
        let ids: Vec<u32> = active.iter().map(|active| active.last).collect();
        let sequences = active.iter_mut().map(|active| &mut active.sequence);
        let logits = self
            .engine
            .decode(&ids, &mut sequences.collect::<Vec<_>>())?;
        self.take_tokens(active, &logits)
    }

    /// Chooses each row's next token, and tells what it says; returns the rows that are not finished.
    fn take_tokens(
        &mut self,
        active: Vec<Active>,
        logits: &Tensor,
    ) -> Result<Vec<Active>, ModelError> {
        let mut going_on = Vec::with_capacity(active.len());
        let rows: Vec<_> = active.iter().map(|it| (it.row, it.generated)).collect();
        let chosen = self.options.sampling.choose(logits, &rows)?;
        for (mut active, chosen) in active.into_iter().zip(chosen) {
            active.last = chosen;
            active.generated += 1;
            let piece = self.piece(&mut active)?;
            let row = active.row;
            if !piece.text.is_empty() {
                let text = piece.text.as_str();
                (self.on_event)(Event::Text { row, text });
            }
            if !piece.is_last {
                going_on.push(active);
                continue;
            }
            let answer = active.answer.into_text();
            (self.on_event)(Event::Done {
                row,
                answer: &answer,
            });
            self.answers[row] = answer;
        }
        Ok(going_on)
    }

    /// What the row's last token adds to its answer.
    fn piece(&self, active: &mut Active) -> Result<Piece, ModelError> {
        let stops = &self.options.stop_texts;
        let mut text = String::new();
        let ended = self.tokenizer.eos_ids().contains(&active.last);
        if !ended {
            let piece = active.answer.push(active.last, self.tokenizer, stops)?;
            if piece.is_last {
                return Ok(piece);
            }
            text = piece.text;
        }
        let limit = self.engine.model.config().max_position_embeddings;
        let is_full =
            active.generated >= self.options.max_new_tokens || active.sequence.tokens + 1 >= limit;
        let is_last = ended || is_full;
        if is_last {
            text += &active.answer.finish(self.tokenizer, stops)?.text;
        }
        Ok(Piece { text, is_last })
    }
}
