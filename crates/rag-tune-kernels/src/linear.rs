//! linear: `y = x W^T` with a frozen weight, and low-rank products with trained ones.
//!
//! The weight never gets a gradient, so the backward pass is one product: `dx = dy W`. For 8-bit
//! weights the row scale is folded into `dy`, and `i8 -> bf16` is exact, so neither direction
//! needs a dequantised copy. NF4 weights are dequantised panel by panel, rounded to bf16.

use std::borrow::Cow;
use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
use crate::cpu::gemm::AmxProduct;
use crate::cpu::gemm::{
    Bf16Product, Bf16Rows, Epilogue, F32Product, Int8Product, Int8Rows, Product, VectorWiseRows,
    multiply as multiply_panels, round_rows,
};
use crate::cpu::gemm_f32::{self, Threads, View};
use crate::cpu::panels::{Codes, Direction, PackedWeights};
use crate::cuda;
use crate::cuda::tensor::Lent;
use crate::error::{KernelError, check_shape};
use crate::matrix::{Compute, Matrix};
use crate::processor::{Level, level_in_use};
use crate::stored::{Stored, Values};
use crate::tensor::Tensor;

/// An activation, converted once for all the products that read it.
pub struct Input<'a> {
    shape: [usize; 2],
    /// What `bf16` stands for where it was all there was.
    tensor: OnceLock<Cow<'a, Tensor>>,
    compute: Compute,
    level: Level,
    /// Factors of the columns, folded in before rounding.
    scales: Option<&'a [f32]>,
    bf16: OnceLock<Bf16Rows>,
    int8: OnceLock<Int8Rows>,
    vector_wise: OnceLock<VectorWiseRows>,
    /// What `bf16` and `int8` or `vector_wise` stand for, where the processor has no instruction for them.
    rounded: OnceLock<Vec<f32>>,
    decoded: OnceLock<Vec<f32>>,
}

impl<'a> Input<'a> {
    /// Prepares `x` `[tokens, in]` for products in `compute`.
    pub fn new(x: &'a Tensor, compute: Compute) -> Self {
        Self::at_level(x, compute, None, level_in_use())
    }

    /// Prepares `x` `[tokens, in]`, and keeps it.
    pub fn owned(x: Tensor, compute: Compute) -> Self {
        let shape = x.shape();
        Self::unprepared(
            shape,
            OnceLock::from(Cow::Owned(x)),
            compute,
            level_in_use(),
        )
    }

    /// Prepares `x` `[tokens, in]` as it was stored.
    pub fn of_stored(x: &'a Stored, compute: Compute) -> Self {
        let level = level_in_use();
        let [tokens, features] = x.shape();
        if x.on_device().is_some() {
            return Self::unprepared(x.shape(), x.widened().into(), compute, level);
        }
        match x.values() {
            Values::Bf16(values) if takes_bf16(compute, level) => {
                let rows = Bf16Rows::from_bf16(values, tokens, features);
                Self::rounded(rows, None, compute, level)
            }
            _ => Self::unprepared(x.shape(), x.widened().into(), compute, level),
        }
    }

    /// Rows that were rounded as they were made, and what they were before if anybody will ask.
    pub(crate) fn rounded(
        rows: Bf16Rows,
        exact: Option<Tensor>,
        compute: Compute,
        level: Level,
    ) -> Self {
        let exact = exact.map_or_else(OnceLock::new, |tensor| OnceLock::from(Cow::Owned(tensor)));
        let shape = rows.shape();
        Self {
            bf16: rows.into(),
            ..Self::unprepared(shape, exact, compute, level)
        }
    }

    pub(crate) fn at_level(
        tensor: &'a Tensor,
        compute: Compute,
        scales: Option<&'a [f32]>,
        level: Level,
    ) -> Self {
        let borrowed = OnceLock::from(Cow::Borrowed(tensor));
        Self {
            scales,
            ..Self::unprepared(tensor.shape(), borrowed, compute, level)
        }
    }

