//! What is optimised: the GOAL gradients (15 combinations of triplet and pair weight), the hinge triplet and InfoNCE.
//!
//! An [`Objective`] is a value with a name such as `cir:sig-ms`; [`Objective::gradients`] is the whole gradient for
//! people who bring their own encoder, and `gradient` the dispatches that the trainer uses.

mod custom;
mod embeddings;
mod field;
mod gradient;
mod negatives;

pub use custom::CustomWeights;
pub(crate) use embeddings::check_embeddings;
pub use embeddings::{GradientOptions, Gradients};
pub(crate) use field::Field;
pub(crate) use gradient::{BankRows, Inputs, Workspace};
pub use negatives::Negatives;

use crate::kernels::{ExponentialParams, SameImage, WeightParams};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Weight of a whole triplet by its positive similarity p and its hardest negative n (goal-math.md section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TripletWeight {
    /// 1
    Con,
    /// σ(τ (n − p)), the weight of NCA and NT-Xent
    Nca,
    /// σ(τ ((1−p)² + n² − 2m²)), the weight of the circle loss
    Cir,
    /// The same with the circle loss's factors clamped at 0: σ(τ (P⁻ (n − m) + P⁺ (1 − m − p)))
    Circle,
}

/// Weights of the positive and the negative pair inside a triplet (goal-math.md section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PairWeight {
    /// 1, 1
    Con,
    /// 1 − p, n
    Lin,
    /// `Lin` times one minus, one plus the mean distance to the relative sets
    LinMs,
    /// σ(−α(p−λ)), σ(β(n−λ)), the weights of the binomial deviance
    Sig,
    /// The multi-similarity form of `Sig`, with relative sets
    SigMs,
    /// max(1 + m − p, 0), max(n + m, 0): the circle loss, its factors detached
    Circle,
    /// 1, and 1 where n > λ: the contrastive loss
    Contrastive,
}

/// Parameters of the GOAL weights; the defaults are those of the published code (goal-math.md section 6).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GoalParams {
    /// Scale τ of the triplet weights.
    pub tau: f32,
    /// Scale α of the positive sigmoid.
    pub alpha: f32,
    /// Scale β of the negative sigmoid.
    pub beta: f32,
    /// Centre λ of both sigmoids.
    pub lambda: f32,
    /// How far from the anchor's own negative and the lowest positive the relative sets reach.
    pub threshold: f32,
    /// The circle margin m of the `cir` weight.
    pub circle: f32,
    /// Closes every triplet with margin + n − p ≤ 0. `None`: every triplet contributes, as published.
    pub margin: Option<f32>,
}

impl Default for GoalParams {
    fn default() -> Self {
        Self { tau: 1.0, alpha: 2.0, beta: 10.0, lambda: 0.5, threshold: 0.1, circle: 0.5, margin: None }
    }
}

/// Parameters of InfoNCE.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InfonceParams {
    /// The temperature, or its start where it is learned.
    pub temperature: f32,
    /// Learn the temperature, kept in [0.001, 0.5] as X-VLM does.
    pub learn_temperature: bool,
    /// With image ids: leave the other captions of an image out, instead of sharing the target among them.
    pub leave_out: bool,
}

impl Default for InfonceParams {
    fn default() -> Self {
        Self { temperature: 0.07, learn_temperature: false, leave_out: false }
    }
}

impl InfonceParams {
    /// Where a learned temperature is kept.
    pub(crate) const BOUNDS: (f32, f32) = (0.001, 0.5);

    pub(crate) fn same_image(&self) -> SameImage {
        if self.leave_out { SameImage::LeftOut } else { SameImage::Target }
    }
}

