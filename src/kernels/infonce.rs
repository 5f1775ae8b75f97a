//! Field of the symmetric InfoNCE, in the place of the similarities (vse-models.md section 4).

use super::{Access, KernelSpec, LANES, Real, SameImage, lanes};
use crate::Result;
use crate::device::{Commands, MatMut, Region, Slice, SliceMut, clock, padded};
use rayon::prelude::*;

pub(super) static SPEC: KernelSpec = KernelSpec {
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
};

params!(rows: u32, pairs: u32, stride: u32, row_offset: u32, same_image: u32, scale: f32);

/// What the field is computed from.
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
    /// First image of the block.
    pub row_offset: usize,
}

/// Turns the similarities of images `row_offset..` against all texts into A, in place, and writes their rows of
/// `dt [pairs, 4]` (column 0: parts of the gradient at t) and of both `losses [pairs]`.
pub fn infonce(
    commands: &mut Commands,
    mut field: MatMut,
    from: InfonceField,
    mut dt: SliceMut<f32>,
    [mut loss_it, mut loss_ti]: [SliceMut<f32>; 2],
) -> Result<()> {
    let InfonceField { ids, same_image, temperature, states, scale, row_offset } = from;
    match commands {
        Commands::Cpu => {
            let _clock = clock("infonce");
            let ids = ids.map(|ids| ids.host()).transpose()?;
            let pairs = field.cols;
            let states = [states[0].host()?, states[1].host()?];
            let losses = [loss_it.host()?, loss_ti.host()?];
            let temperature = temperature.host()?[0];
            let field = field.data.host()?;
            twin(
                field,
                (row_offset, pairs),
                (ids, same_image),
                temperature,
                states,
                scale,
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
            recorder.dispatch(&SPEC, &lanes(recorder), &params, &regions, [rows, 1, 1], cost)
        }
    }
}

/// [`infonce`] as a plain loop over images `first..` of `pairs`.
#[allow(clippy::too_many_arguments)]
pub fn twin<T: Real>(
    field: &mut [T],
    (first, pairs): (usize, usize),
    (ids, same_image): (Option<&[u32]>, SameImage),
    temperature: T,
    states: [&[T]; 2],
    scale: T,
    dt: &mut [T],
    losses: [&mut [T]; 2],
) {
    let rate = T::one() / temperature;
    let share = scale / T::of(2.0 * pairs as f64);
    let cross_entropy =
        |state: &[T]| (state[0] + state[1].ln() - state[2] / state[3]) / T::of(2.0 * pairs as f64);
    let of = |states: &[T], i: usize| [0, 1, 2, 3].map(|k| states[4 * i + k]);
    let column = |k: usize| (0..pairs).map(|j| states[1][4 * j + k]).collect::<Vec<_>>();
    let (tops, totals, targets) = (column(0), column(1), column(3));
    let [loss_it, loss_ti] = losses;
    let outputs = dt.par_chunks_exact_mut(4).zip(loss_it).zip(loss_ti).skip(first);
    let arch = pulp::Arch::new();
    field.par_chunks_exact_mut(padded(pairs)).zip(outputs).enumerate().for_each(
        |(row, (field, ((dt, loss_it), loss_ti)))| {
            let i = row + first;
            let own = of(states[0], i);
            let row = Row {
                i,
                own,
                field: &mut field[..pairs],
                columns: [&tops, &totals, &targets],
                ids,
                same_image,
                rate,
                share,
            };
            let sum = arch.dispatch(row);
            dt.copy_from_slice(&[-share * rate * rate * sum, T::zero(), T::zero(), T::zero()]);
            *loss_it = cross_entropy(&own);
            *loss_ti = cross_entropy(&of(states[1], i));
        },
    );
}

/// One row of the field, with the instructions that the processor has; gives the sum of a s.
struct Row<'a, T> {
    i: usize,
    /// The row's state.
    own: [T; 4],
    field: &'a mut [T],
    /// The columns' maxima, sums and numbers of targets.
    columns: [&'a [T]; 3],
    ids: Option<&'a [u32]>,
    same_image: SameImage,
    rate: T,
    share: T,
}

impl<T: Real> pulp::WithSimd for Row<'_, T> {
    type Output = T;

    #[inline(always)]
    fn with_simd<P: pulp::Simd>(self, _: P) -> T {
        let Self { i, own, field, columns: [tops, totals, targets], ids, same_image, rate, share } = self;
        let scale = share * rate;
        let own_due = T::one() / own[3];
        let mut sums = [T::zero(); LANES];
        for (chunk, field) in field.chunks_mut(LANES).enumerate() {
            let here = chunk * LANES..chunk * LANES + field.len();
            let (top, total, target) = (&tops[here.clone()], &totals[here.clone()], &targets[here.clone()]);
            // Pairs without ids are of different images.
            let mut same = [false; LANES];
            if let Some(ids) = ids {
                same.iter_mut().zip(&ids[here.clone()]).for_each(|(same, &id)| *same = id == ids[i]);
            }
            for k in 0..field.len() {
                let (s, is_own) = (field[k], here.start + k == i);
                let z = s * rate;
                let is_target = is_own | (same[k] & (same_image == SameImage::Target));
                let is_out = same[k] & !is_own & (same_image == SameImage::LeftOut);
                let both = (z - own[0]).power_of_e() / own[1] + (z - top[k]).power_of_e() / total[k];
                let due = own_due + T::one() / target[k];
                let a = both - if is_target { due } else { T::zero() };
                let a = if is_out { T::zero() } else { a };
                sums[k] += a * s;
                field[k] = scale * a;
            }
        }
        sums.into_iter().fold(T::zero(), |total, sum| total + sum)
    }
}
