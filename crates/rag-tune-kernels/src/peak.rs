//! The machine's ceilings, measured: operations a second of its multiply-and-add instructions, and bytes a second that
//! it reads from memory. What a kernel's, a training step's or a generation's speed is a share of.

use std::hint::black_box;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use crate::cpu::peak::{InstructionLoop, sum};
use crate::matrix::Compute;

/// How long a ceiling is measured.
const DURATION: Duration = Duration::from_millis(100);
/// Rounds of an instruction loop between two looks at the clock: some milliseconds.
const ROUNDS: usize = 1 << 19;
/// Bytes that are read: beyond the caches of all but the largest servers.
const READ_BYTES: usize = 256 << 20;

/// The instruction whose speed [`peak_op_per_s`] is on this machine.
pub fn instruction(compute: Compute) -> &'static str {
    InstructionLoop::fastest(compute).instruction
}

/// Operations a second (a multiplication and an addition are two) of a loop of nothing but the instruction, on all
/// threads: no product can be faster. Measured once a process, in 0.1 s.
///
/// A processor has no nominal peak that it would hold for long: its clock depends on load, temperature and width of
/// the instructions. Beside other programs the figure is too low.
pub fn peak_op_per_s(compute: Compute) -> f64 {
    static PEAKS: [OnceLock<f64>; Compute::ALL.len()] = [const { OnceLock::new() }; 3];
    let compute = match compute {
        Compute::LlmInt8 => Compute::Int8,
        other => other,
    };
    *PEAKS[compute as usize].get_or_init(|| {
        let instructions = InstructionLoop::fastest(compute);
        let threads = rayon::current_num_threads();
        let seconds = best_of(|| {
            rayon::broadcast(|_| instructions.run(ROUNDS));
        });
        (threads * ROUNDS * instructions.operations) as f64 / seconds
    })
}

/// Bytes a second that all threads together read from memory, one after the other. Measured once a process, in 0.2 s and
/// with 256 MiB.
pub fn memory_read_bytes_per_s() -> f64 {
    static BANDWIDTH: OnceLock<f64> = OnceLock::new();
    *BANDWIDTH.get_or_init(|| {
        let count = READ_BYTES / size_of::<u64>();
        let part = count.div_ceil(rayon::current_num_threads());
        // Written, since pages that never were are all one page of zeros.
        let mut data = vec![0_u64; count];
        data.par_chunks_mut(part)
            .for_each(|part| part.fill(black_box(1)));
        let seconds = best_of(|| {
            let total: u64 = data.par_chunks(part).map(sum).sum();
            black_box(total);
        });
        READ_BYTES as f64 / seconds
    })
}

/// Seconds of the quickest of many runs.
fn best_of(work: impl Fn()) -> f64 {
    let mut best = Duration::MAX;
    let start = Instant::now();
    while best == Duration::MAX || start.elapsed() < DURATION {
        let run = Instant::now();
        work();
        best = best.min(run.elapsed());
    }
    best.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Matrix;
    use crate::linear::{self, Input};
    use crate::reference::testing::noise;

    /// From an old core to a large server.
    const PLAUSIBLE: std::ops::Range<f64> = 1e9..1e16;

    #[test]
    fn peaks_are_measured_once() {
        for compute in Compute::ALL {
            let peak = peak_op_per_s(compute);
            assert!(
                PLAUSIBLE.contains(&peak),
                "{}: {peak}",
                instruction(compute)
            );
            assert_eq!(peak_op_per_s(compute), peak);
        }
        let bandwidth = memory_read_bytes_per_s();
        assert!((1e8..1e14).contains(&bandwidth), "{bandwidth}");
        assert_eq!(memory_read_bytes_per_s(), bandwidth);
    }

    #[test]
    fn every_loop_of_this_machine_runs() {
        for compute in Compute::ALL {
            for instructions in InstructionLoop::supported(compute) {
                assert!(instructions.operations > 0);
                instructions.run(3);
            }
        }
    }

    /// Twice the peak leaves room for other programs that ran while it was measured.
    #[test]
    fn no_product_beats_the_peak() {
        let (x, weight) = (noise(256, 512, 1), noise(512, 512, 2).into_vec());
        let weight = Matrix::f32(512, 512, weight).unwrap();
        let input = Input::new(&x, Compute::F32);
        let seconds = best_of(|| {
            black_box(linear::forward(&input, &weight).unwrap());
        });
        let op_per_s = (2 * 256 * 512 * 512) as f64 / seconds;
        assert!(op_per_s < 2.0 * peak_op_per_s(Compute::F32), "{op_per_s}");
    }
}
