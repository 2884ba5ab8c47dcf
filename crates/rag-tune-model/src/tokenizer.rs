//! Text to token ids and back, exactly as the original model's tokenizer does,
//! but for a second BOS before a text that begins with one.
//!
//! From a tokenizer.json ([`Tokenizer::from_file`]), from SentencePiece's
//! tokenizer.model ([`Tokenizer::from_sentencepiece`]) or from the vocabulary
//! in a GGUF ([`Tokenizer::from_gguf_metadata`]).
//!
//! The text of a special token (`</s>`, `<|im_end|>`) inside a prompt becomes
//! that token, as in transformers: an adapter must see the same ids here and
//! wherever else it is served. Data with such text in it can therefore end a
//! row early; that is the tokenizer's convention, and not hidden here.

use std::path::{Path, PathBuf};

use crate::error::ModelError;

mod from_files;
mod from_gguf;
mod from_sentencepiece;
mod sentencepiece;
mod to_files;
mod to_gguf;

/// The file of a Hugging Face tokenizer.
pub(crate) const TOKENIZER_JSON: &str = "tokenizer.json";
/// SentencePiece's.
pub(crate) const TOKENIZER_MODEL: &str = "tokenizer.model";

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

/// A prompt with its completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedRow {
    /// Ids of the whole row, BOS included where the model has one; no EOS.
    pub ids: Vec<u32>,
    /// How many of `ids` belong to the prompt: they are those of the prompt alone.
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

    /// The ids of `text`, after BOS where the model's tokenizer adds it. A text that begins with BOS
    /// gets no second one.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|error| self.error(error))?;
        let ids = encoding.get_ids();
        let bos = self
            .bos_id
            .filter(|bos| self.adds_bos && ids.first() != Some(bos));
        Ok(bos.into_iter().chain(ids.iter().copied()).collect())
    }

    /// The ids of `full`, which begin with exactly the ids of `prompt`, with which `full` begins.
    ///
    /// A model is asked with the prompt alone, so it learns from the same tokens. Nearly always those
    /// are how `full` begins anyway. Where a token of `full` straddles the boundary, the completion is
    /// tokenised without the prompt.
    ///
    /// # Errors
    /// [`ModelError::Tokenise`] if `full` does not begin with `prompt`, or if prompt and completion
    /// give another text when they are tokenised apart.
    pub fn encode_pair(&self, prompt: &str, full: &str) -> Result<EncodedRow, ModelError> {
        let Some(completion) = full.strip_prefix(prompt) else {
            return Err(self.error("the full text does not begin with the prompt"));
        };
        let (asked, whole) = (self.encode(prompt)?, self.encode(full)?);
        let prompt_len = asked.len();
        if whole.starts_with(&asked) {
            let ids = whole;
            return Ok(EncodedRow { ids, prompt_len });
        }
        let text = self.decode(&whole)?;
        // SentencePiece puts a space before a text that is tokenised alone, but none within one.
        for before in ["", "\n"] {
            let mut ids = asked.clone();
            ids.extend(self.encode_behind(before, completion)?);
            if self.decode(&ids)? == text {
                return Ok(EncodedRow { ids, prompt_len });
            }
        }
        Err(self.error("the completion cannot be told from the prompt's last token"))
    }

    /// The ids of `text` where it stands behind `before`, without those of `before`.
    fn encode_behind(&self, before: &str, text: &str) -> Result<Vec<u32>, ModelError> {
        let encoding = self.inner.encode(format!("{before}{text}"), false);
        let encoding = encoding.map_err(|error| self.error(error))?;
        let tokens = encoding.get_ids().iter().zip(encoding.get_offsets());
        let behind = tokens.skip_while(|(_, (_, end))| *end <= before.len());
        Ok(behind.map(|(id, _)| *id).collect())
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

    fn error(&self, detail: impl ToString) -> ModelError {
        ModelError::Tokenise {
            path: self.origin.clone(),
            detail: detail.to_string(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
