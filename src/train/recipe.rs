//! Recipes: the training of published models, and our own, as configurations to start from.
//!
//! Each holds the options of its publication that apply to a head on cached features, and says where it differs. Our own
//! recipe is in `ours.rs`. Explicit options override a recipe.

use super::{TrainConfig, ours};
use crate::data::{Dataset, Side};
use crate::model::{EncoderKind, Pooling};
use crate::objective::{InfonceParams, Objective, SiglipParams};
use crate::optim::{AdamW, Lion, Optimizer, Schedule, Warmup};
use crate::{Error, Result};

/// A named configuration to start from; see [`TrainConfig::recipe`].
#[derive(Debug, Clone, Copy)]
pub struct Recipe {
    /// As given to `--recipe`.
    pub name: &'static str,
    /// In a line.
    pub summary: &'static str,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Fitted to the data.
    Ours {
        /// Whether the closed form has fixed parameters.
        fast: bool,
    },
    /// The same for all data.
    Fixed(fn() -> TrainConfig),
}

/// Every recipe.
pub const RECIPES: [Recipe; 7] = [
    Recipe {
        name: "wgoal",
        summary: "ours: exact kernel CCA, then InfoNCE in large batches with much dropout; fitted to the data",
        kind: Kind::Ours { fast: false },
    },
    Recipe {
        name: "wgoal-fast",
        summary: "ours in seconds: kernel CCA with fixed parameters, 512 wide, one epoch; fitted to the data",
        kind: Kind::Ours { fast: true },
    },
    Recipe {
        name: "goal",
        summary: "GOAL, plain: the cached vectors, linear heads from random weights, the gradient cir:sig-ms",
        kind: Kind::Fixed(TrainConfig::default),
    },
    Recipe {
        name: "vsepp",
        summary: "VSE++: local features mean-pooled where there are any, linear heads, hinge on the hardest negative",
        kind: Kind::Fixed(vsepp),
    },
    Recipe {
        name: "vse-inf",
        summary: "VSE-infinity: learned pooling of regions and tokens, residual image encoder, hinge, half the input dropped",
        kind: Kind::Fixed(vse_inf),
    },
    Recipe {
        name: "xvlm",
        summary: "X-VLM's contrastive term: InfoNCE with a learned temperature, captions of an image share the target",
        kind: Kind::Fixed(xvlm),
    },
    Recipe {
        name: "sail",
        summary: "SAIL: gated perceptrons on both sides, the sigmoid loss with learned temperature and bias, large batches",
        kind: Kind::Fixed(sail),
    },
];

/// docs/math.md, "Recipes". Adam is AdamW without decay. The published margin, which does not mask other captions of an
/// image. The learning rate drops every 15 epochs, so once in 30; more epochs want more `lr_drop`.
fn vsepp() -> TrainConfig {
    TrainConfig {
        objective: Objective::Hinge { margin: 0.2 },
        image_pooling: Pooling::Mean,
        text_pooling: Pooling::Mean,
        epochs: 30,
        batch: 128,
        embed: 1024,
        lr: 2e-4,
        weight_decay: 0.0,
        lr_drop: vec![15],
        clip: 2.0,
        mask_same_image: false,
        ..Default::default()
    }
}

/// docs/math.md, "Recipes",
/// for region features, with one thing added: half the input features are dropped. Published is
/// none; without it the head learns a few thousand images by heart, and validation recall falls from the fourth epoch on
/// (docs/results.md).
fn vse_inf() -> TrainConfig {
    TrainConfig {
        objective: Objective::Hinge { margin: 0.2 },
        image_pooling: Pooling::Gpo,
        text_pooling: Pooling::Gpo,
        image_encoder: EncoderKind::ResidualMlp,
        warmup_epochs: 1,
        epochs: 25,
        batch: 128,
        embed: 1024,
        lr: 5e-4,
        weight_decay: 1e-4,
        lr_drop: vec![15],
        clip: 2.0,
        dropout: 0.5,
        size_augment: true,
        mask_same_image: false,
        ..Default::default()
    }
}

