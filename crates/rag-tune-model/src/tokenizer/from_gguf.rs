//! A tokenizer from the vocabulary that a GGUF carries.
//!
//! Byte-level BPE (`tokenizer.ggml.model` = `gpt2`), with the pre-tokenizers
//! that are checked against the originals, and SentencePiece (`llama`).

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file::Value;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior};

use super::sentencepiece::{Piece, PieceKind, SpacePrefix, byte_pair_tokenizer};
use super::to_gguf::{LLAMA_3, LLAMA_3_WORDS};
use super::{SpecialTokens, Tokenizer};
use crate::error::ModelError;
use crate::gguf_metadata::GgufMetadata;

impl Tokenizer {
    /// Builds the tokenizer that `tokenizer.ggml.*` in the metadata of the
    /// GGUF at `path` describes.
    pub fn from_gguf_metadata(
        path: &Path,
        metadata: &HashMap<String, Value>,
    ) -> Result<Self, ModelError> {
        let metadata = GgufMetadata {
            path,
            values: metadata,
        };
        let (inner, adds_bos) =
            match required(&metadata, "tokenizer.ggml.model", GgufMetadata::text)? {
                // A byte-level BPE adds no BOS unless the file says so, a SentencePiece does.
                "gpt2" => (byte_level(&metadata)?, false),
                "llama" => (sentencepiece(&metadata)?, true),
                other => return Err(unsupported(path, "tokenizer.ggml.model", other)),
            };
        let special = SpecialTokens {
            bos_id: metadata.number("tokenizer.ggml.bos_token_id")?,
            adds_bos: metadata
                .boolean("tokenizer.ggml.add_bos_token")?
                .unwrap_or(adds_bos),
            eos_ids: metadata.eos_token_ids()?,
        };
        Self::new(inner, path, special)
    }
}

fn byte_level(metadata: &GgufMetadata<'_>) -> Result<tokenizers::Tokenizer, ModelError> {
    const PREFIX: &str = "tokenizer.ggml.add_space_prefix";
    if metadata.boolean(PREFIX)?.unwrap_or(false) {
        return Err(unsupported(metadata.path, PREFIX, "true"));
    }
    let tokens = required(metadata, "tokenizer.ggml.tokens", GgufMetadata::texts)?;
    let mut inner = tokenizers::Tokenizer::new(byte_level_bpe(metadata, &tokens)?);
    inner.with_pre_tokenizer(Some(pre_tokenizer(metadata)?));
    // Prefix space and trimming concern encoding; a decoder ignores them.
    inner.with_decoder(Some(ByteLevel::default()));
    add_tokens(&mut inner, metadata, &tokens)?;
    Ok(inner)
}

fn sentencepiece(metadata: &GgufMetadata<'_>) -> Result<tokenizers::Tokenizer, ModelError> {
    const CLEANED: &str = "tokenizer.ggml.remove_extra_whitespaces";
    if metadata.boolean(CLEANED)?.unwrap_or(false) {
        return Err(unsupported(metadata.path, CLEANED, "true"));
    }
    let prefix = match metadata.boolean("tokenizer.ggml.add_space_prefix")? {
        Some(false) => SpacePrefix::Absent,
        None | Some(true) => SpacePrefix::Added,
    };
    let tokens = required(metadata, "tokenizer.ggml.tokens", GgufMetadata::texts)?;
    let types = token_types(metadata, tokens.len())?;
    let scores = required(metadata, "tokenizer.ggml.scores", GgufMetadata::floats)?;
    if scores.len() != tokens.len() {
        let detail = format!("{} tokens but {} scores", tokens.len(), scores.len());
        return Err(ModelError::tokenizer(metadata.path, detail));
    }
    let pieces = tokens.into_iter().zip(scores).zip(types);
    let pieces = pieces.map(|((text, score), number)| {
        let kind = PieceKind::from_number(number).ok_or_else(|| {
            let detail = format!("the token `{text}` is of type {number}");
            ModelError::tokenizer(metadata.path, detail)
        })?;
        let text = text.to_owned();
        Ok(Piece { text, score, kind })
    });
    let mut pieces = pieces.collect::<Result<Vec<_>, ModelError>>()?;
    // A converter that finds the unknown piece among the special tokens too makes it a control token.
    let unknown: Option<usize> = metadata.number("tokenizer.ggml.unknown_token_id")?;
    if let Some(piece) = unknown.and_then(|id| pieces.get_mut(id)) {
        piece.kind = PieceKind::Unknown;
    }
    byte_pair_tokenizer(metadata.path, &pieces, prefix)
}

