//! LoRA fine-tuning: batches, loss, optimizer, schedule, checkpoints, the loop.
//!
//! [`batch`] turns encoded rows into packed micro-batches, in an order that depends only on the
//! seed and the step; [`schedule`] gives the learning rate of a step; `step` does one;
//! [`optimizer`] updates the adapter; `checkpoint` writes and reads what a resumed run needs;
//! [`validation`] judges the adapter on other rows and [`early_stopping`] draws the conclusion;
//! [`trainer`] is the loop, which tells what happens as [`event`]s and writes [`metrics`],
//! [`skipped`] steps apart from them; [`tensorboard`] writes the events for that program;
//! [`ranks`] is how several processes do it together.

pub mod batch;
mod checkpoint;
pub mod config;
pub mod early_stopping;
pub mod error;
pub mod event;
pub mod memory;
pub mod metrics;
pub mod optimizer;
pub mod ranks;
mod run_state;
pub mod schedule;
pub mod skipped;
mod step;
pub mod tensorboard;
pub mod trainer;
pub mod validation;
pub mod work;

pub use error::TrainError;
