//! What drivers report: faults that come later, and refusals of what is being made.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What the driver has reported.
#[derive(Default)]
pub(super) struct Faults {
    /// Of work that came to nothing: one error says so, and the device goes on.
    pub told: Option<String>,
    /// That the device is lost: everything is an error from then on.
    pub lost: Option<String>,
}

impl Faults {
    /// Takes note of what the next [`super::Gpu::check`] is to report. The first counts.
    pub fn tell(&mut self, fault: String) {
        self.told.get_or_insert(fault);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens error scopes. The returned closure closes them and returns the first error.
#[cfg(feature = "native")]
pub(super) fn refusal<const N: usize>(
    device: &wgpu::Device,
    of: [wgpu::ErrorFilter; N],
) -> impl FnOnce() -> Option<wgpu::Error> {
    let scopes = of.map(|of| device.push_error_scope(of));
    // The innermost first; all of them, whatever it holds.
    || scopes.into_iter().rev().filter_map(|scope| super::wait::wait(scope.pop())).reduce(|first, _| first)
}

/// A browser would tell later, and nothing here can wait: its word goes to the handler of uncaptured errors, so that it
/// comes out of a later [`super::Gpu::check`].
#[cfg(not(feature = "native"))]
pub(super) fn refusal<const N: usize>(
    _: &wgpu::Device,
    _: [wgpu::ErrorFilter; N],
) -> impl FnOnce() -> Option<wgpu::Error> {
    || None
}
