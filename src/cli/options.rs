//! The options of a run, for `train`, `sweep` and `baseline`.

mod correction;
mod equal_captions;
mod finetune;
mod init;
mod names;
mod objective;
mod optimizer;
mod unused;

pub use correction::{CorrectionName, UsedCorrection};
pub use equal_captions::EqualCaptionsName;
use finetune::FinetuneArgs;
pub use init::note_init;
use names::{EncoderName, RootName};
pub use objective::ObjectiveArgs;
pub use unused::{Unused, all_differ, parameters, warn};

use super::Switch;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use wgoal::eval::Correction;
use wgoal::model::{EncoderKind, Pooling, SignedRoot};
use wgoal::objective::EqualCaptions;
use wgoal::optim::{Optimizer, Schedule, Warmup};
use wgoal::train::{Gather, RECIPES, Shuffle};
use wgoal::{Dataset, Result, TrainConfig};

#[derive(Clone, Copy, ValueEnum)]
enum ScheduleName {
    /// The learning rate stays at --lr
    Constant,
    /// It falls to 0 along half a cosine
    Cosine,
    /// It falls to 0 in a straight line
    Linear,
}

#[derive(Clone, Copy, ValueEnum)]
enum PoolingName {
    /// No pooling: the cached vector of the item
    None,
    /// The mean of its local features
    Mean,
    /// The largest value of each column of its local features
    Max,
    /// The cached vector, the mean and the maximum, joined end to end
    Joined,
    /// Generalised pooling: a weighted sum of sorted values, with learned weights
    Gpo,
}

/// The poolings that a closed form can use: all but the learned one.
pub fn fixed_poolings() -> impl TypedValueParser {
    let names = PoolingName::value_variants().iter().filter(|name| !matches!(name, PoolingName::Gpo));
    let names: Vec<PossibleValue> = names.filter_map(ValueEnum::to_possible_value).collect();
    PossibleValuesParser::new(names).try_map(|name| PoolingName::from_str(&name, false))
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

/// The help of an option that only some optimisers have: `text` and the default of each of these.
fn help_of(text: &str, default: fn(&mut Optimizer) -> Option<String>) -> String {
    let of = |name: &&str| Some(format!("{} for {name}", default(&mut name.parse().ok()?)?));
    let defaults: Vec<_> = Optimizer::NAMES.iter().filter_map(of).collect();
    format!("{text} [default: {}]", defaults.join("; "))
}

/// The names of all recipes, each with its summary.
fn recipes() -> PossibleValuesParser {
    PossibleValuesParser::new(RECIPES.map(|recipe| PossibleValue::new(recipe.name).help(recipe.summary)))
}

/// How features become the input of the head.
#[derive(Args, Clone)]
pub struct InputArgs {
    /// How each image becomes one vector [default: none]
    ///
    /// `none` reads images.npy. The others read image_regions.npy, and `joined` reads both.
    #[arg(long, value_name = "POOLING", help_heading = "Data")]
    image_pooling: Option<PoolingName>,
    /// How each caption becomes one vector [default: none]
    ///
    /// `none` reads texts.npy. The others read text_tokens.npy, and `joined` reads both.
    #[arg(long, value_name = "POOLING", help_heading = "Data")]
    text_pooling: Option<PoolingName>,
    /// Whose features get the signed square root [default: none]
    ///
    /// Each feature x becomes sign(x) sqrt(|x|), after a pooling without learned weights.
    #[arg(long, value_name = "SIDES", help_heading = "Data")]
    signed_root: Option<RootName>,
    /// Standardise the features [default: off]
    ///
    /// Subtracts the mean of each column and divides by its standard deviation. Both are computed on the training rows
    /// and stored with the head.
    #[arg(long, value_name = "on|off", num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    #[arg(help_heading = "Data")]
    standardize: Option<Switch>,
    /// What equal captions of different images are for each other's images [default: off]
    #[arg(long, value_name = "VALUE", help_heading = "Data")]
    equal_captions: Option<EqualCaptionsName>,
}

impl InputArgs {
    pub fn apply(&self, config: &mut TrainConfig) {
        set(&mut config.image_pooling, self.image_pooling.map(Pooling::from));
        set(&mut config.text_pooling, self.text_pooling.map(Pooling::from));
        set(&mut config.signed_root, self.signed_root.map(SignedRoot::from));
        set(&mut config.standardize, self.standardize.map(Switch::is_on));
        set(&mut config.equal_captions, self.equal_captions.map(EqualCaptions::from));
    }
}

/// Sets an option if it is given.
fn set<T>(option: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *option = given;
    }
}

