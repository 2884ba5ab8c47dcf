//! encoder_attention: every token of a sequence attends to all of its sequence, before and behind it.
//!
//! `context = softmax(q k^T / sqrt(head size) + distance bias) v`, per head (arXiv:1706.03762). Sequences lie end to end
//! and do not see each other.

use crate::cpu;
use crate::error::{KernelError, check_shape};
use crate::sequences::Sequences;
use crate::tensor::Tensor;

/// What is added to scores by how far apart query and key stand.
#[derive(Debug, Clone, PartialEq)]
pub struct DistanceBias {
    table: Tensor,
}

impl DistanceBias {
    /// `table` is `[heads, 2 * longest - 1]`: the bias of `key - query + longest - 1` for sequences of up to `longest`
    /// tokens.
    ///
    /// # Errors
    /// [`KernelError::Value`] if the number of columns is even.
    pub fn new(table: Tensor) -> Result<Self, KernelError> {
        if table.cols().is_multiple_of(2) {
            let problem = format!("a table of {} distances is not odd", table.cols());
            return Err(KernelError::Value {
                operation: "DistanceBias",
                problem,
            });
        }
        Ok(Self { table })
    }

    /// The longest sequence that it is made for.
    pub fn longest(&self) -> usize {
        self.table.cols().div_ceil(2)
    }

    /// The biases of keys `0..tokens` for a query.
    pub(crate) fn of_keys(&self, head: usize, query: usize, tokens: usize) -> &[f32] {
        &self.table.row(head)[self.longest() - 1 - query..][..tokens]
    }
}

/// The context of every token.
///
/// # Shapes
/// - `query_key_value`: `[tokens, 3 * hidden]`, the three side by side; `bias`, which is added to it: `[3 * hidden]`
/// - returns `[tokens, hidden]`
///
/// # Errors
/// [`KernelError`] if the shapes do not fit, `heads` does not divide `hidden`, or a sequence is longer than the
/// distance bias knows.
pub fn forward(
    query_key_value: &Tensor,
    bias: &[f32],
    sequences: &Sequences,
    heads: usize,
    distance_bias: Option<&DistanceBias>,
) -> Result<Tensor, KernelError> {
    const OPERATION: &str = "encoder_attention::forward";
    let [tokens, wide] = query_key_value.shape();
    let shape = [sequences.tokens(), wide];
    check_shape(OPERATION, "query_key_value", &[tokens, wide], &shape)?;
    check_shape(OPERATION, "bias", &[bias.len()], &[wide])?;
    let refuse = |problem| {
        Err(KernelError::Value {
            operation: OPERATION,
            problem,
        })
    };
    if heads == 0 || !wide.is_multiple_of(3 * heads) {
        return refuse(format!("{heads} heads of three times {wide} / 3 features"));
    }
    if let Some(distance_bias) = distance_bias {
        let (rows, longest) = (distance_bias.table.rows(), distance_bias.longest());
        check_shape(OPERATION, "distance_bias", &[rows], &[heads])?;
        if let Some(range) = sequences.ranges().find(|range| range.len() > longest) {
            return refuse(format!(
                "a sequence of {} tokens, where the distance bias knows {longest}",
                range.len()
            ));
        }
    }
    let mut context = Tensor::stale(tokens, wide / 3);
    cpu::encoder_attention::forward(
        query_key_value,
        bias,
        sequences,
        heads,
        distance_bias,
        &mut context,
    );
    Ok(context)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;
    use crate::reference::testing::{max_error, noise};

    #[test]
    fn encoder_attention_matches_reference() {
        let lengths: [&[usize]; 4] = [&[1], &[7, 1, 8, 16], &[17, 3], &[70, 33, 130]];
        for (heads, size) in [(1, 1), (2, 12), (3, 16), (12, 32), (2, 40)] {
            for lengths in lengths {
                let sequences = Sequences::from_lengths(lengths).unwrap();
                let wide = 3 * heads * size;
                let mut qkv = noise(sequences.tokens(), wide, 1);
                // Scores that differ: a softmax of nearly equal ones hides a wrong key.
                qkv.data_mut().iter_mut().for_each(|value| *value *= 3.0);
                let bias = noise(1, wide, 2).into_vec();
                let distance_bias = DistanceBias::new(noise(heads, 2 * 130 - 1, 3)).unwrap();
                for distance_bias in [None, Some(&distance_bias)] {
                    let run =
                        |forward: Forward| forward(&qkv, &bias, &sequences, heads, distance_bias);
                    let context = run(forward).unwrap();
                    let expected =
                        run(|q, b, s, h, d| Ok(reference::encoder_attention(q, b, s, h, d)));
                    let error = max_error(&context, &expected.unwrap());
                    assert!(error < 1e-5, "{heads} x {size}, {lengths:?}: {error}");
                }
            }
        }
    }

    type Forward = fn(
        &Tensor,
        &[f32],
        &Sequences,
        usize,
        Option<&DistanceBias>,
    ) -> Result<Tensor, KernelError>;

    #[test]
    fn a_sequence_does_not_see_its_neighbours() {
        let wide = 3 * 2 * 12;
        let all = noise(40, wide, 1);
        let bias = noise(1, wide, 2).into_vec();
        let together = Sequences::from_lengths(&[5, 20, 15]).unwrap();
        let together = forward(&all, &bias, &together, 2, None).unwrap();
        let second = all.gather_rows(&(5..25).collect::<Vec<_>>()).unwrap();
        let alone = Sequences::from_lengths(&[20]).unwrap();
        let alone = forward(&second, &bias, &alone, 2, None).unwrap();
        for token in 0..20 {
            assert_eq!(alone.row(token), together.row(5 + token), "to the byte");
        }
    }

    #[test]
    fn scores_of_any_size_give_weights() {
        let sequences = Sequences::from_lengths(&[20]).unwrap();
        let mut qkv = noise(20, 3 * 32, 1);
        qkv.data_mut().iter_mut().for_each(|value| *value *= 300.0);
        let context = forward(&qkv, &[0.0; 3 * 32], &sequences, 1, None).unwrap();
        assert!(context.data().iter().all(|value| value.abs() <= 300.1));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let sequences = Sequences::from_lengths(&[3]).unwrap();
        let qkv = noise(3, 12, 1);
        let run = |bias: &[f32], heads, distance_bias| {
            let context = forward(&qkv, bias, &sequences, heads, distance_bias);
            context.unwrap_err().to_string()
        };
        assert!(run(&[0.0; 11], 2, None).contains("`bias` is [11]"));
        assert!(run(&[0.0; 12], 3, None).contains("3 heads"));
        assert!(run(&[0.0; 12], 0, None).contains("0 heads"));
        let short = DistanceBias::new(noise(2, 3, 1)).unwrap();
        assert!(
            run(&[0.0; 12], 2, Some(&short)).contains("3 tokens, where the distance bias knows 2")
        );
        assert!(DistanceBias::new(noise(2, 4, 1)).is_err());
    }
}
