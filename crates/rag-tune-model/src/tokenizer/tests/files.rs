//! tokenizer.json with its neighbours.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use super::*;

/// A folder with a tokenizer.json whose post-processor adds `<s>`.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let added = |id: u32, content: &str| {
        json!({
            "id": id, "content": content, "special": true, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false,
        })
    };
    let tokenizer = json!({
        "version": "1.0",
        // As MiniLM's file has it: a prompt must not be cut in silence.
        "truncation": {
            "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0,
        },
        "padding": null,
        "added_tokens": [added(0, "</s>"), added(1, "<s>"), added(2, "<eot>")],
        "normalizer": null,
        "pre_tokenizer": {
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                { "SpecialToken": { "id": "<s>", "type_id": 0 } },
                { "Sequence": { "id": "A", "type_id": 0 } },
            ],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [1], "tokens": ["<s>"] } },
        },
        "decoder": {
            "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true,
        },
        "model": {
            "type": "BPE",
            "vocab": { "</s>": 0, "<s>": 1, "<eot>": 2, "a": 3, "b": 4, "Ġ": 5, "ab": 6 },
            "merges": ["a b"],
        },
    });
    fs::write(&path, tokenizer.to_string()).unwrap();
    (folder, path)
}

fn write(folder: &tempfile::TempDir, name: &str, content: &serde_json::Value) {
    fs::write(folder.path().join(name), content.to_string()).unwrap();
}

#[test]
fn special_tokens_are_collected_from_all_neighbours() {
    let (folder, path) = folder();
    write(
        &folder,
        "config.json",
        &json!({ "bos_token_id": 1, "eos_token_id": 2 }),
    );
    write(
        &folder,
        "generation_config.json",
        &json!({ "eos_token_id": [0, 2] }),
    );
    assert_eq!(Tokenizer::from_file(&path).unwrap().eos_ids(), [0, 2]);

    // The tokenizer's own EOS comes first: training rows end with it.
    write(
        &folder,
        "tokenizer_config.json",
        &json!({ "eos_token": { "content": "<eot>" } }),
    );
    let tokenizer = Tokenizer::from_file(&path).unwrap();
    assert_eq!(
        (tokenizer.eos_ids(), tokenizer.bos_id()),
        ([2, 0].as_slice(), Some(1))
    );
}

#[test]
fn bos_follows_the_post_processor_unless_the_config_says_otherwise() {
    let (folder, path) = folder();
    write(
        &folder,
        "tokenizer_config.json",
        &json!({ "eos_token": "</s>" }),
    );
    assert_eq!(
        Tokenizer::from_file(&path).unwrap().encode("ab").unwrap(),
        [1, 6]
    );
    let refused = json!({ "eos_token": "</s>", "bos_token": "<s>", "add_bos_token": false });
    write(&folder, "tokenizer_config.json", &refused);
    let tokenizer = Tokenizer::from_file(&path).unwrap();
    assert_eq!(
        (tokenizer.encode("ab").unwrap(), tokenizer.bos_id()),
        (vec![6], Some(1))
    );
}

#[test]
fn a_long_prompt_is_not_cut() {
    let (folder, path) = folder();
    write(
        &folder,
        "tokenizer_config.json",
        &json!({ "eos_token": "</s>" }),
    );
    let tokenizer = Tokenizer::from_file(&path).unwrap();
    assert_eq!(tokenizer.encode("ab ab ab ab").unwrap().len(), 1 + 7);
    let row = tokenizer.encode_pair("ab ", "ab  b").unwrap();
    assert_eq!((row.ids, row.prompt_len), (vec![1, 6, 5, 5, 4], 3));
}

#[test]
fn a_broken_file_and_a_nameless_eos_are_errors() {
    let (folder, path) = folder();
    let error = Tokenizer::from_file(&path).unwrap_err();
    assert!(error.to_string().contains("end-of-sequence"), "{error}");

    fs::write(folder.path().join("tokenizer_config.json"), "{").unwrap();
    let error = Tokenizer::from_file(&path).unwrap_err();
    assert!(
        error.to_string().contains("tokenizer_config.json"),
        "{error}"
    );

    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text[..text.len() / 2]).unwrap();
    let error = Tokenizer::from_file(&path).unwrap_err();
    assert!(matches!(error, ModelError::Tokenizer { .. }), "{error}");
    assert!(error.hint().is_some());
}
