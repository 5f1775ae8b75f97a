//! The objective and its parameters on the command line.

use super::warn;
use crate::cli::Switch;
use clap::Args;
use std::path::PathBuf;
use wgoal::objective::CustomWeights;
use wgoal::{Objective, Result};

/// The objective and its parameters.
#[derive(Args, Clone, Default)]
pub struct ObjectiveArgs {
    /// What training optimises [default: cir:sig-ms]
    ///
    /// A GOAL gradient is TRIPLET:PAIR. TRIPLET is con, nca or cir; PAIR is con, lin, lin-ms, sig or sig-ms.
    ///
    /// The losses are hinge, hinge-sum, infonce, infonce-masked, infonce-log-sum, siglip, siglip-masked, triplet,
    /// nt-xent, squared-pair, binomial-deviance, circle, circle-detached, circle-all, contrastive, multi-similarity,
    /// multi-similarity-mined and lifted.
    ///
    /// `custom` reads the file of --weights. A weighted sum of these is written as in infonce+0.5*cir:sig-ms. One
    /// direction of a loss is written as in infonce@image-to-text or infonce@text-to-image. Several positives per anchor
    /// are written as in hinge@positives:hardest; they are the captions of an image in the batch, and hardest, mean and
    /// log-sum say what they become.
    #[arg(long, value_name = "NAME", help_heading = "Objective")]
    pub objective: Option<String>,
    /// Margin of the hinge, or of a GOAL gradient [default: 0.2 for the hinge, off for GOAL]
    ///
    /// A GOAL gradient with a margin drops the triplets that satisfy it.
    #[arg(long, allow_negative_numbers = true, help_heading = "Objective")]
    pub(in crate::cli) margin: Option<f32>,
    /// Scale of the triplet weights nca and cir, above 0 [default: 1]
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true, help_heading = "Objective")]
    pub(in crate::cli) tau: Option<f32>,
    /// Scale of the positive weight of sig and sig-ms, above 0 [default: 2]
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true, help_heading = "Objective")]
    pub(in crate::cli) alpha: Option<f32>,
    /// Scale of the negative weight of sig and sig-ms, above 0 [default: 10]
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true, help_heading = "Objective")]
    pub(in crate::cli) beta: Option<f32>,
    /// Centre of the weights of sig and sig-ms, a similarity [default: 0.5]
    #[arg(long, value_name = "CENTRE", allow_negative_numbers = true, help_heading = "Objective")]
    pub(in crate::cli) lambda: Option<f32>,
    /// Reach of the relative sets of lin-ms and sig-ms, and of multi-similarity-mined, 0 or more [default: 0.1]
    #[arg(long, value_name = "REACH", allow_negative_numbers = true, help_heading = "Objective")]
    pub(in crate::cli) threshold: Option<f32>,
    /// Margin inside the triplet weight cir [default: 0.5]
    #[arg(long, value_name = "MARGIN", allow_negative_numbers = true, help_heading = "Objective")]
    pub(in crate::cli) circle_margin: Option<f32>,
    /// Temperature of infonce and siglip, above 0 [default: 0.07 for infonce, 0.1 for siglip]
    #[arg(long, value_name = "T", allow_negative_numbers = true, help_heading = "Objective")]
    pub(in crate::cli) temperature: Option<f32>,
    /// Number that siglip adds to every logit [default: -10]
    #[arg(long, value_name = "BIAS", allow_negative_numbers = true, help_heading = "Objective")]
    pub(in crate::cli) logit_bias: Option<f32>,
    /// Learn the temperature, and the bias of siglip [default: off for infonce, on for siglip]
    ///
    /// The temperature stays between 0.001 and 0.5.
    #[arg(long, value_name = "on|off", num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    #[arg(help_heading = "Objective")]
    pub(in crate::cli) learn_temperature: Option<Switch>,
    /// WGSL file that defines the weights of `custom`
    ///
    /// It defines triplet_weight(p, n) -> f32 and pair_weights(p, n) -> vec2f, where p and n are the similarities of
    /// the positive and of the negative.
    #[arg(long, value_name = "FILE", help_heading = "Objective")]
    pub(in crate::cli) weights: Option<PathBuf>,
    /// Value for a parameter of the file of --weights; can be repeated [default: the value in the file]
    ///
    /// The file declares a parameter as `override name: f32 = value;`.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parameter, allow_hyphen_values = true)]
    #[arg(help_heading = "Objective")]
    pub(in crate::cli) param: Vec<(String, f32)>,
    /// Which negatives of an anchor form triplets [default: hardest]
    ///
    /// `hardest` is the most similar negative, `semi-hard` the most similar one below the positive, `top:K` the K most
    /// similar ones, `all` all of them.
    #[arg(long, value_name = "hardest|semi-hard|top:K|all", help_heading = "Negatives")]
    pub(in crate::cli) negatives: Option<String>,
}

/// Parses NAME=VALUE.
fn parameter(text: &str) -> std::result::Result<(String, f32), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    let value = value.parse().map_err(|e| format!("{e}: `{value}`"))?;
    Ok((name.to_string(), value))
}

impl ObjectiveArgs {
    /// The objective that results from `base` (used if none is named) and the given parameters. Warns of parameters
    /// that have no effect.
    pub fn apply(&self, base: Objective) -> Result<Objective> {
        let objective = self.resolve(base)?;
        warn(&self.unused(&objective));
        Ok(objective)
    }

    /// The objective that results from `base` (used if none is named) and the given parameters.
    pub fn resolve(&self, base: Objective) -> Result<Objective> {
        let named = |name: &str| match &self.weights {
            Some(path) if name == "custom" => {
                let given = self.param.iter().map(|(name, value)| (name.as_str(), *value));
                let weights = CustomWeights::open(path, given)?;
                Ok(Objective::Custom { weights, margin: base.margin() })
            }
            _ => name.parse(),
        };
        let mut objective = match &self.objective {
            None if self.weights.is_some() => named("custom")?,
            Some(name) if self.weights.is_some() || *name != base.to_string() => {
                Objective::parse_with(name, named)?
            }
            _ => base,
        };
        self.set(&mut objective)?;
        if let Some(negatives) = &self.negatives {
            objective = objective.over(negatives.parse()?)?;
        }
        objective.validate()?;
        Ok(objective)
    }

    /// Sets the given parameters in an objective, or in all terms of a sum.
    fn set(&self, objective: &mut Objective) -> Result<()> {
        let given = [
            ("tau", self.tau),
            ("alpha", self.alpha),
            ("beta", self.beta),
            ("lambda", self.lambda),
            ("threshold", self.threshold),
            ("circle-margin", self.circle_margin),
            ("margin", self.margin),
            ("temperature", self.temperature),
            ("logit-bias", self.logit_bias),
        ];
        for (name, value) in given.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            objective.set(name, value);
        }
        objective.visit(|term| {
            match (term, self.learn_temperature) {
                (Objective::Infonce(params), Some(learn)) => params.learn_temperature = learn.is_on(),
                (Objective::Siglip(params), Some(learn)) => params.learn_temperature = learn.is_on(),
                (Objective::Custom { weights, .. }, _)
                    if self.weights.is_none() && !self.param.is_empty() =>
                {
                    *weights =
                        weights.with(self.param.iter().map(|(name, value)| (name.as_str(), *value)))?;
                }
                _ => {}
            }
            Ok(())
        })
    }
}
