//! `manifest.json`: length and SHA-256 of every file of a checkpoint.
//!
//! It is written last, so a folder without one was not finished; and a checkpoint is used only if
//! every byte of it is what was written.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Name of the manifest in a checkpoint's folder.
pub(super) const MANIFEST: &str = "manifest.json";

/// What a checkpoint's folder must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    files: BTreeMap<String, FileRecord>,
}

/// One file as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRecord {
    bytes: u64,
    sha256: String,
}

impl Manifest {
    /// Enters a file with its content.
    pub(super) fn enter(&mut self, name: &str, bytes: &[u8]) {
        let record = FileRecord {
            bytes: bytes.len() as u64,
            sha256: hex(&Sha256::digest(bytes)),
        };
        self.files.insert(name.to_owned(), record);
    }

    /// The text of the file; the same files give the same text.
    pub(super) fn text(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and strings are JSON") + "\n"
    }

    /// Compares a folder with its manifest, which must name every file of `required`; the reason
    /// why the folder cannot be used, if there is one.
    pub(super) fn check(folder: &Path, required: &[&str]) -> Result<(), String> {
        let text = fs::read_to_string(folder.join(MANIFEST)).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                format!("it has no {MANIFEST}")
            } else {
                format!("{MANIFEST}: {error}")
            }
        })?;
        let manifest: Self =
            serde_json::from_str(&text).map_err(|error| format!("{MANIFEST}: {error}"))?;
        // Nothing vouches for the manifest but its form: spaces of another kind are an alteration too.
        if manifest.text() != text {
            return Err(format!("{MANIFEST} was altered"));
        }
        if let Some(name) = required
            .iter()
            .find(|name| !manifest.files.contains_key(**name))
        {
            return Err(format!("{MANIFEST} does not name {name}"));
        }
        for (name, record) in &manifest.files {
            record.check(&folder.join(name), name)?;
        }
        Ok(())
    }
}

impl FileRecord {
    fn check(&self, path: &Path, name: &str) -> Result<(), String> {
        let (bytes, sha256) = measure(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => format!("{name} is missing"),
            _ => format!("{name}: {error}"),
        })?;
        if bytes != self.bytes {
            let expected = self.bytes;
            return Err(format!("{name} has {bytes} bytes, written were {expected}"));
        }
        if sha256 != self.sha256 {
            return Err(format!(
                "{name} was altered: its SHA-256 is not the manifest's"
            ));
        }
        Ok(())
    }
}

/// Length and SHA-256 of a file.
fn measure(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((bytes, hex(&hash.finalize())));
        }
        hash.update(&buffer[..read]);
        bytes += read as u64;
    }
}

/// A digest as people compare it.
pub(super) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_sha256sum() {
        let mut manifest = Manifest::default();
        manifest.enter("a", b"abc");
        // FIPS 180-4, example of "abc".
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(manifest.files["a"].sha256, digest);
        assert_eq!(manifest.files["a"].bytes, 3);
    }

    #[test]
    fn a_file_that_is_needed_must_be_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut manifest = Manifest::default();
        manifest.enter("a", b"abc");
        fs::write(folder.path().join("a"), b"abc").unwrap();
        fs::write(folder.path().join(MANIFEST), manifest.text()).unwrap();
        assert_eq!(Manifest::check(folder.path(), &["a"]), Ok(()));
        let reason = Manifest::check(folder.path(), &["b"]).unwrap_err();
        assert_eq!(reason, "manifest.json does not name b");
    }
}
