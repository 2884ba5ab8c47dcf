//! What this machine does at best: loops of nothing but multiplications, or of nothing but reading.

use std::fmt;
use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;

/// Best rates of all threads together.
pub struct Peaks {
    /// Operations a second (a multiplication and an addition are two) of int8 codes; 0 without AVX-512 VNNI.
    pub int8: f64,
    /// The same of f32; 0 without AVX-512.
    pub f32: f64,
    /// Bytes read a second.
    pub read: f64,
}

/// Rounds of a loop: some 50 ms.
const ROUNDS: usize = 10_000_000;
/// Accumulators, enough to hide how long an instruction takes.
const CHAINS: usize = 16;

impl Peaks {
    /// The best of several tries.
    pub fn measure() -> Self {
        let memory = vec![1u64; 1 << 26];
        let operations = 2.0 * (ROUNDS * CHAINS) as f64;
        Self {
            int8: best_rate(64.0 * operations, int8_loop),
            f32: best_rate(16.0 * operations, f32_loop),
            read: best_of_seconds(|| read(&memory)).recip() * (memory.len() * 8) as f64,
        }
    }
}

impl fmt::Display for Peaks {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [int8, f32, read] = [self.int8, self.f32, self.read].map(|rate| rate / 1e9);
        write!(
            out,
            "at best: int8 {int8:.0} GOP/s, f32 {f32:.0} GFLOP/s, reading {read:.1} GB/s"
        )
    }
}

/// Rate of all threads, of which each does `operations`.
fn best_rate(operations: f64, act: fn() -> bool) -> f64 {
    let threads = rayon::current_num_threads();
    let mut supported = true;
    let seconds = best_of_seconds(|| {
        let done = rayon::broadcast(|_| act());
        supported &= done.into_iter().all(|done| done);
    });
    if supported {
        threads as f64 * operations / seconds
    } else {
        0.0
    }
}

fn best_of_seconds(mut act: impl FnMut()) -> f64 {
    let time = |_| {
        let started = Instant::now();
        act();
        started.elapsed().as_secs_f64()
    };
    (0..7).map(time).fold(f64::INFINITY, f64::min)
}

fn read(memory: &[u64]) {
    let sums = memory
        .par_chunks(1 << 16)
        .map(|chunk| chunk.iter().fold(0u64, |a, &b| a.wrapping_add(b)));
    black_box(sums.reduce(|| 0, u64::wrapping_add));
}

fn int8_loop() -> bool {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512vnni")
    {
        // SAFETY: the processor has what the function needs.
        unsafe { x86::int8() };
        return true;
    }
    false
}

fn f32_loop() -> bool {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has what the function needs.
        unsafe { x86::f32() };
        return true;
    }
    false
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_set1_epi8, _mm512_set1_ps, _mm512_setzero_ps,
        _mm512_setzero_si512,
    };
    use std::hint::black_box;

    use super::{CHAINS, ROUNDS};

    /// # Safety
    /// The processor must have AVX-512 VNNI.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub unsafe fn int8() {
        let mut sums = [_mm512_setzero_si512(); CHAINS];
        let (a, b) = (
            black_box(_mm512_set1_epi8(1)),
            black_box(_mm512_set1_epi8(3)),
        );
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        black_box(sums);
    }

    /// # Safety
    /// The processor must have AVX-512.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn f32() {
        let mut sums = [_mm512_setzero_ps(); CHAINS];
        let (a, b) = (
            black_box(_mm512_set1_ps(1e-9)),
            black_box(_mm512_set1_ps(0.5)),
        );
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(a, b, *sum);
            }
        }
        black_box(sums);
    }
}
