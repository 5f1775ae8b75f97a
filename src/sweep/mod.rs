//! Many runs, one table: every objective, at every point of a grid, with every seed.
//!
//! Validation chooses the point of each objective with the best mean rsum. The test split is used once, for the chosen points
//! only. Their heads get the correction for hubs. Each finished run is a line of `results.jsonl`, so an interrupted sweep continues and ends with the same table. A run
//! depends only on its configuration.

mod heads;
mod results;
mod rounds;
mod table;

pub use crate::math::TTest;
pub use results::Run;
pub use table::{Row, Score, Table};

use crate::data::{Dataset, Split};
use crate::device::Device;
use crate::eval::{Correction, Recall};
use crate::model::Head;
use crate::train::{Checkpoint, Init, Point, TrainConfig, Trainer, fit_start};
use crate::{Error, ErrorKind, Result};
use results::{Plan, Results, Test};
use rounds::{Runs, round};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// A configuration that a sweep trains with every seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Variant {
    /// The point of the grid in words, such as `tau=5 lr=0.001`; empty without a grid.
    pub point: String,
    /// Everything but the seed.
    pub config: TrainConfig,
}

impl Variant {
    fn objective(&self) -> String {
        self.config.objective.to_string()
    }
}

/// How far a sweep is.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct SweepProgress<'a> {
    /// The run that has just finished; `None` at the start, and where a head is lost.
    pub run: Option<&'a Run>,
    /// The head of a finished run that is missing or damaged, and is now trained again.
    pub lost: Option<&'a Path>,
    /// Finished runs, including those of earlier starts.
    pub done: usize,
    /// Runs in all.
    pub total: usize,
}

/// Trains variants with several seeds and compares them.
///
/// ```
/// use wgoal::{Dataset, Device, TrainConfig};
/// use wgoal::sweep::{Sweep, Variant};
/// let variants = ["con:con", "hinge"].map(|name| {
///     let mut config = TrainConfig::default();
///     config.objective = name.parse()?;
///     (config.embed, config.epochs) = (8, 1);
///     Ok(Variant { point: String::new(), config })
/// });
/// let sweep = Sweep::new(variants.into_iter().collect::<wgoal::Result<_>>()?, vec![0, 1], None)?;
/// let out = tempfile::tempdir().unwrap();
/// let table = sweep.run(&Device::cpu(), Dataset::open("data/clipart-mini")?, out.path(), |_| ())?;
/// println!("{}", table.to_markdown());
/// # Ok::<(), wgoal::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Sweep {
    variants: Vec<Variant>,
    seeds: Vec<u64>,
    baseline: String,
}

impl Sweep {
    /// A sweep over `variants` and `seeds`. Variants of the same objective are the points of its grid. Equal configurations count
    /// once. The default `baseline` is `con:con`, or the first objective if there is no `con:con`.
    ///
    /// # Errors
    /// No variants, no seeds or the same twice, a baseline that no variant has, an option out of range.
    pub fn new(variants: Vec<Variant>, seeds: Vec<u64>, baseline: Option<&str>) -> Result<Self> {
        let mut unique: Vec<Variant> = Vec::new();
        for Variant { point, config } in variants {
            config.validate()?;
            let variant = Variant { point, config: TrainConfig { seed: 0, ..config } };
            if unique.iter().any(|other| other.config == variant.config) {
                continue;
            }
            let same =
                |other: &Variant| other.point == variant.point && other.objective() == variant.objective();
            if unique.iter().any(same) {
                let thing = format!("point `{}` of {}", variant.point, variant.objective());
                return Err(Error::config(thing, "one configuration", "two", "name its points apart"));
            }
            unique.push(variant);
        }
        let distinct = seeds.iter().collect::<std::collections::BTreeSet<_>>().len() == seeds.len();
        if seeds.is_empty() || !distinct {
            let advice = "give each seed once, as in 0,1,2";
            return Err(Error::config("--seeds", "numbers that differ", format!("{seeds:?}"), advice));
        }
        let mut sweep = Self { variants: unique, seeds, baseline: String::new() };
        let objectives = sweep.objectives();
        let Some(first) = objectives.first() else {
            return Err(Error::config("--objectives", "at least one", "none", "name them, or give all"));
        };
        let wanted = baseline.unwrap_or("con:con");
        sweep.baseline = match objectives.iter().find(|name| *name == wanted) {
            Some(name) => name.clone(),
            None if baseline.is_none() => first.clone(),
            None => {
                let expected = format!("one of {}", objectives.join(", "));
                return Err(Error::config("--baseline", expected, wanted, "add it to --objectives"));
            }
        };
        Ok(sweep)
    }

