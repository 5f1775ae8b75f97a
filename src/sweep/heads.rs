//! The heads of a sweep that were lost.

use super::results::Results;
use super::rounds::{Runs, Task, round};
use super::{Sweep, Variant, head_path, tested, to_go_on};
use crate::train::{Checkpoint, TrainConfig};
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// Whether a head is in its place.
const FINE: u8 = 0;
const LOST: u8 = 1;

impl Sweep {
    /// Trains the heads of the chosen point again that are missing or damaged, after a call of `lost`. Each process of a
    /// job trains one at a time.
    ///
    /// # Errors
    /// The head of another run in the place of one, and those of training.
    pub(super) fn restore_heads(
        &self,
        (objective, number): (&str, usize),
        variant: &Variant,
        results: &Results,
        runs: &mut Runs,
        mut lost: impl FnMut(&Path),
    ) -> Result<()> {
        let (device, dataset, out) = (runs.device, runs.dataset, runs.out);
        let path = |seed| head_path(out, objective, number, seed);
        // The first process looks, so that all do the same.
        let [place, size] = device.place();
        let states = match place {
            0 => self.states(variant, &crate::train::fingerprint(dataset)?, path),
            _ => Ok(Vec::new()),
        };
        let states = device.join("heads of a sweep", states)?;
        let seeds = self.seeds.iter().zip(states).filter(|(_, state)| *state == LOST);
        let tasks: Vec<_> = seeds.map(|(&seed, _)| Task { variant, number, seed }).collect();
        let total = self.variants.len() * self.seeds.len();
        let go_on = |error| to_go_on(error, results.runs.len(), total, out);
        for tasks in tasks.chunks(size) {
            tasks.iter().for_each(|task| lost(&path(task.seed)));
            let (_, failed) = runs.train(tasks)?;
            failed.map_or(Ok(()), |error| Err(go_on(error)))?;
            // The figures are known. The file of the head also has the correction for hubs.
            let known = |task: &&Task| results.test(objective, &variant.point, task.seed).is_some();
            let known: Vec<u64> = tasks.iter().filter(known).map(|task| task.seed).collect();
            let (_, failed) = round(device, &known, |&seed| {
                tested(&device.alone(), dataset, &mut Checkpoint::load(path(seed))?, &path(seed))
            })?;
            failed.map_or(Ok(()), |error| Err(go_on(error)))?;
        }
        Ok(())
    }

    /// [`FINE`] or [`LOST`] for the head of each seed.
    ///
    /// # Errors
    /// The head of another run in the place of one.
    fn states(&self, variant: &Variant, dataset: &str, path: impl Fn(u64) -> PathBuf) -> Result<Vec<u8>> {
        let state = |&seed: &u64| {
            let config = TrainConfig { seed, ..variant.config.clone() };
            match Checkpoint::load(path(seed)) {
                Ok(head) if head.is_of(&config.run_id(dataset), &config) => Ok(FINE),
                Ok(_) => {
                    let advice = "move it elsewhere; the same command then trains the head again";
                    let expected = "the head of this sweep";
                    let path = path(seed);
                    Err(Error::checkpoint(path.display(), expected, "that of another run", advice))
                }
                Err(_) => Ok(LOST),
            }
        };
        self.seeds.iter().map(state).collect()
    }
}
