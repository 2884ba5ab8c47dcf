//! SQL execution accuracy: a prediction is correct when it returns what the gold query returns.
//!
//! The judge deals rows to worker processes, because model-written SQL is hostile:
//!
//! - `judge`, `deal`: all rows; which worker gets which
//! - `sandbox`, `protocol`: starting workers, talking to them, and getting rid of those that hang or die
//! - [`structure`]: exact-set match and hardness, from the text of the queries alone
//! - `synthetic`: databases for rows that have none
//! - `schema_text`: a database's tables as data sets describe them
//! - `scorer`: all of it as a [`Scorer`](crate::Scorer)
//!
//! In a worker:
//!
//! - `worker`, `confine`: its loop, and what it gives up before
//! - `row_judge`: a row's verdict, and what a query means
//! - `tokens`: strings, comments and parentheses of SQL text
//! - `database`, `execute`: opening databases so that nothing can be written; running one query within a budget
//! - `table`, `compare`: results, and whether two of them say the same

mod compare;
mod confine;
mod database;
mod deal;
mod execute;
mod judge;
mod protocol;
mod row_judge;
mod sandbox;
mod schema_text;
mod scorer;
pub mod structure;
mod synthetic;
mod table;
mod tokens;
mod worker;

pub use compare::{RowOrder, same_result};
pub use database::{DATABASES_VARIABLE, DatabaseSource, Databases};
pub use execute::{QueryError, QueryLimits};
pub use judge::{SqlCase, SqlJudge};
pub use sandbox::Sandbox;
pub use schema_text::schema_text;
pub use scorer::SqlScorer;
pub use synthetic::{ContextError, SyntheticCase, SyntheticDatabases};
pub use table::{Cell, Table};
pub use worker::run_worker;
