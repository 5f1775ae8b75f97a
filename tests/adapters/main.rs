//! Tests that run on every device of this machine: the native CPU and each adapter. `cargo test --test adapters
//! kernels` runs one module, `cargo test --test adapters lavapipe/` runs one adapter.

#[path = "../common/mod.rs"]
mod common;

mod atomic;
mod bindings;
mod context;
mod doctor;
mod golden;
mod kernels;
mod limits;
mod losses;
mod lost_device;
mod negatives;
mod pooling;
mod positives;
mod recall;
mod selection;
mod slices;
mod stages;

fn main() {
    let mut suite = common::Suite::default();
    golden::tests(suite.module("golden"));
    kernels::tests(suite.module("kernels"));
    losses::tests(suite.module("losses"));
    negatives::tests(suite.module("negatives"));
    positives::tests(suite.module("positives"));
    pooling::tests(suite.module("pooling"));
    recall::tests(suite.module("recall"));
    stages::tests(suite.module("stages"));
    atomic::tests(suite.module("atomic"));
    bindings::tests(suite.module("bindings"));
    selection::tests(suite.module("selection"));
    slices::tests(suite.module("slices"));
    doctor::tests(suite.module("doctor"));
    lost_device::tests(suite.module("lost_device"));
    context::tests(suite.module("context"));
    limits::tests(suite.module("limits"));
    suite.run()
}
