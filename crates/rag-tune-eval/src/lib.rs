//! Scorers and statistics: SQL execution accuracy with confidence intervals.

mod config;

pub use config::EvalConfig;