impl From<ScheduleName> for Schedule {
    fn from(name: ScheduleName) -> Self {
        match name {
            ScheduleName::Constant => Self::Constant,
            ScheduleName::Cosine => Self::Cosine,
            ScheduleName::Linear => Self::Linear,
        }
    }
}

/// The options that decide the result of a run.
#[derive(Args, Clone)]
pub struct RunOptions {
    #[command(flatten)]
    input: InputArgs,
    #[command(flatten)]
    pub objective: ObjectiveArgs,
    /// Whether captions of the same image are never negatives [default: on]
    ///
    /// The papers do not check this: `off` matches them.
    #[arg(long, value_name = "on|off", help_heading = "Negatives")]
    mask_same_image: Option<Switch>,
    /// Pairs in the memory bank, 0 for no bank [default: 0]
    ///
    /// Negatives are also mined among the embeddings of the last batches of the epoch. The bank holds whole batches, so
    /// it needs at least --batch pairs.
    #[arg(long, value_name = "PAIRS", help_heading = "Negatives")]
    memory_bank: Option<usize>,
    /// First epochs without the memory bank [default: 1]
    #[arg(long, value_name = "EPOCHS", help_heading = "Negatives")]
    bank_warmup: Option<usize>,
    /// Encoder of the image features [default: linear]
    #[arg(long, value_name = "ENCODER", help_heading = "Head")]
    image_encoder: Option<EncoderName>,
    /// Encoder of the text features [default: linear]
    #[arg(long, value_name = "ENCODER", help_heading = "Head")]
    text_encoder: Option<EncoderName>,
    /// Width of the hidden layer of gated-mlp in widths of the features, 1 to 64 [default: 8]
    #[arg(long, value_name = "MULTIPLE", help_heading = "Head")]
    gated_width: Option<usize>,
    /// Width of the joint embedding, 1 to 65536 [default: 256]
    #[arg(long, value_name = "WIDTH", help_heading = "Head")]
    embed: Option<usize>,
    /// Random Fourier features of each side, 0 for none [default: 0]
    ///
    /// A linear layer on cosines of random projections joins the embedding.
    #[arg(long, value_name = "NUMBER", help_heading = "Head")]
    random_features: Option<usize>,
    /// Training images that the head compares its input with, 0 for none [default: 0]
    ///
    /// A linear layer on the Gaussian kernel of the input and these images joins the embedding, and of a caption and all
    /// captions of these images. If there are fewer images, all are used. With --init kcca the default is 5000.
    #[arg(long, value_name = "NUMBER", help_heading = "Head")]
    landmarks: Option<usize>,
    /// Bandwidths of the kernel to try for --init kcca [default: those of wgoal baseline]
    ///
    /// They are multiples of the median distance between training rows. The one with the best validation rsum is used.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "G1,G2",
        allow_negative_numbers = true,
        help_heading = "Head"
    )]
    bandwidth: Option<Vec<f64>>,
    /// Strengths of regularisation to try for --init cca and kcca [default: those of wgoal baseline]
    ///
    /// The one with the best validation rsum is used.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "R1,R2",
        allow_negative_numbers = true,
        help_heading = "Head"
    )]
    regularization: Option<Vec<f64>>,
    /// Where the weights start [default: xavier]
    ///
    /// `xavier` is random, `cca` and `kcca` are the closed forms of `wgoal baseline`. A file (or the folder of a run) is a head of
    /// wgoal, or a PyTorch state dict of two linear layers saved as safetensors. A head of wgoal brings its --embed,
    /// its poolings, its encoder and its standardisation with it.
    #[arg(long, value_name = "xavier|cca|kcca|FILE", help_heading = "Head")]
    init: Option<PathBuf>,
    /// Training to start from [default: goal]
    ///
    /// Options that you add override those of the recipe.
    #[arg(long, value_name = "NAME", value_parser = recipes(), help_heading = "Training")]
    pub recipe: Option<String>,
    /// Passes over the training captions, 1 or more [default: 30]
    #[arg(long, help_heading = "Training")]
    epochs: Option<usize>,
    /// Pairs per step, 1 to 65535 [default: 128]
    #[arg(long, value_name = "PAIRS", help_heading = "Training")]
    batch: Option<usize>,
    /// Stop after this many epochs without a better validation rsum, 0 for never [default: 0]
    #[arg(long, value_name = "EPOCHS", help_heading = "Training")]
    patience: Option<usize>,
    /// First epochs that train with hinge-sum, the hinge over all negatives [default: 0]
    ///
    /// This helps if training on the hardest negatives collapses.
    #[arg(long, value_name = "EPOCHS", help_heading = "Training")]
    warmup_epochs: Option<usize>,
    /// Heads that are trained and joined into one, 1 to 64 [default: 1]
    ///
    /// Their embeddings stand side by side, so a similarity is the mean over the heads. They have the seeds SEED, SEED +
    /// 1000 and so on. From kernel CCA, they also differ in the bandwidth.
    #[arg(long, value_name = "HEADS", help_heading = "Training")]
    ensemble: Option<usize>,
    /// Correction for hubs, fitted to the best head at the end [default: auto]
    ///
    /// Hubs are items that are similar to most queries. Every item loses a part of its similarity to training items.
    /// Validation chooses the part.
    #[arg(long, value_name = "CORRECTION", help_heading = "Training")]
    correction: Option<CorrectionName>,
    /// Probability that an input feature is set to zero, 0 to below 1 [default: 0]
    #[arg(long, value_name = "P", allow_negative_numbers = true, help_heading = "Training")]
    dropout: Option<f32>,
    /// Leave out regions and tokens at random [default: off]
    ///
    /// Each region is left out with probability 0.2, each token with that of --token-dropout.
    #[arg(long, value_name = "on|off", num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    #[arg(help_heading = "Training")]
    size_augment: Option<Switch>,
    /// Probability that --size-augment leaves out a token, 0 to below 1 [default: 0.08]
    #[arg(long, value_name = "P", allow_negative_numbers = true, help_heading = "Training")]
    token_dropout: Option<f64>,
    /// Order of the pairs in an epoch [default: full]
    ///
    /// `full` shuffles all pairs. `blocks` shuffles blocks of 64 neighbouring pairs and mixes them within windows of
    /// PAIRS pairs (16384 if not given, and at least 16 batches). It reads neighbouring rows together, which is faster
    /// if the features are larger than memory or the disk is slow.
    #[arg(long, value_name = "full|blocks|blocks:PAIRS", help_heading = "Training")]
    shuffle: Option<String>,
    /// Slices of a batch, for several processes; 0 for none [default: 0]
    ///
    /// `mpirun -n R wgoal train` divides every batch into these slices (8 if not given), and adds their gradients in one
    /// order. So the result has the same bits for every R up to the number of slices. In one process, slices change only
    /// rounding.
    #[arg(long, value_name = "N", help_heading = "Training")]
    slices: Option<usize>,
    /// Numbers in which the processes of a job exchange embeddings [default: f32]
    ///
    /// f16 halves the bytes of this exchange, and rounds the embeddings. With --slices it rounds in one process too, so
    /// that the result does not depend on the number of processes.
    #[arg(long, value_name = "f32|f16", help_heading = "Training")]
    gather: Option<String>,
    /// Seed of the first weights, the order, dropout and augmentation [default: 0]
    #[arg(long, help_heading = "Training")]
    pub seed: Option<u64>,
    /// Update rule [default: adamw]
    #[arg(long, value_parser = PossibleValuesParser::new(Optimizer::NAMES), help_heading = "Optimiser")]
    optimizer: Option<String>,
    /// Learning rate, above 0 [default: 0.0005]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true, help_heading = "Optimiser")]
    lr: Option<f64>,
    /// Steps over which the learning rate rises, or their share as in 10% [default: 0]
    ///
    /// The first step trains with --lr divided by the number of these steps.
    #[arg(long, value_name = "STEPS", help_heading = "Optimiser")]
    lr_warmup: Option<String>,
    /// How the learning rate changes after its rise [default: constant]
    #[arg(long, help_heading = "Optimiser")]
    schedule: Option<ScheduleName>,
    /// Divide the learning rate by ten after each of these numbers of epochs [default: none]
    #[arg(long, value_delimiter = ',', value_name = "E1,E2", help_heading = "Optimiser")]
    lr_drop: Option<Vec<usize>>,
    /// Weight decay, 0 or more [default: 0.0001]
    #[arg(long, value_name = "DECAY", allow_negative_numbers = true, help_heading = "Optimiser")]
    weight_decay: Option<f64>,
    /// Whether weight decay also applies to biases [default: on]
    #[arg(long, value_name = "on|off", help_heading = "Optimiser")]
    decay_biases: Option<Switch>,
    // The help of the next options names every optimiser that has the option, with its default.
    #[arg(long, value_delimiter = ',', value_name = "B1,B2", help_heading = "Optimiser")]
    #[arg(help = help_of("Decay rates of the two moments, each 0 to below 1", |optimizer| {
        optimizer.betas().map(|[first, second]| format!("{first},{second}"))
    }))]
    betas: Option<Vec<f64>>,
    #[arg(long, allow_negative_numbers = true, help_heading = "Optimiser")]
    #[arg(help = help_of("Momentum, 0 to below 1", |optimizer| {
        optimizer.momentum().map(|momentum| momentum.to_string())
    }))]
    momentum: Option<f64>,
    #[arg(long, value_name = "on|off", num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    #[arg(help_heading = "Optimiser")]
    #[arg(help = help_of("Nesterov's momentum", |optimizer| {
        optimizer.nesterov().map(|nesterov| if *nesterov { "on" } else { "off" }.to_string())
    }))]
    nesterov: Option<Switch>,
    #[arg(long, allow_negative_numbers = true, help_heading = "Optimiser")]
    #[arg(help = help_of("Added to the root of the second moment, above 0", |optimizer| {
        optimizer.epsilon().map(|epsilon| format!("{epsilon:e}"))
    }))]
    epsilon: Option<f64>,
    /// Scale gradients down to at most this norm, 0 for no clipping [default: 2]
    #[arg(long, value_name = "NORM", allow_negative_numbers = true, help_heading = "Optimiser")]
    clip: Option<f32>,
    #[command(flatten)]
    finetune: FinetuneArgs,
}

