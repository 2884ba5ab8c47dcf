//! The plain adapter folder that PEFT, vLLM and the hub expect: two files, nothing of ours.

use std::collections::BTreeMap;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

use super::{AdapterFiles, ExportDtype};
use crate::error::ModelError;
use crate::peft::{CONFIG_FILE, WEIGHTS_FILE};

/// Key of `adapter_config.json` that names the base model.
pub const BASE_KEY: &str = "base_model_name_or_path";

/// The text of `adapter_config.json`: as it was, with `base` as the base model's name.
///
/// # Errors
/// [`ModelError::Corrupt`] if serialisation fails.
pub fn config_text(files: &AdapterFiles, base: &str) -> Result<String, ModelError> {
    let mut config = files.config().clone();
    config.insert(BASE_KEY.to_owned(), Value::from(base));
    let text = serde_json::to_string_pretty(&config);
    let path = files.folder().join(CONFIG_FILE);
    Ok(text.map_err(|error| ModelError::corrupt(&path, error))? + "\n")
}

/// The bytes of `adapter_model.safetensors`, with every tensor as `dtype`.
///
/// # Errors
/// [`ModelError::Unsupported`] for a tensor that is not of f32, f16 or bf16,
/// [`ModelError::NonFinite`] if a value does not fit into `dtype`.
pub fn weights_bytes(files: &AdapterFiles, dtype: ExportDtype) -> Result<Vec<u8>, ModelError> {
    let path = files.folder().join(WEIGHTS_FILE);
    let mut buffers = BTreeMap::new();
    for (name, view) in files.tensors().iter() {
        let values = values(view.dtype(), view.data()).ok_or_else(|| ModelError::Unsupported {
            path: path.clone(),
            feature: format!("`{name}` of type {:?}", view.dtype()),
        })?;
        let bytes = dtype.bytes(name, &values)?;
        buffers.insert(name.to_owned(), (view.shape().to_vec(), bytes));
    }
    let stored = match dtype {
        ExportDtype::F32 => Dtype::F32,
        ExportDtype::F16 => Dtype::F16,
        ExportDtype::Bf16 => Dtype::BF16,
    };
    let mut views = BTreeMap::new();
    for (name, (shape, bytes)) in &buffers {
        let view = TensorView::new(stored, shape.clone(), bytes);
        views.insert(
            name,
            view.map_err(|error| ModelError::corrupt(&path, error))?,
        );
    }
    // PyTorch's loaders ask for this key.
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize(views, Some(metadata)).map_err(|error| ModelError::corrupt(&path, error))
}

/// Little-endian floating point numbers, widened; `None` for another type.
fn values(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    let halves = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
    Some(match dtype {
        Dtype::F32 => bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
        Dtype::F16 => halves().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
        Dtype::BF16 => halves().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lora::{Adapter, Projection};
    use crate::lora_settings::LoraSettings;
    use crate::peft;

    #[test]
    fn only_the_bases_name_and_the_type_change() {
        let config = crate::interchange::tests::tiny_config();
        let settings = LoraSettings::uniform(2, 4.0, [Projection::Q, Projection::Down]);
        let adapter = Adapter::new(&config, settings, 1);
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        };
        write(WEIGHTS_FILE, &peft::weights_bytes(&adapter).unwrap());
        let text = peft::config_text(&adapter, "/home/me/llama", 0.0).unwrap();
        write(CONFIG_FILE, text.as_bytes());
        let files = AdapterFiles::open(folder.path()).unwrap();

        let same = weights_bytes(&files, ExportDtype::F32).unwrap();
        assert_eq!(same, files.weights);
        let renamed = config_text(&files, "owner/llama").unwrap();
        assert_eq!(renamed, text.replace("/home/me/llama", "owner/llama"));

        write(
            WEIGHTS_FILE,
            &weights_bytes(&files, ExportDtype::Bf16).unwrap(),
        );
        let loaded = peft::load(folder.path(), &config).unwrap();
        for (place, factors) in &adapter.layers {
            for (exact, rounded) in factors.a.data().iter().zip(loaded.layers[place].a.data()) {
                assert_eq!(bf16::from_f32(*exact).to_f32(), *rounded);
            }
        }
    }
}
