//! Objectives: the GOAL gradients (15 combinations of triplet and pair weight), the hinge triplet, InfoNCE, SigLIP and
//! named losses.
//!
//! An [`Objective`] is a value with a name such as `cir:sig-ms`. [`Objective::gradients`] computes its gradient for
//! callers with their own encoder. The module `gradient` holds the dispatches that the trainer uses.
//! This file holds that type with its parameters. Names, checks and custom weights are in the files beside it.

mod contrastive;
mod custom;
mod direction;
mod equal_captions;
mod loss;
mod names;
mod negatives;
mod parameters;
mod positives;
mod validate;

pub use contrastive::{InfonceParams, Logits, SiglipParams};
pub use custom::CustomWeights;
pub(crate) use custom::SECTION;
pub use direction::Direction;
pub use equal_captions::EqualCaptions;
pub use loss::Loss;
pub use negatives::Negatives;
pub use positives::Positives;

use crate::Result;
use serde::{Deserialize, Serialize};

/// Weight of a whole triplet, a function of its positive similarity p and its hardest negative similarity n
/// (docs/math.md, "Triplet weights").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum TripletWeight {
    /// 1
    Con,
    /// σ(τ (n − p)), the weight of NCA and NT-Xent
    Nca,
    /// σ(τ ((1−p)² + n² − 2m²)), the weight of the circle loss
    Cir,
    /// σ(τ (P⁻ (n − m) + P⁺ (1 − m − p))): `Cir` with the factors of the circle loss clamped at 0
    Circle,
}

/// Weights of the positive and the negative pair inside a triplet (docs/math.md, "Pair weights").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PairWeight {
    /// 1, 1
    Con,
    /// 1 − p, n
    Lin,
    /// (1 − R⁺) (1 − p), (1 + R⁻) n: `Lin` with the mean distances R⁺ and R⁻ to the relative sets
    LinMs,
    /// σ(−α(p−λ)), σ(β(n−λ)), the weights of the binomial deviance
    Sig,
    /// The multi-similarity form of `Sig`, with relative sets
    SigMs,
    /// max(1 + m − p, 0), max(n + m, 0): the circle loss with detached factors
    Circle,
    /// 1, and 1 where n > λ: the contrastive loss
    Contrastive,
}

/// Parameters of the GOAL weights; the defaults are those of the published code (docs/math.md, "GOAL parameters").
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct GoalParams {
    /// Scale τ of the triplet weights.
    pub tau: f32,
    /// Scale α of the positive sigmoid.
    pub alpha: f32,
    /// Scale β of the negative sigmoid.
    pub beta: f32,
    /// Centre λ of both sigmoids.
    pub lambda: f32,
    /// Reach κ of the relative sets, from the anchor's own negative and from the lowest positive; of the mining of
    /// `MultiSimilarityMined`, from the positive.
    pub threshold: f32,
    /// The circle margin m of the `cir` weight.
    pub circle: f32,
    /// Closes every triplet with margin + n − p ≤ 0. `None`: every triplet contributes, as published.
    pub margin: Option<f32>,
}

with!(GoalParams);

impl Default for GoalParams {
    fn default() -> Self {
        Self { tau: 1.0, alpha: 2.0, beta: 10.0, lambda: 0.5, threshold: 0.1, circle: 0.5, margin: None }
    }
}

