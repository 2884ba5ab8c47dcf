//! Frozen weights: 8-bit codes with one scale a row, 4-bit NF4, bf16, or f32.

use half::bf16;
use rayon::prelude::*;

use crate::cpu::panels::{
    Codes, Direction, Nf4Codes, PAIR, PackedWeights, QUADRUPLE, packed_index, packed_len,
};
use crate::cuda;
use crate::cuda::Device;
use crate::cuda::matrix::DeviceMatrix;
use crate::error::{KernelError, check_shape};
use crate::floats::Floats;
use crate::nf4::Nf4;
use crate::processor::{Level, level_in_use};
use crate::quantize_rows;
use crate::tensor::Tensor;

mod image;
mod nf4;
mod pack;

use self::image::Packed;
pub use self::image::{Image, ImageKind};
use self::nf4::PackedNf4;

/// Rows that are read by a task at least.
const ROWS_WORTH_A_TASK: usize = 32;

/// What block products are computed in; their results are f32.
///
/// Any processor can do all three, and to the same figures but for the last bits of f32 sums; where it lacks the
/// instruction it takes f32's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compute {
    /// f32 throughout: the most exact.
    F32,
    /// Activations and weights rounded to bf16, f32 sums; twice as fast with AVX-512 BF16, and faster still with AMX.
    Bf16,
    /// Activations quantised to 8 bits, row by row in groups of 128 features, times 8-bit weights, with exact integer
    /// sums in a group; four times as fast with AVX-512 VNNI. Weights that are not 8-bit are multiplied as in `Bf16`.
    Int8,
    /// LLM.int8 as bitsandbytes computes it (arXiv:2208.07339): activations quantised to 8 bits with one scale a row, but for
    /// columns with a value of magnitude 6 or more, which meet their weights in floating point. Only `y = x W^T` with 8-bit weights;
    /// gradients and other weights as in `Bf16`. What a row comes to depends on the rows beside it.
    LlmInt8,
}

impl Compute {
    /// Those that differ in their instructions.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::Int8];

    /// What `auto` stands for: the fastest that stays within noise of f32.
    pub fn auto() -> Self {
        match Self::Bf16.is_native() {
            true => Self::Bf16,
            false => Self::F32,
        }
    }

    /// Whether this processor has an instruction for it.
    pub fn is_native(self) -> bool {
        match self {
            Self::F32 => true,
            Self::Bf16 => level_in_use() >= Level::Avx512Bf16,
            Self::Int8 | Self::LlmInt8 => level_in_use() >= Level::Avx512Vnni,
        }
    }
}

/// A frozen weight `[out, in]`.
#[derive(Debug, Clone)]
pub struct Matrix {
    out_features: usize,
    in_features: usize,
    storage: Storage,
}

#[derive(Debug, Clone)]
enum Storage {
    /// Row-wise absmax codes (LLM.int8, arXiv:2208.07339): `weight[o, i] = codes[o, i] * row_scale[o]`.
    /// Packed in quadruples, see `cpu::panels`; `row_scale` is `[out]`.
    Int8 {
        codes: Packed<i8>,
        row_scale: Vec<f32>,
    },
    /// 4-bit codes with one scale for 64 weights (see [`crate::nf4`]).
    Nf4(PackedNf4),
    /// Packed, see `cpu::panels`.
    Bf16(Packed<bf16>),
    /// Row-major.
    F32(Vec<f32>),
    /// Row-major.
    Device(DeviceMatrix),
}

impl Matrix {
    /// A copy on `device`: 8-bit codes as they are, bf16 and f32 weights as bf16.
    ///
    /// # Errors
    /// [`KernelError`] if the device's memory is not enough, or the weights are NF4, which devices do not have yet.
    pub fn to_device(&self, device: &Device) -> Result<Self, KernelError> {
        let (shape, inner) = (self.shape(), self.in_features);
        let place = |group, row, col| packed_index(inner, group, row, col);
        let matrix = match &self.storage {
            Storage::Int8 { codes, row_scale } => {
                let code = |row, col| codes[place(QUADRUPLE, row, col)];
                DeviceMatrix::int8(device, shape, code, row_scale)?
            }
            Storage::Bf16(values) => {
                DeviceMatrix::bf16(device, shape, |row, col| values[place(PAIR, row, col)])?
            }
            Storage::F32(values) => DeviceMatrix::bf16(device, shape, |row, col| {
                bf16::from_f32(values[row * inner + col])
            })?,
            Storage::Nf4(_) => {
                return Err(KernelError::Value {
                    operation: "Matrix::to_device",
                    problem: "NF4 weights are not on devices yet; 8-bit and 16-bit ones are"
                        .to_owned(),
                });
            }
            Storage::Device(_) => return Ok(self.clone()),
        };
        Ok(Self {
            storage: Storage::Device(matrix),
            ..*self
        })
    }

