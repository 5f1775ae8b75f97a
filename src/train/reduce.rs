//! The phase between the backward pass and the update, where the gradients of several machines are added.

use crate::Result;
use crate::device::{Buffer, Commands, Device};
use std::ops::Range;

/// How a gradient is combined between the backward pass and the update. The gradients of several machines are added
/// here.
pub(crate) trait Reduce: Send + Sync {
    /// Replaces the elements `trained` of `gradients` by their sum over all machines.
    ///
    /// # Errors
    /// The device or the network fails.
    fn reduce(
        &mut self,
        device: &Device,
        commands: &mut Commands,
        gradients: &mut Buffer<f32>,
        trained: Range<usize>,
    ) -> Result<()>;
}

/// A single machine. Its gradient is already the sum.
pub(crate) struct Alone;

impl Reduce for Alone {
    fn reduce(&mut self, _: &Device, _: &mut Commands, _: &mut Buffer<f32>, _: Range<usize>) -> Result<()> {
        Ok(())
    }
}
