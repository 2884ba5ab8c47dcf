//! Encoded rows to packed micro-batches.
//!
//! `example` appends the end of sequence and says what happens to rows that are too long; `order`
//! shuffles; `packing` puts rows into micro-batches of at most so many tokens; `plan` joins both to
//! the steps of an epoch; [`TrainSet`] is the whole, [`ranks`] who does which part of a step.

mod example;
mod micro_batch;
mod order;
mod packing;
mod plan;
pub mod ranks;
mod set;
mod summary;

pub use self::example::Ends;
pub use self::micro_batch::MicroBatch;
pub use self::set::TrainSet;
pub use self::summary::{DataSummary, Epoch};
