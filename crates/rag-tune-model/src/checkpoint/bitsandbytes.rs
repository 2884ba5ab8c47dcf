//! Weights that bitsandbytes has quantised, as transformers stores them beside plain tensors.
//!
//! | | 8 bits (LLM.int8) | NF4 |
//! | --- | --- | --- |
//! | `X.weight` | i8 `[out, in]` | two codes a byte |
//! | scales | `X.SCB`: f32 `[out]`, the absolute maxima | `X.weight.absmax`: f32, one for 64 weights |
//! | how | `X.weight_format`: 0, row by row | `X.weight.quant_state.bitsandbytes__nf4`: JSON |
//!
//! With double quantisation `absmax` holds 8-bit codes, whose scales are `X.weight.nested_absmax`.
//! The bytes are taken as they are; nothing is quantised again.

use std::path::Path;

use rag_tune_kernels::Floats;
use rag_tune_kernels::blockwise::{self, Blockwise, DynamicMap};
use rag_tune_kernels::nf4::{self, Nf4, Scales};
use safetensors::Dtype;
use serde::Deserialize;

use super::check_shape;
use super::safetensors::SafetensorsFiles;
use crate::error::ModelError;

/// A linear's weight in the form in which a checkpoint holds it.
#[derive(Debug, Clone)]
pub(crate) enum StoredWeight<'a> {
    /// `[out, in]`
    Float(Floats<'a>),
    /// Codes `[out, in]` and the absolute maximum of each row.
    Int8 {
        codes: &'a [i8],
        absmax: Vec<f32>,
    },
    Nf4(Nf4),
}

impl<'a> StoredWeight<'a> {
    /// `[out, in]`, dequantised.
    pub(crate) fn into_floats(self, [out, inner]: [usize; 2]) -> Floats<'a> {
        match self {
            Self::Float(values) => values,
            Self::Int8 { codes, absmax } => {
                let value = |(index, code): (usize, &i8)| {
                    f32::from(*code) * (absmax[index / inner] / 127.0)
                };
                codes
                    .iter()
                    .enumerate()
                    .map(value)
                    .collect::<Vec<_>>()
                    .into()
            }
            Self::Nf4(weights) => {
                let values = (0..out * inner).map(|index| weights.value(index));
                values.collect::<Vec<_>>().into()
            }
        }
    }
}

/// `X.weight.quant_state.bitsandbytes__nf4`
#[derive(Deserialize)]
struct QuantState {
    blocksize: usize,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f32>,
}

/// The weight `name` of shape `[out, in]`; `None` where it is stored in floating point.
pub(super) fn read<'a>(
    files: &'a SafetensorsFiles,
    name: &str,
    shape: [usize; 2],
) -> Result<Option<StoredWeight<'a>>, ModelError> {
    let module = name.strip_suffix(".weight").unwrap_or(name);
    let state = format!("{name}.quant_state.bitsandbytes__nf4");
    let scales = format!("{module}.SCB");
    if files.contains(&state) {
        let weights = read_nf4(files, name, &state, shape)?;
        Ok(Some(StoredWeight::Nf4(weights)))
    } else if files.contains(&scales) {
        read_int8(files, name, module, &scales, shape).map(Some)
    } else {
        Ok(None)
    }
}

fn read_int8<'a>(
    files: &'a SafetensorsFiles,
    name: &str,
    module: &str,
    scales: &str,
    shape: [usize; 2],
) -> Result<StoredWeight<'a>, ModelError> {
    let weight = files.raw(name)?;
    check_shape(weight.path, name, &shape, weight.shape)?;
    if weight.dtype != Dtype::I8 {
        let found = weight.dtype;
        let detail = format!("`{name}` is {found:?}, but `{scales}` needs codes in I8");
        return Err(ModelError::corrupt(weight.path, detail));
    }
    check_format(files, &format!("{module}.weight_format"))?;
    Ok(StoredWeight::Int8 {
        codes: bytemuck::cast_slice(weight.bytes),
        absmax: finite(weight.path, scales, files.tensor(scales, &shape[..1])?)?,
    })
}

