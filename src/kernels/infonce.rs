//! The field of the symmetric InfoNCE (docs/math.md, "InfoNCE"). It overwrites the similarities.

use super::exponential_field::softplus;
use super::hardest::mined;
use super::lab::{Lab, N, TEMPERATURE, directions};
use super::{Access, Kernel, KernelSpec, LANES, Real, SameImage, is_left_out, lanes, sigma};
use crate::Result;
use crate::device::{Commands, MatMut, Region, Slice, SliceMut, clock, padded};
use rayon::prelude::*;

pub(super) static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "infonce",
        source: include_str!("../../shaders/infonce.wgsl"),
        params: Params::MEMBERS,
        bindings: &[
            Access::Read,
            Access::Read,
            Access::Read,
            Access::Read,
            Access::ReadWrite,
            Access::ReadWrite,
            Access::ReadWrite,
            Access::ReadWrite,
        ],
        workgroup: [64, 1, 1],
    },
    tolerance: 2e-5,
    check,
    mutation: ["params.share_ti * a.y", "params.share_it * a.y"],
};

params!(rows: u32, pairs: u32, stride: u32, row_offset: u32, same_image: u32, scale: f32, share_it: f32, share_ti: f32, images: u32);

/// The inputs of the field.
#[derive(Clone, Copy)]
pub struct InfonceField<'a> {
    pub ids: Option<Slice<'a, u32>>,
    pub same_image: SameImage,
    /// t `[1]`
    pub temperature: Slice<'a, f32>,
    /// States of both directions from `log_sum_exp`.
    pub states: [Slice<'a, f32>; 2],
    /// Upstream gradient.
    pub scale: f32,
    /// Factors of both directions.
    pub shares: [f32; 2],
    /// First image of the block.
    pub row_offset: usize,
    /// Number of images: that of pairs, or fewer if images have several texts.
    pub images: usize,
}

/// Replaces the similarities of images `row_offset..` against all texts by A, and writes their rows of `dt [pairs, 4]`;
/// column 0 is their part of the gradient at t. Both losses `[pairs]` come with the distances of `log_sum_exp`. In the
/// rows of the block, they are replaced by the losses.
pub fn infonce(
    commands: &mut Commands,
    mut field: MatMut,
    from: InfonceField,
    mut dt: SliceMut<f32>,
    [mut loss_it, mut loss_ti]: [SliceMut<f32>; 2],
) -> Result<()> {
    let InfonceField { ids, same_image, temperature, states, scale, shares, row_offset, images } = from;
    match commands {
        Commands::Cpu => {
            let _clock = clock("infonce");
            let ids = ids.map(|ids| ids.host()).transpose()?;
            let pairs = field.cols;
            let states = [states[0].host()?, states[1].host()?];
            let losses = [loss_it.host()?, loss_ti.host()?];
            let temperature = temperature.host()?[0];
            let field = field.data.host()?;
            reference(
                field,
                (row_offset, images, pairs),
                (ids, same_image),
                temperature,
                states,
                (scale, shares),
                dt.host()?,
                losses,
            );
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let (rows, pairs) = (field.rows, field.cols);
            let params = Params {
                rows: rows as u32,
                pairs: pairs as u32,
                stride: field.stride as u32,
                row_offset: row_offset as u32,
                same_image: if ids.is_some() { same_image as u32 } else { 0 },
                scale,
                share_it: shares[0],
                share_ti: shares[1],
                images: images as u32,
            };
            let regions = [
                ids.map_or(Ok(Region::NOTHING), |ids| ids.region())?,
                temperature.region()?,
                states[0].region()?,
                states[1].region()?,
                field.data.region()?,
                dt.region()?,
                loss_it.region()?,
                loss_ti.region()?,
            ];
            let cost = 80.0 * rows as f64 * pairs as f64;
            recorder.dispatch(&KERNEL.spec, &lanes(recorder), &params, &regions, [rows, 1, 1], cost)
        }
    }
}

