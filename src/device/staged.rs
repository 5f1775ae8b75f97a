//! Memory that the host writes and a device copies from.

use std::sync::{Arc, Mutex};

/// Bytes of uploads that trigger a submission, the largest upload that is prepared by another thread, and the memory that is kept
/// for later uploads.
pub(super) const STAGED: usize = 64 << 20;

/// Mapped buffers that the device no longer uses, the oldest first. They are reused because wgpu fills new buffers with zeros.
pub(super) type Free = Arc<Mutex<Vec<wgpu::Buffer>>>;

/// Bytes that lie where a device copies them from.
#[derive(Debug)]
pub struct Staged {
    /// As large, or larger.
    pub(super) buffer: wgpu::Buffer,
    pub(super) len: usize,
}

impl Staged {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn buffer(&self) -> &wgpu::Buffer {
        &self.buffer
    }
}
