//! The sections of a run's config that training reads, a file each.

mod log;
mod lora;
mod train;
mod validation;

pub use self::log::LogConfig;
pub use self::lora::{AllLinear, LoraConfig, Targets};
pub use self::train::{
    Activations, LossOn, OptimizerKind, RunLength, Schedule, StepSize, TrainConfig, Truncation,
};
pub use self::validation::{KeptAdapter, ValidationConfig, ValidationMetric};