/// [`infonce`] as a plain loop over images `first..` of `images`, against the texts of all `pairs`.
#[allow(clippy::too_many_arguments)]
pub fn reference<T: Real>(
    field: &mut [T],
    (first, images, pairs): (usize, usize, usize),
    (ids, same_image): (Option<&[u32]>, SameImage),
    temperature: T,
    states: [&[T]; 2],
    (scale, shares): (T, [T; 2]),
    dt: &mut [T],
    losses: [&mut [T]; 2],
) {
    let rate = T::one() / temperature;
    let share = scale / T::of(2.0 * pairs as f64);
    let summed = same_image.is_summed(ids.is_some());
    let state = |direction: usize, i: usize| State::of(&states[direction][4 * i..], summed.then_some(rate));
    let columns: Vec<_> = (0..pairs).map(|j| state(1, j)).collect();
    let tops: Vec<_> = columns.iter().map(|column| column.top).collect();
    let totals: Vec<_> = columns.iter().map(|column| column.total).collect();
    let [loss_it, loss_ti] = losses;
    let own = first..first + field.len() / padded(pairs);
    for (t, loss) in loss_ti.iter_mut().enumerate().filter(|(t, _)| own.contains(&(t % images))) {
        *loss = cross_entropy(&columns[t], *loss, rate, pairs);
    }
    let outputs = dt.par_chunks_exact_mut(4).zip(loss_it).skip(first);
    let arch = pulp::Arch::new();
    field.par_chunks_exact_mut(padded(pairs)).zip(outputs).enumerate().for_each(
        |(row, (field, (dt, loss_it)))| {
            let i = row + first;
            let own = state(0, i);
            let row = Row {
                i,
                own,
                field: &mut field[..pairs],
                columns: &columns,
                tops: &tops,
                totals: &totals,
                ids,
                same_image,
                rate,
                scale: share * rate,
                shares,
            };
            let sum = arch.dispatch(row);
            dt.copy_from_slice(&[-share * rate * rate * sum, T::zero(), T::zero(), T::zero()]);
            *loss_it = cross_entropy(&own, *loss_it, rate, pairs);
        },
    );
}

/// The loss of an anchor, from the distance of its targets.
pub(super) fn cross_entropy<T: Real>(state: &State<T>, distance: T, rate: T, pairs: usize) -> T {
    let loss = match state.targets {
        Targets::Summed { loss, .. } => loss,
        Targets::Mean { gap, count } => {
            let total = if count == T::one() { gap.ln_1p() } else { state.total.ln() };
            rate * distance / count + total
        }
    };
    loss / T::of(2.0 * pairs as f64)
}

/// What `log_sum_exp` computes for an anchor.
#[derive(Clone, Copy)]
pub(super) struct State<T> {
    /// max s; that of the negatives, if the probabilities of the targets add up and there is a negative.
    top: T,
    /// The divisor of e^x at a negative. It is Z if the probabilities do not add up.
    total: T,
    targets: Targets<T>,
}

#[derive(Clone, Copy)]
enum Targets<T> {
    /// Z minus the number of targets, summed separately, and that number.
    Mean { gap: T, count: T },
    /// Their max s, their sum of e^x, the probability of all negatives together, and the loss.
    Summed { top: T, sum: T, negatives: T, loss: T },
}

impl<T: Real> State<T> {
    /// `rate` is given if the probabilities of the targets add up.
    pub(super) fn of(state: &[T], rate: Option<T>) -> Self {
        let [top, sum, third, fourth] = [0, 1, 2, 3].map(|at| state[at]);
        let Some(rate) = rate else {
            return Self { top, total: sum, targets: Targets::Mean { gap: third, count: fourth } };
        };
        if sum <= T::zero() {
            let targets = Targets::Summed { top: third, sum: fourth, negatives: T::zero(), loss: T::zero() };
            return Self { top: third, total: T::one(), targets };
        }
        let u = rate * (top - third) + (sum / fourth).ln();
        let targets = Targets::Summed { top: third, sum: fourth, negatives: sigma(u), loss: softplus(u) };
        Self { top, total: sum / sigma(u), targets }
    }

    /// The softmax minus q at a target.
    #[inline(always)]
    pub(super) fn at_target(&self, s: T, rate: T) -> T {
        match self.targets {
            Targets::Mean { gap, count } => {
                (count * (rate * (s - self.top)).exp_m1() - gap) / (count * self.total)
            }
            Targets::Summed { top, sum, negatives, .. } => {
                -negatives * ((rate * (s - top)).power_of_e() / sum)
            }
        }
    }
}

/// Computes one row of the field with the processor's vector instructions. The result is the sum of a (s - max s). The
/// row's part of a and the column's part each use their own maximum.
struct Row<'a, T> {
    i: usize,
    own: State<T>,
    field: &'a mut [T],
    columns: &'a [State<T>],
    /// `top` and `total` of the columns, each stored contiguously.
    tops: &'a [T],
    totals: &'a [T],
    ids: Option<&'a [u32]>,
    same_image: SameImage,
    rate: T,
    scale: T,
    shares: [T; 2],
}

