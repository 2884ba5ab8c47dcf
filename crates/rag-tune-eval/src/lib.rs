//! Scorers and statistics: what answers do, and how sure one can be of a difference.
//!
//! - [`EvalConfig`]: the `[eval]` section
//! - [`Scorer`]: what all scorers do; [`sql`], [`TextScorer`]: the scorers
//! - [`read_predictions`]: predictions from a file
//! - [`ScoreReport`]: totals, `scores.json`; [`Answer`]: the rows behind them, `predictions.jsonl`
//! - [`statistics`]: intervals, and tests of a difference

mod answers;
mod config;
mod error;
pub mod functional;
mod gsm8k;
mod predictions;
mod rows;
mod run_info;
mod save;
mod score;
mod scorer;
pub mod sql;
pub mod statistics;
mod text_scorer;

pub use answers::{Answer, read_answers, save_answers};
pub use config::EvalConfig;
pub use error::EvalError;
pub use predictions::read_predictions;
pub use rows::{ResultTable, RowScore, RowStatus, Share};
pub use run_info::{AdapterKind, Arm, PromptKind, RunInfo};
pub use score::{ClassScore, ScoreReport};
pub use scorer::Scorer;
pub use text_scorer::TextScorer;
