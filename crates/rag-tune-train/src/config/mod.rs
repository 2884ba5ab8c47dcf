//! The sections of a run's config that training reads, a file each.

mod lora;
mod train;

pub use self::lora::{AllLinear, LoraConfig, Targets};
pub use self::train::{Activations, LossOn, Schedule, TrainConfig};
