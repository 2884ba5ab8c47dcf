//! Whether two results say the same: equal multisets of rows, whatever the order of the columns.
//!
//! This is the denotation equality of test-suite-sql-eval (Zhong et al. 2020, arXiv:2010.02840):
//! some permutation of the prediction's columns must turn its rows into gold's. Its search samples
//! rows to prune permutations; here each column is added to a prefix only where the multiset of
//! row prefixes stays equal, which is exact and gives up wrong permutations at once.

use std::collections::HashMap;

use super::table::{Cell, Table};

/// Whether the order of rows is part of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    /// The outermost query has an `ORDER BY`.
    Matters,
    /// Rows are a multiset.
    Free,
}

/// Row visits that one comparison may make, about a second: many thousand times what real tables take.
/// A comparison that would need more counts as unequal.
const SEARCH_BUDGET: usize = 100_000_000;

/// Whether `prediction` says the same as `gold`.
pub fn same_result(gold: &Table, prediction: &Table, order: RowOrder) -> bool {
    if gold.rows() == 0 && prediction.rows() == 0 {
        return true; // as in the field, columns of an empty result are not compared
    }
    if gold.rows() != prediction.rows() || gold.columns() != prediction.columns() {
        return false;
    }
    let mut ids = HashMap::new();
    let mut gold = numbered_columns(gold, &mut ids);
    let mut prediction = numbered_columns(prediction, &mut ids);
    match order {
        RowOrder::Matters => {
            gold.sort_unstable();
            prediction.sort_unstable();
            gold == prediction
        }
        RowOrder::Free => ColumnSearch::new(&gold, &prediction).succeeds(),
    }
}

/// The columns of `table`, with a number in place of each distinct cell.
fn numbered_columns<'a>(table: &'a Table, ids: &mut HashMap<&'a Cell, u32>) -> Vec<Vec<u32>> {
    let mut number = |cell: &'a Cell| {
        let next = ids.len() as u32;
        *ids.entry(cell).or_insert(next)
    };
    (0..table.columns())
        .map(|column| table.column(column).map(&mut number).collect())
        .collect()
}

/// Row prefixes of gold that are one column longer: from (class of the prefix, cell) to the class
/// of the longer prefix and the number of rows that have it.
type Extension = HashMap<(u32, u32), (u32, usize)>;

/// Search for columns of the prediction, one for each column of gold, that make the rows equal.
struct ColumnSearch<'a> {
    prediction: &'a [Vec<u32>],
    /// For each column of gold, how it splits the classes of the columns before it.
    extensions: Vec<Extension>,
    /// For each column of gold, the prediction's columns with the same multiset of values.
    candidates: Vec<Vec<usize>>,
    used: Vec<bool>,
    budget: usize,
}

impl<'a> ColumnSearch<'a> {
    fn new(gold: &[Vec<u32>], prediction: &'a [Vec<u32>]) -> Self {
        let sorted = |column: &Vec<u32>| {
            let mut values = column.clone();
            values.sort_unstable();
            values
        };
        let sorted_prediction: Vec<_> = prediction.iter().map(sorted).collect();
        let candidates = gold
            .iter()
            .map(sorted)
            .map(|values| {
                (0..prediction.len())
                    .filter(|&i| sorted_prediction[i] == values)
                    .collect()
            })
            .collect();
        Self {
            prediction,
            extensions: extensions(gold),
            candidates,
            used: vec![false; prediction.len()],
            budget: SEARCH_BUDGET,
        }
    }

    fn succeeds(mut self) -> bool {
        let classes = vec![0; self.prediction[0].len()];
        self.candidates.iter().all(|columns| !columns.is_empty()) && self.extend(0, &classes)
    }

    /// Whether the columns of gold from `depth` on can be matched, `classes` being the class of
    /// each row of the prediction by the columns matched so far.
    fn extend(&mut self, depth: usize, classes: &[u32]) -> bool {
        if depth == self.extensions.len() {
            return true;
        }
        let mut tried: Vec<usize> = Vec::new();
        for column in self.candidates[depth].clone() {
            let is_repeat = tried
                .iter()
                .any(|&t| self.prediction[t] == self.prediction[column]);
            if self.used[column] || is_repeat {
                continue;
            }
            tried.push(column);
            let Some(budget) = self.budget.checked_sub(classes.len()) else {
                return false;
            };
            self.budget = budget;
            if let Some(longer) = follow(&self.extensions[depth], classes, &self.prediction[column])
            {
                self.used[column] = true;
                if self.extend(depth + 1, &longer) {
                    return true;
                }
                self.used[column] = false;
            }
        }
        false
    }
}

