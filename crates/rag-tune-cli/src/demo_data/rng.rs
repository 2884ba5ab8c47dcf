//! A seeded stream of random numbers, the same on every machine and in every version.
//!
//! `SplitMix64` (Steele, Lea and Flood 2014): a counter stepped by the golden ratio and mixed.
//! The data set must be the same bytes for a seed for ever, which no general crate promises.

/// A stream of pseudo-random numbers.
#[derive(Debug, Clone)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// The stream that belongs to `name` under `seed`.
    ///
    /// Each database has its own, so that adding a domain leaves all others as they were.
    pub fn named(seed: u64, name: &str) -> Self {
        // FNV-1a over the name, starting at the seed's own first number.
        let start = Self { state: seed }.next_u64();
        let state = name.bytes().fold(start, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self { state }
    }

    fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        // The high half of a 128-bit product: unbiased enough for bounds below 2^32.
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high + 1 - low)
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of `items`, each as likely; none of an empty slice.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len()))
    }

    /// `count` different ones of `items`, in random order; fewer where there are fewer.
    pub fn sample<T: Clone>(&mut self, items: &[T], count: usize) -> Vec<T> {
        let mut chosen = items.to_vec();
        self.shuffle(&mut chosen);
        chosen.truncate(count);
        chosen
    }

    /// Puts `items` in random order (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// An index below `count` where each is rarer than the one before it.
    pub fn skewed(&mut self, count: usize) -> usize {
        self.below(count).min(self.below(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_for_a_seed_and_differ_between_names() {
        let draw = |seed, name: &str| {
            let mut rng = Rng::named(seed, name);
            (0..8).map(|_| rng.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7, "zoo"), draw(7, "zoo"));
        assert_ne!(draw(7, "zoo"), draw(8, "zoo"));
        assert_ne!(draw(7, "zoo"), draw(7, "farm"));
    }

    #[test]
    fn below_reaches_every_number_and_never_the_bound() {
        let mut rng = Rng::named(1, "bounds");
        let mut seen = [0_usize; 6];
        for _ in 0..600 {
            seen[rng.below(6)] += 1;
        }
        assert!(seen.iter().all(|&count| count > 60), "{seen:?}");
    }

    #[test]
    fn sample_holds_no_item_twice() {
        let mut chosen = Rng::named(3, "sample").sample(&[1, 2, 3, 4, 5], 4);
        chosen.sort_unstable();
        chosen.dedup();
        assert_eq!(chosen.len(), 4);
    }
}
