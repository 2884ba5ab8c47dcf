//! Times of kernels, and what share of the machine's ceilings they are.

use std::cell::Cell;
use std::hint::black_box;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput};
use rag_tune_kernels::Compute;
use rag_tune_kernels::KernelError;
use rag_tune_kernels::peak::{memory_read_bytes_per_s, peak_op_per_s};

/// What a kernel cannot do without.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// Multiplications and additions.
    pub operations: f64,
    /// Their kind.
    pub compute: Compute,
    /// Bytes read and written, each once.
    pub bytes: f64,
}

impl Work {
    /// Of a kernel that multiplies.
    pub fn products(operations: usize, compute: Compute, bytes: usize) -> Self {
        Self {
            operations: operations as f64,
            compute,
            bytes: bytes as f64,
        }
    }

    /// Of a kernel that passes over this many f32 values.
    pub fn pass(values: usize) -> Self {
        Self::products(0, Compute::F32, values * size_of::<f32>())
    }

    /// Seconds that the ceilings allow at best.
    fn floor_s(&self) -> f64 {
        let computing = self.operations / peak_op_per_s(self.compute);
        computing.max(self.bytes / memory_read_bytes_per_s())
    }
}

/// All that was timed.
pub struct Report<'a> {
    criterion: &'a mut Criterion,
    lines: Vec<String>,
}

impl<'a> Report<'a> {
    /// Nothing yet.
    pub fn new(criterion: &'a mut Criterion) -> Self {
        Self {
            criterion,
            lines: Vec::new(),
        }
    }

    /// Times a kernel on operands of `shape`.
    pub fn time<T>(
        &mut self,
        kernel: &str,
        shape: &str,
        work: Work,
        mut run: impl FnMut() -> Result<T, KernelError>,
    ) {
        let per_run = Cell::new(f64::INFINITY);
        let mut group = self.criterion.benchmark_group(kernel);
        group.throughput(match work.operations > 0.0 {
            true => Throughput::Elements(work.operations as u64),
            false => Throughput::Bytes(work.bytes as u64),
        });
        group.bench_function(BenchmarkId::from_parameter(shape), |bencher| {
            bencher.iter_custom(|runs| {
                let start = Instant::now();
                for _ in 0..runs {
                    black_box(run().expect("operands fit"));
                }
                let elapsed = start.elapsed();
                per_run.set(per_run.get().min(elapsed.as_secs_f64() / runs as f64));
                elapsed
            });
        });
        group.finish();
        let seconds = per_run.get();
        // A kernel that the filter leaves out has no time.
        if seconds.is_finite() {
            self.lines.push(line(kernel, shape, work, seconds));
        }
    }

    /// Prints the table: the quickest sample of each kernel.
    #[expect(clippy::print_stdout, reason = "the table is this program's result")]
    pub fn print(&self) {
        println!(
            "ceilings: f32 {:.0} GFLOP/s, bf16 {:.0} GFLOP/s, int8 {:.0} GOP/s, memory {:.1} GB/s\n",
            peak_op_per_s(Compute::F32) / 1e9,
            peak_op_per_s(Compute::Bf16) / 1e9,
            peak_op_per_s(Compute::Int8) / 1e9,
            memory_read_bytes_per_s() / 1e9,
        );
        println!("| kernel | shape | µs | GOP/s | GB/s | % of ceiling |");
        println!("| --- | --- | --- | --- | --- | --- |");
        for line in &self.lines {
            println!("{line}");
        }
    }
}

fn line(kernel: &str, shape: &str, work: Work, seconds: f64) -> String {
    let operations = match work.operations > 0.0 {
        true => format!("{:.1}", work.operations / seconds / 1e9),
        false => "-".to_owned(),
    };
    format!(
        "| {kernel} | {shape} | {:.1} | {operations} | {:.1} | {:.0} |",
        seconds * 1e6,
        work.bytes / seconds / 1e9,
        100.0 * work.floor_s() / seconds
    )
}
