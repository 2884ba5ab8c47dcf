//! Safetensors headers, for files whose tensors follow one by one.

use std::collections::HashMap;

use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensorError};

use super::safetensors::HEADER_LENGTH_BYTES;

/// Tensors begin at a multiple of it: a cache line.
const ALIGNMENT: usize = 64;

/// A tensor that is to be written.
#[derive(Debug, Clone)]
pub(crate) struct PlannedTensor {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
}

impl PlannedTensor {
    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

/// What precedes `tensors` in a file, its own length included. `about` is a key of its metadata and the value: of several the
/// order would be another every time.
pub(crate) fn header(
    tensors: &[PlannedTensor],
    about: (&str, &str),
) -> Result<Vec<u8>, SafeTensorError> {
    let mut end = 0;
    let infos = tensors.iter().map(|tensor| {
        let start = end;
        end += tensor.bytes();
        let info = TensorInfo {
            dtype: tensor.dtype,
            shape: tensor.shape.clone(),
            data_offsets: (start, end),
        };
        (tensor.name.clone(), info)
    });
    let about = HashMap::from([(about.0.to_owned(), about.1.to_owned())]);
    let metadata = Metadata::new(Some(about), infos.collect())?;
    let mut text = serde_json::to_vec(&metadata)?;
    let len = (HEADER_LENGTH_BYTES + text.len()).next_multiple_of(ALIGNMENT);
    text.resize(len - HEADER_LENGTH_BYTES, b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.append(&mut text);
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    #[test]
    fn a_header_is_read_back_and_ends_a_cache_line() {
        let planned = [("b", Dtype::I8, vec![3, 5]), ("a", Dtype::F32, vec![7])];
        let planned = planned.map(|(name, dtype, shape)| PlannedTensor {
            name: name.to_owned(),
            dtype,
            shape,
        });
        let mut file = header(&planned, ("format", "pt")).unwrap();
        assert!(file.len().is_multiple_of(ALIGNMENT));
        file.resize(file.len() + 15 + 28, 1);
        let read = SafeTensors::deserialize(&file).unwrap();
        assert_eq!(read.tensor("b").unwrap().shape(), [3, 5]);
        assert_eq!(read.tensor("a").unwrap().data().len(), 28);
    }
}
