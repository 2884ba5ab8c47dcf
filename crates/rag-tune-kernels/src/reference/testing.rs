//! What tests of several operations share.

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

use crate::Tensor;

/// `[rows, cols]` of reproducible values in `[-1, 1)`.
pub(crate) fn noise(rows: usize, cols: usize, seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Tensor::from_fn(rows, cols, |_, _| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed >> 40) as f32) / (1 << 23) as f32 - 1.0
    })
}

/// The largest absolute difference; NaN if any value is not finite.
pub(crate) fn max_error(left: &Tensor, right: &Tensor) -> f32 {
    assert_eq!(left.shape(), right.shape());
    let pairs = left.data().iter().zip(right.data());
    pairs.fold(0.0, |max, (left, right)| {
        let error = (left - right).abs();
        if error.is_nan() || error > max {
            error
        } else {
            max
        }
    })
}

/// Golden numbers of bitsandbytes.
pub(crate) struct Golden(Vec<u8>);

impl Golden {
    /// Of `scripts/golden_bitsandbytes.py`.
    pub(crate) fn bitsandbytes() -> Self {
        Self::read("bitsandbytes.safetensors")
    }

    /// Of `scripts/golden_llm_int8.py`.
    pub(crate) fn llm_int8() -> Self {
        Self::read("llm_int8.safetensors")
    }

    fn read(name: &str) -> Self {
        // Elsewhere than they were compiled tests are told where the sources are (scripts/gpu-check.sh).
        let sources = std::env::var_os("RAG_TUNE_SOURCES").map(std::path::PathBuf::from);
        let here = || std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let folder = sources.unwrap_or_else(here);
        let path = folder.join("tests/fixtures/golden").join(name);
        Self(std::fs::read(path).unwrap())
    }

    fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).unwrap()
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        self.file().tensor(name).unwrap().data().to_vec()
    }

    /// Values, widened where they have 16 bits; `None` where there is no such tensor.
    pub(crate) fn get(&self, name: &str) -> Option<Vec<f32>> {
        let file = self.file();
        let tensor = file.tensor(name).ok()?;
        let data = tensor.data();
        let (pairs, fours) = (data.as_chunks::<2>().0, data.as_chunks::<4>().0);
        Some(match tensor.dtype() {
            Dtype::F32 => fours
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect(),
            Dtype::F16 => pairs
                .iter()
                .map(|bytes| f16::from_le_bytes(*bytes).to_f32())
                .collect(),
            Dtype::BF16 => pairs
                .iter()
                .map(|bytes| bf16::from_le_bytes(*bytes).to_f32())
                .collect(),
            other => panic!("`{name}` is {other:?}"),
        })
    }

    pub(crate) fn f32s(&self, name: &str) -> Vec<f32> {
        self.get(name).unwrap_or_else(|| panic!("no `{name}`"))
    }

    pub(crate) fn i8s(&self, name: &str) -> Vec<i8> {
        self.bytes(name)
            .iter()
            .map(|byte| byte.cast_signed())
            .collect()
    }

    pub(crate) fn i32s(&self, name: &str) -> Vec<i32> {
        let bytes = self.bytes(name);
        let values = bytes.as_chunks().0.iter();
        values.map(|bytes| i32::from_le_bytes(*bytes)).collect()
    }

    /// The names of the weights that were quantised as `kind`: `nf4` or `rows`.
    pub(crate) fn weights(&self, kind: &str) -> Vec<String> {
        let file = self.file();
        let names = file.names().into_iter();
        let name = |name: &str| {
            let name = name.strip_prefix(kind)?.strip_prefix('.')?;
            Some(name.strip_suffix(".input")?.to_owned())
        };
        names.filter_map(name).collect()
    }

    pub(crate) fn shape(&self, name: &str) -> [usize; 2] {
        self.file()
            .tensor(name)
            .unwrap()
            .shape()
            .try_into()
            .unwrap()
    }
}
