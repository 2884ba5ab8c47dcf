//! Where sequences begin and end in a packed batch.

use std::ops::Deref;
use std::sync::Arc;

use crate::attention::Heads;
use crate::cuda::Device;
use crate::cuda::attention::Schedule;
use crate::cuda::ids::Ids;
use crate::cuda::lazy::Lazy;
use crate::error::KernelError;

/// Sequences packed end to end: `offsets[i]..offsets[i + 1]` are the tokens of sequence `i`.
///
/// The field calls the offsets `cu_seqlens`. Nothing is padded: attention is block-diagonal
/// and positions restart with each sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequences {
    offsets: Vec<usize>,
    // What the layers of a pass share on a device.
    schedule: Lazy<Schedule>,
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
        Ok(Self {
            offsets,
            schedule: Lazy::default(),
        })
    }

    /// Which block of a device works on what when these attend to themselves.
    pub(crate) fn schedule(
        &self,
        device: &Device,
        heads: Heads,
    ) -> Result<Arc<Schedule>, KernelError> {
        let keys: Vec<usize> = self.ranges().map(|range| range.len()).collect();
        self.schedule_behind(device, &keys, heads)
    }

    /// The same when these are the last tokens of sequences with so many `keys`.
    pub(crate) fn schedule_behind(
        &self,
        device: &Device,
        keys: &[usize],
        heads: Heads,
    ) -> Result<Arc<Schedule>, KernelError> {
        self.schedule.get(
            |schedule| schedule.is_of(device, keys, heads),
            || Schedule::behind(device, self, keys, heads),
        )
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
    pub fn positions(&self) -> Positions {
        let positions = self.ranges().flat_map(|range| 0..range.len() as u32);
        positions.collect::<Vec<_>>().into()
    }
}

/// The place of each token of a batch in its sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Positions {
    host: Vec<u32>,
    device: Lazy<Ids>,
}

impl From<Vec<u32>> for Positions {
    fn from(host: Vec<u32>) -> Self {
        Self {
            host,
            device: Lazy::default(),
        }
    }
}

impl Deref for Positions {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        &self.host
    }
}

impl Positions {
    /// On `device`, for a table of `below` positions.
    pub(crate) fn on(&self, device: &Device, below: usize) -> Result<Arc<Ids>, KernelError> {
        self.device.get(
            |ids| ids.device() == device && ids.below() == below,
            || Ids::new(device, "rope", &self.host, below),
        )
    }

    /// Other positions in their place, as many: the memory of a device that [`Self::on`] has told of holds them then.
    pub(crate) fn rewrite(&mut self, positions: Vec<u32>) -> Result<(), KernelError> {
        const OPERATION: &str = "Positions";
        let there = self.device.get_mut().ok_or_else(|| KernelError::Value {
            operation: OPERATION,
            problem: "they are on no device, or somebody else holds them".to_owned(),
        })?;
        there.rewrite(OPERATION, &positions)?;
        self.host = positions;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_restart_with_each_sequence() {
        let sequences = Sequences::from_lengths(&[3, 1, 2]).unwrap();
        assert_eq!(*sequences.positions(), [0, 1, 2, 0, 0, 1]);
        assert_eq!(sequences.ranges().collect::<Vec<_>>(), [0..3, 3..4, 4..6]);
        assert_eq!(sequences.tokens(), 6);
        assert!(Sequences::from_lengths(&[2, 0]).is_err());
    }
}
