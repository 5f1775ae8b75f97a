//! Triplet weight x pair weights of every anchor, one direction (goal-math.md sections 3 and 4).

use super::exponential_field::softplus;
use super::{Access, KernelSpec, Real, lanes, sigma};
use crate::Result;
use crate::device::{Commands, Slice, SliceMut, clock};
use crate::objective::{CustomWeights, Loss, PairWeight, TripletWeight};

pub(super) static SPEC: KernelSpec = KernelSpec {
    name: "weights",
    source: include_str!("../../shaders/weights.wgsl"),
    params: Params::MEMBERS,
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::ReadWrite, Access::ReadWrite],
    workgroup: [64, 1, 1],
};

/// The page, and the section of it that a file of one's own replaces.
pub const WEIGHTS_PAGE: &str = SPEC.source;
/// Name of that section.
pub const WEIGHTS_SECTION: &str = "section weights";

params!(pairs: u32, triplet: u32, pair: u32, loss: u32, hinge: u32, tau: f32, alpha: f32, beta: f32, lambda: f32, circle: f32, margin: f32, scale: f32,
    own_0: f32, own_1: f32, own_2: f32, own_3: f32, own_4: f32, own_5: f32, own_6: f32, own_7: f32);

/// Parameters that a file of one's own may have.
pub const OWN: usize = 8;

/// Which weights, with their parameters.
#[derive(Debug, Clone, Copy)]
pub struct WeightParams {
    pub triplet: TripletWeight,
    pub pair: PairWeight,
    /// What is reported as the loss; `Triplet` is n - p.
    pub loss: Loss,
    pub tau: f32,
    pub alpha: f32,
    pub beta: f32,
    pub lambda: f32,
    /// The circle margin m of T cir.
    pub circle: f32,
    /// Closes triplets with margin + n - p <= 0.
    pub margin: Option<f32>,
    /// Upstream gradient.
    pub scale: f32,
}

/// Writes `coefficients [pairs, 2]` = (scale T P+, scale T P-) and `loss [pairs]` from p, n, h and the relative
/// `sums [pairs, 4]`.
pub fn weights(
    commands: &mut Commands,
    params: &WeightParams,
    (positive, value, index): (Slice<f32>, Slice<f32>, Slice<u32>),
    sums: Slice<f32>,
    mut coefficients: SliceMut<f32>,
    mut loss: SliceMut<f32>,
    pairs: usize,
) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("weights");
            let mined = (positive.host()?, value.host()?, index.host()?);
            twin(params, mined, sums.host()?, coefficients.host()?, loss.host()?, pairs);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let block = Params {
                pairs: pairs as u32,
                triplet: params.triplet as u32,
                pair: params.pair as u32,
                loss: params.loss as u32,
                hinge: params.margin.is_some().into(),
                tau: params.tau,
                alpha: params.alpha,
                beta: params.beta,
                lambda: params.lambda,
                circle: params.circle,
                margin: params.margin.unwrap_or(0.0),
                scale: params.scale,
                ..Default::default()
            };
            let regions = [
                positive.region()?,
                value.region()?,
                index.region()?,
                sums.region()?,
                coefficients.region()?,
                loss.region()?,
            ];
            let grid = [pairs.div_ceil(recorder.lanes as usize), 1, 1];
            recorder.dispatch(&SPEC, &lanes(recorder), &block, &regions, grid, 100.0 * pairs as f64)
        }
    }
}

/// [`weights`] with T, P+ and P- from a file; closes triplets by `margin` in the same way.
pub fn custom_weights(
    commands: &mut Commands,
    custom: &CustomWeights,
    (margin, scale): (Option<f32>, f32),
    (positive, value, index): (Slice<f32>, Slice<f32>, Slice<u32>),
    sums: Slice<f32>,
    mut coefficients: SliceMut<f32>,
    mut loss: SliceMut<f32>,
    pairs: usize,
) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("custom_weights");
            let mined = (positive.host()?, value.host()?, index.host()?);
            custom_twin(custom, (margin, scale), mined, coefficients.host()?, loss.host()?, pairs)
        }
        Commands::Gpu(recorder) => {
            let own = |k: usize| custom.parameters().get(k).map_or(0.0, |(_, value)| *value);
            let block = Params {
                pairs: pairs as u32,
                hinge: margin.is_some().into(),
                margin: margin.unwrap_or(0.0),
                scale,
                own_0: own(0),
                own_1: own(1),
                own_2: own(2),
                own_3: own(3),
                own_4: own(4),
                own_5: own(5),
                own_6: own(6),
                own_7: own(7),
                ..Default::default()
            };
            let regions = [
                positive.region()?,
                value.region()?,
                index.region()?,
                sums.region()?,
                coefficients.region()?,
                loss.region()?,
            ];
            let [lanes] = lanes(recorder);
            let constants = [lanes, (WEIGHTS_SECTION, custom.section())];
            let grid = [pairs.div_ceil(recorder.lanes as usize), 1, 1];
            recorder.dispatch(&SPEC, &constants, &block, &regions, grid, 100.0 * pairs as f64)
        }
    }
}

