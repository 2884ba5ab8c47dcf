//! Writing files so that nobody ever sees half of one.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::error::TrainError;

/// Writes `bytes` to `path` through a temporary file beside it.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(TrainError::write(folder))?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(TrainError::write(path))?;
    file.write_all(bytes).map_err(TrainError::write(path))?;
    file.as_file().sync_all().map_err(TrainError::write(path))?;
    file.persist(path)
        .map_err(|error| TrainError::write(path)(error.error))?;
    // Temporary files are private; what a run leaves should be as readable as any other file.
    set_default_mode(path)
}

#[cfg(unix)]
fn set_default_mode(path: &Path) -> Result<(), TrainError> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).map_err(TrainError::write(path))
}

#[cfg(not(unix))]
fn set_default_mode(_path: &Path) -> Result<(), TrainError> {
    Ok(())
}

/// Writes a new file and waits until it is on the disk.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let mut file = File::create(path).map_err(TrainError::write(path))?;
    file.write_all(bytes).map_err(TrainError::write(path))?;
    file.sync_all().map_err(TrainError::write(path))
}
