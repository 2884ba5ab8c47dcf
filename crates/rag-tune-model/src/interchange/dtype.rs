//! The precision that an adapter is written in.

use half::{bf16, f16};
use safetensors::Dtype;

use crate::error::ModelError;

/// The type of an exported adapter's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExportDtype {
    /// 32 bits: exactly what was trained.
    #[default]
    F32,
    /// IEEE half precision: 11 bits of mantissa, at most 65504.
    F16,
    /// bfloat16: 8 bits of mantissa, the range of f32.
    Bf16,
}

impl ExportDtype {
    /// `values`, rounded to the nearest and little-endian; `name` is the tensor to blame.
    ///
    /// # Errors
    /// As [`ExportDtype::check`].
    pub(crate) fn bytes(self, name: &str, values: &[f32]) -> Result<Vec<u8>, ModelError> {
        self.check(name, values)?;
        let values = values.iter();
        Ok(match self {
            Self::F32 => values.flat_map(|value| value.to_le_bytes()).collect(),
            Self::F16 => values
                .flat_map(|value| f16::from_f32(*value).to_le_bytes())
                .collect(),
            Self::Bf16 => values
                .flat_map(|value| bf16::from_f32(*value).to_le_bytes())
                .collect(),
        })
    }

    /// Refuses values that are not finite, or too large for the type.
    ///
    /// # Errors
    /// [`ModelError::NonFinite`] naming the tensor.
    pub(super) fn check(self, name: &str, values: &[f32]) -> Result<(), ModelError> {
        let rounded = |value: f32| match self {
            Self::F32 => value,
            Self::F16 => f16::from_f32(value).to_f32(),
            Self::Bf16 => bf16::from_f32(value).to_f32(),
        };
        let infinite = values.iter().filter(|value| !rounded(**value).is_finite());
        match infinite.count() {
            0 => Ok(()),
            count => Err(ModelError::NonFinite {
                what: format!("`{name}` as {}", self.name()),
                count,
            }),
        }
    }

    /// In the header of a safetensors file.
    pub(crate) fn in_safetensors(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::BF16,
        }
    }

    /// The inverse of [`Self::in_safetensors`]; `None` for what is no floating point number of 16 or 32 bits.
    pub(crate) fn of_safetensors(dtype: Dtype) -> Option<Self> {
        let all = [Self::F32, Self::F16, Self::Bf16].into_iter();
        all.into_iter().find(|of| of.in_safetensors() == dtype)
    }

    /// In config.json.
    pub(crate) fn name_in_torch(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        }
    }

    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_rounded_to_the_nearest() {
        let bytes = ExportDtype::Bf16.bytes("b", &[1.0, 1.005]).unwrap();
        assert_eq!(bytes, [0x80, 0x3f, 0x81, 0x3f]);
        let bytes = ExportDtype::F16.bytes("b", &[-2.0]).unwrap();
        assert_eq!(bytes, [0x00, 0xc0]);
    }

    #[test]
    fn a_value_beyond_the_type_is_refused() {
        let error = ExportDtype::F16.bytes("lora_B", &[1.0, 1e6]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`lora_B` as f16 holds 1 values that are not finite"
        );
        assert!(ExportDtype::Bf16.bytes("lora_B", &[1e6]).is_ok());
    }
}