/// A loss with a name of its own, of one positive and the negatives of an anchor, summed over both directions of the
/// batch. The gradient is exactly that of the value, but for `CircleDetached`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Loss {
    /// n − p, or max(0, margin + n − p) with a margin: `con:con`
    Triplet,
    /// (1/τ) log(1 + e^(τ(n−p))), NT-Xent with one negative: `nca:con`
    NtXent,
    /// ½(1−p)² + ½n²: `con:lin`
    SquaredPair,
    /// (1/α) log(1 + e^(−α(p−λ))) + (1/β) log(1 + e^(β(n−λ))): `con:sig`
    BinomialDeviance,
    /// (1/2τ) log(1 + e^(τ((1−p)² + n² − 2m²))), the circle loss with its factors differentiated: `cir:lin`
    Circle,
    /// (1/τ) log(1 + e^(τ(P⁻(n−m) + P⁺(1−m−p)))), P⁺ = max(1+m−p, 0) and P⁻ = max(n+m, 0) held fixed in the gradient, as
    /// published (Sun et al. 2020): `circle:circle`
    CircleDetached,
    /// 1 − p + max(0, n − λ): `con:contrastive`
    Contrastive,
    /// (1/α) log(1 + e^(−α(p−λ))) + (1/β) log(1 + Σ e^(β(s−λ))) over all negatives, without mining (Wang et al. 2019)
    MultiSimilarity,
    /// max(0, margin − p + (1/τ) log Σ e^(τs)) over all negatives (Oh Song et al. 2016, on similarities)
    Lifted,
}

impl Loss {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Triplet,
        Self::NtXent,
        Self::SquaredPair,
        Self::BinomialDeviance,
        Self::Circle,
        Self::CircleDetached,
        Self::Contrastive,
        Self::MultiSimilarity,
        Self::Lifted,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Triplet => "triplet",
            Self::NtXent => "nt-xent",
            Self::SquaredPair => "squared-pair",
            Self::BinomialDeviance => "binomial-deviance",
            Self::Circle => "circle",
            Self::CircleDetached => "circle-detached",
            Self::Contrastive => "contrastive",
            Self::MultiSimilarity => "multi-similarity",
            Self::Lifted => "lifted",
        }
    }

    /// The weights on the hardest negative that make its gradient; `None` where all negatives count.
    pub fn combination(self) -> Option<(TripletWeight, PairWeight)> {
        Some(match self {
            Self::Triplet => (TripletWeight::Con, PairWeight::Con),
            Self::NtXent => (TripletWeight::Nca, PairWeight::Con),
            Self::SquaredPair => (TripletWeight::Con, PairWeight::Lin),
            Self::BinomialDeviance => (TripletWeight::Con, PairWeight::Sig),
            Self::Circle => (TripletWeight::Cir, PairWeight::Lin),
            Self::CircleDetached => (TripletWeight::Circle, PairWeight::Circle),
            Self::Contrastive => (TripletWeight::Con, PairWeight::Contrastive),
            Self::MultiSimilarity | Self::Lifted => return None,
        })
    }

    /// Its parameters where none are given: GOAL's, and a margin of 1 for `Lifted`.
    pub fn params(self) -> GoalParams {
        GoalParams { margin: (self == Self::Lifted).then_some(1.0), ..Default::default() }
    }
}

/// An objective on a batch of N image embeddings and their N text embeddings.
///
/// Parsed from `TRIPLET:PAIR` (`con`, `nca`, `cir` and `con`, `lin`, `lin-ms`, `sig`, `sig-ms`), the name of a [`Loss`],
/// `hinge`, `hinge-sum`, `infonce` or `infonce-masked`, with default parameters; `NAME@NEGATIVES` takes other
/// [`Negatives`] than the hardest, and `+` and `WEIGHT*` make weighted sums:
///
/// ```
/// use wgoal::{Objective, PairWeight, TripletWeight};
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
    /// A named loss, a sum over the batch.
    Loss(Loss, GoalParams),
    /// The GOAL gradient with weights from a WGSL file, a sum over the batch.
    Custom {
        /// T, P⁺ and P⁻.
        weights: CustomWeights,
        /// Closes every triplet with margin + n − p ≤ 0.
        margin: Option<f32>,
    },
    /// An objective on triplets over other negatives than the hardest.
    Over(Negatives, Box<Objective>),
    /// The sum of several objectives, each with a weight above 0.
    Sum(Vec<(f32, Objective)>),
}

