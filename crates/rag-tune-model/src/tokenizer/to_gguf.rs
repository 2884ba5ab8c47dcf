//! The `tokenizer.*` metadata of a GGUF, as llama.cpp's `convert_hf_to_gguf.py` writes it.
//!
//! SentencePiece's tokenizer.model becomes the vocabulary `llama`, a byte-level BPE of tokenizer.json `gpt2`. How llama.cpp
//! cuts a text before the merges of the latter apply goes by a name; the converter finds it by the ids of a text, which
//! are of one vocabulary, we by the rules themselves.

use std::path::Path;

use candle_core::quantized::gguf_file::Value;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokenizers::AddedToken;

use super::from_files::{TokenText, read_neighbour};
use super::from_sentencepiece::SentencePiece;
use super::sentencepiece::{INFILLING, PieceKind, SPACE, SpacePrefix};
use super::{TOKENIZER_JSON, TOKENIZER_MODEL, Tokenizer};
use crate::error::ModelError;

/// The pattern of Llama 3's words.
pub(super) const LLAMA_3_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The `tokenizer.ggml.pre` that is cut so. It takes a piece that is a token as it is.
pub(super) const LLAMA_3: &str = "llama-bpe";

/// Scores that the converter gives to added tokens, and to those that fill the vocabulary up.
const ADDED_SCORE: f32 = -1000.0;
const PADDING_SCORE: f32 = -10_000.0;

/// tokenizer.json, as far as it concerns a GGUF.
#[derive(Deserialize)]
struct TokenizerJson {
    model: ModelJson,
    #[serde(default)]
    normalizer: Json,
    #[serde(default)]
    pre_tokenizer: Json,
}

#[derive(Deserialize)]
#[serde(default)]
struct ModelJson {
    #[serde(rename = "type")]
    kind: String,
    byte_fallback: bool,
    ignore_merges: bool,
    dropout: Json,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    merges: Vec<Merge>,
}

impl Default for ModelJson {
    fn default() -> Self {
        Self {
            // Old files do not name it.
            kind: "BPE".to_owned(),
            byte_fallback: false,
            ignore_merges: false,
            dropout: Json::Null,
            continuing_subword_prefix: None,
            end_of_word_suffix: None,
            merges: Vec::new(),
        }
    }
}

/// Two tokens, in the format's two forms.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Joined(String),
    Pair(String, String),
}

/// tokenizer_config.json, as far as it concerns a GGUF.
#[derive(Default, Deserialize)]
#[serde(default)]
struct TokenizerConfig {
    unk_token: Option<TokenText>,
    pad_token: Option<TokenText>,
    chat_template: Option<ChatTemplates>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ChatTemplates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

/// A token of the vocabulary: text, score and kind.
type Entry = (String, f32, PieceKind);

impl Tokenizer {
    /// The metadata for a model with `rows` rows of embedding, from the files in `folder`, which this tokenizer is of.
    ///
    /// # Errors
    /// [`ModelError::NoGgufVocabulary`] for what llama.cpp has no name for.
    pub(crate) fn to_gguf(
        &self,
        folder: &Path,
        rows: usize,
    ) -> Result<Vec<(String, Value)>, ModelError> {
        let (json, model) = (folder.join(TOKENIZER_JSON), folder.join(TOKENIZER_MODEL));
        let mut metadata = match model.exists() {
            true => sentencepiece(&model, rows)?,
            false => self.byte_level(&json, rows)?,
        };
        self.add_special(&mut metadata, folder, rows)?;
        let keys = metadata.into_iter();
        Ok(keys
            .map(|(key, value)| (format!("tokenizer.{key}"), value))
            .collect())
    }

    fn byte_level(&self, path: &Path, rows: usize) -> Result<Metadata, ModelError> {
        let text = std::fs::read_to_string(path).map_err(ModelError::io(path))?;
        let file: TokenizerJson =
            serde_json::from_str(&text).map_err(|error| ModelError::tokenizer(path, error))?;
        drop(text);
        let pre = pre_tokenizer(&file).map_err(|detail| ModelError::NoGgufVocabulary {
            path: path.to_owned(),
            detail,
        })?;
        let added = self.inner.get_added_tokens_decoder();
        let entry = |id: u32| match (added.get(&id), self.inner.id_to_token(id)) {
            (Some(token), _) => {
                let (text, kind) = added_token(token);
                (text, ADDED_SCORE, kind)
            }
            (None, Some(text)) => (text, 0.0, PieceKind::Normal),
            (None, None) => padding(id),
        };
        let entries: Vec<Entry> = (0..rows as u32).map(entry).collect();
        let merges = file.model.merges.into_iter().map(|merge| match merge {
            Merge::Joined(merge) => merge,
            Merge::Pair(left, right) => format!("{left} {right}"),
        });
        Ok(vec![
            ("ggml.model", text_value("gpt2")),
            ("ggml.pre", text_value(pre)),
            ("ggml.tokens", texts(&entries)),
            ("ggml.token_type", kinds(&entries)),
            (
                "ggml.merges",
                Value::Array(merges.map(Value::String).collect()),
            ),
        ])
    }

