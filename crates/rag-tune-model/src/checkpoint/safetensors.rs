//! Safetensors: `model.safetensors`, or the shards that
//! `model.safetensors.index.json` lists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use rag_tune_kernels::{FloatType, Floats};
use safetensors::tensor::TensorInfo;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::Deserialize;

use super::mapped_file::MappedFile;
use super::read_ahead::StoredFloats;
use super::{StoredTensor, check_shape};
use crate::error::ModelError;

/// The name of the weights of a checkpoint that is not sharded.
pub(crate) const SINGLE_FILE: &str = "model.safetensors";
/// Says which file each tensor of a sharded checkpoint is in.
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";

/// Length of the number that precedes the header.
pub(crate) const HEADER_LENGTH_BYTES: usize = 8;

/// All safetensors files of a folder.
#[derive(Debug)]
pub(super) struct SafetensorsFiles {
    files: Vec<MappedFile>,
    tensors: BTreeMap<String, Location>,
    folder_or_file: std::path::PathBuf,
}

#[derive(Debug)]
struct Location {
    /// Index into `files`.
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Where the data lies in the file.
    bytes: std::ops::Range<usize>,
}

/// One file, in pieces.
pub(crate) struct Shard<'a> {
    /// Where it lies.
    pub(crate) path: &'a Path,
    /// What precedes the tensors, the header's length included.
    pub(crate) header: &'a [u8],
    /// One after the other, up to the file's end.
    pub(crate) tensors: Vec<ShardTensor<'a>>,
}

/// A tensor of a [`Shard`].
pub(crate) struct ShardTensor<'a> {
    pub(crate) name: &'a str,
    pub(crate) dtype: Dtype,
    pub(crate) shape: &'a [usize],
    pub(crate) bytes: &'a [u8],
}

/// A tensor as it lies in a file.
pub(super) struct RawTensor<'a> {
    pub path: &'a Path,
    pub dtype: Dtype,
    pub shape: &'a [usize],
    pub bytes: &'a [u8],
}

#[derive(Deserialize)]
struct ShardIndex {
    /// Tensor name to file name.
    weight_map: BTreeMap<String, String>,
}

impl SafetensorsFiles {
    /// `None` where the folder has no safetensors at all.
    pub fn open(folder: &Path) -> Result<Option<Self>, ModelError> {
        let single = folder.join(SINGLE_FILE);
        if single.exists() {
            let mut all = Self::empty(&single);
            all.add_file(&single)?;
            return Ok(Some(all));
        }
        let index = folder.join(INDEX_FILE);
        if index.exists() {
            return Self::open_shards(folder, &index).map(Some);
        }
        Ok(None)
    }

    fn empty(folder_or_file: &Path) -> Self {
        Self {
            files: Vec::new(),
            tensors: BTreeMap::new(),
            folder_or_file: folder_or_file.to_owned(),
        }
    }

    fn open_shards(folder: &Path, index_path: &Path) -> Result<Self, ModelError> {
        let text = fs::read_to_string(index_path).map_err(ModelError::io(index_path))?;
        let index: ShardIndex =
            serde_json::from_str(&text).map_err(|error| ModelError::corrupt(index_path, error))?;
        let shards: BTreeSet<&String> = index.weight_map.values().collect();
        let mut all = Self::empty(folder);
        for shard in shards {
            if Path::new(shard).file_name() != Some(shard.as_ref()) {
                let detail = format!("the shard `{shard}` is not a plain file name");
                return Err(ModelError::corrupt(index_path, detail));
            }
            all.add_file(&folder.join(shard))?;
        }
        for (name, shard) in index.weight_map {
            if !all.tensors.contains_key(&name) {
                return Err(ModelError::MissingTensor {
                    path: folder.join(shard),
                    name,
                });
            }
        }
        Ok(all)
    }

    fn add_file(&mut self, path: &Path) -> Result<(), ModelError> {
        let file = MappedFile::open(path)?;
        let (header_bytes, header) = SafeTensors::read_metadata(file.bytes())
            .map_err(|error| header_error(path, file.bytes().len(), error))?;
        let data_start = HEADER_LENGTH_BYTES + header_bytes;
        for (name, info) in header.tensors() {
            let TensorInfo {
                dtype,
                shape,
                data_offsets: (start, end),
            } = info.clone();
            // In bounds: `read_metadata` checks that the offsets follow each
            // other and end exactly where the file does.
            let bytes = data_start + start..data_start + end;
            let location = Location {
                file: self.files.len(),
                dtype,
                shape,
                bytes,
            };
            self.tensors.insert(name, location);
        }
        self.files.push(file);
        Ok(())
    }

