//! How sure an accuracy is, and whether two runs on the same rows differ.
//!
//! - `interval`: 95 % intervals of accuracies and ratios
//! - `mcnemar`: the exact test on paired outcomes

mod interval;
mod mcnemar;
mod random;

pub use interval::{Interval, accuracy_interval, ratio_interval};
pub use mcnemar::{McNemar, mcnemar};
