//! `wgoal train`: one run in one folder, resumable.

use super::run_folder::RunFolder;
use super::{DeviceArg, ObjectiveArgs, Switch, print_json, say};
use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use wgoal::{
    Baseline, ClosedForm, Dataset, Error, ErrorKind, Event, ImageEncoder, Init, Optimizer, Pooling, RECIPES,
    REGULARIZATIONS, Recall, Result, Schedule, Side, SignedRoot, Split, TrainConfig, Trainer, Warmup,
};

/// The dataset that comes with the project.
const EXAMPLE: &str = "data/clipart-mini";

#[derive(Clone, Copy, ValueEnum)]
enum OptimizerName {
    Adamw,
    Sgd,
}

#[derive(Clone, Copy, ValueEnum)]
enum ScheduleName {
    Constant,
    Cosine,
    Linear,
}

#[derive(Clone, Copy, ValueEnum)]
enum PoolingName {
    None,
    Mean,
    Max,
    Joined,
    Gpo,
}

impl From<PoolingName> for Pooling {
    fn from(name: PoolingName) -> Self {
        match name {
            PoolingName::None => Self::None,
            PoolingName::Mean => Self::Mean,
            PoolingName::Max => Self::Max,
            PoolingName::Joined => Self::Joined,
            PoolingName::Gpo => Self::Gpo,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum RootName {
    None,
    Images,
    Texts,
    Both,
}

impl From<RootName> for SignedRoot {
    fn from(name: RootName) -> Self {
        match name {
            RootName::None => Self::None,
            RootName::Images => Self::Images,
            RootName::Texts => Self::Texts,
            RootName::Both => Self::Both,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum InitName {
    Xavier,
    Cca,
}

#[derive(Clone, Copy, ValueEnum)]
enum EncoderName {
    Linear,
    ResidualMlp,
}

/// The names of all recipes, each with what it is.
fn recipes() -> PossibleValuesParser {
    PossibleValuesParser::new(RECIPES.map(|recipe| PossibleValue::new(recipe.name).help(recipe.summary)))
}

/// What makes features into input.
#[derive(Args, Clone)]
pub struct InputArgs {
    /// What makes one vector of an image: images.npy (none), image_regions pooled, or both joined [none]
    #[arg(long, value_name = "POOLING")]
    image_pooling: Option<PoolingName>,
    /// What makes one vector of a caption: texts.npy (none), text_tokens pooled, or both joined [none]
    #[arg(long, value_name = "POOLING")]
    text_pooling: Option<PoolingName>,
    /// Whose features x become sign(x) sqrt(|x|) first [none]
    #[arg(long, value_name = "SIDES")]
    signed_root: Option<RootName>,
    /// Shift and scale the features by the training rows' mean and deviation
    #[arg(long, value_name = "on|off", num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    standardize: Option<Switch>,
}

impl InputArgs {
    pub fn apply(&self, base: TrainConfig) -> TrainConfig {
        TrainConfig {
            image_pooling: self.image_pooling.map_or(base.image_pooling, Pooling::from),
            text_pooling: self.text_pooling.map_or(base.text_pooling, Pooling::from),
            signed_root: self.signed_root.map_or(base.signed_root, SignedRoot::from),
            standardize: self.standardize.map_or(base.standardize, Switch::is_on),
            ..base
        }
    }
}

/// What decides a run.
#[derive(Args, Clone)]
pub struct RunOptions {
    /// The training of a published model, to start from: other options override it
    #[arg(long, value_name = "NAME", value_parser = recipes())]
    pub recipe: Option<String>,
    #[command(flatten)]
    pub objective: ObjectiveArgs,
    #[command(flatten)]
    input: InputArgs,
    /// What maps image features to the embedding [linear]
    #[arg(long, value_name = "ENCODER")]
    image_encoder: Option<EncoderName>,
    /// What the weights start from: random, or the closed form of `wgoal baseline cca` [xavier]
    #[arg(long)]
    init: Option<InitName>,
    /// Passes over the training captions [30]
    #[arg(long)]
    epochs: Option<usize>,
    /// Pairs in a batch [128]
    #[arg(long)]
    batch: Option<usize>,
    /// Width of the joint embedding [256]
    #[arg(long)]
    embed: Option<usize>,
    /// Learning rate [0.0005]
    #[arg(long, allow_negative_numbers = true)]
    lr: Option<f64>,
    /// Weight decay [0.0001]
    #[arg(long, allow_negative_numbers = true)]
    weight_decay: Option<f64>,
    /// Whether biases decay as well [on]
    #[arg(long, value_name = "on|off")]
    decay_biases: Option<Switch>,
    /// Decays of adamw's moments [0.9,0.999]
    #[arg(long, value_delimiter = ',', value_name = "B1,B2")]
    betas: Option<Vec<f64>>,
    /// Largest gradient norm, 0 for no clipping [2]
    #[arg(long, allow_negative_numbers = true)]
    clip: Option<f32>,
    /// Divide the learning rate by ten after each of these numbers of epochs
    #[arg(long, value_delimiter = ',', value_name = "E1,E2")]
    lr_drop: Option<Vec<usize>>,
    /// Steps over which the learning rate rises, or a percentage of all steps, as in 10% [0]
    #[arg(long, value_name = "STEPS")]
    lr_warmup: Option<String>,
    /// Course of the learning rate after its rise [constant]
    #[arg(long)]
    schedule: Option<ScheduleName>,
    /// First epochs on the hinge over all negatives [0]
    #[arg(long, value_name = "K")]
    warmup_epochs: Option<usize>,
    /// Pairs of a memory bank, whole batches: mine among the embeddings of the epoch's last batches too; 0 is none [0]
    #[arg(long, value_name = "PAIRS")]
    memory_bank: Option<usize>,
    /// First epochs without the memory bank [1]
    #[arg(long, value_name = "EPOCHS")]
    bank_warmup: Option<usize>,
    /// Update rule [adamw]
    #[arg(long)]
    optimizer: Option<OptimizerName>,
    /// Momentum of sgd [0.9]
    #[arg(long, allow_negative_numbers = true)]
    momentum: Option<f64>,
    /// Probability that an input feature is zeroed in training [0]
    #[arg(long, allow_negative_numbers = true)]
    dropout: Option<f32>,
    /// Leave out regions and tokens at random in training
    #[arg(long, value_name = "on|off", num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    size_augment: Option<Switch>,
    /// Probability that --size-augment leaves out a token; that of a region is 0.2 [0.08]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    token_dropout: Option<f64>,
    /// Decides first weights, order, dropout and augmentation [0]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Whether other captions of an image are no negatives of it [on]
    #[arg(long, value_name = "on|off")]
    mask_same_image: Option<Switch>,
    /// Stop after this many epochs without a better validation rsum, 0 never [0]
    #[arg(long, value_name = "EPOCHS")]
    patience: Option<usize>,
}

#[derive(Args)]
pub struct TrainArgs {
    /// Folder or .safetensors file with images, texts, text_to_image and splits [data/clipart-mini]
    dataset: Option<PathBuf>,
    #[command(flatten)]
    options: RunOptions,
    #[command(flatten)]
    device: DeviceArg,
    /// Folder for config.json, metrics.jsonl, best.safetensors and last.safetensors [a new one in runs/]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with the run in --out; options may be left out, and none may differ but --epochs and --device
    #[arg(long, requires = "out")]
    resume: bool,
    /// Leave out what the closed forms reach on the same features
    #[arg(long)]
    no_baselines: bool,
    /// End with one line of JSON on standard output
    #[arg(long)]
    json: bool,
}

/// Test rsum of what needs no training.
#[derive(Serialize)]
struct Baselines {
    cca: f64,
    ridge: f64,
    chance: f64,
}

/// The last line of `--json`.
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

impl RunOptions {
    /// The configuration that results from `base` and the options given.
    pub fn apply(&self, base: TrainConfig) -> Result<TrainConfig> {
        let optimizer = match (self.optimizer, self.momentum, base.optimizer) {
            (None, None, optimizer) => optimizer,
            (Some(OptimizerName::Adamw), None, optimizer @ Optimizer::AdamW { .. }) => optimizer,
            (Some(OptimizerName::Adamw), None, _) => Optimizer::default(),
            (Some(OptimizerName::Sgd), momentum, Optimizer::AdamW { .. }) => {
                Optimizer::Sgd { momentum: momentum.unwrap_or(0.9) }
            }
            (None | Some(OptimizerName::Sgd), momentum, Optimizer::Sgd { momentum: before }) => {
                Optimizer::Sgd { momentum: momentum.unwrap_or(before) }
            }
            (_, Some(momentum), _) => {
                let advice = "add --optimizer sgd, or leave --momentum out";
                return Err(Error::new(ErrorKind::Config, "--momentum", "--optimizer sgd", momentum, advice));
            }
        };
        let optimizer = match (self.betas.as_deref(), optimizer) {
            (None, optimizer) => optimizer,
            (Some(&[beta1, beta2]), Optimizer::AdamW { epsilon, .. }) => {
                Optimizer::AdamW { beta1, beta2, epsilon }
            }
            (Some(betas), _) => {
                let (expected, advice) = ("two numbers, and --optimizer adamw", "give them as in 0.9,0.999");
                return Err(Error::new(ErrorKind::Config, "--betas", expected, format!("{betas:?}"), advice));
            }
        };
        let config = TrainConfig {
            objective: self.objective.resolve(base.objective.clone())?,
            epochs: self.epochs.unwrap_or(base.epochs),
            batch: self.batch.unwrap_or(base.batch),
            embed: self.embed.unwrap_or(base.embed),
            init: match self.init {
                None => base.init,
                Some(InitName::Xavier) => Init::Xavier,
                Some(InitName::Cca) => Init::Cca,
            },
            image_encoder: match self.image_encoder {
                None => base.image_encoder,
                Some(EncoderName::Linear) => ImageEncoder::Linear,
                Some(EncoderName::ResidualMlp) => ImageEncoder::ResidualMlp,
            },
            optimizer,
            lr: self.lr.unwrap_or(base.lr),
            weight_decay: self.weight_decay.unwrap_or(base.weight_decay),
            decay_biases: self.decay_biases.map_or(base.decay_biases, Switch::is_on),
            clip: self.clip.unwrap_or(base.clip),
            schedule: match self.schedule {
                None => base.schedule,
                Some(ScheduleName::Constant) => Schedule::Constant,
                Some(ScheduleName::Cosine) => Schedule::Cosine,
                Some(ScheduleName::Linear) => Schedule::Linear,
            },
            lr_drop: self.lr_drop.clone().unwrap_or_else(|| base.lr_drop.clone()),
            lr_warmup: match &self.lr_warmup {
                None => base.lr_warmup,
                Some(text) => text.parse::<Warmup>()?,
            },
            warmup_epochs: self.warmup_epochs.unwrap_or(base.warmup_epochs),
            memory_bank: self.memory_bank.unwrap_or(base.memory_bank),
            bank_warmup: self.bank_warmup.unwrap_or(base.bank_warmup),
            dropout: self.dropout.unwrap_or(base.dropout),
            size_augment: self.size_augment.map_or(base.size_augment, Switch::is_on),
            token_dropout: self.token_dropout.unwrap_or(base.token_dropout),
            seed: self.seed.unwrap_or(base.seed),
            mask_same_image: self.mask_same_image.map_or(base.mask_same_image, Switch::is_on),
            patience: self.patience.unwrap_or(base.patience),
            ..self.input.apply(base)
        };
        config.validate()?;
        Ok(config)
    }

    /// The configuration of the recipe named.
    pub fn recipe(&self, dataset: &Dataset) -> Result<Option<TrainConfig>> {
        self.recipe.as_ref().map(|name| TrainConfig::recipe(name, dataset)).transpose()
    }
}

impl TrainArgs {
    pub fn run(self) -> Result<()> {
        let earlier = match (&self.out, self.resume) {
            (Some(out), true) => Some(RunFolder::load(out)?),
            (Some(out), false) => RunFolder::refuse_if_used(out).map(|()| None)?,
            _ => None,
        };
        let path = dataset_path(
            self.dataset.clone().or_else(|| earlier.as_ref().map(|earlier| earlier.dataset.clone())),
        );
        let dataset = Arc::new(Dataset::open(&path)?);
        let recipe = self.options.recipe(&dataset)?;
        let config = match &earlier {
            None => self.options.apply(recipe.unwrap_or_default())?,
            Some(earlier) => self.apply_to_resumed(&earlier.config, recipe)?,
        };
        self.options.objective.note_unused(&config.objective);
        let before = earlier.as_ref().map(|earlier| earlier.device.as_str());
        let device = self.device.open_as(before)?;
        if let Some(before) = before.filter(|before| *before != device.to_string()) {
            note!("note: the run was started on {before}; another device gives other bits");
        }
        let trainer = match earlier.and_then(|earlier| earlier.checkpoint) {
            None => Trainer::new(&device, dataset.clone(), config.clone())?,
            Some(checkpoint) if checkpoint.epoch() > config.epochs => {
                let (done, epochs) = (checkpoint.epoch(), config.epochs);
                let advice = "give as many, or more to go on";
                return Err(Error::new(
                    ErrorKind::Config,
                    "--epochs",
                    format!("at least the {done} that the run has done"),
                    epochs,
                    advice,
                ));
            }
            Some(checkpoint) => {
                note!("resuming after epoch {} of {}", checkpoint.epoch(), config.epochs);
                Trainer::resume(&device, dataset.clone(), checkpoint.with_epochs(config.epochs))?
            }
        };
        let name = || {
            format!("{}-{}-s{}", dataset.name(), config.objective, config.seed)
                .replace([':', '.', '@', '+', '*', '/', '\\'], "-")
        };
        let folder = RunFolder::open(self.out.clone(), &name(), &trainer, &device, &path)?;
        self.train(trainer, folder, &device.to_string())
    }

    /// Says of a device that failed in the middle of a run where the run stands.
    fn lost(&self, error: Error, trainer: &Trainer, folder: &RunFolder) -> Error {
        if error.kind() != ErrorKind::Device {
            return error;
        }
        let (done, out) = (trainer.epoch(), folder.path().display());
        error.with_advice(format!(
            "{done} epochs are in {out}: go on with `wgoal train --resume --out {out}`, on another --device if it \
             happens again"
        ))
    }

    /// Only the number of epochs may change: anything else would be another run.
    fn apply_to_resumed(&self, before: &TrainConfig, recipe: Option<TrainConfig>) -> Result<TrainConfig> {
        let config = self.options.apply(recipe.unwrap_or_else(|| before.clone()))?;
        let same = TrainConfig { epochs: before.epochs, ..config.clone() };
        if same != *before {
            let (old, new) = (serde_json::to_value(before), serde_json::to_value(&same));
            let changed = match (old, new) {
                (Ok(serde_json::Value::Object(old)), Ok(serde_json::Value::Object(new))) => old
                    .iter()
                    .filter(|(key, value)| new.get(*key) != Some(*value))
                    .map(|(key, value)| (format!("{key} = {value}"), format!("{key} = {}", new[key])))
                    .collect(),
                _ => Vec::new(),
            };
            let (expected, found): (Vec<_>, Vec<_>) = changed.into_iter().unzip();
            let advice = "leave the option out, or start another run in another --out";
            let (expected, found) = (expected.join(", "), found.join(", "));
            return Err(Error::new(ErrorKind::Config, "--resume", expected, found, advice));
        }
        Ok(config)
    }

    fn train(&self, mut trainer: Trainer, mut folder: RunFolder, device: &str) -> Result<()> {
        let steps = trainer.steps_per_epoch();
        let total = trainer.config().epochs * steps;
        let bar = ProgressBar::new(total as u64);
        let style = "{bar:30} epoch {msg}  {per_sec} steps  {eta} left";
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        let done = trainer.epoch() * steps;
        bar.set_position(done as u64);
        bar.reset_eta();
        let (watcher, epochs) = (bar.clone(), trainer.config().epochs);
        trainer.on_event(move |event| {
            if let Event::Step { epoch, step, steps } = event {
                watcher.set_message(format!("{epoch}/{epochs}"));
                watcher.set_position(((epoch - 1) * steps + step) as u64);
            }
        });
        note!(
            "training {} on {} steps an epoch, into {}",
            trainer.config().objective,
            steps,
            folder.path().display()
        );
        let (captions, config) = (trainer.dataset().split(Split::Train).texts.len(), trainer.config());
        if config.batch > captions {
            note!(
                "note: every step takes all {captions} pairs: there are fewer than --batch {}",
                config.batch
            );
        }
        if config.batch.min(captions) == 1 && config.memory_bank == 0 {
            note!("note: a batch of one pair has no negatives");
        }
        let start = Instant::now();
        let (mut warned, mut collapsed) = (false, false);
        while !trainer.finished() {
            let epoch = trainer.run_epoch().map_err(|error| self.lost(error, &trainer, &folder))?;
            folder.record(&trainer, &epoch)?;
            bar.suspend(|| note!("{epoch}"));
            if epoch.zero_rows > 0 && !warned {
                warned = true;
                let rows = epoch.zero_rows;
                bar.suspend(|| note!("warning: {rows} of the feature rows read are zero throughout"));
            }
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
        let test = trainer.recall_of(checkpoint.head(), Split::Test)?;
        note!("\nbest epoch {} by validation rsum {:.1}; on the test split:", best.epoch, best.recall.rsum);
        let baselines = if self.no_baselines { Ok(None) } else { baselines(&trainer) };
        // The run itself has succeeded.
        let baselines = baselines.unwrap_or_else(|error| {
            note!("note: no closed form to compare with: {error}");
            None
        });
        if self.json {
            note!("{test}");
            let device = device.to_string();
            return print_json(&Summary {
                best_epoch: best.epoch,
                val: best.recall,
                test,
                baselines,
                device,
                seconds_training,
            });
        }
        say(test)?;
        match baselines {
            Some(Baselines { cca, ridge, chance }) => {
                say(format!(
                    "without training: rsum {cca:.1} by CCA, {ridge:.1} by ridge regression, {chance:.1} by chance"
                ))?;
            }
            None => say(format!("chance: rsum {:.1}", chance(&trainer)))?,
        }
        say(format!("head: {}", folder.path().join("best.safetensors").display()))
    }
}

/// What the closed forms reach on the same features; none, with a note, where that would take long.
fn baselines(trainer: &Trainer) -> Result<Option<Baselines>> {
    // Their work grows with the cube of the width and with the pairs.
    const WIDTH: usize = 2048;
    const PAIRS: usize = 200_000;
    // A pooling that is learned is compared with that of the mean.
    let config = trainer.config().in_closed_form();
    let (dataset, device) = (trainer.dataset(), trainer.device());
    let [image, text] = config.pooling();
    let widest = dataset.width(Side::Image, image)?.max(dataset.width(Side::Text, text)?);
    if widest > WIDTH || dataset.split(Split::Train).texts.len() > PAIRS {
        note!("note: no closed form to compare with on data this large; `wgoal baseline` computes it");
        return Ok(None);
    }
    let rsum = |form| -> Result<f64> {
        let baseline = Baseline::fit(form, device, dataset, &config, &REGULARIZATIONS)?;
        Ok(baseline.head.recall(device, dataset, Split::Test, 1)?.rsum)
    };
    let (cca, ridge) = (rsum(ClosedForm::Cca)?, rsum(ClosedForm::Ridge)?);
    Ok(Some(Baselines { cca, ridge, chance: chance(trainer) }))
}

/// The dataset given, or that of the project.
pub fn dataset_path(given: Option<PathBuf>) -> PathBuf {
    match (given, std::env::var_os("CARGO_MANIFEST_DIR")) {
        (Some(path), _) => path,
        // `cargo run` may be called from any folder of the project.
        (None, Some(project)) if !PathBuf::from(EXAMPLE).exists() => PathBuf::from(project).join(EXAMPLE),
        (None, _) => PathBuf::from(EXAMPLE),
    }
}

/// What an untrained head would reach on the test split.
fn chance(trainer: &Trainer) -> f64 {
    let split = trainer.dataset().split(Split::Test);
    Recall::chance(split.images.len(), &split.text_image)
}
