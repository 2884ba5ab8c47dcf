//! Vectors as int8 codes, and how far a product of codes can be from the product of the vectors.
//!
//! A vector is `codes * scale` with `scale = absmax / 127`, plus an error whose length is kept with
//! it: for a query `q = q' + e` and a row `v = v' + f`, where `'` marks what the codes say,
//!
//! `q v - q' v' = q f + e v'`, so `|q v - q' v'| <= |q| |f| + |e| |v'|` (Cauchy and Schwarz).
//!
//! No row whose product of codes is further than that below a score can reach the score. The search
//! needs no guess of how many candidates are enough.
//!
//! Rows lie in panels of 64: `scales [64] f32`, `errors [64] f32` (`|f|`), `norms [64] f32` (the larger
//! of `|v|` and `|v'|`), `offsets [64] i32`, then the codes `[quads][64][4] i8`. The last panel is
//! filled up with zeros.

use rayon::prelude::*;

use super::bytes::{Bytes, Line};
use super::kernel::{self, PANEL_ROWS, PanelCodes, QUAD};

/// Bytes of one of the four lists before the codes of a panel.
const LIST_BYTES: usize = PANEL_ROWS * size_of::<f32>();
/// Largest dimension whose products of codes, below `127 * 127 * dimension`, fit an i32.
const LARGEST_DIMENSION: usize = 1 << 17;

/// The codes of all rows.
#[derive(Debug)]
pub(super) struct Codes {
    dimension: usize,
    bytes: Bytes,
}

/// Some 64 rows.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    pub errors: &'a [f32; PANEL_ROWS],
    pub norms: &'a [f32; PANEL_ROWS],
    pub codes: PanelCodes<'a>,
}

/// What is kept beside the codes of a vector.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Terms {
    /// `scale` of `codes * scale`.
    pub scale: f32,
    /// At least the length of what the codes leave out.
    pub error: f32,
    /// At least the length of the vector, and of what the codes say.
    pub norm: f32,
}

impl Codes {
    /// Whether vectors of this dimension can be coded.
    pub fn can_hold(dimension: usize) -> bool {
        (1..=LARGEST_DIMENSION).contains(&dimension)
    }

    /// Takes what [`encode`] wrote; `None` if `bytes` has not the length for so many rows.
    pub fn new(bytes: Bytes, rows: usize, dimension: usize) -> Option<Self> {
        (bytes.as_slice().len() == encoded_bytes(rows, dimension))
            .then_some(Self { dimension, bytes })
    }

    /// Codes the rows of `vectors`, `[rows, dimension]`.
    pub fn of(vectors: &[f32], dimension: usize) -> Self {
        Self {
            dimension,
            bytes: Bytes::Owned(encode(vectors, dimension)),
        }
    }

    /// What [`encode`] writes.
    #[cfg(test)]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// Rows `64 * index` and on.
    pub fn panel(&self, index: usize) -> Panel<'_> {
        let stride = panel_bytes(self.dimension);
        let (lists, codes) =
            self.bytes.as_slice()[index * stride..][..stride].split_at(4 * LIST_BYTES);
        let list = |at: usize| -> &[f32; PANEL_ROWS] {
            let bytes = &lists[at * LIST_BYTES..][..LIST_BYTES];
            bytemuck::cast_slice(bytes).try_into().expect("64 values")
        };
        let offsets = bytemuck::cast_slice(&lists[3 * LIST_BYTES..]);
        Panel {
            errors: list(1),
            norms: list(2),
            codes: PanelCodes {
                scales: list(0),
                codes: bytemuck::cast_slice(codes),
                offsets: offsets.try_into().expect("64 values"),
            },
        }
    }
}

/// Bytes of the codes of so many rows.
pub(super) fn encoded_bytes(rows: usize, dimension: usize) -> usize {
    rows.div_ceil(PANEL_ROWS) * panel_bytes(dimension)
}

fn panel_bytes(dimension: usize) -> usize {
    4 * LIST_BYTES + dimension.div_ceil(QUAD) * QUAD * PANEL_ROWS
}

/// Codes rows, `[rows, dimension]`, as panels; all but the last piece of a set must have a multiple of 64 rows.
pub(super) fn encode(vectors: &[f32], dimension: usize) -> Vec<Line> {
    let bytes = encoded_bytes(vectors.len() / dimension, dimension);
    let mut lines = vec![Line::ZERO; bytes / size_of::<Line>()];
    bytemuck::cast_slice_mut(&mut lines)
        .par_chunks_mut(panel_bytes(dimension))
        .zip(vectors.par_chunks(PANEL_ROWS * dimension))
        .for_each(|(panel, vectors)| encode_panel(vectors, dimension, panel));
    lines
}

fn encode_panel(vectors: &[f32], dimension: usize, panel: &mut [u8]) {
    let (lists, codes) = panel.split_at_mut(4 * LIST_BYTES);
    let mut set = |list: usize, row: usize, value: [u8; 4]| {
        lists[list * LIST_BYTES + row * 4..][..4].copy_from_slice(&value);
    };
    let mut row_codes = vec![0; dimension];
    for (row, vector) in vectors.chunks_exact(dimension).enumerate() {
        let terms = quantize(vector, &mut row_codes);
        set(0, row, terms.scale.to_ne_bytes());
        set(1, row, terms.error.to_ne_bytes());
        set(2, row, terms.norm.to_ne_bytes());
        set(
            3,
            row,
            kernel::offset(row_codes.iter().copied()).to_ne_bytes(),
        );
        for (quad, quad_codes) in row_codes.chunks(QUAD).enumerate() {
            let at = (quad * PANEL_ROWS + row) * QUAD;
            codes[at..][..quad_codes.len()].copy_from_slice(bytemuck::cast_slice(quad_codes));
        }
    }
}

