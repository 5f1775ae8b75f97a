//! Warnings of options that have no effect in a run.

use super::{ObjectiveArgs, RunOptions};
use crate::cli::Switch;
use std::fmt;
use wgoal::data::{Split, SplitRows, steps_per_epoch};
use wgoal::model::{EncoderKind, Pooling};
use wgoal::objective::{Loss, PairWeight, TripletWeight};
use wgoal::optim::{Schedule, Warmup};
use wgoal::train::Init;
use wgoal::{Dataset, Objective, TrainConfig};

/// A given option that does not do what its name says.
pub struct Unused {
    pub option: &'static str,
    says: String,
}

impl Unused {
    /// An option without effect, and why.
    pub fn new(option: &'static str, why: impl fmt::Display) -> Self {
        Self { option, says: format!("has no effect: {why}") }
    }

    /// An option with another effect than its name says.
    fn other(option: &'static str, says: impl Into<String>) -> Self {
        Self { option, says: says.into() }
    }

    /// The options that have no effect in any of several runs, each once.
    pub fn in_all(runs: Vec<Vec<Self>>) -> Vec<Self> {
        let everywhere = |option| runs.iter().all(|run| run.iter().any(|unused| unused.option == option));
        let options: Vec<_> = runs.first().into_iter().flatten().map(|unused| unused.option).collect();
        let common: Vec<_> = options.into_iter().filter(|option| everywhere(*option)).collect();
        let first = runs.into_iter().next().unwrap_or_default();
        first.into_iter().filter(|unused| common.contains(&unused.option)).collect()
    }
}

impl fmt::Display for Unused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--{} {}", self.option, self.says)
    }
}

/// Prints a warning for each option.
pub fn warn(unused: &[Unused]) {
    for unused in unused {
        note!("warning: {unused}");
    }
}

/// Whether all numbers differ.
pub fn all_differ(numbers: &[u32]) -> bool {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    sorted.windows(2).all(|pair| pair[0] != pair[1])
}

/// The names of the parameters that an objective reads.
pub fn parameters(objective: &Objective) -> Vec<&'static str> {
    const SIGMOIDS: [&str; 3] = ["alpha", "beta", "lambda"];
    let mut read = Vec::new();
    match objective {
        Objective::Goal(triplet, pair, _) => {
            read.push("margin");
            match triplet {
                TripletWeight::Con => {}
                TripletWeight::Nca => read.push("tau"),
                TripletWeight::Cir | TripletWeight::Circle => read.extend(["tau", "circle-margin"]),
            }
            match pair {
                PairWeight::Con | PairWeight::Lin => {}
                PairWeight::LinMs => read.push("threshold"),
                PairWeight::Sig => read.extend(SIGMOIDS),
                PairWeight::SigMs => read.extend(SIGMOIDS.iter().chain(&["threshold"])),
                PairWeight::Circle => read.push("circle-margin"),
                PairWeight::Contrastive => read.push("lambda"),
            }
        }
        Objective::Loss(Loss::MultiSimilarity, _) => read.extend(SIGMOIDS),
        Objective::Loss(Loss::MultiSimilarityMined, _) => {
            read.extend(SIGMOIDS.iter().chain(&["threshold"]));
        }
        Objective::Loss(Loss::CircleAll, _) => read.extend(["tau", "circle-margin"]),
        Objective::Loss(Loss::Lifted, _) => read.extend(["tau", "margin"]),
        Objective::Loss(loss, params) => {
            if let Some((triplet, pair)) = loss.combination() {
                read = parameters(&Objective::Goal(triplet, pair, *params));
            }
        }
        Objective::Hinge { .. } | Objective::HingeSum { .. } => read.push("margin"),
        Objective::Infonce(_) => read.extend(["temperature", "learn-temperature"]),
        Objective::Siglip(_) => read.extend(["temperature", "logit-bias", "learn-temperature"]),
        Objective::Custom { .. } => read.extend(["margin", "weights", "param"]),
        Objective::Over(_, objective)
        | Objective::Towards(_, objective)
        | Objective::OneWay(_, objective) => read = parameters(objective),
        Objective::Sum(terms) => read.extend(terms.iter().flat_map(|(_, term)| parameters(term))),
    }
    read
}

impl ObjectiveArgs {
    /// The given parameters that `objective` does not have.
    pub fn unused(&self, objective: &Objective) -> Vec<Unused> {
        let read = parameters(objective);
        let given = [
            ("tau", self.tau.is_some()),
            ("alpha", self.alpha.is_some()),
            ("beta", self.beta.is_some()),
            ("lambda", self.lambda.is_some()),
            ("threshold", self.threshold.is_some()),
            ("circle-margin", self.circle_margin.is_some()),
            ("margin", self.margin.is_some()),
            ("temperature", self.temperature.is_some()),
            ("logit-bias", self.logit_bias.is_some()),
            ("learn-temperature", self.learn_temperature.is_some()),
            ("weights", self.weights.is_some()),
            ("param", !self.param.is_empty()),
        ];
        let unused = given.into_iter().filter(|(name, given)| *given && !read.contains(name));
        unused.map(|(name, _)| Unused::new(name, format!("{objective} has no such parameter"))).collect()
    }
}

