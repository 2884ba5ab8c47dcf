//! LoRA fine-tuning: batches, loss, optimizer, schedule, checkpoints, the loop.
//!
//! [`batch`] turns encoded rows into packed micro-batches, in an order that depends only on the
//! seed and the step; [`schedule`] gives the learning rate of a step; [`optimizer`] updates the
//! adapter; [`checkpoint`] writes and reads what a resumed run needs; [`trainer`] is the loop.

pub mod batch;
pub mod checkpoint;
pub mod config;
pub mod error;
pub mod memory;
pub mod optimizer;
pub mod schedule;
pub mod trainer;

pub use error::TrainError;
