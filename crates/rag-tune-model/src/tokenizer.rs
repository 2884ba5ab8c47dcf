//! Text to token ids and back, exactly as the original model's tokenizer does.
//!
//! From a tokenizer.json ([`Tokenizer::from_file`]) or from the vocabulary in
//! a GGUF ([`Tokenizer::from_gguf_metadata`]).
//!
//! The text of a special token (`</s>`, `<|im_end|>`) inside a prompt becomes
//! that token, as in transformers: an adapter must see the same ids here and
//! wherever else it is served. Data with such text in it can therefore end a
//! row early; that is the tokenizer's convention, and not hidden here.

use std::path::{Path, PathBuf};

use crate::error::ModelError;

mod from_files;
mod from_gguf;

/// A model's tokenizer with its special tokens.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    /// Without post-processor, truncation and padding: special tokens are
    /// added here, and offsets stay untrimmed.
    inner: tokenizers::Tokenizer,
    /// The file that it comes from, for messages.
    origin: PathBuf,
    bos_id: Option<u32>,
    adds_bos: bool,
    eos_ids: Vec<u32>,
}

/// A prompt with its completion, tokenised jointly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedRow {
    /// Ids of the whole row, BOS included where the model has one; no EOS.
    pub ids: Vec<u32>,
    /// How many of `ids` belong to the prompt.
    pub prompt_len: usize,
}

/// The special tokens of a model, as its files state them.
struct SpecialTokens {
    bos_id: Option<u32>,
    adds_bos: bool,
    eos_ids: Vec<u32>,
}

impl Tokenizer {
    /// Joins a bare tokenizer with its special tokens.
    fn new(
        mut inner: tokenizers::Tokenizer,
        origin: &Path,
        special: SpecialTokens,
    ) -> Result<Self, ModelError> {
        let SpecialTokens {
            bos_id,
            adds_bos,
            eos_ids,
        } = special;
        if adds_bos && bos_id.is_none() {
            return Err(ModelError::tokenizer(
                origin,
                "it adds a BOS token but names none",
            ));
        }
        if eos_ids.is_empty() {
            return Err(ModelError::tokenizer(
                origin,
                "no end-of-sequence token is named",
            ));
        }
        inner.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|error| ModelError::tokenizer(origin, error))?;
        Ok(Self {
            inner,
            origin: origin.to_owned(),
            bos_id,
            adds_bos,
            eos_ids,
        })
    }

    /// The ids of `text`, after BOS where the model's tokenizer adds it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|error| self.error(error))?;
        Ok(self
            .leading_bos()
            .chain(encoding.get_ids().iter().copied())
            .collect())
    }

    /// The ids of `full`, and how many of them belong to `prompt`, with which
    /// `full` begins.
    ///
    /// The two are tokenised jointly, because text cut at the prompt's end may
    /// give other tokens than the model would produce. The completion begins
    /// at the first token that ends beyond the prompt: one that straddles the
    /// boundary carries part of the answer, so it is the answer's.
    ///
    /// # Errors
    /// [`ModelError::Tokenise`] if `full` does not begin with `prompt`.
    pub fn encode_pair(&self, prompt: &str, full: &str) -> Result<EncodedRow, ModelError> {
        if !full.starts_with(prompt) {
            return Err(self.error("the full text does not begin with the prompt"));
        }
        let encoding = self
            .inner
            .encode(full, false)
            .map_err(|error| self.error(error))?;
        let offsets = encoding.get_offsets();
        let prompt_tokens = offsets
            .iter()
            .take_while(|(_, end)| *end <= prompt.len())
            .count();
        let ids: Vec<u32> = self
            .leading_bos()
            .chain(encoding.get_ids().iter().copied())
            .collect();
        let prompt_len = ids.len() - offsets.len() + prompt_tokens;
        Ok(EncodedRow { ids, prompt_len })
    }

    /// The text of `ids`, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String, ModelError> {
        self.inner
            .decode(ids, true)
            .map_err(|error| self.error(error))
    }

    /// The tokens that end a generation; never empty. The first one is the
    /// tokenizer's own: it ends a training row.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// The token that begins a sequence, whether or not `encode` adds it.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos_id
    }

    /// The text of one token as the vocabulary spells it, for display.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Number of tokens without the added ones.
    pub(crate) fn base_vocab_size(&self) -> usize {
        self.inner.get_vocab_size(false)
    }

    fn leading_bos(&self) -> impl Iterator<Item = u32> + use<> {
        self.bos_id.filter(|_| self.adds_bos).into_iter()
    }

    fn error(&self, detail: impl ToString) -> ModelError {
        ModelError::Tokenise {
            path: self.origin.clone(),
            detail: detail.to_string(),
        }
    }
}

#[cfg(test)]
mod tests;