/// [`custom_weights`] as a plain loop; an error is one of the file's evaluation.
pub fn custom_twin<T: Real>(
    custom: &CustomWeights,
    (margin, scale): (Option<f32>, f32),
    (positive, value, index): (&[T], &[T], &[u32]),
    coefficients: &mut [T],
    loss: &mut [T],
    pairs: usize,
) -> Result<()> {
    for i in 0..pairs {
        let (p, n) = (positive[i], value[i]);
        let [triplet, pull, push] = custom.at(p, n)?;
        let (cost, open) = opened(margin, scale, n - p, index[i] as usize == i);
        coefficients[2 * i] = open * triplet * pull;
        coefficients[2 * i + 1] = open * triplet * push;
        loss[i] = cost;
    }
    Ok(())
}

/// Cost and scale of a triplet, (0, 0) where a margin closes it.
fn opened<T: Real>(margin: Option<f32>, scale: f32, cost: T, own: bool) -> (T, T) {
    let Some(margin) = margin else { return (cost, T::of(scale.into())) };
    let cost = cost + T::of(margin.into());
    if cost <= T::zero() || own { (T::zero(), T::zero()) } else { (cost, T::of(scale.into())) }
}

/// (T, P+, P-) at p, n and the means over the relative sets.
pub fn weights_at<T: Real>(params: &WeightParams, p: T, n: T, [r_pos, r_neg]: [T; 2]) -> [T; 3] {
    let of = |x: f32| T::of(x.into());
    let one = T::one();
    let triplet = match params.triplet {
        TripletWeight::Con => one,
        TripletWeight::Nca => sigma(of(params.tau) * (n - p)),
        TripletWeight::Cir => {
            let offset = of(2.0) * of(params.circle) * of(params.circle);
            sigma(of(params.tau) * ((one - p) * (one - p) + n * n - offset))
        }
        TripletWeight::Circle => {
            let (m, [pull, push]) = (of(params.circle), circle(params, p, n));
            sigma(of(params.tau) * (push * (n - m) + pull * (one - m - p)))
        }
    };
    // Kept among f32's normal numbers, as in the shader, so that neither the power nor its inverse leaves them.
    let exp = |z: T| z.max(of(-87.0)).min(of(87.0)).exp();
    let zp = of(params.alpha) * (p - of(params.lambda));
    let zn = -of(params.beta) * (n - of(params.lambda));
    let (pull, push) = match params.pair {
        PairWeight::Con => (one, one),
        PairWeight::Lin => (one - p, n),
        PairWeight::LinMs => ((one - r_pos) * (one - p), (one + r_neg) * n),
        PairWeight::Sig => (one / (exp(zp) + one), one / (exp(zn) + one)),
        PairWeight::SigMs => (one / (exp(zp) + r_pos), one / (exp(zn) + r_neg)),
        PairWeight::Circle => circle(params, p, n).into(),
        PairWeight::Contrastive => (one, if n > of(params.lambda) { one } else { T::zero() }),
    };
    [triplet, pull, push]
}

/// The self-paced factors of the circle loss (Sun et al. 2020).
fn circle<T: Real>(params: &WeightParams, p: T, n: T) -> [T; 2] {
    let m = T::of(params.circle.into());
    [(T::one() + m - p).max(T::zero()), (n + m).max(T::zero())]
}

/// The loss of an open triplet, `cost` being margin + n - p.
pub fn loss_at<T: Real>(params: &WeightParams, p: T, n: T, cost: T) -> T {
    let of = |x: f32| T::of(x.into());
    let [tau, alpha, beta, lambda, m] =
        [params.tau, params.alpha, params.beta, params.lambda, params.circle].map(of);
    let (one, two) = (T::one(), T::of(2.0));
    match params.loss {
        Loss::NtXent => softplus(tau * (n - p)) / tau,
        Loss::SquaredPair => ((one - p) * (one - p) + n * n) / two,
        Loss::BinomialDeviance => {
            softplus(-alpha * (p - lambda)) / alpha + softplus(beta * (n - lambda)) / beta
        }
        Loss::Circle => softplus(tau * ((one - p) * (one - p) + n * n - two * m * m)) / (two * tau),
        Loss::CircleDetached => {
            let [pull, push] = circle(params, p, n);
            softplus(tau * (push * (n - m) + pull * (one - m - p))) / tau
        }
        Loss::Contrastive => one - p + (n - lambda).max(T::zero()),
        Loss::Triplet | Loss::MultiSimilarity | Loss::Lifted => cost,
    }
}

/// [`weights`] as a plain loop; `mined` is (p, n, h).
pub fn twin<T: Real>(
    params: &WeightParams,
    (positive, value, index): (&[T], &[T], &[u32]),
    sums: &[T],
    coefficients: &mut [T],
    loss: &mut [T],
    pairs: usize,
) {
    for i in 0..pairs {
        let (p, n) = (positive[i], value[i]);
        let mean = |sum: T, count: T| sum / count.max(T::one());
        let relative = [mean(sums[4 * i], sums[4 * i + 1]), mean(sums[4 * i + 2], sums[4 * i + 3])];
        let [triplet, pull, push] = weights_at(params, p, n, relative);
        let (cost, open) = opened(params.margin, params.scale, n - p, index[i] as usize == i);
        coefficients[2 * i] = open * triplet * pull;
        coefficients[2 * i + 1] = open * triplet * push;
        let closed = params.margin.is_some() && cost == T::zero();
        loss[i] = if closed { cost } else { loss_at(params, p, n, cost) };
    }
}
