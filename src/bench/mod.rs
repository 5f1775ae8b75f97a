//! Benchmarks of a step, an epoch, an evaluation and a gradient. Each is compared with matrix products, or with the
//! peak rates of the device, timed in the same run.
//!
//! The data are synthetic. Every benchmark checks its result. In a browser there is only that of a step, without a
//! profile.

#[cfg(feature = "native")]
mod ceiling;
#[cfg(feature = "native")]
mod epoch;
#[cfg(feature = "native")]
mod eval;
#[cfg(feature = "native")]
mod pairs;
#[cfg(feature = "native")]
mod products;
#[cfg(feature = "native")]
mod ranks;
mod step;

#[cfg(feature = "native")]
pub use ceiling::{Ceiling, Row};
#[cfg(feature = "native")]
pub use epoch::{EpochTimes, epoch};
#[cfg(feature = "native")]
pub use eval::{EvalTimes, eval};
#[cfg(feature = "native")]
pub use pairs::{PairsTimes, pairs, plot};
#[cfg(feature = "native")]
pub use ranks::{RanksTimes, ranks};
#[cfg(feature = "native")]
pub use step::{Profiled, StepProfile, roofline, step};
pub use step::{StepTimes, step_async};

#[cfg(feature = "native")]
use crate::Result;
use crate::{Error, ErrorKind};
#[cfg(feature = "native")]
use std::time::Instant;

/// Numbers in [−1, 1), the same in every call.
fn numbers() -> impl Iterator<Item = f32> {
    let mut state = 1u32;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    })
}

#[cfg(feature = "native")]
fn unit_rows(values: &mut [f32], dim: usize) {
    for row in values.chunks_exact_mut(dim) {
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter_mut().for_each(|x| *x /= norm);
    }
}

/// The median time of `work` in seconds. It runs at least three times, for about two seconds.
#[cfg(feature = "native")]
fn median(mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let (start, mut samples) = (Instant::now(), Vec::new());
    while samples.len() < 3 || (start.elapsed().as_secs_f64() < 2.0 && samples.len() < 51) {
        let start = Instant::now();
        work()?;
        samples.push(start.elapsed().as_secs_f64());
    }
    samples.sort_by(f64::total_cmp);
    Ok(samples[samples.len() / 2])
}

/// The largest resident memory of this process so far, in MB; `None` if the system does not report it.
#[cfg(feature = "native")]
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024 / 1_000_000)
}

/// The error for a device that computes wrong values.
fn wrong(what: &str, expected: impl std::fmt::Display, found: impl std::fmt::Display) -> Error {
    let advice = "this device computes wrongly: report it with the output of `wgoal devices`";
    Error::new(ErrorKind::Device, format!("bench: {what}"), expected, found, advice)
}
