//! The figures of the original post as a grid of cells.
//!
//! - [`cell`]: what is run; [`figures`]: which cells a figure shows, and which matter first; [`published`]: what the
//!   original experiment got
//! - [`recipe`]: the config of each step; [`folder`]: where its files lie; [`records`]: what is known of it
//! - [`estimator`]: what a step will take, from [`lengths`] and [`speeds`]; [`corrections`]: what finished steps say
//!   about predictions; [`facts`]: all that is known before the plan is made; [`plan`]: what is run within the budget
//! - [`execute`]: runs the steps of a plan, each as a run of this program ([`children`])
//! - [`results`]: `results.json`; [`markdown`]: `results.md`; [`charts`]

pub mod cell;
pub mod charts;
pub mod children;
pub mod corrections;
pub mod estimator;
pub mod execute;
pub mod facts;
pub mod figures;
pub mod folder;
mod lengths;
pub mod markdown;
pub mod plan;
mod published;
pub mod recipe;
pub mod records;
pub mod results;
mod speeds;
