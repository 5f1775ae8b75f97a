//! Memory that the host writes and a device copies from.

use std::sync::{Arc, Mutex};

/// Bytes of uploads, beyond which a submission waits for no more, and an upload is not made ready beforehand. As many are kept
/// for uploads to come.
pub(super) const STAGED: usize = 64 << 20;

/// Buffers to write, each mapped and of no further use to the device, the one that came back first in front. A new one would
/// be filled with zeros first.
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
