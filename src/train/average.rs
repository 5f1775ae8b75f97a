//! The exponential moving average of the weights (docs/math.md, "Averaged weights").

use crate::Result;
use crate::device::{Buffer, Commands, Device, Slice};
use crate::kernels::blend;
use std::ops::Range;

/// The average on the device, laid out like the parameters of the head.
pub(super) struct Average {
    decay: f64,
    values: Buffer<f32>,
}

impl Average {
    /// The average before the first step: the weights themselves. `None` if `decay` is 0.
    pub fn new(device: &Device, decay: f64, values: &[f32]) -> Result<Option<Self>> {
        let new = || Ok(Self { decay, values: Buffer::from_slice(device, "average", values)? });
        (decay > 0.0).then(new).transpose()
    }

    /// The share of the newest weights after step `step`, counted from 1. It falls to 1 - decay, so that the first
    /// weights do not count for longer than the later ones.
    fn share(&self, step: u64) -> f64 {
        let step = step as f64;
        1.0 - self.decay.min((1.0 + step) / (10.0 + step))
    }

    /// Moves the elements `range` of the average towards `newest`, the weights after step `step`.
    pub fn update(
        &mut self,
        commands: &mut Commands,
        newest: Slice<f32>,
        range: Range<usize>,
        step: u64,
    ) -> Result<()> {
        let (share, len) = (self.share(step), range.len());
        blend(commands, newest, share, self.values.part_mut(range), len)
    }

    pub async fn read(&self, device: &Device, len: usize) -> Result<Vec<f32>> {
        self.values.read(device, 0..len).await
    }

    /// Continues with an earlier average.
    pub fn write(&mut self, device: &Device, values: &[f32]) -> Result<()> {
        self.values.write(device, 0, values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_the_newest_weights_falls_to_its_limit() {
        let average = Average::new(&Device::cpu(), 0.75, &[0.0; 4]).unwrap().unwrap();
        for (step, share) in [(1, 9.0 / 11.0), (2, 0.75), (5, 0.6), (26, 0.25), (27, 0.25), (1000, 0.25)] {
            assert!((average.share(step) - share).abs() < 1e-12, "step {step}: {}", average.share(step));
        }
        assert!(Average::new(&Device::cpu(), 0.0, &[0.0; 4]).unwrap().is_none());
    }
}
