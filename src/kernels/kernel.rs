//! One entry per kernel: all that the list of kernels, `wgoal doctor` and the tests know about it.

use super::lab::Lab;
use crate::Result;
use crate::device::KernelSpec;

/// A kernel: a shader, and a Rust file with its dispatch function, its reference and this entry.
#[derive(Debug)]
pub struct Kernel {
    /// Name, shader, parameter block and bindings.
    pub spec: KernelSpec,
    /// Largest error that rounding explains, relative to the largest expected value. It allows a few roundings of the
    /// sums involved, and WGSL's 3 + 2|z| ULP for exponentials. It is 0 if results must be equal.
    pub tolerance: f64,
    /// Compares a device with the reference on a small case. A kernel that the device cannot run compares nothing.
    pub check: fn(&mut Lab) -> Result<()>,
    /// A text of the shader, and a wrong text in its place, as a broken compiler might produce it. The check must
    /// notice.
    pub mutation: [&'static str; 2],
}
