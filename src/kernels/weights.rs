//! Triplet weight times pair weights of every anchor, in one direction
//! (docs/math.md, "Triplet weights" and "Pair weights").

use super::exponential_field::softplus;
use super::lab::{Lab, N};
use super::{Access, Kernel, KernelSpec, Real, lanes, sigma};
use crate::Result;
use crate::device::{Commands, Slice, SliceMut, clock, section_lines};
use crate::objective::{
    CustomWeights, GoalParams, Loss, PAIRS, PairWeight, SECTION as WEIGHTS_SECTION, TRIPLETS, TripletWeight,
};
use std::sync::OnceLock;

pub(super) static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "weights",
        source: include_str!("../../shaders/weights.wgsl"),
        params: Params::MEMBERS,
        bindings: &[
            Access::Read,
            Access::Read,
            Access::Read,
            Access::Read,
            Access::ReadWrite,
            Access::ReadWrite,
        ],
        workgroup: [64, 1, 1],
    },
    tolerance: 2e-5,
    check,
    mutation: ["n * n - 2.0", "n - 2.0"],
};

params!(weights pairs: u32);

const TRIPLET_SECTION: &str = "section triplet";

/// The numbers of weights and losses in the shader, as WGSL constants.
fn numbers() -> String {
    static NUMBERS: OnceLock<String> = OnceLock::new();
    let constant = |kind: &str, name: &str, number: u32| {
        format!("const {kind}_{} = {number}u;\n", name.to_uppercase().replace('-', "_"))
    };
    let write = || {
        let triplets = TRIPLETS.iter().map(|&(name, weight)| constant("TRIPLET", name, weight as u32));
        let pairs = PAIRS.iter().map(|&(name, weight)| constant("PAIR", name, weight as u32));
        let losses = Loss::ALL.iter().map(|&loss| constant("LOSS", loss.name(), loss as u32));
        triplets.chain(pairs).chain(losses).collect()
    };
    NUMBERS.get_or_init(write).clone()
}

/// The sections of this shader that other shaders share: its numbers, the weights T, P+ and P- (or custom weights), and
/// the triplet's coefficients and loss that follow from the weights.
pub fn weight_sections(custom: Option<&CustomWeights>) -> [(&'static str, String); 3] {
    let section = |name| {
        let lines = section_lines(KERNEL.spec.source.lines(), name).unwrap_or_default();
        KERNEL.spec.source.lines().skip(lines.start).take(lines.len()).collect::<Vec<_>>().join("\n")
    };
    let weights = custom.map_or_else(|| section(WEIGHTS_SECTION), CustomWeights::section);
    [("section numbers", numbers()), (WEIGHTS_SECTION, weights), (TRIPLET_SECTION, section(TRIPLET_SECTION))]
}

/// How often P+ and the positive's part of the loss count for an anchor with several negatives. They count once if the
/// loss is a function of p plus a function of n.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PositivePart {
    /// With every triplet.
    WithEach = 0,
    /// Once, whether the anchor has negatives or not.
    Once = 1,
    /// Not here, because it has been counted already.
    Elsewhere = 2,
}

impl PositivePart {
    /// The value for the next negatives of the same anchors.
    pub fn later(self) -> Self {
        if self == Self::Once { Self::Elsewhere } else { self }
    }
}

/// Which weights, with their parameters.
#[derive(Debug, Clone)]
pub struct WeightParams {
    pub triplet: TripletWeight,
    pub pair: PairWeight,
    /// The reported loss; `Triplet` is n - p.
    pub loss: Loss,
    pub tau: f32,
    pub alpha: f32,
    pub beta: f32,
    pub lambda: f32,
    /// The circle margin m of T cir.
    pub circle: f32,
    /// If set, triplets with margin + n - p <= 0 do not count.
    pub margin: Option<f32>,
    /// Whether triplets whose negative is the anchor's own pair do not count. Mining gives the own pair to an anchor
    /// that has no negative.
    pub exclude_own: bool,
    /// How often the part that depends only on p counts.
    pub positive: PositivePart,
    /// Upstream gradient.
    pub scale: f32,
    /// Used in place of `triplet` and `pair`.
    pub custom: Option<CustomWeights>,
}

impl WeightParams {
    /// Operations per triplet beyond those of the built-in weights. A weight file may have long loops.
    pub(super) fn own_cost(&self) -> f64 {
        self.custom.as_ref().map_or(0.0, |custom| custom.steps() as f64)
    }
}

