//! Vectors that were made elsewhere, from a file.
//!
//! Either safetensors: `text_sha256` `[texts, 32]` u8 (SHA-256 of each text in UTF-8) and `vectors` `[texts, dimension]`
//! f32, which Python writes so:
//!
//! ```python
//! import hashlib, numpy as np
//! from safetensors.numpy import save_file
//! keys = [np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8) for text in texts]
//! save_file({"text_sha256": np.stack(keys), "vectors": vectors.astype(np.float32)}, "vectors.safetensors")
//! ```
//!
//! Or JSON lines: `{"text": "...", "vector": [0.1, ...]}`. Vectors are normalised to length 1, and files of
//! any other extension than `.safetensors` are read as JSON lines.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use super::{Done, Embedder, Embeddings, normalise};
use crate::AugmentError;
use crate::fingerprint::{sha256_of_files, sha256_of_text};

/// A file of vectors that cannot be used; part of [`AugmentError`].
#[derive(Debug, thiserror::Error)]
pub enum VectorFileError {
    /// The file is no such file.
    #[error("the vectors in `{path}` cannot be read: {problem}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A line of a JSON-lines file is not what it should be.
    #[error("`{path}` line {line}: {problem}")]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// A vector has another length than the first.
    #[error("vector {vector} of `{path}` has {got} components, the first has {expected}")]
    Dimension {
        /// The file.
        path: PathBuf,
        /// Which vector, from 1.
        vector: usize,
        /// Its length.
        got: usize,
        /// The first one's.
        expected: usize,
    },
    /// A vector has a component that is not finite, or only zeros: it has no direction.
    #[error(
        "vector {vector} of `{path}` has no direction: it is all zeros, or has a component that is not finite"
    )]
    NoDirection {
        /// The file.
        path: PathBuf,
        /// Which vector, from 1.
        vector: usize,
    },
    /// Two vectors of one text.
    #[error("vector {vector} of `{path}` is of a text that has another vector further up")]
    Ambiguous {
        /// The file.
        path: PathBuf,
        /// Which vector, from 1.
        vector: usize,
    },
    /// A text that the file does not have.
    #[error("`{path}` has no vector for the text {text:?}")]
    NoVector {
        /// The file.
        path: PathBuf,
        /// The text's beginning.
        text: String,
    },
}

impl VectorFileError {
    /// How to mend it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Format { .. } => Some(
                "`.safetensors` holds `text_sha256` [texts, 32] u8 and `vectors` [texts, dimension] f32; other files are \
                 JSON lines of {\"text\": ..., \"vector\": [...]}"
                    .into(),
            ),
            Self::NoVector { .. } => Some(
                "texts are looked up as they are, white space included; add its vector, or name an embedding model".into(),
            ),
            _ => None,
        }
    }
}

/// Vectors from a file.
pub struct VectorFile {
    path: PathBuf,
    fingerprint: String,
    /// Read when the first text is embedded.
    loaded: OnceLock<Vectors>,
}

#[derive(Default)]
struct Vectors {
    /// 0 as long as there are none.
    dimension: usize,
    /// Position of a text's vector, by the SHA-256 of the text.
    positions: HashMap<[u8; 32], usize>,
    values: Vec<f32>,
    /// Vectors read, repeated ones included.
    read: usize,
}

/// A line of a JSON-lines file.
#[derive(Deserialize)]
struct Line {
    text: String,
    vector: Vec<f32>,
}

/// Characters of a text that an error shows.
const SHOWN: usize = 80;

/// Texts that are handed over together.
const TEXTS_AT_A_TIME: usize = 1024;

impl VectorFile {
    /// Finds the file; its vectors are read when the first text is embedded.
    ///
    /// # Errors
    /// [`AugmentError::Read`].
    pub fn open(path: &Path) -> Result<Self, AugmentError> {
        Ok(Self {
            path: path.to_owned(),
            fingerprint: sha256_of_files(&[path])?,
            loaded: OnceLock::new(),
        })
    }

    fn vectors(&self) -> Result<&Vectors, AugmentError> {
        if self.loaded.get().is_none() {
            let vectors = match self.path.extension() {
                Some(extension) if extension == "safetensors" => {
                    Vectors::from_safetensors(&self.path)
                }
                _ => Vectors::from_lines(&self.path),
            };
            let vectors = vectors?;
            self.loaded.get_or_init(|| vectors);
        }
        Ok(self.loaded.get().expect("just set"))
    }
}

