//! Where sequences begin and end in a packed batch.

use crate::error::KernelError;

/// Sequences packed end to end: `offsets[i]..offsets[i + 1]` are the tokens of sequence `i`.
///
/// The field calls the offsets `cu_seqlens`. Nothing is padded: attention is block-diagonal
/// and positions restart with each sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequences {
    offsets: Vec<usize>,
}

impl Sequences {
    /// Sequences of the given lengths.
    ///
    /// # Errors
    /// [`KernelError::Value`] if a length is 0.
    pub fn from_lengths(lengths: &[usize]) -> Result<Self, KernelError> {
        let mut offsets = vec![0];
        for (index, &length) in lengths.iter().enumerate() {
            if length == 0 {
                let problem = format!("sequence {index} is empty");
                return Err(KernelError::Value {
                    operation: "Sequences",
                    problem,
                });
            }
            offsets.push(offsets[index] + length);
        }
        Ok(Self { offsets })
    }

    /// Number of sequences.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of tokens in all.
    pub fn tokens(&self) -> usize {
        self.offsets[self.len()]
    }

    /// The tokens of each sequence.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = std::ops::Range<usize>> + '_ {
        self.offsets.windows(2).map(|pair| pair[0]..pair[1])
    }

    /// The position of each token in its sequence, from 0.
    pub fn positions(&self) -> Vec<u32> {
        self.ranges()
            .flat_map(|range| 0..range.len() as u32)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_restart_with_each_sequence() {
        let sequences = Sequences::from_lengths(&[3, 1, 2]).unwrap();
        assert_eq!(sequences.positions(), [0, 1, 2, 0, 0, 1]);
        assert_eq!(sequences.ranges().collect::<Vec<_>>(), [0..3, 3..4, 4..6]);
        assert_eq!(sequences.tokens(), 6);
        assert!(Sequences::from_lengths(&[2, 0]).is_err());
    }
}
