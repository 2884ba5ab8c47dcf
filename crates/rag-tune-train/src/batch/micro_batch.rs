//! What one pass is given.

use rag_tune_kernels::Sequences;
use rag_tune_model::llama::TrainBatch;

use super::example::Example;
use super::packing::Bin;
use crate::error::TrainError;

/// A micro-batch and the rows that it holds.
#[derive(Debug, Clone)]
pub struct MicroBatch {
    /// What the model is given.
    pub batch: TrainBatch,
    /// For each sequence, the index of its row in the data set.
    pub rows: Vec<usize>,
}

impl MicroBatch {
    pub(super) fn of(bin: &Bin, examples: &[Example]) -> Result<Self, TrainError> {
        let members: Vec<&Example> = bin.iter().map(|index| &examples[*index]).collect();
        let lengths: Vec<usize> = members.iter().map(|example| example.ids.len()).collect();
        let sequences = Sequences::from_lengths(&lengths)?;
        let mut ids = Vec::with_capacity(sequences.tokens());
        let mut targets = Vec::new();
        for example in &members {
            for at in example.supervised_from..example.ids.len() {
                targets.push((ids.len() + at - 1, example.ids[at]));
            }
            ids.extend_from_slice(&example.ids);
        }
        let rows = members.iter().map(|example| example.row).collect();
        let batch = TrainBatch {
            ids,
            sequences,
            targets,
        };
        Ok(Self { batch, rows })
    }

    /// Its rows in their order, in parts of at most so many tokens; a row of more is a part by itself.
    pub(crate) fn parts(&self, most_tokens: usize) -> Result<Vec<Self>, TrainError> {
        if self.batch.ids.len() <= most_tokens {
            return Ok(vec![self.clone()]);
        }
        let ranges: Vec<_> = self.batch.sequences.ranges().collect();
        let mut parts = Vec::new();
        let mut first = 0;
        for next in 1..=ranges.len() {
            let start = ranges[first].start;
            if next < ranges.len() && ranges[next].end - start <= most_tokens {
                continue;
            }
            let tokens = start..ranges[next - 1].end;
            let lengths: Vec<usize> = ranges[first..next].iter().map(|it| it.len()).collect();
            let targets = self.batch.targets.iter();
            let targets = targets.filter(|(at, _)| tokens.contains(at));
            parts.push(Self {
                batch: TrainBatch {
                    ids: self.batch.ids[tokens.clone()].to_vec(),
                    sequences: Sequences::from_lengths(&lengths)?,
                    targets: targets.map(|(at, label)| (at - start, *label)).collect(),
                },
                rows: self.rows[first..next].to_vec(),
            });
            first = next;
        }
        Ok(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of 3, 2 and 4 tokens; the last token of each is supervised.
    #[test]
    fn parts_hold_whole_rows() {
        let lengths = [3, 2, 4];
        let whole = MicroBatch {
            batch: TrainBatch {
                ids: (10..19).collect(),
                sequences: Sequences::from_lengths(&lengths).unwrap(),
                targets: vec![(1, 12), (3, 14), (7, 18)],
            },
            rows: vec![7, 8, 9],
        };
        let told = |most| -> Vec<_> {
            let parts = whole.parts(most).unwrap();
            let tell = |it: MicroBatch| (it.batch.ids, it.batch.targets, it.rows);
            parts.into_iter().map(tell).collect()
        };
        let (first, second, third) = (
            (vec![10, 11, 12], vec![(1, 12)], vec![7]),
            (vec![13, 14], vec![(0, 14)], vec![8]),
            (vec![15, 16, 17, 18], vec![(2, 18)], vec![9]),
        );
        assert_eq!(told(9).len(), 1);
        let both = (vec![10, 11, 12, 13, 14], vec![(1, 12), (3, 14)], vec![7, 8]);
        assert_eq!(told(8), [both.clone(), third.clone()]);
        assert_eq!(told(5), [both, third.clone()]);
        assert_eq!(told(1), [first, second, third]);
    }
}
