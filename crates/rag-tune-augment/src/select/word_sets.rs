//! The sets of words of many texts, and how much of them two texts share.

use crate::fingerprint::hash_of_text;

/// Sets of words, as hashes of 32 bits: 4 bytes a distinct word and 8 a text.
///
/// A word is a run of letters and digits, in lower case. Two words of one hash count as one: among the
/// words of two texts (some tens) that happens about once in five million pairs.
#[derive(Debug, Default)]
pub(crate) struct WordSets {
    /// Where each set ends in `words`.
    ends: Vec<usize>,
    /// Ascending within a set.
    words: Vec<u32>,
}

impl WordSets {
    /// Appends the set of `text`.
    pub(crate) fn push(&mut self, text: &str) {
        let start = self.words.len();
        let lower_case = text.to_lowercase();
        let words = lower_case
            .split(|c: char| !c.is_alphanumeric())
            .filter(|word| !word.is_empty());
        self.words
            .extend(words.map(|word| hash_of_text(word) as u32));
        self.words[start..].sort_unstable();
        // `dedup` would look at the earlier sets too.
        let mut kept = start;
        for at in start..self.words.len() {
            if at == start || self.words[at] != self.words[kept - 1] {
                self.words[kept] = self.words[at];
                kept += 1;
            }
        }
        self.words.truncate(kept);
        self.ends.push(kept);
    }

    /// Number of sets.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// All sets, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u32]> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// The set at `index`.
    pub(crate) fn get(&self, index: usize) -> &[u32] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.words[start..self.ends[index]]
    }
}

/// The Jaccard index of two ascending sets, `|a and b| / |a or b|`; two empty sets share nothing.
pub(crate) fn jaccard(a: &[u32], b: &[u32]) -> f32 {
    let common = common(a, b);
    ratio(common, (a.len() + b.len() - common).max(1))
}

/// Whether the Jaccard index of two ascending sets, `|a and b| / |a or b|`, is at least `threshold`.
/// Two empty sets share nothing.
pub(super) fn share_at_least(a: &[u32], b: &[u32], threshold: f32) -> bool {
    let (small, large) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    // The index is at most the ratio of the sizes; rounding to f32 keeps that order.
    if small.is_empty() || ratio(small.len(), large.len()) < threshold {
        return false;
    }
    jaccard(small, large) >= threshold
}

/// In f32 as the threshold is: 4 of 5 words are then exactly the 0.8 of a config.
fn ratio(part: usize, whole: usize) -> f32 {
    part as f32 / whole as f32
}

fn common(a: &[u32], b: &[u32]) -> usize {
    let (mut in_a, mut in_b, mut common) = (0, 0, 0);
    while in_a < a.len() && in_b < b.len() {
        let (left, right) = (a[in_a], b[in_b]);
        common += usize::from(left == right);
        in_a += usize::from(left <= right);
        in_b += usize::from(right <= left);
    }
    common
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// As the definition has it.
    fn plain_jaccard(a: &str, b: &str) -> Option<f32> {
        let set = |text: &str| -> BTreeSet<String> {
            let words = text.split(|c: char| !c.is_alphanumeric());
            let words = words.filter(|word| !word.is_empty());
            words.map(str::to_lowercase).collect()
        };
        let (a, b) = (set(a), set(b));
        let union = a.union(&b).count();
        (union > 0).then(|| a.intersection(&b).count() as f32 / union as f32)
    }

    fn share(a: &str, b: &str, threshold: f32) -> bool {
        let mut sets = WordSets::default();
        sets.push(a);
        sets.push(b);
        share_at_least(sets.get(0), sets.get(1), threshold)
    }

    #[test]
    fn case_order_repetition_and_punctuation_do_not_count() {
        assert!(share(
            "How many HEADS, are older than 56 ?",
            "how many heads (heads!) older-than are 56",
            1.0
        ));
        assert!(!share("?", "!", 0.01));
        // 4 of 5 words, and 0.8 as f32 is a little more than 0.8.
        assert!(share("a b c d", "a b c d e", 0.8));
        assert!(!share("a b c d", "a b c d e", 0.81));
    }

    proptest! {
        #[test]
        fn equals_the_plain_jaccard_index(
            a in "[a-dA-D ,é]{0,30}", b in "[a-dA-D .É]{0,30}", threshold in 0.01f32..=1.0,
        ) {
            let expected = plain_jaccard(&a, &b).is_some_and(|jaccard| jaccard >= threshold);
            prop_assert_eq!(share(&a, &b, threshold), expected);
            // At the index itself it is reached.
            if let Some(jaccard) = plain_jaccard(&a, &b).filter(|jaccard| *jaccard > 0.0) {
                prop_assert!(share(&a, &b, jaccard));
            }
        }
    }
}
