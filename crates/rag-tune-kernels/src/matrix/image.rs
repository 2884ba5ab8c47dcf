//! Weights as they lie in memory, for a file that a later start maps instead of quantising again.

use std::ops::{Deref, Range};
use std::sync::Arc;

use bytemuck::Pod;
use memmap2::Mmap;

use super::{Matrix, Storage};
use crate::aligned::Aligned;
use crate::cpu::panels::{PAIR, QUADRUPLE, packed_len};
use crate::error::{KernelError, check_shape};

/// Values in panels: in memory of their own, or in a mapped file.
#[derive(Debug, Clone)]
pub(super) enum Packed<T: Pod> {
    Owned(Aligned<T>),
    /// Bytes of the file. They begin where a `T` may.
    Mapped(Arc<Mmap>, Range<usize>),
}

impl<T: Pod> From<Aligned<T>> for Packed<T> {
    fn from(values: Aligned<T>) -> Self {
        Self::Owned(values)
    }
}

impl<T: Pod> Deref for Packed<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::Owned(values) => values,
            Self::Mapped(file, bytes) => bytemuck::cast_slice(&file[bytes.clone()]),
        }
    }
}

/// What the values of an [`Image`] are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageKind {
    /// 8-bit codes, with a scale for each row.
    Int8,
    /// bf16.
    Bf16,
}

/// The bytes of a matrix. They mean the same on every machine of the same byte order.
#[derive(Debug, Clone, Copy)]
pub struct Image<'a> {
    /// What they are.
    pub kind: ImageKind,
    /// The packed values.
    pub values: &'a [u8],
    /// `[out]`: `absmax / 127`; empty for bf16.
    pub row_scale: &'a [f32],
}

impl Matrix {
    /// Changes whenever images do not mean what they meant before.
    pub const IMAGE_LAYOUT: &'static str = "panels of 64 outputs; quadruples of i8, pairs of bf16";

    /// Addresses at which an image's values should begin in a file: a cache line.
    pub const IMAGE_ALIGNMENT: usize = 64;

    /// Its bytes; `None` for f32 and NF4 weights, which have no image.
    pub fn image(&self) -> Option<Image<'_>> {
        match &self.storage {
            Storage::Int8 { codes, row_scale } => Some(Image {
                kind: ImageKind::Int8,
                values: bytemuck::cast_slice(codes),
                row_scale,
            }),
            Storage::Bf16(values) => Some(Image {
                kind: ImageKind::Bf16,
                values: bytemuck::cast_slice(values),
                row_scale: &[],
            }),
            Storage::Nf4(_) | Storage::F32(_) | Storage::Device(_) => None,
        }
    }

    /// A matrix `[out, in]` whose image's values are the bytes `values` of `file`.
    ///
    /// # Errors
    /// [`KernelError`] if the bytes are not as many as the shape asks for, lie outside the file, or begin at an odd address.
    pub fn from_image(
        kind: ImageKind,
        [out_features, in_features]: [usize; 2],
        file: &Arc<Mmap>,
        values: Range<usize>,
        row_scale: Vec<f32>,
    ) -> Result<Self, KernelError> {
        const OPERATION: &str = "Matrix::from_image";
        let (group, size, scales) = match kind {
            ImageKind::Int8 => (QUADRUPLE, 1, out_features),
            ImageKind::Bf16 => (PAIR, 2, 0),
        };
        let expected = packed_len(out_features, in_features, group) * size;
        check_shape(OPERATION, "values", &[values.len()], &[expected])?;
        check_shape(OPERATION, "row_scale", &[row_scale.len()], &[scales])?;
        if values.end > file.len() || !values.start.is_multiple_of(Self::IMAGE_ALIGNMENT) {
            let problem = format!("{values:?} of a file of {} bytes", file.len());
            return Err(KernelError::Value {
                operation: OPERATION,
                problem,
            });
        }
        let file = Arc::clone(file);
        let storage = match kind {
            ImageKind::Int8 => Storage::Int8 {
                codes: Packed::Mapped(file, values),
                row_scale,
            },
            ImageKind::Bf16 => Storage::Bf16(Packed::Mapped(file, values)),
        };
        Ok(Self {
            out_features,
            in_features,
            storage,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memmap2::MmapMut;

    fn mapped(bytes: &[u8]) -> Arc<Mmap> {
        let mut map = MmapMut::map_anon(bytes.len()).unwrap();
        map.copy_from_slice(bytes);
        Arc::new(map.make_read_only().unwrap())
    }

    #[test]
    fn a_matrix_survives_its_image() {
        let weights: Vec<f32> = (0..70 * 9).map(|at| (at as f32).sin()).collect();
        let matrices = [
            Matrix::int8(70, 9, &weights).unwrap(),
            Matrix::bf16(70, 9, &weights).unwrap(),
        ];
        let ids: Vec<u32> = (0..70).collect();
        for matrix in matrices {
            let image = matrix.image().unwrap();
            let file = mapped(&[&[7; 64], image.values].concat());
            let (kind, scales) = (image.kind, image.row_scale.to_vec());
            let load = |shape, range| Matrix::from_image(kind, shape, &file, range, scales.clone());
            let again = load([70, 9], 64..file.len()).unwrap();
            assert_eq!(
                again.gather_rows(&ids).unwrap().data(),
                matrix.gather_rows(&ids).unwrap().data()
            );
            assert!(load([70, 13], 64..file.len()).is_err());
            assert!(load([70, 9], 65..file.len() + 1).is_err());
        }
    }

    #[test]
    fn exact_and_4_bit_weights_have_no_image() {
        assert!(Matrix::f32(1, 1, vec![1.0]).unwrap().image().is_none());
    }
}
