//! The command line as scripts use it: what it writes, what it refuses, and what it survives.
#![cfg(feature = "cli")]

#[path = "cli/custom.rs"]
mod custom;
#[path = "cli/data.rs"]
mod data;
#[path = "cli/faults.rs"]
mod faults;
#[path = "cli/files.rs"]
mod files;
#[path = "cli/guards.rs"]
mod guards;
#[path = "cli/interface.rs"]
mod interface;
#[path = "cli/lines.rs"]
mod lines;
#[path = "cli/local.rs"]
mod local;
#[path = "cli/options.rs"]
mod options;
#[path = "cli/owned.rs"]
mod owned;
#[path = "cli/paths.rs"]
mod paths;
#[path = "cli/place.rs"]
mod place;
#[path = "cli/resume.rs"]
mod resume;
#[path = "cli/runs.rs"]
mod runs;
#[path = "cli/sparse.rs"]
mod sparse;
#[path = "cli/stages.rs"]
mod stages;
#[path = "cli/sweep.rs"]
mod sweep;
#[path = "cli/threads.rs"]
mod threads;
#[path = "cli/unused.rs"]
mod unused;
#[path = "cli/weights.rs"]
mod weights;
