//! Scorers and statistics: SQL execution accuracy with confidence intervals.
//!
//! - [`EvalConfig`]: the `[eval]` section
//! - [`sql`]: running queries safely, and judging predictions by what they return
//! - [`read_predictions`]: predictions from a file
//! - [`score`], [`ScoreReport`]: totals, `scores.json`, and the rows behind them
//! - [`statistics`]: intervals, and McNemar's exact test

mod config;
mod error;
mod predictions;
mod rows;
mod save;
mod score;
pub mod sql;
pub mod statistics;

pub use config::EvalConfig;
pub use error::EvalError;
pub use predictions::read_predictions;
pub use rows::{RowScore, RowStatus};
pub use score::{
    AdapterKind, Arm, MetricScore, PromptKind, RunInfo, ScoreReport, SqlMetrics, save_rows, score,
};
