//! SHA-256 of files and texts, in hex: how a run recognises what it was made from.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufReader, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::AugmentError;

/// The digest of a text.
pub(crate) fn sha256_of_text(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// A hash to compare texts by within one process: fast, and another in another build.
pub(crate) fn hash_of_text(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// The digest of the bytes of files that follow each other, in hex.
pub(crate) fn sha256_of_files(paths: &[impl AsRef<Path>]) -> Result<String, AugmentError> {
    let mut hasher = Sha256::new();
    for path in paths {
        hash_file(path.as_ref(), &mut hasher)?;
    }
    Ok(hex(&hasher.finalize()))
}

/// Feeds a file's bytes to `hasher`.
pub(crate) fn hash_file(path: &Path, hasher: &mut Sha256) -> Result<(), AugmentError> {
    let file = File::open(path).map_err(AugmentError::read(path))?;
    let mut reader = BufReader::new(file);
    let mut buffer = vec![0; 1 << 16];
    loop {
        match reader.read(&mut buffer).map_err(AugmentError::read(path))? {
            0 => return Ok(()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The digest of "abc" in FIPS 180-2, appendix B.1.
    #[test]
    fn digest_of_a_file_is_the_published_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_of_files(&[&path]).unwrap(), expected);
        assert_eq!(hex(&sha256_of_text("abc")), expected);
    }
}
