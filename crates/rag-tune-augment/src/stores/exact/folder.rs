//! A store on disk: a folder with
//!
//! - `store.json`: what it was made from, and its shape
//! - `vectors.f32`: `[rows, dimension]`, little-endian
//! - `codes.i8`: panels of int8 codes, for large sets (see [`super::codes`])
//!
//! It is made beside its place and gets its name when it is whole (see [`super::site`]).

use std::fs::{self, File};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::bytes::{Bytes, Line};
use super::codes::{self, Codes};
use super::kernel::PANEL_ROWS;
use super::site::{OnDamage, Site};
use super::{ExactStore, FirstPass, Vectors, filled, largest_norm};
use crate::AugmentError;
use crate::atomic_file::write_json;
use crate::stores::error::{EMBEDDER, TEXTS};
use crate::stores::{Push, StoreError, StoreIdentity};

/// Changes with the layout of the files.
const LAYOUT: u32 = 1;
const DESCRIPTION: &str = "store.json";
const VECTORS: &str = "vectors.f32";
const CODES: &str = "codes.i8";
/// Panels that are coded in memory before they are written: 50 MB at 384 dimensions.
const PANELS_AT_ONCE: usize = 2048;

/// `store.json`
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    layout: u32,
    identity: StoreIdentity,
    dimension: usize,
    largest_norm: f32,
    coded: bool,
}

/// Opens the store in `folder`; makes it if there is none.
pub(in crate::stores) fn open_or_build(
    folder: &Path,
    on_damage: OnDamage,
    identity: &StoreIdentity,
    fill: impl FnOnce(&mut Push<'_>) -> Result<(), AugmentError>,
) -> Result<ExactStore, AugmentError> {
    if let Some(store) = usable(folder, on_damage, identity)? {
        return Ok(store);
    }
    let site = Site::new(folder)?;
    // While this process waited, another one may have made it.
    if let Some(store) = usable(folder, on_damage, identity)? {
        return Ok(store);
    }
    site.remove_leftovers()?;
    let building = site.building()?;
    build(building.path(), identity, fill)?;
    let installed = site.install(building, on_damage);
    match (usable(folder, on_damage, identity)?, installed) {
        (Some(store), _) => Ok(store), // without a lock, perhaps another process's
        (None, Err(error)) => Err(error),
        (None, Ok(())) => {
            let (path, problem) = (folder.join(DESCRIPTION), "it has disappeared".into());
            Err(StoreError::Damaged { path, problem }.into())
        }
    }
}

/// The store in `folder`, if there is one that may be used.
fn usable(
    folder: &Path,
    on_damage: OnDamage,
    identity: &StoreIdentity,
) -> Result<Option<ExactStore>, AugmentError> {
    match load(folder, identity) {
        Err(AugmentError::Store(_)) if on_damage == OnDamage::Replace => Ok(None),
        result => result,
    }
}

/// `None` where there is nothing.
fn load(folder: &Path, identity: &StoreIdentity) -> Result<Option<ExactStore>, AugmentError> {
    let path = folder.join(DESCRIPTION);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return nothing_in(folder),
        Err(error) => return Err(AugmentError::read(path)(error)),
    };
    let damaged = |path: &Path, problem: String| {
        let path = path.to_owned();
        AugmentError::Store(StoreError::Damaged { path, problem })
    };
    let value: serde_json::Value =
        serde_json::from_slice(&text).map_err(|error| damaged(&path, error.to_string()))?;
    refuse_other_layout(folder, &value)?;
    let description: Description =
        serde_json::from_value(value).map_err(|error| damaged(&path, error.to_string()))?;
    refuse_other_identity(folder, identity, &description.identity)?;

    let Description {
        dimension,
        largest_norm,
        coded,
        ..
    } = description;
    if dimension == 0 || identity.rows == 0 {
        return Err(damaged(&path, "it has no vectors".into()));
    }
    let sized = |name: &str, expected: Option<usize>| {
        let path = folder.join(name);
        let found = match fs::metadata(&path) {
            Ok(metadata) => usize::try_from(metadata.len()).ok(),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(damaged(&path, "it is missing".into()));
            }
            Err(error) => return Err(AugmentError::read(path)(error)),
        };
        if found.is_none() || found != expected {
            let said =
                |bytes: Option<usize>| bytes.map_or("too many".into(), |bytes| bytes.to_string());
            let problem = format!("it has {} bytes, expected {}", said(found), said(expected));
            return Err(damaged(&path, problem));
        }
        Bytes::map(&path)
    };
    let values = identity
        .rows
        .checked_mul(dimension)
        .and_then(|values| values.checked_mul(4));
    let values = sized(VECTORS, values)?;
    let codes = if coded && Codes::can_hold(dimension) {
        let bytes = sized(CODES, Some(codes::encoded_bytes(identity.rows, dimension)))?;
        Codes::new(bytes, identity.rows, dimension)
    } else {
        None
    };
    let vectors = Vectors::Mapped { dimension, values };
    Ok(Some(ExactStore::of_parts(vectors, largest_norm, codes)))
}

