//! Translates the description of an objective into parameters of kernels.

use crate::kernels::{
    Aggregate, ExponentialLoss, ExponentialParams, PositiveForm, PositivePart, PositivesParams, SameImage,
    WeightParams,
};
use crate::objective::{
    GoalParams, InfonceParams, Loss, Negatives, Objective, PairWeight, Positives, Term, TripletWeight,
};

/// How InfoNCE treats other captions of an image.
pub(super) fn targets(params: &InfonceParams) -> SameImage {
    match (params.leave_out, params.log_sum) {
        (true, _) => SameImage::LeftOut,
        (false, true) => SameImage::Summed,
        (false, false) => SameImage::Target,
    }
}

/// How SigLIP treats other captions of an image.
pub(super) fn same_image(leave_out: bool) -> SameImage {
    if leave_out { SameImage::LeftOut } else { SameImage::Target }
}

/// The weights of a term's triplets; `None` if it has no triplets.
pub(crate) fn term_weights(term: &Term, scale: f32) -> Option<WeightParams> {
    let params = weight_params(term.objective, scale)?;
    // With several negatives per anchor, an anchor without a negative contributes nothing.
    let exclude_own = params.exclude_own || term.negatives != Negatives::Hardest;
    let positive = if term.counts_positive_once() { PositivePart::Once } else { PositivePart::WithEach };
    Some(WeightParams { exclude_own, positive, ..params })
}

/// The weights of an objective's triplets; `None` if it has no triplets.
pub(crate) fn weight_params(objective: &Objective, scale: f32) -> Option<WeightParams> {
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
    match objective {
        Objective::Goal(triplet, pair, params) => built_in(*triplet, *pair, Loss::Triplet, params),
        Objective::Loss(loss, params) => {
            let (triplet, pair) = loss.combination()?;
            built_in(triplet, pair, *loss, params)
        }
        Objective::Hinge { margin } | Objective::HingeSum { margin } => {
            let params = GoalParams { margin: Some(*margin), ..Default::default() };
            built_in(TripletWeight::Con, PairWeight::Con, Loss::Triplet, &params)
        }
        Objective::Custom { weights, margin } => {
            let exclude_own = margin.is_some();
            let custom = Some(weights.clone());
            Some(WeightParams { margin: *margin, exclude_own, scale, custom, ..Default::default() })
        }
        Objective::Over(_, objective)
        | Objective::OneWay(_, objective)
        | Objective::Towards(_, objective) => weight_params(objective, scale),
        Objective::Infonce(_) | Objective::Siglip(_) | Objective::Sum(_) => None,
    }
}

/// How the positives of an anchor become one number; `None` if an anchor has one positive.
pub(super) fn positives_params(term: &Term) -> Option<PositivesParams> {
    let circle = matches!(term.objective, Objective::Loss(Loss::CircleAll, _));
    let aggregate = match term.positives {
        Positives::Own => return None,
        Positives::Hardest => Aggregate::Hardest,
        Positives::Mean => Aggregate::Mean,
        Positives::LogSum if circle => Aggregate::Circle,
        Positives::LogSum => Aggregate::LogSum,
    };
    let (margin, reach) = match term.objective {
        Objective::Loss(Loss::CircleAll, params) => (params.circle, None),
        Objective::Loss(Loss::MultiSimilarityMined, params) => (0.0, Some(params.threshold)),
        _ => (0.0, None),
    };
    Some(PositivesParams { aggregate, rate: term.objective.positive_scale().unwrap_or(1.0), margin, reach })
}

/// The parameters of a loss that sums exponentials over all negatives; `None` for other objectives. `several` says what an
/// anchor's positives become, if it has several.
pub(super) fn exponential_params(
    term: &Term,
    several: Option<&PositivesParams>,
    scale: f32,
) -> Option<ExponentialParams> {
    let Objective::Loss(loss, params) = term.objective else { return None };
    let GoalParams { tau, alpha, beta, lambda, threshold, circle, margin } = *params;
    let reach = (*loss == Loss::MultiSimilarityMined).then_some(threshold);
    let (loss, rate, margin) = match loss {
        Loss::MultiSimilarity | Loss::MultiSimilarityMined => (ExponentialLoss::MultiSimilarity, beta, 0.0),
        Loss::Lifted => (ExponentialLoss::Lifted, tau, margin.unwrap_or(0.0)),
        Loss::CircleAll => (ExponentialLoss::Circle, tau, circle),
        _ => return None,
    };
    let positives = match several.map(|several| several.aggregate) {
        None => PositiveForm::Own,
        Some(Aggregate::Circle) => PositiveForm::Exponent,
        Some(_) => PositiveForm::Several,
    };
    let shares = term.shares();
    Some(ExponentialParams { loss, rate, alpha, lambda, margin, reach, positives, scale, shares })
}