    /// Whether there is such a tensor.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The bytes of a tensor.
    pub fn raw(&self, name: &str) -> Result<RawTensor<'_>, ModelError> {
        let Some(location) = self.tensors.get(name) else {
            let path = self.folder_or_file.clone();
            return Err(ModelError::MissingTensor {
                path,
                name: name.to_owned(),
            });
        };
        Ok(RawTensor {
            path: self.files[location.file].path(),
            dtype: location.dtype,
            shape: &location.shape,
            bytes: self.bytes(location),
        })
    }

    /// The values of a tensor in floating point, as they lie in the file.
    pub fn floats(&self, name: &str, shape: &[usize]) -> Result<Floats<'_>, ModelError> {
        let RawTensor {
            path,
            dtype,
            shape: got,
            bytes,
        } = self.raw(name)?;
        check_shape(path, name, shape, got)?;
        match float_type(dtype) {
            Some(dtype) => Ok(Floats::new(dtype, bytes)),
            None => Err(ModelError::Unsupported {
                path: path.to_owned(),
                feature: format!("tensors of type {dtype:?} (`{name}`)"),
            }),
        }
    }

    /// Where the tensor lies; `None` if there is none of that name in floating point.
    pub fn stored_floats(&self, name: &str) -> Option<StoredFloats> {
        let location = self.tensors.get(name)?;
        Some(StoredFloats {
            name: name.to_owned(),
            path: self.files[location.file].path().to_owned(),
            bytes: location.bytes.clone(),
            dtype: float_type(location.dtype)?,
        })
    }

    /// As [`Self::floats`], widened.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        self.floats(name, shape).map(Floats::into_vec)
    }

    /// The files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(MappedFile::path)
    }

    /// See [`MappedFile::release`].
    pub fn release(&self) {
        self.files.iter().for_each(MappedFile::release);
    }

    /// See [`super::Checkpoint::plain_shards`].
    pub fn shards(&self) -> Vec<Shard<'_>> {
        let files = self.files.iter().enumerate();
        files
            .map(|(index, file)| {
                let mut located: Vec<_> = self.tensors.iter().collect();
                located.retain(|(_, location)| location.file == index);
                located.sort_by_key(|(_, location)| location.bytes.start);
                let first = located.first().map(|(_, location)| location.bytes.start);
                let header_end = first.unwrap_or(file.bytes().len());
                let tensors = located.into_iter().map(|(name, location)| ShardTensor {
                    name,
                    dtype: location.dtype,
                    shape: &location.shape,
                    bytes: self.bytes(location),
                });
                Shard {
                    path: file.path(),
                    header: &file.bytes()[..header_end],
                    tensors: tensors.collect(),
                }
            })
            .collect()
    }

    /// The tensors' names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Every tensor, ordered by name.
    pub fn stored_tensors(&self) -> impl Iterator<Item = StoredTensor<'_>> {
        self.tensors.iter().map(|(name, location)| StoredTensor {
            name,
            dtype: format!("{:?}", location.dtype),
            shape: location.shape.clone(),
            bytes: self.bytes(location),
        })
    }

    fn bytes(&self, location: &Location) -> &[u8] {
        &self.files[location.file].bytes()[location.bytes.clone()]
    }
}

/// `None` for a type that is not a plain float.
fn float_type(dtype: Dtype) -> Option<FloatType> {
    match dtype {
        Dtype::F32 => Some(FloatType::F32),
        Dtype::F16 => Some(FloatType::F16),
        Dtype::BF16 => Some(FloatType::Bf16),
        _ => None,
    }
}

/// Tells a file that ends too early from one that is damaged otherwise.
fn header_error(path: &Path, file_bytes: usize, error: SafeTensorError) -> ModelError {
    use SafeTensorError as E;
    match error {
        E::HeaderTooSmall | E::InvalidHeaderLength | E::MetadataIncompleteBuffer => {
            ModelError::Truncated {
                path: path.to_owned(),
                detail: format!(
                    "its {file_bytes} bytes are not what its header promises ({error})"
                ),
            }
        }
        other => ModelError::corrupt(path, format!("its header cannot be read ({other})")),
    }
}