/// That nothing is there, or only an empty folder.
fn nothing_in(folder: &Path) -> Result<Option<ExactStore>, AugmentError> {
    let mut entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(AugmentError::read(folder)(error)),
    };
    if entries.next().is_some() {
        let folder = folder.to_owned();
        return Err(StoreError::NotAStore { folder }.into());
    }
    Ok(None)
}

fn refuse_other_layout(folder: &Path, value: &serde_json::Value) -> Result<(), StoreError> {
    let found = value.get("layout").and_then(serde_json::Value::as_u64);
    match found.and_then(|found| u32::try_from(found).ok()) {
        Some(found) if found != LAYOUT => {
            let (folder, expected) = (folder.to_owned(), LAYOUT);
            Err(StoreError::OtherLayout {
                folder,
                expected,
                found,
            })
        }
        _ => Ok(()), // without a layout, parsing fails and says so
    }
}

fn refuse_other_identity(
    folder: &Path,
    expected: &StoreIdentity,
    found: &StoreIdentity,
) -> Result<(), StoreError> {
    let texts = |identity: &StoreIdentity| {
        format!("{} ({} rows)", shortened(&identity.texts), identity.rows)
    };
    let (what, expected, found) = if expected.embedder != found.embedder {
        (
            EMBEDDER,
            shortened(&expected.embedder),
            shortened(&found.embedder),
        )
    } else if expected != found {
        (TEXTS, texts(expected), texts(found))
    } else {
        return Ok(());
    };
    let folder = folder.to_owned();
    Err(StoreError::OtherIdentity {
        folder,
        what,
        expected,
        found,
    })
}

/// Enough of a hash to tell two apart.
fn shortened(hash: &str) -> String {
    hash.chars().take(12).collect()
}

/// Writes a store into an empty folder.
fn build(
    folder: &Path,
    identity: &StoreIdentity,
    fill: impl FnOnce(&mut Push<'_>) -> Result<(), AugmentError>,
) -> Result<(), AugmentError> {
    let path = folder.join(VECTORS);
    let mut file = Writer::create(&path)?;
    let dimension = filled(identity, fill, |vectors| {
        file.write(bytemuck::cast_slice(vectors.values()))
    })?;
    file.finish()?;
    let bytes = Bytes::map(&path)?;
    let vectors = bytemuck::cast_slice(bytes.as_slice());
    let coded = FirstPass::for_rows(identity.rows) == FirstPass::Int8 && Codes::can_hold(dimension);
    if coded {
        let mut file = Writer::create(&folder.join(CODES))?;
        for vectors in vectors.chunks(PANELS_AT_ONCE * PANEL_ROWS * dimension) {
            let lines: Vec<Line> = codes::encode(vectors, dimension);
            file.write(bytemuck::cast_slice(&lines))?;
        }
        file.finish()?;
    }
    let description = Description {
        layout: LAYOUT,
        identity: identity.clone(),
        dimension,
        largest_norm: largest_norm(vectors, dimension),
        coded,
    };
    write_json(&folder.join(DESCRIPTION), &description)
}

/// A file that is being written, and its path, for messages.
struct Writer {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Writer {
    fn create(path: &Path) -> Result<Self, AugmentError> {
        let file = File::create(path).map_err(AugmentError::write(path))?;
        let (path, file) = (path.to_owned(), BufWriter::with_capacity(1 << 20, file));
        Ok(Self { path, file })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), AugmentError> {
        self.file
            .write_all(bytes)
            .map_err(AugmentError::write(&self.path))
    }

    fn finish(mut self) -> Result<(), AugmentError> {
        let flushed = self
            .file
            .flush()
            .and_then(|()| self.file.get_ref().sync_all());
        flushed.map_err(AugmentError::write(self.path))
    }
}

#[cfg(test)]
mod tests;
