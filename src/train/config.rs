//! The options of a training run, each with its meaning.

mod check;

use super::gather::Gather;
use super::{Init, Shuffle};
use crate::eval::Correction;
use crate::model::{EncoderKind, GATED_WIDTH, HeadConfig, Pooling, SignedRoot};
use crate::objective::{EqualCaptions, GoalParams, HINGE_MARGIN, Objective, PairWeight, TripletWeight};
use crate::optim::{Optimizer, Schedule, Warmup};
use serde::{Deserialize, Serialize};

/// The most landmark images that the command line uses for kernel CCA by default.
pub const LANDMARKS: usize = 5000;

/// Probability that size augmentation leaves a region out.
const REGION_DROPOUT: f64 = 0.2;

/// Everything that decides what a training run computes. Together with the dataset and the kind of device, it decides every bit
/// of the result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct TrainConfig {
    /// The objective.
    pub objective: Objective,
    /// Passes over the training captions.
    pub epochs: usize,
    /// Pairs in a batch.
    pub batch: usize,
    /// Width of the embedding.
    pub embed: usize,
    /// How an image's features become one vector.
    pub image_pooling: Pooling,
    /// How a caption's features become one vector.
    pub text_pooling: Pooling,
    /// What maps image features to the embedding.
    pub image_encoder: EncoderKind,
    /// What maps text features to the embedding.
    pub text_encoder: EncoderKind,
    /// Width of the hidden layer of a gated perceptron, as a multiple of the width of the features.
    pub gated_width: usize,
    /// Random Fourier features of each side, which a further linear layer adds to the embedding. 0 for none.
    pub random_features: usize,
    /// The most training images that become landmarks, with all their captions. A further linear layer adds the Gaussian
    /// kernel of the input and the landmarks to the embedding. 0 for none.
    pub landmarks: usize,
    /// The initial weights.
    pub init: Init,
    /// The bandwidths of the kernel from which validation chooses, for a start from kernel CCA. Empty for
    /// [`crate::train::Baseline::fit`]'s.
    pub bandwidth: Vec<f64>,
    /// The strengths of regularisation from which validation chooses, for a start from a closed form. Empty for the
    /// defaults of `wgoal baseline`.
    pub regularization: Vec<f64>,
    /// The update rule.
    pub optimizer: Optimizer,
    /// Learning rate.
    pub lr: f64,
    /// Factor of the learning rate for the linear layers. 0 leaves them as they start.
    pub lr_linear: f64,
    /// Factor of the learning rate for the weights of random features. 0 leaves them as they start.
    pub lr_random_features: f64,
    /// Factor of the learning rate for the perceptron. 0 leaves it as it starts.
    pub lr_mlp: f64,
    /// Whether the weights of landmarks are trained on the kernel minus its mean (docs/math.md, "Centred kernel").
    pub centre_kernel: bool,
    /// Strength of the pull of every parameter towards its initial value, beside weight decay (docs/math.md, "Pull towards
    /// the start"). The temperature is not pulled. 0 for none.
    pub l2_sp: f64,
    /// Strength of the regularisation STRUCTURE, which keeps the neighbourhoods that the features of each side have in a
    /// batch (docs/math.md, "Neighbourhoods"). 0 for none.
    pub structure: f64,
    /// Temperature of its neighbourhoods.
    pub structure_temperature: f64,
    /// Weight decay. It applies to every parameter except a learned temperature and logit bias.
    pub weight_decay: f64,
    /// Whether biases decay as well.
    pub decay_biases: bool,
    /// Largest norm of the gradient over all parameters. 0 disables clipping.
    pub clip: f32,
    /// Decay of the moving average of the weights, which is validated and saved in their place. 0 for no average.
    pub ema: f64,
    /// The schedule of the learning rate.
    pub schedule: Schedule,
    /// The learning rate is divided by ten after each of these numbers of epochs.
    pub lr_drop: Vec<usize>,
    /// Warm-up over W steps: step k, counted from 1, uses k / W of the learning rate. The schedule begins after the warm-up.
    pub lr_warmup: Warmup,
    /// Number of first epochs that train on the hinge over all negatives. This keeps training on the hardest negatives from
    /// collapsing. InfoNCE ignores it, since it uses all negatives anyway.
    pub warmup_epochs: usize,
    /// Pairs of the memory bank, rounded down to whole batches (cross-batch memory, Wang et al., 2020). Mining also searches the
    /// embeddings of the epoch's last batches, except those of the same image. 0 disables the bank. Relative sets use the
    /// batch only.
    pub memory_bank: usize,
    /// Number of first epochs without the memory bank, because embeddings still change fast.
    pub bank_warmup: usize,
    /// Which side's features x become sign(x) √|x| first.
    pub signed_root: SignedRoot,
    /// Shift and scale every input column by its mean and deviation over the training rows.
    pub standardize: bool,
    /// Probability that an input feature is zeroed in training.
    pub dropout: f32,
    /// Size augmentation in training (docs/math.md, "Size augmentation"): a region is left out with probability 0.2, a token
    /// with probability `token_dropout`. It has no effect on a side without local features.
    pub size_augment: bool,
    /// Probability that size augmentation leaves a token out. The published code selects a word with probability 0.2, removes
    /// 40 % of the selected words and replaces the others. Cached tokens cannot be replaced.
    pub token_dropout: f64,
    /// The order of an epoch's pairs.
    pub shuffle: Shuffle,
    /// Seed of the initial weights, the order of the pairs, dropout and size augmentation.
    pub seed: u64,
    /// Captions of the same image are never used as negatives. The papers do not check this; `false` matches them.
    pub mask_same_image: bool,
    /// What equal captions of different images are for each other's images, in training and in evaluation.
    pub equal_captions: EqualCaptions,
    /// Stop after this many epochs without a better validation rsum. 0 disables early stopping.
    pub patience: usize,
    /// The correction for hubs that is fitted to the best head.
    pub correction: Correction,
    /// The number of heads of an ensemble, 1 for one head ([`TrainConfig::members`]).
    pub ensemble: usize,
    /// The most slices of a batch, whose sums are added in one order (docs/scaling.md). It is the largest number of
    /// processes that train together. 0 for one sum over the batch, in one process.
    pub slices: usize,
    /// The numbers in which processes exchange unit rows. Without slices nothing is exchanged, and it has no effect.
    pub gather: Gather,
}