    fn unprepared(
        shape: [usize; 2],
        tensor: OnceLock<Cow<'a, Tensor>>,
        compute: Compute,
        level: Level,
    ) -> Self {
        Self {
            shape,
            tensor,
            compute,
            level,
            scales: None,
            bf16: OnceLock::new(),
            int8: OnceLock::new(),
            vector_wise: OnceLock::new(),
            rounded: OnceLock::new(),
            decoded: OnceLock::new(),
        }
    }

    /// The activation as it was, or as it was rounded where that is all there is.
    pub fn tensor(&self) -> &Tensor {
        self.tensor
            .get_or_init(|| Cow::Owned(self.bf16().widened()))
    }

    /// As [`Self::tensor`].
    pub fn into_tensor(self) -> Tensor {
        self.tensor();
        self.tensor.into_inner().unwrap_or_default().into_owned()
    }

    /// What lies on a device, as products read it there.
    pub(crate) fn on_device(&self) -> Option<Result<Lent<'_, half::bf16>, KernelError>> {
        let tensor = self.tensor.get()?.on_device()?;
        Some(tensor.bf16())
    }

    /// `[tokens, in]`
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// What kernels it is for.
    pub(crate) fn level(&self) -> Level {
        self.level
    }

    /// What products with it are computed in.
    pub(crate) fn compute(&self) -> Compute {
        self.compute
    }

    /// The codes that 8-bit weights meet.
    fn codes(&self) -> &Int8Rows {
        let [rows, inner] = self.shape;
        match self.compute {
            Compute::LlmInt8 => &self.vector_wise().codes,
            Compute::F32 | Compute::Bf16 | Compute::Int8 => self
                .int8
                .get_or_init(|| Int8Rows::new(self.tensor().data(), rows, inner, self.scales)),
        }
    }

    fn vector_wise(&self) -> &VectorWiseRows {
        let [rows, inner] = self.shape;
        self.vector_wise
            .get_or_init(|| VectorWiseRows::new(self.tensor().data(), rows, inner))
    }

    fn bf16(&self) -> &Bf16Rows {
        let [rows, inner] = self.shape;
        self.bf16.get_or_init(|| {
            let tensor = self.tensor.get().map_or(&[][..], |tensor| tensor.data());
            Bf16Rows::new(tensor, rows, inner, self.scales)
        })
    }

    /// `(self * scales) weights` for packed weights.
    pub(crate) fn product<'p>(&'p self, weights: PackedWeights<'p>) -> Box<dyn Product + 'p> {
        let has_codes = matches!(weights.codes, Codes::Int8(_));
        let [_, inner] = self.shape;
        let (rows, scales) = match self.compute {
            Compute::F32 => (self.tensor().data(), self.scales),
            Compute::Int8 | Compute::LlmInt8 if has_codes && self.level >= Level::Avx512Vnni => {
                return Box::new(Int8Product::new(self.codes(), weights));
            }
            Compute::Int8 | Compute::LlmInt8 if has_codes => {
                let dequantized = || self.codes().dequantized();
                (self.decoded.get_or_init(dequantized).as_slice(), None)
            }
            #[cfg(target_arch = "x86_64")]
            Compute::Bf16 | Compute::Int8 | Compute::LlmInt8 if self.level >= Level::Amx => {
                return Box::new(AmxProduct::new(self.bf16(), weights));
            }
            Compute::Bf16 | Compute::Int8 | Compute::LlmInt8 if self.level >= Level::Avx512Bf16 => {
                return Box::new(Bf16Product::new(self.bf16(), weights));
            }
            Compute::Bf16 | Compute::Int8 | Compute::LlmInt8 => {
                let round = || round_rows(self.tensor().data(), inner, self.scales);
                (self.rounded.get_or_init(round).as_slice(), None)
            }
        };
        Box::new(F32Product::new(rows, weights, scales, self.level))
    }

    /// `out (+)= (self * scales) weights` for packed weights.
    fn multiply(&self, out: &mut [f32], weights: PackedWeights<'_>, epilogue: Epilogue<'_>) {
        multiply_panels(out, &*self.product(weights), epilogue);
    }
}

