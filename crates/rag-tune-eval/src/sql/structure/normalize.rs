//! What of a query is compared: without values and DISTINCT, and with columns that foreign keys connect made one.
//!
//! Kept from the official evaluation:
//! - subqueries lose their values, and keep DISTINCT and their columns as they are
//! - a subquery in FROM keeps its values too
//! - a column is only exchanged where its table stands in the FROM of the *first* query, also after UNION and the like

use super::query::{
    Column, ColumnUnit, Condition, Expression, OrderBy, Predicate, Query, SelectItem, Source, Value,
};
use super::schema::Schema;

/// The query as it is compared.
pub(super) fn normalized(query: &Query, schema: &Schema) -> Query {
    let table = |source: &Source| match source {
        Source::Table(table) => Some(*table),
        Source::Query(_) => None,
    };
    let columns = Columns {
        tables: query.sources.iter().filter_map(table).collect(),
        schema,
    };
    columns.merged(&without_values(query))
}

fn without_values(query: &Query) -> Query {
    Query {
        join_condition: condition_without_values(&query.join_condition),
        filter: condition_without_values(&query.filter),
        having: condition_without_values(&query.having),
        combined: query
            .combined
            .as_ref()
            .map(|(operator, other)| (*operator, Box::new(without_values(other)))),
        ..query.clone()
    }
}

fn condition_without_values(condition: &Condition) -> Condition {
    let only_query = |value: &Option<Value>| match value {
        Some(Value::Query(query)) => Some(Value::Query(Box::new(without_values(query)))),
        _ => None,
    };
    map_predicates(condition, |predicate| Predicate {
        value: only_query(&predicate.value),
        upper: only_query(&predicate.upper),
        ..predicate.clone()
    })
}

/// Exchanges columns for those that stand for them, and leaves DISTINCT out.
struct Columns<'a> {
    /// The tables whose columns are exchanged.
    tables: Vec<usize>,
    schema: &'a Schema,
}

impl Columns<'_> {
    fn merged(&self, query: &Query) -> Query {
        Query {
            distinct: false,
            select: query
                .select
                .iter()
                .map(|item| SelectItem {
                    aggregate: item.aggregate,
                    expression: self.expression(&item.expression),
                })
                .collect(),
            join_condition: self.condition(&query.join_condition),
            filter: self.condition(&query.filter),
            group_by: query.group_by.iter().map(|unit| self.unit(unit)).collect(),
            having: self.condition(&query.having),
            order_by: query.order_by.as_ref().map(|order| OrderBy {
                direction: order.direction,
                keys: order.keys.iter().map(|key| self.expression(key)).collect(),
            }),
            combined: query
                .combined
                .as_ref()
                .map(|(operator, other)| (*operator, Box::new(self.merged(other)))),
            ..query.clone()
        }
    }

    fn condition(&self, condition: &Condition) -> Condition {
        map_predicates(condition, |predicate| Predicate {
            subject: self.expression(&predicate.subject),
            ..predicate.clone()
        })
    }

    fn expression(&self, expression: &Expression) -> Expression {
        Expression {
            operator: expression.operator,
            left: self.unit(&expression.left),
            right: expression.right.as_ref().map(|unit| self.unit(unit)),
        }
    }

    fn unit(&self, unit: &ColumnUnit) -> ColumnUnit {
        let column = match unit.column {
            Column::One(id) if self.tables.contains(&id.table) => {
                Column::One(self.schema.representative(id))
            }
            other => other,
        };
        ColumnUnit {
            aggregate: unit.aggregate,
            column,
            distinct: false,
        }
    }
}

fn map_predicates(condition: &Condition, change: impl Fn(&Predicate) -> Predicate) -> Condition {
    Condition {
        predicates: condition.predicates.iter().map(change).collect(),
        connectives: condition.connectives.clone(),
    }
}