impl RunOptions {
    /// The configuration that results from `base` and the options given.
    pub fn apply(&self, base: TrainConfig) -> Result<TrainConfig> {
        let mut config = init::starting(self.init.as_deref(), base)?;
        self.input.apply(&mut config);
        config.objective = self.objective.resolve(config.objective)?;
        config.optimizer = self.optimizer(config.optimizer)?;
        set(&mut config.epochs, self.epochs);
        set(&mut config.batch, self.batch);
        set(&mut config.embed, self.embed);
        set(&mut config.image_encoder, self.image_encoder.map(EncoderKind::from));
        set(&mut config.text_encoder, self.text_encoder.map(EncoderKind::from));
        set(&mut config.gated_width, self.gated_width);
        set(&mut config.random_features, self.random_features);
        if self.random_features.is_some_and(|number| number > 0) {
            // Kernel CCA needs one of the two.
            config.landmarks = 0;
        }
        set(&mut config.landmarks, self.landmarks);
        set(&mut config.bandwidth, self.bandwidth.clone());
        set(&mut config.regularization, self.regularization.clone());
        set(&mut config.lr, self.lr);
        set(&mut config.weight_decay, self.weight_decay);
        set(&mut config.decay_biases, self.decay_biases.map(Switch::is_on));
        set(&mut config.clip, self.clip);
        self.finetune.apply(&mut config);
        set(&mut config.schedule, self.schedule.map(Schedule::from));
        set(&mut config.lr_drop, self.lr_drop.clone());
        set(&mut config.lr_warmup, self.lr_warmup.as_deref().map(str::parse::<Warmup>).transpose()?);
        set(&mut config.warmup_epochs, self.warmup_epochs);
        set(&mut config.memory_bank, self.memory_bank);
        set(&mut config.bank_warmup, self.bank_warmup);
        set(&mut config.dropout, self.dropout);
        set(&mut config.size_augment, self.size_augment.map(Switch::is_on));
        set(&mut config.token_dropout, self.token_dropout);
        set(&mut config.shuffle, self.shuffle.as_deref().map(str::parse::<Shuffle>).transpose()?);
        set(&mut config.slices, self.slices);
        set(&mut config.gather, self.gather.as_deref().map(str::parse::<Gather>).transpose()?);
        set(&mut config.seed, self.seed);
        set(&mut config.mask_same_image, self.mask_same_image.map(Switch::is_on));
        set(&mut config.patience, self.patience);
        set(&mut config.ensemble, self.ensemble);
        set(&mut config.correction, self.correction.map(Correction::from));
        config.validate()?;
        Ok(config)
    }

    /// The configuration of a new run: the named recipe, or else `recipe`, with these options on top; and a line about the
    /// recipe.
    pub fn start(&self, dataset: &Dataset, recipe: &str) -> Result<(TrainConfig, String)> {
        let name = self.recipe.as_deref().unwrap_or(recipe);
        TrainConfig::recipe_with(name, dataset, |base| self.apply(base))
    }
}
