//! Where weights come from: a checkpoint, or nowhere.

use std::path::Path;

use rayon::prelude::*;

use crate::checkpoint::{Checkpoint, ReadAhead, StoredWeight};
use crate::config::{LlamaConfig, StoredQuantization};
use crate::error::ModelError;

/// What a model is loaded from.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    /// Its tensors.
    Checkpoint(&'a Checkpoint),
    /// Noise in the given shape, for timing what a model of this shape does.
    Synthetic(&'a LlamaConfig),
}

impl<'a> Source<'a> {
    pub(crate) fn config(&self) -> &LlamaConfig {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.config(),
            Self::Synthetic(config) => config,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.path(),
            Self::Synthetic(_) => Path::new("synthetic weights"),
        }
    }

    pub(crate) fn fingerprint(&self) -> &str {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.fingerprint(),
            Self::Synthetic(_) => "synthetic",
        }
    }

    /// As [`Checkpoint::stored_quantization`].
    pub(crate) fn stored_quantization(&self) -> Option<StoredQuantization> {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.stored_quantization(),
            Self::Synthetic(_) => None,
        }
    }

    /// As [`Checkpoint::weight`].
    pub(crate) fn weight(
        &self,
        name: &str,
        shape: [usize; 2],
    ) -> Result<StoredWeight<'a>, ModelError> {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.weight(name, shape),
            Self::Synthetic(_) => Ok(StoredWeight::Float(noise(&shape).into())),
        }
    }

    /// As [`Checkpoint::read_ahead`].
    pub(crate) fn read_ahead(&self, names: &[String]) -> Option<ReadAhead> {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.read_ahead(names),
            Self::Synthetic(_) => None,
        }
    }

    /// As [`Checkpoint::release`].
    pub(crate) fn release(&self) {
        if let Self::Checkpoint(checkpoint) = self {
            checkpoint.release();
        }
    }

    /// As [`Checkpoint::tensor`].
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.tensor(name, shape),
            Self::Synthetic(_) => Ok(noise(shape)),
        }
    }
}

/// Ones for a norm; for a matrix `[out, in]` values of variance `1 / in`, so that activations keep their size.
fn noise(shape: &[usize]) -> Vec<f32> {
    let count = shape.iter().product();
    let [_, inner] = shape else {
        return vec![1.0; count];
    };
    let scale = (3.0 / *inner as f32).sqrt();
    (0..count as u32)
        .into_par_iter()
        .with_min_len(1 << 14)
        .map(|index| {
            // The finaliser of MurmurHash3: neighbours get unrelated values.
            let mut hash = index.wrapping_mul(0x9e37_79b9);
            hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
            hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
            let signed = (hash ^ (hash >> 16)) as i32;
            signed as f32 / 2_147_483_648.0 * scale
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_has_the_promised_variance() {
        let values = noise(&[300, 200]);
        let variance = values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32;
        assert!((variance * 200.0 - 1.0).abs() < 0.03, "{variance}");
        assert_eq!(noise(&[3]), [1.0; 3]);
    }
}
