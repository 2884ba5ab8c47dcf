//! Rows into micro-batches of at most `budget` tokens.
//!
//! No row is split and nothing is padded, so what counts is how few micro-batches it takes. Finding
//! the fewest is NP-hard; what is here takes `O(n log n)` and comes within a few of every hundred.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

/// Rows that share a micro-batch, as indices into the lengths.
pub(super) type Bin = Vec<usize>;

/// Tokens left at the end of an epoch, in micro-batches, where too few rows are left to choose from.
const TAIL: usize = 4;
/// Rows that are tried as the last but one of a micro-batch.
const TRIED: usize = 32;

/// The rows of one step: as few micro-batches as [`best_fit_decreasing`] needs, with as equal token
/// counts as can be had for that many.
pub(super) fn pack_step(rows: &[usize], lengths: &[usize], budget: usize) -> Vec<Bin> {
    let fewest = best_fit_decreasing(rows, lengths, budget);
    balanced(rows, lengths, budget, fewest.len()).unwrap_or(fewest)
}

/// The longest row first, each into the fullest micro-batch with room: at most 11/9 of the fewest
/// micro-batches possible, and one more (Johnson 1973, for first fit and best fit alike).
fn best_fit_decreasing(rows: &[usize], lengths: &[usize], budget: usize) -> Vec<Bin> {
    let mut bins: Vec<Bin> = Vec::new();
    // Tokens of room to the bins that have so much.
    let mut with_room: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for row in longest_first(rows, lengths) {
        let length = lengths[row];
        let (room, bin) = match with_room.range(length..).next() {
            Some((&room, of_room)) => {
                let bin = of_room[of_room.len() - 1];
                pop(&mut with_room, room);
                (room, bin)
            }
            None => {
                bins.push(Bin::new());
                (budget, bins.len() - 1)
            }
        };
        bins[bin].push(row);
        with_room.entry(room - length).or_default().push(bin);
    }
    bins
}

fn pop(with_room: &mut BTreeMap<usize, Vec<usize>>, room: usize) {
    if let Some(of_room) = with_room.get_mut(&room) {
        of_room.pop();
        if of_room.is_empty() {
            with_room.remove(&room);
        }
    }
}

/// The longest row first, each into the emptiest of `count` micro-batches (Graham's rule for equal
/// loads); `None` if a row has no room there.
fn balanced(rows: &[usize], lengths: &[usize], budget: usize, count: usize) -> Option<Vec<Bin>> {
    let mut bins = vec![Bin::new(); count];
    let mut emptiest: BinaryHeap<_> = (0..count).map(|bin| Reverse((0, bin))).collect();
    for row in longest_first(rows, lengths) {
        let Reverse((used, bin)) = emptiest.pop()?;
        let used = used + lengths[row];
        if used > budget {
            return None;
        }
        bins[bin].push(row);
        emptiest.push(Reverse((used, bin)));
    }
    Some(bins)
}

fn longest_first(rows: &[usize], lengths: &[usize]) -> Vec<usize> {
    let mut sorted = rows.to_vec();
    sorted.sort_unstable_by_key(|row| (Reverse(lengths[*row]), *row));
    sorted
}

/// A whole epoch, whose rows come in the random `order`.
///
/// Each micro-batch takes rows as they come until there is room for one or two more. Those are chosen
/// by length, from all rows that are left, so that they fill it: some of the next rows are tried, each
/// with the longest row that then still fits. So a micro-batch is a random mixture of lengths, not of
/// rows of like length. The last few, which cannot choose any more, are packed longest row first.
pub(super) fn pack_epoch(order: &[usize], lengths: &[usize], budget: usize) -> Vec<Bin> {
    let total: usize = order.iter().map(|row| lengths[*row]).sum();
    let mean = total / order.len().max(1);
    let mut pool = Pool::new(order, lengths, budget);
    let mut bins = Vec::new();
    while pool.tokens > TAIL * budget {
        let mut bin = Bin::new();
        let mut room = budget;
        // On average, one and a half rows of room leave one row to choose after one that comes anyway.
        while let Some(length) = pool.next_length()
            && room >= length + mean * 3 / 2
        {
            bin.push(pool.take(length));
            room -= length;
        }
        if let Some((first, second)) = pool.filling_pair(room) {
            bin.extend([pool.take(first), pool.take(second)]);
            room -= first + second;
        }
        while let Some(length) = pool.longest_within(room) {
            bin.push(pool.take(length));
            room -= length;
        }
        bins.push(bin);
    }
    let rest: Vec<usize> = pool.rest().collect();
    bins.extend(best_fit_decreasing(&rest, lengths, budget));
    bins
}