/// Writes the codes of a vector.
pub(super) fn quantize(vector: &[f32], codes: &mut [i8]) -> Terms {
    let absmax = vector
        .iter()
        .fold(0.0f32, |absmax, value| absmax.max(value.abs()));
    let scale = absmax / 127.0;
    if !scale.is_normal() {
        // Zero, or so small that dividing by the scale would overflow: all of it is error.
        codes.fill(0);
        let norm = norm(vector);
        return Terms {
            scale: 1.0,
            error: norm,
            norm,
        };
    }
    let inverse = 1.0 / scale;
    for (code, value) in codes.iter_mut().zip(vector) {
        *code = rounded(value * inverse);
    }
    let said = |at: usize| f64::from(scale) * f64::from(codes[at]);
    Terms {
        scale,
        error: length(vector, |at| f64::from(vector[at]) - said(at)),
        norm: norm(vector).max(length(vector, said)),
    }
}

/// At least the length of a vector.
pub(super) fn norm(vector: &[f32]) -> f32 {
    length(vector, |at| f64::from(vector[at]))
}

/// To the nearest whole number, for `|value| <= 127.5`. Adding 1.5 * 2^23 leaves no bits below 1 (it
/// takes one instruction everywhere, where `round` may be a call); any rounding would be correct here,
/// since the error is measured afterwards.
fn rounded(value: f32) -> i8 {
    const SHIFT: f32 = 12_582_912.0;
    (value + SHIFT).to_bits().wrapping_sub(SHIFT.to_bits()) as i8
}

/// At least the length of the vector with these components.
fn length(vector: &[f32], component: impl Fn(usize) -> f64) -> f32 {
    // Side by side, so that an addition need not wait for the one before it.
    let mut sums = [0.0f64; 8];
    for at in 0..vector.len() {
        sums[at % 8] += component(at).powi(2);
    }
    at_least(sums.iter().sum::<f64>().sqrt())
}

/// An f32 that is not below `value`, which may have been rounded in f64.
fn at_least(value: f64) -> f32 {
    (value * (1.0 + 1e-6)) as f32 + f32::MIN_POSITIVE
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn exact(a: &[f32], b: &[f32]) -> f64 {
        a.iter()
            .zip(b)
            .map(|(&a, &b)| f64::from(a) * f64::from(b))
            .sum()
    }

    fn vectors() -> impl Strategy<Value = (usize, Vec<f32>)> {
        let value = prop_oneof![
            8 => -1.0f32..1.0, 1 => Just(0.0f32), 1 => -1e-3f32..1e-3, 1 => -1e4f32..1e4, 1 => -1e-38f32..1e-38,
        ];
        (1usize..40).prop_flat_map(move |dimension| {
            let values = prop::collection::vec(value.clone(), 2 * dimension..200 * dimension);
            values.prop_map(move |mut values| {
                values.truncate(values.len() / dimension * dimension);
                (dimension, values)
            })
        })
    }

    proptest! {
        #[test]
        fn the_product_of_codes_is_within_the_bound((dimension, values) in vectors()) {
            let (query, row) = (&values[..dimension], &values[dimension..2 * dimension]);
            let (mut query_codes, mut row_codes) = (vec![0; dimension], vec![0; dimension]);
            let (q, v) = (quantize(query, &mut query_codes), quantize(row, &mut row_codes));
            let codes: i32 = query_codes.iter().zip(&row_codes).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum();
            let said = f64::from(codes) * f64::from(q.scale) * f64::from(v.scale);
            let bound = f64::from(q.norm) * f64::from(v.error) + f64::from(q.error) * f64::from(v.norm);
            prop_assert!((said - exact(query, row)).abs() <= bound, "{q:?} {v:?}");
        }

        /// Half a step a component, where the scale is not itself rounded hard.
        #[test]
        fn the_error_is_at_most_half_a_step_a_component(vector in prop::collection::vec(-1.0f32..1.0, 1..400)) {
            let mut codes = vec![0; vector.len()];
            let terms = quantize(&vector, &mut codes);
            let half_steps = f64::from(terms.scale) * 0.501 * (vector.len() as f64).sqrt();
            prop_assert!(f64::from(terms.error) <= half_steps + 1e-30);
        }

        #[test]
        fn panels_hold_the_codes_of_their_rows((dimension, values) in vectors()) {
            let codes = Codes::of(&values, dimension);
            prop_assert_eq!(codes.bytes().len(), encoded_bytes(values.len() / dimension, dimension));
            for (row, vector) in values.chunks_exact(dimension).enumerate() {
                let panel = codes.panel(row / PANEL_ROWS);
                let row = row % PANEL_ROWS;
                let mut expected = vec![0; dimension];
                let terms = quantize(vector, &mut expected);
                let found: Vec<i8> = (0..dimension)
                    .map(|at| panel.codes.codes[(at / QUAD * PANEL_ROWS + row) * QUAD + at % QUAD])
                    .collect();
                prop_assert_eq!(found, expected);
                prop_assert_eq!(panel.codes.scales[row], terms.scale);
                prop_assert_eq!(panel.errors[row], terms.error);
                prop_assert_eq!(panel.norms[row], terms.norm);
            }
        }
    }

    #[test]
    fn bytes_of_another_length_are_no_codes() {
        let lines = encode(&[1.0; 3 * 5], 5);
        let bytes = |lines: &[Line]| Bytes::Owned(lines.to_vec());
        assert!(Codes::new(bytes(&lines), 3, 5).is_some());
        assert!(Codes::new(bytes(&lines[1..]), 3, 5).is_none());
        assert!(Codes::new(bytes(&lines), 65, 5).is_none());
    }
}
