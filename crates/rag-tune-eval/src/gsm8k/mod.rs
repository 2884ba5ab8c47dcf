//! Grade-school mathematics: worked steps that end in a number.
//!
//! - [`answer`]: the number that an answer gives, taken strictly or flexibly
//! - [`calculator`]: whether the calculations `<<48+24=72>>` on the way are right
//! - [`rational`]: exact numbers, so that nothing is rounded
//! - [`score_row`]: all of it for a row

mod answer;
mod calculator;
mod rational;
mod scorer;

pub(crate) use scorer::{METRICS, score_row};
