//! Meaning representations: a function with attributes, as in `inform(name[Driver], genres[sport, racing])`.
//!
//! - [`Meaning`] and [`parse`]: ViGGO's grammar (Juraska et al. 2019, arXiv:1910.12129), and where a text leaves it
//! - [`compare`]: what two meanings have in common
//! - [`FunctionalScorer`]: all of it for each row

mod compare;
mod meaning;
mod parse;
mod scorer;

pub use meaning::{Attribute, Meaning};
pub use parse::{Malformed, Parsed, parse};
pub use scorer::FunctionalScorer;
