//! Which positives of an anchor count, where its image has several pairs in the batch.

use super::{GoalParams, Loss, Objective, PairWeight, TripletWeight};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What the positive similarity p of an anchor is, where several pairs of a batch have its image (docs/math.md, "Several
/// positives"). Without image ids, an anchor has one positive, its own pair.
///
/// Parsed from `own`, `hardest`, `mean` or `log-sum`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Positives {
    /// The similarity of its own pair, as published. The other pairs of its image are left out.
    #[default]
    Own,
    /// The lowest similarity.
    Hardest,
    /// The mean.
    Mean,
    /// −(1/ρ) log Σ e^(−ρ s), with the scale ρ of the loss. This is the sum over positives of the published
    /// multi-similarity, circle and lifted structure losses.
    LogSum,
}

impl Positives {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Own, Self::Hardest, Self::Mean, Self::LogSum];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Hardest => "hardest",
            Self::Mean => "mean",
            Self::LogSum => "log-sum",
        }
    }
}

impl FromStr for Positives {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|positives| positives.name() == text).ok_or_else(|| {
            let (expected, found) = ("own, hardest, mean or log-sum", format!("`{text}`"));
            Error::config("positives", expected, found, "name one of these, as in positives:mean")
        })
    }
}

impl fmt::Display for Positives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Objective {
    /// The same objective towards `positives`. In a sum, this changes the terms that have one positive per anchor: all
    /// but InfoNCE and SigLIP.
    ///
    /// # Errors
    /// InfoNCE or SigLIP; `LogSum` for an objective without a scale of its positives.
    pub fn towards(self, positives: Positives) -> Result<Self> {
        let objective = match self {
            Self::Sum(terms) if terms.iter().any(|(_, term)| term.logits().is_none()) => {
                let towards =
                    |term: Self| if term.logits().is_none() { term.towards(positives) } else { Ok(term) };
                let terms = terms.into_iter().map(|(weight, term)| Ok((weight, towards(term)?)));
                Self::Sum(terms.collect::<Result<_>>()?)
            }
            Self::OneWay(direction, objective) => {
                Self::OneWay(direction, Box::new(objective.towards(positives)?))
            }
            Self::Over(negatives, objective) => {
                Self::Over(negatives, Box::new(objective.towards(positives)?))
            }
            Self::Towards(_, objective) if positives == Positives::Own => *objective,
            Self::Towards(_, objective) => Self::Towards(positives, objective),
            objective if positives == Positives::Own => objective,
            objective => Self::Towards(positives, Box::new(objective)),
        };
        objective.validate()?;
        Ok(objective)
    }

    /// ρ, the scale of the positives' exponents in `LogSum`, if the objective has one.
    pub(crate) fn positive_scale(&self) -> Option<f32> {
        let of_weights = |triplet, pair, params: &GoalParams| match (triplet, pair) {
            (TripletWeight::Nca, _) => Some(params.tau),
            (TripletWeight::Con, PairWeight::Sig | PairWeight::SigMs) => Some(params.alpha),
            _ => None,
        };
        match self {
            Self::Goal(triplet, pair, params) => of_weights(*triplet, *pair, params),
            Self::Loss(Loss::MultiSimilarity | Loss::MultiSimilarityMined, params) => Some(params.alpha),
            Self::Loss(Loss::Lifted | Loss::CircleAll, params) => Some(params.tau),
            Self::Loss(loss, params) => {
                loss.combination().and_then(|(triplet, pair)| of_weights(triplet, pair, params))
            }
            _ => None,
        }
    }
}