/// One addend of an objective.
#[derive(Clone, Copy)]
pub(crate) struct Term<'a> {
    pub weight: f32,
    /// Neither `Over` nor `Sum`.
    pub objective: &'a Objective,
    pub negatives: Negatives,
}

impl Term<'_> {
    /// The weights of its triplets, where it is made of triplets.
    pub fn weights(&self, scale: f32) -> Option<WeightParams> {
        let params = self.objective.weight_params(scale)?;
        // Of several negatives none is made up: an anchor without one contributes nothing.
        let exclude_own = params.exclude_own || self.negatives != Negatives::Hardest;
        Some(WeightParams { exclude_own, ..params })
    }

    /// Whether single negatives are sought out.
    pub fn mines(&self) -> bool {
        self.negatives != Negatives::All && self.objective.weight_params(1.0).is_some()
    }

    /// Parameters of the relative sets, and whether they are exponential, where the pair weight has such sets.
    pub fn relative(&self) -> Option<(&GoalParams, bool)> {
        match self.objective {
            Objective::Goal(_, PairWeight::LinMs, params) => Some((params, false)),
            Objective::Goal(_, PairWeight::SigMs, params) => Some((params, true)),
            _ => None,
        }
    }
}

/// Margin of the hinge triplet where none is given.
pub(crate) const HINGE_MARGIN: f32 = 0.2;

/// The published ones first.
const TRIPLETS: [(&str, TripletWeight); 4] = [
    ("con", TripletWeight::Con),
    ("nca", TripletWeight::Nca),
    ("cir", TripletWeight::Cir),
    ("circle", TripletWeight::Circle),
];

const PAIRS: [(&str, PairWeight); 7] = [
    ("con", PairWeight::Con),
    ("lin", PairWeight::Lin),
    ("lin-ms", PairWeight::LinMs),
    ("sig", PairWeight::Sig),
    ("sig-ms", PairWeight::SigMs),
    ("circle", PairWeight::Circle),
    ("contrastive", PairWeight::Contrastive),
];

impl Objective {
    /// The 15 GOAL combinations at their default parameters, triplet weight by triplet weight.
    pub fn goal_combinations() -> impl Iterator<Item = Self> {
        TRIPLETS.into_iter().take(3).flat_map(|(_, triplet)| {
            PAIRS.into_iter().take(5).map(move |(_, pair)| Self::Goal(triplet, pair, GoalParams::default()))
        })
    }

    /// The margin, where the objective has one.
    pub fn margin(&self) -> Option<f32> {
        match self {
            Self::Goal(_, _, params) | Self::Loss(_, params) => params.margin,
            Self::Hinge { margin } | Self::HingeSum { margin } => Some(*margin),
            Self::Infonce(_) => None,
            Self::Custom { margin, .. } => *margin,
            Self::Over(_, objective) => objective.margin(),
            Self::Sum(terms) => terms.iter().find_map(|(_, objective)| objective.margin()),
        }
    }

