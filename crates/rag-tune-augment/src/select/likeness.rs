//! The distinct skeletons of the train rows' answers, and how like others they are.

use std::collections::HashMap;

/// Distinct skeletons, numbered as they came, and the rows that have each.
///
/// Likeness is the Jaccard index of the multisets of tokens and of pairs of adjacent tokens,
/// `sum of min / sum of max` of their counts: tokens say what an answer is built from, pairs in which
/// order. It is 1 for equal skeletons, and 0 for those that share no token.
#[derive(Debug, Default)]
pub(super) struct Skeletons {
    numbers: HashMap<String, usize>,
    /// Rows of each skeleton, ascending.
    rows: Vec<Vec<u32>>,
    /// Tokens and pairs in each skeleton.
    sizes: Vec<u32>,
    /// The skeletons that have a token or pair, with how often.
    having: HashMap<String, Vec<(u32, u32)>>,
    /// The skeleton of each row.
    of_row: Vec<u32>,
}

impl Skeletons {
    /// Takes the next row's skeleton.
    pub(super) fn push(&mut self, skeleton: String) {
        let new = self.numbers.len();
        let row = self.of_row.len() as u32;
        if let Some(&number) = self.numbers.get(&skeleton) {
            self.rows[number].push(row);
            self.of_row.push(number as u32);
            return;
        }
        let parts = parts(&skeleton);
        self.sizes.push(parts.values().sum());
        for (part, count) in parts {
            self.having
                .entry(part)
                .or_default()
                .push((new as u32, count));
        }
        self.rows.push(vec![row]);
        self.of_row.push(new as u32);
        self.numbers.insert(skeleton, new);
    }

    /// Rows that have skeleton `number`.
    pub(super) fn rows(&self, number: usize) -> &[u32] {
        &self.rows[number]
    }

    /// The number of a row's skeleton.
    pub(super) fn of_row(&self, row: usize) -> usize {
        self.of_row[row] as usize
    }

    /// How like `skeleton` each of the distinct ones is.
    pub(super) fn likeness(&self, skeleton: &str) -> Vec<f32> {
        let parts = parts(skeleton);
        let size: u32 = parts.values().sum();
        let mut common = vec![0u32; self.sizes.len()];
        for (part, count) in &parts {
            for (number, other) in self.having.get(part).into_iter().flatten() {
                common[*number as usize] += count.min(other);
            }
        }
        let jaccard = |(common, other): (u32, &u32)| match size + other - common {
            0 => 1.0,
            all => common as f32 / all as f32,
        };
        common.into_iter().zip(&self.sizes).map(jaccard).collect()
    }
}

/// How often each token, and each pair of tokens that follow each other, is in a skeleton.
fn parts(skeleton: &str) -> HashMap<String, u32> {
    let tokens: Vec<&str> = skeleton
        .split(' ')
        .filter(|part| !part.is_empty())
        .collect();
    let mut parts = HashMap::new();
    let pairs = tokens.windows(2).map(|pair| pair.join(" "));
    for part in tokens.iter().map(|token| (*token).to_owned()).chain(pairs) {
        *parts.entry(part).or_insert(0) += 1;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn likeness(a: &str, b: &str) -> f32 {
        let mut skeletons = Skeletons::default();
        skeletons.push(a.to_owned());
        skeletons.likeness(b)[0]
    }

    #[test]
    fn rows_of_one_skeleton_share_a_number() {
        let mut skeletons = Skeletons::default();
        for skeleton in ["a b", "c", "a b", ""] {
            skeletons.push(skeleton.to_owned());
        }
        assert_eq!(skeletons.rows(0), [0, 2]);
        assert_eq!((skeletons.of_row(2), skeletons.of_row(3)), (0, 2));
        // `a b` has the parts a, b and `a b`.
        assert_eq!(skeletons.likeness("a"), [1.0 / 3.0, 0.0, 0.0]);
        assert_eq!(skeletons.likeness(""), [0.0, 0.0, 1.0]);
    }

    #[test]
    fn tokens_their_number_and_their_order_count() {
        assert_eq!(likeness("a b c", "c b a"), 3.0 / 7.0);
        assert_eq!(likeness("+ +", "+"), 1.0 / 3.0);
    }

    proptest! {
        #[test]
        fn likeness_is_symmetric_and_1_for_equals(a in "[a-c]( [a-c]){0,5}", b in "[a-c]( [a-c]){0,5}") {
            prop_assert_eq!(likeness(&a, &b), likeness(&b, &a));
            prop_assert_eq!(likeness(&a, &a), 1.0);
            prop_assert!((0.0..=1.0).contains(&likeness(&a, &b)));
        }
    }
}
