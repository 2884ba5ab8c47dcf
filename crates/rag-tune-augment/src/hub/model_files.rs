//! Which files of a model repository are needed, and whether a folder has them.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

/// What describes a model and its tokenizer; of these a repository has some.
const DESCRIPTIONS: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
];

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The files to fetch of those that a repository has: descriptions first and weights last, so that
/// weights in the cache mean that the rest is there too.
///
/// Without safetensors and without exactly one GGUF file, the error is the GGUF files there are.
pub(super) fn wanted(files: &[String]) -> Result<Vec<String>, Vec<String>> {
    let has = |name: &str| files.iter().any(|file| file == name);
    let mut wanted: Vec<String> = DESCRIPTIONS
        .iter()
        .filter(|name| has(name))
        .map(|name| (*name).into())
        .collect();
    wanted.extend(files.iter().filter(|file| is_of_module(file)).cloned());
    if has(INDEX) {
        wanted.push(INDEX.into());
        wanted.extend(files.iter().filter(|file| is_shard(file)).cloned());
        return Ok(wanted);
    }
    if has(SINGLE) {
        wanted.push(SINGLE.into());
        return Ok(wanted);
    }
    let gguf: Vec<String> = files.iter().filter(|file| is_gguf(file)).cloned().collect();
    if gguf.len() != 1 {
        return Err(gguf);
    }
    wanted.extend(gguf);
    Ok(wanted)
}

/// Whether a folder holds all weights of a model, and what they need beside them.
pub(super) fn is_complete(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_file();
    let described = has("config.json") && (has("tokenizer.json") || has("tokenizer.model"));
    if described && has(INDEX) {
        return shards(&folder.join(INDEX)).is_some_and(|shards| shards.iter().all(|s| has(s)));
    }
    (described && has(SINGLE)) || holds_gguf(folder)
}

/// The files that an index names; none if it cannot be read.
fn shards(index: &Path) -> Option<BTreeSet<String>> {
    let index: Value = serde_json::from_slice(&std::fs::read(index).ok()?).ok()?;
    let files = index.get("weight_map")?.as_object()?.values();
    files.map(|file| file.as_str().map(str::to_owned)).collect()
}

fn holds_gguf(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| entry.file_name().to_str().is_some_and(is_gguf))
}

/// The settings and weights of a sentence-transformers module: `1_Pooling/config.json`, a model2vec
/// `0_StaticEmbedding/model.safetensors`.
fn is_of_module(file: &str) -> bool {
    let Some((folder, name)) = file.split_once('/') else {
        return false;
    };
    let number = folder.split_once('_').map(|(number, _)| number);
    let is_module = number.is_some_and(|n| !n.is_empty() && n.chars().all(|c| c.is_ascii_digit()));
    is_module && ["config.json", "tokenizer.json", SINGLE].contains(&name)
}

fn is_shard(file: &str) -> bool {
    file.starts_with("model-") && file.ends_with(".safetensors")
}

fn is_gguf(file: &str) -> bool {
    file.ends_with(".gguf") && !file.contains('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted_of(files: &[&str]) -> Result<Vec<String>, Vec<String>> {
        wanted(&files.iter().map(|file| (*file).into()).collect::<Vec<_>>())
    }

    #[test]
    fn safetensors_come_before_gguf_and_pickles_never() {
        let files = [
            "README.md",
            "m.gguf",
            "model.safetensors",
            "pytorch_model.bin",
            "config.json",
        ];
        assert_eq!(
            wanted_of(&files).unwrap(),
            ["config.json", "model.safetensors"]
        );
    }

    #[test]
    fn a_sharded_model_is_index_and_shards() {
        let files = [
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json",
            "onnx/model.safetensors",
        ];
        let expected = [files[3], files[2], files[0], files[1]];
        assert_eq!(wanted_of(&files).unwrap(), expected);
    }

    #[test]
    fn modules_of_an_embedder_come_before_its_weights() {
        let files = [
            "model.safetensors",
            "2_Dense/model.safetensors",
            "2_Dense/config.json",
            "2_Dense/pytorch_model.bin",
            "1_Pooling/config.json",
            "config_sentence_transformers.json",
            "onnx/config.json",
        ];
        let expected = [files[5], files[1], files[2], files[4], files[0]];
        assert_eq!(wanted_of(&files).unwrap(), expected);
    }

    /// model2vec: its weights are an ordinary `model.safetensors`.
    #[test]
    fn static_embeddings_are_a_model_like_any_other() {
        let files = [
            "model.safetensors",
            "tokenizer.json",
            "config.json",
            "modules.json",
        ];
        assert_eq!(
            wanted_of(&files).unwrap(),
            [files[2], files[1], files[3], files[0]]
        );
    }

    #[test]
    fn one_gguf_is_taken_and_several_are_named() {
        assert_eq!(
            wanted_of(&["a.gguf", "config.json"]).unwrap(),
            ["config.json", "a.gguf"]
        );
        assert_eq!(
            wanted_of(&["a.gguf", "b.gguf"]).unwrap_err(),
            ["a.gguf", "b.gguf"]
        );
        assert!(wanted_of(&["pytorch_model.bin"]).unwrap_err().is_empty());
    }

    #[test]
    fn a_sharded_model_is_complete_with_its_last_shard() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("config.json", "{}");
        write("tokenizer.json", "{}");
        write(
            INDEX,
            r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#,
        );
        write("model-1.safetensors", "");
        assert!(!is_complete(folder.path()));
        write("model-2.safetensors", "");
        assert!(is_complete(folder.path()));
    }
}
