//! Quantised weights on disk in the form that memory holds, so that a later start maps them instead of quantising again.
//!
//! One safetensors file a model: packed 8-bit codes and bf16 values (bytes of an [`Image`]), and f32 vectors (row scales, norms).
//! Its name is a hash of what the weights were made from and how. Where anything changes, the name does.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use memmap2::Mmap;
use rag_tune_kernels::matrix::{Image, ImageKind};
use rag_tune_kernels::{Compute, FloatType, Floats, Matrix};
use safetensors::tensor::TensorInfo;
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};

use crate::checkpoint::{Checkpoint, HEADER_LENGTH_BYTES, PlannedTensor, header};
use crate::error::ModelError;

/// Changes whenever the same source gives other weights than before, or the file is laid out otherwise.
const FORMAT: &str = "rag-tune int8 weights 1";

/// Suffix of a matrix's row scales.
const ROW_SCALE: &str = ".row_scale";

/// What a file that is being written is called first.
const PARTIAL: &str = ".partial-";

/// Files that a killed process left half-written are removed after this time.
const PARTIAL_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The weights of a model, to be written.
pub(crate) struct Parts<'a> {
    /// By tensor name.
    pub(crate) matrices: Vec<(String, &'a Matrix)>,
    /// By tensor name.
    pub(crate) vectors: Vec<(String, &'a [f32])>,
}

/// A file that may hold a checkpoint's weights.
#[derive(Debug, Clone)]
pub(crate) struct CacheFile {
    path: PathBuf,
}

/// An opened file.
pub(crate) struct MappedWeights {
    file: Arc<Mmap>,
    /// Where the first tensor begins.
    data_start: usize,
    tensors: HashMap<String, TensorInfo>,
}

impl CacheFile {
    /// The file in `folder` for 8-bit weights of `checkpoint` as `compute` holds them; `None` where f32 compute needs weights
    /// that are not held in panels.
    pub(crate) fn new(
        folder: &Path,
        checkpoint: &Checkpoint,
        compute: Compute,
    ) -> Result<Option<Self>, ModelError> {
        if compute == Compute::F32 {
            return Ok(None);
        }
        let mut hash = Sha256::new();
        hash.update(format!("{FORMAT}\n{}\n", Matrix::IMAGE_LAYOUT));
        hash.update(format!("{}\n", checkpoint.fingerprint()));
        for path in checkpoint.files() {
            let metadata = fs::metadata(path).map_err(ModelError::io(path))?;
            let modified = metadata.modified().map_err(ModelError::io(path))?;
            let modified = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let nanoseconds = modified.as_nanos();
            hash.update(format!("{name} {} {nanoseconds}\n", metadata.len()));
        }
        let key: String = hash
            .finalize()
            .iter()
            .take(16)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let path = folder.join(format!("{key}.safetensors"));
        Ok(Some(Self { path }))
    }

    /// Its place, whether or not it is there.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it; `None` where it is not there.
    pub(crate) fn open(&self) -> Result<Option<MappedWeights>, ModelError> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ModelError::io(&self.path)(error)),
        };
        // SAFETY: the map is read-only, and who holds a part of it holds the map. The file got its name when it was complete and is
        // replaced by renaming, never written again.
        let map = unsafe { Mmap::map(&file) }.map_err(ModelError::io(&self.path))?;
        let corrupt = |error| ModelError::corrupt(&self.path, error);
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(corrupt)?;
        let tensors = metadata.tensors().into_iter();
        let tensors = tensors.map(|(name, info)| (name, info.clone())).collect();
        Ok(Some(MappedWeights {
            file: Arc::new(map),
            data_start: HEADER_LENGTH_BYTES + header,
            tensors,
        }))
    }

    /// Writes it, under its name only when it is complete; returns its bytes.
    pub(crate) fn write(
        &self,
        parts: &Parts<'_>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> io::Result<u64> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        remove_abandoned(folder)?;
        let pieces = parts.pieces()?;
        let about = format!("{FORMAT}: {}", Matrix::IMAGE_LAYOUT);
        let planned: Vec<_> = pieces.iter().map(Piece::planned).collect();
        let header = header(&planned, ("format", &about)).map_err(io::Error::other)?;
        let mut file = tempfile::Builder::new()
            .prefix(PARTIAL)
            .tempfile_in(folder)?;
        let mut out = BufWriter::with_capacity(1 << 20, file.as_file_mut());
        out.write_all(&header)?;
        let mut bytes = header.len() as u64;
        for (index, piece) in pieces.iter().enumerate() {
            progress(index, pieces.len());
            match piece.content {
                Content::Bytes(_, content) => out.write_all(content)?,
                Content::F32(values) => values
                    .iter()
                    .try_for_each(|value| out.write_all(&value.to_le_bytes()))?,
            }
            bytes += piece.content.bytes() as u64;
        }
        progress(pieces.len(), pieces.len());
        out.flush()?;
        drop(out);
        file.as_file().sync_all()?;
        file.persist(&self.path)?;
        Ok(bytes)
    }
}

