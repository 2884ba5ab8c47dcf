//! Loops of nothing but the instruction that products spend their time in, and of reading memory.
//!
//! A loop has more independent sums than the instruction's latency in cycles times its throughput, so it runs at the
//! throughput. Its operands are all registers. They pass through `black_box`: sums that begin alike the compiler would
//! make one.

use std::hint::black_box;

use crate::matrix::Compute;

/// A loop over one multiply-and-add.
#[derive(Clone, Copy)]
pub(crate) struct InstructionLoop {
    /// Operations that a round makes.
    pub(crate) operations: usize,
    /// For people.
    pub(crate) instruction: &'static str,
    /// Makes so many rounds.
    ///
    /// # Safety
    /// The processor must have the instruction. [`Self::supported`] sees to it.
    rounds: unsafe fn(usize),
}

impl InstructionLoop {
    /// The quickest that this processor has.
    pub(crate) fn fastest(compute: Compute) -> Self {
        Self::supported(compute)[0]
    }

    /// All that this processor has, the quickest first; the last one is portable.
    pub(crate) fn supported(compute: Compute) -> Vec<Self> {
        let mut loops = Vec::new();
        #[cfg(target_arch = "x86_64")]
        loops.extend(x86::supported(compute));
        #[cfg(not(target_arch = "x86_64"))]
        let _: Compute = compute;
        loops.push(PORTABLE);
        loops
    }

    /// Makes so many rounds.
    pub(crate) fn run(&self, rounds: usize) {
        // SAFETY: only `supported` makes values of this type, and lists only what the processor has.
        unsafe { (self.rounds)(rounds) }
    }
}

const PORTABLE_LANES: usize = 64;
const PORTABLE: InstructionLoop = InstructionLoop {
    operations: 2 * PORTABLE_LANES,
    instruction: "f32 multiplication and addition",
    rounds: portable,
};

/// What the compiler makes of it on any processor.
fn portable(rounds: usize) {
    let (factor, more) = (black_box(0.5_f32), black_box(1.0_f32));
    let mut sums = black_box([0.0_f32; PORTABLE_LANES]);
    for _ in 0..rounds {
        for sum in &mut sums {
            // Where every processor has the fused form; elsewhere it would be a function call.
            *sum = match cfg!(target_arch = "aarch64") {
                true => sum.mul_add(factor, more),
                false => *sum * factor + more,
            };
        }
    }
    black_box(sums);
}

/// The sum of all values: as quick as memory gives them.
#[multiversion::multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx512dq", "x86_64+avx2"))]
pub(crate) fn sum(values: &[u64]) -> u64 {
    values.iter().fold(0, |sum, value| sum.wrapping_add(*value))
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m512bh, _mm256_add_epi32, _mm256_fmadd_ps, _mm256_madd_epi16, _mm256_maddubs_epi16,
        _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_ps, _mm256_setzero_ps,
        _mm256_setzero_si256, _mm512_dpbf16_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps,
        _mm512_set1_epi8, _mm512_set1_epi16, _mm512_set1_ps, _mm512_setzero_ps,
        _mm512_setzero_si512,
    };
    use std::hint::black_box;
    use std::mem::transmute;

    use super::InstructionLoop;
    use crate::cpu::gemm::amx;
    use crate::matrix::Compute;
    use crate::processor::Level;

    /// Sums of an AVX-512 loop, which has 32 registers.
    const WIDE_SUMS: usize = 16;
    /// Sums of an AMX loop, which has 8 registers.
    const TILE_SUMS: usize = 4;
    /// Sums of an AVX2 loop, which has 16.
    const SUMS: usize = 12;

    pub(super) fn supported(compute: Compute) -> Vec<InstructionLoop> {
        let f32_loops = [(Level::Avx512, FMA_512), (Level::Avx2, FMA_256)];
        let own = match compute {
            Compute::F32 => Vec::new(),
            Compute::Bf16 => vec![(Level::Amx, TDPBF16), (Level::Avx512Bf16, DPBF16_512)],
            Compute::Int8 | Compute::LlmInt8 => {
                vec![(Level::Avx512Vnni, DPBUSD_512), (Level::Avx2, MADDUBS_256)]
            }
        };
        let all = own.into_iter().chain(f32_loops);
        all.filter(|(level, _)| *level <= Level::of_this_processor())
            .map(|(_, instructions)| instructions)
            .collect()
    }

    const FMA_512: InstructionLoop = InstructionLoop {
        operations: WIDE_SUMS * 2 * 16,
        instruction: "vfmadd231ps, 512 bits",
        rounds: fma_512,
    };
    const FMA_256: InstructionLoop = InstructionLoop {
        operations: SUMS * 2 * 8,
        instruction: "vfmadd231ps, 256 bits",
        rounds: fma_256,
    };
    const DPBF16_512: InstructionLoop = InstructionLoop {
        operations: WIDE_SUMS * 2 * 32,
        instruction: "vdpbf16ps, 512 bits",
        rounds: dpbf16_512,
    };
    const TDPBF16: InstructionLoop = InstructionLoop {
        operations: TILE_SUMS * 2 * 16 * 16 * 32,
        instruction: "tdpbf16ps, 16 x 16 x 32",
        rounds: amx::tdpbf16,
    };
    const DPBUSD_512: InstructionLoop = InstructionLoop {
        operations: WIDE_SUMS * 2 * 64,
        instruction: "vpdpbusd, 512 bits",
        rounds: dpbusd_512,
    };
    const MADDUBS_256: InstructionLoop = InstructionLoop {
        operations: SUMS * 2 * 32,
        instruction: "vpmaddubsw and vpmaddwd, 256 bits",
        rounds: maddubs_256,
    };

    #[target_feature(enable = "avx512f")]
    fn fma_512(rounds: usize) {
        let x = black_box(_mm512_set1_ps(0.5));
        let mut sums = black_box([_mm512_setzero_ps(); WIDE_SUMS]);
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(x, x, *sum);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx2,fma")]
    fn fma_256(rounds: usize) {
        let x = black_box(_mm256_set1_ps(0.5));
        let mut sums = black_box([_mm256_setzero_ps(); SUMS]);
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(x, x, *sum);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn dpbf16_512(rounds: usize) {
        /// 0.5 as bf16.
        const HALF: i16 = 0x3f00;
        // SAFETY: both are 512 bits, and every pattern of bits is a value.
        let x: __m512bh = unsafe { transmute(black_box(_mm512_set1_epi16(HALF))) };
        let mut sums = black_box([_mm512_setzero_ps(); WIDE_SUMS]);
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, x, x);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn dpbusd_512(rounds: usize) {
        let x = black_box(_mm512_set1_epi8(3));
        let mut sums = black_box([_mm512_setzero_si512(); WIDE_SUMS]);
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, x, x);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx2")]
    fn maddubs_256(rounds: usize) {
        let (x, ones) = (
            black_box(_mm256_set1_epi8(3)),
            black_box(_mm256_set1_epi16(1)),
        );
        let mut sums = black_box([_mm256_setzero_si256(); SUMS]);
        for _ in 0..rounds {
            for sum in &mut sums {
                // The sum is an operand, or the compiler would make the product once, before the loop.
                let product = _mm256_madd_epi16(_mm256_maddubs_epi16(*sum, x), ones);
                *sum = _mm256_add_epi32(*sum, product);
            }
        }
        black_box(sums);
    }
}
