//! The field of multi-similarity, lifted structure or the circle loss. It overwrites the similarities.

use super::lab::{Lab, N};
use super::positive_field::{self, Anchors};
use super::{
    Access, Block, Kernel, KernelSpec, Known, PositivesParams, Real, exponential_sum, hardest, is_left_out,
    lanes, positives, sigma,
};
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
            Access::ReadWrite,
            Access::ReadWrite,
        ],
        workgroup: [64, 1, 1],
    },
    tolerance: 2e-5,
    check,
    mutation: ["params.share_ti * push", "params.share_it * push"],
};

params!(rows: u32, pairs: u32, stride: u32, row_offset: u32, mask: u32, loss: u32, mined: u32, rate: f32, alpha: f32, lambda: f32, margin: f32, reach: f32, scale: f32, share_it: f32, share_ti: f32, own: u32, aggregated: u32, images: u32);

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
    /// If given, only negatives with s + reach > (the lowest positive) count, and an anchor without one contributes
    /// nothing.
    pub reach: Option<f32>,
    pub positives: PositiveForm,
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
        positives: PositiveForm::Own,
        scale: 0.7,
        shares: [1.0, 0.5],
    };

    /// Whether a negative counts beside the lowest positive.
    pub fn counts<T: Real>(&self, s: T, lowest: T) -> bool {
        self.reach.is_none_or(|reach| s + T::of(reach.into()) > lowest)
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

/// What an anchor's positive is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PositiveForm {
    /// Its own pair, which the field pulls.
    Own,
    /// Several pairs, which `positive_field` pulls. p is their aggregate.
    Several,
    /// The same, where p is the logarithm of the sum of the exponentials of the circle loss, divided by the rate.
    Exponent,
}

/// What the field writes beside A, for images and for texts.
pub struct PerAnchor<V> {
    /// L `[pairs]`
    pub losses: [V; 2],
    /// (−scale ∂L/∂p, 0) `[pairs, 2]`
    pub pulls: [V; 2],
}

impl Params {
    /// For a strip of S from the row `row_offset` of `images` on.
    fn of(params: &ExponentialParams, strip: &MatMut, (row_offset, images): (usize, usize)) -> Self {
        let ExponentialParams { loss, rate, alpha, lambda, margin, reach, positives, scale, shares } =
            *params;
        Self {
            rows: strip.rows as u32,
            pairs: strip.cols as u32,
            stride: strip.stride as u32,
            row_offset: row_offset as u32,
            mask: 0,
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
            own: (positives == PositiveForm::Own).into(),
            aggregated: (positives == PositiveForm::Exponent).into(),
            images: images as u32,
        }
    }
}

