//! A byte-level tokenizer made here, and the originals where a mirror has them.

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file::Value;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::*;

mod files;
mod golden;

/// GGUF metadata of a tokenizer with the 256 byte tokens, three merges and
/// three control tokens: `<|end|>` 0, `<s>` 1, `<|turn|>` 2.
fn metadata() -> HashMap<String, Value> {
    let mut tokens: Vec<String> = ["<|end|>", "<s>", "<|turn|>"].map(str::to_owned).into();
    let mut bytes: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    bytes.sort_unstable();
    tokens.extend(bytes.into_iter().map(String::from));
    let merges = ["Ġ Ġ", "a b", "ab c"];
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    let types = (0..tokens.len()).map(|id| Value::I32(if id < 3 { 3 } else { 1 }));
    let texts = |texts: Vec<String>| Value::Array(texts.into_iter().map(Value::String).collect());
    [
        ("tokenizer.ggml.model", Value::String("gpt2".to_owned())),
        ("tokenizer.ggml.pre", Value::String("smollm".to_owned())),
        ("tokenizer.ggml.token_type", Value::Array(types.collect())),
        ("tokenizer.ggml.tokens", texts(tokens)),
        (
            "tokenizer.ggml.merges",
            texts(merges.map(str::to_owned).into()),
        ),
        ("tokenizer.ggml.bos_token_id", Value::U32(1)),
        ("tokenizer.ggml.eos_token_id", Value::U32(0)),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

fn build(metadata: &HashMap<String, Value>) -> Result<Tokenizer, ModelError> {
    Tokenizer::from_gguf_metadata(Path::new("tiny.gguf"), metadata)
}

fn with(key: &str, value: Value) -> Result<Tokenizer, ModelError> {
    let mut metadata = metadata();
    metadata.insert(key.to_owned(), value);
    build(&metadata)
}

/// The tokens of `text` as the vocabulary spells them.
fn tokens(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    let ids = tokenizer.encode(text).unwrap();
    ids.into_iter()
        .map(|id| tokenizer.token(id).unwrap())
        .collect()
}

/// Without the digits step, `  4` is the pieces ` ` and ` 4`, and the merge of
/// two spaces never applies.
#[test]
fn smollm_splits_digits_before_anything_else() {
    let smollm = build(&metadata()).unwrap();
    assert_eq!(tokens(&smollm, "abc  42"), ["abc", "ĠĠ", "4", "2"]);
    let gpt2 = with("tokenizer.ggml.pre", Value::String("gpt-2".to_owned())).unwrap();
    assert_eq!(tokens(&gpt2, "abc  42"), ["abc", "Ġ", "Ġ", "4", "2"]);
}

#[test]
fn bos_comes_only_where_the_file_says_so() {
    assert_eq!(tokens(&build(&metadata()).unwrap(), "ab"), ["ab"]);
    let adds = with("tokenizer.ggml.add_bos_token", Value::Bool(true)).unwrap();
    assert_eq!(tokens(&adds, "ab"), ["<s>", "ab"]);
    let row = adds.encode_pair("ab", "abc c").unwrap();
    assert_eq!(
        row.prompt_len, 1,
        "`abc` straddles the boundary, BOS is the prompt's"
    );
    assert_eq!(adds.bos_id(), Some(1));
}

#[test]
fn the_completion_begins_at_the_first_token_beyond_the_prompt() {
    let tokenizer = build(&metadata()).unwrap();
    let split = |prompt: &str, full: &str| {
        let row = tokenizer.encode_pair(prompt, full).unwrap();
        assert_eq!(row.ids, tokenizer.encode(full).unwrap());
        let (prompt, completion) = row.ids.split_at(row.prompt_len);
        (
            tokenizer.decode(prompt).unwrap(),
            tokenizer.decode(completion).unwrap(),
        )
    };
    let strings = |prompt: &str, completion: &str| (prompt.to_owned(), completion.to_owned());
    assert_eq!(split("x:\n", "x:\ny"), strings("x:\n", "y"));
    // The token `abc` cannot be cut: its answer part must carry loss.
    assert_eq!(split("x ab", "x abc"), strings("x ", "abc"));
    // Three bytes of one character are three tokens.
    assert_eq!(split("é€", "é€1"), strings("é€", "1"));
    assert_eq!(split("same", "same"), strings("same", ""));
    assert_eq!(split("", "all"), strings("", "all"));
}

#[test]
fn a_full_text_must_begin_with_its_prompt() {
    let error = build(&metadata())
        .unwrap()
        .encode_pair("question", "answer")
        .unwrap_err();
    assert!(
        error.to_string().contains("does not begin with the prompt"),
        "{error}"
    );
}

#[test]
fn the_text_of_a_special_token_becomes_that_token() {
    let tokenizer = build(&metadata()).unwrap();
    assert_eq!(tokens(&tokenizer, "a<|turn|>b"), ["a", "<|turn|>", "b"]);
    let ids = tokenizer.encode("a<|turn|>b").unwrap();
    assert_eq!(tokenizer.decode(&ids).unwrap(), "ab");
}

#[test]
fn every_text_comes_back_from_its_ids() {
    let tokenizer = build(&metadata()).unwrap();
    for text in ["SELECT a\n\n\tFROM b  ", "naïve 日本 🙂", "   ", ""] {
        assert_eq!(
            tokenizer.decode(&tokenizer.encode(text).unwrap()).unwrap(),
            text
        );
    }
}

#[test]
fn the_first_eos_is_the_end_of_text() {
    let tokenizer = with("tokenizer.ggml.eot_token_id", Value::U32(2)).unwrap();
    assert_eq!(tokenizer.eos_ids(), [0, 2]);
}

#[test]
fn what_cannot_be_built_faithfully_is_refused_by_name() {
    let text = |text: &str| Value::String(text.to_owned());
    for (key, value, part) in [
        ("tokenizer.ggml.model", text("llama"), "`llama`"),
        ("tokenizer.ggml.pre", text("qwen2"), "`qwen2`"),
        (
            "tokenizer.ggml.add_space_prefix",
            Value::Bool(true),
            "add_space_prefix",
        ),
        (
            "tokenizer.ggml.token_type",
            Value::Array(vec![Value::I32(1)]),
            "token types",
        ),
        (
            "tokenizer.ggml.merges",
            Value::Array(vec![text("ab")]),
            "`ab`",
        ),
        (
            "tokenizer.ggml.merges",
            Value::Array(vec![text("ab zz")]),
            "zz",
        ),
        (
            "tokenizer.ggml.tokens",
            Value::Array(vec![text("a"), text("a")]),
            "twice",
        ),
    ] {
        let error = with(key, value).unwrap_err();
        assert!(error.to_string().contains(part), "{key}: {error}");
    }
}

#[test]
fn absent_metadata_is_named() {
    for key in [
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.merges",
        "tokenizer.ggml.pre",
    ] {
        let mut metadata = metadata();
        metadata.remove(key);
        let error = build(&metadata).unwrap_err();
        assert!(error.to_string().contains(key), "{error}");
    }
    let mut metadata = metadata();
    metadata.remove("tokenizer.ggml.eos_token_id");
    let error = build(&metadata).unwrap_err();
    assert!(error.to_string().contains("end-of-sequence"), "{error}");
}
