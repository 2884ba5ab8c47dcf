//! Grade-school mathematics: worked steps that end in a number.
//!
//! - [`answer`]: the number that an answer gives, taken strictly or flexibly
//! - [`calculator`]: whether the calculations `<<48+24=72>>` on the way are right
//! - [`rational`]: exact numbers, so that nothing is rounded
//! - [`Gsm8kScorer`]: all of it for each row

mod answer;
mod calculator;
mod rational;
mod scorer;

pub use scorer::Gsm8kScorer;