impl RunOptions {
    /// The given options without effect in a run of `config` on a dataset.
    pub fn unused(&self, config: &TrainConfig, dataset: &Dataset) -> Vec<Unused> {
        let mut unused = self.objective.unused(&config.objective);
        let SplitRows { texts, text_image, .. } = dataset.split(Split::Train);
        let (captions, epochs) = (texts.len(), config.epochs);
        if captions == 0 {
            return unused;
        }
        let steps = steps_per_epoch(captions, config.batch);
        let run = format!("the run has {epochs} epochs");
        self.unused_inputs(config, &mut unused);
        if self.bandwidth.is_some() && config.init != Init::KernelCca {
            unused.push(Unused::new("bandwidth", "the run does not start from kernel CCA"));
        }
        if self.regularization.is_some() && !config.init.is_closed_form() {
            unused.push(Unused::new("regularization", "the run does not start from a closed form"));
        }
        if self.gated_width.is_some() && !config.head().encoders().contains(&EncoderKind::GatedMlp) {
            unused.push(Unused::new("gated-width", "the head has no gated perceptron"));
        }
        unused.extend(self.finetune.unused(config));
        if self.gather.is_some() && config.slices == 0 {
            unused.push(Unused::new("gather", "the run has no --slices"));
        }
        self.unused_phases(config, [steps, config.batch.min(captions)], &mut unused);

        let total = (steps * epochs) as u64;
        let rising = config.lr_warmup.steps(total);
        if self.lr_warmup.is_some() && rising > total {
            let says = format!(
                "of {rising} steps is longer than the run of {total} steps: the learning rate never reaches --lr"
            );
            unused.push(Unused::other("lr-warmup", says));
        }
        let course = self.schedule.is_some() && config.schedule != Schedule::Constant;
        if course && config.lr_warmup != Warmup::Steps(0) && rising >= total {
            unused.push(Unused::new("schedule", "the learning rate rises until the run ends"));
        }
        let late = |after: &&usize| **after >= epochs;
        let late: Vec<_> = self.lr_drop.iter().flatten().filter(late).map(usize::to_string).collect();
        if !late.is_empty() {
            let says = format!("{} has no effect: {run}", late.join(","));
            unused.push(Unused::other("lr-drop", says));
        }
        if self.decay_biases.is_some() && config.weight_decay == 0.0 {
            unused.push(Unused::new("decay-biases", "--weight-decay is 0"));
        }
        // The first epoch is always the best so far: epoch 0 if the start is a closed form. The run ends after the last one
        // anyway.
        let first = usize::from(config.init == Init::Xavier);
        if self.patience.is_some() && config.patience > 0 && config.patience + first >= epochs {
            unused.push(Unused::new("patience", run));
        }
        if self.mask_same_image.is_some() && text_image.count_distinct() == text_image.len() {
            unused.push(Unused::new("mask-same-image", "every training image has one caption"));
        }
        unused
    }

    /// Options of how features become the input of the head.
    fn unused_inputs(&self, config: &TrainConfig, unused: &mut Vec<Unused>) {
        let [images, texts] = config.pooling().map(|pooling| pooling != Pooling::None);
        if self.size_augment.is_some_and(Switch::is_on) && !images && !texts {
            let why = "neither --image-pooling nor --text-pooling uses local features";
            unused.push(Unused::new("size-augment", why));
        }
        if self.token_dropout.is_some() {
            match (config.size_augment, texts) {
                (false, _) => unused.push(Unused::new("token-dropout", "--size-augment is off")),
                (_, false) => unused.push(Unused::new("token-dropout", "--text-pooling none uses no tokens")),
                _ => {}
            }
        }
        if self.dropout.is_some() && config.dropout > 0.0 && (config.dropout * 65536.0).round() == 0.0 {
            unused
                .push(Unused::new("dropout", "the probability is rounded to a multiple of 1/65536, here 0"));
        }
    }

    /// Options that apply to some epochs only: warm-up and memory bank.
    fn unused_phases(&self, config: &TrainConfig, [steps, pairs]: [usize; 2], unused: &mut Vec<Unused>) {
        let TrainConfig { epochs, warmup_epochs, memory_bank, bank_warmup, objective, .. } = config;
        let (epochs, warmup) = (*epochs, *warmup_epochs);
        // Number of epochs that do not train on the objective.
        let mut others = 0;
        if warmup > 0 {
            if objective.logits().is_some() {
                if self.warmup_epochs.is_some() {
                    let why = match objective.infonce() {
                        Some(_) => "InfoNCE uses all negatives from the start",
                        None => "SigLIP uses all negatives from the start",
                    };
                    unused.push(Unused::new("warmup-epochs", why));
                }
            } else if matches!(objective, Objective::HingeSum { .. }) {
                if self.warmup_epochs.is_some() {
                    unused.push(Unused::new(
                        "warmup-epochs",
                        "the run trains on hinge-sum, as the warm-up does",
                    ));
                }
            } else {
                others = warmup;
                if warmup >= epochs {
                    let says = format!(
                        "{warmup} covers all {epochs} epochs of the run, so {objective} is never used"
                    );
                    unused.push(Unused::other("warmup-epochs", says));
                }
            }
        }
        if self.bank_warmup.is_some() && *memory_bank == 0 {
            unused.push(Unused::new("bank-warmup", "there is no --memory-bank"));
        }
        if *memory_bank == 0 || (self.memory_bank.is_none() && self.bank_warmup.is_none()) {
            return;
        }
        let first = others.max(*bank_warmup);
        // The bank is empty before the first step of an epoch, and nothing reads what the last step adds.
        let room = steps.saturating_sub(1) * pairs;
        if first >= epochs {
            let why = format!("it is used from epoch {} on, but the run has {epochs} epochs", first + 1);
            unused.push(Unused::new("memory-bank", why));
        } else if room == 0 {
            unused.push(Unused::new(
                "memory-bank",
                "each epoch has one step, and the bank is empty before that step",
            ));
        } else if *memory_bank > room {
            let says = format!("{memory_bank} is larger than the data: an epoch fills at most {room} pairs");
            unused.push(Unused::other("memory-bank", says));
        }
    }
}