/// Orders of 8-bit weights, by the numbers that bitsandbytes gives them (`LINEAR_8BIT_WEIGHTS_FORMAT_MAPPING`). Older
/// releases stored those of a GPU's tiles too; today's reads the first only.
const WEIGHT_FORMATS: [&str; 4] = ["row", "col32", "col_turing", "col_ampere"];

/// Refuses codes that do not lie row by row. Without the tensor `name` they do.
fn check_format(files: &SafetensorsFiles, name: &str) -> Result<(), ModelError> {
    if !files.contains(name) {
        return Ok(());
    }
    let format = files.raw(name)?;
    // A number, in whatever type of integer.
    let feature = match format.bytes {
        [] => {
            return Err(ModelError::corrupt(
                format.path,
                format!("`{name}` is empty"),
            ));
        }
        [number, rest @ ..] if rest.iter().all(|byte| *byte == 0) => {
            match WEIGHT_FORMATS.get(usize::from(*number)) {
                Some(&"row") => return Ok(()),
                Some(order) => {
                    format!(
                        "8-bit weights in the order `{order}` of a GPU's tiles (`{name}` = {number})"
                    )
                }
                None => format!("8-bit weights in an unknown order (`{name}` = {number})"),
            }
        }
        bytes => format!("8-bit weights in an unknown order (`{name}` has the bytes {bytes:?})"),
    };
    Err(ModelError::Unsupported {
        path: format.path.to_owned(),
        feature,
    })
}

fn read_nf4(
    files: &SafetensorsFiles,
    name: &str,
    state_name: &str,
    shape: [usize; 2],
) -> Result<Nf4, ModelError> {
    let weight = files.raw(name)?;
    let path = weight.path;
    let corrupt = |detail: String| ModelError::corrupt(path, detail);
    let state: QuantState = serde_json::from_slice(files.raw(state_name)?.bytes)
        .map_err(|error| corrupt(format!("`{state_name}`: {error}")))?;
    check_shape(path, name, &shape, &state.shape)?;
    check_block(path, state_name, state.blocksize, nf4::BLOCK)?;
    check_map(files, &format!("{name}.quant_map"), &nf4::LEVELS)?;
    let count = shape[0] * shape[1];
    // Whatever type they are given out as (`bnb_4bit_quant_storage`), bytes are bytes.
    let expected = count.div_ceil(2);
    if weight.bytes.len() != expected {
        let got = weight.bytes.len();
        return Err(corrupt(format!(
            "`{name}` has {got} bytes, {expected} make {count} weights"
        )));
    }
    let (absmax, blocks) = (format!("{name}.absmax"), count.div_ceil(nf4::BLOCK));
    let scales = match (state.nested_blocksize, state.nested_offset) {
        (None, None) => Scales::Plain(finite(path, &absmax, files.tensor(&absmax, &[blocks])?)?),
        (Some(block), Some(offset)) => {
            check_block(path, state_name, block, blockwise::BLOCK)?;
            let map = DynamicMap::signed().values();
            check_map(files, &format!("{name}.nested_quant_map"), map)?;
            let codes = files.raw(&absmax)?;
            check_shape(path, &absmax, &[blocks], codes.shape)?;
            if codes.dtype != Dtype::U8 {
                let found = codes.dtype;
                return Err(corrupt(format!("`{absmax}` is {found:?}, not U8")));
            }
            let nested = format!("{name}.nested_absmax");
            let nested_len = [blocks.div_ceil(blockwise::BLOCK)];
            Scales::Double {
                codes: Blockwise {
                    codes: codes.bytes.to_vec(),
                    absmax: finite(path, &nested, files.tensor(&nested, &nested_len)?)?,
                },
                offset,
            }
        }
        _ => {
            return Err(corrupt(format!(
                "`{state_name}` has one of `nested_blocksize` and `nested_offset` only"
            )));
        }
    };
    Ok(Nf4 {
        codes: weight.bytes.to_vec(),
        scales,
    })
}

fn check_block(path: &Path, state: &str, block: usize, supported: usize) -> Result<(), ModelError> {
    if block == supported {
        return Ok(());
    }
    Err(ModelError::Unsupported {
        path: path.to_owned(),
        feature: format!("blocks of {block} values instead of {supported} (`{state}`)"),
    })
}