    /// Names of the objectives, in the order of their first variants.
    fn objectives(&self) -> Vec<String> {
        let mut names = Vec::new();
        for name in self.variants.iter().map(Variant::objective) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// The variants of an objective: the points of its grid.
    fn points(&self, objective: &str) -> Vec<&Variant> {
        self.variants.iter().filter(|variant| variant.objective() == objective).collect()
    }

    /// Trains what `out/results.jsonl` does not hold yet, evaluates the chosen points, and calls `on_progress` at the start
    /// and after every run. `out/heads` keeps the heads of the chosen points. One that is missing or damaged is trained
    /// again. A run that diverges rules its point out.
    ///
    /// On a device that processes share ([`Device::with_ranks`]), each process trains whole runs on its own device, and the
    /// first one alone writes the results. They are those of one process, in the same order.
    ///
    /// # Errors
    /// Results of another sweep in `out`, files that cannot be written or read, a bad value in a row, a failing device.
    pub fn run(
        &self,
        device: &Device,
        dataset: impl Into<Arc<Dataset>>,
        out: &Path,
        mut on_progress: impl FnMut(SweepProgress),
    ) -> Result<Table> {
        let dataset = dataset.into();
        // Problems of the last run, or of the evaluation after it, are reported before the first run.
        dataset.need(Split::Test)?;
        for variant in &self.variants {
            Trainer::check_start(device, &dataset, &variant.config)?;
        }
        let first = device.place()[0] == 0;
        dataset.share_content_hash(device)?;
        let mut results = Results::shared(device, out, &Plan::new(self, &dataset)?, self.head_paths(out))?;
        let total = self.variants.len() * self.seeds.len();
        let mut runs = Runs::new(self, device, &dataset, out, &results);
        on_progress(SweepProgress { run: None, lost: None, done: results.runs.len(), total });
        for objective in self.objectives() {
            let points = self.points(&objective);
            for variant in &points {
                for &seed in &self.seeds {
                    if results.run(&objective, &variant.point, seed).is_some() {
                        continue;
                    }
                    let run = runs
                        .next(&objective, &variant.point, seed)
                        .map_err(|error| to_go_on(error, results.runs.len(), total, out))?;
                    results.add_run(run)?;
                    let run = results.runs.last();
                    on_progress(SweepProgress { run, lost: None, done: results.runs.len(), total });
                }
            }
            let chosen = self.choose(&results, &objective);
            if let Some(number) = chosen {
                let lost = |path: &Path| {
                    on_progress(SweepProgress {
                        run: None,
                        lost: Some(path),
                        done: results.runs.len(),
                        total,
                    });
                };
                self.restore_heads((&objective, number), points[number], &results, &mut runs, lost)?;
                self.test(device, &dataset, out, (&objective, number, &points[number].point), &mut results)?;
            }
            // Only the heads of the chosen point are kept. No point is chosen if every point has a run that diverged.
            for number in (0..points.len()).filter(|&number| first && chosen != Some(number)) {
                for &seed in &self.seeds {
                    let _ = std::fs::remove_file(head_path(out, &objective, number, seed));
                }
            }
        }
        Ok(Table::new(self, dataset.name(), &results))
    }

    /// Where the heads of all runs are kept.
    fn head_paths(&self, out: &Path) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        for objective in self.objectives() {
            for number in 0..self.points(&objective).len() {
                paths.extend(self.seeds.iter().map(|&seed| head_path(out, &objective, number, seed)));
            }
        }
        paths
    }

    /// Evaluates the chosen point of an objective on the test split, if this has not been done.
    fn test(
        &self,
        device: &Device,
        dataset: &Dataset,
        out: &Path,
        (objective, number, point): (&str, usize, &str),
        results: &mut Results,
    ) -> Result<()> {
        let total = self.variants.len() * self.seeds.len();
        let missing: Vec<u64> = self
            .seeds
            .iter()
            .copied()
            .filter(|&seed| results.test(objective, point, seed).is_none())
            .collect();
        for seeds in missing.chunks(device.place()[1]) {
            let (tests, failed) = round(device, seeds, |&seed| {
                let path = head_path(out, objective, number, seed);
                let mut checkpoint = Checkpoint::load(&path)?;
                let (recall, corrected) = tested(&device.alone(), dataset, &mut checkpoint, &path)?;
                let (objective, point) = (objective.into(), point.into());
                Ok(Test { objective, point, seed, recall, corrected })
            })?;
            tests.into_iter().try_for_each(|test| results.add_test(test))?;
            failed.map_or(Ok(()), |error| Err(to_go_on(error, results.runs.len(), total, out)))?;
        }
        Ok(())
    }

    /// The number of the point of an objective with the best mean validation rsum, the first among equals; `None` where
    /// every point diverged.
    fn choose(&self, results: &Results, objective: &str) -> Option<usize> {
        let mut best: Option<(usize, f64)> = None;
        for (number, variant) in self.points(objective).iter().enumerate() {
            let Some(rsums) = self.validation(results, objective, &variant.point) else { continue };
            let mean = crate::math::mean(&rsums);
            if best.is_none_or(|(_, other)| mean > other) {
                best = Some((number, mean));
            }
        }
        best.map(|(number, _)| number)
    }