/// Replaces the similarities of images `row_offset..` of `images` against all texts by A, and writes these rows of the
/// losses and the pulls. `states` are those of [`exponential_sum`](super::exponential_sum()) for images and for texts.
pub fn exponential_field(
    commands: &mut Commands,
    mut field: MatMut,
    (row_offset, images): (usize, usize),
    ids: Option<Slice<u32>>,
    states: [Slice<f32>; 2],
    params: &ExponentialParams,
    out: PerAnchor<SliceMut<f32>>,
) -> Result<()> {
    let PerAnchor { losses: [mut loss_it, mut loss_ti], pulls: [mut pull_it, mut pull_ti] } = out;
    match commands {
        Commands::Cpu => {
            let _clock = clock("exponential_field");
            let ids = ids.map(|ids| ids.host()).transpose()?;
            let (pairs, states) = (field.cols, [states[0].host()?, states[1].host()?]);
            let out = PerAnchor {
                losses: [loss_it.host()?, loss_ti.host()?],
                pulls: [pull_it.host()?, pull_ti.host()?],
            };
            reference(field.data.host()?, (row_offset, images, pairs), ids, states, params, out);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let (rows, pairs) = (field.rows, field.cols);
            let block =
                Params { mask: ids.is_some().into(), ..Params::of(params, &field, (row_offset, images)) };
            let regions = [
                ids.map_or(Ok(Region::NOTHING), |ids| ids.region())?,
                states[0].region()?,
                states[1].region()?,
                field.data.region()?,
                loss_it.region()?,
                loss_ti.region()?,
                pull_it.region()?,
                pull_ti.region()?,
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
    lowest: T,
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
        let (p, n, sum, lowest, zero) = (state[0], state[1], state[2], state[3], T::zero());
        let top = params.top(n);
        if params.loss == ExponentialLoss::Circle {
            let m = of(params.margin);
            let (factor, exponent) = match params.positives {
                PositiveForm::Exponent => (T::one(), p),
                _ => {
                    let factor = (T::one() + m - p).max(zero);
                    (factor, factor * (T::one() - m - p))
                }
            };
            let z = top + rate * exponent + sum.ln();
            let open = sum > zero;
            let (weight, loss) = if open { (sigma(z), softplus(z) / rate) } else { (zero, zero) };
            return Self {
                lowest,
                top,
                denominator: open.then(|| sum / weight),
                pull: weight * factor,
                loss,
            };
        }
        if params.loss == ExponentialLoss::Lifted {
            let cost = of(params.margin) - p + n + sum.ln() / rate;
            let open = sum > zero && cost > zero;
            let (pull, loss) = if open { (T::one(), cost) } else { (zero, zero) };
            return Self { lowest, top, denominator: open.then_some(sum), pull, loss };
        }
        if params.reach.is_some() && sum <= zero {
            return Self { lowest, top, denominator: None, pull: zero, loss: zero };
        }
        let one = (rate * (lambda - n)).max(of(-87.0)).min(of(87.0)).exp();
        // Factoring out the larger of n and lambda leaves a sum of positive numbers.
        let above = n - lambda;
        let total =
            if above > zero { (sum + one).ln() } else { (sum * (rate * above).max(of(-87.0)).exp()).ln_1p() };
        let negatives = above.max(zero) + total / rate;
        let z = -alpha * (p - lambda);
        let loss = softplus(z) / alpha + negatives;
        Self { lowest, top, denominator: Some(sum + one), pull: sigma(z), loss }
    }

    fn push(&self, params: &ExponentialParams, s: T) -> T {
        if !params.counts(s, self.lowest) {
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

/// [`exponential_field`] as a plain loop over images `first..` of `images`, against the texts of all `pairs`.
pub fn reference<T: Real>(
    field: &mut [T],
    (first, images, pairs): (usize, usize, usize),
    ids: Option<&[u32]>,
    states: [&[T]; 2],
    params: &ExponentialParams,
    PerAnchor { losses, pulls }: PerAnchor<&mut [T]>,
) {
    let [rows, columns] = states.map(|states| {
        states.chunks_exact(4).take(pairs).map(|state| Anchor::new(params, state)).collect::<Vec<_>>()
    });
    let (scale, shares) = (T::of(params.scale.into()), params.shares.map(|share| T::of(share.into())));
    let own = first..first + field.len() / padded(pairs);
    for (anchors, (losses, (pulls, share))) in
        [&rows[..images], &columns].into_iter().zip(losses.into_iter().zip(pulls.into_iter().zip(shares)))
    {
        for (i, anchor) in anchors.iter().enumerate().filter(|(i, _)| own.contains(&(i % images))) {
            losses[i] = anchor.loss;
            (pulls[2 * i], pulls[2 * i + 1]) = (scale * share * anchor.pull, T::zero());
        }
    }
    field.par_chunks_exact_mut(padded(pairs)).enumerate().for_each(|(row, field)| {
        let i = row + first;
        for (j, s) in field[..pairs].iter_mut().enumerate() {
            let negative = match ids {
                Some(ids) => ids[i] != ids[j],
                None => i != j,
            };
            *s = match (i == j, negative && !is_left_out(*s)) {
                (true, _) if params.positives != PositiveForm::Own => T::zero(),
                (true, _) => -scale * (shares[0] * rows[i].pull + shares[1] * columns[i].pull),
                (_, true) => {
                    scale * (shares[0] * rows[i].push(params, *s) + shares[1] * columns[j].push(params, *s))
                }
                _ => T::zero(),
            };
        }
    });
}

/// Mines a whole batch and computes its sums and field. The similarities become A; the result is the losses of both
/// directions. `several` says what an anchor's positives become, if they are all pairs of its image.
pub fn whole_reference<T: Real>(
    field: &mut [T],
    pairs: usize,
    ids: Option<&[u32]>,
    params: &ExponentialParams,
    several: Option<&PositivesParams>,
) -> [Vec<T>; 2] {
    let vector = |width: usize| vec![T::zero(); width * pairs];
    let several = several.zip(ids);
    let s = field.to_vec();
    let [it, ti] = [Block::images(0, pairs, pairs), Block::texts(0, pairs, pairs)].map(|block| {
        let (mut p, mut n, mut h) = (vector(1), vector(1), vec![0; pairs]);
        hardest::reference(&block, &s, (ids, true, None), (&mut p, &mut n, &mut h));
        let (mut lowest, mut state, mut sums) = (p.clone(), vector(4), vector(4));
        if let Some((several, ids)) = several {
            let out = (&mut state[..], [&mut p[..], &mut lowest[..]]);
            positives::reference(&block, &s, (ids, &n), several, out);
        }
        let known = Known { positive: &p[..], lowest: &lowest[..], value: &n[..] };
        exponential_sum::reference(&block, &s, ids, known, params, &mut sums);
        (n, state, sums)
    });
    let [mut loss_it, mut loss_ti] = [vector(1), vector(1)];
    let [mut pull_it, mut pull_ti] = [vector(2), vector(2)];
    let out = PerAnchor {
        losses: [&mut loss_it[..], &mut loss_ti[..]],
        pulls: [&mut pull_it[..], &mut pull_ti[..]],
    };
    reference(field, (0, pairs, pairs), ids, [&it.2, &ti.2], params, out);
    if let Some((several, ids)) = several {
        let mut pulled = s;
        let it = Anchors { value: &it.0[..], state: &it.1[..], pulls: &pull_it[..] };
        let ti = Anchors { value: &ti.0[..], state: &ti.1[..], pulls: &pull_ti[..] };
        positive_field::reference(&mut pulled, (0, pairs), ids, [it, ti], several);
        field.iter_mut().zip(pulled).for_each(|(a, pulled)| *a += pulled);
    }
    [loss_it, loss_ti]
}

fn check(lab: &mut Lab) -> Result<()> {
    use ExponentialLoss::{Circle, Lifted, MultiSimilarity};
    use PositiveForm::{Exponent, Own, Several};
    for (loss, margin, reach, positives) in [
        (MultiSimilarity, 0.0, None, Own),
        (MultiSimilarity, 0.0, Some(0.25), Several),
        (Lifted, -0.75, None, Own),
        (Circle, 0.25, None, Own),
        (Circle, 0.25, None, Exponent),
    ] {
        let ids = lab.indices(N, 40)?;
        let mut field = lab.matrix(N, N)?;
        let states = [(); 2].map(|()| {
            // (p, n, sum, lowest positive); no similarity is above n = 1.
            let state = lab.numbers(N).into_iter().flat_map(|p| [p, 1.0, 3.0 + p, 0.5 * p]).collect();
            lab.pair(state)
        });
        let [it, ti] = states;
        let (it, ti) = (it?, ti?);
        let params = ExponentialParams { loss, margin, reach, positives, ..ExponentialParams::TESTED };
        let (mut expected, mut losses) = (field.wide(), [vec![0.0; N], vec![0.0; N]]);
        let mut pulls = [vec![0.0; 2 * N], vec![0.0; 2 * N]];
        let ([loss_it, loss_ti], [pull_it, pull_ti]) = (&mut losses, &mut pulls);
        let out = PerAnchor { losses: [&mut loss_it[..], loss_ti], pulls: [&mut pull_it[..], pull_ti] };
        let wide = [&it.wide()[..], &ti.wide()[..]];
        reference(&mut expected, (0, N, N), Some(&ids.host), wide, &params, out);
        let mut found = [lab.poison(N)?, lab.poison(N)?, lab.poison(2 * N)?, lab.poison(2 * N)?];
        let [loss_it, loss_ti, pull_it, pull_ti] = &mut found;
        lab.run(|commands| {
            let losses = [loss_it.get_mut(), loss_ti.get_mut()];
            let out = PerAnchor { losses, pulls: [pull_it.get_mut(), pull_ti.get_mut()] };
            let states = [it.get(), ti.get()];
            exponential_field(commands, field.mat_mut(N, N), (0, N), Some(ids.get()), states, &params, out)
        })?;
        lab.compare(&field, &expected)?;
        for (found, expected) in found.iter().zip(losses.iter().chain(&pulls)) {
            lab.compare(found, expected)?;
        }
    }
    Ok(())
}
