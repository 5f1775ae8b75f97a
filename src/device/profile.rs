//! The time of each kernel, in a table that a device fills while profiling is on.

use serde::Serialize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use web_time::Instant;

/// Totals over all dispatches of one kernel.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct KernelTime {
    /// The kernel; for matrix products also the shape and the transposed operand.
    pub name: String,
    /// Number of dispatches.
    pub dispatches: usize,
    /// Seconds.
    pub seconds: f64,
    /// Floating-point operations, as estimated by the kernels.
    pub flops: f64,
    /// Bytes of all bindings, each counted once per dispatch.
    pub bytes: f64,
}

/// Times by kernel, in the order in which the kernels first ran.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Profile(pub Vec<KernelTime>);

impl Profile {
    pub(super) fn add(&mut self, name: &str, seconds: f64, flops: f64, bytes: f64) {
        let at = self.0.iter().position(|kernel| kernel.name == name).unwrap_or_else(|| {
            self.0.push(KernelTime {
                name: name.into(),
                dispatches: 0,
                seconds: 0.0,
                flops: 0.0,
                bytes: 0.0,
            });
            self.0.len() - 1
        });
        let kernel = &mut self.0[at];
        kernel.dispatches += 1;
        kernel.seconds += seconds;
        kernel.flops += flops;
        kernel.bytes += bytes;
    }
}

/// The profile of the CPU, for kernels on any thread.
static CPU: Mutex<Option<Profile>> = Mutex::new(None);
/// Whether [`CPU`] holds a profile. Every kernel asks this, and usually there is none, so it takes no lock.
static PROFILED: AtomicBool = AtomicBool::new(false);

fn of_cpu() -> MutexGuard<'static, Option<Profile>> {
    // A panic of a caller cannot leave the table incomplete.
    CPU.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn on_cpu(on: bool) -> Profile {
    PROFILED.store(on, Ordering::Relaxed);
    std::mem::replace(&mut *of_cpu(), on.then(Profile::default)).unwrap_or_default()
}

/// Times a kernel's CPU branch until it is dropped, if the CPU is profiled.
pub(crate) struct Clock(Option<(Instant, KernelTime)>);

/// Starts the clock of a kernel.
pub(crate) fn clock(name: &str) -> Clock {
    clock_of(|| name.into(), 0.0, 0.0)
}

/// Starts the clock of a kernel, with the amount of its work.
pub(crate) fn clock_of(name: impl FnOnce() -> String, flops: f64, bytes: f64) -> Clock {
    let on = PROFILED.load(Ordering::Relaxed);
    Clock(on.then(|| {
        let kernel = KernelTime { name: name(), dispatches: 1, seconds: 0.0, flops, bytes };
        (Instant::now(), kernel)
    }))
}

impl Drop for Clock {
    fn drop(&mut self) {
        let Some((start, KernelTime { name, flops, bytes, .. })) = self.0.take() else { return };
        let seconds = start.elapsed().as_secs_f64();
        if let Some(profile) = &mut *of_cpu() {
            profile.add(&name, seconds, flops, bytes);
        }
    }
}
