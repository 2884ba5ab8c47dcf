//! What this machine does at best: loops of nothing but multiplications, or of nothing but reading.

use std::fmt;
use std::hint::black_box;

use rayon::prelude::*;

use crate::Time;

/// Operations a second; a multiplication and an addition are two. 0 where the processor cannot.
#[derive(Clone, Copy)]
pub struct Rate {
    /// On the clock, by all threads together.
    pub clock: f64,
    /// In a second of one processor's time.
    pub core: f64,
}

/// Best rates.
pub struct Peaks {
    /// Of int8 codes, with AVX-512 VNNI.
    pub int8: Rate,
    /// Of f32, with AVX-512.
    pub f32: Rate,
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
            read: (memory.len() * 8) as f64 / best_time(|| read(&memory)).clock,
        }
    }
}

impl fmt::Display for Peaks {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rates = [
            self.int8.clock,
            self.int8.core,
            self.f32.clock,
            self.f32.core,
            self.read,
        ];
        let [int8, int8_core, f32, f32_core, read] = rates.map(|rate| rate / 1e9);
        write!(
            out,
            "at best: int8 {int8:.0} GOP/s ({int8_core:.0} a core), f32 {f32:.0} GFLOP/s ({f32_core:.0} a core), \
             reading {read:.1} GB/s"
        )
    }
}

/// The rate of threads that do `operations` each.
fn best_rate(operations: f64, act: fn() -> bool) -> Rate {
    let mut supported = true;
    let time = best_time(|| {
        let done = rayon::broadcast(|_| act());
        supported &= done.into_iter().all(|done| done);
    });
    let all = if supported {
        rayon::current_num_threads() as f64 * operations
    } else {
        0.0
    };
    Rate {
        clock: all / time.clock,
        core: all / time.processor,
    }
}

fn best_time(mut act: impl FnMut()) -> Time {
    let first = Time::of(&mut act);
    (0..9).fold(first, |best, _| best.min(Time::of(&mut act)))
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
