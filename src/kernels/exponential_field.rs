//! The field of multi-similarity, lifted structure or the circle loss. It overwrites the similarities.

use super::lab::{Lab, N};
use super::{Access, Block, Kernel, KernelSpec, Real, exponential_sum, hardest, is_left_out, lanes, sigma};
use crate::Result;
use crate::device::{Commands, MatMut, Region, Slice, SliceMut, clock, padded};
use rayon::prelude::*;

pub(super) static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "exponential_field",
        source: include_str!("../../shaders/exponential_field.wgsl"),
        params: Params::MEMBERS,
        bindings: &[
            Access::Read,
            Access::Read,
            Access::Read,
            Access::ReadWrite,
            Access::ReadWrite,
            Access::ReadWrite,
        ],
        workgroup: [64, 1, 1],
    },
    tolerance: 2e-5,
    check,
    mutation: ["params.share_ti * push", "params.share_it * push"],
};

params!(rows: u32, pairs: u32, stride: u32, row_offset: u32, mask: u32, loss: u32, mined: u32, rate: f32, alpha: f32, lambda: f32, margin: f32, reach: f32, scale: f32, share_it: f32, share_ti: f32);

/// A loss that sums exponentials over all negatives of an anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExponentialLoss {
    MultiSimilarity = 0,
    Lifted = 1,
    /// The circle loss with its factors held fixed.
    Circle = 2,
}

/// Which loss, with its parameters.
#[derive(Debug, Clone, Copy)]
pub struct ExponentialParams {
    pub loss: ExponentialLoss,
    /// Scale of the negatives' exponents.
    pub rate: f32,
    /// Scale of multi-similarity's positive exponent.
    pub alpha: f32,
    /// Centre of multi-similarity's exponents.
    pub lambda: f32,
    /// Margin of lifted structure or of the circle loss.
    pub margin: f32,
    /// If given, only negatives with s + reach > p count, and an anchor without one contributes nothing.
    pub reach: Option<f32>,
    /// Upstream gradient.
    pub scale: f32,
    /// Factors of both directions.
    pub shares: [f32; 2],
}

impl ExponentialParams {
    /// The parameters of the kernels' own checks.
    pub(super) const TESTED: Self = Self {
        loss: ExponentialLoss::MultiSimilarity,
        rate: 4.0,
        alpha: 2.0,
        lambda: 0.5,
        margin: 0.25,
        reach: None,
        scale: 0.7,
        shares: [1.0, 0.5],
    };

    /// Whether a negative counts beside the positive p.
    pub fn counts<T: Real>(&self, s: T, p: T) -> bool {
        self.reach.is_none_or(|reach| s + T::of(reach.into()) > p)
    }

    /// f(s), the exponent of a negative.
    pub fn exponent<T: Real>(&self, s: T) -> T {
        let [rate, m] = [self.rate, self.margin].map(|x| T::of(x.into()));
        match self.loss {
            ExponentialLoss::Circle => rate * (s + m).max(T::zero()) * (s - m),
            _ => rate * s,
        }
    }

    /// A number that no exponent of a negative exceeds if `n` is the hardest one.
    pub fn top<T: Real>(&self, n: T) -> T {
        match self.loss {
            ExponentialLoss::Circle => self.exponent(n).max(T::zero()),
            _ => self.exponent(n),
        }
    }
}

