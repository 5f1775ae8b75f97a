//! Triplet weight x pair weights of every anchor, one direction (goal-math.md sections 3 and 4).

use super::{Access, KernelSpec, Real, lanes, sigma};
use crate::Result;
use crate::device::{Commands, Slice, SliceMut};
use crate::objective::{PairWeight, TripletWeight};

pub(super) static SPEC: KernelSpec = KernelSpec {
    name: "weights",
    source: include_str!("../../shaders/weights.wgsl"),
    params: Params::MEMBERS,
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::ReadWrite, Access::ReadWrite],
    workgroup: [64, 1, 1],
};

params!(pairs: u32, triplet: u32, pair: u32, hinge: u32, tau: f32, alpha: f32, beta: f32, lambda: f32, circle: f32, margin: f32, scale: f32);

/// Which weights, with their parameters.
#[derive(Debug, Clone, Copy)]
pub struct WeightParams {
    pub triplet: TripletWeight,
    pub pair: PairWeight,
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
            let mined = (positive.host()?, value.host()?, index.host()?);
            twin(params, mined, sums.host()?, coefficients.host()?, loss.host()?, pairs);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let block = Params {
                pairs: pairs as u32,
                triplet: params.triplet as u32,
                pair: params.pair as u32,
                hinge: params.margin.is_some().into(),
                tau: params.tau,
                alpha: params.alpha,
                beta: params.beta,
                lambda: params.lambda,
                circle: params.circle,
                margin: params.margin.unwrap_or(0.0),
                scale: params.scale,
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

/// [`weights`] as a plain loop; `mined` is (p, n, h).
pub fn twin<T: Real>(
    params: &WeightParams,
    (positive, value, index): (&[T], &[T], &[u32]),
    sums: &[T],
    coefficients: &mut [T],
    loss: &mut [T],
    pairs: usize,
) {
    let of = |x: f32| T::of(x.into());
    let (one, scale) = (T::one(), of(params.scale));
    for i in 0..pairs {
        let (p, n) = (positive[i], value[i]);
        let mean = |sum: T, count: T| sum / count.max(one);
        let (r_pos, r_neg) = (mean(sums[4 * i], sums[4 * i + 1]), mean(sums[4 * i + 2], sums[4 * i + 3]));
        let triplet = match params.triplet {
            TripletWeight::Con => one,
            TripletWeight::Nca => sigma(of(params.tau) * (n - p)),
            TripletWeight::Cir => {
                let offset = of(2.0) * of(params.circle) * of(params.circle);
                sigma(of(params.tau) * ((one - p) * (one - p) + n * n - offset))
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
        };
        let mut cost = n - p;
        let mut open = scale;
        if let Some(margin) = params.margin {
            cost += of(margin);
            if cost <= T::zero() || index[i] as usize == i {
                (open, cost) = (T::zero(), T::zero());
            }
        }
        coefficients[2 * i] = open * triplet * pull;
        coefficients[2 * i + 1] = open * triplet * push;
        loss[i] = cost;
    }
}
