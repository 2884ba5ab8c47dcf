//! The ids of the original tokenizers (`scripts/golden_tokens.py`) on every
//! text of the data sets.

use std::fs;
use std::path::PathBuf;

use rayon::prelude::*;
use serde::Deserialize;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use super::*;
use crate::checkpoint::Checkpoint;
use crate::mirror::mirror_with;

#[derive(Deserialize)]
struct Golden {
    models: Vec<GoldenModel>,
}

#[derive(Deserialize)]
pub(super) struct GoldenModel {
    pub(super) model: String,
    files: Vec<GoldenFile>,
    examples: Vec<Example>,
}

#[derive(Deserialize)]
struct GoldenFile {
    path: String,
    texts: usize,
    tokens: usize,
    sha256: String,
}

#[derive(Deserialize)]
struct Example {
    text: String,
    ids: Vec<u32>,
}

/// Ends the ids of each text in the hash, as the script does.
const END_OF_TEXT: u32 = u32::MAX;

#[test]
fn smollm2_from_its_gguf_gives_the_original_ids() {
    let Some((mirror, golden)) = golden("SmolLM2-135M-Instruct") else {
        return;
    };
    let checkpoint = Checkpoint::open(&mirror.join(&golden.model)).unwrap();
    let tokenizer = checkpoint.tokenizer().unwrap();
    assert_eq!(
        (tokenizer.bos_id(), tokenizer.eos_ids()),
        (Some(1), [2].as_slice())
    );
    assert_golden(&tokenizer, &mirror, &golden);
    assert_prompts_and_answers_part_cleanly(&tokenizer);
}

#[test]
fn code_llama_from_its_tokenizer_json_gives_the_original_ids() {
    let Some((mirror, golden)) = golden("CodeLlama-7b-Python-hf") else {
        return;
    };
    let file = mirror.join(&golden.model).join("tokenizer.json");
    let tokenizer = Tokenizer::from_file(&file).unwrap();
    assert_eq!(
        (tokenizer.bos_id(), tokenizer.eos_ids()),
        (Some(1), [2].as_slice())
    );
    assert_golden(&tokenizer, &mirror, &golden);
    assert_prompts_and_answers_part_cleanly(&tokenizer);
}

/// Against SentencePiece itself; with CodeLlama's added tokens, against its tokenizer.json.
#[test]
fn llama_2_from_its_tokenizer_model_gives_the_ids_of_sentencepiece() {
    let Some((mirror, llama_2)) = golden("Llama-2-7b-hf") else {
        return;
    };
    let file = mirror.join(&llama_2.model).join("tokenizer.model");
    let tokenizer = Tokenizer::from_sentencepiece(&file).unwrap();
    assert_eq!(
        (tokenizer.bos_id(), tokenizer.eos_ids()),
        (Some(1), [2].as_slice())
    );
    assert_golden(&tokenizer, &mirror, &llama_2);
    assert_prompts_and_answers_part_cleanly(&tokenizer);

    let Some((mirror, code_llama)) = golden("CodeLlama-7b-Python-hf") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.model");
    fs::copy(&file, &path).unwrap();
    let copy = |name: &str| {
        let from = mirror.join(&code_llama.model).join(name);
        fs::copy(from, folder.path().join(name)).unwrap();
    };
    // What older releases of transformers wrote, then what newer ones do.
    copy("added_tokens.json");
    copy("special_tokens_map.json");
    let read = || Tokenizer::from_sentencepiece(&path).unwrap();
    let infilled = [32_000, 263, 32_003];
    assert_eq!(read().decode(&infilled).unwrap(), "a");
    let older = read().encode("▁<PRE>x▁<MID>").unwrap();
    copy("tokenizer_config.json");
    assert_eq!(read().encode("▁<PRE>x▁<MID>").unwrap(), older);
    assert_eq!(read().decode(&infilled).unwrap(), "a");
    assert_golden(&read(), &mirror, &code_llama);
}

pub(super) fn golden(model: &str) -> Option<(PathBuf, GoldenModel)> {
    let fixture = "../../tests/fixtures/model/golden_tokens.json";
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(fixture)).unwrap();
    let golden: Golden = serde_json::from_str(&text).unwrap();
    let golden = golden
        .models
        .into_iter()
        .find(|golden| golden.model.ends_with(model))
        .unwrap();
    Some((mirror_with(&golden.model)?, golden))
}

pub(super) fn assert_golden(tokenizer: &Tokenizer, mirror: &Path, golden: &GoldenModel) {
    for Example { text, ids } in &golden.examples {
        assert_eq!(&tokenizer.encode(text).unwrap(), ids, "{text:?}");
    }
    for file in &golden.files {
        let path = format!("datasets/{}", file.path);
        if mirror_with(&path).is_none() {
            continue; // a mirror of the models alone
        }
        let data = fs::read_to_string(mirror.join(path)).unwrap();
        let lines: Vec<&str> = data.lines().collect();
        let encoded: Vec<Vec<u32>> = lines
            .par_iter()
            .flat_map_iter(|line| texts(line))
            .map(|text| tokenizer.encode(&text).unwrap())
            .collect();
        let mut hash = Sha256::new();
        for id in encoded
            .iter()
            .flat_map(|ids| ids.iter().chain([&END_OF_TEXT]))
        {
            hash.update(id.to_le_bytes());
        }
        let sha256: String = hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let tokens: usize = encoded.iter().map(Vec::len).sum();
        assert_eq!(
            (encoded.len(), tokens),
            (file.texts, file.tokens),
            "{}",
            file.path
        );
        assert_eq!(sha256, file.sha256, "{}", file.path);
    }
}

/// Every text field of a row, and all of them in one text.
fn texts(line: &str) -> Vec<String> {
    let row: serde_json::Map<String, Json> = serde_json::from_str(line).unwrap();
    let mut fields: Vec<String> = row
        .values()
        .filter_map(Json::as_str)
        .map(str::to_owned)
        .collect();
    fields.push(fields.join("\n\n"));
    fields
}

/// Also where a token of the whole text, `()`, `Hello` or a run of spaces, straddles the boundary.
fn assert_prompts_and_answers_part_cleanly(tokenizer: &Tokenizer) {
    let cases = [
        ("### Response:\n", "SELECT 1"),
        ("### Response:\n", "\n\n  SELECT 1"),
        ("Call f(", ") twice"),
        ("Hel", "lo, world"),
        ("def f():\n  ", "    return 1"),
        ("naï", "veté 日本"),
    ];
    for (prompt, answer) in cases {
        let row = tokenizer.encode_pair(prompt, &format!("{prompt}{answer}"));
        let row = row.unwrap();
        let (before, behind) = row.ids.split_at(row.prompt_len);
        assert_eq!(before, tokenizer.encode(prompt).unwrap(), "{answer:?}");
        let text = tokenizer.decode(&row.ids).unwrap();
        assert_eq!(text, format!("{prompt}{answer}"));
        assert!(!behind.is_empty());
    }
}
