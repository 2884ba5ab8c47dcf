//! The folder of one embedder's vectors: files that only grow, read through a memory map.
//!
//! | file | holds |
//! | --- | --- |
//! | `meta.json` | format, fingerprint, dimension |
//! | `keys.bin` | the SHA-256 of each text, 32 bytes |
//! | `vectors.f32` | the vector of each text, `dimension` f32 in this machine's byte order, in the same order |
//! | `lock` | nothing: who writes holds its lock |
//!
//! A record counts when it is whole in both files. Vectors are written before their keys, so a run that
//! is stopped leaves at most a tail that does not count; the next one to write cuts it off.
//!
//! Several processes may use a folder at a time. Each takes the lock only for as long as it appends a
//! batch or reads what others have appended, so none waits for another's embedding, and all find what any
//! of them made. (Two that embed the same text at the same time both write it, which costs space alone.)

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use memmap2::{Mmap, MmapOptions};
use serde::{Deserialize, Serialize};

use super::Key;
use crate::AugmentError;
use crate::atomic_file::write_json;
use crate::embed::Embeddings;

/// What `meta.json` says. A machine of the other byte order must not take the numbers for its own.
const FORMAT: &str = if cfg!(target_endian = "little") {
    "rag-tune vectors 1, little-endian"
} else {
    "rag-tune vectors 1, big-endian"
};

/// Larger than any embedder's: a larger one in `meta.json` is damage.
const MAX_DIMENSION: usize = 1 << 20;

#[derive(Serialize, Deserialize)]
struct Meta {
    format: String,
    fingerprint: String,
    dimension: usize,
}

/// The folder of one embedder's vectors.
pub(super) struct VectorFiles {
    folder: PathBuf,
    fingerprint: String,
    /// `None` as long as nobody has written a vector.
    opened: Option<Opened>,
}

struct Opened {
    dimension: usize,
    lock: File,
    keys: File,
    vectors: File,
    /// Records that are known here.
    records: usize,
    /// The vectors of the first records, not always of all that are known.
    map: Option<Mmap>,
}

/// Releases the lock when it goes.
struct Locked<'a>(&'a File);

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // Should this fail, closing the file releases it.
        self.0.unlock().ok();
    }
}

impl VectorFiles {
    /// `folder` need not exist, and is not made before there is something to write.
    pub(super) fn new(folder: PathBuf, fingerprint: &str) -> Self {
        Self {
            folder,
            fingerprint: fingerprint.to_owned(),
            opened: None,
        }
    }

    /// Length of the vectors, if there are any.
    pub(super) fn dimension(&self) -> Option<usize> {
        self.opened.as_ref().map(|opened| opened.dimension)
    }

    /// Reads what was appended since the last call, by whomever: the key and position of each record
    /// goes to `found`. All positions can be read by [`Self::vector`] then.
    pub(super) fn read_new(
        &mut self,
        found: &mut impl FnMut(Key, usize),
    ) -> Result<(), AugmentError> {
        if self.opened.is_none() {
            let Some(meta) = self.meta()? else {
                return Ok(());
            };
            self.opened = Some(Opened::open(&self.folder, meta.dimension)?);
        }
        let Self { folder, opened, .. } = self;
        let opened = opened.as_mut().expect("opened above");
        opened
            .lock
            .lock_shared()
            .map_err(AugmentError::read(folder.join(LOCK)))?;
        let _locked = Locked(&opened.lock);
        read_new(
            folder,
            opened.dimension,
            (&opened.keys, &opened.vectors),
            &mut opened.records,
            found,
        )?;
        let bytes = opened.records * opened.dimension * size_of::<f32>();
        if opened.map.as_ref().map_or(0, |map| map.len()) < bytes {
            // SAFETY: the mapped bytes are whole records, which no version of this code changes or cuts
            // off: writers hold the lock and only add behind them. That nobody else shortens the file
            // meanwhile is the rule for every map of a file.
            let map = unsafe { MmapOptions::new().len(bytes).map(&opened.vectors) };
            opened.map = Some(map.map_err(AugmentError::read(folder.join(VECTORS)))?);
        }
        Ok(())
    }

    /// Appends records; as [`Self::read_new`] for these and for what others have appended before, except
    /// that the vectors are not readable before the next [`Self::read_new`].
    pub(super) fn append(
        &mut self,
        keys: &[Key],
        vectors: &Embeddings,
        found: &mut impl FnMut(Key, usize),
    ) -> Result<(), AugmentError> {
        if self.opened.is_none() {
            self.opened = Some(self.create(vectors.dimension())?);
        }
        let Self { folder, opened, .. } = self;
        let opened = opened.as_mut().expect("created above");
        let (keys_path, vectors_path) = (folder.join(KEYS), folder.join(VECTORS));
        if vectors.dimension() != opened.dimension {
            return Err(AugmentError::OtherDimension {
                expected: opened.dimension,
                found: vectors.dimension(),
            });
        }
        opened
            .lock
            .lock()
            .map_err(AugmentError::write(folder.join(LOCK)))?;
        let _locked = Locked(&opened.lock);
        let files = (&opened.keys, &opened.vectors);
        read_new(
            folder,
            opened.dimension,
            files,
            &mut opened.records,
            &mut *found,
        )?;
        let vector_bytes = opened.dimension * size_of::<f32>();
        append(
            &opened.vectors,
            opened.records * vector_bytes,
            bytemuck::cast_slice(vectors.values()),
        )
        .map_err(AugmentError::write(vectors_path))?;
        append(
            &opened.keys,
            opened.records * size_of::<Key>(),
            keys.as_flattened(),
        )
        .map_err(AugmentError::write(keys_path))?;
        for key in keys {
            found(*key, opened.records);
            opened.records += 1;
        }
        Ok(())
    }

