//! A tokenizer from SentencePiece's tokenizer.model, with what its neighbours add.
//!
//! Byte-pair models that take a text as it is, as Llama 2's and CodeLlama's do. Unigram models and those that change a text
//! first (Unicode normalisation, collapsed spaces) are refused by name.

use std::fs;
use std::path::Path;

use prost::Message;
use tokenizers::AddedToken;

use super::from_files::{AddedTokens, OwnTokens};
use super::sentencepiece::{Piece, PieceKind, SpacePrefix, byte_pair_tokenizer};
use super::{Tokenizer, from_files};
use crate::error::ModelError;

/// `sentencepiece_model.proto`, as far as it concerns us, with its defaults.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pub(super) pieces: Vec<PieceProto>,
    #[prost(message, optional, tag = "2")]
    pub(super) trainer: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    pub(super) normalizer: Option<NormalizerSpec>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PieceProto {
    #[prost(string, optional, tag = "1")]
    pub(super) piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    pub(super) score: Option<f32>,
    #[prost(int32, optional, tag = "3", default = "1")]
    pub(super) kind: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TrainerSpec {
    /// 1 to 4: unigram, BPE, word, char.
    #[prost(int32, optional, tag = "3", default = "1")]
    pub(super) model_type: Option<i32>,
    #[prost(bool, optional, tag = "24")]
    pub(super) treat_whitespace_as_suffix: Option<bool>,
    #[prost(int32, optional, tag = "41", default = "1")]
    pub(super) bos_id: Option<i32>,
    #[prost(int32, optional, tag = "42", default = "2")]
    pub(super) eos_id: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct NormalizerSpec {
    #[prost(bytes = "vec", optional, tag = "2")]
    pub(super) precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3", default = "true")]
    pub(super) add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4", default = "true")]
    pub(super) remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5", default = "true")]
    pub(super) escape_whitespaces: Option<bool>,
}

impl Tokenizer {
    /// Reads a tokenizer.model. Beside it, tokenizer_config.json, added_tokens.json, generation_config.json and config.json
    /// name more tokens, BOS and EOS; each may be absent.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] for a model that would not be read exactly.
    pub fn from_sentencepiece(path: &Path) -> Result<Self, ModelError> {
        let SentencePiece {
            pieces,
            trainer,
            added,
            prefix,
        } = SentencePiece::read(path)?;
        let mut inner = byte_pair_tokenizer(path, &pieces, prefix)?;
        for token in added {
            add_token(path, &mut inner, token)?;
        }
        // -1 where there is none.
        let id = |id: i32| u32::try_from(id).ok();
        let bos = id(trainer.bos_id());
        let own = OwnTokens {
            bos,
            adds_bos: bos.is_some(),
            eos: id(trainer.eos_id()),
        };
        let special = from_files::special_tokens(path, &inner, own)?;
        Self::new(inner, path, special)
    }
}

/// A model that we read, with what its neighbours add.
pub(super) struct SentencePiece {
    pub(super) pieces: Vec<Piece>,
    trainer: TrainerSpec,
    /// Ordered by id.
    pub(super) added: Vec<(u32, AddedToken)>,
    pub(super) prefix: SpacePrefix,
}

impl SentencePiece {
    /// Refuses what would not be read exactly.
    pub(super) fn read(path: &Path) -> Result<Self, ModelError> {
        let bytes = fs::read(path).map_err(ModelError::io(path))?;
        let model = ModelProto::decode(bytes.as_slice()).map_err(|error| {
            ModelError::tokenizer(path, format!("it is no SentencePiece model ({error})"))
        })?;
        let trainer = model.trainer.unwrap_or_default();
        let normalizer = model.normalizer.unwrap_or_default();
        if let Some(feature) = unsupported(&trainer, &normalizer) {
            let detail = format!("{feature} is not supported");
            return Err(ModelError::tokenizer(path, detail));
        }
        let pieces = model
            .pieces
            .into_iter()
            .map(|piece| read_piece(path, piece))
            .collect::<Result<Vec<_>, _>>()?;
        let added = AddedTokens::beside(path)?;
        let prefix = match normalizer.add_dummy_prefix() && added.adds_space_prefix {
            true => SpacePrefix::Added,
            false => SpacePrefix::Absent,
        };
        Ok(Self {
            pieces,
            trainer,
            added: added.tokens,
            prefix,
        })
    }
}

/// The first thing that would not be done as SentencePiece does it.
fn unsupported(trainer: &TrainerSpec, normalizer: &NormalizerSpec) -> Option<String> {
    match trainer.model_type() {
        2 => {}
        1 => return Some("a SentencePiece model of type `unigram`".to_owned()),
        3 => return Some("a SentencePiece model of type `word`".to_owned()),
        4 => return Some("a SentencePiece model of type `char`".to_owned()),
        other => return Some(format!("a SentencePiece model of type {other}")),
    }
    if !normalizer.precompiled_charsmap().is_empty() {
        return Some("`precompiled_charsmap` (Unicode normalisation)".to_owned());
    }
    for (name, refused) in [
        (
            "remove_extra_whitespaces",
            normalizer.remove_extra_whitespaces(),
        ),
        (
            "treat_whitespace_as_suffix",
            trainer.treat_whitespace_as_suffix(),
        ),
    ] {
        if refused {
            return Some(format!("`{name}` = true"));
        }
    }
    (!normalizer.escape_whitespaces()).then(|| "`escape_whitespaces` = false".to_owned())
}

fn read_piece(path: &Path, piece: PieceProto) -> Result<Piece, ModelError> {
    let number = u64::try_from(piece.kind()).unwrap_or(0);
    let Some(kind) = PieceKind::from_number(number) else {
        let detail = format!("the piece `{}` is of type {}", piece.piece(), piece.kind());
        return Err(ModelError::tokenizer(path, detail));
    };
    Ok(Piece {
        score: piece.score(),
        kind,
        text: piece.piece.unwrap_or_default(),
    })
}

/// Adds a token that must come to have the given id.
fn add_token(
    path: &Path,
    inner: &mut tokenizers::Tokenizer,
    (id, token): (u32, AddedToken),
) -> Result<(), ModelError> {
    let text = token.content.clone();
    inner
        .add_tokens([token])
        .map_err(|error| ModelError::tokenizer(path, error))?;
    match inner.token_to_id(&text) {
        Some(got) if got == id => Ok(()),
        got => {
            let got = got.map_or("none".to_owned(), |got| got.to_string());
            let detail = format!("the added token `{text}` would have the id {got}, not {id}");
            Err(ModelError::tokenizer(path, detail))
        }
    }
}
