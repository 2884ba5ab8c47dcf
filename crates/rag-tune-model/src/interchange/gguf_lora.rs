//! An adapter as a GGUF file, which llama.cpp puts over a base model with `--lora`.
//!
//! The format is that of llama.cpp's `convert_lora_to_gguf.py`: `A` and `B` of the layer
//! `blk.0.attn_q.weight` are `blk.0.attn_q.weight.lora_a` `[rank, in]` and `.lora_b`
//! `[out, rank]`. At run time the update is multiplied by `adapter.lora.alpha / rank`, with the
//! rank of each pair of tensors, so that ranks may differ and alphas may not. Hence:
//!
//! - rsLoRA's `alpha / sqrt(rank)` is written as `alpha * sqrt(rank)`;
//! - where a layer's scaling differs from what the one alpha gives, the rest goes into its `B`;
//! - the rows of `B` of `q_proj` and `k_proj` are reordered as those of the base's weights are.

use std::io::Cursor;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use super::ExportDtype;
use crate::checkpoint::{gguf_name, rows_to_interleaved};
use crate::config::LlamaConfig;
use crate::error::ModelError;
use crate::lora::{Adapter, LoraFactors, Place, Projection};

/// The file for `adapter`, trained on a model of the shape `config`; `base` is that model's name.
///
/// # Errors
/// [`ModelError::NonFinite`] if a value does not fit into `dtype`.
///
/// The magnitudes of DoRA have no place in the format and are left out: ask
/// [`LoraSettings::use_dora`](crate::lora_settings::LoraSettings::use_dora) first.
pub fn bytes(
    adapter: &Adapter,
    config: &LlamaConfig,
    base: &str,
    dtype: ExportDtype,
) -> Result<Vec<u8>, ModelError> {
    let alpha = common_alpha(adapter);
    let mut tensors = Vec::new();
    for (place, factors) in &adapter.layers {
        let name = weight_name(*place);
        let b = output_factor(adapter, *place, factors, alpha, config);
        let [a_shape, b_shape] = [factors.a.shape(), factors.b.shape()];
        for (suffix, shape, values) in [
            ("lora_a", a_shape, factors.a.data()),
            ("lora_b", b_shape, &b),
        ] {
            let name = format!("{name}.{suffix}");
            let tensor = stored(&name, values, shape, dtype)?;
            tensors.push((name, tensor));
        }
    }
    let metadata = metadata(base, alpha, dtype);
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor))
        .collect();
    let mut file = Cursor::new(Vec::new());
    gguf_file::write(&mut file, &metadata, &tensors).map_err(internal)?;
    Ok(file.into_inner())
}

/// The `adapter.lora.alpha` of the file: that of the layers that no pattern names.
///
/// Never 0, for which llama.cpp would leave the scaling out.
fn common_alpha(adapter: &Adapter) -> f32 {
    let settings = &adapter.settings;
    let alpha = match settings.use_rslora {
        true => settings.alpha * (settings.rank as f32).sqrt(),
        false => settings.alpha,
    };
    if alpha == 0.0 { 1.0 } else { alpha }
}

/// `B` of one layer, `[out, rank]`, in the order of the GGUF's rows, with what of its scaling `alpha / rank` leaves out.
fn output_factor(
    adapter: &Adapter,
    place: Place,
    factors: &LoraFactors,
    alpha: f32,
    config: &LlamaConfig,
) -> Vec<f32> {
    let settings = &adapter.settings;
    let [_, rank] = factors.b.shape();
    let wanted = match settings.use_rslora {
        true => settings.alpha_at(place) * (rank as f32).sqrt(),
        false => settings.alpha_at(place),
    };
    // Exactly 1 where no pattern names the layer.
    let rest = wanted / alpha;
    let values: Vec<f32> = factors.b.data().iter().map(|value| value * rest).collect();
    match place.1 {
        Projection::Q | Projection::K => rows_to_interleaved(&values, config.head_dim, rank),
        _ => values,
    }
}

/// The GGUF name of the weight that a layer's update belongs to.
fn weight_name((layer, projection): Place) -> String {
    let name = format!("model.layers.{layer}.{}.weight", projection.path());
    gguf_name(&name).expect("every projection has a GGUF name")
}

fn stored(
    name: &str,
    values: &[f32],
    shape: [usize; 2],
    dtype: ExportDtype,
) -> Result<QTensor, ModelError> {
    dtype.check(name, values)?;
    let dtype = match dtype {
        ExportDtype::F32 => GgmlDType::F32,
        ExportDtype::F16 => GgmlDType::F16,
        ExportDtype::Bf16 => GgmlDType::BF16,
    };
    let tensor = Tensor::from_slice(values, &shape, &Device::Cpu);
    tensor
        .and_then(|tensor| QTensor::quantize(&tensor, dtype))
        .map_err(internal)
}

/// In the order of the converter.
fn metadata(base: &str, alpha: f32, dtype: ExportDtype) -> Vec<(&'static str, Value)> {
    let text = |value: &str| Value::String(value.to_owned());
    // `LLAMA_FTYPE_*` of llama.h.
    let file_type = match dtype {
        ExportDtype::F32 => 0,
        ExportDtype::F16 => 1,
        ExportDtype::Bf16 => 32,
    };
    vec![
        ("general.architecture", text("llama")),
        ("general.type", text("adapter")),
        ("adapter.type", text("lora")),
        ("general.base_model.count", Value::U32(1)),
        ("general.base_model.0.name", text(base)),
        ("general.file_type", Value::U32(file_type)),
        ("adapter.lora.alpha", Value::F32(alpha)),
        ("general.quantization_version", Value::U32(2)),
    ]
}