/// Whether 8-bit and bf16 weights meet [`Bf16Rows`].
pub(crate) fn takes_bf16(compute: Compute, level: Level) -> bool {
    compute == Compute::Bf16 && level >= Level::Avx512Bf16
}

/// The weights packed for `compute`, with their row scales; `None` where they are multiplied as dense f32.
pub(crate) fn packed(
    weight: &Matrix,
    direction: Direction,
    compute: Compute,
) -> Option<(PackedWeights<'_>, Option<&[f32]>)> {
    let (packed, scales) = weight.packed(direction)?;
    // A panel of NF4 is rounded to bf16, which f32 is not to be.
    let is_exact = !matches!(packed.codes, Codes::Nf4(_));
    (compute != Compute::F32 || is_exact).then_some((packed, scales))
}

/// `x W^T`.
///
/// # Shapes
/// - `x`: `[tokens, in]`
/// - `weight`: `[out, in]`
/// - returns `[tokens, out]`
///
/// # Errors
/// [`KernelError::Shape`] if the last axis of `x` is not `in`.
pub fn forward(x: &Input<'_>, weight: &Matrix) -> Result<Tensor, KernelError> {
    let [out_features, in_features] = weight.shape();
    let [tokens, features] = x.shape;
    let operation = "linear::forward";
    check_shape(operation, "x", &[tokens, features], &[tokens, in_features])?;
    if let Some(x) = x.on_device() {
        return cuda::matrix::forward(x?.buffer(), weight, None);
    }
    let mut y = Tensor::stale(tokens, out_features);
    if let Some((packed, scales)) = packed(weight, Direction::Forward, x.compute) {
        let epilogue = Epilogue {
            accumulate: false,
            scales,
        };
        x.multiply(y.data_mut(), packed, epilogue);
        if x.compute == Compute::LlmInt8 && scales.is_some() {
            add_outliers(x, weight, &mut y);
        }
        return Ok(y);
    }
    let mut scratch = Vec::new();
    let weight = dense_view(weight, &mut scratch).transposed();
    multiply(&mut y, 0.0, 1.0, view(x.tensor()), weight);
    Ok(y)
}

/// Adds the products of the columns that [`Compute::LlmInt8`] does not quantise.
fn add_outliers(x: &Input<'_>, weight: &Matrix, y: &mut Tensor) {
    let VectorWiseRows {
        outliers, values, ..
    } = x.vector_wise();
    if !outliers.is_empty()
        && let Some(columns) = weight.code_columns(outliers)
    {
        multiply(y, 1.0, 1.0, view(values), view(&columns).transposed());
    }
}

/// Whether a result replaces what is there or is added to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// Replaces.
    Set,
    /// Is added: a sum of gradients.
    Add,
}

impl Write {
    /// The factor of what is there, as the thin products take it.
    pub fn keep(self) -> f32 {
        match self {
            Self::Set => 0.0,
            Self::Add => 1.0,
        }
    }
}

/// `dx = dy W` or `dx += dy W`, the gradient with respect to the input.
///
/// # Shapes
/// - `dy`: `[tokens, out]`
/// - `weight`: `[out, in]`
/// - `dx`: `[tokens, in]`
///
/// # Errors
/// [`KernelError::Shape`] if the shapes do not fit.
pub fn backward(
    dy: &Tensor,
    weight: &Matrix,
    compute: Compute,
    write: Write,
    dx: &mut Tensor,
) -> Result<(), KernelError> {
    backward_at_level(dy, weight, compute, write, dx, level_in_use())
}

