//! The heads of a sweep that were lost.

use super::results::Results;
use super::{Fits, Sweep, Variant, head_path, tested, to_go_on, train};
use crate::data::Dataset;
use crate::device::Device;
use crate::train::{Checkpoint, TrainConfig};
use crate::{Error, Result};
use std::path::Path;
use std::sync::Arc;

impl Sweep {
    /// Trains the heads of the chosen point again that are missing or damaged, after a call of `lost`.
    ///
    /// # Errors
    /// The head of another run in the place of one, and those of training.
    pub(super) fn restore_heads(
        &self,
        device: &Device,
        dataset: &Arc<Dataset>,
        (out, objective, number): (&Path, &str, usize),
        variant: &Variant,
        results: &Results,
        fits: &mut Fits,
        mut lost: impl FnMut(&Path),
    ) -> Result<()> {
        let fingerprint = crate::train::fingerprint(dataset)?;
        for &seed in &self.seeds {
            let path = head_path(out, objective, number, seed);
            let config = TrainConfig { seed, ..variant.config.clone() };
            match Checkpoint::load(&path) {
                Ok(head) if head.is_of(&config.run_id(&fingerprint), &config) => continue,
                Ok(_) => {
                    let advice = "move it elsewhere; the same command then trains the head again";
                    let expected = "the head of this sweep";
                    return Err(Error::checkpoint(path.display(), expected, "that of another run", advice));
                }
                Err(_) => lost(&path),
            }
            let total = self.variants.len() * self.seeds.len();
            let go_on = |error| to_go_on(error, results.runs.len(), total, out);
            train(device, dataset, (variant, seed), fits, &path).map_err(go_on)?;
            // The figures are known. The file of the head also has the correction for hubs.
            if results.test(objective, &variant.point, seed).is_some() {
                tested(device, dataset, &mut Checkpoint::load(&path)?, &path).map_err(go_on)?;
            }
        }
        Ok(())
    }
}
