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
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::embed::Embeddings;
    use crate::stores::Store;

    fn identity(rows: usize) -> StoreIdentity {
        let (embedder, texts) = ("0123456789abcdef".repeat(4), "fedcba9876543210".repeat(4));
        StoreIdentity {
            embedder,
            texts,
            rows,
        }
    }

    fn vectors(rows: usize) -> Embeddings {
        let values = (0..3 * rows).map(|at| (at as f32).sin());
        Embeddings::new(3, values.collect())
    }

    fn fill(rows: usize) -> impl FnOnce(&mut Push<'_>) -> Result<(), AugmentError> {
        move |push| push(&vectors(rows))
    }

    fn not_called(_: &mut Push<'_>) -> Result<(), AugmentError> {
        panic!("the store is there")
    }

    fn entries(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<_> = entries
            .map(|entry| name(entry).into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn store_error(result: Result<ExactStore, AugmentError>) -> StoreError {
        match result {
            Err(AugmentError::Store(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_store_is_made_once_and_then_opened() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("deep/store");
        for on_damage in [OnDamage::Report, OnDamage::Replace] {
            let made = open_or_build(&folder, on_damage, &identity(5), fill(5)).unwrap();
            assert_eq!(made.vectors(&[4, 0]).unwrap().row(0), vectors(5).row(4));
            let opened = open_or_build(&folder, on_damage, &identity(5), not_called).unwrap();
            let nearest = |store: &ExactStore| store.nearest(&vectors(5), 2, &|_, _| true).unwrap();
            assert_eq!(nearest(&made), nearest(&opened));
            assert_eq!(nearest(&made), nearest(&ExactStore::new(vectors(5))));
            assert_eq!(entries(folder.parent().unwrap()), ["store"]);
            fs::remove_dir_all(&folder).unwrap();
        }
    }

    #[test]
    fn a_large_store_keeps_its_codes() {
        let parent = tempfile::tempdir().unwrap();
        let rows = super::super::CODED_ROWS + 1;
        let folder = parent.path().join("store");
        let pushed_in_parts = |push: &mut Push<'_>| {
            let all = vectors(rows);
            all.values()
                .chunks(3 * 977)
                .try_for_each(|part| push(&Embeddings::new(3, part.to_vec())))
        };
        open_or_build(&folder, OnDamage::Report, &identity(rows), pushed_in_parts).unwrap();
        let opened = open_or_build(&folder, OnDamage::Report, &identity(rows), not_called).unwrap();
        let (coded, _) = opened.codes.as_ref().unwrap();
        let expected = Codes::of(vectors(rows).values(), 3);
        assert_eq!(coded.bytes(), expected.bytes());
        assert_eq!(entries(&folder), [CODES, DESCRIPTION, VECTORS]);
    }

    #[test]
    fn a_store_of_something_else_is_refused_and_stays() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("store");
        open_or_build(&folder, OnDamage::Report, &identity(5), fill(5)).unwrap();
        let other_embedder = StoreIdentity {
            embedder: "77".repeat(32),
            ..identity(5)
        };
        let other_texts = StoreIdentity {
            texts: "88".repeat(32),
            ..identity(5)
        };
        let text = |other: &StoreIdentity| {
            let error = store_error(open_or_build(&folder, OnDamage::Report, other, not_called));
            let shown = folder.display().to_string();
            (
                error.to_string().replace(&shown, "STORE"),
                error.hint().unwrap().replace(&shown, "STORE"),
            )
        };
        assert_eq!(
            text(&other_embedder),
            (
                "the store `STORE` was made from other vectors: found 0123456789ab, expected 777777777777".into(),
                "it is of another `retrieval.embedder` (or of other settings of it); give another \
                 `retrieval.store_folder`, or delete `STORE`".into()
            )
        );
        assert!(
            text(&other_texts).0.ends_with(
                "other texts: found fedcba987654 (5 rows), expected 888888888888 (5 rows)"
            )
        );
        assert!(
            text(&identity(6))
                .0
                .ends_with("(5 rows), expected fedcba987654 (6 rows)")
        );
        open_or_build(&folder, OnDamage::Report, &identity(5), not_called).unwrap();
    }

    #[test]
    fn a_damaged_store_is_reported_or_made_again() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("store");
        type Damage = (&'static str, fn(&Path), &'static str);
        let damages: [Damage; 5] = [
            (
                VECTORS,
                |path| fs::write(path, [0; 56]).unwrap(),
                "it has 56 bytes, expected 60",
            ),
            (
                VECTORS,
                |path| fs::write(path, []).unwrap(),
                "it has 0 bytes, expected 60",
            ),
            (
                VECTORS,
                |path| fs::remove_file(path).unwrap(),
                "it is missing",
            ),
            (
                DESCRIPTION,
                |path| fs::write(path, "{\"layout\": 1").unwrap(),
                "EOF",
            ),
            (
                DESCRIPTION,
                |path| fs::write(path, "{}").unwrap(),
                "missing field `layout`",
            ),
        ];
        for (file, damage, expected) in damages {
            open_or_build(&folder, OnDamage::Report, &identity(5), fill(5)).unwrap();
            damage(&folder.join(file));
            let error = store_error(open_or_build(
                &folder,
                OnDamage::Report,
                &identity(5),
                not_called,
            ));
            let StoreError::Damaged { path, problem } = &error else {
                panic!("{error:?}")
            };
            assert_eq!(path.file_name().unwrap(), file);
            assert!(problem.contains(expected), "{problem}");
            assert!(error.hint().unwrap().contains("delete"));
            let again = open_or_build(&folder, OnDamage::Replace, &identity(5), fill(5)).unwrap();
            assert_eq!(again.len(), 5);
            assert_eq!(entries(parent.path()), ["store"]);
        }
    }

    #[test]
    fn a_store_of_another_layout_is_not_read() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("store");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(DESCRIPTION), "{\"layout\": 2, \"news\": true}").unwrap();
        let error = store_error(open_or_build(
            &folder,
            OnDamage::Report,
            &identity(5),
            not_called,
        ));
        assert!(matches!(
            error,
            StoreError::OtherLayout {
                expected: 1,
                found: 2,
                ..
            }
        ));
    }

    #[test]
    fn a_folder_of_other_files_is_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        fs::write(parent.path().join("thesis.tex"), "years of work").unwrap();
        let error = store_error(open_or_build(
            parent.path(),
            OnDamage::Report,
            &identity(5),
            not_called,
        ));
        assert!(matches!(error, StoreError::NotAStore { .. }));
        assert_eq!(entries(parent.path()), ["thesis.tex"]);
        // An empty folder is as good as none.
        let empty = parent.path().join("empty");
        fs::create_dir(&empty).unwrap();
        open_or_build(&empty, OnDamage::Report, &identity(5), fill(5)).unwrap();
    }

    #[test]
    fn an_interrupted_build_leaves_no_store_and_the_next_one_cleans_up() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("store");
        let interrupted = |push: &mut Push<'_>| {
            push(&vectors(3))?;
            Err(StoreError::NotFinite { row: 3 }.into())
        };
        let error = store_error(open_or_build(
            &folder,
            OnDamage::Report,
            &identity(5),
            interrupted,
        ));
        assert!(matches!(error, StoreError::NotFinite { row: 3 }));
        assert!(entries(parent.path()).is_empty());
        // As a killed process leaves it; the other one belongs to another store.
        for name in [".store.building-x1", ".other.building-x2"] {
            fs::create_dir(parent.path().join(name)).unwrap();
            fs::write(parent.path().join(name).join(VECTORS), [0; 8]).unwrap();
        }
        fs::write(parent.path().join(".store.lock"), "").unwrap();
        open_or_build(&folder, OnDamage::Report, &identity(5), fill(5)).unwrap();
        assert_eq!(entries(parent.path()), [".other.building-x2", "store"]);
    }

    #[test]
    fn vectors_that_do_not_fit_are_refused() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("store");
        let of = |values: &[f32], dimension| Embeddings::new(dimension, values.to_vec());
        let cases = [
            (
                vec![of(&[0.0; 6], 3)],
                "the store of vectors holds 2 vectors, expected 5",
            ),
            (vec![], "the store of vectors holds 0 vectors, expected 5"),
            (
                vec![of(&[0.0; 6], 3), of(&[0.0; 6], 2)],
                "holds vectors of 3 values, but was given some of 2",
            ),
            (
                vec![of(&[0.0; 6], 3), of(&[0.0, f32::NAN, 0.0], 3)],
                "vector 2 of those given",
            ),
            (vec![of(&[1e20, 0.0, 0.0], 3)], "vector 0 of those given"),
        ];
        for (pushed, expected) in cases {
            let fill = |push: &mut Push<'_>| pushed.iter().try_for_each(|part| push(part));
            let in_folder = open_or_build(&folder, OnDamage::Replace, &identity(5), fill);
            let fill = |push: &mut Push<'_>| pushed.iter().try_for_each(|part| push(part));
            for result in [in_folder, ExactStore::in_memory(&identity(5), fill)] {
                let error = store_error(result);
                assert!(error.to_string().contains(expected), "{error}");
            }
        }
    }

    #[test]
    fn two_that_build_at_once_share_one_store() {
        for on_damage in [OnDamage::Report, OnDamage::Replace] {
            let parent = tempfile::tempdir().unwrap();
            let folder = parent.path().join("store");
            let fills = AtomicUsize::new(0);
            let slow = |push: &mut Push<'_>| {
                fills.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(std::time::Duration::from_millis(50));
                push(&vectors(5))
            };
            std::thread::scope(|scope| {
                let open = || {
                    open_or_build(&folder, on_damage, &identity(5), slow)
                        .unwrap()
                        .len()
                };
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
                threads
                    .into_iter()
                    .for_each(|thread| assert_eq!(thread.join().unwrap(), 5));
            });
            assert_eq!(fills.load(Ordering::SeqCst), 1);
            assert_eq!(entries(parent.path()), ["store"]);
        }
    }
}
