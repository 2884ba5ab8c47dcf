//! Examples drawn by the seed.

use rayon::prelude::*;

use super::{Eligibility, Example};
use crate::fingerprint::sha256_of_text;

/// `n` eligible train rows for each query, drawn uniformly; fewer where fewer are eligible.
///
/// A draw rests on the seed, the split's name and the two row indices alone, so it does not change
/// with the number of threads or with the rows that are asked for beside it.
pub fn random(seed: u64, split: &str, eligibility: &Eligibility, n: usize) -> Vec<Vec<Example>> {
    let digest = sha256_of_text(split);
    let of_split = u64::from_le_bytes(digest[..8].try_into().expect("8 bytes of 32"));
    let of_split = mix(seed ^ of_split);
    let draw = |query: usize| {
        let of_query = mix(of_split.wrapping_add(query as u64));
        let allowed = (0..eligibility.rows()).filter(|&row| eligibility.allows(query, row));
        // The rows with the smallest keys of a random order are a uniform draw.
        let mut keyed: Vec<(u64, usize)> = allowed
            .map(|row| (mix(of_query.wrapping_add(row as u64)), row))
            .collect();
        if n < keyed.len() {
            keyed.select_nth_unstable(n);
            keyed.truncate(n);
        }
        keyed.sort_unstable();
        keyed
            .into_iter()
            .map(|(_, row)| Example { row, score: 0.0 })
            .collect()
    };
    (0..eligibility.queries())
        .into_par_iter()
        .map(draw)
        .collect()
}

/// One step of SplitMix64 (Steele et al. 2014, doi:10.1145/2660193.2660195).
fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Row;
    use crate::select::Origin;
    use serde_json::json;

    fn eligibility(rows: usize, queries: usize) -> Eligibility {
        let split = |name: &str, length: usize| -> Vec<Row> {
            let row = |index: usize| {
                let fields = json!({"question": format!("{name}{index}")});
                Row {
                    index,
                    fields: fields.as_object().unwrap().clone(),
                }
            };
            (0..length).map(row).collect()
        };
        let (train, other) = (split("t", rows), split("o", queries));
        Eligibility::new("question", &[], &train, &other, Origin::OtherSplit)
    }

    #[test]
    fn a_draw_follows_seed_and_split_and_not_the_number_of_queries() {
        let few = random(1, "validation", &eligibility(50, 3), 4);
        let many = random(1, "validation", &eligibility(50, 30), 4);
        assert_eq!(few[..], many[..3]);
        assert_ne!(few, random(2, "validation", &eligibility(50, 3), 4));
        assert_ne!(few, random(1, "test", &eligibility(50, 3), 4));
    }

    #[test]
    fn fewer_examples_are_the_first_of_more() {
        let eligible = eligibility(50, 3);
        let (one, five) = (
            random(7, "train", &eligible, 1),
            random(7, "train", &eligible, 5),
        );
        for (one, five) in one.iter().zip(&five) {
            assert_eq!(one[..], five[..1]);
        }
    }

    /// Each of 10 rows is drawn first in about a tenth of 10,000 cases (six standard deviations
    /// are 180).
    #[test]
    fn a_draw_is_uniform() {
        let mut drawn = [0usize; 10];
        for examples in random(3, "train", &eligibility(10, 10_000), 1) {
            drawn[examples[0].row] += 1;
        }
        assert!(
            drawn.iter().all(|&count| count.abs_diff(1000) < 180),
            "{drawn:?}"
        );
    }
}
