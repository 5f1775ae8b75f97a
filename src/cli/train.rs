//! `wgoal train`: one run in one folder, resumable.

mod ensemble;
mod run;

use super::config;
use super::corrected::Corrected;
use super::data::warn_of_data;
use super::interrupt::Interrupt;
use super::job::Job;
use super::notes::{note_doubts, note_start, reached, saved};
use super::options::{RunOptions, note_init, warn};
use super::outcome::{Baselines, baselines, chance, reported, reported_recall};
use super::progress::Spinner;
use super::report::Recorder;
use super::resume;
use super::run_folder::{BEST, Earlier, Lock, RunFolder, is_same_device};
use super::{DeviceArg, print_json, say, shown};
use clap::{Args, ValueEnum};
use run::{epochs, fit_correction, name, trainer};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use wgoal::train::Best;
use wgoal::{
    Checkpoint, Dataset, Device, Error, ErrorKind, Plain, Recall, Result, Split, TrainConfig, Trainer,
};

/// The dataset that comes with the project.
const EXAMPLE: &str = "data/clipart-mini";

const EXAMPLES: &str = "\
Examples:
  wgoal train                                                the example dataset
  wgoal train my-features --out run                          your features
  wgoal train my-features --recipe goal --objective con:lin  the GOAL paper's plain training
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
    pub options: RunOptions,
    #[command(flatten)]
    device: DeviceArg,
    /// Let the processes of a job compute on devices of different makes
    ///
    /// Results then differ in rounding from those on devices of one make, and with the order of the processes.
    #[arg(long, help_heading = "Device")]
    mixed: bool,
    /// TOML file with options, as `wgoal config` prints it [default: none]
    ///
    /// Options on the command line win over the file.
    #[allow(dead_code, reason = "read before the arguments are parsed")]
    #[arg(long, value_name = "FILE", help_heading = "Other", display_order = 998)]
    config: Option<PathBuf>,
    /// Folder of the run [default: a new folder in runs/]
    ///
    /// It receives config.json, run.toml, metrics.jsonl, best.safetensors, last.safetensors, result.json,
    /// similarities.jsonl and report.html.
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub out: Option<PathBuf>,
    /// Continue the run in --out; --resume=auto starts a run if there is none
    ///
    /// The run keeps its dataset, device and options. Only --epochs, --patience and --device can be changed.
    #[arg(long, requires = "out", num_args = 0..=1, require_equals = true, value_name = "auto")]
    #[arg(hide_possible_values = true, help_heading = "Output")]
    pub resume: Option<Option<Resume>>,
    /// Write checkpoints within epochs too, after so many steps (500) or a time (30s, 10m, 2h) [default: none]
    ///
    /// Each replaces last.safetensors. A run that is resumed from it ends with the same bits as one without an interruption.
    /// A run that Ctrl-C or SIGTERM stops writes a checkpoint in any case.
    #[arg(long, value_name = "STEPS|TIME", help_heading = "Output")]
    checkpoint_every: Option<String>,
    /// Do not compare with the closed forms CCA and ridge regression
    #[arg(long, help_heading = "Output")]
    no_baselines: bool,
    /// Do not write report.html
    ///
    /// The report shows learning curves, similarities, the weights of the objective, ranks and examples. `wgoal report`
    /// writes it again.
    #[arg(long, help_heading = "Output")]
    no_report: bool,
    /// Print the result as one line of JSON
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// What to do if there is no run to resume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Resume {
    /// Start a new run
    Auto,
}

/// The output of `--json`.
#[derive(Serialize)]
struct Summary<'a> {
    objective: String,
    recipe: &'a str,
    best_epoch: usize,
    val: Recall,
    /// The members of an ensemble.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    members: Vec<ensemble::Member>,
    #[serde(skip_serializing_if = "Option::is_none")]
    test: Option<Recall>,
    /// Recall with the correction for hubs; missing without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    corrected: Option<Corrected>,
    #[serde(skip_serializing_if = "Option::is_none")]
    baselines: Option<Baselines>,
    /// The file of the head.
    head: String,
    device: &'a str,
    seconds_training: f64,
}

/// What is known of a run before its first step.
struct Plan {
    lock: Option<Lock>,
    earlier: Option<Earlier>,
    /// Where the dataset is.
    path: PathBuf,
    dataset: Arc<Dataset>,
    config: TrainConfig,
    recipe: String,
    device: Device,
}

/// A run that is ready to train.
struct Ready {
    trainer: Trainer,
    folder: RunFolder,
    recipe: String,
    interrupt: Interrupt,
}

/// A run that has ended.
struct Ended {
    best: Best,
    checkpoint: Checkpoint,
    corrected: Option<Corrected>,
    seconds_training: f64,
    /// What an ensemble consists of.
    members: Vec<ensemble::Member>,
    /// The rsum of the start on validation and on the reported split, of the best start of an ensemble.
    start: Option<[f64; 2]>,
}

/// The recipe of a run that names none.
pub const RECIPE: &str = "wgoal";