/// docs/math.md, "Recipes":
/// the contrastive term alone. The published learning rate, 3e-5, fine-tunes a whole pre-trained
/// encoder, and fresh heads hardly move at it. Here validation recall rose from 2e-4 up to 8e-3 on 8,575 captions, and on
/// a fifth of them 2e-3 was better than 8e-3: 4e-3 lies between. The published batch is 20 pairs on each of several
/// devices; here it is 128 on one.
fn xvlm() -> TrainConfig {
    let infonce = InfonceParams { temperature: 0.07, learn_temperature: true, ..Default::default() };
    TrainConfig {
        objective: Objective::Infonce(infonce),
        optimizer: Optimizer::AdamW(AdamW { beta1: 0.9, beta2: 0.98, epsilon: 1e-8 }),
        epochs: 10,
        batch: 128,
        embed: 256,
        lr: 4e-3,
        lr_warmup: Warmup::Share { percent: 10.0 },
        schedule: Schedule::Linear,
        weight_decay: 0.01,
        decay_biases: false,
        clip: 0.0,
        // With ids the target is shared, not the diagonal.
        mask_same_image: true,
        ..Default::default()
    }
}

/// docs/math.md, "Recipes". Standardised input stands for layer norm, and the gated perceptrons stand beside a linear
/// layer. The other captions of an image are positives too, as its second caption in the publication. The published
/// learning rate, 1e-5, and batch, 32,768, are for 23 million pairs: a few thousand would make one step per epoch. Here
/// validation recall rose from 1e-4 up to 5e-4, and fell after four epochs of ten.
fn sail() -> TrainConfig {
    TrainConfig {
        objective: Objective::Siglip(SiglipParams { temperature: 0.05, ..Default::default() }),
        image_encoder: EncoderKind::GatedMlp,
        text_encoder: EncoderKind::GatedMlp,
        standardize: true,
        optimizer: Optimizer::Lion(Lion::default()),
        epochs: 10,
        batch: 2048,
        embed: 1024,
        lr: 5e-4,
        schedule: Schedule::Cosine,
        weight_decay: 1e-4,
        clip: 0.0,
        ..Default::default()
    }
}

impl TrainConfig {
    /// The recipe `name` for a dataset. A side without local features uses no pooling.
    ///
    /// # Errors
    /// A name that is not in [`RECIPES`], features that cannot be read.
    pub fn recipe(name: &str, dataset: &Dataset) -> Result<Self> {
        Ok(Self::recipe_with(name, dataset, Ok)?.0)
    }

    /// [`TrainConfig::recipe`] with options on top, and a line that says what the recipe is and why it is so. `options`
    /// sets the options in a configuration. The recipe `wgoal` adapts the rest to them: for example, a head that is not
    /// linear cannot start from a closed form.
    ///
    /// ```
    /// use wgoal::{Dataset, TrainConfig};
    /// let data = Dataset::open("data/clipart-mini")?;
    /// let (config, why) = TrainConfig::recipe_with("wgoal", &data, |config| Ok(config.with(|c| c.seed = 1)))?;
    /// assert_eq!((config.seed, config.embed), (1, 256));
    /// println!("{why}");
    /// # Ok::<(), wgoal::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`TrainConfig::recipe`] and of `options`.
    pub fn recipe_with(
        name: &str,
        dataset: &Dataset,
        options: impl Fn(Self) -> Result<Self>,
    ) -> Result<(Self, String)> {
        let Some(recipe) = RECIPES.iter().find(|recipe| recipe.name == name) else {
            let names = RECIPES.map(|recipe| recipe.name).join(", ");
            return Err(Error::config("--recipe", names, format!("'{name}'"), "name one of them"));
        };
        let config = match recipe.kind {
            Kind::Ours { fast } => {
                let config = ours::fit(dataset, fast, options)?;
                let why = ours::reason(dataset, &config)?;
                return Ok((config, format!("recipe {name} for {why}")));
            }
            Kind::Fixed(config) => config(),
        };
        let fitting = |side, pooling| {
            let on_host = matches!(pooling, Pooling::Mean | Pooling::Max | Pooling::Joined);
            if on_host && dataset.local_dim(side).is_none() { Pooling::None } else { pooling }
        };
        let config = Self {
            image_pooling: fitting(Side::Image, config.image_pooling),
            text_pooling: fitting(Side::Text, config.text_pooling),
            ..config
        };
        Ok((options(config)?, format!("recipe {name}: {}", recipe.summary)))
    }
}
