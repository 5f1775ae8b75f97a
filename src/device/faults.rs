//! Driver errors: faults that are reported later, and refusals of objects that are being made.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Errors that the driver has reported.
#[derive(Default)]
pub(super) struct Faults {
    /// Work that failed. It is reported as one error, and the device can still be used.
    pub told: Option<String>,
    /// The device is lost. From then on, every call is an error.
    pub lost: Option<String>,
}

impl Faults {
    /// Stores a fault for the next [`super::Gpu::check`] to report. Only the first fault is kept.
    pub fn tell(&mut self, fault: String) {
        self.told.get_or_insert(fault);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a call of wgpu that panics where the device is lost. Returns the message of the panic, which is not printed.
#[cfg(feature = "native")]
pub(super) fn caught<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
    use std::sync::Once;
    thread_local! {
        static QUIET: Cell<bool> = const { Cell::new(false) };
    }
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = take_hook();
        set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                print(panic);
            }
        }));
    });
    QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    QUIET.set(false);
    result.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("the driver failed");
        // An error of one line.
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    })
}

/// A browser waits for nothing here.
#[cfg(not(feature = "native"))]
pub(super) fn caught<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    Ok(call())
}

/// Opens error scopes. The returned closure closes them and returns the first error.
#[cfg(feature = "native")]
pub(super) fn refusal<const N: usize>(
    device: &wgpu::Device,
    of: [wgpu::ErrorFilter; N],
) -> impl FnOnce() -> Option<wgpu::Error> {
    let scopes = of.map(|of| device.push_error_scope(of));
    // Scopes close innermost first. All of them must be closed, even after the first error.
    || scopes.into_iter().rev().filter_map(|scope| super::wait::wait(scope.pop())).reduce(|first, _| first)
}

/// A browser reports such errors later, and nothing here can wait for them. They go to the handler of uncaptured
/// errors, and a later [`super::Gpu::check`] returns them.
#[cfg(not(feature = "native"))]
pub(super) fn refusal<const N: usize>(
    _: &wgpu::Device,
    _: [wgpu::ErrorFilter; N],
) -> impl FnOnce() -> Option<wgpu::Error> {
    || None
}
