#![doc = include_str!("../README.md")]
#![cfg_attr(target_arch = "wasm32", allow(dead_code, reason = "the parts that only the trainer uses"))]

mod analysis;
mod bank;
#[cfg(not(target_arch = "wasm32"))]
mod baseline;
mod config;
#[doc(hidden)]
pub mod device;
mod encoder;
mod error;
mod eval;
mod gpo;
mod head;
#[doc(hidden)]
pub mod kernels;
mod negatives;
mod objective;
mod pipeline;
mod random;
mod strips;

// What waits, has files or starts threads: everywhere but in a browser.
#[cfg(not(target_arch = "wasm32"))]
mod blocking;
#[cfg(not(target_arch = "wasm32"))]
mod checkpoint;
#[cfg(not(target_arch = "wasm32"))]
pub mod data;
#[cfg(not(target_arch = "wasm32"))]
pub mod doctor;
#[cfg(not(target_arch = "wasm32"))]
mod embed;
#[cfg(not(target_arch = "wasm32"))]
mod epoch;
#[cfg(not(target_arch = "wasm32"))]
#[doc(hidden)]
pub mod files;
#[cfg(not(target_arch = "wasm32"))]
mod local;
#[cfg(not(target_arch = "wasm32"))]
mod recipe;
#[cfg(not(target_arch = "wasm32"))]
mod rerank;
#[cfg(not(target_arch = "wasm32"))]
mod statistics;
#[cfg(not(target_arch = "wasm32"))]
mod sweep;
#[cfg(not(target_arch = "wasm32"))]
mod trainer;

pub use analysis::{Analysis, Plane, Region, plot};
#[cfg(not(target_arch = "wasm32"))]
pub use baseline::{Baseline, ClosedForm, REGULARIZATIONS};
pub use config::{
    ImageEncoder, Init, Optimizer, Pooling, Schedule, Shuffle, SignedRoot, TrainConfig, Warmup,
};
pub use device::{Device, DeviceInfo, DeviceKind, DeviceLimits};
pub use error::{Error, ErrorKind, Result};
#[doc(hidden)]
pub use error::{Plain, is_unsafe};
pub use eval::{Ranking, Recall};
pub use head::{Head, Side};
pub use negatives::{HardNegatives, NegativeOptions, hard_negatives_async};
pub use objective::{
    CustomWeights, GoalParams, GradientOptions, Gradients, InfonceParams, Loss, Negatives, Objective,
    PairWeight, Rows, TripletWeight,
};
pub use pipeline::{External, Features, Pipeline, StepStats};

#[cfg(not(target_arch = "wasm32"))]
pub use {
    blocking::hard_negatives,
    checkpoint::{Best, Checkpoint},
    data::{Dataset, Split},
    epoch::Epoch,
    local::{EncoderGradients, Gpo, GpoGradients, Pooled},
    recipe::{RECIPES, Recipe},
    rerank::{Candidates, TopK},
    statistics::TTest,
    sweep::{Row, Run, Score, Sweep, SweepProgress, Table, Variant},
    trainer::{Event, Trainer},
};
