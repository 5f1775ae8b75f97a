#![doc = include_str!("../README.md")]

mod checkpoint;
mod config;
pub mod data;
#[doc(hidden)]
pub mod device;
pub mod doctor;
mod error;
mod eval;
mod files;
mod head;
#[doc(hidden)]
pub mod kernels;
mod objective;
mod pipeline;
mod trainer;

pub use checkpoint::{Best, Checkpoint};
pub use config::{Optimizer, Schedule, TrainConfig};
pub use data::{Dataset, Split};
pub use device::{Device, DeviceInfo, DeviceKind};
pub use error::{Error, ErrorKind, Result};
pub use eval::{Ranking, Recall};
pub use head::Head;
pub use objective::{
    GoalParams, GradientOptions, Gradients, InfonceParams, Objective, PairWeight, TripletWeight,
};
pub use pipeline::{Features, Pipeline, StepStats};
pub use trainer::{Epoch, Event, Trainer};