    /// What is at the beginning and end of a text, and the chat template.
    fn add_special(
        &self,
        metadata: &mut Metadata,
        folder: &Path,
        rows: usize,
    ) -> Result<(), ModelError> {
        let beside = folder.join(TOKENIZER_JSON);
        let config: TokenizerConfig = read_neighbour(&beside, "tokenizer_config.json")?;
        let id_of = |token: Option<TokenText>| {
            let id = self.inner.token_to_id(token?.text())?;
            ((id as usize) < rows).then_some(id)
        };
        let mut eos = self.eos_ids.iter().copied();
        let is_named = metadata.iter().any(|(key, _)| *key == UNKNOWN);
        let is_infilling = metadata.iter().any(|(key, _)| *key == END_OF_TURN);
        let ids = [
            ("ggml.bos_token_id", self.bos_id),
            ("ggml.eos_token_id", eos.next()),
            // A second token ends a generation too, here and there.
            (END_OF_TURN, eos.next().filter(|_| !is_infilling)),
            (UNKNOWN, id_of(config.unk_token).filter(|_| !is_named)),
            ("ggml.padding_token_id", id_of(config.pad_token)),
        ];
        let ids = ids.into_iter();
        metadata.extend(ids.filter_map(|(key, id)| Some((key, Value::U32(id?)))));
        metadata.push(("ggml.add_bos_token", Value::Bool(self.adds_bos)));
        let template = match config.chat_template {
            Some(ChatTemplates::One(template)) => Some(template),
            Some(ChatTemplates::Named(templates)) => {
                let mut templates = templates.into_iter();
                let default = templates.find(|template| template.name == "default");
                default.map(|template| template.template)
            }
            None => {
                let path = folder.join("chat_template.jinja");
                let read = || std::fs::read_to_string(&path).map_err(ModelError::io(&path));
                path.is_file().then(read).transpose()?
            }
        };
        metadata.extend(template.map(|template| ("chat_template", Value::String(template))));
        Ok(())
    }
}

/// Keys without `tokenizer.`, in the file's order.
type Metadata = Vec<(&'static str, Value)>;

const UNKNOWN: &str = "ggml.unknown_token_id";
const END_OF_TURN: &str = "ggml.eot_token_id";

fn sentencepiece(path: &Path, rows: usize) -> Result<Metadata, ModelError> {
    let SentencePiece {
        pieces,
        added,
        prefix,
        ..
    } = SentencePiece::read(path)?;
    let unknown = pieces
        .iter()
        .position(|piece| piece.kind == PieceKind::Unknown);
    let infilling = INFILLING.map(|text| pieces.iter().position(|piece| piece.text == text));
    let mut entries: Vec<Entry> = pieces
        .into_iter()
        .map(|piece| (piece.text, piece.score, piece.kind))
        .collect();
    let missing = entries.len() as u32..rows as u32;
    entries.extend(missing.map(padding));
    entries.truncate(rows);
    for (id, token) in &added {
        // Tokens beyond the embedding's rows are in no model; the unknown one stays what it is.
        let Some(entry) = entries.get_mut(*id as usize) else {
            continue;
        };
        if entry.2 != PieceKind::Unknown {
            let (text, kind) = added_token(token);
            *entry = (text, ADDED_SCORE, kind);
        }
    }
    let scores = entries.iter().map(|(_, score, _)| Value::F32(*score));
    let mut metadata = vec![
        ("ggml.model", text_value("llama")),
        ("ggml.pre", text_value("default")),
        ("ggml.tokens", texts(&entries)),
        ("ggml.scores", Value::Array(scores.collect())),
        ("ggml.token_type", kinds(&entries)),
    ];
    let keys = [
        "ggml.prefix_token_id",
        "ggml.suffix_token_id",
        "ggml.middle_token_id",
        END_OF_TURN,
    ];
    let ids = keys.into_iter().zip(infilling).chain([(UNKNOWN, unknown)]);
    metadata.extend(ids.filter_map(|(key, id)| Some((key, Value::U32(id? as u32)))));
    if prefix == SpacePrefix::Absent {
        metadata.push(("ggml.add_space_prefix", Value::Bool(false)));
    }
    Ok(metadata)
}

/// The name of how the tokenizer cuts a text, or why there is none.
fn pre_tokenizer(file: &TokenizerJson) -> Result<&'static str, String> {
    let model = &file.model;
    if model.byte_fallback {
        return Err(format!(
            "it is SentencePiece's without its scores; put the original model's {TOKENIZER_MODEL} beside it"
        ));
    }
    if model.kind != "BPE" {
        return Err(format!("a vocabulary of the kind `{}`", model.kind));
    }
    let is_changed = [&model.continuing_subword_prefix, &model.end_of_word_suffix]
        .into_iter()
        .flatten()
        .any(|affix| !affix.is_empty());
    if is_changed || !model.dropout.is_null() {
        return Err("a BPE with affixes or dropout".to_owned());
    }
    if !file.normalizer.is_null() {
        return Err(format!("the normalizer `{}`", file.normalizer));
    }
    let known = known_pre_tokenizers();
    let name = known
        .iter()
        .find(|(_, rule)| is_like(&file.pre_tokenizer, rule));
    match name {
        Some((name, _)) if (*name == LLAMA_3) == model.ignore_merges => Ok(name),
        Some((name, _)) => Err(format!(
            "`ignore_merges` = {} with the pre-tokenizer `{name}`",
            model.ignore_merges
        )),
        None => {
            let names: Vec<String> = known.iter().map(|(name, _)| format!("`{name}`")).collect();
            Err(format!(
                "its pre-tokenizer is none of {}: `{}`",
                names.join(", "),
                file.pre_tokenizer
            ))
        }
    }
}

/// What llama.cpp's names stand for.
fn known_pre_tokenizers() -> [(&'static str, Json); 3] {
    let words =
        |use_regex| json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": use_regex});
    let digits = json!({"type": "Digits", "individual_digits": true});
    let split = json!({
        "type": "Split",
        "pattern": {"Regex": LLAMA_3_WORDS},
        "behavior": "Isolated",
        "invert": false,
    });
    let sequence = |parts: [Json; 2]| json!({"type": "Sequence", "pretokenizers": parts});
    [
        ("gpt-2", words(true)),
        ("smollm", sequence([digits, words(true)])),
        (LLAMA_3, sequence([split, words(false)])),
    ]
}

/// Whether `rule` has all that `known` says; `trim_offsets` changes no ids, and the words of GPT-2 are the default.
fn is_like(rule: &Json, known: &Json) -> bool {
    match (rule, known) {
        (Json::Object(rule), Json::Object(known)) => {
            let is_known = |key: &String| known.contains_key(key) || key == "trim_offsets";
            rule.keys().all(is_known)
                && known.iter().all(|(key, value)| match rule.get(key) {
                    Some(own) => is_like(own, value),
                    None => key == "use_regex" && *value == json!(true),
                })
        }
        (Json::Array(rule), Json::Array(known)) => {
            rule.len() == known.len() && rule.iter().zip(known).all(|(a, b)| is_like(a, b))
        }
        _ => rule == known,
    }
}

/// Text and kind of a token beside the vocabulary, by the converter's rules.
fn added_token(token: &AddedToken) -> (String, PieceKind) {
    let text = &token.content;
    match token.special || looks_special(text) {
        true => (text.clone(), PieceKind::Control),
        false => (text.replace(SPACE, " "), PieceKind::UserDefined),
    }
}

/// The converter's `does_token_look_special`: some models forget to say so.
fn looks_special(text: &str) -> bool {
    let is_between = |start, end| text.starts_with(start) && text.ends_with(end);
    ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&text)
        || is_between("<|", "|>")
        || is_between("<\u{ff5c}", "\u{ff5c}>")
        || is_between("<unused", ">")
}

/// A token for a row of the embedding that has none.
fn padding(id: u32) -> Entry {
    (format!("[PAD{id}]"), PADDING_SCORE, PieceKind::Unused)
}

fn text_value(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn texts(entries: &[Entry]) -> Value {
    let texts = entries.iter().map(|(text, ..)| text_value(text));
    Value::Array(texts.collect())
}

fn kinds(entries: &[Entry]) -> Value {
    let kinds = entries.iter().map(|(.., kind)| Value::I32(kind.number()));
    Value::Array(kinds.collect())
}