fn backward_at_level(
    dy: &Tensor,
    weight: &Matrix,
    compute: Compute,
    write: Write,
    dx: &mut Tensor,
    level: Level,
) -> Result<(), KernelError> {
    let [out_features, in_features] = weight.shape();
    let tokens = dy.rows();
    let operation = "linear::backward";
    check_shape(operation, "dy", &dy.shape(), &[tokens, out_features])?;
    check_shape(operation, "dx", &dx.shape(), &[tokens, in_features])?;
    if let Some(dy) = dy.on_device() {
        let dx = dx.f32_on_device(operation)?;
        return cuda::matrix::backward(dy, weight, write, dx);
    }
    // bitsandbytes multiplies gradients with dequantised weights.
    let compute = match compute {
        Compute::LlmInt8 => Compute::Bf16,
        other => other,
    };
    if let Some((packed, scales)) = packed(weight, Direction::Backward, compute) {
        let epilogue = Epilogue {
            accumulate: write == Write::Add,
            scales: None,
        };
        Input::at_level(dy, compute, scales, level).multiply(dx.data_mut(), packed, epilogue);
        return Ok(());
    }
    let mut scratch = Vec::new();
    let weight = dense_view(weight, &mut scratch);
    multiply(dx, write.keep(), 1.0, view(dy), weight);
    Ok(())
}

fn dense_view<'a>(weight: &'a Matrix, scratch: &'a mut Vec<f32>) -> View<'a> {
    let [out_features, in_features] = weight.shape();
    View::new(
        weight.dense(scratch),
        out_features,
        in_features,
        in_features,
    )
}

/// `out = keep * out + factor * a b^T`, all f32: the thin products of LoRA.
///
/// # Shapes
/// `a`: `[m, k]`, `b`: `[n, k]`, `out`: `[m, n]`
///
/// # Errors
/// [`KernelError::Shape`] if the shapes do not fit.
pub fn product_nt(
    out: &mut Tensor,
    keep: f32,
    factor: f32,
    a: &Tensor,
    b: &Tensor,
) -> Result<(), KernelError> {
    check_shape("product_nt", "b", &b.shape(), &[b.rows(), a.cols()])?;
    check_shape("product_nt", "out", &out.shape(), &[a.rows(), b.rows()])?;
    if a.device().is_some() {
        return cuda::adapted::product(out, [keep, factor], (a, false), (b, true));
    }
    multiply(out, keep, factor, view(a), view(b).transposed());
    Ok(())
}

/// `out = keep * out + factor * a b`, all f32.
///
/// # Shapes
/// `a`: `[m, k]`, `b`: `[k, n]`, `out`: `[m, n]`
///
/// # Errors
/// [`KernelError::Shape`] if the shapes do not fit.
pub fn product_nn(
    out: &mut Tensor,
    keep: f32,
    factor: f32,
    a: &Tensor,
    b: &Tensor,
) -> Result<(), KernelError> {
    check_shape("product_nn", "b", &b.shape(), &[a.cols(), b.cols()])?;
    check_shape("product_nn", "out", &out.shape(), &[a.rows(), b.cols()])?;
    if a.device().is_some() {
        return cuda::adapted::product(out, [keep, factor], (a, false), (b, false));
    }
    multiply(out, keep, factor, view(a), view(b));
    Ok(())
}

/// `out = keep * out + factor * a^T b`, all f32: gradients of LoRA's factors.
///
/// # Shapes
/// `a`: `[k, m]`, `b`: `[k, n]`, `out`: `[m, n]`
///
/// # Errors
/// [`KernelError::Shape`] if the shapes do not fit.
pub fn product_tn(
    out: &mut Tensor,
    keep: f32,
    factor: f32,
    a: &Tensor,
    b: &Tensor,
) -> Result<(), KernelError> {
    check_shape("product_tn", "b", &b.shape(), &[a.rows(), b.cols()])?;
    check_shape("product_tn", "out", &out.shape(), &[a.cols(), b.cols()])?;
    if a.device().is_some() {
        return cuda::adapted::product(out, [keep, factor], (a, true), (b, false));
    }
    multiply(out, keep, factor, view(a).transposed(), view(b));
    Ok(())
}

fn view(tensor: &Tensor) -> View<'_> {
    View::new(tensor.data(), tensor.rows(), tensor.cols(), tensor.cols())
}

