//! Whether two queries are the same, clause by clause.

use super::normalize::normalized;
use super::query::{Column, Comparison, Condition, Connective, Direction, Query, SetOperator};
use super::schema::Schema;

/// Whether `prediction` says the same as `gold` in every clause. What is selected, WHERE's predicates and the tables are
/// compared without order; values, DISTINCT and the conditions of JOINs are not compared.
///
/// A prediction that does not [parse](super::parse) matches nothing.
pub fn exact_set_match(gold: &Query, prediction: &Query, schema: &Schema) -> bool {
    clauses_match(&normalized(gold, schema), &normalized(prediction, schema))
}

fn clauses_match(gold: &Query, prediction: &Query) -> bool {
    let both = |is_same: fn(&Query, &Query) -> bool| is_same(gold, prediction);
    both(|a, b| is_permutation(&a.select, &b.select))
        && both(|a, b| is_permutation(&a.filter.predicates, &b.filter.predicates))
        && connectives(&gold.filter) == connectives(&prediction.filter)
        && groups_match(gold, prediction)
        && both(|a, b| a.order_by == b.order_by)
        && both(|a, b| keywords(a) == keywords(b))
        && combinations_match(gold, prediction)
        // Nothing to compare with where gold breaks off after FROM.
        && (gold.sources.is_empty() || is_permutation(&gold.sources, &prediction.sources))
}

/// Whether `a` and `b` hold the same items, each as often.
fn is_permutation<T: PartialEq>(a: &[T], b: &[T]) -> bool {
    let mut left: Vec<&T> = b.iter().collect();
    a.len() == b.len()
        && a.iter().all(|item| {
            let found = left.iter().position(|other| *other == item);
            found.is_some_and(|at| {
                left.swap_remove(at);
                true
            })
        })
}

/// Whether AND and whether OR occur; not where.
fn connectives(condition: &Condition) -> [bool; 2] {
    [Connective::And, Connective::Or].map(|connective| condition.connectives.contains(&connective))
}

/// GROUP BY in order; HAVING in order, and only where there is a GROUP BY.
fn groups_match(gold: &Query, prediction: &Query) -> bool {
    let columns =
        |query: &Query| -> Vec<Column> { query.group_by.iter().map(|unit| unit.column).collect() };
    columns(gold) == columns(prediction)
        && (gold.group_by.is_empty() || gold.having == prediction.having)
}

/// Whether both end here, or go on with the same operator and matching queries.
fn combinations_match(gold: &Query, prediction: &Query) -> bool {
    match (&gold.combined, &prediction.combined) {
        (None, None) => true,
        (Some((one, gold)), Some((other, prediction))) => {
            one == other && clauses_match(gold, prediction)
        }
        _ => false,
    }
}

/// What occurs in a query, subqueries left out.
#[derive(Debug, PartialEq, Eq)]
struct Keywords {
    has_where: bool,
    has_group_by: bool,
    has_having: bool,
    order_by: Option<Direction>,
    has_limit: bool,
    combined: Option<SetOperator>,
    has_or: bool,
    has_not: bool,
    has_in: bool,
    has_like: bool,
}

/// The keywords of a query, those of JOIN's conditions too.
fn keywords(query: &Query) -> Keywords {
    let conditions = query.conditions();
    let compares = |comparison| {
        let mut predicates = conditions
            .iter()
            .flat_map(|condition| &condition.predicates);
        predicates.any(|predicate| predicate.comparison == comparison)
    };
    Keywords {
        has_where: query.filter.len() > 0,
        has_group_by: !query.group_by.is_empty(),
        has_having: query.having.len() > 0,
        order_by: query.order_by.as_ref().map(|order| order.direction),
        has_limit: query.has_limit,
        combined: query.combined.as_ref().map(|(operator, _)| *operator),
        has_or: conditions
            .iter()
            .any(|condition| condition.connectives.contains(&Connective::Or)),
        has_not: conditions
            .iter()
            .any(|condition| condition.predicates.iter().any(|p| p.negated)),
        has_in: compares(Comparison::In),
        has_like: compares(Comparison::Like),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::parse::parse;
    use super::super::schema::tests::zoo;
    use super::*;

    fn is_match(gold: &str, prediction: &str) -> bool {
        let zoo = zoo();
        let tree = |sql: &str| parse(sql, &zoo).unwrap();
        exact_set_match(&tree(gold), &tree(prediction), &zoo)
    }

    #[test]
    fn values_and_distinct_do_not_count_and_operators_do() {
        let gold = "SELECT name FROM animal WHERE weight > 3";
        assert!(is_match(
            gold,
            "SELECT DISTINCT name FROM animal WHERE weight > 80"
        ));
        assert!(!is_match(gold, "SELECT name FROM animal WHERE weight < 3"));
    }

    #[test]
    fn columns_that_a_foreign_key_connects_are_one_where_their_table_is_there() {
        let gold = "SELECT keeper.id FROM keeper JOIN animal ON keeper.id = animal.keeper_id";
        assert!(is_match(
            gold,
            &gold.replace("SELECT keeper.id", "SELECT animal.keeper_id")
        ));
        assert!(!is_match(
            "SELECT id FROM keeper",
            "SELECT keeper_id FROM animal"
        ));
    }

    /// The official evaluation fails here: it tries to sort them.
    #[test]
    fn queries_in_from_are_compared_without_order_too() {
        let gold = "SELECT count(*) FROM (SELECT name FROM animal) (SELECT name FROM keeper)";
        let other = "SELECT count(*) FROM (SELECT name FROM keeper) (SELECT name FROM animal)";
        assert!(is_match(gold, gold) && is_match(gold, other));
        assert!(!is_match(gold, &gold.replace("keeper", "animal")));
    }

    /// A column or comparison, and everything from which it may be chosen.
    fn some(items: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
        prop::collection::vec(prop::sample::select(items), 1..5)
    }

    fn query(columns: &[&str], predicates: &[&str]) -> String {
        format!(
            "SELECT {} FROM animal WHERE {}",
            columns.join(" , "),
            predicates.join(" AND ")
        )
    }

    proptest! {
        #[test]
        fn order_within_select_and_where_changes_nothing_and_a_further_item_does(
            (columns, shuffled_columns) in some(&["id", "name", "count(*)", "max(weight)"])
                .prop_flat_map(|items| (Just(items.clone()), Just(items).prop_shuffle())),
            (predicates, shuffled_predicates) in some(&["id = 1", "id NOT IN (SELECT id FROM keeper)", "name LIKE 'x'"])
                .prop_flat_map(|items| (Just(items.clone()), Just(items).prop_shuffle())),
        ) {
            let gold = query(&columns, &predicates);
            prop_assert!(is_match(&gold, &query(&shuffled_columns, &shuffled_predicates)));
            let further = [&shuffled_columns[..], &["weight"]].concat();
            prop_assert!(!is_match(&gold, &query(&further, &predicates)));
            let further = [&shuffled_predicates[..], &["weight > 3"]].concat();
            prop_assert!(!is_match(&gold, &query(&columns, &further)));
        }
    }
}