/// Writing into memory cannot fail for a reason that a user could mend.
fn internal(error: candle_core::Error) -> ModelError {
    ModelError::corrupt(std::path::Path::new("the GGUF to write"), error)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use safetensors::SafeTensors;

    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::interchange::tests::tiny_config;
    use crate::lora_settings::LoraSettings;
    use crate::peft;

    fn golden(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/fixtures/golden")
            .join(name)
    }

    /// A written file, and its tensors by name.
    struct Written {
        bytes: Vec<u8>,
        content: gguf_file::Content,
    }

    impl Written {
        fn new(bytes: Vec<u8>) -> Self {
            let content = gguf_file::Content::read(&mut Cursor::new(&bytes)).unwrap();
            Self { bytes, content }
        }

        fn tensor(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
            let mut reader = Cursor::new(&self.bytes);
            let tensor = self
                .content
                .tensor(&mut reader, name, &Device::Cpu)
                .unwrap();
            let tensor = tensor.dequantize(&Device::Cpu).unwrap();
            let values = tensor.flatten_all().unwrap().to_vec1().unwrap();
            (tensor.dims().to_vec(), values)
        }

        fn alpha(&self) -> f32 {
            self.content.metadata["adapter.lora.alpha"]
                .to_f32()
                .unwrap()
        }
    }

    /// scripts/golden_gguf_lora.py, with llama.cpp's own converter.
    #[test]
    fn the_file_holds_what_llama_cpps_converter_writes() {
        let config = Checkpoint::open(&golden("tiny_tied"))
            .unwrap()
            .config()
            .clone();
        let adapter = peft::load(&golden("gguf_lora"), &config).unwrap();
        let written = Written::new(bytes(&adapter, &config, "tiny", ExportDtype::F32).unwrap());

        let converted = std::fs::read(golden("gguf_lora/converted.safetensors")).unwrap();
        let converted = SafeTensors::deserialize(&converted).unwrap();
        assert_eq!(written.content.tensor_infos.len(), converted.len());
        for (name, view) in converted.iter() {
            let (shape, values) = written.tensor(name);
            assert_eq!(shape, view.shape(), "{name}");
            let bytes: Vec<u8> = values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            assert!(bytes == view.data(), "{name} differs");
        }
        assert_eq!(written.alpha(), 3.0);
        let text = |key: &str| written.content.metadata[key].to_string().unwrap().clone();
        assert_eq!(text("general.type"), "adapter");
        assert_eq!(text("adapter.type"), "lora");
        assert_eq!(text("general.architecture"), "llama");
    }

    proptest::proptest! {
        /// llama.cpp multiplies by `alpha / rank`, with the one alpha of the file and the tensor's own rank.
        #[test]
        fn every_layers_scaling_survives_in_the_file(
            rank in 1usize..=8,
            up_rank in 1usize..=8,
            alpha in 0.5f32..64.0,
            query_alpha in 0.5f32..64.0,
            use_rslora: bool,
        ) {
            let config = tiny_config();
            let mut settings = LoraSettings::uniform(rank, alpha, Projection::ALL);
            settings.rank_pattern = [("up_proj".to_owned(), up_rank)].into();
            settings.alpha_pattern = [("layers.1.self_attn.q_proj".to_owned(), query_alpha)].into();
            settings.use_rslora = use_rslora;
            let mut adapter = Adapter::new(&config, settings, 3);
            for factors in adapter.layers.values_mut() {
                let values = factors.b.data_mut().iter_mut().enumerate();
                values.for_each(|(at, value)| *value = at as f32 - 7.0);
            }
            let file = bytes(&adapter, &config, "tiny", ExportDtype::F32).unwrap();
            let written = Written::new(file);
            for (place, factors) in &adapter.layers {
                let (shape, b) = written.tensor(&format!("{}.lora_b", weight_name(*place)));
                let [rows, rank] = factors.b.shape();
                proptest::prop_assert_eq!(shape, [rows, rank]);
                let expected = match place.1 {
                    Projection::Q | Projection::K => {
                        rows_to_interleaved(factors.b.data(), config.head_dim, rank)
                    }
                    _ => factors.b.data().to_vec(),
                };
                let scaling = adapter.settings.scaling_at(*place);
                for (got, expected) in b.iter().zip(&expected) {
                    let (got, expected) = (written.alpha() / rank as f32 * got, scaling * expected);
                    proptest::prop_assert!((got - expected).abs() <= 1e-5 * expected.abs());
                }
            }
        }
    }

    #[test]
    fn an_alpha_of_0_stays_no_update() {
        let config = tiny_config();
        let mut adapter = Adapter::new(&config, LoraSettings::uniform(2, 0.0, [Projection::V]), 1);
        let factors = adapter.layers.values_mut().next().unwrap();
        factors.b.data_mut().fill(1.0);
        let written = Written::new(bytes(&adapter, &config, "tiny", ExportDtype::F16).unwrap());
        assert_eq!(written.alpha(), 1.0);
        let (_, b) = written.tensor("blk.0.attn_v.weight.lora_b");
        assert!(b.iter().all(|value| *value == 0.0));
    }
}
