//! The one place where the host waits for a device.
//!
//! A page in a browser must not wait, so this module does not exist there.

use super::{Backend, Device};

/// Runs `work` to its end on this thread.
pub(crate) fn wait<T>(work: impl Future<Output = T>) -> T {
    pollster::block_on(work)
}

impl Device {
    /// Waits for work on this device. CPU work runs on a thread of rayon's pool, so it must be [`Send`]. It must not
    /// wait for another thread that waits for that pool.
    pub fn wait<T: Send>(&self, work: impl Future<Output = T> + Send) -> T {
        match self {
            Self(Backend::Cpu(_), ..) => rayon::scope(|_| wait(work)),
            Self(Backend::Gpu(_), ..) => wait(work),
        }
    }
}
