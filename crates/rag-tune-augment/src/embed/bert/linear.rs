//! `y = x W^T + b`, on one core: the embedder gives every core texts of its own.

use gemm::Parallelism;

/// A linear layer.
pub(super) struct Linear {
    inputs: usize,
    outputs: usize,
    /// `W`: `[out, in]`.
    weight: Vec<f32>,
    /// `b`: `[out]`.
    bias: Vec<f32>,
}

impl Linear {
    /// From `weight` `[out, in]` and `bias` `[out]`.
    pub(super) fn new(weight: Vec<f32>, bias: Vec<f32>, inputs: usize) -> Self {
        assert_eq!(weight.len(), bias.len() * inputs, "[out, in]");
        Self {
            inputs,
            outputs: bias.len(),
            weight,
            bias,
        }
    }

    /// `[rows, in]` to `[rows, out]`.
    pub(super) fn forward(&self, x: &[f32]) -> Vec<f32> {
        let rows = x.len() / self.inputs;
        let mut y = Vec::with_capacity(rows * self.outputs);
        for _ in 0..rows {
            y.extend_from_slice(&self.bias);
        }
        let product = Product {
            rows,
            columns: self.outputs,
            depth: self.inputs,
            scale: 1.0,
        };
        let left = Matrix::new(x, self.inputs);
        let right = Matrix::new(&self.weight, self.inputs);
        product.add_to(&mut y, self.outputs, left, right);
        y
    }
}

/// Some columns of a row-major matrix.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    /// From the first element on.
    values: &'a [f32],
    /// From one row to the next.
    stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `stride` elements; a product reads the first `depth` of each.
    pub(super) fn new(values: &'a [f32], stride: usize) -> Self {
        Self { values, stride }
    }

    fn require(&self, rows: usize, columns: usize) {
        let needed = rows.saturating_sub(1) * self.stride + columns;
        assert!(
            rows == 0 || columns <= self.stride && needed <= self.values.len(),
            "the matrix is too small for the product"
        );
    }
}

/// The size of a matrix product, and a factor.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub rows: usize,
    pub columns: usize,
    pub depth: usize,
    pub scale: f32,
}

impl Product {
    /// `y += scale * left right^T`: `left` is `[rows, depth]`, `right` `[columns, depth]`.
    pub(super) fn add_to(self, y: &mut [f32], stride: usize, left: Matrix<'_>, right: Matrix<'_>) {
        right.require(self.columns, self.depth);
        self.run(y, stride, left, right, (1, right.stride as isize), true);
    }

    /// `y = scale * left right^T`.
    pub(super) fn set(self, y: &mut [f32], stride: usize, left: Matrix<'_>, right: Matrix<'_>) {
        right.require(self.columns, self.depth);
        self.run(y, stride, left, right, (1, right.stride as isize), false);
    }

    /// `y = scale * left right`: `right` is `[depth, columns]`.
    pub(super) fn set_untransposed(
        self,
        y: &mut [f32],
        stride: usize,
        left: Matrix<'_>,
        right: Matrix<'_>,
    ) {
        right.require(self.depth, self.columns);
        self.run(y, stride, left, right, (right.stride as isize, 1), false);
    }

    /// `right_strides`: from one element to the next along the depth, and along the columns.
    fn run(
        self,
        y: &mut [f32],
        stride: usize,
        left: Matrix<'_>,
        right: Matrix<'_>,
        right_strides: (isize, isize),
        add: bool,
    ) {
        left.require(self.rows, self.depth);
        Matrix::new(y, stride).require(self.rows, self.columns);
        // SAFETY: the three matrices were just found to lie within their slices, `y` is borrowed mutably and so
        // overlaps neither of the others, and f32 is a type that gemm knows.
        unsafe {
            gemm::gemm(
                self.rows,
                self.columns,
                self.depth,
                y.as_mut_ptr(),
                1,
                stride as isize,
                add,
                left.values.as_ptr(),
                1,
                left.stride as isize,
                right.values.as_ptr(),
                right_strides.1,
                right_strides.0,
                1.0,
                self.scale,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_layer_is_its_formula() {
        // W = [[1, 2, 3], [4, 5, 6]], b = [10, 20]
        let layer = Linear::new(vec![1., 2., 3., 4., 5., 6.], vec![10., 20.], 3);
        let x = [1., 0., 0., 1., 1., 1.];
        assert_eq!(layer.forward(&x), [11., 24., 16., 35.]);
    }

    #[test]
    fn products_read_some_columns_of_wider_matrices() {
        // left [2, 2] in rows of 3; right in rows of 3.
        let left = [1., 2., 9., 3., 4., 9.];
        let right = [5., 6., 9., 7., 8., 9.];
        let product = Product {
            rows: 2,
            columns: 2,
            depth: 2,
            scale: 2.0,
        };
        let mut y = [0.0; 6];
        product.set(&mut y, 3, Matrix::new(&left, 3), Matrix::new(&right, 3));
        assert_eq!(y, [34., 46., 0., 78., 106., 0.]);
        product.set_untransposed(&mut y, 3, Matrix::new(&left, 3), Matrix::new(&right, 3));
        assert_eq!(y, [38., 44., 0., 86., 100., 0.]);
    }
}