/// An objective on a batch of N image embeddings and their N text embeddings.
///
/// Parsed from `TRIPLET:PAIR` (`con`, `nca` or `cir`, then `con`, `lin`, `lin-ms`, `sig` or `sig-ms`), the name of a
/// [`Loss`], `hinge`, `hinge-sum`, `infonce`, `infonce-masked`, `siglip` or `siglip-masked`. The parameters get their
/// defaults. `NAME@NEGATIVES` chooses other [`Negatives`] than the hardest, `NAME@positives:POSITIVES` other
/// [`Positives`] than the own pair, and `NAME@DIRECTION` one [`Direction`]. `+` and `WEIGHT*` make weighted sums:
///
/// ```
/// use wgoal::Objective;
/// use wgoal::objective::{PairWeight, TripletWeight};
/// let objective: Objective = "cir:sig-ms".parse()?;
/// assert!(matches!(objective, Objective::Goal(TripletWeight::Cir, PairWeight::SigMs, _)));
/// assert_eq!(objective.to_string(), "cir:sig-ms");
/// let sum: Objective = "infonce+0.5*cir:con@top:3".parse()?;
/// assert!(matches!(&sum, Objective::Sum(terms) if terms.len() == 2 && terms[1].0 == 0.5));
/// # Ok::<(), wgoal::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Objective {
    /// The GOAL gradient: triplet weight x pair weight on the hardest negative, a sum over the batch.
    Goal(TripletWeight, PairWeight, GoalParams),
    /// The hinge triplet with the hardest negative (VSE++ "max violation"), a sum over the batch.
    Hinge {
        /// The margin μ, 0.2 as published.
        margin: f32,
    },
    /// The hinge triplet over all negatives (VSE0), a sum over the batch.
    HingeSum {
        /// The margin μ.
        margin: f32,
    },
    /// Symmetric InfoNCE (X-VLM's contrastive term), a mean over the batch.
    Infonce(InfonceParams),
    /// The sigmoid loss of SigLIP over all pairs, a sum divided by the number of pairs of the batch.
    Siglip(SiglipParams),
    /// A named loss, a sum over the batch.
    Loss(Loss, GoalParams),
    /// The GOAL gradient with weights from a WGSL file, a sum over the batch.
    Custom {
        /// T, P⁺ and P⁻.
        weights: CustomWeights,
        /// Closes every triplet with margin + n − p ≤ 0.
        margin: Option<f32>,
    },
    /// An objective on triplets with other negatives than the hardest.
    Over(Negatives, Box<Objective>),
    /// An objective with another positive than the anchor's own pair.
    Towards(Positives, Box<Objective>),
    /// An objective with anchors on one side only.
    OneWay(Direction, Box<Objective>),
    /// The sum of several objectives, each with a weight above 0.
    Sum(Vec<(f32, Objective)>),
}

/// One term of an objective.
#[derive(Clone, Copy)]
pub(crate) struct Term<'a> {
    pub weight: f32,
    /// None of `Over`, `Towards`, `OneWay` and `Sum`.
    pub objective: &'a Objective,
    pub negatives: Negatives,
    pub positives: Positives,
    /// `None` means both.
    pub direction: Option<Direction>,
}

impl Term<'_> {
    /// The factor of the gradient and the loss of images as anchors, and of texts. InfoNCE is a mean over all anchors.
    pub fn shares(&self) -> [f32; 2] {
        let whole = if matches!(self.objective, Objective::Infonce(_)) { 2.0 } else { 1.0 };
        match self.direction {
            None => [1.0; 2],
            Some(Direction::ImageToText) => [whole, 0.0],
            Some(Direction::TextToImage) => [0.0, whole],
        }
    }

    /// Whether the function of p counts once per anchor instead of once per triplet. This needs several negatives and a
    /// separable loss. A loss with a margin compares p with n, so it is not separable.
    pub fn counts_positive_once(&self) -> bool {
        let several = matches!(self.negatives, Negatives::All | Negatives::Top(_));
        let Objective::Loss(loss, params) = self.objective else { return false };
        several && loss.is_separable() && params.margin.is_none()
    }

    /// Whether it mines single negatives.
    pub fn mines(&self) -> bool {
        self.negatives != Negatives::All && self.objective.has_triplets()
    }

    /// Parameters of the relative sets, and whether the sets are exponential; `None` if the pair weight has no such
    /// sets.
    pub fn relative(&self) -> Option<(&GoalParams, bool)> {
        match self.objective {
            Objective::Goal(_, PairWeight::LinMs, params) => Some((params, false)),
            Objective::Goal(_, PairWeight::SigMs, params) => Some((params, true)),
            _ => None,
        }
    }
}

/// Default margin of the hinge triplet.
pub(crate) const HINGE_MARGIN: f32 = 0.2;

/// Triplet weights by name, the published ones first.
pub(crate) const TRIPLETS: [(&str, TripletWeight); 4] = [
    ("con", TripletWeight::Con),
    ("nca", TripletWeight::Nca),
    ("cir", TripletWeight::Cir),
    ("circle", TripletWeight::Circle),
];

pub(crate) const PAIRS: [(&str, PairWeight); 7] = [
    ("con", PairWeight::Con),
    ("lin", PairWeight::Lin),
    ("lin-ms", PairWeight::LinMs),
    ("sig", PairWeight::Sig),
    ("sig-ms", PairWeight::SigMs),
    ("circle", PairWeight::Circle),
    ("contrastive", PairWeight::Contrastive),
];

impl Objective {
    /// The 15 GOAL combinations with default parameters, grouped by triplet weight.
    pub fn goal_combinations() -> impl Iterator<Item = Self> {
        TRIPLETS.into_iter().take(3).flat_map(|(_, triplet)| {
            PAIRS.into_iter().take(5).map(move |(_, pair)| Self::Goal(triplet, pair, GoalParams::default()))
        })
    }

