//! f32 matrix products through the `gemm` crate, over strided views.

use gemm::Parallelism;

/// `[rows, cols]` somewhere in a slice.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> View<'a> {
    /// Row-major `[rows, cols]` with `row_stride` values from one row to the next.
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert_in_bounds(data.len(), rows, cols, row_stride);
        Self {
            data,
            rows,
            cols,
            row_stride,
            col_stride: 1,
        }
    }

    /// The same values as `[cols, rows]`.
    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

fn assert_in_bounds(len: usize, rows: usize, cols: usize, row_stride: usize) {
    let end = if rows * cols == 0 {
        0
    } else {
        (rows - 1) * row_stride + cols
    };
    assert!(
        end <= len,
        "a [{rows}, {cols}] view with stride {row_stride} leaves {len} values"
    );
}

/// Who computes a product.
#[derive(Clone, Copy)]
pub(crate) enum Threads {
    All,
    /// A task's own one.
    This,
}

/// `out = keep * out + factor * a b`, with `out` row-major `[a.rows, b.cols]`.
pub(crate) fn multiply(
    out: &mut [f32],
    out_row_stride: usize,
    keep: f32,
    factor: f32,
    a: View<'_>,
    b: View<'_>,
    threads: Threads,
) {
    assert_eq!(a.cols, b.rows, "inner dimensions");
    assert_in_bounds(out.len(), a.rows, b.cols, out_row_stride);
    // SAFETY: every view was checked against the length of its slice, `out` is borrowed
    // exclusively, and gemm does not read `out` when told not to.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            out.as_mut_ptr(),
            1,
            out_row_stride as isize,
            keep != 0.0,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            keep,
            factor,
            false,
            false,
            false,
            match threads {
                Threads::All => Parallelism::Rayon(0),
                Threads::This => Parallelism::None,
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_and_transposes_are_honoured() {
        // a: the first two columns of a [3, 4] buffer, transposed: [2, 3].
        let buffer: Vec<f32> = (0..12).map(|v| v as f32).collect();
        let a = View::new(&buffer, 3, 2, 4).transposed();
        let b = View::new(&[1.0, 0.0, 0.0, 1.0, 1.0, 1.0], 3, 2, 2);
        let mut out = vec![10.0; 4];
        multiply(&mut out, 2, 0.5, 2.0, a, b, Threads::All);
        // a = [[0, 4, 8], [1, 5, 9]]; a b = [[8, 12], [10, 14]].
        assert_eq!(out, [21.0, 29.0, 25.0, 33.0]);
    }

    #[test]
    #[should_panic(expected = "leaves 5 values")]
    fn a_view_stays_in_its_slice() {
        View::new(&[0.0; 5], 2, 3, 3);
    }
}