impl<T: Real> pulp::WithSimd for Row<'_, T> {
    type Output = T;

    #[inline(always)]
    fn with_simd<P: pulp::Simd>(self, _: P) -> T {
        let Self { i, own, field, columns, tops, totals, ids, same_image, rate, scale, shares } = self;
        let mut sums = [T::zero(); LANES];
        for (chunk, field) in field.chunks_mut(LANES).enumerate() {
            let here = chunk * LANES..chunk * LANES + field.len();
            let (top, column_total) = (&tops[here.clone()], &totals[here.clone()]);
            // Targets and left-out pairs. Without ids, all pairs are of different images.
            let mut special = [false; LANES];
            if let (Some(ids), true) = (ids, same_image != SameImage::Negative) {
                special.iter_mut().zip(&ids[here.clone()]).for_each(|(same, &id)| *same = id == ids[i]);
            }
            if here.contains(&i) {
                special[i - here.start] = true;
            }
            let mut similarity = [T::zero(); LANES];
            for k in 0..field.len() {
                let s = field[k];
                special[k] |= is_left_out(s);
                let (from_row, from_column) = (s - own.top, s - top[k]);
                let row = (rate * from_row).power_of_e() / own.total;
                let column = (rate * from_column).power_of_e() / column_total[k];
                let (row, column) = if special[k] { (T::zero(), T::zero()) } else { (row, column) };
                let (row, column) = (shares[0] * row, shares[1] * column);
                sums[k] += row * from_row + column * from_column;
                similarity[k] = s;
                field[k] = scale * (row + column);
            }
            // Targets are few, so they are computed one by one.
            if special.contains(&true) {
                let target = |&k: &usize| {
                    let is_target = same_image != SameImage::LeftOut || here.start + k == i;
                    special[k] && is_target && !is_left_out(similarity[k])
                };
                for k in (0..field.len()).filter(target) {
                    let (s, column) = (similarity[k], &columns[here.start + k]);
                    let (row, from_column) = (own.at_target(s, rate), s - column.top);
                    let (row, column) = (shares[0] * row, shares[1] * column.at_target(s, rate));
                    sums[k] += row * (s - own.top) + column * from_column;
                    field[k] = scale * (row + column);
                }
            }
        }
        sums.into_iter().fold(T::zero(), |total, sum| total + sum)
    }
}

fn check(lab: &mut Lab) -> Result<()> {
    let temperature = lab.pair(vec![TEMPERATURE])?;
    for same_image in [SameImage::Target, SameImage::LeftOut, SameImage::Summed] {
        let m = mined(lab, &directions()[0])?;
        let [(state_it, mut it), (state_ti, mut ti)] = directions().map(|block| {
            let (mut state, mut distance) = (vec![0.0; 4 * N], vec![0.0; N]);
            let same = (Some(&m.ids.host[..]), same_image);
            let (s, t) = (m.similarity.wide(), f64::from(TEMPERATURE));
            super::log_sum_exp::reference(&block, &s, same, t, (&mut state, &mut distance));
            (state, distance)
        });
        let narrow = |values: &[f64]| lab.pair(values.iter().map(|&x| x as f32).collect());
        let states = [narrow(&state_it)?, narrow(&state_ti)?];
        let (mut loss_it, mut loss_ti) = (narrow(&it)?, narrow(&ti)?);
        let mut field = lab.pair(m.similarity.host.clone())?;
        let mut dt = lab.poison(4 * N)?;
        let from = InfonceField {
            ids: Some(m.ids.get()),
            same_image,
            temperature: temperature.get(),
            states: [states[0].get(), states[1].get()],
            scale: 0.7,
            shares: [1.0, 0.5],
            row_offset: 0,
            images: N,
        };
        lab.run(|commands| {
            let losses = [loss_it.get_mut(), loss_ti.get_mut()];
            infonce(commands, field.mat_mut(N, N), from, dt.get_mut(), losses)
        })?;
        let (mut a, mut t) = (m.similarity.wide(), dt.wide());
        let same = (Some(&m.ids.host[..]), same_image);
        let states = [&state_it[..], &state_ti[..]];
        let (scale, losses) = ((f64::from(0.7f32), [1.0, 0.5]), [&mut it[..], &mut ti[..]]);
        reference(&mut a, (0, N, N), same, TEMPERATURE.into(), states, scale, &mut t, losses);
        lab.compare(&field, &a)?;
        lab.compare(&dt, &t)?;
        lab.compare(&loss_it, &it)?;
        lab.compare(&loss_ti, &ti)?;
    }
    Ok(())
}
