//! Who judges which row: a worker keeps to one database while it can, because opening it and running gold queries on
//! it is the greater part of the work.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Rows that are still to be judged.
pub(super) struct Deal {
    groups: Mutex<Vec<Group>>,
}

/// Rows on the same databases.
struct Group {
    /// From the last to the first.
    rows: Vec<usize>,
    is_taken: bool,
}

impl Deal {
    /// All rows, given by their databases.
    pub fn new<'a>(databases: impl Iterator<Item = &'a [PathBuf]>) -> Self {
        let mut rows_of: BTreeMap<&[PathBuf], Vec<usize>> = BTreeMap::new();
        for (row, databases) in databases.enumerate() {
            rows_of.entry(databases).or_default().push(row);
        }
        let group = |mut rows: Vec<usize>| {
            rows.reverse();
            Group {
                rows,
                is_taken: false,
            }
        };
        Self {
            groups: Mutex::new(rows_of.into_values().map(group).collect()),
        }
    }

    /// The next row of `group`, which is what the worker had before; when that is done, of the largest group that
    /// nobody has, and in the end of the largest of all.
    pub fn next(&self, group: &mut Option<usize>) -> Option<usize> {
        let mut groups = self.groups();
        let current = group.filter(|&group| !groups[group].rows.is_empty());
        let chosen = match current {
            Some(group) => group,
            None => (0..groups.len())
                .filter(|&i| !groups[i].rows.is_empty())
                .max_by_key(|&i| (!groups[i].is_taken, groups[i].rows.len()))?,
        };
        *group = Some(chosen);
        groups[chosen].is_taken = true;
        groups[chosen].rows.pop()
    }

    /// Takes all rows away.
    pub fn end(&self) {
        self.groups()
            .iter_mut()
            .for_each(|group| group.rows.clear());
    }

    fn groups(&self) -> MutexGuard<'_, Vec<Group>> {
        // Nothing panics while the lock is held.
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn deal(databases: &[u8]) -> Deal {
        let files: Vec<[PathBuf; 1]> = databases
            .iter()
            .map(|database| [PathBuf::from(database.to_string())])
            .collect();
        Deal::new(files.iter().map(<[PathBuf; 1]>::as_slice))
    }

    #[test]
    fn a_worker_keeps_its_database_and_then_helps() {
        let deal = deal(&[1, 2, 2, 1, 2]);
        let (mut a, mut b) = (None, None);
        assert_eq!(deal.next(&mut a), Some(1)); // the larger group first
        assert_eq!(deal.next(&mut b), Some(0));
        assert_eq!(deal.next(&mut b), Some(3));
        assert_eq!(deal.next(&mut b), Some(2)); // its own is done
        assert_eq!(deal.next(&mut a), Some(4));
        assert_eq!((deal.next(&mut a), deal.next(&mut b)), (None, None));
    }

    proptest! {
        #[test]
        fn each_row_is_dealt_once(
            databases in prop::collection::vec(0..5_u8, 0..40),
            turns in prop::collection::vec(0..3_usize, 0..40),
        ) {
            let deal = deal(&databases);
            let mut hands = [None; 3];
            let mut dealt: Vec<usize> = turns.iter().filter_map(|&hand| deal.next(&mut hands[hand])).collect();
            while let Some(row) = deal.next(&mut hands[0]) {
                dealt.push(row);
            }
            dealt.sort_unstable();
            prop_assert_eq!(dealt, (0..databases.len()).collect::<Vec<_>>());
        }
    }
}
