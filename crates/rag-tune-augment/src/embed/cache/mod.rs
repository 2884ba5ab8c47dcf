//! Vectors remembered on disk, by embedder and text: what was embedded once is not embedded again.
//!
//! Each batch is written when it is done, so an interrupted run loses at most the batches that were
//! under way. Vectors stay on disk and are read through a memory map; in memory is only where they lie.

mod files;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Mutex;

use rayon::prelude::*;

use super::{Embedder, Embeddings, beginning};
use crate::fingerprint::sha256_of_text;
use crate::{AugmentError, Progress};
use files::VectorFiles;

/// SHA-256 of a text.
type Key = [u8; 32];

/// The first half of a [`Key`], which is enough to tell texts apart: among a billion texts, the chance
/// that any two share 128 bits is about 10^-21.
type ShortKey = [u8; 16];

/// How far from 1 a vector's length may be.
const LENGTH_TOLERANCE: f64 = 1e-3;

/// All vectors of one embedder that are known.
pub struct VectorCache {
    /// Position of a text's vector.
    positions: HashMap<ShortKey, usize>,
    vectors: Vectors,
}

enum Vectors {
    /// Nothing is remembered between runs. `None` as long as there is no vector.
    Memory(Option<Embeddings>),
    Files(VectorFiles),
}

impl VectorCache {
    /// Finds what `folder` remembers of the embedder, in `folder/<fingerprint>`; nothing if it is new.
    /// Without a folder, vectors are kept in memory as long as the cache lives.
    ///
    /// # Errors
    /// [`AugmentError::VectorCache`] if the folder is damaged in a way that an interrupted run does not
    /// explain; [`AugmentError::Read`], [`AugmentError::Write`].
    pub fn open(folder: Option<&Path>, fingerprint: &str) -> Result<Self, AugmentError> {
        let vectors = match folder {
            None => Vectors::Memory(None),
            Some(folder) => Vectors::Files(VectorFiles::new(folder.join(fingerprint), fingerprint)),
        };
        let mut cache = Self {
            positions: HashMap::new(),
            vectors,
        };
        cache.read_new()?;
        Ok(cache)
    }

    /// Takes note of what this or another process has written.
    fn read_new(&mut self) -> Result<(), AugmentError> {
        match &mut self.vectors {
            Vectors::Memory(_) => Ok(()),
            Vectors::Files(files) => {
                let positions = &mut self.positions;
                // Of two records of one text the later counts: the earlier may be one that was lost.
                files.read_new(&mut |key, position| {
                    positions.insert(short(&key), position);
                })
            }
        }
    }

    /// The vector of a text, if it is known and whole.
    fn get(&self, key: &Key) -> Option<&[f32]> {
        let position = *self.positions.get(&short(key))?;
        let vector = match &self.vectors {
            Vectors::Memory(vectors) => vectors.as_ref()?.row(position),
            Vectors::Files(files) => files.vector(position),
        };
        // After a loss of power a file may have holes, which read as zero. A vector that was really
        // zero is stored as -0.0 (see `checked`), so that a hole can be told from it.
        let is_hole = vector.iter().all(|value| value.to_bits() == 0);
        (!is_hole && problem_of(vector).is_none()).then_some(vector)
    }

    fn insert(&mut self, keys: &[Key], vectors: &Embeddings) -> Result<(), AugmentError> {
        let positions = &mut self.positions;
        match &mut self.vectors {
            Vectors::Files(files) => files.append(keys, vectors, &mut |key, position| {
                positions.insert(short(&key), position);
            }),
            Vectors::Memory(Some(known)) if known.dimension() != vectors.dimension() => {
                Err(AugmentError::OtherDimension {
                    expected: known.dimension(),
                    found: vectors.dimension(),
                })
            }
            Vectors::Memory(known) => {
                let before = known.as_ref().map_or(0, Embeddings::len);
                for (index, key) in keys.iter().enumerate() {
                    positions.insert(short(key), before + index);
                }
                match known {
                    Some(known) => known.extend(vectors),
                    None => *known = Some(vectors.clone()),
                }
                Ok(())
            }
        }
    }