    /// The margin, if the objective has one.
    pub fn margin(&self) -> Option<f32> {
        match self {
            Self::Goal(_, _, params) | Self::Loss(_, params) => params.margin,
            Self::Hinge { margin } | Self::HingeSum { margin } => Some(*margin),
            Self::Infonce(_) | Self::Siglip(_) => None,
            Self::Custom { margin, .. } => *margin,
            Self::Over(_, objective) | Self::OneWay(_, objective) | Self::Towards(_, objective) => {
                objective.margin()
            }
            Self::Sum(terms) => terms.iter().find_map(|(_, objective)| objective.margin()),
        }
    }

    /// The same objective over `negatives`. In a sum, this changes the terms that are made of triplets.
    ///
    /// # Errors
    /// An objective that is not on triplets, or whose relative sets need one negative at a time.
    pub fn over(self, negatives: Negatives) -> Result<Self> {
        let objective = match self {
            Self::Sum(terms) if terms.iter().any(|(_, term)| term.on_triplets()) => {
                let over = |term: Self| if term.on_triplets() { term.over(negatives) } else { Ok(term) };
                let terms = terms.into_iter().map(|(weight, term)| Ok((weight, over(term)?)));
                Self::Sum(terms.collect::<Result<_>>()?)
            }
            Self::OneWay(direction, objective) => {
                Self::OneWay(direction, Box::new(objective.over(negatives)?))
            }
            Self::Over(_, objective) if negatives == Negatives::Hardest => *objective,
            Self::Over(_, objective) => Self::Over(negatives, objective),
            objective if negatives == Negatives::Hardest => objective,
            objective => Self::Over(negatives, Box::new(objective)),
        };
        objective.validate()?;
        Ok(objective)
    }

    /// Whether it is made of triplets whose negatives can be chosen.
    fn on_triplets(&self) -> bool {
        match self {
            Self::HingeSum { .. } => false,
            Self::OneWay(_, objective) | Self::Towards(_, objective) => objective.on_triplets(),
            objective => objective.has_triplets(),
        }
    }

    /// The terms of the sum.
    pub(crate) fn terms(&self) -> Vec<Term<'_>> {
        fn term(weight: f32, objective: &Objective) -> Term<'_> {
            match objective {
                Objective::OneWay(direction, objective) => {
                    Term { direction: Some(*direction), ..term(weight, objective) }
                }
                Objective::Over(negatives, objective) => {
                    Term { negatives: *negatives, ..term(weight, objective) }
                }
                Objective::Towards(positives, objective) => {
                    Term { positives: *positives, ..term(weight, objective) }
                }
                _ => {
                    let all = matches!(objective, Objective::HingeSum { .. });
                    let negatives = if all { Negatives::All } else { Negatives::Hardest };
                    Term { weight, objective, negatives, positives: Positives::Own, direction: None }
                }
            }
        }
        match self {
            Self::Sum(terms) => terms.iter().map(|(weight, objective)| term(*weight, objective)).collect(),
            objective => vec![term(1.0, objective)],
        }
    }

    /// The parameters of InfoNCE, if it is the objective or one of its terms.
    pub fn infonce(&self) -> Option<&InfonceParams> {
        self.terms().into_iter().find_map(|term| match term.objective {
            Self::Infonce(params) => Some(params),
            _ => None,
        })
    }

    /// Whether it mines single negatives. A memory bank adds candidates for these.
    pub fn mines(&self) -> bool {
        self.terms().iter().any(Term::mines)
    }

    /// Whether it is made of triplets.
    pub(crate) fn has_triplets(&self) -> bool {
        match self {
            Self::Goal(..) | Self::Hinge { .. } | Self::HingeSum { .. } | Self::Custom { .. } => true,
            Self::Loss(loss, _) => loss.combination().is_some(),
            Self::Over(_, objective) | Self::OneWay(_, objective) | Self::Towards(_, objective) => {
                objective.has_triplets()
            }
            Self::Infonce(_) | Self::Siglip(_) | Self::Sum(_) => false,
        }
    }

    /// Whether triplets on the hardest negative close once a margin is satisfied.
    pub(crate) fn closes_triplets(&self) -> bool {
        match self {
            Self::Goal(_, _, params) => params.margin.is_some(),
            // Losses over all negatives exclude the own pair.
            Self::Loss(loss, params) => params.margin.is_some() || loss.combination().is_none(),
            Self::Hinge { .. } => true,
            Self::Custom { margin, .. } => margin.is_some(),
            Self::Over(_, objective) | Self::OneWay(_, objective) | Self::Towards(_, objective) => {
                objective.closes_triplets()
            }
            Self::HingeSum { .. } | Self::Infonce(_) | Self::Siglip(_) | Self::Sum(_) => false,
        }
    }
}
