//! Memory that the host writes and a device copies from.

use std::sync::{Arc, Mutex};

/// A limit in bytes with three uses. Work with this many bytes of uploads is submitted at once. A larger upload is not
/// staged ahead. Free buffers are kept up to this total.
pub(super) const STAGED: usize = 64 << 20;

/// Buffers for later uploads, in the order in which the device returned them. Each is mapped, and the device has
/// finished with it. They save time because a new buffer is first filled with zeros.
pub(super) type Free = Arc<Mutex<Vec<wgpu::Buffer>>>;

/// Bytes in memory that a device copies from.
#[derive(Debug)]
pub struct Staged {
    /// At least `len` bytes.
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