/// The defaults that this recipe changes: options, and what its help says instead.
pub const DEFAULTS: [(&str, &str); 17] = [
    ("recipe", RECIPE),
    ("objective", "infonce-masked"),
    ("temperature", "0.04"),
    ("image_pooling", "none, or mean if there are regions alone"),
    ("text_pooling", "none, or mean if there are tokens alone"),
    ("signed_root", "images if they have no values below 0, else none"),
    ("standardize", "on"),
    ("init", "kcca, or cca for more than 5000 images"),
    ("landmarks", "5000, or 0 for more images"),
    ("embed", "1024, or less for few images"),
    ("lr", "0.00003 for infonce, else 0.000003"),
    ("centre_kernel", "off for infonce, else on"),
    ("lr_linear", "0.1"),
    ("batch", "512, or less for few pairs"),
    ("epochs", "4, or 10 for few images"),
    ("ema", "0.95"),
    ("dropout", "0.8"),
];

impl TrainArgs {
    pub fn run(mut self, job: &Job) -> Result<u8> {
        // `--resume auto` reads as --resume and a dataset.
        let auto = Path::new("auto");
        if self.resume == Some(None) && self.dataset.as_deref() == Some(auto) && !auto.exists() {
            (self.resume, self.dataset) = (Some(Some(Resume::Auto)), None);
        }
        let plan = self.plan(job)?;
        match plan.config.ensemble {
            1 if job.is_first() => self.train(self.ready(plan, job)?, job),
            1 => self.follow(&plan, job),
            count if job.size() > 1 => Err(job.refuses_ensemble(count)),
            _ => ensemble::train(&self, plan),
        }
    }

    /// The options, the dataset and the device of the run. The checks stand in the order in which a mistake should be
    /// reported.
    fn plan(&self, job: &Job) -> Result<Plan> {
        wgoal::check_environment()?;
        self.every()?;
        // Lock the folder before reading it, because another process may be writing there.
        let out = self.out.as_deref().filter(|out| job.is_first() && out.is_dir());
        let lock = out.map(Lock::of).transpose()?;
        let earlier = match (&self.out, self.resume) {
            (Some(out), Some(None)) => Some(RunFolder::load(out)?),
            (Some(out), Some(Some(Resume::Auto))) if RunFolder::is_run(out) => Some(RunFolder::load(out)?),
            (Some(out), _) if job.is_first() => RunFolder::refuse_if_used(out).map(|()| None)?,
            _ => None,
        };
        let path = dataset_path(
            self.dataset.clone().or_else(|| earlier.as_ref().map(|earlier| earlier.dataset.clone())),
        );
        let dataset = Arc::new(Dataset::open(&path)?);
        let (config, recipe) = match &earlier {
            None => {
                let (config, recipe) = self.options.start(&dataset, RECIPE)?;
                (job.divided(config), recipe)
            }
            Some(earlier) => (resume::config(&self.options, earlier)?, String::new()),
        };
        if earlier.is_none() {
            note_init(&[&config]);
        }
        note!("{}", dataset.summary());
        warn_of_data(&dataset, &[&config], &Split::ALL);
        // Training prints no captions. But a wrong number of them shows that captions and texts do not belong together.
        for fault in [dataset.caption(0).err(), dataset.image_name(0).err()].into_iter().flatten() {
            note!("warning: {fault}");
        }
        let before = earlier.as_ref().map(|earlier| earlier.device.as_str());
        let device = self.device.open_in(job, before)?;
        let device = job.share_work(&device, Some(self.mixed))?;
        if let Some(before) = before.filter(|before| !is_same_device(before, &device.to_string())) {
            note!(
                "note: the run was started on {}; results differ in rounding between devices",
                Plain(before)
            );
        }
        if earlier.is_none() {
            note!("{recipe}");
        }
        let recipe = match &earlier {
            None => self.options.recipe.clone().unwrap_or_else(|| RECIPE.into()),
            Some(earlier) => earlier.recipe.clone(),
        };
        Ok(Plan { lock, earlier, path, dataset, config, recipe, device })
    }

    /// Everything else before the first step.
    fn ready(&self, plan: Plan, job: &Job) -> Result<Ready> {
        let Plan { lock, earlier, path, dataset, config, recipe, device } = plan;
        let (before, checkpoint) =
            earlier.map_or((None, None), |earlier| (Some(earlier.config), earlier.checkpoint));
        let mut trainer = trainer(&device, &dataset, &config, checkpoint)?;
        job.share(&mut trainer)?;
        warn(&self.options.unused(&config, &dataset));
        if let Some(before) = &before {
            resume::note_changes(before, &config, trainer.steps_per_epoch(), trainer.epoch());
        }
        let name = name(&dataset, &config);
        // From here on there is a run to continue.
        let interrupt = Interrupt::watch()?;
        let mut folder =
            RunFolder::open(self.out.clone(), lock, &name, &trainer, &device, &path, &recipe, &[])?;
        config::save(folder.path(), &recipe, trainer.config(), (&*dataset, &*path), self.device.name())?;
        folder.keep(config::RUN);
        Ok(Ready { trainer, folder, recipe, interrupt })
    }