    /// The best validation rsum of each seed; `None` unless every run finished.
    fn validation(&self, results: &Results, objective: &str, point: &str) -> Option<Vec<f64>> {
        let of = |&seed: &u64| Some(results.run(objective, point, seed)?.best?.recall.rsum);
        self.seeds.iter().map(of).collect()
    }
}

/// Recall of a chosen head on the test split, without and with the correction for hubs that its configuration asks for. The
/// correction is fitted on validation, and saved in the file of the head.
fn tested(
    device: &Device,
    dataset: &Dataset,
    checkpoint: &mut Checkpoint,
    path: &Path,
) -> Result<(Recall, Option<Recall>)> {
    let TrainConfig { equal_captions, correction, .. } = *checkpoint.config();
    let recall = checkpoint.head().recall(device, dataset, Split::Test, 1, equal_captions)?;
    if correction == Correction::None {
        return Ok((recall, None));
    }
    if checkpoint.fit_correction(device, dataset)?.correction.is_none() {
        return Ok((recall, Some(recall)));
    }
    checkpoint.save(path)?;
    Ok((recall, Some(checkpoint.recall(device, dataset, Split::Test, 1)?)))
}

/// The file of a run's head. It is deleted when another point is chosen.
fn head_path(out: &Path, objective: &str, number: usize, seed: u64) -> PathBuf {
    out.join("heads").join(format!(
        "{}-{}-s{seed}.safetensors",
        objective.replace([':', '@', '+', '*'], "-"),
        number + 1
    ))
}

/// One run from start to end, its best head saved as `path`.
fn train(
    device: &Device,
    dataset: &Arc<Dataset>,
    (variant, seed): (&Variant, u64),
    fits: &mut Fits,
    path: &Path,
) -> Result<Run> {
    let start = Instant::now();
    let config = TrainConfig { seed, ..variant.config.clone() };
    let mut trainer = Trainer::with_fit(device, dataset.clone(), config, |dataset, config| {
        fits.start(device, dataset, config)
    })?;
    let (mut collapsed, mut epochs) = (false, Vec::new());
    let trained: Result<()> = trainer.epochs().try_for_each(|epoch| {
        let epoch = epoch?;
        collapsed |= epoch.collapse.is_some();
        epochs.push(Point::from(&epoch));
        Ok(())
    });
    let diverged = match trained {
        Ok(()) => None,
        Err(error) if error.kind() == ErrorKind::Diverged => Some(error.to_string()),
        Err(error) => return Err(error),
    };
    let best = trainer.best_epoch().filter(|_| diverged.is_none());
    if let (Some(_), Some(checkpoint)) = (best, trainer.best()) {
        checkpoint.save(path)?;
    }
    Ok(Run {
        objective: variant.objective(),
        point: variant.point.clone(),
        seed,
        best,
        diverged,
        collapsed,
        device: device.to_string(),
        seconds: start.elapsed().as_secs_f64(),
        epochs,
    })
}

/// Closed forms that runs start from. They do not depend on the objective, so each is fitted once.
#[derive(Default)]
struct Fits(Vec<(TrainConfig, Head)>);

impl Fits {
    fn start(&mut self, device: &Device, dataset: &Dataset, config: &TrainConfig) -> Result<Head> {
        let random = config.init == Init::KernelCca;
        let input = TrainConfig::default().with(|input| {
            input.init = config.init.clone();
            input.embed = config.embed;
            input.image_pooling = config.image_pooling;
            input.text_pooling = config.text_pooling;
            input.signed_root = config.signed_root;
            input.standardize = config.standardize;
            input.equal_captions = config.equal_captions;
            input.slices = config.slices;
            input.regularization.clone_from(&config.regularization);
            if random {
                input.bandwidth.clone_from(&config.bandwidth);
                // The choice of landmarks and the frequencies of random features depend on the seed.
                input.landmarks = config.landmarks;
                input.random_features = config.random_features;
                input.seed = config.seed;
            }
        });
        if let Some((_, head)) = self.0.iter().find(|(other, _)| *other == input) {
            return Ok(head.clone());
        }
        let head = fit_start(device, dataset, config)?;
        self.0.push((input, head.clone()));
        Ok(head)
    }
}

/// Adds to the error of a failed device how to continue the sweep.
fn to_go_on(error: Error, done: usize, total: usize, out: &Path) -> Error {
    if error.kind() != ErrorKind::Device {
        return error;
    }
    let out = out.display();
    error.with_advice(format!(
        "{done} of {total} runs are in {out}: give the same command again to go on, with another --device if it happens \
         again"
    ))
}
