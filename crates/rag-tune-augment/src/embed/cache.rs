//! Vectors remembered on disk: one safetensors file per embedder.
//!
//! `text_sha256` is `[texts, 32]` u8, `vectors` is `[texts, dimension]` f32, in the same order.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use super::candle_message;
use crate::AugmentError;
use crate::atomic_file::write_file;

/// SHA-256 of a text.
type Key = [u8; 32];

/// All vectors of one embedder that are known.
pub(super) struct VectorCache {
    /// `None`: nothing is read or written.
    path: Option<PathBuf>,
    dimension: usize,
    /// Position of a text's vector.
    positions: HashMap<Key, usize>,
    keys: Vec<Key>,
    vectors: Vec<f32>,
}

impl VectorCache {
    /// Reads what `folder` remembers of the embedder; nothing if it is new.
    pub(super) fn open(
        folder: Option<&Path>,
        fingerprint: &str,
        dimension: usize,
    ) -> Result<Self, AugmentError> {
        let path = folder.map(|folder| folder.join(format!("{fingerprint}.safetensors")));
        let mut cache = Self {
            path,
            dimension,
            positions: HashMap::new(),
            keys: Vec::new(),
            vectors: Vec::new(),
        };
        if let Some(path) = cache.path.clone().filter(|path| path.exists()) {
            let problem = |problem| AugmentError::VectorCache {
                path: path.clone(),
                problem,
            };
            cache
                .read(&path)
                .map_err(|error| problem(candle_message(&error)))?;
        }
        Ok(cache)
    }

    fn read(&mut self, path: &Path) -> Result<(), candle_core::Error> {
        let tensors = candle_core::safetensors::load(path, &Device::Cpu)?;
        let tensor = |name: &str, dtype: DType, columns: usize| {
            let tensor = tensors
                .get(name)
                .ok_or_else(|| candle_core::Error::Msg(format!("it has no tensor `{name}`")))?;
            if tensor.dtype() != dtype || tensor.dims2()?.1 != columns {
                candle_core::bail!("`{name}` is {:?} {:?}", tensor.dtype(), tensor.dims());
            }
            Ok(tensor)
        };
        let keys = tensor("text_sha256", DType::U8, size_of::<Key>())?.flatten_all()?;
        let vectors = tensor("vectors", DType::F32, self.dimension)?.flatten_all()?;
        self.keys = keys.to_vec1::<u8>()?.as_chunks().0.to_vec();
        self.vectors = vectors.to_vec1()?;
        if self.vectors.len() != self.keys.len() * self.dimension {
            candle_core::bail!("it has {} texts and other vectors", self.keys.len());
        }
        self.positions = self
            .keys
            .iter()
            .enumerate()
            .map(|(at, key)| (*key, at))
            .collect();
        Ok(())
    }

    pub(super) fn get(&self, key: &Key) -> Option<&[f32]> {
        let at = *self.positions.get(key)?;
        Some(&self.vectors[at * self.dimension..][..self.dimension])
    }

    pub(super) fn insert(&mut self, key: Key, vector: &[f32]) {
        self.positions.insert(key, self.keys.len());
        self.keys.push(key);
        self.vectors.extend_from_slice(vector);
    }

    /// Writes all vectors, if there is a folder to write to.
    pub(super) fn save(&self) -> Result<(), AugmentError> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let bytes = self.to_bytes().map_err(|error| AugmentError::VectorCache {
            path: path.clone(),
            problem: candle_message(&error),
        })?;
        write_file(path, &bytes).map_err(AugmentError::write(path))
    }

    fn to_bytes(&self) -> Result<Vec<u8>, candle_core::Error> {
        let texts = self.keys.len();
        let keys = Tensor::from_slice(
            self.keys.as_flattened(),
            (texts, size_of::<Key>()),
            &Device::Cpu,
        )?;
        let vectors = Tensor::from_slice(&self.vectors, (texts, self.dimension), &Device::Cpu)?;
        Ok(safetensors::serialize(
            [("text_sha256", keys), ("vectors", vectors)],
            None,
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_survive_being_saved() {
        let folder = tempfile::tempdir().unwrap();
        let mut cache = VectorCache::open(Some(folder.path()), "f", 2).unwrap();
        cache.insert([1; 32], &[0.5, -1.0]);
        cache.insert([2; 32], &[3.0, 4.0]);
        cache.save().unwrap();

        let read = VectorCache::open(Some(folder.path()), "f", 2).unwrap();
        assert_eq!(read.get(&[1; 32]), Some(&[0.5, -1.0][..]));
        assert_eq!(read.get(&[2; 32]), Some(&[3.0, 4.0][..]));
        assert_eq!(read.get(&[3; 32]), None);
    }

    #[test]
    fn a_damaged_file_is_named_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.safetensors");
        std::fs::write(&path, "no safetensors").unwrap();
        let error = VectorCache::open(Some(folder.path()), "f", 2)
            .err()
            .unwrap();
        assert!(
            error.to_string().contains("f.safetensors` cannot be used"),
            "{error}"
        );
        assert!(error.hint().unwrap().starts_with("delete"));
    }

    #[test]
    fn a_file_of_another_dimension_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut cache = VectorCache::open(Some(folder.path()), "f", 2).unwrap();
        cache.insert([1; 32], &[0.5, -1.0]);
        cache.save().unwrap();
        let error = VectorCache::open(Some(folder.path()), "f", 3)
            .err()
            .unwrap();
        assert!(
            error.to_string().contains("`vectors` is F32 [1, 2]"),
            "{error}"
        );
    }
}
