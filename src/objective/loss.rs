//! Named losses: their names, their gradients and their default parameters.

use super::{GoalParams, PairWeight, TripletWeight};
use serde::{Deserialize, Serialize};

/// A named loss of one positive and the negatives of its anchor, summed over both directions of the batch. The gradient
/// is exactly that of the value, except for `CircleDetached`.
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
    /// (1/τ) log(1 + e^(τ(P⁻(n−m) + P⁺(1−m−p)))): `circle:circle`. P⁺ = max(1+m−p, 0) and P⁻ = max(n+m, 0) are held
    /// fixed in the gradient, as published (Sun et al. 2020). Over several negatives this is the sum of the loss of
    /// each one. The published circle loss has one logarithm over all of them: `CircleAll`.
    CircleDetached,
    /// 1 − p + max(0, n − λ): `con:contrastive`
    Contrastive,
    /// (1/α) log(1 + e^(−α(p−λ))) + (1/β) log(1 + Σ e^(β(s−λ))) over all negatives, without mining (Wang et al. 2019)
    MultiSimilarity,
    /// max(0, margin − p + (1/τ) log Σ e^(τs)) over all negatives (Oh Song et al. 2016, on similarities)
    Lifted,
    /// (1/τ) log(1 + e^(τ P⁺ (1−m−p)) Σ e^(τ P⁻(s) (s−m))) over all negatives (Sun et al. 2020, eq. 6). P⁺ and P⁻(s) are
    /// those of `CircleDetached`, and held fixed too.
    CircleAll,
    /// `MultiSimilarity` over the negatives with s + κ > p, and 0 without such a negative: the mining of Wang et al. 2019,
    /// with one positive
    MultiSimilarityMined,
}

impl Loss {
    /// All losses.
    pub const ALL: [Self; 11] = [
        Self::Triplet,
        Self::NtXent,
        Self::SquaredPair,
        Self::BinomialDeviance,
        Self::Circle,
        Self::CircleDetached,
        Self::CircleAll,
        Self::Contrastive,
        Self::MultiSimilarity,
        Self::MultiSimilarityMined,
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
            Self::CircleAll => "circle-all",
            Self::Contrastive => "contrastive",
            Self::MultiSimilarity => "multi-similarity",
            Self::MultiSimilarityMined => "multi-similarity-mined",
            Self::Lifted => "lifted",
        }
    }

    /// The weights on the hardest negative that give its gradient; `None` for losses over all negatives.
    pub fn combination(self) -> Option<(TripletWeight, PairWeight)> {
        Some(match self {
            Self::Triplet => (TripletWeight::Con, PairWeight::Con),
            Self::NtXent => (TripletWeight::Nca, PairWeight::Con),
            Self::SquaredPair => (TripletWeight::Con, PairWeight::Lin),
            Self::BinomialDeviance => (TripletWeight::Con, PairWeight::Sig),
            Self::Circle => (TripletWeight::Cir, PairWeight::Lin),
            Self::CircleDetached => (TripletWeight::Circle, PairWeight::Circle),
            Self::Contrastive => (TripletWeight::Con, PairWeight::Contrastive),
            Self::CircleAll | Self::MultiSimilarity | Self::MultiSimilarityMined | Self::Lifted => {
                return None;
            }
        })
    }

    /// Whether it is a function of p plus a function of n. Over several negatives (`@all`, `@top:K`), the function of p
    /// then counts once per anchor, unless there is a margin.
    pub(crate) fn is_separable(self) -> bool {
        matches!(self, Self::SquaredPair | Self::BinomialDeviance | Self::Contrastive)
    }

    /// Its default parameters: those of GOAL. `Lifted` has a margin of 1. `CircleAll` has the scale 80 and the margin 0.4
    /// of the paper's experiments on retrieval.
    pub fn params(self) -> GoalParams {
        match self {
            Self::Lifted => GoalParams { margin: Some(1.0), ..Default::default() },
            Self::CircleAll => GoalParams { tau: 80.0, circle: 0.4, ..Default::default() },
            _ => GoalParams::default(),
        }
    }
}