impl MappedWeights {
    /// The matrix `name` of shape `[out, in]`; `None` where the file does not hold such a one.
    pub(crate) fn matrix(&self, name: &str, [out, inner]: [usize; 2]) -> Option<Matrix> {
        let info = self.tensors.get(name)?;
        let (kind, row_scale) = match info.dtype {
            Dtype::I8 => (
                ImageKind::Int8,
                self.vector(&format!("{name}{ROW_SCALE}"), out)?,
            ),
            Dtype::BF16 => (ImageKind::Bf16, Vec::new()),
            _ => return None,
        };
        let (start, end) = info.data_offsets;
        let values = self.data_start + start..self.data_start + end;
        Matrix::from_image(kind, [out, inner], &self.file, values, row_scale).ok()
    }

    /// The vector `name` of `len` values; `None` where the file does not hold such a one.
    pub(crate) fn vector(&self, name: &str, len: usize) -> Option<Vec<f32>> {
        let info = self.tensors.get(name)?;
        let (start, end) = info.data_offsets;
        let bytes = self
            .file
            .get(self.data_start + start..self.data_start + end)?;
        let values = Floats::new(FloatType::F32, bytes).into_vec();
        (info.dtype == Dtype::F32 && values.len() == len).then_some(values)
    }
}

/// A tensor of the file.
struct Piece<'a> {
    name: String,
    content: Content<'a>,
}

#[derive(Clone, Copy)]
enum Content<'a> {
    Bytes(ImageKind, &'a [u8]),
    F32(&'a [f32]),
}

impl Content<'_> {
    fn bytes(self) -> usize {
        match self {
            Self::Bytes(_, bytes) => bytes.len(),
            Self::F32(values) => size_of_val(values),
        }
    }
}

impl Piece<'_> {
    fn planned(&self) -> PlannedTensor {
        let (dtype, len) = match self.content {
            Content::Bytes(ImageKind::Int8, bytes) => (Dtype::I8, bytes.len()),
            Content::Bytes(ImageKind::Bf16, bytes) => (Dtype::BF16, bytes.len() / 2),
            Content::F32(values) => (Dtype::F32, values.len()),
        };
        PlannedTensor {
            name: self.name.clone(),
            dtype,
            shape: vec![len],
        }
    }
}

impl<'a> Parts<'a> {
    /// Matrices first: their lengths are multiples of a cache line, so that each begins one.
    fn pieces(&self) -> io::Result<Vec<Piece<'a>>> {
        let mut matrices = Vec::new();
        let mut vectors = Vec::new();
        for (name, matrix) in &self.matrices {
            let no_image = || io::Error::other(format!("`{name}` is not held in panels"));
            let Image {
                kind,
                values,
                row_scale,
            } = matrix.image().ok_or_else(no_image)?;
            matrices.push(Piece {
                name: name.clone(),
                content: Content::Bytes(kind, values),
            });
            if kind == ImageKind::Int8 {
                vectors.push(Piece {
                    name: format!("{name}{ROW_SCALE}"),
                    content: Content::F32(row_scale),
                });
            }
        }
        vectors.extend(self.vectors.iter().map(|(name, values)| Piece {
            name: name.clone(),
            content: Content::F32(values),
        }));
        matrices.append(&mut vectors);
        Ok(matrices)
    }
}

/// Removes what processes that were killed while writing left long ago.
fn remove_abandoned(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let age = || {
            SystemTime::now()
                .duration_since(entry.metadata().ok()?.modified().ok()?)
                .ok()
        };
        if entry.file_name().to_string_lossy().starts_with(PARTIAL)
            && age().is_some_and(|age| age > PARTIAL_LIFETIME)
        {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
