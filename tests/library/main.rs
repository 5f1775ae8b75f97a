//! Tests of the public API that need no adapter.

#[path = "../common/job.rs"]
mod job;
#[path = "../common/random.rs"]
mod random;
#[path = "../common/variants.rs"]
mod variants;

mod analysis;
mod baseline;
mod contract;
mod data;
mod ensemble;
mod finetune;
mod gated;
mod gradients;
mod hubs;
mod kernel_cca;
mod landmarks;
mod memory;
mod ranks;
mod together;
mod within;