/// Codes mean what ours mean. Some versions of PyTorch round the values of the 8-bit map otherwise.
fn check_map(files: &SafetensorsFiles, name: &str, ours: &[f32]) -> Result<(), ModelError> {
    let map = files.tensor(name, &[ours.len()])?;
    if map
        .iter()
        .zip(ours)
        .all(|(map, ours)| (map - ours).abs() <= 1e-6)
    {
        return Ok(());
    }
    let path = files.raw(name)?.path;
    Err(ModelError::Unsupported {
        path: path.to_owned(),
        feature: format!("codes with other meanings than bitsandbytes gives them (`{name}`)"),
    })
}

fn finite(path: &Path, name: &str, values: Vec<f32>) -> Result<Vec<f32>, ModelError> {
    let count = values.iter().filter(|value| !value.is_finite()).count();
    if count > 0 {
        let what = format!("`{name}` in `{}`", path.display());
        return Err(ModelError::NonFinite { what, count });
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lora::Projection;
    use rag_tune_kernels::FloatType;

    fn files(name: &str) -> SafetensorsFiles {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/golden");
        let folder = golden.join("bitsandbytes").join(name);
        SafetensorsFiles::open(&folder).unwrap().unwrap()
    }

    fn f32s(bytes: &[u8]) -> Vec<f32> {
        Floats::new(FloatType::F32, bytes).into_vec()
    }

    /// Name and shape of each block linear of the tiny models.
    fn linears() -> impl Iterator<Item = (Projection, String, [usize; 2])> {
        (0..2).flat_map(|layer| {
            Projection::ALL.map(|projection| {
                let shape = match projection {
                    Projection::Q | Projection::O => [32, 32],
                    Projection::K | Projection::V => [16, 32],
                    Projection::Gate | Projection::Up => [48, 32],
                    Projection::Down => [32, 48],
                };
                let name = format!("model.layers.{layer}.{}.weight", projection.path());
                (projection, name, shape)
            })
        })
    }

    #[test]
    fn every_byte_of_nf4_weights_is_kept() {
        for name in ["nf4_double", "nf4_mixed"] {
            let files = files(name);
            for (projection, weight, shape) in linears() {
                let held = match read(&files, &weight, shape).unwrap() {
                    Some(StoredWeight::Nf4(held)) => held,
                    Some(other) => panic!("{weight}: {other:?}"),
                    // Left out by `llm_int8_skip_modules`.
                    None => {
                        assert_eq!((name, projection), ("nf4_mixed", Projection::Down));
                        continue;
                    }
                };
                assert_eq!(held.codes, files.raw(&weight).unwrap().bytes);
                let scales = files.raw(&format!("{weight}.absmax")).unwrap().bytes;
                match &held.scales {
                    Scales::Plain(absmax) => {
                        assert_eq!(name, "nf4_mixed");
                        assert_eq!(absmax, &f32s(scales));
                    }
                    Scales::Double { codes, offset } => {
                        assert_eq!(name, "nf4_double");
                        assert_eq!(codes.codes, scales);
                        let state = format!("{weight}.quant_state.bitsandbytes__nf4");
                        let state = files.raw(&state).unwrap().bytes;
                        let state: serde_json::Value = serde_json::from_slice(state).unwrap();
                        assert_eq!(state["nested_offset"].as_f64(), Some(f64::from(*offset)));
                    }
                }
            }
        }
    }

    #[test]
    fn every_byte_of_8_bit_weights_is_kept() {
        let files = files("int8");
        for (_, weight, shape) in linears() {
            let Some(StoredWeight::Int8 { codes, absmax }) = read(&files, &weight, shape).unwrap()
            else {
                panic!("{weight} is in 8 bits");
            };
            let bytes: Vec<u8> = codes.iter().map(|code| code.cast_unsigned()).collect();
            assert_eq!(bytes, files.raw(&weight).unwrap().bytes);
            let scales = weight.replace(".weight", ".SCB");
            let scales = files.raw(&scales).unwrap().bytes;
            assert_eq!(absmax, f32s(scales));
        }
    }
}
