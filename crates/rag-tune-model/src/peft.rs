//! Adapters on disk, in the format of Hugging Face PEFT.
//!
//! `adapter_model.safetensors` holds `A` `[rank, in]` and `B` `[out, rank]` of every adapted layer
//! (and `[out]` magnitudes with DoRA) under PEFT's names; `adapter_config.json` holds what PEFT needs to apply them. Files of
//! our own stand beside them, because PEFT refuses keys that it does not know.

mod config;
mod targets;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rag_tune_kernels::Tensor;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::config::LlamaConfig;
use crate::error::ModelError;
use crate::lora::{Adapter, Factor, LoraFactors, Place};
use crate::lora_settings::module_name;

/// File of the factors.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// File of the settings.
pub const CONFIG_FILE: &str = "adapter_config.json";

/// PEFT's name of one factor.
pub fn tensor_name(place: Place, factor: Factor) -> String {
    let factor = match factor {
        Factor::A => "lora_A.weight",
        Factor::B => "lora_B.weight",
        Factor::Magnitude => "lora_magnitude_vector",
    };
    format!("base_model.model.{}.{factor}", module_name(place))
}

/// PEFT's shape of one factor: a magnitude has one axis.
pub fn stored_shape(factor: Factor, tensor: &Tensor) -> Vec<usize> {
    match factor {
        Factor::A | Factor::B => tensor.shape().to_vec(),
        Factor::Magnitude => vec![tensor.cols()],
    }
}

/// The bytes of `adapter_model.safetensors`: f32, the same bytes for the same adapter.
///
/// # Errors
/// [`ModelError`] if serialisation fails, or the adapter cannot be read from its device.
pub fn weights_bytes(adapter: &Adapter) -> Result<Vec<u8>, ModelError> {
    let mut buffers = BTreeMap::new();
    for (place, factors) in &adapter.layers {
        for (factor, tensor) in factors.tensors() {
            let values = tensor.to_host()?;
            let bytes = values.data().iter().flat_map(|value| value.to_le_bytes());
            let bytes: Vec<u8> = bytes.collect();
            let shape = stored_shape(factor, tensor);
            buffers.insert(tensor_name(*place, factor), (shape, bytes));
        }
    }
    let path = Path::new(WEIGHTS_FILE);
    let mut views = BTreeMap::new();
    for (name, (shape, bytes)) in &buffers {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
        views.insert(
            name,
            view.map_err(|error| ModelError::corrupt(path, error))?,
        );
    }
    // PyTorch's loaders ask for this key.
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize(views, Some(metadata)).map_err(|error| ModelError::corrupt(path, error))
}

/// The text of `adapter_config.json`.
///
/// # Errors
/// [`ModelError`] if serialisation fails.
pub fn config_text(adapter: &Adapter, base: &str, dropout: f32) -> Result<String, ModelError> {
    config::text(&adapter.settings, base, dropout)
        .map_err(|error| ModelError::corrupt(Path::new(CONFIG_FILE), error))
}

/// Reads an adapter folder for a model of this shape.
///
/// # Errors
/// [`ModelError`] if a file is missing or corrupt, the adapter uses what is not supported, or it
/// was made for a model of another shape.
pub fn load(folder: &Path, config: &LlamaConfig) -> Result<Adapter, ModelError> {
    let path = folder.join(CONFIG_FILE);
    let text = fs::read_to_string(&path).map_err(ModelError::io(&path))?;
    let settings = config::settings(&path, &text, config)?;
    let mut adapter = Adapter::new(config, settings, 0);
    let path = folder.join(WEIGHTS_FILE);
    read_factors(&path, &mut adapter.layers)?;
    Ok(adapter)
}

/// Overwrites factors with those of a file that must hold exactly these.
///
/// # Errors
/// [`ModelError`] naming the tensor that is missing, mis-shaped or too many.
pub fn read_factors(
    path: &Path,
    layers: &mut BTreeMap<Place, LoraFactors>,
) -> Result<(), ModelError> {
    let bytes = fs::read(path).map_err(ModelError::io(path))?;
    let tensors =
        SafeTensors::deserialize(&bytes).map_err(|error| ModelError::corrupt(path, error))?;
    let mut expected = 0;
    for (place, factors) in layers {
        for (factor, tensor) in factors.tensors_mut() {
            read_factor(path, &tensors, *place, factor, tensor)?;
            expected += 1;
        }
    }
    if tensors.len() != expected {
        let detail = format!(
            "it holds {} tensors, the model and {CONFIG_FILE} ask for {expected}",
            tensors.len()
        );
        return Err(ModelError::AdapterMismatch {
            path: path.to_owned(),
            detail,
        });
    }
    Ok(())
}

fn read_factor(
    path: &Path,
    tensors: &SafeTensors<'_>,
    place: Place,
    factor: Factor,
    tensor: &mut Tensor,
) -> Result<(), ModelError> {
    let name = tensor_name(place, factor);
    let axes = match factor {
        Factor::A => "rank, in",
        Factor::B => "out, rank",
        Factor::Magnitude => "out",
    };
    let Ok(view) = tensors.tensor(&name) else {
        let detail = format!("it has no tensor `{name}`");
        return Err(ModelError::AdapterMismatch {
            path: path.to_owned(),
            detail,
        });
    };
    let expected = stored_shape(factor, tensor);
    if view.shape() != expected {
        let got = view.shape();
        let detail = format!("`{name}` is {got:?}, expected {expected:?} ({axes})");
        return Err(ModelError::AdapterMismatch {
            path: path.to_owned(),
            detail,
        });
    }
    let values: Vec<f32> = match view.dtype() {
        Dtype::F32 => view
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
        Dtype::BF16 => view
            .data()
            .chunks_exact(2)
            .map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect(),
        Dtype::F16 => view
            .data()
            .chunks_exact(2)
            .map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect(),
        other => {
            return Err(ModelError::corrupt(
                path,
                format!("`{name}` has dtype {other:?}"),
            ));
        }
    };
    Ok(tensor.write(&values)?)
}