    /// The vector at a position that [`Self::read_new`] has seen.
    pub(super) fn vector(&self, position: usize) -> &[f32] {
        let opened = self.opened.as_ref().expect("a position was given out");
        let map = opened.map.as_ref().expect("a position was given out");
        let values: &[f32] = bytemuck::cast_slice(map); // pages are aligned
        &values[position * opened.dimension..][..opened.dimension]
    }

    /// Has the system write what it holds back, so that a loss of power does not cost it.
    pub(super) fn sync(&self) -> Result<(), AugmentError> {
        let Some(opened) = &self.opened else {
            return Ok(());
        };
        for (name, file) in [(VECTORS, &opened.vectors), (KEYS, &opened.keys)] {
            file.sync_data()
                .map_err(AugmentError::write(self.folder.join(name)))?;
        }
        Ok(())
    }

    /// Makes the folder, unless another process has just done so.
    fn create(&self, dimension: usize) -> Result<Opened, AugmentError> {
        std::fs::create_dir_all(&self.folder).map_err(AugmentError::write(&self.folder))?;
        let lock = open_file(&self.folder, LOCK)?;
        lock.lock()
            .map_err(AugmentError::write(self.folder.join(LOCK)))?;
        let _locked = Locked(&lock);
        let meta = match self.meta()? {
            Some(meta) => meta,
            None => {
                let meta = Meta {
                    format: FORMAT.into(),
                    fingerprint: self.fingerprint.clone(),
                    dimension,
                };
                write_json(&self.folder.join(META), &meta)?;
                meta
            }
        };
        Opened::open(&self.folder, meta.dimension)
    }

    /// `None` if nothing was written yet.
    fn meta(&self) -> Result<Option<Meta>, AugmentError> {
        let path = self.folder.join(META);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let vectors = self.folder.join(VECTORS);
                return match std::fs::metadata(vectors).map_or(0, |metadata| metadata.len()) {
                    0 => Ok(None),
                    _ => Err(damage(&self.folder, format!("it has no `{META}`"))),
                };
            }
            Err(error) => return Err(AugmentError::read(path)(error)),
        };
        let meta: Meta = serde_json::from_slice(&bytes)
            .map_err(|error| damage(&self.folder, format!("`{META}`: {error}")))?;
        let problem = if meta.format != FORMAT {
            format!("its format is `{}`, expected `{FORMAT}`", meta.format)
        } else if meta.fingerprint != self.fingerprint {
            format!("it is of the embedder {}", meta.fingerprint)
        } else if !(1..=MAX_DIMENSION).contains(&meta.dimension) {
            format!("its vectors are said to have {} numbers", meta.dimension)
        } else {
            return Ok(Some(meta));
        };
        Err(damage(&self.folder, problem))
    }
}

const META: &str = "meta.json";
const KEYS: &str = "keys.bin";
const VECTORS: &str = "vectors.f32";
const LOCK: &str = "lock";

impl Opened {
    fn open(folder: &Path, dimension: usize) -> Result<Self, AugmentError> {
        Ok(Self {
            dimension,
            lock: open_file(folder, LOCK)?,
            keys: open_file(folder, KEYS)?,
            vectors: open_file(folder, VECTORS)?,
            records: 0,
            map: None,
        })
    }
}

fn open_file(folder: &Path, name: &str) -> Result<File, AugmentError> {
    let path = folder.join(name);
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(AugmentError::write(path))
}

/// Reads the keys behind the first `records`, which grows to what is whole in both files. The caller
/// holds the lock.
fn read_new(
    folder: &Path,
    dimension: usize,
    (mut keys, vectors): (&File, &File),
    records: &mut usize,
    found: &mut impl FnMut(Key, usize),
) -> Result<(), AugmentError> {
    let whole = |file: &File, name: &str, record_bytes: usize| {
        let metadata = file.metadata();
        let bytes = metadata
            .map_err(AugmentError::read(folder.join(name)))?
            .len();
        Ok::<_, AugmentError>((bytes / record_bytes as u64) as usize)
    };
    let whole_keys = whole(keys, KEYS, size_of::<Key>())?;
    let there = whole_keys.min(whole(vectors, VECTORS, dimension * size_of::<f32>())?);
    if there < *records {
        let problem = format!("it had {records} vectors a moment ago, and has {there}");
        return Err(damage(folder, problem));
    }
    let mut new = vec![Key::default(); there - *records];
    keys.seek(SeekFrom::Start((*records * size_of::<Key>()) as u64))
        .and_then(|_| keys.read_exact(new.as_flattened_mut()))
        .map_err(AugmentError::read(folder.join(KEYS)))?;
    for key in new {
        found(key, *records);
        *records += 1;
    }
    Ok(())
}

/// Writes `bytes` behind the first `whole` ones, in place of a torn record.
fn append(mut file: &File, whole: usize, bytes: &[u8]) -> std::io::Result<()> {
    if file.metadata()?.len() != whole as u64 {
        file.set_len(whole as u64)?;
    }
    file.seek(SeekFrom::Start(whole as u64))?;
    file.write_all(bytes)
}

fn damage(folder: &Path, problem: String) -> AugmentError {
    AugmentError::VectorCache {
        path: folder.to_owned(),
        problem,
    }
}
