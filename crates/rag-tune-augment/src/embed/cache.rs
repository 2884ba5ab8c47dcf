//! Vectors remembered on disk: one safetensors file per embedder.
//!
//! `text_sha256` is `[texts, 32]` u8, `vectors` is `[texts, dimension]` f32, in the same order.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use candle_core::{DType, Device, Tensor};

use super::{Embedder, Embeddings, candle_message};
use crate::atomic_file::write_file;
use crate::fingerprint::sha256_of_text;
use crate::{AugmentError, Progress};

/// SHA-256 of a text.
type Key = [u8; 32];

/// All vectors of one embedder that are known.
pub struct VectorCache {
    /// `None`: nothing is read or written.
    path: Option<PathBuf>,
    /// 0 as long as nothing is known.
    dimension: usize,
    /// Position of a text's vector.
    positions: HashMap<Key, usize>,
    keys: Vec<Key>,
    vectors: Vec<f32>,
}

impl VectorCache {
    /// Reads what `folder` remembers of the embedder; nothing if it is new.
    ///
    /// # Errors
    /// [`AugmentError::VectorCache`].
    pub fn open(folder: Option<&Path>, fingerprint: &str) -> Result<Self, AugmentError> {
        let path = folder.map(|folder| folder.join(format!("{fingerprint}.safetensors")));
        let mut cache = Self {
            path,
            dimension: 0,
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
        let tensor = |name: &str, dtype: DType| {
            let tensor = tensors
                .get(name)
                .ok_or_else(|| candle_core::Error::Msg(format!("it has no tensor `{name}`")))?;
            if tensor.dtype() != dtype {
                candle_core::bail!("`{name}` is {:?} {:?}", tensor.dtype(), tensor.dims());
            }
            Ok(tensor)
        };
        let keys = tensor("text_sha256", DType::U8)?.flatten_all()?;
        let vectors = tensor("vectors", DType::F32)?;
        self.dimension = vectors.dims2()?.1;
        let vectors = vectors.flatten_all()?;
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

    fn get(&self, key: &Key) -> Option<&[f32]> {
        let at = *self.positions.get(key)?;
        Some(&self.vectors[at * self.dimension..][..self.dimension])
    }

    fn insert(&mut self, key: Key, vector: &[f32]) {
        self.dimension = vector.len();
        self.positions.insert(key, self.keys.len());
        self.keys.push(key);
        self.vectors.extend_from_slice(vector);
    }

    /// As [`Embedder::embed`], but each distinct text is embedded once, and with a folder only if no
    /// earlier run did. Returns `[texts, dimension]`, in the order of `texts`.
    ///
    /// # Errors
    /// As [`Embedder::embed`]; [`AugmentError::NotFinite`]; [`AugmentError::VectorCache`] and
    /// [`AugmentError::Write`] for the cache.
    pub fn embed(
        &mut self,
        embedder: &dyn Embedder,
        texts: &[&str],
        progress: &dyn Progress,
    ) -> Result<Embeddings, AugmentError> {
        let keys: Vec<Key> = texts.iter().map(|text| sha256_of_text(text)).collect();
        let mut seen = HashSet::new();
        let (missing_keys, missing_texts): (Vec<_>, Vec<_>) = keys
            .iter()
            .zip(texts)
            .filter(|(key, _)| self.get(key).is_none() && seen.insert(**key))
            .map(|(key, text)| (*key, *text))
            .unzip();
        if !missing_texts.is_empty() {
            progress.start("embed", missing_texts.len() as u64);
            let made = Mutex::new(&mut *self);
            embedder.embed(&missing_texts, &|positions, vectors| {
                let mut cache = made.lock().expect("no thread panics while it inserts");
                for (index, position) in positions.iter().enumerate() {
                    let vector = vectors.row(index);
                    if !vector.iter().all(|value| value.is_finite()) {
                        let text = missing_texts[*position].into();
                        return Err(AugmentError::NotFinite { text });
                    }
                    cache.insert(missing_keys[*position], vector);
                }
                progress.advance(positions.len() as u64);
                Ok(())
            })?;
            progress.finish();
            self.save()?;
        }
        let found = keys
            .iter()
            .map(|key| self.get(key).expect("just made, if it was missing"));
        Ok(Embeddings::new(
            self.dimension.max(1),
            found.flatten().copied().collect(),
        ))
    }

    /// Writes all vectors, if there is a folder to write to.
    fn save(&self) -> Result<(), AugmentError> {
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
    use crate::embed::Done;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn vectors_survive_being_saved() {
        let folder = tempfile::tempdir().unwrap();
        let mut cache = VectorCache::open(Some(folder.path()), "f").unwrap();
        cache.insert([1; 32], &[0.5, -1.0]);
        cache.insert([2; 32], &[3.0, 4.0]);
        cache.save().unwrap();

        let read = VectorCache::open(Some(folder.path()), "f").unwrap();
        assert_eq!(read.get(&[1; 32]), Some(&[0.5, -1.0][..]));
        assert_eq!(read.get(&[2; 32]), Some(&[3.0, 4.0][..]));
        assert_eq!(read.get(&[3; 32]), None);
    }

    #[test]
    fn a_damaged_file_is_named_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.safetensors");
        std::fs::write(&path, "no safetensors").unwrap();
        let error = VectorCache::open(Some(folder.path()), "f").err().unwrap();
        assert!(
            error.to_string().contains("f.safetensors` cannot be used"),
            "{error}"
        );
        assert!(error.hint().unwrap().starts_with("delete"));
    }

    /// Embeds a text as its length and its number of spaces, and counts the texts.
    struct Counting {
        fingerprint: &'static str,
        embedded: AtomicUsize,
    }

    impl Counting {
        fn new(fingerprint: &'static str) -> Self {
            Self {
                fingerprint,
                embedded: AtomicUsize::new(0),
            }
        }
    }

    impl Embedder for Counting {
        fn fingerprint(&self) -> &str {
            self.fingerprint
        }

        fn embed(&self, texts: &[&str], done: &Done<'_>) -> Result<(), AugmentError> {
            self.embedded.fetch_add(texts.len(), Ordering::Relaxed);
            let vector = |text: &&str| {
                let first = if *text == "bad" {
                    f32::NAN
                } else {
                    text.len() as f32
                };
                [first, text.matches(' ').count() as f32]
            };
            let vectors = Embeddings::new(2, texts.iter().flat_map(vector).collect());
            done(&(0..texts.len()).collect::<Vec<_>>(), &vectors)
        }
    }

    #[test]
    fn a_second_run_embeds_only_what_is_new() {
        let folder = tempfile::tempdir().unwrap();
        let embed = |fingerprint, texts: &[&str]| {
            let embedder = Counting::new(fingerprint);
            let mut cache = VectorCache::open(Some(folder.path()), fingerprint).unwrap();
            let vectors = cache.embed(&embedder, texts, &()).unwrap();
            (vectors.values().to_vec(), embedder.embedded.into_inner())
        };
        assert_eq!(
            embed("m1", &["a b", "c", "a b"]),
            (vec![3., 1., 1., 0., 3., 1.], 2)
        );
        assert_eq!(embed("m1", &["c", "a b"]), (vec![1., 0., 3., 1.], 0));
        assert_eq!(embed("m1", &["new one", "c"]), (vec![7., 1., 1., 0.], 1));
        assert_eq!(
            embed("m2", &["c"]).1,
            1,
            "another model's vectors are not these"
        );
    }

    #[test]
    fn without_a_folder_nothing_is_remembered() {
        let embedder = Counting::new("m");
        for _ in 0..2 {
            let mut cache = VectorCache::open(None, "m").unwrap();
            cache.embed(&embedder, &["x", "x"], &()).unwrap();
        }
        assert_eq!(embedder.embedded.into_inner(), 2);
    }

    #[test]
    fn a_vector_that_is_not_finite_names_its_text() {
        let mut cache = VectorCache::open(None, "m").unwrap();
        let made = cache.embed(&Counting::new("m"), &["good", "bad"], &());
        let error = made.unwrap_err();
        assert!(matches!(error, AugmentError::NotFinite { text } if text == "bad"));
    }
}
