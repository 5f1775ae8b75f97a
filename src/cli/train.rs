//! `wgoal train`: one run in one folder, resumable.

use super::data::warn_of_data;
use super::options::{RunOptions, note_init, warn};
use super::resume;
use super::run_folder::{Lock, RunFolder};
use super::{DeviceArg, print_json, quoted, say, shown};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use wgoal::model::Side;
use wgoal::train::{Baseline, ClosedForm, Event, REGULARIZATIONS};
use wgoal::{Dataset, Error, ErrorKind, Plain, Recall, Result, Split, Trainer};

/// The dataset that comes with the project.
const EXAMPLE: &str = "data/clipart-mini";

const EXAMPLES: &str = "\
Examples:
  wgoal train                                                the example dataset
  wgoal train my-features --recipe wgoal --out run           our recipe
  wgoal train my-features --objective hinge --epochs 50      a hinge loss
  wgoal train --resume --out run                             continue a run
  wgoal train --resume --out run --epochs 80                 train it for longer";

#[derive(Args)]
#[command(before_long_help = EXAMPLES)]
pub struct TrainArgs {
    /// Folder, .safetensors or .npz file with features [default: data/clipart-mini]
    ///
    /// It holds images and texts. It may also hold text_to_image, split_train, split_val and split_test.
    dataset: Option<PathBuf>,
    #[command(flatten)]
    options: RunOptions,
    #[command(flatten)]
    device: DeviceArg,
    /// Folder of the run [default: a new folder in runs/]
    ///
    /// It receives config.json, metrics.jsonl, best.safetensors and last.safetensors.
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    out: Option<PathBuf>,
    /// Continue the run in --out
    ///
    /// The run keeps its dataset, device and options. Only --epochs, --patience and --device can be changed.
    #[arg(long, requires = "out", help_heading = "Output")]
    resume: bool,
    /// Do not compare with the closed forms CCA and ridge regression
    #[arg(long, help_heading = "Output")]
    no_baselines: bool,
    /// Print the result as one line of JSON
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// Test rsum of methods without training.
#[derive(Serialize)]
struct Baselines {
    cca: f64,
    ridge: f64,
    chance: f64,
}

/// The output of `--json`.
#[derive(Serialize)]
struct Summary {
    best_epoch: usize,
    val: Recall,
    test: Recall,
    #[serde(skip_serializing_if = "Option::is_none")]
    baselines: Option<Baselines>,
    device: String,
    seconds_training: f64,
}

impl TrainArgs {
    pub fn run(self) -> Result<()> {
        // Lock the folder before reading it, because another process may be writing there.
        let lock = self.out.as_deref().filter(|out| out.is_dir()).map(Lock::of).transpose()?;
        let earlier = match (&self.out, self.resume) {
            (Some(out), true) => Some(RunFolder::load(out)?),
            (Some(out), false) => RunFolder::refuse_if_used(out).map(|()| None)?,
            _ => None,
        };
        let path = dataset_path(
            self.dataset.clone().or_else(|| earlier.as_ref().map(|earlier| earlier.dataset.clone())),
        );
        let dataset = Arc::new(Dataset::open(&path)?);
        let config = match &earlier {
            None => {
                let config = self.options.apply(self.options.recipe(&dataset)?.unwrap_or_default())?;
                note_init(&[&config]);
                config
            }
            Some(earlier) => resume::config(&self.options, earlier)?,
        };
        warn_of_data(&dataset, &[&config], &Split::ALL);
        // Training prints no captions. But a wrong number of them shows that captions and texts do not belong together.
        for fault in [dataset.caption(0).err(), dataset.image_name(0).err()].into_iter().flatten() {
            note!("warning: {fault}");
        }
        let before = earlier.as_ref().map(|earlier| earlier.device.as_str());
        let device = self.device.open_as(before)?;
        if let Some(before) = before.filter(|before| *before != device.to_string()) {
            note!(
                "note: the run was started on {}; results differ in rounding between devices",
                Plain(before)
            );
        }
        let (before, recipe, checkpoint) = match earlier {
            None => (None, self.options.recipe.clone(), None),
            Some(earlier) => (Some(earlier.config), earlier.recipe, earlier.checkpoint),
        };
        let trainer = match checkpoint {
            None => Trainer::new(&device, dataset.clone(), config.clone())?,
            Some(checkpoint) => {
                let checkpoint = resume::checkpoint(checkpoint, &config)?;
                Trainer::resume(&device, dataset.clone(), checkpoint)?
            }
        };
        warn(&self.options.unused(&config, &dataset));
        if let Some(before) = &before {
            resume::note_changes(before, &config, trainer.steps_per_epoch(), trainer.epoch());
        }
        let name = || {
            format!("{}-{}-s{}", dataset.name(), config.objective, config.seed)
                .replace([':', '.', '@', '+', '*', '/', '\\'], "-")
        };
        let folder = RunFolder::open(self.out.clone(), lock, &name(), &trainer, &device, &path, recipe)?;
        self.train(trainer, folder, &device.to_string())
    }

