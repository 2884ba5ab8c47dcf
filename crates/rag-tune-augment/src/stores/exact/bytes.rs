//! Bytes of a store, in memory or in a mapped file.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use crate::AugmentError;

/// A cache line: memory made of these is aligned for the widest loads.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line([u8; 64]);

impl Line {
    pub const ZERO: Self = Self([0; 64]);
}

// SAFETY: 64 bytes, all of which may be zero.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: 64 bytes with an alignment of 64: no padding, and every pattern of bits is valid.
unsafe impl bytemuck::Pod for Line {}

/// Bytes that can be read as numbers: aligned to 64.
#[derive(Debug)]
pub(super) enum Bytes {
    Owned(Vec<Line>),
    Mapped(Mmap),
}

impl Bytes {
    /// Maps a file that is not empty.
    pub fn map(path: &Path) -> Result<Self, AugmentError> {
        let file = File::open(path).map_err(AugmentError::read(path))?;
        // SAFETY: the map is read-only and lives as long as `self`, and every slice of it borrows
        // `self`. What no process can rule out is that another one cuts the file short meanwhile;
        // stores are written under another name and renamed, so files with this name stay whole.
        let map = unsafe { Mmap::map(&file) }.map_err(AugmentError::read(path))?;
        Ok(Self::Mapped(map))
    }

    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Owned(lines) => bytemuck::cast_slice(lines),
            Self::Mapped(map) => map,
        }
    }
}