    /// Trains and reports.
    fn train(&self, Ready { mut trainer, mut folder, recipe, interrupt }: Ready, job: &Job) -> Result<u8> {
        let began = Instant::now();
        let out = folder.path().to_path_buf();
        let mut recorder = self.begin(&trainer, &mut folder)?;
        let watch = (&interrupt, job);
        folder.checkpoint_every(&mut trainer, self.every()?);
        let collapsed = epochs(&mut trainer, &mut folder, &mut recorder, watch, &out)?;
        folder.restore_deleted(&trainer)?;
        if let Some(signal) = job.signal(&interrupt)? {
            folder.save_within(&trainer)?;
            let saved = saved(&trainer, [folder.path(); 2]);
            always!("stopped by {} {}; {}", signal.name(), reached(&trainer), Plain(saved));
            return Ok(signal.exit_code());
        }
        drop(interrupt);
        let seconds_training = began.elapsed().as_secs_f64();
        let (Some(best), Some(mut checkpoint)) = (trainer.best_epoch(), trainer.best()) else {
            let advice = "give --epochs 1 or more";
            return Err(Error::new(ErrorKind::Config, "training", "an epoch", "none", advice));
        };
        note_doubts(&trainer, best, collapsed);
        let corrected = fit_correction(&mut checkpoint, &trainer);
        if corrected.is_some() {
            checkpoint.save(folder.path().join(BEST))?;
        }
        let ended = Ended { best, checkpoint, corrected, seconds_training, members: Vec::new(), start: None };
        self.report(&trainer, ended, folder.path(), recorder, &recipe)?;
        Ok(0)
    }

    /// Prints and records what a run starts with.
    fn begin(&self, trainer: &Trainer, folder: &mut RunFolder) -> Result<Recorder> {
        note_start(trainer, folder.path())?;
        if let Some(start) = trainer.start() {
            folder.record_start(start)?;
            note!("{start}");
        }
        Ok(Recorder::start(trainer, folder.path(), !self.no_report))
    }

    /// The closed forms, with these rsums of the one that the run started from. The run has succeeded even if they fail.
    fn closed_forms(&self, trainer: &Trainer, start: Option<[f64; 2]>) -> Option<Baselines> {
        if self.no_baselines {
            return None;
        }
        let _spinner = Spinner::new("closed forms, for comparison");
        match baselines(trainer) {
            Ok(mut baselines) => {
                start.into_iter().for_each(|rsums| baselines.set_start(&trainer.config().init, rsums));
                Some(baselines)
            }
            Err(error) => {
                note!("note: the closed forms failed: {error}");
                None
            }
        }
    }

    /// Prints recall of the best head and what training gained.
    fn report(
        &self,
        trainer: &Trainer,
        Ended { best, checkpoint, corrected, seconds_training, members, start }: Ended,
        folder: &Path,
        recorder: Recorder,
        recipe: &str,
    ) -> Result<()> {
        let split = reported(trainer.dataset());
        let recall = reported_recall(trainer, &checkpoint, best)?;
        let on = match split {
            Split::Test => "on the test split:",
            _ => "there is no test split, so this is validation, which chose the epoch:",
        };
        match members.len() {
            0 => note!("\nbest epoch {} by validation rsum {:.1}; {on}", best.epoch, best.recall.rsum),
            count => note!("\nensemble of {count}, validation rsum {:.1}; {on}", best.recall.rsum),
        }
        let test = (split == Split::Test).then_some(recall);
        let with_correction = corrected.as_ref().map(Corrected::recall);
        recorder.outcome(&checkpoint, test, with_correction);
        let baselines = self.closed_forms(trainer, start);
        let references = baselines.as_ref().map_or(Vec::new(), Baselines::references);
        if let Some(page) = recorder.finish(trainer, &checkpoint, test, with_correction, references) {
            note!("report: {}", shown(&page));
        }
        let head = folder.join(BEST);
        let config = trainer.config();
        if self.json {
            note!("{recall}");
            let typed = self.options.objective.objective.clone();
            return print_json(&Summary {
                objective: typed.unwrap_or_else(|| config.objective.to_string()),
                recipe,
                best_epoch: best.epoch,
                val: best.recall,
                members,
                test,
                corrected,
                baselines,
                head: head.display().to_string(),
                device: &trainer.device().to_string(),
                seconds_training,
            });
        }
        say(recall)?;
        corrected.map_or(Ok(()), say)?;
        match &baselines {
            Some(baselines) => {
                say(baselines.line())?;
                baselines.gain(recall.rsum, best.epoch, &config.init).map_or(Ok(()), say)?;
            }
            None => say(format!("chance: rsum {:.1}", chance(trainer, split)))?,
        }
        say(format!("head: {}", shown(&head)))
    }
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