/// How each column of `gold` splits the classes that the columns before it make.
fn extensions(gold: &[Vec<u32>]) -> Vec<Extension> {
    let mut classes = vec![0; gold[0].len()];
    let mut extensions = Vec::with_capacity(gold.len());
    for column in gold {
        let mut extension = Extension::new();
        for (class, &value) in classes.iter_mut().zip(column) {
            let next = extension.len() as u32;
            let (longer, count) = extension.entry((*class, value)).or_insert((next, 0));
            *count += 1;
            *class = *longer;
        }
        extensions.push(extension);
    }
    extensions
}

/// Classes of the prediction's rows with one more column, if gold has the same multiset of them.
fn follow(extension: &Extension, classes: &[u32], column: &[u32]) -> Option<Vec<u32>> {
    let mut left: Vec<usize> = vec![0; extension.len()];
    for &(class, count) in extension.values() {
        left[class as usize] = count;
    }
    classes
        .iter()
        .zip(column)
        .map(|(&class, &value)| {
            let &(longer, _) = extension.get(&(class, value))?;
            let count = &mut left[longer as usize];
            *count = count.checked_sub(1)?;
            Some(longer)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(rows: &[Vec<i64>]) -> Table {
        let mut table = Table::of_columns(rows.first().map_or(1, Vec::len));
        rows.iter()
            .flatten()
            .for_each(|&value| table.push(Cell::Integer(value)));
        table
    }

    fn same(gold: &[Vec<i64>], prediction: &[Vec<i64>], order: RowOrder) -> bool {
        same_result(&table(gold), &table(prediction), order)
    }

    #[test]
    fn rows_are_a_multiset_unless_order_matters() {
        let (gold, turned) = ([vec![1], vec![2], vec![2]], [vec![2], vec![1], vec![2]]);
        assert!(same(&gold, &turned, RowOrder::Free));
        assert!(!same(&gold, &turned, RowOrder::Matters));
        assert!(!same(&gold, &[vec![1], vec![1], vec![2]], RowOrder::Free));
        assert!(!same(&gold, &[vec![1], vec![2]], RowOrder::Free));
    }

    #[test]
    fn columns_may_be_in_any_order_but_move_as_a_whole() {
        let gold = [vec![1, 2], vec![3, 4]];
        for order in [RowOrder::Free, RowOrder::Matters] {
            assert!(same(&gold, &[vec![2, 1], vec![4, 3]], order));
            // Each column has the right values, but they belong to other rows.
            assert!(!same(&gold, &[vec![1, 4], vec![3, 2]], order));
            assert!(!same(&gold, &[vec![1, 2, 2], vec![3, 4, 4]], order));
        }
    }

    #[test]
    fn empty_results_are_equal_and_differ_from_all_others() {
        let wide = Table::of_columns(3);
        assert!(same_result(&wide, &Table::of_columns(1), RowOrder::Matters));
        assert!(!same_result(
            &wide,
            &table(&[vec![1, 2, 3]]),
            RowOrder::Free
        ));
    }

    /// Forty equal columns have 40! permutations, and none of them helps.
    #[test]
    fn many_alike_columns_do_not_explode() {
        let gold: Vec<Vec<i64>> = vec![vec![0; 40], vec![1; 40]];
        let mut prediction = gold.clone();
        prediction[0][39] = 1;
        prediction[1][39] = 0;
        assert!(!same(&gold, &prediction, RowOrder::Free));
        assert!(same(&gold, &gold.clone(), RowOrder::Free));
    }

    /// All permutations, compared as sorted lists.
    fn same_by_brute_force(gold: &[Vec<i64>], prediction: &[Vec<i64>]) -> bool {
        let sorted = |rows: Vec<Vec<i64>>| {
            let mut rows = rows;
            rows.sort();
            rows
        };
        let gold = sorted(gold.to_vec());
        const ORDERS: [[usize; 3]; 6] = [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ];
        ORDERS.iter().any(|order| {
            let turn = |row: &Vec<i64>| order.iter().map(|&i| row[i]).collect();
            sorted(prediction.iter().map(turn).collect()) == gold
        })
    }

    fn rows() -> impl Strategy<Value = Vec<Vec<i64>>> {
        prop::collection::vec(prop::collection::vec(0..2_i64, 3), 3)
    }

    proptest! {
        // Two values in three by three cells: equal tables are common enough to matter.
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn search_agrees_with_all_permutations(gold in rows(), prediction in rows()) {
            let expected = same_by_brute_force(&gold, &prediction);
            prop_assert_eq!(same(&gold, &prediction, RowOrder::Free), expected);
        }
    }
}
