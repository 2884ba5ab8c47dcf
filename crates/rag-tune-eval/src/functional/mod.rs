//! Meaning representations: a function with attributes, as in `inform(name[Driver], genres[sport, racing])`.
//!
//! - [`Meaning`] and [`parse`]: ViGGO's grammar (Juraska et al. 2019, arXiv:1910.12129), and where a text leaves it
//! - [`compare`]: what two meanings have in common
//! - `scorer`: all of it for a row

mod compare;
mod meaning;
mod parse;
mod scorer;

pub use meaning::{Attribute, Meaning};
pub use parse::{Malformed, Parsed, parse};
pub(crate) use scorer::{METRICS, score_row};
