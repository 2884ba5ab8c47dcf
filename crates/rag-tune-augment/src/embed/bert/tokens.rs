//! Texts become token ids: with the prompt before them, cut at the model's limit.

use tokenizers::normalizers::{Lowercase, NormalizerWrapper, Sequence};
use tokenizers::{Tokenizer, TruncationParams};

use super::folder::Folder;
use crate::AugmentError;

/// A model's tokenizer, as the model uses it.
pub(super) struct TextTokenizer {
    tokenizer: Tokenizer,
    prompt: String,
    max_tokens: usize,
}

/// Bytes of a text that are tried first, for each token that the model takes: far more than a token has.
const BYTES_PER_TOKEN: usize = 16;

impl TextTokenizer {
    pub(super) fn load(folder: &Folder) -> Result<Self, AugmentError> {
        let path = folder.tokenizer();
        let failed = |error: tokenizers::Error| AugmentError::Embedder {
            path: path.clone(),
            problem: error.to_string(),
        };
        let bytes = std::fs::read(&path).map_err(AugmentError::read(&path))?;
        let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(failed)?;
        // The file of MiniLM asks for 128 tokens and for padding to 128; neither is meant for us.
        let truncation = TruncationParams {
            max_length: folder.max_tokens,
            ..TruncationParams::default()
        };
        tokenizer
            .with_truncation(Some(truncation))
            .map_err(failed)?;
        tokenizer.with_padding(None);
        if folder.lower_case {
            let mut normalizers = vec![NormalizerWrapper::Lowercase(Lowercase)];
            normalizers.extend(tokenizer.get_normalizer().cloned());
            let normalizer = Some(Sequence::new(normalizers));
            tokenizer.with_normalizer(normalizer).map_err(failed)?;
        }
        Ok(Self {
            tokenizer,
            prompt: folder.prompt.clone(),
            max_tokens: folder.max_tokens,
        })
    }

    /// The ids of prompt and text, at most `max_tokens`.
    ///
    /// A long text is tokenised from its beginning only. That changes nothing: the beginning ends before white space,
    /// across which no token reaches, and it is taken longer until it fills all places.
    pub(super) fn ids(&self, text: &str) -> Result<Vec<u32>, String> {
        let text = format!("{}{text}", self.prompt);
        let mut bytes = self.max_tokens.saturating_mul(BYTES_PER_TOKEN);
        loop {
            let beginning = beginning(&text, bytes);
            let encoding = self.tokenizer.encode_fast(beginning, true);
            let encoding = encoding.map_err(|error| error.to_string())?;
            if beginning.len() == text.len() || encoding.len() >= self.max_tokens {
                return Ok(encoding.get_ids().to_vec());
            }
            bytes *= 4;
        }
    }
}

/// The text up to some white space behind `bytes`; all of it if there is none.
fn beginning(text: &str, bytes: usize) -> &str {
    let mut start = bytes.min(text.len());
    while !text.is_char_boundary(start) {
        start += 1;
    }
    match text[start..].find(char::is_whitespace) {
        Some(end) => &text[..start + end],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_beginning_ends_before_white_space(text in "[a-zé \n]{0,60}", bytes in 0_usize..80) {
            let beginning = beginning(&text, bytes);
            let rest = text.strip_prefix(beginning).unwrap();
            prop_assert!(rest.is_empty() || rest.starts_with([' ', '\n']));
            prop_assert!(rest.is_empty() || beginning.len() >= bytes);
        }
    }
}