fn byte_level_bpe(metadata: &GgufMetadata<'_>, tokens: &[&str]) -> Result<BPE, ModelError> {
    let mut vocab = HashMap::with_capacity(tokens.len());
    for (id, token) in (0_u32..).zip(tokens) {
        if vocab.insert((*token).to_owned(), id).is_some() {
            return Err(ModelError::tokenizer(
                metadata.path,
                format!("the token `{token}` occurs twice"),
            ));
        }
    }
    let merges = required(metadata, "tokenizer.ggml.merges", GgufMetadata::texts)?
        .into_iter()
        .map(|merge| match merge.split_once(' ') {
            Some((left, right)) => Ok((left.to_owned(), right.to_owned())),
            None => Err(ModelError::tokenizer(
                metadata.path,
                format!("the merge `{merge}` is not two tokens"),
            )),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let pre = metadata.text("tokenizer.ggml.pre")?;
    BPE::builder()
        .ignore_merges(pre == Some(LLAMA_3))
        .vocab_and_merges(
            vocab
                .into_iter()
                .collect::<tokenizers::models::bpe::Vocab>(),
            merges,
        )
        .build()
        .map_err(|error| ModelError::tokenizer(metadata.path, error))
}

/// `tokenizer.ggml.pre` names how text is cut before the merges apply.
fn pre_tokenizer(metadata: &GgufMetadata<'_>) -> Result<PreTokenizerWrapper, ModelError> {
    let byte_level = ByteLevel::new(false, true, true);
    match required(metadata, "tokenizer.ggml.pre", GgufMetadata::text)? {
        "gpt-2" => Ok(byte_level.into()),
        LLAMA_3 => {
            let pattern = SplitPattern::Regex(LLAMA_3_WORDS.to_owned());
            let words = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                .map_err(|error| ModelError::tokenizer(metadata.path, error))?;
            let bytes = ByteLevel::new(false, true, false);
            Ok(Sequence::new(vec![words.into(), bytes.into()]).into())
        }
        "smollm" => Ok(Sequence::new(vec![Digits::new(true).into(), byte_level.into()]).into()),
        other => Err(unsupported(metadata.path, "tokenizer.ggml.pre", other)),
    }
}

/// Control and user-defined tokens are found in a text before it is cut.
fn add_tokens(
    inner: &mut tokenizers::Tokenizer,
    metadata: &GgufMetadata<'_>,
    tokens: &[&str],
) -> Result<(), ModelError> {
    let types = token_types(metadata, tokens.len())?;
    let added = tokens.iter().zip(types).filter_map(|(token, kind)| {
        let kind = PieceKind::from_number(kind);
        let special = kind == Some(PieceKind::Control);
        let wanted = special || kind == Some(PieceKind::UserDefined);
        wanted.then(|| AddedToken::from((*token).to_owned(), special).normalized(false))
    });
    inner
        .add_tokens(added)
        .map_err(|error| ModelError::tokenizer(metadata.path, error))?;
    Ok(())
}

/// What each of so many tokens is.
fn token_types(metadata: &GgufMetadata<'_>, tokens: usize) -> Result<Vec<u64>, ModelError> {
    const TYPES: &str = "tokenizer.ggml.token_type";
    let types = required(metadata, TYPES, GgufMetadata::numbers::<u64>)?;
    if types.len() != tokens {
        let detail = format!("{tokens} tokens but {} token types", types.len());
        return Err(ModelError::tokenizer(metadata.path, detail));
    }
    Ok(types)
}

fn required<'a, T>(
    metadata: &GgufMetadata<'a>,
    key: &str,
    read: impl Fn(&GgufMetadata<'a>, &str) -> Result<Option<T>, ModelError>,
) -> Result<T, ModelError> {
    read(metadata, key)?.ok_or_else(|| metadata.absent(key))
}

fn unsupported(path: &Path, key: &str, value: &str) -> ModelError {
    ModelError::tokenizer(path, format!("`{key}` = `{value}` is not supported"))
}