impl Embedder for VectorFile {
    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Every text must have a vector.
    fn embed(&self, texts: &[&str], done: &Done<'_>) -> Result<(), AugmentError> {
        let vectors = self.vectors()?;
        for (chunk, texts) in texts.chunks(TEXTS_AT_A_TIME).enumerate() {
            let mut values = Vec::with_capacity(texts.len() * vectors.dimension);
            for text in texts {
                let vector = vectors.get(text).ok_or_else(|| VectorFileError::NoVector {
                    path: self.path.clone(),
                    text: text.chars().take(SHOWN).collect(),
                })?;
                values.extend_from_slice(vector);
            }
            let first = chunk * TEXTS_AT_A_TIME;
            let positions: Vec<usize> = (first..first + texts.len()).collect();
            done(&positions, &Embeddings::new(vectors.dimension, values))?;
        }
        Ok(())
    }
}

impl Vectors {
    fn get(&self, text: &str) -> Option<&[f32]> {
        let position = *self.positions.get(&sha256_of_text(text))?;
        Some(&self.values[position * self.dimension..][..self.dimension])
    }

    fn push(&mut self, path: &Path, key: [u8; 32], vector: &[f32]) -> Result<(), VectorFileError> {
        self.read += 1;
        let (path, number) = (path.to_owned(), self.read);
        if self.dimension == 0 {
            self.dimension = vector.len();
        }
        if vector.len() != self.dimension {
            return Err(VectorFileError::Dimension {
                path,
                vector: number,
                got: vector.len(),
                expected: self.dimension,
            });
        }
        let mut vector = vector.to_vec();
        if vector.iter().any(|x| !x.is_finite()) {
            return Err(VectorFileError::NoDirection {
                path,
                vector: number,
            });
        }
        // First by the largest component, so that no square leaves the range of f32.
        let largest = vector
            .iter()
            .fold(0.0_f32, |largest, x| largest.max(x.abs()));
        if largest == 0.0 {
            return Err(VectorFileError::NoDirection {
                path,
                vector: number,
            });
        }
        vector.iter_mut().for_each(|x| *x /= largest);
        normalise(&mut vector);
        let count = self.positions.len();
        match self.positions.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(count);
                self.values.extend(vector);
                Ok(())
            }
            Entry::Occupied(entry) => {
                let earlier = &self.values[entry.get() * self.dimension..][..self.dimension];
                if earlier == vector {
                    return Ok(());
                }
                let vector = number;
                Err(VectorFileError::Ambiguous { path, vector })
            }
        }
    }

    fn from_safetensors(path: &Path) -> Result<Self, AugmentError> {
        let bytes = std::fs::read(path).map_err(AugmentError::read(path))?;
        let failed = |problem| VectorFileError::Format {
            path: path.to_owned(),
            problem,
        };
        let tensors =
            SafeTensors::deserialize(&bytes).map_err(|error| failed(error.to_string()))?;
        let tensor = |name: &str, dtype: Dtype| {
            let tensor = tensors
                .tensor(name)
                .map_err(|error| failed(error.to_string()))?;
            match tensor.shape() {
                &[texts, columns] if tensor.dtype() == dtype => Ok((tensor.data(), texts, columns)),
                shape => Err(failed(format!("`{name}` is {} {shape:?}", tensor.dtype()))),
            }
        };
        let (keys, texts, key_size) = tensor("text_sha256", Dtype::U8)?;
        let (values, vectors, dimension) = tensor("vectors", Dtype::F32)?;
        if key_size != 32 || vectors != texts || dimension == 0 {
            let problem = format!(
                "`text_sha256` is [{texts}, {key_size}], `vectors` [{vectors}, {dimension}]"
            );
            return Err(failed(problem).into());
        }
        let mut read = Self::default();
        for (key, vector) in keys
            .as_chunks::<32>()
            .0
            .iter()
            .zip(values.chunks_exact(4 * dimension))
        {
            let vector: Vec<f32> = vector
                .as_chunks()
                .0
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect();
            read.push(path, *key, &vector)?;
        }
        Ok(read)
    }

    fn from_lines(path: &Path) -> Result<Self, AugmentError> {
        let file = std::fs::File::open(path).map_err(AugmentError::read(path))?;
        let mut vectors = Self::default();
        for (index, line) in BufReader::new(file).split(b'\n').enumerate() {
            let line = line.map_err(AugmentError::read(path))?;
            if line.trim_ascii().is_empty() {
                continue;
            }
            let failed = |problem| VectorFileError::Line {
                path: path.to_owned(),
                line: index + 1,
                problem,
            };
            let Line { text, vector } =
                serde_json::from_slice(&line).map_err(|error| failed(error.to_string()))?;
            if vector.is_empty() {
                return Err(failed("its vector is empty".into()).into());
            }
            vectors.push(path, sha256_of_text(&text), &vector)?;
        }
        if vectors.read == 0 {
            let (path, problem) = (path.to_owned(), "it is empty".into());
            return Err(VectorFileError::Format { path, problem }.into());
        }
        Ok(vectors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn embed(name: &str, bytes: &[u8], texts: &[&str]) -> Result<Vec<f32>, AugmentError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let found = Mutex::new(Vec::new());
        VectorFile::open(&path)?.embed(texts, &|_, vectors| {
            found.lock().unwrap().extend_from_slice(vectors.values());
            Ok(())
        })?;
        Ok(found.into_inner().unwrap())
    }

    fn safetensors_of(keys: &[u8], vectors: &[f32], dimension: usize) -> Vec<u8> {
        use safetensors::tensor::TensorView;
        let bytes: Vec<u8> = vectors.iter().flat_map(|x| x.to_le_bytes()).collect();
        let keys_shape = vec![keys.len() / 32, 32];
        let vectors_shape = vec![vectors.len() / dimension, dimension];
        let keys = TensorView::new(Dtype::U8, keys_shape, keys).unwrap();
        let vectors = TensorView::new(Dtype::F32, vectors_shape, &bytes).unwrap();
        safetensors::serialize([("text_sha256", keys), ("vectors", vectors)], None).unwrap()
    }

    #[test]
    fn both_formats_give_the_texts_vectors_at_length_1() {
        let lines =
            b"{\"text\": \"a\", \"vector\": [3, 4]}\n\n{\"text\": \"b\", \"vector\": [0, -2]}\n";
        let expected = vec![0.0, -1.0, 0.6, 0.8, 0.0, -1.0];
        assert_eq!(embed("v.jsonl", lines, &["b", "a", "b"]).unwrap(), expected);

        let keys = [sha256_of_text("a"), sha256_of_text("b")];
        let file = safetensors_of(keys.as_flattened(), &[3.0, 4.0, 0.0, -2.0], 2);
        assert_eq!(
            embed("v.safetensors", &file, &["b", "a", "b"]).unwrap(),
            expected
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let message = |lines: &str| {
            embed("v.jsonl", lines.as_bytes(), &["a"])
                .unwrap_err()
                .to_string()
        };
        let a = r#"{"text": "a", "vector": [3, 4]}"#;
        let two = |other: &str| message(&format!("{a}\n{other}"));
        assert!(
            two(r#"{"text": "b", "vector": [1]}"#).ends_with("has 1 components, the first has 2")
        );
        assert!(two(r#"{"text": "b", "vector": [1, 1e39]}"#).contains("vector 2"));
        assert!(two(r#"{"text": "b", "vector": [0, 0]}"#).contains("no direction"));
        assert!(two(r#"{"text": "a", "vector": [4, 3]}"#).contains("vector 2 of"));
        assert!(two(r#"{"text": "b"}"#).contains("line 2: missing field `vector`"));
        assert!(two(r#"{"text": "b", "vector": []}"#).contains("line 2: its vector is empty"));
        assert!(message("").contains("it is empty"));
        assert!(
            message(r#"{"text": "b", "vector": [1]}"#).ends_with(r#"no vector for the text "a""#)
        );

        let file = safetensors_of(&sha256_of_text("a"), &[f32::NAN, 1.0], 2);
        let error = embed("v.safetensors", &file, &["a"]).unwrap_err();
        assert!(error.to_string().contains("no direction"), "{error}");
        let file = safetensors_of(&[0; 64], &[1.0], 1);
        let error = embed("v.safetensors", &file, &["a"]).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("`text_sha256` is [2, 32], `vectors` [1, 1]"),
            "{error}"
        );
        let error = embed("v.safetensors", b"no safetensors", &["a"]).unwrap_err();
        assert!(error.hint().unwrap().contains("text_sha256"));
    }

    #[test]
    fn a_repeated_text_with_the_same_vector_is_no_error() {
        let lines = br#"{"text": "a", "vector": [3, 4]}
{"text": "a", "vector": [6, 8]}"#;
        assert_eq!(embed("v.jsonl", lines, &["a"]).unwrap(), [0.6, 0.8]);
    }

    #[test]
    fn a_long_text_is_shown_by_its_beginning() {
        let lines = br#"{"text": "a", "vector": [1]}"#;
        let error = embed("v.jsonl", lines, &["x".repeat(1000).as_str()]).unwrap_err();
        assert!(error.to_string().len() < 300, "{error}");
        assert!(error.hint().is_some());
    }
}
