//! Spider's exact-set match and hardness: two queries are compared by their clauses, and nothing is executed.
//!
//! Verdicts are those of the official evaluation with its default flags (Yu et al. 2018, arXiv:1809.08887;
//! `process_sql.py` and `evaluation.py` of github.com/taoyds/test-suite-sql-eval), whose reading of SQL is narrow: what
//! its grammar does not read, such as `<>`, `IS NULL`, `LEFT JOIN` or a column alias, matches nothing, and what it
//! overlooks, such as the conditions of a JOIN, counts for nothing. A wider reading would give figures that cannot be
//! compared with published ones. Each quirk is noted where it is kept; docs/evaluation.md lists them.
//!
//! - `schema`: tables, columns and foreign keys of a database
//! - `words`: text to words
//! - `parse`: words to a [`Query`], the tree in `query`
//! - `normalize`, `set_match`: what of two trees is compared, and how
//! - `hardness`: the class of a query

mod hardness;
mod normalize;
mod parse;
mod query;
mod schema;
mod set_match;
mod words;

pub use hardness::{Hardness, hardness};
pub use parse::{ParseError, parse};
pub use query::{
    Aggregate, Arithmetic, Column, ColumnUnit, Comparison, Condition, Connective, Direction,
    Expression, OrderBy, Predicate, Query, SelectItem, SetOperator, Source, Value,
};
pub use schema::{ColumnId, Schema};
pub use set_match::exact_set_match;