/// Replaces the similarities of images `row_offset..` against all texts by A, and writes these rows of the losses.
/// `states` are those of [`exponential_sum`](super::exponential_sum()) for images and for texts.
pub fn exponential_field(
    commands: &mut Commands,
    mut field: MatMut,
    row_offset: usize,
    ids: Option<Slice<u32>>,
    states: [Slice<f32>; 2],
    params: &ExponentialParams,
    [mut loss_it, mut loss_ti]: [SliceMut<f32>; 2],
) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("exponential_field");
            let ids = ids.map(|ids| ids.host()).transpose()?;
            let (pairs, states) = (field.cols, [states[0].host()?, states[1].host()?]);
            let losses = [loss_it.host()?, loss_ti.host()?];
            reference(field.data.host()?, (row_offset, pairs), ids, states, params, losses);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let (rows, pairs) = (field.rows, field.cols);
            let ExponentialParams { loss, rate, alpha, lambda, margin, reach, scale, shares } = *params;
            let block = Params {
                rows: rows as u32,
                pairs: pairs as u32,
                stride: field.stride as u32,
                row_offset: row_offset as u32,
                mask: ids.is_some().into(),
                loss: loss as u32,
                mined: reach.is_some().into(),
                rate,
                alpha,
                lambda,
                margin,
                reach: reach.unwrap_or(0.0),
                scale,
                share_it: shares[0],
                share_ti: shares[1],
            };
            let regions = [
                ids.map_or(Ok(Region::NOTHING), |ids| ids.region())?,
                states[0].region()?,
                states[1].region()?,
                field.data.region()?,
                loss_it.region()?,
                loss_ti.region()?,
            ];
            let grid = [pairs.div_ceil(recorder.lanes as usize), rows, 1];
            let cost = 80.0 * rows as f64 * pairs as f64;
            recorder.dispatch(&KERNEL.spec, &lanes(recorder), &block, &regions, grid, cost)
        }
    }
}

/// log(1 + e^z), exact on both tails.
pub(super) fn softplus<T: Real>(z: T) -> T {
    z.max(T::zero()) + (-z.abs()).exp().ln_1p()
}

/// An anchor's contribution to the field.
struct Anchor<T> {
    p: T,
    /// No exponent exceeds it.
    top: T,
    /// The divisor of the exponentials; `None` if the loss is 0.
    denominator: Option<T>,
    pull: T,
    loss: T,
}

impl<T: Real> Anchor<T> {
    fn new(params: &ExponentialParams, state: &[T]) -> Self {
        let of = |x: f32| T::of(x.into());
        let [rate, alpha, lambda] = [params.rate, params.alpha, params.lambda].map(of);
        let (p, n, sum, zero) = (state[0], state[1], state[2], T::zero());
        let top = params.top(n);
        if params.loss == ExponentialLoss::Circle {
            let m = of(params.margin);
            let factor = (T::one() + m - p).max(zero);
            let z = top + rate * factor * (T::one() - m - p) + sum.ln();
            let open = sum > zero;
            let (weight, loss) = if open { (sigma(z), softplus(z) / rate) } else { (zero, zero) };
            return Self { p, top, denominator: open.then(|| sum / weight), pull: weight * factor, loss };
        }
        if params.loss == ExponentialLoss::Lifted {
            let cost = of(params.margin) - p + n + sum.ln() / rate;
            let open = sum > zero && cost > zero;
            let (pull, loss) = if open { (T::one(), cost) } else { (zero, zero) };
            return Self { p, top, denominator: open.then_some(sum), pull, loss };
        }
        if params.reach.is_some() && sum <= zero {
            return Self { p, top, denominator: None, pull: zero, loss: zero };
        }
        let one = (rate * (lambda - n)).max(of(-87.0)).min(of(87.0)).exp();
        // Factoring out the larger of n and lambda leaves a sum of positive numbers.
        let above = n - lambda;
        let total =
            if above > zero { (sum + one).ln() } else { (sum * (rate * above).max(of(-87.0)).exp()).ln_1p() };
        let negatives = above.max(zero) + total / rate;
        let z = -alpha * (p - lambda);
        Self { p, top, denominator: Some(sum + one), pull: sigma(z), loss: softplus(z) / alpha + negatives }
    }

    fn push(&self, params: &ExponentialParams, s: T) -> T {
        if !params.counts(s, self.p) {
            return T::zero();
        }
        let factor = match params.loss {
            ExponentialLoss::Circle => (s + T::of(params.margin.into())).max(T::zero()),
            _ => T::one(),
        };
        let exponential = |denominator| factor * (params.exponent(s) - self.top).exp() / denominator;
        self.denominator.map_or(T::zero(), exponential)
    }
}

