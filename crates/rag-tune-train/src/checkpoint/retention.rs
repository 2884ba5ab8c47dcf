//! Which checkpoints stay.

use std::collections::BTreeSet;

/// The steps whose checkpoints go once that of `newest` is on the disk.
///
/// The last `keep` up to `newest` stay, and those in `protected`, however old. Later ones go: they
/// are what a resumed run refused or another run left, and would be taken for the newest.
pub(super) fn superseded(
    steps: &[usize],
    newest: usize,
    keep: usize,
    protected: &BTreeSet<usize>,
) -> Vec<usize> {
    let mut current: Vec<usize> = steps
        .iter()
        .copied()
        .filter(|step| *step <= newest)
        .collect();
    current.sort_unstable();
    let first_kept = current.len().saturating_sub(keep.max(1));
    let last: BTreeSet<usize> = current.split_off(first_kept).into_iter().collect();
    let stays = |step: &usize| *step <= newest && (last.contains(step) || protected.contains(step));
    steps.iter().copied().filter(|step| !stays(step)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_last_and_the_protected_stay() {
        let protected = BTreeSet::from([10]);
        let gone = superseded(&[10, 20, 30, 40], 40, 2, &protected);
        assert_eq!(gone, [20]);
    }

    #[test]
    fn what_lies_ahead_of_the_newest_goes() {
        assert_eq!(
            superseded(&[10, 15, 20, 30], 15, 2, &BTreeSet::new()),
            [20, 30]
        );
    }

    proptest! {
        #[test]
        fn the_newest_always_stays_and_no_more_than_asked_for(
            steps in prop::collection::btree_set(1_usize..60, 1..12),
            keep in 0_usize..5,
            protected in prop::collection::btree_set(1_usize..60, 0..3),
        ) {
            let newest = *steps.last().unwrap();
            let all: Vec<usize> = steps.into_iter().collect();
            let gone = superseded(&all, newest, keep, &protected);
            prop_assert!(!gone.contains(&newest));
            prop_assert!(gone.iter().all(|step| !protected.contains(step)));
            prop_assert!(all.len() - gone.len() <= keep.max(1) + protected.len());
            prop_assert!(all.len() - gone.len() >= keep.max(1).min(all.len()));
        }
    }
}
