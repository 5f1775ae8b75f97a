#![doc = include_str!("../README.md")]
#![cfg_attr(not(feature = "native"), allow(dead_code, reason = "the parts that only the trainer uses"))]

// From the lowest layer to the highest; tests/layers.rs holds this order.
pub mod analysis;
#[cfg(feature = "bench")]
pub mod bench;
#[cfg(feature = "native")]
pub mod data;
#[doc(hidden)]
pub mod device;
#[cfg(feature = "native")]
pub mod doctor;
mod error;
mod eval;
mod gradient;
#[cfg(feature = "native")]
#[doc(hidden)]
pub mod io;
#[doc(hidden)]
pub mod kernels;
mod math;
mod model;
mod objective;
#[doc(hidden)]
pub mod optim;
mod similarity;
#[cfg(feature = "native")]
mod sweep;
mod train;

pub use analysis::{Analysis, Plane, Region, plot};
pub use device::{Device, DeviceInfo, DeviceKind, DeviceLimits};
pub use error::{Error, ErrorKind, Result};
#[doc(hidden)]
pub use error::{Plain, is_unsafe};
pub use eval::{Ranking, Recall};
pub use gradient::{GradientOptions, Gradients, Rows};
pub use model::{Head, HeadConfig, ImageEncoder, Pooling, Side, SignedRoot};
pub use objective::{
    CustomWeights, GoalParams, InfonceParams, Loss, Negatives, Objective, PairWeight, TripletWeight,
};
pub use optim::{Optimizer, Schedule, Warmup};
pub use similarity::{HardNegatives, NegativeOptions, hard_negatives_async};
pub use train::{External, Features, Init, Pipeline, Shuffle, StepStats, TrainConfig};

#[cfg(feature = "native")]
pub use {
    data::{Dataset, Split},
    eval::Candidates,
    math::TTest,
    model::{EncoderGradients, Gpo, GpoGradients, Pooled},
    similarity::{TopK, hard_negatives},
    sweep::{Row, Run, Score, Sweep, SweepProgress, Table, Variant},
    train::{
        Baseline, Best, Checkpoint, ClosedForm, Epoch, Event, RECIPES, REGULARIZATIONS, Recipe, Trainer,
    },
};
