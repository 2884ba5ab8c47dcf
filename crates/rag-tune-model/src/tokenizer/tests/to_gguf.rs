//! A vocabulary written into the metadata of a GGUF and read back is the same tokenizer.

use std::fs;

use super::golden::{assert_golden, golden};
use super::*;

const TEXTS: [&str; 6] = [
    "abc  42\n\n 3.14 it's",
    " ab<|turn|>c <s>",
    "\u{4f60}\u{597d} e\u{301}\u{20} \t\r\n x",
    "<|end|>",
    "",
    "SELECT count(*) FROM t WHERE a >= 12345",
];

/// The folder of a tokenizer as transformers writes one, from the metadata of a GGUF.
fn folder(pre: &str) -> tempfile::TempDir {
    let tokenizer = with("tokenizer.ggml.pre", Value::String(pre.to_owned())).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let json = tokenizer.inner.to_string(false).unwrap();
    fs::write(folder.path().join("tokenizer.json"), json).unwrap();
    let config = json!({
        "bos_token": "<s>", "eos_token": {"content": "<|end|>"}, "pad_token": "<|turn|>",
        "add_bos_token": true,
        "chat_template": [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}],
    });
    fs::write(
        folder.path().join("tokenizer_config.json"),
        config.to_string(),
    )
    .unwrap();
    folder
}

fn read_folder(folder: &Path) -> Tokenizer {
    Tokenizer::from_file(&folder.join("tokenizer.json")).unwrap()
}

fn written(folder: &Path, tokenizer: &Tokenizer, rows: usize) -> HashMap<String, Value> {
    let metadata = tokenizer.to_gguf(folder, rows).unwrap();
    let count = metadata.len();
    let metadata: HashMap<String, Value> = metadata.into_iter().collect();
    assert_eq!(metadata.len(), count, "no key twice");
    metadata
}

fn text<'a>(metadata: &'a HashMap<String, Value>, key: &str) -> &'a str {
    metadata[key].to_string().unwrap()
}

#[test]
fn a_byte_level_vocabulary_comes_back() {
    for pre in ["gpt-2", "smollm", "llama-bpe"] {
        let folder = folder(pre);
        let original = read_folder(folder.path());
        let rows = original.inner.get_vocab_size(true) + 3;
        let metadata = written(folder.path(), &original, rows);
        assert_eq!(text(&metadata, "tokenizer.ggml.pre"), pre);
        assert_eq!(text(&metadata, "tokenizer.ggml.model"), "gpt2");
        assert_eq!(text(&metadata, "tokenizer.chat_template"), "d");
        let padding = metadata["tokenizer.ggml.padding_token_id"].to_u32();
        assert_eq!(padding.unwrap(), 2);
        let tokens = metadata["tokenizer.ggml.tokens"].to_vec().unwrap();
        assert_eq!(tokens.len(), rows);
        let last = format!("[PAD{}]", rows - 1);
        assert_eq!(tokens[rows - 1].to_string().unwrap(), &last);

        let again = build(&metadata).unwrap();
        for text in TEXTS {
            let ids = original.encode(text).unwrap();
            assert_eq!(again.encode(text).unwrap(), ids, "{pre}: {text:?}");
            assert_eq!(again.decode(&ids).unwrap(), original.decode(&ids).unwrap());
        }
        assert_eq!(again.eos_ids(), original.eos_ids());
        assert_eq!(again.bos_id(), Some(1));
    }
}

/// Llama 3 cuts numbers into threes and takes a piece that is a token as it is.
#[test]
fn llama_3_is_cut_by_its_own_rule() {
    let folder = folder("llama-bpe");
    let tokenizer = read_folder(folder.path());
    assert_eq!(tokens(&tokenizer, "abc"), ["<s>", "abc"]);
    let mut metadata = written(folder.path(), &tokenizer, 300);
    // A token that no merges lead to.
    let Some(Value::Array(vocabulary)) = metadata.get_mut("tokenizer.ggml.tokens") else {
        panic!("no tokens")
    };
    vocabulary[290] = Value::String("123".to_owned());
    let kinds = (0..300).map(|id| Value::I32(if id < 3 { 3 } else { 1 }));
    metadata.insert(
        "tokenizer.ggml.token_type".to_owned(),
        Value::Array(kinds.collect()),
    );
    let tokenizer = build(&metadata).unwrap();
    assert_eq!(tokens(&tokenizer, "12345"), ["<s>", "123", "4", "5"]);
}

