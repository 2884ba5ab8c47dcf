//! Time of every kernel beside its floor: `cargo bench -p rag-tune-kernels [-- FILTER]`.
//!
//! Criterion tells each time with its spread, and how it has changed since the last run. The table at the end says what
//! the time is worth: operations and bytes a second, and the share of the ceiling, which is the time that the kernel's
//! operations need at the instruction peak or its bytes at the speed of reading memory, whichever is longer, over
//! the measured time. Bytes that the caches still hold come quicker: such a share may pass 100 %.

mod attention;
mod linear;
mod pointwise;
mod report;

use std::time::Duration;

use criterion::Criterion;
use rag_tune_kernels::{Compute, Tensor};

use report::Report;

/// What this machine has instructions for.
fn computes() -> impl Iterator<Item = Compute> {
    Compute::ALL
        .into_iter()
        .filter(|compute| compute.is_native())
}

/// Values between -1 and 1, the same in every run.
fn noise(rows: usize, cols: usize) -> Tensor {
    Tensor::from_fn(rows, cols, |row, col| {
        let hash = (row * cols + col) as u32;
        let hash = (hash ^ (hash >> 16)).wrapping_mul(0x9e37_79b9);
        (hash >> 8) as f32 / (1 << 23) as f32 - 1.0
    })
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600))
        .configure_from_args();
    let mut report = Report::new(&mut criterion);
    linear::products(&mut report);
    linear::decode_products(&mut report);
    linear::lora_products(&mut report);
    attention::training(&mut report);
    attention::decoding(&mut report);
    pointwise::norms(&mut report);
    pointwise::turns_and_gates(&mut report);
    pointwise::losses(&mut report);
    pointwise::updates(&mut report);
    report.print();
}