with!(TrainConfig);

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            objective: Objective::Goal(TripletWeight::Cir, PairWeight::SigMs, GoalParams::default()),
            epochs: 30,
            batch: 128,
            embed: 256,
            image_pooling: Pooling::default(),
            text_pooling: Pooling::default(),
            image_encoder: EncoderKind::default(),
            text_encoder: EncoderKind::default(),
            gated_width: GATED_WIDTH,
            random_features: 0,
            landmarks: 0,
            bandwidth: Vec::new(),
            regularization: Vec::new(),
            init: Init::default(),
            optimizer: Optimizer::default(),
            lr: 5e-4,
            lr_linear: 1.0,
            lr_random_features: 1.0,
            lr_mlp: 1.0,
            centre_kernel: true,
            l2_sp: 0.0,
            structure: 0.0,
            structure_temperature: 0.07,
            weight_decay: 1e-4,
            decay_biases: true,
            clip: 2.0,
            ema: 0.0,
            schedule: Schedule::default(),
            lr_drop: Vec::new(),
            lr_warmup: Warmup::Steps(0),
            warmup_epochs: 0,
            memory_bank: 0,
            bank_warmup: 1,
            signed_root: SignedRoot::default(),
            standardize: false,
            dropout: 0.0,
            size_augment: false,
            token_dropout: 0.08,
            shuffle: Shuffle::default(),
            seed: 0,
            mask_same_image: true,
            equal_captions: EqualCaptions::default(),
            patience: 0,
            correction: Correction::default(),
            ensemble: 1,
            slices: 0,
            gather: Gather::default(),
        }
    }
}

impl TrainConfig {
    /// The default configuration for a head that consists of this.
    pub(crate) fn of_head(head: &HeadConfig) -> Self {
        let HeadConfig {
            embed,
            image_pooling,
            text_pooling,
            image_encoder,
            text_encoder,
            gated_width,
            signed_root,
            standardize,
            random_features,
            landmarks,
            ensemble,
        } = *head;
        Self {
            embed,
            image_pooling,
            text_pooling,
            image_encoder,
            text_encoder,
            gated_width,
            signed_root,
            standardize,
            random_features,
            landmarks,
            ensemble,
            ..Self::default()
        }
    }

    /// What the head consists of.
    pub fn head(&self) -> HeadConfig {
        HeadConfig {
            embed: self.embed,
            image_pooling: self.image_pooling,
            text_pooling: self.text_pooling,
            image_encoder: self.image_encoder,
            text_encoder: self.text_encoder,
            gated_width: self.gated_width,
            signed_root: self.signed_root,
            standardize: self.standardize,
            random_features: self.random_features,
            landmarks: self.landmarks,
            ensemble: self.ensemble,
        }
    }

    /// The same configuration for a closed form: learned pooling becomes the mean, and the encoder becomes linear.
    #[must_use]
    pub fn in_closed_form(&self) -> Self {
        let linear = |pooling| if pooling == Pooling::Gpo { Pooling::Mean } else { pooling };
        let [image_pooling, text_pooling] = self.pooling().map(linear);
        let (image_encoder, text_encoder) = (EncoderKind::Linear, EncoderKind::Linear);
        Self { image_pooling, text_pooling, image_encoder, text_encoder, ..self.clone() }
    }

    /// Whether both sides are linear in the input of the device.
    pub(crate) fn is_linear(&self) -> bool {
        self.head().encoders() == [EncoderKind::Linear; 2] && !self.pooling().contains(&Pooling::Gpo)
    }

    /// Whether the head can start from a closed form. The second layer of a perceptron then starts at 0.
    pub(crate) fn extends_linear(&self) -> bool {
        !self.pooling().contains(&Pooling::Gpo)
    }