    /// The same over `negatives`; of a sum, those terms that are on triplets.
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
            Self::Over(_, objective) if negatives == Negatives::Hardest => *objective,
            Self::Over(_, objective) => Self::Over(negatives, objective),
            objective if negatives == Negatives::Hardest => objective,
            objective => Self::Over(negatives, Box::new(objective)),
        };
        objective.validate()?;
        Ok(objective)
    }

    /// Whether it is made of triplets of which the negatives can be chosen.
    fn on_triplets(&self) -> bool {
        !matches!(self, Self::HingeSum { .. }) && self.weight_params(1.0).is_some()
    }

    /// Parses a name as [`Objective::from_str`] does, the names between `+`, `*` and `@` by `base`.
    ///
    /// # Errors
    /// Those of `base`; a weight that is no number; negatives that are none, or that the objective cannot take.
    pub fn parse_with(name: &str, mut base: impl FnMut(&str) -> Result<Self>) -> Result<Self> {
        let mut terms = Vec::new();
        for term in name.split('+') {
            let (weight, term) = match term.split_once('*') {
                None => (1.0, term),
                Some((weight, term)) => match weight.trim().parse() {
                    Ok(weight) => (weight, term),
                    Err(_) => {
                        let thing = format!("objective `{name}`, before {term}");
                        let advice = "write sums as in infonce+0.5*cir:sig-ms";
                        return Err(Error::config(thing, "a number", format!("`{weight}`"), advice));
                    }
                },
            };
            let objective = match term.trim().split_once('@') {
                None => base(term.trim())?,
                Some((objective, negatives)) => base(objective)?.over(negatives.parse()?)?,
            };
            terms.push((weight, objective));
        }
        let objective = match terms.pop() {
            Some((1.0, only)) if terms.is_empty() => only,
            last => Self::Sum(terms.into_iter().chain(last).collect()),
        };
        objective.validate()?;
        Ok(objective)
    }

    /// What it adds up.
    pub(crate) fn terms(&self) -> Vec<Term<'_>> {
        fn term(weight: f32, objective: &Objective) -> Term<'_> {
            match objective {
                Objective::Over(negatives, objective) => Term { weight, objective, negatives: *negatives },
                Objective::HingeSum { .. } => Term { weight, objective, negatives: Negatives::All },
                _ => Term { weight, objective, negatives: Negatives::Hardest },
            }
        }
        match self {
            Self::Sum(terms) => terms.iter().map(|(weight, objective)| term(*weight, objective)).collect(),
            objective => vec![term(1.0, objective)],
        }
    }

    /// The parameters of InfoNCE, where it is the objective or one of its terms.
    pub fn infonce(&self) -> Option<&InfonceParams> {
        self.terms().into_iter().find_map(|term| match term.objective {
            Self::Infonce(params) => Some(params),
            _ => None,
        })
    }

    /// Whether single negatives are sought out, which a memory bank has more of.
    pub fn mines(&self) -> bool {
        self.terms().iter().any(Term::mines)
    }

    /// The weights of its triplets, where it is made of triplets.
    pub(crate) fn weight_params(&self, scale: f32) -> Option<WeightParams> {
        let built_in = |triplet, pair, loss, params: &GoalParams| {
            let GoalParams { tau, alpha, beta, lambda, circle, margin, .. } = *params;
            let exclude_own = margin.is_some();
            let weights = WeightParams {
                triplet,
                pair,
                loss,
                tau,
                alpha,
                beta,
                lambda,
                circle,
                margin,
                ..Default::default()
            };
            Some(WeightParams { exclude_own, scale, ..weights })
        };
        match self {
            Self::Goal(triplet, pair, params) => built_in(*triplet, *pair, Loss::Triplet, params),
            Self::Loss(loss, params) => {
                let (triplet, pair) = loss.combination()?;
                built_in(triplet, pair, *loss, params)
            }
            Self::Hinge { margin } | Self::HingeSum { margin } => {
                let params = GoalParams { margin: Some(*margin), ..Default::default() };
                built_in(TripletWeight::Con, PairWeight::Con, Loss::Triplet, &params)
            }
            Self::Custom { weights, margin } => {
                let exclude_own = margin.is_some();
                let custom = Some(weights.clone());
                Some(WeightParams { margin: *margin, exclude_own, scale, custom, ..Default::default() })
            }
            Self::Over(_, objective) => objective.weight_params(scale),
            Self::Infonce(_) | Self::Sum(_) => None,
        }
    }

    /// The loss over all negatives by exponentials, where it is one.
    pub(crate) fn exponential_params(&self, scale: f32) -> Option<ExponentialParams> {
        let (lifted, params) = match self {
            Self::Loss(Loss::MultiSimilarity, params) => (false, params),
            Self::Loss(Loss::Lifted, params) => (true, params),
            _ => return None,
        };
        let GoalParams { tau, alpha, beta, lambda, margin, .. } = *params;
        let (rate, margin) = (if lifted { tau } else { beta }, margin.unwrap_or(0.0));
        Some(ExponentialParams { lifted, rate, alpha, lambda, margin, scale })
    }

    /// Whether triplets on the hardest negative close once a margin is satisfied.
    pub(crate) fn closes_triplets(&self) -> bool {
        match self {
            Self::Goal(_, _, params) => params.margin.is_some(),
            // Over all negatives, the own pair is none.
            Self::Loss(loss, params) => params.margin.is_some() || loss.combination().is_none(),
            Self::Hinge { .. } => true,
            Self::Custom { margin, .. } => margin.is_some(),
            Self::Over(_, objective) => objective.closes_triplets(),
            Self::HingeSum { .. } | Self::Infonce(_) | Self::Sum(_) => false,
        }
    }

    /// Whether every parameter is a number that the formulas can take.
    ///
    /// # Errors
    /// Names the first parameter that is not.
    pub fn validate(&self) -> Result<()> {
        let check = |ok: bool, name: &str, expected: &str, found: f32| match ok {
            true => Ok(()),
            false => {
                let thing = format!("--{name} of objective {self}");
                Err(Error::config(
                    thing,
                    expected,
                    found,
                    format!("give --{name} such a value, or leave it out"),
                ))
            }
        };
        let positive = |name, x: f32| check(x.is_finite() && x > 0.0, name, "a finite number above 0", x);
        if let Some(margin) = self.margin() {
            check(margin.is_finite(), "margin", "a finite number", margin)?;
        }
        match self {
            Self::Goal(_, _, params) | Self::Loss(_, params) => {
                positive("tau", params.tau)?;
                positive("alpha", params.alpha)?;
                positive("beta", params.beta)?;
                check(params.lambda.is_finite(), "lambda", "a finite number", params.lambda)?;
                let threshold = params.threshold;
                check(
                    threshold.is_finite() && threshold >= 0.0,
                    "threshold",
                    "a finite number of 0 or more",
                    threshold,
                )?;
                check(params.circle.is_finite(), "circle-margin", "a finite number", params.circle)
            }
            Self::Infonce(params) => {
                positive("temperature", params.temperature)?;
                let (low, high) = InfonceParams::BOUNDS;
                let t = params.temperature;
                let learnable = !params.learn_temperature || (low..=high).contains(&t);
                check(learnable, "temperature", "0.001 to 0.5 where it is learned", t)
            }
            Self::Over(negatives, objective) => {
                objective.validate()?;
                if !objective.on_triplets() || matches!(**objective, Self::Over(..)) {
                    let expected =
                        "an objective on triplets: TRIPLET:PAIR, hinge, custom, or a loss of one negative";
                    let advice = "leave the negatives out, or choose another objective";
                    return Err(Error::config(
                        format!("--negatives {negatives}"),
                        expected,
                        objective,
                        advice,
                    ));
                }
                let sets = matches!(**objective, Self::Goal(_, PairWeight::LinMs | PairWeight::SigMs, _));
                if sets && *negatives == Negatives::All {
                    let expected =
                        "a pair weight without relative sets, which every negative would have of its own";
                    let advice = "use top:K, or the pair weight lin or sig";
                    return Err(Error::config("--negatives all", expected, objective, advice));
                }
                Ok(())
            }
            Self::Sum(terms) => {
                let thing = format!("objective {self}");
                if terms.is_empty() {
                    return Err(Error::config("sum of objectives", "at least one", "none", "name some"));
                }
                for (weight, objective) in terms {
                    objective.validate()?;
                    if !(weight.is_finite() && *weight > 0.0) {
                        let (expected, advice) = ("weights above 0", "give each term a weight above 0");
                        return Err(Error::config(thing, expected, weight, advice));
                    }
                    if matches!(objective, Self::Sum(_)) {
                        let advice = "multiply the inner weights out";
                        return Err(Error::config(thing, "a sum without sums in it", objective, advice));
                    }
                }
                let infonce = terms.iter().filter(|(_, objective)| matches!(objective, Self::Infonce(_)));
                match infonce.count() {
                    0 | 1 => Ok(()),
                    more => {
                        let expected = "InfoNCE at most once: the head has one temperature";
                        Err(Error::config(thing, expected, format!("{more} times"), "leave all but one out"))
                    }
                }
            }
            Self::Hinge { .. } | Self::HingeSum { .. } | Self::Custom { .. } => Ok(()),
        }
    }
}

