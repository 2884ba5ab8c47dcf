//! The sections of a run's config that training reads, a file each.

mod lora;
mod train;
mod validation;

pub use self::lora::{AllLinear, LoraConfig, Targets};
pub use self::train::{Activations, LossOn, Schedule, TrainConfig};
pub use self::validation::{KeptAdapter, ValidationConfig, ValidationMetric};
