//! Which rank does which micro-batches of a step.
//!
//! What a step holds never depends on the number of ranks; only who does it does. So a run on other
//! hardware learns from the same rows in the same steps, and its gradient is the same sum.

/// The positions, within a step of `micro_batches`, that `rank` of `ranks` does: dealt in turn, so
/// that no rank has two more than another.
///
/// # Panics
/// If `rank` is not below `ranks`.
pub fn share(micro_batches: usize, rank: usize, ranks: usize) -> impl Iterator<Item = usize> {
    assert!(rank < ranks, "rank {rank} of {ranks}");
    (rank..micro_batches).step_by(ranks)
}

/// The rank, of `ranks`, that does the micro-batch at a position; the other side of [`share`].
pub fn owner(position: usize, ranks: usize) -> usize {
    position % ranks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_ranks_together_do_every_micro_batch_once_in_its_order(
            micro_batches in 0_usize..40,
            ranks in 1_usize..9,
        ) {
            let shares: Vec<Vec<usize>> =
                (0..ranks).map(|rank| share(micro_batches, rank, ranks).collect()).collect();
            for (rank, share) in shares.iter().enumerate() {
                prop_assert!(share.is_sorted());
                prop_assert!(share.iter().all(|position| owner(*position, ranks) == rank));
            }
            let sizes = shares.iter().map(Vec::len);
            prop_assert!(sizes.clone().max().unwrap() - sizes.min().unwrap() <= 1);
            let mut all = shares.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..micro_batches).collect::<Vec<_>>());
        }
    }
}
