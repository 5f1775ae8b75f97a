//! Training: the step, the options of a run, its epochs and its checkpoints, closed forms, and recipes.

#[cfg(feature = "native")]
mod algebra;
mod average;
#[cfg(feature = "native")]
mod baseline;
mod checkpoint;
mod config;
#[cfg(feature = "native")]
mod ensemble;
mod epoch;
mod features;
mod gather;
mod groups;
mod init;
#[cfg(feature = "native")]
mod kernel_cca;
#[cfg(feature = "native")]
mod landmark_cca;
#[cfg(feature = "native")]
mod memory;
#[cfg(feature = "native")]
mod moments;
#[cfg(feature = "native")]
mod ours;
mod pipeline;
mod point;
mod ranks;
#[cfg(feature = "native")]
mod recipe;
mod run_id;
mod shuffle;
mod slices;
#[cfg(feature = "native")]
mod solved;
mod stats;
mod step;
#[cfg(feature = "native")]
mod sums;
mod trainer;
#[cfg(feature = "native")]
mod warm_start;
mod watch;
mod within;

#[cfg(feature = "native")]
pub(crate) use baseline::start as fit_start;
#[cfg(feature = "native")]
pub use baseline::{Baseline, ClosedForm, REGULARIZATIONS};
pub use checkpoint::{Best, Checkpoint};
pub use config::{LANDMARKS, TrainConfig};
#[cfg(feature = "native")]
pub use ensemble::ENSEMBLE_BANDWIDTHS;
pub use epoch::{Epoch, Start};
pub use features::{External, Features};
pub use gather::Gather;
pub use init::{Init, InitFile};
#[cfg(feature = "native")]
pub use kernel_cca::{BANDWIDTHS, KERNEL_REGULARIZATIONS};
#[cfg(feature = "native")]
pub use landmark_cca::{LANDMARK_BANDWIDTHS, LANDMARK_REGULARIZATIONS};
pub use pipeline::Pipeline;
pub use point::Point;
#[cfg(feature = "native")]
pub use recipe::{RECIPES, Recipe};
#[cfg(feature = "native")]
pub(crate) use run_id::{fingerprint, is_same_dataset};
pub use shuffle::Shuffle;
pub use stats::StepStats;
pub use trainer::{Event, Trainer};
#[cfg(feature = "native")]
pub use warm_start::WarmStart;
pub use watch::Watched;
pub use within::Every;
