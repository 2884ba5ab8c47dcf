//! Adapters on disk, in the format of Hugging Face PEFT.
//!
//! `adapter_model.safetensors` holds `A` `[rank, in]` and `B` `[out, rank]` of every adapted layer
//! (and `[out]` magnitudes with DoRA) under PEFT's names; `adapter_config.json` holds what PEFT needs to apply them. Files of
//! our own stand beside them, because PEFT refuses keys that it does not know.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rag_tune_kernels::Tensor;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::config::LlamaConfig;
use crate::error::ModelError;
use crate::lora::{Adapter, Factor, LoraFactors, Place, Projection};
use crate::lora_settings::LoraSettings;

/// File of the factors.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// File of the settings.
pub const CONFIG_FILE: &str = "adapter_config.json";

/// The keys of `adapter_config.json` that rag-tune writes, and of which it reads the ones it needs.
#[derive(Debug, Serialize, Deserialize)]
struct PeftConfig {
    peft_type: String,
    #[serde(default)]
    task_type: Option<String>,
    #[serde(default)]
    base_model_name_or_path: Option<String>,
    r: usize,
    lora_alpha: f32,
    #[serde(default)]
    lora_dropout: f32,
    target_modules: Vec<String>,
    #[serde(default = "no_bias")]
    bias: String,
    #[serde(default)]
    fan_in_fan_out: bool,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    modules_to_save: Option<Vec<String>>,
    #[serde(default)]
    rank_pattern: BTreeMap<String, usize>,
    #[serde(default)]
    alpha_pattern: BTreeMap<String, f32>,
    #[serde(default)]
    layers_to_transform: Option<Vec<usize>>,
    #[serde(default)]
    init_lora_weights: Option<serde_json::Value>,
    #[serde(default)]
    inference_mode: bool,
}

fn no_bias() -> String {
    "none".to_owned()
}

/// PEFT's name of one factor.
fn tensor_name((layer, projection): Place, factor: Factor) -> String {
    let factor = match factor {
        Factor::A => "lora_A.weight",
        Factor::B => "lora_B.weight",
        Factor::Magnitude => "lora_magnitude_vector",
    };
    format!(
        "base_model.model.model.layers.{layer}.{}.{factor}",
        projection.path()
    )
}

/// PEFT's shape of one factor: a magnitude has one axis.
fn stored_shape(factor: Factor, tensor: &Tensor) -> Vec<usize> {
    match factor {
        Factor::A | Factor::B => tensor.shape().to_vec(),
        Factor::Magnitude => vec![tensor.cols()],
    }
}

/// The bytes of `adapter_model.safetensors`: f32, the same bytes for the same adapter.
///
/// # Errors
/// [`ModelError`] if serialisation fails.
pub fn weights_bytes(adapter: &Adapter) -> Result<Vec<u8>, ModelError> {
    factors_bytes(&adapter.layers)
}

/// As [`weights_bytes`], for anything shaped like an adapter, such as optimizer moments.
///
/// # Errors
/// [`ModelError`] if serialisation fails.
pub fn factors_bytes(layers: &BTreeMap<Place, LoraFactors>) -> Result<Vec<u8>, ModelError> {
    let mut buffers = BTreeMap::new();
    for (place, factors) in layers {
        for (factor, tensor) in factors.tensors() {
            let bytes: Vec<u8> = tensor
                .data()
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
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
    let settings = &adapter.settings;
    let target_modules = settings
        .targets
        .iter()
        .map(|target| target.name().to_owned());
    let config = PeftConfig {
        peft_type: "LORA".to_owned(),
        task_type: Some("CAUSAL_LM".to_owned()),
        base_model_name_or_path: Some(base.to_owned()),
        r: settings.rank,
        lora_alpha: settings.alpha,
        lora_dropout: dropout,
        target_modules: target_modules.collect(),
        bias: no_bias(),
        fan_in_fan_out: false,
        use_rslora: settings.use_rslora,
        use_dora: settings.use_dora,
        modules_to_save: None,
        rank_pattern: settings.rank_pattern.clone(),
        alpha_pattern: settings.alpha_pattern.clone(),
        layers_to_transform: None,
        init_lora_weights: Some(true.into()),
        inference_mode: true,
    };
    let text = serde_json::to_string_pretty(&config);
    Ok(text.map_err(|error| ModelError::corrupt(Path::new(CONFIG_FILE), error))? + "\n")
}

/// Reads an adapter folder for a model of this shape.
///
/// # Errors
/// [`ModelError`] if a file is missing or corrupt, the adapter uses what is not supported, or it
/// was made for a model of another shape.
pub fn load(folder: &Path, config: &LlamaConfig) -> Result<Adapter, ModelError> {
    let path = folder.join(CONFIG_FILE);
    let text = fs::read_to_string(&path).map_err(ModelError::io(&path))?;
    let peft: PeftConfig =
        serde_json::from_str(&text).map_err(|error| ModelError::corrupt(&path, error))?;
    check_supported(&peft, &path)?;
    let targets = peft
        .target_modules
        .iter()
        .map(|name| projection(name, &path))
        .collect::<Result<_, _>>()?;
    let settings = LoraSettings {
        rank: peft.r,
        alpha: peft.lora_alpha,
        targets,
        rank_pattern: peft.rank_pattern,
        alpha_pattern: peft.alpha_pattern,
        use_rslora: peft.use_rslora,
        use_dora: peft.use_dora,
    };
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
    tensor.data_mut().copy_from_slice(&values);
    Ok(())
}

fn projection(name: &str, path: &Path) -> Result<Projection, ModelError> {
    let found = Projection::ALL
        .into_iter()
        .find(|projection| projection.name() == name);
    found.ok_or_else(|| unsupported(path, format!("LoRA on `{name}`")))
}

fn unsupported(path: &Path, feature: String) -> ModelError {
    ModelError::Unsupported {
        path: PathBuf::from(path),
        feature,
    }
}

fn check_supported(peft: &PeftConfig, path: &Path) -> Result<(), ModelError> {
    let features = [
        (
            peft.peft_type != "LORA",
            format!("`peft_type` {}", peft.peft_type),
        ),
        (peft.bias != "none", format!("`bias` {}", peft.bias)),
        (peft.fan_in_fan_out, "`fan_in_fan_out`".to_owned()),
        (
            peft.modules_to_save.is_some(),
            "`modules_to_save`".to_owned(),
        ),
        (
            peft.layers_to_transform.is_some(),
            "`layers_to_transform`".to_owned(),
        ),
        (peft.r == 0, "`r` 0".to_owned()),
    ];
    match features.into_iter().find(|(present, _)| *present) {
        Some((_, feature)) => Err(unsupported(path, feature)),
        None => Ok(()),
    }
}
