//! The options of a run, on `train`, `sweep` and `baseline`.

mod unused;

pub use unused::{Unused, all_differ, warn};

use super::{ObjectiveArgs, Switch};
use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Args, ValueEnum};
use wgoal::model::{ImageEncoder, Pooling, SignedRoot};
use wgoal::optim::{Optimizer, Schedule, Warmup};
use wgoal::train::{Init, RECIPES, Shuffle};
use wgoal::{Dataset, Error, ErrorKind, Result, TrainConfig};

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
    pub fn apply(&self, config: &mut TrainConfig) {
        set(&mut config.image_pooling, self.image_pooling.map(Pooling::from));
        set(&mut config.text_pooling, self.text_pooling.map(Pooling::from));
        set(&mut config.signed_root, self.signed_root.map(SignedRoot::from));
        set(&mut config.standardize, self.standardize.map(Switch::is_on));
    }
}

/// Changes an option that is given.
fn set<T>(option: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *option = given;
    }
}

impl From<InitName> for Init {
    fn from(name: InitName) -> Self {
        match name {
            InitName::Xavier => Self::Xavier,
            InitName::Cca => Self::Cca,
        }
    }
}

impl From<EncoderName> for ImageEncoder {
    fn from(name: EncoderName) -> Self {
        match name {
            EncoderName::Linear => Self::Linear,
            EncoderName::ResidualMlp => Self::ResidualMlp,
        }
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
    /// Steps over which the learning rate rises, from lr / STEPS in the first; or a percentage of all steps, as in 10% [0]
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
    #[arg(long, value_parser = PossibleValuesParser::new(Optimizer::NAMES))]
    optimizer: Option<String>,
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
    /// Order of the pairs: any (full), or blocks of 64 neighbours mixed within windows of PAIRS (16384, or 16 batches), which
    /// reads features beyond memory, or on slow disks, in pieces [full]
    #[arg(long, value_name = "full|blocks|blocks:PAIRS")]
    shuffle: Option<String>,
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

impl RunOptions {
    /// The configuration that results from `base` and the options given.
    pub fn apply(&self, base: TrainConfig) -> Result<TrainConfig> {
        let mut config = base;
        self.input.apply(&mut config);
        config.objective = self.objective.resolve(config.objective)?;
        config.optimizer = self.optimizer(config.optimizer)?;
        set(&mut config.epochs, self.epochs);
        set(&mut config.batch, self.batch);
        set(&mut config.embed, self.embed);
        set(&mut config.init, self.init.map(Init::from));
        set(&mut config.image_encoder, self.image_encoder.map(ImageEncoder::from));
        set(&mut config.lr, self.lr);
        set(&mut config.weight_decay, self.weight_decay);
        set(&mut config.decay_biases, self.decay_biases.map(Switch::is_on));
        set(&mut config.clip, self.clip);
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
        set(&mut config.seed, self.seed);
        set(&mut config.mask_same_image, self.mask_same_image.map(Switch::is_on));
        set(&mut config.patience, self.patience);
        config.validate()?;
        Ok(config)
    }

    /// The optimiser that results from `base` and the options given.
    fn optimizer(&self, base: Optimizer) -> Result<Optimizer> {
        let mut optimizer = match self.optimizer.as_deref() {
            Some(name) if name != base.name() => name.parse()?,
            _ => base,
        };
        // Those that have an option.
        let with = |has: fn(&mut Optimizer) -> bool| {
            let having = |name: &&str| name.parse().is_ok_and(|mut optimizer| has(&mut optimizer));
            Optimizer::NAMES.iter().copied().filter(having).collect::<Vec<_>>().join(" or ")
        };
        if let Some(momentum) = self.momentum {
            let Some(own) = optimizer.momentum() else {
                let names = with(|optimizer| optimizer.momentum().is_some());
                let advice = format!("add --optimizer {names}, or leave --momentum out");
                let expected = format!("--optimizer {names}");
                return Err(Error::new(ErrorKind::Config, "--momentum", expected, momentum, advice));
            };
            *own = momentum;
        }
        if let Some(betas) = &self.betas {
            let (Some([beta1, beta2]), [first, second]) = (optimizer.betas(), &betas[..]) else {
                let names = with(|optimizer| optimizer.betas().is_some());
                let expected = format!("two numbers, and --optimizer {names}");
                let advice = "give them as in 0.9,0.999";
                return Err(Error::new(ErrorKind::Config, "--betas", expected, format!("{betas:?}"), advice));
            };
            (*beta1, *beta2) = (*first, *second);
        }
        Ok(optimizer)
    }

    /// The configuration of the recipe named.
    pub fn recipe(&self, dataset: &Dataset) -> Result<Option<TrainConfig>> {
        self.recipe.as_ref().map(|name| TrainConfig::recipe(name, dataset)).transpose()
    }
}