fn multiply(out: &mut Tensor, keep: f32, factor: f32, a: View<'_>, b: View<'_>) {
    let stride = out.cols();
    gemm_f32::multiply(out.data_mut(), stride, keep, factor, a, b, Threads::All);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nf4::Nf4;
    use crate::reference;
    use crate::reference::testing::{max_error, noise};
    use half::bf16;

    /// `[tokens, in, out]`: edges of tiles, panels, pairs and blocks.
    const SHAPES: [[usize; 3]; 8] = [
        [1, 1, 1],
        [5, 3, 2],
        [6, 64, 64],
        [7, 65, 63],
        [13, 130, 70],
        [100, 576, 192],
        [1, 2100, 65],
        [103, 33, 2200],
    ];

    fn weights(kind: &str, out: usize, inner: usize) -> Matrix {
        let values = noise(out, inner, 1).into_vec();
        match kind {
            "int8" => Matrix::int8(out, inner, &values),
            "nf4" => Matrix::from_nf4(out, inner, &Nf4::quantize_double(&values)),
            "bf16" => Matrix::bf16(out, inner, &values),
            _ => Matrix::f32(out, inner, values),
        }
        .unwrap()
    }

    fn rounded(tensor: &Tensor) -> Tensor {
        Tensor::from_fn(tensor.rows(), tensor.cols(), |row, col| {
            bf16::from_f32(tensor.row(row)[col]).to_f32()
        })
    }

    /// The weight as products in `compute` see it: codes of 8 bits are exact, NF4 weights are not.
    fn rounded_weight(weight: &Matrix, kind: &str, compute: Compute) -> Matrix {
        let [out, inner] = weight.shape();
        let ids: Vec<u32> = (0..out as u32).collect();
        let values = weight.gather_rows(&ids).unwrap();
        match (kind, compute) {
            ("nf4", Compute::Bf16 | Compute::Int8 | Compute::LlmInt8) => {
                Matrix::bf16(out, inner, values.data()).unwrap()
            }
            _ => weight.clone(),
        }
    }

    /// The left side as products in `compute` with that kind of weight see it.
    fn rounded_input(x: &Tensor, kind: &str, compute: Compute) -> Tensor {
        match (kind, compute) {
            ("f32", _) | (_, Compute::F32) => x.clone(),
            ("int8", Compute::Int8) => {
                let rows = Int8Rows::new(x.data(), x.rows(), x.cols(), None);
                Tensor::from_vec(x.rows(), x.cols(), rows.dequantized()).unwrap()
            }
            _ => rounded(x),
        }
    }

    /// Each column of `dy` times its row scale of an 8-bit weight, and the weight with scales of 1.
    fn folded(dy: &Tensor, weight: &Matrix) -> (Tensor, Matrix) {
        let Some((_, Some(scales))) = weight.packed(Direction::Backward) else {
            return (dy.clone(), weight.clone());
        };
        let [out, inner] = weight.shape();
        let folded = Tensor::from_fn(dy.rows(), dy.cols(), |row, col| {
            dy.row(row)[col] * scales[col]
        });
        let (mut codes, mut row) = (Vec::new(), vec![0.0; inner]);
        for (index, scale) in scales.iter().enumerate() {
            weight.read_row(index, &mut row).unwrap();
            codes.extend(row.iter().map(|value| (value / scale).round() as i8));
        }
        let ones = vec![127.0; out];
        (
            folded,
            Matrix::from_int8(out, inner, &codes, &ones).unwrap(),
        )
    }

    /// On every level that this processor has: as exact as f32 sums of what the precision rounds its operands to.
    #[test]
    fn linear_matches_reference() {
        for [tokens, inner, out] in SHAPES {
            for kind in ["int8", "nf4", "bf16", "f32"] {
                let weight = weights(kind, out, inner);
                let x = noise(tokens, inner, 2);
                let dy = noise(tokens, out, 3);
                let (folded_dy, unscaled) = folded(&dy, &weight);
                for compute in Compute::ALL {
                    let expected_y = reference::linear(
                        &rounded_input(&x, kind, compute),
                        &rounded_weight(&weight, kind, compute),
                    );
                    let mut expected_dx = noise(tokens, inner, 4);
                    reference::linear_backward(
                        &rounded_input(&folded_dy, kind, compute),
                        &rounded_weight(&unscaled, kind, compute),
                        &mut expected_dx,
                    );
                    for level in Level::available() {
                        let case = format!("{compute:?} {level} {kind} {tokens}x{inner}x{out}");
                        let bound = 2e-6 * (inner.max(out) as f32).sqrt() + 1e-5;
                        let y = forward(&Input::at_level(&x, compute, None, level), &weight);
                        let error = max_error(&y.unwrap(), &expected_y);
                        assert!(error <= bound, "forward {case}: {error}");
                        let mut dx = noise(tokens, inner, 4);
                        backward_at_level(&dy, &weight, compute, Write::Add, &mut dx, level)
                            .unwrap();
                        let error = max_error(&dx, &expected_dx);
                        assert!(error <= bound, "backward {case}: {error}");
                    }
                }
            }
        }
    }

    /// Half a step of the code, and the weight's rounding to f16, for each feature.
    #[test]
    fn eight_bit_weights_stay_within_their_bound_of_f32() {
        let [tokens, inner, out] = [9, 300, 70];
        let (x, values) = (noise(tokens, inner, 5), noise(out, inner, 6));
        let exact = Matrix::f32(out, inner, values.data().to_vec()).unwrap();
        let expected = reference::linear(&x, &exact);
        let held = Matrix::int8(out, inner, values.data()).unwrap();
        let y = forward(&Input::new(&x, Compute::F32), &held).unwrap();
        for token in 0..tokens {
            for column in 0..out {
                let weights = values.row(column);
                let absmax = weights.iter().fold(0.0_f32, |max, w| max.max(w.abs()));
                let terms = x.row(token).iter().zip(weights);
                let bound: f32 = terms
                    .map(|(x, w)| x.abs() * (absmax / 254.0 + w.abs() / 2048.0))
                    .sum();
                let error = (y.row(token)[column] - expected.row(token)[column]).abs();
                assert!(error <= bound + 1e-4, "{token} {column}: {error} {bound}");
            }
        }
    }

    #[test]
    fn a_row_alone_gives_the_bits_of_the_row_in_a_batch() {
        for kind in ["int8", "nf4", "bf16"] {
            // An odd number of pairs.
            let weight = weights(kind, 200, 2502);
            let x = noise(103, 2502, 2);
            for compute in Compute::ALL {
                for level in Level::available() {
                    let all = forward(&Input::at_level(&x, compute, None, level), &weight).unwrap();
                    for (first, count) in [
                        (0, 1),
                        (102, 1),
                        (5, 3),
                        (17, 6),
                        (40, 7),
                        (3, 12),
                        (9, 13),
                        (1, 24),
                        (50, 25),
                    ] {
                        if kind == "nf4" && compute == Compute::F32 {
                            continue; // dense, through `gemm`
                        }
                        let rows: Vec<usize> = (first..first + count).collect();
                        let some = x.gather_rows(&rows).unwrap();
                        let input = Input::at_level(&some, compute, None, level);
                        let some = forward(&input, &weight).unwrap();
                        let expected = all.gather_rows(&rows).unwrap();
                        assert_eq!(some, expected, "{kind} {compute:?} {level} {first} {count}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_value_that_is_no_number_is_not_lost() {
        for kind in ["int8", "nf4", "bf16", "f32"] {
            let weight = weights(kind, 10, 300);
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = noise(3, 300, 2);
                x.row_mut(1)[140] = bad;
                for compute in Compute::ALL {
                    for level in Level::available() {
                        let y =
                            forward(&Input::at_level(&x, compute, None, level), &weight).unwrap();
                        let finite = |row: usize| y.row(row).iter().any(|value| value.is_finite());
                        assert!(
                            finite(0) && !finite(1) && finite(2),
                            "{kind} {compute:?} {level} {bad}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_wrong_shape_is_named() {
        let weight = weights("int8", 4, 8);
        let x = Tensor::zeros(3, 7);
        let error = forward(&Input::new(&x, Compute::F32), &weight).unwrap_err();
        assert_eq!(
            error.to_string(),
            "linear::forward: `x` is [3, 7], expected [3, 8]"
        );
    }
}
