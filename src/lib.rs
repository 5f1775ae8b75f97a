#![doc = include_str!("../README.md")]
#![cfg_attr(not(feature = "native"), allow(dead_code, reason = "the parts that only the trainer uses"))]

/// Gives a type of options, which may have more of them in a later version, a way to change some.
macro_rules! with {
    ($options:ty) => {
        impl $options {
            /// The same with what `change` changes.
            #[must_use]
            pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
                change(&mut self);
                self
            }
        }
    };
}

// From the lowest layer to the highest; tests/layers.rs holds this order.
pub mod analysis;
#[cfg(feature = "bench")]
pub mod bench;
#[cfg(feature = "native")]
pub mod data;
pub mod device;
#[cfg(feature = "native")]
pub mod doctor;
mod error;
pub mod eval;
pub mod gradient;
#[cfg(feature = "native")]
pub mod io;
#[doc(hidden)]
pub mod kernels;
mod math;
pub mod model;
pub mod objective;
pub mod optim;
pub mod similarity;
#[cfg(feature = "native")]
pub mod sweep;
pub mod train;

pub use device::Device;
pub use error::{Error, ErrorKind, Result};
#[doc(hidden)]
pub use error::{Plain, is_unsafe};
pub use eval::Recall;
pub use model::Head;
pub use objective::Objective;
pub use train::{Pipeline, TrainConfig};
#[cfg(feature = "native")]
pub use {
    data::{Dataset, Split},
    train::{Checkpoint, Trainer},
};

/// Pooling of local features on host arrays: the generalised pooling operator and a head's encoders, forward and backward.
#[cfg(feature = "native")]
pub mod pooling {
    pub use crate::model::{EncoderGradients, Gpo, GpoGradients, Pooled};
}

/// Two-stage retrieval: the best candidates of every query, and what another model's scores of them come to.
#[cfg(feature = "native")]
pub mod rerank {
    pub use crate::eval::Candidates;
    pub use crate::similarity::TopK;
}

/// Checks every environment variable that wgoal reads.
///
/// # Errors
/// The first with an unknown value; the message lists the known ones.
pub fn check_environment() -> Result<()> {
    device::check_environment()?;
    kernels::check_environment()
}