/// con:con with GOAL's parameters.
impl Default for WeightParams {
    fn default() -> Self {
        let GoalParams { tau, alpha, beta, lambda, circle, margin, .. } = GoalParams::default();
        Self {
            triplet: TripletWeight::Con,
            pair: PairWeight::Con,
            loss: Loss::Triplet,
            tau,
            alpha,
            beta,
            lambda,
            circle,
            margin,
            exclude_own: margin.is_some(),
            positive: PositivePart::WithEach,
            scale: 1.0,
            custom: None,
        }
    }
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
            reference(params, mined, sums.host()?, coefficients.host()?, loss.host()?, pairs)
        }
        Commands::Gpu(recorder) => {
            let block = Params { pairs: pairs as u32, ..Default::default() }.weighing(params);
            let regions = [
                positive.region()?,
                value.region()?,
                index.region()?,
                sums.region()?,
                coefficients.region()?,
                loss.region()?,
            ];
            let mut constants = lanes(recorder).to_vec();
            constants.push(("section numbers", numbers()));
            constants.extend(params.custom.as_ref().map(|custom| (WEIGHTS_SECTION, custom.section())));
            let grid = [pairs.div_ceil(recorder.lanes as usize), 1, 1];
            recorder.dispatch(
                &KERNEL.spec,
                &constants,
                &block,
                &regions,
                grid,
                (100.0 + params.own_cost()) * pairs as f64,
            )
        }
    }
}

/// Coefficients of a triplet's positive and negative, and the triplet's loss. It fails if a weight file cannot be
/// evaluated.
pub(super) fn weighed_triplet<T: Real>(
    params: &WeightParams,
    p: T,
    n: T,
    relative: [T; 2],
) -> Result<[T; 3]> {
    let mut cost = n - p;
    if let Some(margin) = params.margin {
        cost += T::of(margin.into());
        if cost <= T::zero() {
            return Ok([T::zero(); 3]);
        }
    }
    let [triplet, pull, push] = weights_at(params, p, n, relative)?;
    let open = T::of(params.scale.into()) * triplet;
    if params.positive != PositivePart::WithEach {
        return Ok([T::zero(), open * push, negative_loss(params, n)]);
    }
    Ok([open * pull, open * push, loss_at(params, p, n, cost)])
}

/// Coefficient of the positive, and its loss, if it counts once; else zeros. It fails if a weight file cannot be
/// evaluated.
pub(super) fn weighed_positive<T: Real>(params: &WeightParams, p: T) -> Result<[T; 2]> {
    if params.positive != PositivePart::Once {
        return Ok([T::zero(); 2]);
    }
    let [triplet, pull, _] = weights_at(params, p, T::zero(), [T::zero(); 2])?;
    Ok([T::of(params.scale.into()) * triplet * pull, positive_loss(params, p)])
}

/// (T, P+, P-) at p, n and the means over the relative sets.
///
/// # Errors
/// A weight file cannot be evaluated at p and n.
pub fn weights_at<T: Real>(params: &WeightParams, p: T, n: T, [r_pos, r_neg]: [T; 2]) -> Result<[T; 3]> {
    if let Some(custom) = &params.custom {
        return custom.at(p, n);
    }
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
    // Kept among the normal numbers of f32, as in the shader, so that the power and its inverse neither overflow nor
    // underflow.
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
    Ok([triplet, pull, push])
}

/// The self-paced factors of the circle loss (Sun et al. 2020).
fn circle<T: Real>(params: &WeightParams, p: T, n: T) -> [T; 2] {
    let m = T::of(params.circle.into());
    [(T::one() + m - p).max(T::zero()), (n + m).max(T::zero())]
}

/// The loss of a triplet that counts, where `cost` is margin + n - p.
pub fn loss_at<T: Real>(params: &WeightParams, p: T, n: T, cost: T) -> T {
    let of = |x: f32| T::of(x.into());
    let [tau, m] = [params.tau, params.circle].map(of);
    let (one, two) = (T::one(), T::of(2.0));
    match params.loss {
        Loss::NtXent => softplus(tau * (n - p)) / tau,
        Loss::Circle => softplus(tau * ((one - p) * (one - p) + n * n - two * m * m)) / (two * tau),
        Loss::CircleDetached => {
            let [pull, push] = circle(params, p, n);
            softplus(tau * (push * (n - m) + pull * (one - m - p))) / tau
        }
        Loss::SquaredPair | Loss::BinomialDeviance | Loss::Contrastive => {
            positive_loss(params, p) + negative_loss(params, n)
        }
        Loss::Triplet
        | Loss::MultiSimilarity
        | Loss::Lifted
        | Loss::CircleAll
        | Loss::MultiSimilarityMined => cost,
    }
}