#[test]
fn what_llama_cpp_has_no_name_for_is_refused_with_the_reason() {
    let folder = folder("gpt-2");
    let path = folder.path().join("tokenizer.json");
    let tokenizer = read_folder(folder.path());
    let original: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let refusal = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut changed = original.clone();
        change(&mut changed);
        fs::write(&path, changed.to_string()).unwrap();
        let error = tokenizer.to_gguf(folder.path(), 300).unwrap_err();
        assert!(
            matches!(error, ModelError::NoGgufVocabulary { .. }),
            "{error}"
        );
        assert!(error.hint().unwrap().contains("without --gguf"));
        error.to_string()
    };
    let words = json!({"type": "Whitespace"});
    let told = refusal(&|file| file["pre_tokenizer"] = words.clone());
    assert!(
        told.contains("none of `gpt-2`, `smollm`, `llama-bpe`: `{\"type\":\"Whitespace\"}`"),
        "{told}"
    );
    let told = refusal(&|file| file["pre_tokenizer"]["add_prefix_space"] = json!(true));
    assert!(told.contains("none of"), "{told}");
    let told = refusal(&|file| file["pre_tokenizer"]["use_regex"] = json!(false));
    assert!(told.contains("none of"), "{told}");
    let told = refusal(&|file| file["normalizer"] = json!({"type": "NFC"}));
    assert!(
        told.contains("the normalizer `{\"type\":\"NFC\"}`"),
        "{told}"
    );
    let told = refusal(&|file| file["model"]["ignore_merges"] = json!(true));
    assert!(told.contains("`ignore_merges` = true"), "{told}");
    let told = refusal(&|file| file["model"]["type"] = json!("Unigram"));
    assert!(told.contains("`Unigram`"), "{told}");
    let told = refusal(&|file| file["model"]["byte_fallback"] = json!(true));
    assert!(
        told.contains("put the original model's tokenizer.model"),
        "{told}"
    );
}

#[test]
fn a_sentencepiece_vocabulary_comes_back() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/model");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.model");
    fs::copy(fixtures.join("sentencepiece/tokenizer.model"), &path).unwrap();
    let size = Tokenizer::from_sentencepiece(&path)
        .unwrap()
        .base_vocab_size();
    let added = json!({
        "add_prefix_space": false,
        "added_tokens_decoder": {
            size.to_string(): {
                "content": "<tool>", "special": true, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false,
            },
            "0": {
                "content": "<unk>", "special": true, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false,
            },
        },
    });
    for config in [json!({}), added] {
        let neighbour = folder.path().join("tokenizer_config.json");
        fs::write(&neighbour, config.to_string()).unwrap();
        let original = Tokenizer::from_sentencepiece(&path).unwrap();
        let metadata = written(folder.path(), &original, size + 8);
        let again = build(&metadata).unwrap();
        for text in ["the cat", " a  b\n", "x<tool>y", "\u{1f600}", "SELECT 1"] {
            let ids = original.encode(text).unwrap();
            assert_eq!(again.encode(text).unwrap(), ids, "{text:?}");
            assert_eq!(again.decode(&ids).unwrap(), original.decode(&ids).unwrap());
        }
    }
}

/// The tokenizer of a GGUF as files for transformers.
#[test]
fn a_tokenizer_is_saved_as_files() {
    for adds_bos in [false, true] {
        let original = with("tokenizer.ggml.add_bos_token", Value::Bool(adds_bos)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        original
            .save(folder.path(), Some("{{ bos_token }}"))
            .unwrap();
        let again = read_folder(folder.path());
        for text in TEXTS {
            let ids = original.encode(text).unwrap();
            assert_eq!(again.encode(text).unwrap(), ids, "{text:?}");
        }
        assert_eq!(again.eos_ids(), &original.eos_ids()[..1]);
        // transformers goes by the post-processor.
        let file = folder.path().join("tokenizer.json");
        let plain = tokenizers::Tokenizer::from_file(file).unwrap();
        let ids = plain.encode("ab", true).unwrap();
        assert_eq!(ids.get_ids(), original.encode("ab").unwrap());
        let config = fs::read_to_string(folder.path().join("tokenizer_config.json")).unwrap();
        assert!(
            config.contains("\"chat_template\": \"{{ bos_token }}\""),
            "{config}"
        );
    }
}

/// A real vocabulary, on all texts of the golden list.
#[test]
fn llama_2_comes_back() {
    let Some((mirror, golden)) = golden("Llama-2-7b-hf") else {
        return;
    };
    let folder = mirror.join(&golden.model);
    let original = Tokenizer::from_sentencepiece(&folder.join("tokenizer.model")).unwrap();
    let again = build(&written(&folder, &original, 32_000)).unwrap();
    assert_golden(&again, &mirror, &golden);
}
