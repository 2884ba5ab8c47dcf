//! A tokenizer from tokenizer.json, and what the files beside a tokenizer say: special and added tokens.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::AddedToken;

use super::{SpecialTokens, Tokenizer};
use crate::config::token_ids;
use crate::error::ModelError;

/// tokenizer_config.json, as far as it concerns us.
#[derive(Default, Deserialize)]
struct TokenizerConfig {
    bos_token: Option<TokenText>,
    eos_token: Option<TokenText>,
    add_bos_token: Option<bool>,
}

/// What more of it concerns a tokenizer.model.
#[derive(Default, Deserialize)]
#[serde(default)]
struct AddedTokensConfig {
    add_prefix_space: Option<bool>,
    added_tokens_decoder: BTreeMap<u32, AddedToken>,
}

/// special_tokens_map.json, as far as it concerns us.
#[derive(Default, Deserialize)]
#[serde(default)]
struct SpecialTokensMap {
    additional_special_tokens: Vec<TokenText>,
}

/// A token is written as its text, or as an object with its text.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum TokenText {
    Plain(String),
    Described { content: String },
}

/// config.json and generation_config.json, as far as they concern us.
#[derive(Default, Deserialize)]
#[serde(default)]
struct TokenIds {
    bos_token_id: Value,
    eos_token_id: Value,
}

impl Tokenizer {
    /// Reads a tokenizer.json. Beside it, tokenizer_config.json,
    /// generation_config.json and config.json name BOS and EOS; each may be
    /// absent, as long as one names an EOS.
    pub fn from_file(path: &Path) -> Result<Self, ModelError> {
        let bytes = fs::read(path).map_err(ModelError::io(path))?;
        let inner = tokenizers::Tokenizer::from_bytes(&bytes)
            .map_err(|error| ModelError::tokenizer(path, error))?;
        let prefix = added_prefix(&inner).map_err(|error| ModelError::tokenizer(path, error))?;
        let own = OwnTokens {
            bos: prefix,
            adds_bos: prefix.is_some(),
            eos: None,
        };
        let special = special_tokens(path, &inner, own)?;
        Self::new(inner, path, special)
    }
}

/// What the file of a tokenizer itself says of its special tokens.
pub(super) struct OwnTokens {
    pub(super) bos: Option<u32>,
    pub(super) adds_bos: bool,
    pub(super) eos: Option<u32>,
}

/// Tokens that are added to those of a tokenizer.model.
pub(super) struct AddedTokens {
    /// Ordered by id.
    pub(super) tokens: Vec<(u32, AddedToken)>,
    /// Unless tokenizer_config.json says otherwise.
    pub(super) adds_space_prefix: bool,
}

impl AddedTokens {
    /// From tokenizer_config.json, or from added_tokens.json and special_tokens_map.json of older releases of transformers.
    pub(super) fn beside(path: &Path) -> Result<Self, ModelError> {
        let config: AddedTokensConfig = read_neighbour(path, "tokenizer_config.json")?;
        let older: BTreeMap<String, u32> = read_neighbour(path, "added_tokens.json")?;
        let map: SpecialTokensMap = read_neighbour(path, "special_tokens_map.json")?;
        let special = map.additional_special_tokens;
        let is_special = |text: &str| special.iter().any(|special| special.text() == text);
        let mut tokens: BTreeMap<u32, AddedToken> = older
            .into_iter()
            .map(|(text, id)| {
                let special = is_special(&text);
                (id, AddedToken::from(text, special).normalized(false))
            })
            .collect();
        tokens.extend(config.added_tokens_decoder);
        Ok(Self {
            tokens: tokens.into_iter().collect(),
            adds_space_prefix: config.add_prefix_space.unwrap_or(true),
        })
    }
}

/// BOS and EOS as the files beside `path` name them, else as the tokenizer's own.
pub(super) fn special_tokens(
    path: &Path,
    inner: &tokenizers::Tokenizer,
    own: OwnTokens,
) -> Result<SpecialTokens, ModelError> {
    let config: TokenizerConfig = read_neighbour(path, "tokenizer_config.json")?;
    let model: TokenIds = read_neighbour(path, "config.json")?;
    let generation: TokenIds = read_neighbour(path, "generation_config.json")?;

    let id_of = |token: Option<TokenText>| token.and_then(|token| inner.token_to_id(token.text()));
    let mut eos_ids: Vec<u32> = id_of(config.eos_token).or(own.eos).into_iter().collect();
    for value in [&generation.eos_token_id, &model.eos_token_id] {
        for id in token_ids(value).unwrap_or_default() {
            if !eos_ids.contains(&id) {
                eos_ids.push(id);
            }
        }
    }
    let named_bos =
        id_of(config.bos_token).or_else(|| token_ids(&model.bos_token_id)?.first().copied());
    // tokenizer_config.json has the last word, as in transformers.
    let adds_bos = config.add_bos_token.unwrap_or(own.adds_bos);
    Ok(SpecialTokens {
        bos_id: named_bos.or(own.bos),
        adds_bos,
        eos_ids,
    })
}

/// The token that the post-processor puts before a text, if any.
fn added_prefix(inner: &tokenizers::Tokenizer) -> tokenizers::Result<Option<u32>> {
    let plain = inner.encode_fast("a", false)?;
    let processed = inner.encode_fast("a", true)?;
    Ok(match processed.get_ids() {
        [first, rest @ ..] if rest.starts_with(plain.get_ids()) => Some(*first),
        _ => None,
    })
}

/// A JSON file in the folder of `path`; its default where there is none.
pub(super) fn read_neighbour<T: Default + for<'de> Deserialize<'de>>(
    path: &Path,
    name: &str,
) -> Result<T, ModelError> {
    let neighbour = path.with_file_name(name);
    if !neighbour.exists() {
        return Ok(T::default());
    }
    let text = fs::read_to_string(&neighbour).map_err(ModelError::io(&neighbour))?;
    serde_json::from_str(&text).map_err(|error| ModelError::config(&neighbour, error))
}

impl TokenText {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Plain(text) | Self::Described { content: text } => text,
        }
    }
}