    /// As [`Embedder::embed`], but each distinct text is embedded once, and with a folder only if no
    /// earlier run did. Returns `[texts, dimension]`, in the order of `texts`.
    ///
    /// # Errors
    /// As [`Embedder::embed`]; [`AugmentError::NotFinite`], [`AugmentError::NotUnit`],
    /// [`AugmentError::OtherDimension`] if the embedder does not keep its word;
    /// [`AugmentError::VectorCache`], [`AugmentError::Read`] and [`AugmentError::Write`] for the cache.
    /// What was made before the error is kept.
    pub fn embed(
        &mut self,
        embedder: &dyn Embedder,
        texts: &[&str],
        progress: &dyn Progress,
    ) -> Result<Embeddings, AugmentError> {
        self.read_new()?;
        let keys: Vec<Key> = texts.par_iter().map(|text| sha256_of_text(text)).collect();
        let mut seen = HashSet::new();
        let (missing_keys, missing_texts): (Vec<_>, Vec<_>) = keys
            .iter()
            .zip(texts)
            .filter(|(key, _)| self.get(key).is_none() && seen.insert(**key))
            .map(|(key, text)| (*key, *text))
            .unzip();
        if !missing_texts.is_empty() {
            progress.start("embed", missing_texts.len() as u64);
            let cache = Mutex::new(&mut *self);
            let made = embedder.embed(&missing_texts, &|positions, vectors| {
                let vectors = checked(vectors, |index| missing_texts[positions[index]])?;
                let keys: Vec<_> = positions.iter().map(|&at| missing_keys[at]).collect();
                let mut cache = cache.lock().expect("no thread panics while it inserts");
                cache.insert(&keys, &vectors)?;
                drop(cache);
                progress.advance(positions.len() as u64);
                Ok(())
            });
            if let Vectors::Files(files) = &self.vectors {
                files.sync()?;
            }
            made?;
            progress.finish();
            self.read_new()?;
        }
        let found = keys
            .iter()
            .map(|key| self.get(key).expect("an embedder makes every vector"));
        let values = found.flatten().copied().collect();
        Ok(Embeddings::new(self.dimension().unwrap_or(1), values))
    }

    fn dimension(&self) -> Option<usize> {
        match &self.vectors {
            Vectors::Memory(vectors) => vectors.as_ref().map(Embeddings::dimension),
            Vectors::Files(files) => files.dimension(),
        }
    }
}

fn short(key: &Key) -> ShortKey {
    *key.first_chunk().expect("a digest has 32 bytes")
}

enum Problem {
    NotFinite,
    Length(f64),
}

/// Why a vector is none that an embedder may make: it is of length 1, or zero if the text says nothing.
fn problem_of(vector: &[f32]) -> Option<Problem> {
    if !vector.iter().all(|value| value.is_finite()) {
        return Some(Problem::NotFinite);
    }
    let squares = vector.iter().map(|&value| f64::from(value).powi(2));
    let length = squares.sum::<f64>().sqrt();
    ((length - 1.0).abs() > LENGTH_TOLERANCE && length != 0.0).then_some(Problem::Length(length))
}

/// The vectors as they are stored.
fn checked<'a>(
    vectors: &Embeddings,
    text: impl Fn(usize) -> &'a str,
) -> Result<Embeddings, AugmentError> {
    let mut values = vectors.values().to_vec();
    let rows = values.chunks_exact_mut(vectors.dimension());
    for (index, vector) in rows.enumerate() {
        match problem_of(vector) {
            Some(Problem::NotFinite) => {
                return Err(AugmentError::NotFinite {
                    text: beginning(text(index)),
                });
            }
            Some(Problem::Length(length)) => {
                return Err(AugmentError::NotUnit {
                    text: beginning(text(index)),
                    length,
                });
            }
            None if vector.iter().all(|&value| value == 0.0) => vector.fill(-0.0),
            None => {}
        }
    }
    Ok(Embeddings::new(vectors.dimension(), values))
}

#[cfg(test)]
mod tests;
