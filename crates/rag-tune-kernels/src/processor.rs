//! Which instructions the kernels of frozen weights use, chosen once a process from what the processor has.
//!
//! `RAG_TUNE_CPU=avx2` (or another name of a [`Level`]) takes a lower level than the processor has: for tests, and for
//! the same bits on different machines. Loops that the compiler vectorises and the `gemm` crate choose for themselves.

use std::fmt;
use std::sync::OnceLock;

use crate::error::KernelError;

/// The variable that names the level.
pub const VARIABLE: &str = "RAG_TUNE_CPU";

/// Instructions of a processor; each level has those of the levels below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What every processor of the architecture has; NEON on aarch64.
    Portable,
    /// AVX2 and FMA: 8 lanes of f32.
    Avx2,
    /// AVX-512 F, BW, DQ and VL: 16 lanes of f32.
    Avx512,
    /// `vpdpbusd`: four 8-bit products a lane.
    Avx512Vnni,
    /// `vdpbf16ps` too: two bf16 products a lane; and tables of 128 bytes (VBMI), which all processors with it have but
    /// Cooper Lake.
    Avx512Bf16,
    /// `tdpbf16ps` too: 16 x 16 x 16 pairs of bf16 an instruction, in registers of their own (AMX).
    Amx,
}

impl Level {
    /// All, from the lowest.
    pub const ALL: [Self; 6] = [
        Self::Portable,
        Self::Avx2,
        Self::Avx512,
        Self::Avx512Vnni,
        Self::Avx512Bf16,
        Self::Amx,
    ];

    /// As [`VARIABLE`] spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512-vnni",
            Self::Avx512Bf16 => "avx512-bf16",
            Self::Amx => "amx",
        }
    }

    /// The highest that this processor has.
    pub fn of_this_processor() -> Self {
        static DETECTED: OnceLock<Level> = OnceLock::new();
        *DETECTED.get_or_init(detect)
    }

    /// The levels that this processor has, from the lowest.
    pub fn available() -> impl Iterator<Item = Self> {
        let highest = Self::of_this_processor();
        Self::ALL.into_iter().filter(move |level| *level <= highest)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Level {
    use std::arch::is_x86_feature_detected as has;
    if !(has!("avx2") && has!("fma")) {
        return Level::Portable;
    }
    if !(has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl")) {
        return Level::Avx2;
    }
    match (has!("avx512vnni"), has!("avx512bf16") && has!("avx512vbmi")) {
        (true, true) if has_amx() => Level::Amx,
        (true, true) => Level::Avx512Bf16,
        (true, false) => Level::Avx512Vnni,
        (false, _) => Level::Avx512,
    }
}

/// Whether the processor has AMX for bf16, and this process leave to use it: its registers are so large that the system saves them only for who asks.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn has_amx() -> bool {
    /// Bits of EDX of CPUID's leaf 7.
    const BF16_AND_TILES: u32 = 1 << 22 | 1 << 24;
    /// From `asm/prctl.h`; the registers' number is that of XCR0's bit.
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;
    let features = std::arch::x86_64::__cpuid_count(7, 0).edx;
    // SAFETY: the call takes two numbers, and changes nothing but what this process may use.
    let granted = || unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) };
    features & BF16_AND_TILES == BF16_AND_TILES && granted() == 0
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn has_amx() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Level {
    Level::Portable
}

/// The level in use: [`VARIABLE`]'s where it is set, else the processor's highest.
///
/// # Errors
/// [`KernelError::Value`] if [`VARIABLE`] names no level, or one that the processor lacks.
pub fn level() -> Result<Level, KernelError> {
    static CHOSEN: OnceLock<Result<Level, KernelError>> = OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| match std::env::var(VARIABLE) {
        Ok(name) if !name.is_empty() => named(&name),
        Ok(_) | Err(std::env::VarError::NotPresent) => Ok(Level::of_this_processor()),
        Err(std::env::VarError::NotUnicode(name)) => named(&name.to_string_lossy()),
    });
    chosen.clone()
}

fn named(name: &str) -> Result<Level, KernelError> {
    let error = |problem| KernelError::Value {
        operation: VARIABLE,
        problem,
    };
    let Some(level) = Level::ALL.into_iter().find(|level| level.name() == name) else {
        let names = Level::ALL.map(Level::name).join(", ");
        return Err(error(format!("`{name}` is none of {names}")));
    };
    let highest = Level::of_this_processor();
    if level > highest {
        return Err(error(format!(
            "`{name}` is more than this processor has: {highest}"
        )));
    }
    Ok(level)
}

/// The level in use; the processor's where [`level`] has an error, which the program reports at its start.
pub(crate) fn level_in_use() -> Level {
    level().unwrap_or(Level::of_this_processor())
}

/// Whether bf16 products have an instruction.
pub(crate) fn has_bf16() -> bool {
    level_in_use() >= Level::Avx512Bf16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_up_to_the_processors_can_be_named() {
        for level in Level::ALL {
            let named = named(level.name());
            match level <= Level::of_this_processor() {
                true => assert_eq!(named.unwrap(), level),
                false => assert!(named.unwrap_err().to_string().contains("more than")),
            }
        }
        assert_eq!(Level::available().next(), Some(Level::Portable));
    }

    #[test]
    fn another_name_is_an_error_that_lists_the_names() {
        assert_eq!(
            named("sse9").unwrap_err().to_string(),
            "RAG_TUNE_CPU: `sse9` is none of portable, avx2, avx512, avx512-vnni, avx512-bf16, amx"
        );
    }
}