    /// Adds to the error of a failed device how to continue the run.
    fn lost(&self, error: Error, trainer: &Trainer, folder: &RunFolder) -> Error {
        if error.kind() != ErrorKind::Device {
            return error;
        }
        error.with_advice(advice_to_resume(trainer.epoch(), folder.path()))
    }

    fn train(&self, mut trainer: Trainer, mut folder: RunFolder, device: &str) -> Result<()> {
        let bar = progress_bar(&mut trainer);
        note_start(&trainer, folder.path());
        let start = Instant::now();
        let mut collapsed = false;
        while !trainer.finished() {
            let epoch = trainer.run_epoch().map_err(|error| self.lost(error, &trainer, &folder))?;
            folder.record(&trainer, &epoch)?;
            bar.suspend(|| note!("{epoch}"));
            if let Some(collapse) = epoch.collapse.filter(|_| !collapsed) {
                collapsed = true;
                bar.suspend(|| note!("warning: {collapse}"));
            }
        }
        bar.finish_and_clear();
        let seconds_training = start.elapsed().as_secs_f64();
        let (Some(best), Some(checkpoint)) = (trainer.best_epoch(), trainer.best()) else {
            let advice = "give --epochs 1 or more";
            return Err(Error::new(ErrorKind::Config, "training", "an epoch", "none", advice));
        };
        let val = chance(&trainer, Split::Val);
        // A run of only a few epochs may still be near chance.
        if !collapsed && trainer.epoch() >= 5 && best.recall.is_at_chance(val) {
            note!(
                "warning: validation stayed near chance (rsum {:.1}, chance {val:.1}): check that text_to_image names \
                 the image of every caption, and that images and texts are in the order of their features",
                best.recall.rsum
            );
        }
        let test = trainer.recall_of(checkpoint.head(), Split::Test)?;
        note!("\nbest epoch {} by validation rsum {:.1}; on the test split:", best.epoch, best.recall.rsum);
        let baselines = if self.no_baselines { Ok(None) } else { baselines(&trainer) };
        // The run has succeeded even if the closed forms fail.
        let baselines = baselines.unwrap_or_else(|error| {
            note!("note: the closed forms failed: {error}");
            None
        });
        if self.json {
            note!("{test}");
            let (best_epoch, val, device) = (best.epoch, best.recall, device.to_string());
            return print_json(&Summary { best_epoch, val, test, baselines, device, seconds_training });
        }
        say(test)?;
        say(match baselines {
            Some(Baselines { cca, ridge, chance }) => {
                format!(
                    "without training: rsum {cca:.1} by CCA, {ridge:.1} by ridge regression, {chance:.1} by chance"
                )
            }
            None => format!("chance: rsum {:.1}", chance(&trainer, Split::Test)),
        })?;
        say(format!("head: {}", shown(&folder.path().join("best.safetensors"))))
    }
}

/// A progress bar that follows the steps of a run.
fn progress_bar(trainer: &mut Trainer) -> ProgressBar {
    let (steps, epochs) = (trainer.steps_per_epoch(), trainer.config().epochs);
    let bar = ProgressBar::new((epochs * steps) as u64);
    let style = "{bar:30} epoch {msg}  {per_sec} steps  {eta} left";
    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_position((trainer.epoch() * steps) as u64);
    bar.reset_eta();
    let watcher = bar.clone();
    trainer.on_event(move |event| {
        if let Event::Step { epoch, step, steps } = event {
            watcher.set_message(format!("{epoch}/{epochs}"));
            watcher.set_position(((epoch - 1) * steps + step) as u64);
        }
    });
    bar
}

/// Prints what is trained and where the run is written.
fn note_start(trainer: &Trainer, out: &Path) {
    let (captions, config) = (trainer.dataset().split(Split::Train).texts.len(), trainer.config());
    let steps = trainer.steps_per_epoch();
    note!("training {} with {steps} steps per epoch, into {}", config.objective, shown(out));
    if config.batch > captions {
        note!("note: every step trains on all {captions} pairs, fewer than --batch {}", config.batch);
    }
    if config.batch.min(captions) == 1 && config.memory_bank == 0 {
        note!("note: a batch of one pair has no negatives");
    }
}

/// The test rsum of the closed forms on the same features. `None`, with a note, if computing it would take long.
fn baselines(trainer: &Trainer) -> Result<Option<Baselines>> {
    // The work grows with the cube of the width and linearly with the pairs.
    const WIDTH: usize = 2048;
    const PAIRS: usize = 200_000;
    // Closed forms have no learned pooling: they use the mean instead.
    let config = trainer.config().in_closed_form();
    let (dataset, device) = (trainer.dataset(), trainer.device());
    let [image, text] = config.pooling();
    let widest = dataset.width(Side::Image, image)?.max(dataset.width(Side::Text, text)?);
    if widest > WIDTH || dataset.split(Split::Train).texts.len() > PAIRS {
        note!("note: closed forms are left out on data this large; `wgoal baseline` computes them");
        return Ok(None);
    }
    let rsum = |form| -> Result<f64> {
        let baseline = Baseline::fit(form, device, dataset, &config, &REGULARIZATIONS)?;
        Ok(baseline.head.recall(device, dataset, Split::Test, 1)?.rsum)
    };
    let (cca, ridge) = (rsum(ClosedForm::Cca)?, rsum(ClosedForm::Ridge)?);
    Ok(Some(Baselines { cca, ridge, chance: chance(trainer, Split::Test) }))
}

/// How to continue a run in `out` after the device failed.
fn advice_to_resume(done: usize, out: &Path) -> String {
    format!(
        "{done} epochs are saved in {}: continue with `wgoal train --resume --out {}`, or with another --device if it \
         happens again",
        out.display(),
        quoted(out)
    )
}

/// The given dataset, or the example dataset of the project.
pub fn dataset_path(given: Option<PathBuf>) -> PathBuf {
    match (given, std::env::var_os("CARGO_MANIFEST_DIR")) {
        (Some(path), _) => path,
        // `cargo run` can be called from any folder of the project.
        (None, Some(project)) if !PathBuf::from(EXAMPLE).exists() => PathBuf::from(project).join(EXAMPLE),
        (None, _) => PathBuf::from(EXAMPLE),
    }
}

/// The rsum of a random ranking on a split.
fn chance(trainer: &Trainer, split: Split) -> f64 {
    let split = trainer.dataset().split(split);
    Recall::chance(split.images.len(), &split.text_image)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use clap::FromArgMatches;

    /// The advised command, copied into a shell, resumes the run in its folder.
    #[test]
    fn the_advised_command_names_the_folder() {
        for out in ["runs/a", "my runs/it's $HOME"] {
            let advice = advice_to_resume(3, Path::new(out));
            let (_, command) = advice.split_once("`wgoal ").unwrap();
            let (command, _) = command.rsplit_once('`').unwrap();
            let script = format!("printf '%s\\n' {command}");
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            let arguments = String::from_utf8(output.stdout).unwrap();
            let mut matches = crate::cli::help::command()
                .try_get_matches_from(std::iter::once("wgoal").chain(arguments.lines()))
                .unwrap();
            let (_, mut train) = matches.remove_subcommand().unwrap();
            let args = TrainArgs::from_arg_matches_mut(&mut train).unwrap();
            assert_eq!((args.out.as_deref(), args.resume), (Some(Path::new(out)), true), "{advice}");
        }
    }
}
