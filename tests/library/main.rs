//! What needs no adapter, through the public API.

#[path = "../common/random.rs"]
mod random;
#[path = "../common/variants.rs"]
mod variants;

mod analysis;
mod baseline;
mod contract;
mod data;
mod gradients;
