//! A byte-level tokenizer made here, and the originals where a mirror has them.

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file::Value;
use serde_json::json;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::*;

mod files;
mod golden;
pub(crate) mod sentencepiece;
mod to_gguf;

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

/// One token a byte, but for `ab`, `abc` and two spaces; ids 0 to 261.
pub(crate) fn byte_level() -> Tokenizer {
    build(&metadata()).unwrap()
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
    let row = adds.encode_pair("ab", "ab c").unwrap();
    assert_eq!(row.prompt_len, 2, "BOS is the prompt's");
    assert_eq!(tokens(&adds, "<s>ab"), ["<s>", "ab"], "not a second one");
    assert_eq!(adds.bos_id(), Some(1));
}

#[test]
fn a_row_begins_with_the_tokens_of_its_prompt() {
    let tokenizer = build(&metadata()).unwrap();
    let completion = |prompt: &str, full: &str| {
        let row = tokenizer.encode_pair(prompt, full).unwrap();
        let (asked, completion) = row.ids.split_at(row.prompt_len);
        assert_eq!(asked, tokenizer.encode(prompt).unwrap());
        tokenizer.decode(completion).unwrap()
    };
    assert_eq!(completion("x:\n", "x:\ny"), "y");
    // `abc` is one token of the whole text.
    assert_eq!(completion("x ab", "x abc"), "c");
    // Three bytes of one character are three tokens.
    assert_eq!(completion("é€", "é€1"), "1");
    assert_eq!(completion("same", "same"), "");
    assert_eq!(completion("", "all"), "all");
}

/// As Llama's: spaces are `▁`, one stands before every text, and a line break is a byte token.
fn sentencepiece() -> Tokenizer {
    let pieces = [
        "<unk>", "<s>", "</s>", "<0x0A>", "▁", "a", "b", "c", "ab", "abc", "▁a",
    ];
    let vocabulary: HashMap<_, _> = pieces.into_iter().zip(0..).collect();
    let special = |id: u32| {
        json!({"id": id, "content": pieces[id as usize], "special": true, "single_word": false,
               "lstrip": false, "rstrip": false, "normalized": false})
    };
    let file = json!({
        "version": "1.0",
        "added_tokens": [special(0), special(1), special(2)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
                  "vocab": vocabulary, "merges": ["a b", "ab c"]},
    });
    let special = SpecialTokens {
        bos_id: Some(1),
        adds_bos: true,
        eos_ids: vec![2],
    };
    let inner = file.to_string().parse().unwrap();
    Tokenizer::new(inner, Path::new("sentencepiece.json"), special).unwrap()
}

#[test]
fn sentencepiece_merges_nothing_across_the_end_of_the_prompt() {
    let tokenizer = sentencepiece();
    let row = |prompt: &str, full: &str| {
        let row = tokenizer.encode_pair(prompt, full).unwrap();
        let ids = row.ids.iter();
        let tokens: Vec<_> = ids.map(|id| tokenizer.token(*id).unwrap()).collect();
        (tokens.join(" "), row.prompt_len)
    };
    let is = |tokens: &str, prompt_len| (tokens.to_owned(), prompt_len);
    assert_eq!(tokens(&tokenizer, "abc"), ["<s>", "▁", "abc"]);
    assert_eq!(row("ab", "abc"), is("<s> ▁ ab c", 3), "no space before `c`");
    assert_eq!(row("ab", "abab"), is("<s> ▁ ab ab", 3));
    assert_eq!(row("a", "ab c"), is("<s> ▁ a b ▁ c", 3));
    assert_eq!(row("c\n", "c\nab"), is("<s> ▁ c <0x0A> ab", 4));
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
        ("tokenizer.ggml.model", text("t5"), "`t5`"),
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