    pub(crate) fn on_device(&self) -> Option<&DeviceMatrix> {
        match &self.storage {
            Storage::Device(matrix) => Some(matrix),
            Storage::Int8 { .. } | Storage::Nf4(_) | Storage::Bf16(_) | Storage::F32(_) => None,
        }
    }

    /// Quantises row-major `[out, in]` weights to 8 bits, as [`crate::quantize_rows`] does.
    ///
    /// # Errors
    /// As [`crate::quantize_rows::quantize_rows`].
    pub fn int8<'a>(
        out_features: usize,
        in_features: usize,
        weights: impl Into<Floats<'a>>,
    ) -> Result<Self, KernelError> {
        let (weights, shape) = (weights.into(), [out_features, in_features]);
        quantize_rows::check(&weights, shape)?;
        let (codes, absmax) = pack::quantized(shape, &weights);
        quantize_rows::finite(&weights, &absmax)?;
        Ok(Self::of_codes(shape, codes.into(), &absmax))
    }

    fn of_codes(
        [out_features, in_features]: [usize; 2],
        codes: Packed<i8>,
        absmax: &[f32],
    ) -> Self {
        let row_scale = absmax.iter().map(|absmax| absmax / 127.0).collect();
        Self {
            out_features,
            in_features,
            storage: Storage::Int8 { codes, row_scale },
        }
    }

    /// Holds 8-bit weights: `weight[o, i] = codes[o, i] * absmax[o] / 127`, `codes` row-major.
    ///
    /// # Errors
    /// [`KernelError`] if there are not `out * in` codes and `out` scales, or a code is -128.
    pub fn from_int8(
        out_features: usize,
        in_features: usize,
        codes: &[i8],
        absmax: &[f32],
    ) -> Result<Self, KernelError> {
        let operation = "Matrix::from_int8";
        let count = [out_features * in_features];
        check_shape(operation, "codes", &[codes.len()], &count)?;
        check_shape(operation, "absmax", &[absmax.len()], &[out_features])?;
        if let Some(at) = codes.iter().position(|code| *code == i8::MIN) {
            let row = at / in_features;
            return Err(KernelError::Value {
                operation,
                problem: format!("code -128 in row {row}: they go from -127 to 127"),
            });
        }
        let shape = [out_features, in_features];
        Ok(Self::of_codes(
            shape,
            pack::codes(shape, codes).into(),
            absmax,
        ))
    }

    /// Holds NF4 weights, `weights` being `[out, in]` row by row.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if `weights` does not hold `out * in` codes with their scales.
    pub fn from_nf4(
        out_features: usize,
        in_features: usize,
        weights: &Nf4,
    ) -> Result<Self, KernelError> {
        weights.check("Matrix::from_nf4", out_features * in_features)?;
        Ok(Self {
            out_features,
            in_features,
            storage: Storage::Nf4(PackedNf4::new([out_features, in_features], weights)),
        })
    }

    /// The weights as bitsandbytes stores them, byte for byte; `None` where they are not NF4.
    pub fn to_nf4(&self) -> Option<Nf4> {
        match &self.storage {
            Storage::Nf4(packed) => Some(packed.unpack(self.shape())),
            Storage::Int8 { .. } | Storage::Bf16(_) | Storage::F32(_) | Storage::Device(_) => None,
        }
    }

    /// Rounds row-major `[out, in]` weights to bf16.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if `weights` does not hold `out * in` values.
    pub fn bf16<'a>(
        out_features: usize,
        in_features: usize,
        weights: impl Into<Floats<'a>>,
    ) -> Result<Self, KernelError> {
        let weights = weights.into();
        let expected = [out_features * in_features];
        check_shape("Matrix::bf16", "weights", &[weights.len()], &expected)?;
        let values = pack::rounded([out_features, in_features], &weights);
        Ok(Self {
            out_features,
            in_features,
            storage: Storage::Bf16(values.into()),
        })
    }

    /// Keeps row-major `[out, in]` weights as they are.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if `weights` does not hold `out * in` values.
    pub fn f32(
        out_features: usize,
        in_features: usize,
        weights: Vec<f32>,
    ) -> Result<Self, KernelError> {
        check_shape(
            "Matrix::f32",
            "weights",
            &[weights.len()],
            &[out_features * in_features],
        )?;
        Ok(Self {
            out_features,
            in_features,
            storage: Storage::F32(weights),
        })
    }

    /// Values that a packed bf16 or NF4 matrix `[out, in]` holds, with what pads its panels.
    pub fn packed_values(out_features: usize, in_features: usize) -> usize {
        packed_len(out_features, in_features, PAIR)
    }

    /// As [`Self::packed_values`], of 8-bit codes.
    pub fn packed_codes(out_features: usize, in_features: usize) -> usize {
        packed_len(out_features, in_features, QUADRUPLE)
    }

    /// `[out, in]`.
    pub fn shape(&self) -> [usize; 2] {
        [self.out_features, self.in_features]
    }

    /// Bytes of memory it takes.
    pub fn bytes(&self) -> usize {
        match &self.storage {
            Storage::Int8 { codes, row_scale } => codes.len() + 4 * row_scale.len(),
            Storage::Nf4(packed) => packed.codes.len() + packed.scales.bytes(),
            Storage::Bf16(values) => 2 * values.len(),
            Storage::F32(values) => 4 * values.len(),
            Storage::Device(matrix) => matrix.bytes(),
        }
    }

    /// Row `out`, dequantised, written to `row` (`[in]`).
    ///
    /// # Errors
    /// [`KernelError`] if there is no such row, or `row` is not `in` long.
    pub fn read_row(&self, out: usize, row: &mut [f32]) -> Result<(), KernelError> {
        check_shape("read_row", "row", &[row.len()], &[self.in_features])?;
        if out >= self.out_features {
            let problem = format!("row {out} of {}", self.out_features);
            return Err(KernelError::Value {
                operation: "read_row",
                problem,
            });
        }
        let place = |group, at| packed_index(self.in_features, group, out, at);
        match &self.storage {
            Storage::Int8 { codes, row_scale } => {
                for (at, value) in row.iter_mut().enumerate() {
                    *value = f32::from(codes[place(QUADRUPLE, at)]) * row_scale[out];
                }
            }
            Storage::Nf4(packed) => packed.read_row(out, row),
            Storage::Bf16(values) => {
                for (at, value) in row.iter_mut().enumerate() {
                    *value = values[place(PAIR, at)].to_f32();
                }
            }
            Storage::F32(values) => {
                row.copy_from_slice(&values[out * self.in_features..][..row.len()])
            }
            Storage::Device(matrix) => {
                let values = cuda::matrix::gather_rows(matrix, self.shape(), &[out as u32])?;
                row.copy_from_slice(values.to_host()?.data());
            }
        }
        Ok(())
    }

    /// The dequantised rows of the given ids: `[ids.len(), in]`. An embedding look-up.
    ///
    /// # Errors
    /// [`KernelError::Value`] if an id is not below `out`.
    pub fn gather_rows(&self, ids: &[u32]) -> Result<Tensor, KernelError> {
        if let Storage::Device(matrix) = &self.storage {
            return cuda::matrix::gather_rows(matrix, self.shape(), ids);
        }
        let mut rows = Tensor::stale(ids.len(), self.in_features);
        let features = self.in_features.max(1);
        let read = |(id, row): (&u32, &mut [f32])| self.read_row(*id as usize, row);
        let to = rows.data_mut();
        match ids.len() {
            // A task would cost more than a few rows do.
            0..ROWS_WORTH_A_TASK => ids.iter().zip(to.chunks_mut(features)).try_for_each(read)?,
            _ => ids
                .par_iter()
                .zip(to.par_chunks_mut(features))
                .with_min_len(ROWS_WORTH_A_TASK)
                .try_for_each(read)?,
        }
        Ok(rows)
    }

    /// Some columns of 8-bit weights, dequantised: `[out, columns.len()]`; `None` where there are no codes.
    pub(crate) fn code_columns(&self, columns: &[usize]) -> Option<Tensor> {
        let Storage::Int8 { codes, row_scale } = &self.storage else {
            return None;
        };
        Some(Tensor::from_fn(
            self.out_features,
            columns.len(),
            |out, at| {
                let place = packed_index(self.in_features, QUADRUPLE, out, columns[at]);
                f32::from(codes[place]) * row_scale[out]
            },
        ))
    }

    /// The packed codes and the row scales, where products run on them.
    pub(crate) fn packed(
        &self,
        direction: Direction,
    ) -> Option<(PackedWeights<'_>, Option<&[f32]>)> {
        let (codes, row_scale) = match &self.storage {
            Storage::Int8 { codes, row_scale } => (Codes::Int8(codes), Some(row_scale.as_slice())),
            Storage::Nf4(packed) => {
                let (codes, scales) = (packed.codes.as_slice(), &packed.scales);
                (Codes::Nf4(Nf4Codes { codes, scales }), None)
            }
            Storage::Bf16(values) => (Codes::Bf16(values), None),
            Storage::F32(_) | Storage::Device(_) => return None,
        };
        let (out_features, in_features) = (self.out_features, self.in_features);
        Some((
            PackedWeights {
                codes,
                out_features,
                in_features,
                direction,
            },
            row_scale,
        ))
    }

    /// Row-major f32 values, dequantised into `scratch` where they are not f32 already.
    pub(crate) fn dense<'a>(&'a self, scratch: &'a mut Vec<f32>) -> &'a [f32] {
        if let Storage::F32(values) = &self.storage {
            return values;
        }
        scratch.resize(self.out_features * self.in_features, 0.0);
        scratch
            .par_chunks_mut(self.in_features.max(1))
            .enumerate()
            .for_each(|(out, row)| {
                self.read_row(out, row)
                    .expect("`scratch` has `out` rows of `in` values");
            });
        scratch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn int8_matches_reference(
            (out, inner, values) in (1_usize..80, 1_usize..40).prop_flat_map(|(out, inner)| {
                (Just(out), Just(inner), prop::collection::vec(-3.0_f32..3.0, out * inner))
            })
        ) {
            let matrix = Matrix::int8(out, inner, &values).unwrap();
            let expected = reference::quantize_rows(out, inner, &values);
            let mut row = vec![0.0; inner];
            for o in 0..out {
                matrix.read_row(o, &mut row).unwrap();
                let step = expected.absmax[o] / 127.0;
                for (value, code) in row.iter().zip(&expected.codes[o * inner..]) {
                    prop_assert_eq!(*value, f32::from(*code) * step);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn codes_that_exist_already_are_kept(
            (out, inner, codes, absmax) in (1_usize..80, 1_usize..40).prop_flat_map(|(out, inner)| {
                let codes = prop::collection::vec(-127_i8..=127, out * inner);
                (Just(out), Just(inner), codes, prop::collection::vec(0.0_f32..3.0, out))
            })
        ) {
            let matrix = Matrix::from_int8(out, inner, &codes, &absmax).unwrap();
            let mut row = vec![0.0; inner];
            for o in 0..out {
                matrix.read_row(o, &mut row).unwrap();
                for (value, code) in row.iter().zip(&codes[o * inner..]) {
                    prop_assert_eq!(*value, f32::from(*code) * (absmax[o] / 127.0));
                }
            }
        }
    }

    #[test]
    fn a_zero_row_stays_zero() {
        let matrix = Matrix::int8(2, 3, &[0.0, 0.0, 0.0, 1.0, -2.0, 0.5]).unwrap();
        assert_eq!(matrix.gather_rows(&[0, 1]).unwrap().row(0), &[0.0; 3]);
        assert!(matrix.gather_rows(&[2]).is_err());
    }
}
