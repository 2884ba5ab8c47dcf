//! How hard a query is, by counting its parts.

use std::fmt;

use super::query::{Comparison, Condition, Connective, Query, Value};

/// Spider's classes of queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hardness {
    /// At most one clause beside SELECT and FROM, and nothing else.
    Easy,
    /// Two clauses, or one and a few of the smaller things.
    Medium,
    /// Three clauses, or a subquery.
    Hard,
    /// More.
    Extra,
}

impl Hardness {
    /// The classes from easy to extra.
    pub const ALL: [Self; 4] = [Self::Easy, Self::Medium, Self::Hard, Self::Extra];

    /// Name of the class: `easy`, `medium`, `hard` or `extra`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Easy => "easy",
            Self::Medium => "medium",
            Self::Hard => "hard",
            Self::Extra => "extra",
        }
    }
}

impl fmt::Display for Hardness {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The class of a query, by the counts that the official evaluation calls component 1, component 2 and others.
pub fn hardness(query: &Query) -> Hardness {
    let clauses = count_clauses(query);
    let further = count_further(query);
    match count_nested(query) {
        0 if clauses <= 1 && further == 0 => Hardness::Easy,
        0 if clauses <= 1 && further <= 2 || clauses <= 2 && further < 2 => Hardness::Medium,
        0 if clauses <= 2 && further > 2 || clauses == 3 && further <= 2 => Hardness::Hard,
        1 if clauses <= 1 && further == 0 => Hardness::Hard,
        _ => Hardness::Extra,
    }
}

/// WHERE, GROUP BY, ORDER BY, LIMIT, each JOIN, each OR, each LIKE.
fn count_clauses(query: &Query) -> usize {
    let clauses = [
        query.filter.len() > 0,
        !query.group_by.is_empty(),
        query.order_by.is_some(),
        query.has_limit,
    ];
    let in_condition = |condition: &Condition| {
        let ors = condition.connectives.iter();
        let likes = condition.predicates.iter();
        ors.filter(|connective| **connective == Connective::Or)
            .count()
            + likes
                .filter(|predicate| predicate.comparison == Comparison::Like)
                .count()
    };
    let conditions: usize = query.conditions().into_iter().map(in_condition).sum();
    clauses.into_iter().filter(|is_there| *is_there).count()
        + query.sources.len().saturating_sub(1)
        + conditions
}

/// Subqueries as values, and what INTERSECT, UNION or EXCEPT adds. A subquery in FROM does not count.
fn count_nested(query: &Query) -> usize {
    let conditions = query.conditions();
    let predicates = conditions
        .iter()
        .flat_map(|condition| &condition.predicates);
    let values = predicates.flat_map(|predicate| [&predicate.value, &predicate.upper]);
    values
        .filter(|value| matches!(value, Some(Value::Query(_))))
        .count()
        + usize::from(query.combined.is_some())
}

/// How many of these there are: more than one aggregate, selected column, part of WHERE, column of GROUP BY.
fn count_further(query: &Query) -> usize {
    let counts = [
        count_aggregates(query),
        query.select.len(),
        query.filter.len(),
        query.group_by.len(),
    ];
    counts.into_iter().filter(|count| *count > 1).count()
}

/// The aggregates as the official evaluation counts them: it looks at the first field of whatever it is given, so that
/// each NOT of WHERE and HAVING and each AND and OR of HAVING counts too, while the aggregates within conditions do not.
fn count_aggregates(query: &Query) -> usize {
    let selected = query.select.iter().map(|item| item.aggregate);
    let grouped = query.group_by.iter().map(|unit| unit.aggregate);
    let keys = query.order_by.iter().flat_map(|order| &order.keys);
    let sorted = keys
        .flat_map(|key| [Some(&key.left), key.right.as_ref()])
        .flatten()
        .map(|unit| unit.aggregate);
    let negations = [&query.filter, &query.having]
        .into_iter()
        .flat_map(|condition| &condition.predicates)
        .filter(|predicate| predicate.negated);
    selected.chain(grouped).chain(sorted).flatten().count()
        + negations.count()
        + query.having.connectives.len()
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::super::schema::tests::zoo;
    use super::*;

    #[test]
    fn more_parts_make_a_query_harder() {
        for (sql, class) in [
            ("SELECT name FROM animal WHERE id = 1", Hardness::Easy),
            (
                "SELECT name , id FROM animal WHERE id = 1",
                Hardness::Medium,
            ),
            (
                "SELECT name FROM animal WHERE id = 1 ORDER BY id",
                Hardness::Medium,
            ),
            (
                "SELECT name FROM animal WHERE id = 1 ORDER BY id LIMIT 1",
                Hardness::Hard,
            ),
            (
                "SELECT name FROM animal WHERE id IN (SELECT id FROM keeper)",
                Hardness::Hard,
            ),
            (
                "SELECT name , id FROM animal WHERE id IN (SELECT id FROM keeper)",
                Hardness::Extra,
            ),
            (
                "SELECT name FROM animal UNION SELECT name FROM keeper",
                Hardness::Hard,
            ),
            (
                "SELECT count(*) FROM (SELECT name FROM animal WHERE id = 1 ORDER BY id LIMIT 1)",
                Hardness::Easy,
            ),
        ] {
            assert_eq!(hardness(&parse(sql, &zoo()).unwrap()), class, "{sql}");
        }
    }

    /// As an aggregate, that is: with the one in SELECT there are two, and the query is not easy any more.
    #[test]
    fn a_negation_counts_as_an_aggregate() {
        let class = |sql: &str| hardness(&parse(sql, &zoo()).unwrap());
        let sql = "SELECT count(*) FROM animal WHERE id NOT BETWEEN 1 AND 3";
        assert_eq!(class(sql), Hardness::Medium);
        assert_eq!(class(&sql.replace("NOT ", "")), Hardness::Easy);
    }
}
