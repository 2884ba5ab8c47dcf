//! A row as training sees it: with its end, and cut where that is asked for.

use rag_tune_model::tokenizer::EncodedRow;

use crate::config::{LossOn, TrainConfig, Truncation};

/// The tokens around a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Stays at the start of a row whose prompt is cut, where the row begins with it.
    pub bos: Option<u32>,
    /// Ends every row, and carries loss.
    pub eos: u32,
}

/// The ends of a model whose rows begin with no token of their own.
impl From<u32> for Ends {
    fn from(eos: u32) -> Self {
        Self { bos: None, eos }
    }
}

/// A row ready for training.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Example {
    /// Index in the data set.
    pub row: usize,
    /// Prompt, answer, end of sequence.
    pub ids: Vec<u32>,
    /// The first token that carries loss.
    pub supervised_from: usize,
}

/// What `train.max_length` means for a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// The row is not too long.
    Whole,
    /// The left of its prompt is cut off.
    Cut,
    /// The row is left out.
    TooLong,
    /// The row is left out, since its answer alone is too long.
    AnswerTooLong,
}

impl Fit {
    /// Of a row, whose end of sequence is still to be appended.
    pub(super) fn of(encoded: &EncodedRow, config: &TrainConfig) -> Self {
        let length = encoded.ids.len() + 1;
        // One token of the prompt stays: something has to predict the answer's first one.
        let least = length - encoded.prompt_len.max(1) + 1;
        match config.truncation {
            _ if length <= config.max_length => Self::Whole,
            Truncation::Left if least <= config.max_length => Self::Cut,
            Truncation::Left => Self::AnswerTooLong,
            Truncation::Drop | Truncation::Error => Self::TooLong,
        }
    }
}

impl Example {
    /// The row with its end, cut to `train.max_length` if it is longer and [`Fit`] allows.
    pub(super) fn new(row: usize, encoded: &EncodedRow, ends: Ends, config: &TrainConfig) -> Self {
        let mut ids = encoded.ids.clone();
        ids.push(ends.eos);
        let mut prompt_len = encoded.prompt_len;
        if Fit::of(encoded, config) == Fit::Cut {
            let cut = ids.len() - config.max_length;
            let begins = ids
                .first()
                .copied()
                .filter(|first| Some(*first) == ends.bos);
            ids.drain(..cut);
            if let Some(bos) = begins {
                ids[0] = bos;
            }
            prompt_len -= cut;
        }
        let supervised_from = match config.loss_on {
            // Position 0 has nothing before it that could predict it.
            LossOn::Completion => prompt_len.max(1),
            LossOn::All => 1,
        };
        Self {
            row,
            ids,
            supervised_from,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDS: Ends = Ends {
        bos: Some(1),
        eos: 2,
    };

    fn config(max_length: usize) -> TrainConfig {
        TrainConfig {
            max_length,
            truncation: Truncation::Left,
            ..Default::default()
        }
    }

    fn encoded(ids: &[u32], prompt_len: usize) -> EncodedRow {
        let ids = ids.to_vec();
        EncodedRow { ids, prompt_len }
    }

    #[test]
    fn a_cut_prompt_keeps_its_beginning_of_sequence_and_its_end() {
        let row = encoded(&[1, 10, 11, 12, 20, 21], 4);
        let cut = |max_length| Example::new(0, &row, ENDS, &config(max_length));
        assert_eq!(cut(7).ids, [1, 10, 11, 12, 20, 21, 2], "it fits");
        assert_eq!(cut(6).ids, [1, 11, 12, 20, 21, 2]);
        assert_eq!(
            (cut(4).ids, cut(4).supervised_from),
            (vec![1, 20, 21, 2], 1)
        );
        assert_eq!(Fit::of(&row, &config(3)), Fit::AnswerTooLong);
    }

    #[test]
    fn a_cut_prompt_without_a_beginning_of_sequence_loses_its_first_tokens() {
        let row = encoded(&[9, 10, 11, 20, 21], 3);
        let cut = Example::new(0, &row, ENDS, &config(5));
        assert_eq!((cut.ids, cut.supervised_from), (vec![10, 11, 20, 21, 2], 2));
    }
}
