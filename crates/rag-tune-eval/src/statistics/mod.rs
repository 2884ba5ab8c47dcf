//! How sure an accuracy is, and whether two arms on the same rows differ.
//!
//! - `interval`: 95 % intervals of accuracies and ratios
//! - `mcnemar`: the exact test on paired outcomes
//! - `outcomes`: an arm, trained with one or several seeds
//! - `difference`: two arms: difference, interval, test, effect size
//! - `random`: seeded random numbers

mod difference;
mod interval;
mod mcnemar;
mod outcomes;
pub(crate) mod random;

pub use difference::{Difference, SIGNIFICANCE, Test, holm};
pub use interval::{Interval, accuracy_interval, ratio_interval};
pub use mcnemar::{McNemar, mcnemar};
pub use outcomes::{Outcomes, PooledAccuracy};
