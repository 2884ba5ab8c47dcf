//! SentencePiece's byte-pair encoding (arXiv:1808.06226) on top of the `tokenizers` crate.
//!
//! SentencePiece joins the two neighbours whose joint piece has the highest score, the leftmost first; `tokenizers` joins
//! the pair of the lowest rank. So every way to split a piece into two pieces is a merge, ordered by the piece's score. Of
//! splits with one score those with the longer left part come first, as in transformers' converter: runs of spaces, which
//! share one score in Llama's vocabulary, then come out as from SentencePiece itself.

use std::collections::HashMap;
use std::path::Path;

use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{Prepend, Replace};
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, decoders, normalizers};

use crate::error::ModelError;

/// What stands for a space.
pub(super) const SPACE: &str = "\u{2581}";
/// CodeLlama's tokens around a gap in a text: before, behind, in it, and its end. Its vocabulary has them as ordinary pieces.
pub(super) const INFILLING: [&str; 4] = ["▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"];

/// What a piece is, by the numbers that `tokenizer.model` and GGUF share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PieceKind {
    /// A part of a text.
    Normal,
    /// What stands for a part that has no piece.
    Unknown,
    /// Never a part of a text: BOS, EOS.
    Control,
    /// Found in a text before anything else.
    UserDefined,
    /// Not in use.
    Unused,
    /// One byte, `<0x0A>`.
    Byte,
}

impl PieceKind {
    pub(super) fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }

    pub(super) fn number(self) -> i32 {
        match self {
            Self::Normal => 1,
            Self::Unknown => 2,
            Self::Control => 3,
            Self::UserDefined => 4,
            Self::Unused => 5,
            Self::Byte => 6,
        }
    }
}

/// An entry of the vocabulary; its place there is its id.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) score: f32,
    pub(super) kind: PieceKind,
}

/// Whether a space is put before a text, so that its first word is as any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SpacePrefix {
    Added,
    Absent,
}

/// The tokenizer of `pieces`, without BOS. `path` is the file to blame.
///
/// Control and infilling tokens are special: left out of a decoded text. A text after one gets the space prefix again, as in
/// the tokenizer.json of Llama 2 and CodeLlama, and in llama.cpp.
pub(super) fn byte_pair_tokenizer(
    path: &Path,
    pieces: &[Piece],
    prefix: SpacePrefix,
) -> Result<tokenizers::Tokenizer, ModelError> {
    let mut vocabulary = HashMap::with_capacity(pieces.len());
    for (id, piece) in (0_u32..).zip(pieces) {
        if vocabulary.insert(piece.text.as_str(), id).is_some() {
            let detail = format!("the piece `{}` occurs twice", piece.text);
            return Err(ModelError::tokenizer(path, detail));
        }
    }
    let unknown = pieces.iter().find(|piece| piece.kind == PieceKind::Unknown);
    let unknown = unknown.ok_or_else(|| ModelError::tokenizer(path, "it has no unknown piece"))?;
    let model = BPE::builder()
        .vocab_and_merges(
            vocabulary
                .iter()
                .map(|(text, id)| ((*text).to_owned(), *id))
                .collect::<Vocab>(),
            merges(path, pieces, &vocabulary)?,
        )
        .unk_token(unknown.text.clone())
        .fuse_unk(true)
        .byte_fallback(pieces.iter().any(|piece| piece.kind == PieceKind::Byte))
        .build()
        .map_err(|error| ModelError::tokenizer(path, error))?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer
        .with_normalizer(Some(normalizer(prefix)?))
        .map_err(internal)?;
    tokenizer.with_decoder(Some(decoder(prefix)?));
    let added = pieces.iter().filter_map(|piece| {
        let special = matches!(piece.kind, PieceKind::Control | PieceKind::Unknown)
            || INFILLING.contains(&piece.text.as_str());
        let wanted = special || piece.kind == PieceKind::UserDefined;
        wanted.then(|| AddedToken::from(piece.text.clone(), special).normalized(false))
    });
    tokenizer
        .add_tokens(added)
        .map_err(|error| ModelError::tokenizer(path, error))?;
    Ok(tokenizer)
}

/// Pairs of pieces whose joint text is a piece, best first.
fn merges(
    path: &Path,
    pieces: &[Piece],
    vocabulary: &HashMap<&str, u32>,
) -> Result<Vec<(String, String)>, ModelError> {
    let is_part = |text: &str| {
        let piece = vocabulary.get(text).map(|id| &pieces[*id as usize]);
        piece.is_some_and(|piece| matches!(piece.kind, PieceKind::Normal | PieceKind::Unused))
    };
    let mut found = Vec::new();
    for piece in pieces {
        if !matches!(piece.kind, PieceKind::Normal | PieceKind::Unused) {
            continue;
        }
        if !piece.score.is_finite() {
            let detail = format!("the piece `{}` has the score {}", piece.text, piece.score);
            return Err(ModelError::tokenizer(path, detail));
        }
        let inner = piece.text.char_indices().skip(1);
        let splits = inner.map(|(at, _)| piece.text.split_at(at));
        let splits = splits.filter(|(left, right)| is_part(left) && is_part(right));
        let count = found.len();
        found.extend(splits.map(|(left, right)| (piece.score, left, right)));
        // SentencePiece would split it again; padding, the usual case, cannot come about.
        if piece.kind == PieceKind::Unused && found.len() > count {
            let detail = format!("the unused piece `{}` can come about", piece.text);
            return Err(ModelError::tokenizer(path, detail));
        }
    }
    found.sort_by(|a, b| {
        let lengths = (b.1.len(), b.2.len()).cmp(&(a.1.len(), a.2.len()));
        b.0.total_cmp(&a.0).then(lengths)
    });
    let pairs = found.into_iter();
    Ok(pairs
        .map(|(_, left, right)| (left.to_owned(), right.to_owned()))
        .collect())
}

fn normalizer(prefix: SpacePrefix) -> Result<NormalizerWrapper, ModelError> {
    let space = Replace::new(" ", SPACE).map_err(internal)?.into();
    Ok(match prefix {
        SpacePrefix::Added => {
            let prepend = Prepend::new(SPACE.to_owned()).into();
            normalizers::Sequence::new(vec![prepend, space]).into()
        }
        SpacePrefix::Absent => space,
    })
}

fn decoder(prefix: SpacePrefix) -> Result<DecoderWrapper, ModelError> {
    let space = Replace::new(SPACE, " ").map_err(internal)?;
    let mut steps: Vec<DecoderWrapper> =
        vec![space.into(), ByteFallback::new().into(), Fuse::new().into()];
    if prefix == SpacePrefix::Added {
        steps.push(Strip::new(' ', 1, 0).into());
    }
    Ok(decoders::sequence::Sequence::new(steps).into())
}

/// `Replace` takes a pattern that might not compile; ours is a plain text.
fn internal(error: tokenizers::Error) -> ModelError {
    ModelError::tokenizer(Path::new("(built in)"), error)
}
