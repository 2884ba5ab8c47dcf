//! Files that are cut short, altered or not what their name says.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;

/// Opens `path` and reads every tensor: what loading a model does.
fn load(path: &Path, model: &TinyLlama) -> Result<(), ModelError> {
    let checkpoint = Checkpoint::open(path)?;
    for name in model.tensors.keys() {
        checkpoint.tensor(name, &shape_of(model, name))?;
    }
    Ok(())
}

#[test]
fn a_gguf_cut_anywhere_is_noticed_when_it_is_opened() {
    let model = TinyLlama::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    model.write_gguf(&path, "Q8_0");
    let whole = fs::read(&path).unwrap();
    let last_tensor = model
        .tensors
        .values()
        .map(|tensor| tensor.values.len())
        .min()
        .unwrap();
    for length in (0..whole.len() - last_tensor).step_by(7) {
        fs::write(&path, &whole[..length]).unwrap();
        let error = Checkpoint::open(&path).unwrap_err();
        let expected = matches!(
            error,
            ModelError::Truncated { .. } | ModelError::Corrupt { .. }
        );
        assert!(expected, "{length} bytes: {error}");
        assert!(
            error.to_string().contains("tiny.gguf") && error.hint().is_some(),
            "{error}"
        );
    }
    fs::write(&path, &whole[..whole.len() - last_tensor]).unwrap();
    let error = Checkpoint::open(&path).unwrap_err();
    assert!(matches!(error, ModelError::Truncated { .. }), "{error}");
}

#[test]
fn safetensors_cut_anywhere_are_noticed_when_they_are_opened() {
    let model = TinyLlama::new();
    let folder = tempfile::tempdir().unwrap();
    model.write_safetensors(folder.path(), "BF16");
    let path = folder.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    for length in (0..whole.len()).step_by(7) {
        fs::write(&path, &whole[..length]).unwrap();
        let error = Checkpoint::open(folder.path()).unwrap_err();
        assert!(
            matches!(error, ModelError::Truncated { .. }),
            "{length} bytes: {error}"
        );
        assert!(error.to_string().contains("model.safetensors"), "{error}");
    }
}

#[test]
fn a_missing_shard_and_an_index_that_lies_are_named() {
    let model = TinyLlama::new();
    let folder = tempfile::tempdir().unwrap();
    model.write_shards(folder.path(), "F32");
    let index = folder.path().join("model.safetensors.index.json");
    let text = fs::read_to_string(&index).unwrap();

    fs::write(&index, text.replace("mlp.up_proj", "mlp.side_proj")).unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err();
    assert!(error.to_string().contains("mlp.side_proj"), "{error}");

    fs::write(&index, text.replace("model-00002", "../model-00002")).unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err();
    assert!(
        error.to_string().contains("not a plain file name"),
        "{error}"
    );

    fs::write(&index, &text).unwrap();
    fs::remove_file(folder.path().join("model-00002-of-00002.safetensors")).unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err();
    assert!(
        error.to_string().contains("model-00002-of-00002"),
        "{error}"
    );
}

#[test]
fn a_git_lfs_pointer_is_no_model() {
    let folder = tempfile::tempdir().unwrap();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n";
    for name in ["model.safetensors", "model.gguf"] {
        let path = folder.path().join(name);
        fs::write(&path, pointer).unwrap();
        let target = if name.ends_with("gguf") {
            &path
        } else {
            folder.path()
        };
        let error = Checkpoint::open(target).unwrap_err();
        assert!(matches!(error, ModelError::Corrupt { .. }), "{error}");
        assert!(error.hint().unwrap().contains("Git LFS"), "{error}");
    }
}

#[test]
fn a_tensor_type_newer_than_candle_is_refused_by_number() {
    let model = TinyLlama::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    model.write_gguf(&path, "F32");
    let mut bytes = fs::read(&path).unwrap();
    let name = b"output_norm.weight";
    let at = bytes
        .windows(name.len())
        .position(|window| window == name)
        .unwrap();
    // After the name: the number of axes (4 bytes), one axis (8), then the type.
    bytes[at + name.len() + 12] = 23;
    fs::write(&path, bytes).unwrap();
    let error = Checkpoint::open(&path).unwrap_err();
    assert!(matches!(error, ModelError::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("23"), "{error}");
}

#[test]
fn an_alignment_of_zero_is_an_error_and_no_division() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    TinyLlama::new().write_gguf(&path, "F32");
    let mut bytes = fs::read(&path).unwrap();
    let key = b"general.alignment";
    let at = bytes
        .windows(key.len())
        .position(|window| window == key)
        .unwrap();
    bytes[at + key.len() + 4] = 0;
    fs::write(&path, bytes).unwrap();
    let error = Checkpoint::open(&path).unwrap_err();
    assert!(error.to_string().contains("general.alignment"), "{error}");
}

proptest! {
    /// Altered bytes may go unnoticed (in the weights they must), but they
    /// never end the program.
    #[test]
    fn altered_bytes_never_panic(
        gguf in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let model = TinyLlama::new();
        let folder = tempfile::tempdir().unwrap();
        let file = if gguf { "tiny.gguf" } else { "model.safetensors" };
        let path = folder.path().join(file);
        match gguf {
            true => model.write_gguf(&path, "Q8_0"),
            false => model.write_safetensors(folder.path(), "BF16"),
        }
        let mut bytes = fs::read(&path).unwrap();
        // The header is what can mislead a reader.
        let header = bytes.len().min(1200);
        for (index, value) in changes {
            bytes[index.index(header)] = value;
        }
        fs::write(&path, bytes).unwrap();
        if let Err(error) = load(folder.path(), &model) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
