//! Timing the program's own work on made-up input, for `rag-tune bench`.
//!
//! - `subject.rs`: the model that is timed, real or made of noise (`shapes.rs`)
//! - `training.rs`, `generation.rs`, `loading.rs`, `embedding.rs`: the works
//! - `timing.rs`: how often something is done, and how long each time takes
//! - `figures.rs`: what comes out, for people and for programs; `charts.rs`: drawn

mod charts;
mod embedding;
mod figures;
mod generation;
mod loading;
mod shapes;
mod subject;
mod timing;
mod training;

pub use charts::{ChartsArgs, charts};
pub use embedding::{EmbeddingArgs, embed};
pub use figures::{Column, Figures};
pub use generation::{GenerationArgs, generate};
pub use loading::{LoadingArgs, load};
pub use training::{TrainingArgs, forward, train};
