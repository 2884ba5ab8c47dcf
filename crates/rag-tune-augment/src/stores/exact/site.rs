//! The place of a store, while it is made.
//!
//! A store is made under another name and renamed when it is whole, so that an interrupted run leaves
//! nothing that could pass for a store. A lock file beside it lets only one process make it; one that
//! comes later waits, and then opens what the first one made. The system drops the lock of a process
//! that dies, so whoever holds it may remove what others left behind.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::AugmentError;
use crate::stores::StoreError;

/// What to do where a folder holds a store that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::stores) enum OnDamage {
    /// Report it: the folder is the user's.
    Report,
    /// Make the store again: the folder is in the cache.
    Replace,
}

/// The place where a store is made, held by this process alone.
pub(super) struct Site {
    folder: PathBuf,
    parent: PathBuf,
    /// What the names of unfinished stores begin with.
    prefix: String,
    lock: PathBuf,
    /// Where the file system knows no locks, two processes make the store twice, and one wins.
    locked: Option<File>,
}

impl Site {
    /// Waits while another process makes the store.
    pub fn new(folder: &Path) -> Result<Self, AugmentError> {
        let Some(name) = folder.file_name().map(|name| name.to_string_lossy()) else {
            let folder = folder.to_owned();
            return Err(StoreError::NotAStore { folder }.into());
        };
        let parent = folder
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new(".")).to_owned();
        fs::create_dir_all(&parent).map_err(AugmentError::write(&parent))?;
        let lock = parent.join(format!(".{name}.lock"));
        let locked = lock_file(&lock).map_err(AugmentError::write(&lock))?;
        let prefix = format!(".{name}.building-");
        Ok(Self {
            folder: folder.to_owned(),
            parent,
            prefix,
            lock,
            locked,
        })
    }

    /// Removes what interrupted runs left behind.
    pub fn remove_leftovers(&self) -> Result<(), AugmentError> {
        if self.locked.is_none() {
            return Ok(()); // it may belong to a process that is still at it
        }
        for entry in fs::read_dir(&self.parent).map_err(AugmentError::read(&self.parent))? {
            let entry = entry.map_err(AugmentError::read(&self.parent))?;
            if entry
                .file_name()
                .to_string_lossy()
                .starts_with(&self.prefix)
            {
                remove_folder(&entry.path())?;
            }
        }
        Ok(())
    }

    /// An empty folder to make the store in, which removes itself.
    pub fn building(&self) -> Result<TempDir, AugmentError> {
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(fs::Permissions::from_mode(0o777)); // less the umask
        }
        let made = builder.prefix(&self.prefix).tempdir_in(&self.parent);
        made.map_err(AugmentError::write(&self.parent))
    }

    /// Gives the store its name.
    pub fn install(&self, building: TempDir, on_damage: OnDamage) -> Result<(), AugmentError> {
        if on_damage == OnDamage::Replace {
            remove_folder(&self.folder)?;
        }
        // Over an empty folder where one is there; it fails where something is in it.
        fs::rename(building.path(), &self.folder).map_err(AugmentError::write(&self.folder))?;
        drop(building.keep()); // nothing is left under the old name
        Ok(())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Removed while it is still held, so that whoever waits for it sees that it is no longer the
        // one in the folder. One that stays does no harm.
        if cfg!(unix) && self.locked.is_some() && fs::remove_file(&self.lock).is_err() {}
    }
}

/// Waits for the lock; `None` where the file system has none.
fn lock_file(path: &Path) -> std::io::Result<Option<File>> {
    loop {
        let file = File::create(path)?;
        match file.lock() {
            Err(error) if error.kind() == ErrorKind::Unsupported => return Ok(None),
            result => result?,
        }
        if is_still_at(&file, path)? {
            return Ok(Some(file));
        }
    }
}

/// Whether `path` is this file, and not a later one of the same name.
#[cfg(unix)]
fn is_still_at(file: &File, path: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let held = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((held.dev(), held.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(not(unix))]
fn is_still_at(_file: &File, _path: &Path) -> std::io::Result<bool> {
    Ok(true) // lock files are not removed
}

/// Removes a folder, if it is there.
fn remove_folder(path: &Path) -> Result<(), AugmentError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(AugmentError::write(path)(error)),
        _ => Ok(()),
    }
}
