//! The tree that Spider's evaluation sees of a query.

use super::schema::ColumnId;

/// A query, with its subqueries.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// FROM and JOIN, in the order of the text.
    pub sources: Vec<Source>,
    /// The conditions after ON, those of several JOINs joined by AND.
    pub join_condition: Condition,
    /// DISTINCT right after SELECT.
    pub distinct: bool,
    /// What is selected.
    pub select: Vec<SelectItem>,
    /// WHERE.
    pub filter: Condition,
    /// GROUP BY.
    pub group_by: Vec<ColumnUnit>,
    /// HAVING.
    pub having: Condition,
    /// ORDER BY.
    pub order_by: Option<OrderBy>,
    /// Whether there is a LIMIT; its number is not kept.
    pub has_limit: bool,
    /// What follows after INTERSECT, UNION or EXCEPT.
    pub combined: Option<(SetOperator, Box<Query>)>,
}

impl Query {
    /// The conditions of JOIN, WHERE and HAVING.
    pub(super) fn conditions(&self) -> [&Condition; 3] {
        [&self.join_condition, &self.filter, &self.having]
    }
}

/// A table, or a query in its place.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// Position of the table in the schema.
    Table(usize),
    /// A query in parentheses.
    Query(Box<Query>),
}

/// A column, or `*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// `*`.
    All,
    /// A column of a table.
    One(ColumnId),
}

/// A column, perhaps aggregated: `count(DISTINCT name)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnUnit {
    /// The aggregate around the column.
    pub aggregate: Option<Aggregate>,
    /// The column.
    pub column: Column,
    /// DISTINCT before the column.
    pub distinct: bool,
}

/// One column, or two with an operator between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expression {
    /// The operator between `left` and `right`.
    pub operator: Option<Arithmetic>,
    /// The first column.
    pub left: ColumnUnit,
    /// The second column.
    pub right: Option<ColumnUnit>,
}

/// One item of SELECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectItem {
    /// The aggregate around the expression; an aggregate *within* the expression is in its columns.
    pub aggregate: Option<Aggregate>,
    /// What is selected.
    pub expression: Expression,
}

/// ORDER BY.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderBy {
    /// The last direction that the clause names: one stands for all keys.
    pub direction: Direction,
    /// What is sorted by, the most important first.
    pub keys: Vec<Expression>,
}

/// Predicates with AND and OR between them, as they stand: precedence is not looked at.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Condition {
    /// The predicates.
    pub predicates: Vec<Predicate>,
    /// What follows after each predicate; there may be one after the last where the text breaks off.
    pub connectives: Vec<Connective>,
}

impl Condition {
    /// Predicates and connectives.
    pub(super) fn len(&self) -> usize {
        self.predicates.len() + self.connectives.len()
    }
}

/// A comparison: `subject comparison value`.
#[derive(Debug, Clone, PartialEq)]
pub struct Predicate {
    /// NOT before the comparison, as in `NOT IN`.
    pub negated: bool,
    /// What is compared.
    pub subject: Expression,
    /// How it is compared.
    pub comparison: Comparison,
    /// With what; none once values have been left out.
    pub value: Option<Value>,
    /// The upper bound of BETWEEN.
    pub upper: Option<Value>,
}

/// The right side of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A query in parentheses.
    Query(Box<Query>),
    /// A text with its quotes.
    Text(String),
    /// A number.
    Number(f64),
    /// A column.
    Column(ColumnUnit),
}

/// Words that stand for a value of an enum.
macro_rules! keywords {
    ($(#[$meta:meta])* $name:ident { $($word:literal => $variant:ident),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $(#[doc = concat!("`", $word, "`.")] $variant,)+
        }

        impl $name {
            /// What `word`, in lower case, stands for.
            pub(super) fn from_word(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

keywords! {
    /// A function over rows.
    Aggregate { "max" => Max, "min" => Min, "count" => Count, "sum" => Sum, "avg" => Average }
}
keywords! {
    /// An operator between two columns.
    Arithmetic { "-" => Minus, "+" => Plus, "*" => Times, "/" => Divide }
}
keywords! {
    /// How two values are compared.
    Comparison {
        "not" => Not, "between" => Between, "=" => Equal, ">" => Greater, "<" => Less, ">=" => GreaterOrEqual,
        "<=" => LessOrEqual, "!=" => NotEqual, "in" => In, "like" => Like, "is" => Is, "exists" => Exists,
    }
}
keywords! {
    /// What joins two predicates.
    Connective { "and" => And, "or" => Or }
}
keywords! {
    /// What joins two queries.
    SetOperator { "intersect" => Intersect, "union" => Union, "except" => Except }
}
keywords! {
    /// A direction of sorting.
    Direction { "asc" => Ascending, "desc" => Descending }
}
