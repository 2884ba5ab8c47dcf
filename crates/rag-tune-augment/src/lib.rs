//! Data sets, embeddings, example selection and prompts: rows in, augmented prompts out.
//!
//! [`augment()`] is the driver; what it passes through, in order:
//!
//! - [`hub`]: an id becomes local files (a path, the mirror, the hub and its cache)
//! - [`dataset`]: JSON lines become [`Row`]s
//! - [`task`]: which columns a task reads, and its prompt template
//! - [`embed`]: texts become vectors, remembered on disk
//! - [`knowledge_base`]: exact nearest neighbours among the train rows
//! - [`select`]: which train rows a row may and does get as examples
//! - [`prompt`]: row and examples become `inference_prompt` and `full_prompt`
//! - [`manifest`], [`retrieval_record`]: what a run was made from, so that it can be reused

pub mod atomic_file;
pub mod augment;
mod augmented_row;
pub mod dataset;
pub mod embed;
mod error;
mod fingerprint;
pub mod hub;
pub mod knowledge_base;
pub mod manifest;
mod progress;
pub mod prompt;
pub mod retrieval_record;
pub mod select;
pub mod task;

pub use augment::{AugmentRequest, augment, is_current};
pub use augmented_row::{AugmentedRow, read_augmented};
pub use dataset::{DataConfig, Row, read_jsonl};
pub use error::AugmentError;
pub use hub::Hub;
pub use manifest::Manifest;
pub use progress::Progress;
pub use retrieval_record::RetrievalRecord;
pub use select::{Example, RetrievalConfig, Selector};
pub use task::{Task, TaskKind};
