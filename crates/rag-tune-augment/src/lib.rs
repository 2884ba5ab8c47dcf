//! Data sets, embeddings, example selection and prompts: rows in, augmented prompts out.
//!
//! [`augment()`] is the driver; what it passes through, in order:
//!
//! - [`hub`]: an id becomes local files (a path, the mirror, the hub and its cache)
//! - [`dataset`]: files become [`Row`]s
//! - [`task`]: which columns a task reads, and its prompt templates
//! - [`embed`]: texts become vectors, remembered on disk
//! - [`stores`]: nearest neighbours among the train rows' vectors
//! - [`select`]: which train rows a row may and does get as examples
//! - [`prompt`]: row and examples become `inference_prompt` and `full_prompt`
//! - [`leakage`]: what an evaluation could know of its own answers through the training split
//! - [`manifest`], [`retrieval_record`]: what a run was made from, so that it can be reused

pub mod atomic_file;
pub mod augment;
mod augmented_row;
pub mod dataset;
pub mod embed;
mod error;
mod fingerprint;
pub mod hub;
pub mod leakage;
pub mod manifest;
mod progress;
pub mod prompt;
pub mod retrieval_record;
mod run;
pub mod select;
pub mod stores;
pub mod task;

pub use augment::{
    AskedRow, AugmentRequest, Augmented, augment, augment_question, is_current, output_path,
};
pub use augmented_row::{AugmentedRow, read_augmented};
pub use dataset::{DataConfig, Row, read_jsonl};
pub use error::AugmentError;
pub use hub::Hub;
pub use leakage::LeakageReport;
pub use manifest::{AugmentSettings, Manifest};
pub use progress::Progress;
pub use retrieval_record::RetrievalRecord;
pub use select::{EmbedderCompute, Example, RetrievalConfig, Selector};
pub use task::{Scoring, Task, TaskError, TaskName};