/// The part in p of a loss that is a sum of a function of p and a function of n; 0 for other losses.
fn positive_loss<T: Real>(params: &WeightParams, p: T) -> T {
    let [alpha, lambda] = [params.alpha, params.lambda].map(|x| T::of(x.into()));
    let one = T::one();
    match params.loss {
        Loss::SquaredPair => (one - p) * (one - p) / T::of(2.0),
        Loss::BinomialDeviance => softplus(-alpha * (p - lambda)) / alpha,
        Loss::Contrastive => one - p,
        _ => T::zero(),
    }
}

/// The part in n of such a loss.
fn negative_loss<T: Real>(params: &WeightParams, n: T) -> T {
    let [beta, lambda] = [params.beta, params.lambda].map(|x| T::of(x.into()));
    match params.loss {
        Loss::SquaredPair => n * n / T::of(2.0),
        Loss::BinomialDeviance => softplus(beta * (n - lambda)) / beta,
        Loss::Contrastive => (n - lambda).max(T::zero()),
        _ => T::zero(),
    }
}

/// [`weights`] as a plain loop. `positive`, `value` and `index` are p, n and h. It fails if a weight file cannot be
/// evaluated.
pub fn reference<T: Real>(
    params: &WeightParams,
    (positive, value, index): (&[T], &[T], &[u32]),
    sums: &[T],
    coefficients: &mut [T],
    loss: &mut [T],
    pairs: usize,
) -> Result<()> {
    for i in 0..pairs {
        let mean = |sum: T, count: T| sum / count.max(T::one());
        let relative = [mean(sums[4 * i], sums[4 * i + 1]), mean(sums[4 * i + 2], sums[4 * i + 3])];
        let [pull, push, cost] = match params.exclude_own && index[i] as usize == i {
            true => [T::zero(); 3],
            false => weighed_triplet(params, positive[i], value[i], relative)?,
        };
        let [own, own_cost] = weighed_positive(params, positive[i])?;
        let (pull, cost) = (pull + own, cost + own_cost);
        (coefficients[2 * i], coefficients[2 * i + 1], loss[i]) = (pull, push, cost);
    }
    Ok(())
}

fn check(lab: &mut Lab) -> Result<()> {
    let (positive, value, index) = (lab.vector(N)?, lab.vector(N)?, lab.indices(N, N as u32)?);
    let sums =
        lab.numbers(4 * N).iter().enumerate().map(|(k, x)| if k % 2 == 1 { 3.0 } else { 1.0 + x }).collect();
    let sums = lab.pair(sums)?;
    let pairs = [PairWeight::Con, PairWeight::Lin, PairWeight::LinMs, PairWeight::Sig, PairWeight::SigMs];
    for triplet in [TripletWeight::Con, TripletWeight::Nca, TripletWeight::Cir] {
        for (pair, margin) in pairs.into_iter().flat_map(|pair| [(pair, None), (pair, Some(0.2))]) {
            let exclude_own = margin.is_some();
            let params = WeightParams {
                triplet,
                pair,
                margin,
                exclude_own,
                tau: 3.0,
                scale: 0.7,
                ..Default::default()
            };
            let (mut coefficients, mut loss) = (lab.poison(2 * N)?, lab.poison(N)?);
            let mined = (positive.get(), value.get(), index.get());
            lab.run(|commands| {
                let out = (coefficients.get_mut(), loss.get_mut());
                weights(commands, &params, mined, sums.get(), out.0, out.1, N)
            })?;
            let (mut c, mut l) = (coefficients.wide(), loss.wide());
            let (p, n) = (positive.wide(), value.wide());
            reference(&params, (&p, &n, &index.host), &sums.wide(), &mut c, &mut l, N)?;
            lab.compare(&coefficients, &c)?;
            lab.compare(&loss, &l)?;
        }
    }
    Ok(())
}