/// Rows that are in no micro-batch yet.
struct Pool<'a> {
    order: &'a [usize],
    lengths: &'a [usize],
    /// By length; among equals in `order`.
    waiting: Vec<VecDeque<usize>>,
    /// A bit a length: whether a row waits that has it.
    occupied: Vec<u64>,
    taken: Vec<bool>,
    /// All rows of `order` before it are taken.
    next: usize,
    tokens: usize,
}

impl<'a> Pool<'a> {
    fn new(order: &'a [usize], lengths: &'a [usize], longest: usize) -> Self {
        let mut pool = Self {
            order,
            lengths,
            waiting: vec![VecDeque::new(); longest + 1],
            occupied: vec![0; longest / 64 + 1],
            taken: vec![false; lengths.len()],
            next: 0,
            tokens: 0,
        };
        for row in order {
            let length = lengths[*row];
            pool.waiting[length].push_back(*row);
            pool.occupied[length / 64] |= 1 << (length % 64);
            pool.tokens += length;
        }
        pool
    }

    /// The rows that are left, in their order.
    fn rest(&self) -> impl Iterator<Item = usize> + use<'_> {
        let left = self.order[self.next..].iter().copied();
        left.filter(|row| !self.taken[*row])
    }

    /// The lengths of the rows that are left, in their order.
    fn upcoming(&self) -> impl Iterator<Item = usize> + use<'_> {
        self.rest().map(|row| self.lengths[row])
    }

    /// The length of the row whose turn it is.
    fn next_length(&self) -> Option<usize> {
        self.upcoming().next()
    }

    /// The first row of a length that has one.
    fn take(&mut self, length: usize) -> usize {
        let row = self.waiting[length].pop_front();
        let row = row.expect("a row of that length waits");
        if self.waiting[length].is_empty() {
            self.occupied[length / 64] &= !(1 << (length % 64));
        }
        self.taken[row] = true;
        self.tokens -= length;
        while self.next < self.order.len() && self.taken[self.order[self.next]] {
            self.next += 1;
        }
        row
    }

    /// The greatest length, up to `room`, that a waiting row has.
    fn longest_within(&self, room: usize) -> Option<usize> {
        let room = room.min(self.waiting.len() - 1);
        let below = u64::MAX >> (63 - room % 64);
        let mut bits = self.occupied[room / 64] & below;
        let mut word = room / 64;
        while bits == 0 {
            word = word.checked_sub(1)?;
            bits = self.occupied[word];
        }
        Some(64 * word + 63 - bits.leading_zeros() as usize)
    }

    /// Two lengths that fill `room` best: that of one of the next rows, and the greatest that then fits.
    fn filling_pair(&self, room: usize) -> Option<(usize, usize)> {
        let second = |first: usize| {
            let fits = self.longest_within(room.checked_sub(first)?)?;
            // A row cannot stand beside itself.
            if fits == first && self.waiting[first].len() == 1 {
                return self.longest_within(first.checked_sub(1)?);
            }
            Some(fits)
        };
        let pairs = self.upcoming().take(TRIED);
        let pairs = pairs.filter_map(|first| Some((first, second(first)?)));
        // Among equals the row that comes first.
        pairs.min_by_key(|(first, second)| room - first - second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::order::shuffled;
    use proptest::prelude::*;

    fn used(bin: &Bin, lengths: &[usize]) -> usize {
        bin.iter().map(|row| lengths[*row]).sum()
    }

    fn all_rows(bins: &[Bin]) -> Vec<usize> {
        let mut rows = bins.concat();
        rows.sort_unstable();
        rows
    }

    /// Lengths as of prompts: most near the mean, some far above it.
    fn prompt_lengths(count: usize) -> Vec<usize> {
        let uniform = |row: usize| (row as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let length = |row: usize| {
            let (u, v) = (uniform(2 * row) % 300, uniform(2 * row + 1) % 1000);
            60 + u as usize + if v < 50 { v as usize * 12 } else { 0 }
        };
        (0..count).map(length).collect()
    }

    #[test]
    fn micro_batches_of_a_step_are_equally_full() {
        let lengths = [6, 6, 5, 5, 4, 4];
        let rows: Vec<usize> = (0..lengths.len()).collect();
        let bins = pack_step(&rows, &lengths, 20);
        let mut sizes: Vec<usize> = bins.iter().map(|bin| used(bin, &lengths)).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [15, 15], "not 20 and 10");
    }

    /// 10 + 6 + 4 fits into 20 twice, which equal loads would not find.
    #[test]
    fn balance_never_costs_a_micro_batch() {
        let lengths = [9, 7, 6, 5, 5, 4, 4];
        let rows: Vec<usize> = (0..lengths.len()).collect();
        assert_eq!(balanced(&rows, &lengths, 20, 2), None);
        assert_eq!(pack_step(&rows, &lengths, 20).len(), 2);
    }

    #[test]
    fn an_epoch_of_prompts_is_packed_full() {
        let lengths = prompt_lengths(4000);
        let total: usize = lengths.iter().sum();
        for (budget, epoch) in [(2048, 0), (2048, 1), (4096, 0)] {
            let bins = pack_epoch(&shuffled(4000, 7, epoch), &lengths, budget);
            let full = total as f64 / (bins.len() * budget) as f64;
            assert!(full > 0.985, "{budget} tokens, epoch {epoch}: {full}");
        }
    }

    /// What grows faster than about `n log n` would take minutes.
    #[test]
    fn a_million_rows_are_packed_in_seconds() {
        let lengths = prompt_lengths(1_000_000);
        let order = shuffled(lengths.len(), 7, 0);
        let start = std::time::Instant::now();
        let bins = [
            pack_epoch(&order, &lengths, 4096),
            pack_step(&order, &lengths, 4096),
        ];
        let seconds = start.elapsed().as_secs_f64();
        assert!(bins.iter().all(|bins| bins.len() > 1000));
        assert!(seconds < 30.0, "{seconds} s");
    }

    /// A micro-batch's rows are like the epoch's: bucketing by length would spread their means as
    /// widely as the rows, random mixtures spread them by the square root of their size less.
    #[test]
    fn micro_batches_are_random_mixtures_of_lengths() {
        let lengths = prompt_lengths(4000);
        let bins = pack_epoch(&shuffled(4000, 7, 0), &lengths, 4096);
        let spread = |values: &[f64]| {
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let squares = values.iter().map(|value| (value - mean).powi(2));
            (squares.sum::<f64>() / values.len() as f64).sqrt()
        };
        let of_rows = spread(&lengths.iter().map(|l| *l as f64).collect::<Vec<_>>());
        let means = |bin: &Bin| used(bin, &lengths) as f64 / bin.len() as f64;
        let of_means = spread(&bins.iter().map(means).collect::<Vec<_>>());
        let rows_a_bin = lengths.len() as f64 / bins.len() as f64;
        assert!(
            of_means < 1.5 * of_rows / rows_a_bin.sqrt(),
            "{of_means} of {of_rows}, {rows_a_bin} rows"
        );
    }

    proptest! {
        #[test]
        fn every_row_is_packed_once_within_the_budget(
            lengths in prop::collection::vec(1_usize..=64, 0..300),
            budget in 64_usize..300,
            seed in any::<u64>(),
        ) {
            let order = shuffled(lengths.len(), seed, 0);
            for bins in [pack_epoch(&order, &lengths, budget), pack_step(&order, &lengths, budget)] {
                prop_assert!(bins.iter().all(|bin| !bin.is_empty() && used(bin, &lengths) <= budget));
                prop_assert_eq!(all_rows(&bins), (0..lengths.len()).collect::<Vec<_>>());
            }
        }

        #[test]
        fn no_two_micro_batches_of_a_step_fit_into_one(
            lengths in prop::collection::vec(1_usize..=64, 1..100),
        ) {
            let rows: Vec<usize> = (0..lengths.len()).collect();
            let bins = best_fit_decreasing(&rows, &lengths, 64);
            let mut sizes: Vec<usize> = bins.iter().map(|bin| used(bin, &lengths)).collect();
            sizes.sort_unstable();
            prop_assert!(sizes.len() == 1 || sizes[0] + sizes[1] > 64);
        }
    }
}
