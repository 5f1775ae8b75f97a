#![doc = include_str!("../README.md")]

#[doc(hidden)]
pub mod device;
mod error;
#[doc(hidden)]
pub mod kernels;
mod objective;

pub mod data;

pub use device::{Device, DeviceInfo, DeviceKind};
pub use error::{Error, ErrorKind, Result};
pub use objective::{
    GoalParams, GradientOptions, Gradients, InfonceParams, Objective, PairWeight, TripletWeight,
};