    /// The learning rate of a step in a run of `total` steps. Epoch and step are counted from 0.
    pub fn learning_rate(&self, epoch: usize, step: u64, total: u64) -> f64 {
        let drops = self.lr_drop.iter().filter(|&&after| epoch >= after).count();
        let rising = self.lr_warmup.steps(total);
        let warmup = ((step + 1) as f64 / rising.max(1) as f64).min(1.0);
        let done = (step.saturating_sub(rising) as f64 / total.saturating_sub(rising).max(1) as f64).min(1.0);
        let course = match self.schedule {
            Schedule::Constant => 1.0,
            Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
            Schedule::Linear => 1.0 - done,
        };
        self.lr * 0.1f64.powi(drops as i32) * warmup * course
    }

    /// Pooling of images and of texts.
    pub fn pooling(&self) -> [Pooling; 2] {
        [self.image_pooling, self.text_pooling]
    }

    /// The probabilities that training leaves out a region and a token (docs/math.md, "Size augmentation").
    pub fn row_dropout(&self) -> [f64; 2] {
        if self.size_augment { [REGION_DROPOUT, self.token_dropout] } else { [0.0; 2] }
    }

    /// The objective of an epoch, counted from 0: first the warm-up's, then the run's own.
    pub fn objective_of(&self, epoch: usize) -> Objective {
        match &self.objective {
            objective if objective.logits().is_some() => objective.clone(),
            objective if epoch < self.warmup_epochs => {
                Objective::HingeSum { margin: objective.margin().unwrap_or(HINGE_MARGIN) }
            }
            objective => objective.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    #[test]
    fn rates_follow_warmup_drops_and_course() {
        let config =
            TrainConfig { lr: 1.0, lr_drop: vec![2, 3], lr_warmup: Warmup::Steps(4), ..Default::default() };
        assert_eq!([0, 1, 3, 9].map(|step| config.learning_rate(0, step, 100)), [0.25, 0.5, 1.0, 1.0]);
        for (epoch, expected) in [(1, 1.0), (2, 0.1), (3, 0.01)] {
            assert_relative_eq!(config.learning_rate(epoch, 50, 100), expected, max_relative = 1e-12);
        }
        let cosine = TrainConfig { lr: 1.0, schedule: Schedule::Cosine, ..Default::default() };
        for (step, expected) in [(0, 1.0), (50, 0.5), (100, 0.0)] {
            assert_relative_eq!(cosine.learning_rate(0, step, 100), expected, epsilon = 1e-12);
        }
        let linear = TrainConfig { lr: 1.0, schedule: Schedule::Linear, ..Default::default() };
        assert_relative_eq!(linear.learning_rate(0, 25, 100), 0.75);
        assert_eq!(
            (cosine.learning_rate(0, 150, 100), linear.learning_rate(0, 150, 100)),
            (0.0, 0.0),
            "beyond the last step"
        );
    }

    #[test]
    fn a_course_begins_after_the_warmup_and_ends_at_the_last_step() {
        let config = TrainConfig {
            lr: 2.0,
            schedule: Schedule::Linear,
            lr_warmup: "10%".parse().unwrap(),
            ..Default::default()
        };
        // 20 of 200 steps rise; of the other 180 a quarter, half and all are done.
        for (step, expected) in [(0, 0.1), (9, 1.0), (19, 2.0), (20, 2.0), (65, 1.5), (110, 1.0), (200, 0.0)]
        {
            assert_relative_eq!(config.learning_rate(3, step, 200), expected, epsilon = 1e-12);
        }
        // The course of a run that is all warm-up never begins.
        let all = TrainConfig { lr_warmup: "100%".parse().unwrap(), ..config.clone() };
        assert_relative_eq!(all.learning_rate(0, 99, 200), 1.0);
        assert_relative_eq!(all.learning_rate(0, 199, 200), 2.0);
        let counted = TrainConfig { lr_warmup: "20".parse().unwrap(), ..config.clone() };
        assert!(
            (0..200).all(|step| counted.learning_rate(0, step, 200) == config.learning_rate(0, step, 200))
        );
        assert!(
            "ten".parse::<Warmup>().is_err()
                && "%".parse::<Warmup>().is_err()
                && "1.5".parse::<Warmup>().is_err()
        );
        for warmup in [Warmup::Steps(7), Warmup::Share { percent: 2.5 }] {
            let text = serde_json::to_string(&warmup).unwrap();
            assert_eq!(serde_json::from_str::<Warmup>(&text).unwrap(), warmup, "{text}");
        }
        assert!(TrainConfig { lr_warmup: Warmup::Share { percent: 101.0 }, ..config }.validate().is_err());
    }

    #[test]
    fn warmup_trains_on_all_negatives_with_the_objectives_margin() {
        let objective = Objective::Hinge { margin: 0.3 };
        let config = TrainConfig { objective: objective.clone(), warmup_epochs: 1, ..Default::default() };
        assert_eq!(config.objective_of(0), Objective::HingeSum { margin: 0.3 });
        assert_eq!(config.objective_of(1), objective);
    }
}
