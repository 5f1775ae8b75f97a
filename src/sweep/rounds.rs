//! Runs in rounds: in each, every process of a job does one of the next pieces of work. One process does one at a time.

use super::results::{Results, Run};
use super::{Fits, Sweep, Variant, head_path, train};
use crate::data::Dataset;
use crate::device::Device;
use crate::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

/// A run that is to be trained.
#[derive(Clone, Copy)]
pub(super) struct Task<'a> {
    pub variant: &'a Variant,
    /// The number of the point among those of its objective.
    pub number: usize,
    pub seed: u64,
}

/// Trains runs in the order of the plan, as many at a time as there are processes.
pub(super) struct Runs<'a> {
    pub device: &'a Device,
    pub dataset: &'a Arc<Dataset>,
    pub out: &'a Path,
    fits: Fits,
    /// Those that no process has begun.
    waiting: VecDeque<Task<'a>>,
    /// Those that have ended, but whose turn has not come.
    ready: Vec<Run>,
    /// Why one of the last round failed.
    failed: Option<Error>,
}

impl<'a> Runs<'a> {
    /// The runs of a sweep that `results` does not have.
    pub fn new(
        sweep: &'a Sweep,
        device: &'a Device,
        dataset: &'a Arc<Dataset>,
        out: &'a Path,
        results: &Results,
    ) -> Self {
        let mut waiting = VecDeque::new();
        for objective in sweep.objectives() {
            for (number, variant) in sweep.points(&objective).into_iter().enumerate() {
                let missing = |seed: &&u64| results.run(&objective, &variant.point, **seed).is_none();
                let seeds = sweep.seeds.iter().filter(missing);
                waiting.extend(seeds.map(|&seed| Task { variant, number, seed }));
            }
        }
        Self { device, dataset, out, fits: Fits::default(), waiting, ready: Vec::new(), failed: None }
    }

    /// The run that is next in the plan.
    ///
    /// # Errors
    /// Those of the run, or of one before it.
    pub fn next(&mut self, objective: &str, point: &str, seed: u64) -> Result<Run> {
        loop {
            let of = |run: &Run| run.objective == objective && run.point == point && run.seed == seed;
            if let Some(place) = self.ready.iter().position(of) {
                return Ok(self.ready.remove(place));
            }
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            let [_, size] = self.device.place();
            let tasks: Vec<_> = self.waiting.drain(..size.min(self.waiting.len())).collect();
            let (runs, failed) = self.train(&tasks)?;
            self.ready.extend(runs);
            self.failed = failed;
        }
    }

    /// Trains these runs in one round.
    pub fn train(&mut self, tasks: &[Task]) -> Result<(Vec<Run>, Option<Error>)> {
        let (own, fits) = (self.device.alone(), &mut self.fits);
        round(self.device, tasks, |Task { variant, number, seed }| {
            let path = head_path(self.out, &variant.objective(), *number, *seed);
            train(&own, self.dataset, (variant, *seed), fits, &path)
        })
    }
}

/// Does one piece of work in each process, of which there are at least as many. Returns the results in the order of the work,
/// on every process, and the first error.
///
/// # Errors
/// Processes that cannot exchange results.
pub(super) fn round<W, T: Clone + Serialize + DeserializeOwned>(
    device: &Device,
    work: &[W],
    mut of: impl FnMut(&W) -> Result<T>,
) -> Result<(Vec<T>, Option<Error>)> {
    let [place, size] = device.place();
    let own = work.get(place).map(&mut of).transpose();
    if size == 1 {
        return Ok(match own {
            Ok(own) => (own.into_iter().collect(), None),
            Err(error) => (Vec::new(), Some(error)),
        });
    }
    let said = own
        .as_ref()
        .ok()
        .and_then(Option::as_ref)
        .map_or(Ok(String::new()), |own| serde_json::to_string(own).map_err(|error| unreadable(&error)));
    let all = device.texts("results of a round", said)?;
    let failed = device.join::<u8>("the end of a round", own.map(|_| Vec::new())).err();
    let read = |text: &String| serde_json::from_str(text).map_err(|error| unreadable(&error));
    let results = all.iter().filter(|text| !text.is_empty()).map(read).collect::<Result<_>>()?;
    Ok((results, failed))
}

fn unreadable(error: &serde_json::Error) -> Error {
    Error::checkpoint("result of a process", "numbers", error, "report this as a bug")
}