/// [`exponential_field`] as a plain loop over images `first..` of `pairs`.
pub fn reference<T: Real>(
    field: &mut [T],
    (first, pairs): (usize, usize),
    ids: Option<&[u32]>,
    states: [&[T]; 2],
    params: &ExponentialParams,
    [loss_it, loss_ti]: [&mut [T]; 2],
) {
    let [rows, columns] = states.map(|states| {
        states.chunks_exact(4).take(pairs).map(|state| Anchor::new(params, state)).collect::<Vec<_>>()
    });
    let (scale, shares) = (T::of(params.scale.into()), params.shares.map(|share| T::of(share.into())));
    let losses = loss_it.iter_mut().zip(loss_ti).skip(first).collect::<Vec<_>>();
    field.par_chunks_exact_mut(padded(pairs)).zip(losses).enumerate().for_each(|(row, (field, losses))| {
        let i = row + first;
        for (j, s) in field[..pairs].iter_mut().enumerate() {
            let negative = match ids {
                Some(ids) => ids[i] != ids[j],
                None => i != j,
            };
            *s = match (i == j, negative && !is_left_out(*s)) {
                (true, _) => -scale * (shares[0] * rows[i].pull + shares[1] * columns[i].pull),
                (_, true) => {
                    scale * (shares[0] * rows[i].push(params, *s) + shares[1] * columns[j].push(params, *s))
                }
                _ => T::zero(),
            };
        }
        (*losses.0, *losses.1) = (rows[i].loss, columns[i].loss);
    });
}

/// Mines a whole batch and computes its sums and field. The similarities become A; the result is the losses of both
/// directions.
pub fn whole_reference<T: Real>(
    field: &mut [T],
    pairs: usize,
    ids: Option<&[u32]>,
    params: &ExponentialParams,
) -> [Vec<T>; 2] {
    let states = [Block::images(0, pairs, pairs), Block::texts(0, pairs, pairs)].map(|block| {
        let (mut p, mut n, mut h) = (vec![T::zero(); pairs], vec![T::zero(); pairs], vec![0; pairs]);
        hardest::reference(&block, field, (ids, true, None), (&mut p, &mut n, &mut h));
        let mut state = vec![T::zero(); 4 * pairs];
        exponential_sum::reference(&block, field, ids, (&p, &n), params, &mut state);
        state
    });
    let mut losses = [vec![T::zero(); pairs], vec![T::zero(); pairs]];
    let [it, ti] = &mut losses;
    reference(field, (0, pairs), ids, [&states[0], &states[1]], params, [it, ti]);
    losses
}

fn check(lab: &mut Lab) -> Result<()> {
    use ExponentialLoss::{Circle, Lifted, MultiSimilarity};
    for (loss, margin, reach) in [
        (MultiSimilarity, 0.0, None),
        (MultiSimilarity, 0.0, Some(0.25)),
        (Lifted, -0.75, None),
        (Circle, 0.25, None),
    ] {
        let ids = lab.indices(N, 40)?;
        let mut field = lab.matrix(N, N)?;
        let states = [(); 2].map(|()| {
            // (p, n, sum, 0); no similarity is above n = 1.
            let state = lab.numbers(N).into_iter().flat_map(|p| [p, 1.0, 3.0 + p, 0.0]).collect();
            lab.pair(state)
        });
        let [it, ti] = states;
        let (it, ti) = (it?, ti?);
        let params = ExponentialParams { loss, margin, reach, ..ExponentialParams::TESTED };
        let (mut expected, mut losses) = (field.wide(), [vec![0.0; N], vec![0.0; N]]);
        let [loss_it, loss_ti] = &mut losses;
        let wide = [&it.wide()[..], &ti.wide()[..]];
        reference(&mut expected, (0, N), Some(&ids.host), wide, &params, [loss_it, loss_ti]);
        let (mut found_it, mut found_ti) = (lab.poison(N)?, lab.poison(N)?);
        lab.run(|commands| {
            let losses = [found_it.get_mut(), found_ti.get_mut()];
            let states = [it.get(), ti.get()];
            exponential_field(commands, field.mat_mut(N, N), 0, Some(ids.get()), states, &params, losses)
        })?;
        lab.compare(&field, &expected)?;
        lab.compare(&found_it, &losses[0])?;
        lab.compare(&found_ti, &losses[1])?;
    }
    Ok(())
}
