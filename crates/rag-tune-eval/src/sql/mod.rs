//! SQL execution accuracy: a prediction is correct when it returns what the gold query returns.
//!
//! - `tokens`: strings, comments and parentheses of SQL text
//! - `database`: opening databases so that nothing can be written
//! - `execute`: running one query within a budget
//! - `table`, `compare`: results, and whether two of them say the same
//! - `judge`: a row's verdict, and all rows in parallel
//! - `scorer`: all of it as a [`Scorer`](crate::Scorer)

mod compare;
mod database;
mod execute;
mod judge;
mod scorer;
mod table;
mod tokens;

pub use compare::{RowOrder, same_result};
pub use database::{DATABASES_VARIABLE, Databases};
pub use execute::{QueryError, QueryLimits};
pub use judge::{SqlCase, SqlJudge};
pub use scorer::SqlScorer;
pub use table::{Cell, Table};
