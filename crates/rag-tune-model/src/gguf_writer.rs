//! GGUF files whose tensors follow one by one: everything that precedes them, and their bytes.
//!
//! The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, version 3, little-endian.

use candle_core::quantized::gguf_file::Value;

use crate::error::ModelError;
use crate::interchange::ExportDtype;
use crate::q8_0;

/// Where a tensor begins is a multiple of it, from the first tensor on: the format's default.
const ALIGNMENT: usize = 32;
const VERSION: u32 = 3;

/// How a tensor's values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GgmlType {
    F32,
    F16,
    Q8_0,
}

impl GgmlType {
    /// By ggml's `enum ggml_type`.
    fn number(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 8,
        }
    }

    /// The bytes of so many values, in whole blocks.
    fn len_of(self, values: usize) -> usize {
        match self {
            Self::F32 => 4 * values,
            Self::F16 => 2 * values,
            Self::Q8_0 => values / q8_0::BLOCK * q8_0::BLOCK_BYTES,
        }
    }

    /// The bytes of `values`, whole rows of the tensor `name`.
    ///
    /// # Errors
    /// [`ModelError::NonFinite`] where a value does not fit.
    pub(crate) fn bytes(self, name: &str, values: &[f32]) -> Result<Vec<u8>, ModelError> {
        match self {
            Self::F32 => ExportDtype::F32.bytes(name, values),
            Self::F16 => ExportDtype::F16.bytes(name, values),
            Self::Q8_0 => q8_0::quantize(values).map_err(|count| ModelError::NonFinite {
                what: format!("`{name}` as Q8_0"),
                count,
            }),
        }
    }
}

/// A tensor that is to be written.
#[derive(Debug, Clone)]
pub(crate) struct GgufTensor {
    pub(crate) name: String,
    /// The slowest axis first, as everywhere else here; a GGUF has them the other way round.
    pub(crate) shape: Vec<usize>,
    pub(crate) kind: GgmlType,
}

impl GgufTensor {
    /// Zeros that follow its bytes.
    pub(crate) fn padding(&self) -> Vec<u8> {
        let len = self.kind.len_of(self.shape.iter().product());
        vec![0; len.next_multiple_of(ALIGNMENT) - len]
    }
}

/// What precedes the tensors, the padding before the first included.
pub(crate) fn header(metadata: &[(String, Value)], tensors: &[GgufTensor]) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        put_text(&mut bytes, key);
        bytes.extend(type_number(value).to_le_bytes());
        put_value(&mut bytes, value);
    }
    let mut offset = 0;
    for tensor in tensors {
        put_text(&mut bytes, &tensor.name);
        bytes.extend((tensor.shape.len() as u32).to_le_bytes());
        for size in tensor.shape.iter().rev() {
            bytes.extend((*size as u64).to_le_bytes());
        }
        bytes.extend(tensor.kind.number().to_le_bytes());
        bytes.extend((offset as u64).to_le_bytes());
        let len = tensor.kind.len_of(tensor.shape.iter().product());
        offset += len.next_multiple_of(ALIGNMENT);
    }
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    bytes
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// By the format's `enum gguf_metadata_value_type`.
fn type_number(value: &Value) -> u32 {
    match value {
        Value::U8(_) => 0,
        Value::I8(_) => 1,
        Value::U16(_) => 2,
        Value::I16(_) => 3,
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) => 9,
        Value::U64(_) => 10,
        Value::I64(_) => 11,
        Value::F64(_) => 12,
    }
}

fn put_value(bytes: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(value) => bytes.push(*value),
        Value::I8(value) => bytes.extend(value.to_le_bytes()),
        Value::U16(value) => bytes.extend(value.to_le_bytes()),
        Value::I16(value) => bytes.extend(value.to_le_bytes()),
        Value::U32(value) => bytes.extend(value.to_le_bytes()),
        Value::I32(value) => bytes.extend(value.to_le_bytes()),
        Value::U64(value) => bytes.extend(value.to_le_bytes()),
        Value::I64(value) => bytes.extend(value.to_le_bytes()),
        Value::F32(value) => bytes.extend(value.to_le_bytes()),
        Value::F64(value) => bytes.extend(value.to_le_bytes()),
        Value::Bool(value) => bytes.push(u8::from(*value)),
        Value::String(text) => put_text(bytes, text),
        Value::Array(values) => {
            // An empty list of ours is one of merges, which are texts.
            let of = values.first().map_or(8, type_number);
            bytes.extend(of.to_le_bytes());
            bytes.extend((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| put_value(bytes, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use candle_core::Device;
    use candle_core::quantized::gguf_file::Content;

    use super::*;

    fn tensor(name: &str, shape: &[usize], kind: GgmlType) -> GgufTensor {
        GgufTensor {
            name: name.to_owned(),
            shape: shape.to_vec(),
            kind,
        }
    }

    /// candle's reader is another program than this writer.
    #[test]
    fn what_is_written_is_read_back() {
        let text = |text: &str| Value::String(text.to_owned());
        let metadata = [
            ("a.number", Value::U32(7)),
            ("a.long", Value::U64(1 << 40)),
            ("a.sign", Value::I8(-3)),
            ("a.float", Value::F32(0.25)),
            ("a.flag", Value::Bool(true)),
            ("texts", Value::Array(vec![text("a"), text("\u{2581}b")])),
            ("none", Value::Array(vec![])),
        ];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value));
        let tensors = [
            tensor("odd", &[3], GgmlType::F32),
            tensor("half", &[2, 5], GgmlType::F16),
            tensor("blocks", &[2, 64], GgmlType::Q8_0),
        ];
        let mut file = header(&metadata, &tensors);
        assert!(file.len().is_multiple_of(ALIGNMENT));
        let values = |tensor: &GgufTensor| -> Vec<f32> {
            let count: usize = tensor.shape.iter().product();
            (0..count).map(|value| value as f32 - 7.0).collect()
        };
        for tensor in &tensors {
            file.extend(tensor.kind.bytes(&tensor.name, &values(tensor)).unwrap());
            file.extend(tensor.padding());
        }
        let content = Content::read(&mut Cursor::new(&file)).unwrap();
        assert_eq!(content.metadata.len(), metadata.len());
        for (key, value) in &metadata {
            let (got, expected) = (format!("{:?}", content.metadata[key]), format!("{value:?}"));
            assert_eq!(got, expected, "{key}");
        }
        for tensor in &tensors {
            let mut reader = Cursor::new(&file);
            let read = content.tensor(&mut reader, &tensor.name, &Device::Cpu);
            let read = read.unwrap().dequantize(&Device::Cpu).unwrap();
            assert_eq!(read.dims(), tensor.shape, "{}", tensor.name);
            let read: Vec<f32> = read.flatten_all().unwrap().to_vec1().unwrap();
            for (read, value) in read.iter().zip(values(tensor)) {
                assert!(
                    (read - value).abs() < 0.6,
                    "{}: {read} {value}",
                    tensor.name
                );
            }
        }
    }

    #[test]
    fn a_value_that_does_not_fit_names_its_tensor() {
        let error = GgmlType::Q8_0.bytes("blk.0", &[f32::NAN; 32]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`blk.0` as Q8_0 holds 1 values that are not finite"
        );
    }
}
