#![doc = include_str!("../README.md")]
#![cfg_attr(not(feature = "native"), allow(dead_code, reason = "the parts that only the trainer uses"))]

// The command line names the library as other programs do.
#[cfg(feature = "cli")]
extern crate self as wgoal;

/// Gives an options type the method `with`, which changes some options. Callers need it because a later version may add
/// options.
macro_rules! with {
    ($options:ty) => {
        impl $options {
            /// Returns these options after `change` has changed them.
            #[must_use]
            pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
                change(&mut self);
                self
            }
        }
    };
}

// The modules stand in alphabetical order. tests/layers.rs lists their layers and checks them.
pub mod analysis;
#[cfg(feature = "bench")]
pub mod bench;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
pub mod cluster;
pub mod data;
pub mod device;
#[cfg(feature = "native")]
pub mod doctor;
#[cfg(feature = "native")]
mod draw;
mod error;
pub mod eval;
pub mod gradient;
pub mod io;
#[doc(hidden)]
pub mod kernels;
mod math;
pub mod model;
pub mod objective;
pub mod optim;
#[cfg(feature = "native")]
pub mod report;
pub mod similarity;
#[cfg(feature = "native")]
pub mod sweep;
pub mod train;

pub use data::{Dataset, Split};
pub use device::Device;
#[cfg(feature = "native")]
pub use device::start_threads;
pub use error::{Error, ErrorKind, Result};
#[doc(hidden)]
pub use error::{Plain, is_unsafe};
pub use eval::Recall;
pub use model::Head;
pub use objective::Objective;
pub use train::{Checkpoint, Pipeline, TrainConfig, Trainer};

/// Pooling of local features on host arrays: the generalised pooling operator and a head's encoders, forward and backward.
#[cfg(feature = "native")]
pub mod pooling {
    pub use crate::model::{EncoderGradients, Gpo, GpoGradients, Pooled};
}

/// Two-stage retrieval: find the best candidates of every query, then measure how another model's scores rank them.
#[cfg(feature = "native")]
pub mod rerank {
    pub use crate::eval::Candidates;
    pub use crate::similarity::TopK;
}

/// Checks that every environment variable that wgoal reads has a known value.
///
/// # Errors
/// The first variable with an unknown value; the message lists the known values.
pub fn check_environment() -> Result<()> {
    device::check_environment()?;
    kernels::check_environment()
}