impl FromStr for Objective {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        if name.contains(['+', '*', '@']) {
            return Self::parse_with(name, str::parse);
        }
        match name {
            "hinge" => return Ok(Self::Hinge { margin: HINGE_MARGIN }),
            "hinge-sum" => return Ok(Self::HingeSum { margin: HINGE_MARGIN }),
            "infonce" => return Ok(Self::Infonce(InfonceParams::default())),
            "infonce-masked" => {
                return Ok(Self::Infonce(InfonceParams { leave_out: true, ..Default::default() }));
            }
            "custom" => {
                let expected = "a file that defines its weights";
                return Err(Error::config("objective `custom`", expected, "none", "add --weights FILE.wgsl"));
            }
            _ => {}
        }
        if let Some(loss) = Loss::ALL.into_iter().find(|loss| loss.name() == name) {
            return Ok(Self::Loss(loss, loss.params()));
        }
        let find = || {
            let (triplet, pair) = name.split_once(':')?;
            let triplet = TRIPLETS.iter().find(|(name, _)| *name == triplet)?.1;
            let pair = PAIRS.iter().find(|(name, _)| *name == pair)?.1;
            Some(Self::Goal(triplet, pair, GoalParams::default()))
        };
        find().ok_or_else(|| {
            Error::config(
                format!("objective `{name}`"),
                "TRIPLET:PAIR, a loss, hinge, hinge-sum, infonce, infonce-masked or custom",
                "another name",
                "choose TRIPLET from con, nca, cir and PAIR from con, lin, lin-ms, sig, sig-ms, as in cir:sig-ms",
            )
        })
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Goal(triplet, pair, _) => {
                let triplet = TRIPLETS.iter().find(|(_, t)| t == triplet).map_or("", |(name, _)| name);
                let pair = PAIRS.iter().find(|(_, p)| p == pair).map_or("", |(name, _)| name);
                write!(f, "{triplet}:{pair}")
            }
            Self::Loss(loss, _) => f.write_str(loss.name()),
            Self::Hinge { .. } => f.write_str("hinge"),
            Self::HingeSum { .. } => f.write_str("hinge-sum"),
            Self::Infonce(params) if params.leave_out => f.write_str("infonce-masked"),
            Self::Infonce(_) => f.write_str("infonce"),
            Self::Custom { .. } => f.write_str("custom"),
            Self::Over(negatives, objective) => write!(f, "{objective}@{negatives}"),
            Self::Sum(terms) => {
                for (k, (weight, objective)) in terms.iter().enumerate() {
                    let plus = if k > 0 { "+" } else { "" };
                    match weight {
                        1.0 => write!(f, "{plus}{objective}")?,
                        weight => write!(f, "{plus}{weight}*{objective}")?,
                    }
                }
                Ok(())
            }
        }
    }
}
