//! Relative sets U and V of every anchor, one direction (goal-math.md section 4, "Relative terms").

use super::{Access, Block, KernelSpec, LANES, Lanes, NO_PAIR, Real, lanes};
use crate::Result;
use crate::device::{Commands, Mat, Region, Slice, SliceMut, clock};
use std::ops::Range;

pub(super) static SPEC: KernelSpec = KernelSpec {
    name: "relative",
    source: include_str!("../../shaders/relative.wgsl"),
    params: Params::MEMBERS,
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::Read, Access::ReadWrite],
    workgroup: [64, 1, 1],
};

/// Below this exponent `exp` is 0 in double precision, in which the reference was verified.
const UNDERFLOW: f64 = -745.13;

params!(block mask: u32, pairs: u32, exponential: u32, alpha: f32, beta: f32, threshold: f32);

/// What the relative sets are computed from; slices are `[pairs]`.
#[derive(Clone, Copy)]
pub struct Relative<'a> {
    pub positive: Slice<'a, f32>,
    pub value: Slice<'a, f32>,
    pub index: Slice<'a, u32>,
    /// Equal ids leave V.
    pub ids: Option<Slice<'a, u32>>,
    /// Exponential values (sig-ms) or linear ones (lin-ms).
    pub exponential: bool,
    pub alpha: f32,
    pub beta: f32,
    pub threshold: f32,
}

/// Writes (sum over U, size of U, sum over V, size of V) of every anchor, `sums [pairs, 4]`; blocks add up.
pub fn relative(
    commands: &mut Commands,
    block: &Block,
    similarity: Mat,
    from: Relative,
    mut sums: SliceMut<f32>,
) -> Result<()> {
    let Relative { positive, value, index, ids, exponential, alpha, beta, threshold } = from;
    match commands {
        Commands::Cpu => {
            let _clock = clock("relative");
            let mined = (positive.host()?, value.host()?, index.host()?);
            let ids = ids.map(|ids| ids.host()).transpose()?;
            let rates = exponential.then_some((alpha, beta));
            twin(block, similarity.data.host()?, mined, ids, rates, threshold, sums.host()?);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let pairs = block.anchors.max(block.candidates) as u32;
            let params = Params {
                mask: ids.is_some().into(),
                pairs,
                exponential: exponential.into(),
                alpha,
                beta,
                threshold,
                ..Params::on(block)
            };
            let regions = [
                similarity.data.region()?,
                ids.map_or(Ok(Region::NOTHING), |ids| ids.region())?,
                positive.region()?,
                value.region()?,
                index.region()?,
                sums.region()?,
            ];
            let cost = 60.0 * block.anchors as f64 * block.candidates as f64;
            recorder.dispatch(&SPEC, &lanes(recorder), &params, &regions, [block.anchors, 1, 1], cost)
        }
    }
}

/// [`relative`] as a plain loop; `mined` is (p, n, h), `rates` (alpha, beta) where the values are exponential.
pub fn twin<T: Real>(
    block: &Block,
    similarity: &[T],
    (positive, value, index): (&[T], &[T], &[u32]),
    ids: Option<&[u32]>,
    rates: Option<(T, T)>,
    threshold: T,
    sums: &mut [T],
) {
    let floor = positive.iter().copied().fold(T::infinity(), T::min) - threshold;
    let mut states: Vec<_> = sums.chunks_exact_mut(4).collect();
    let ceiling = T::of(UNDERFLOW);
    let batch = Batch { positive, value, index, ids, floor, threshold };
    match rates {
        None => batch.sums(
            block,
            similarity,
            &mut states,
            |difference, _| (difference, difference != T::zero()),
            [T::one(); 2],
        ),
        Some((alpha, beta)) => {
            let member = |difference: T, rate: T| {
                let exponent = rate * difference;
                (exponent.max(T::of(-87.0)).power_of_e(), exponent > ceiling)
            };
            batch.sums(block, similarity, &mut states, member, [alpha, beta]);
        }
    }
}

/// What decides who is in an anchor's sets.
struct Batch<'a, T> {
    positive: &'a [T],
    value: &'a [T],
    index: &'a [u32],
    ids: Option<&'a [u32]>,
    floor: T,
    threshold: T,
}

impl<T: Real> Batch<'_, T> {
    /// `member` gives the value of a difference at a rate, and whether it stays in its set.
    fn sums(
        &self,
        block: &Block,
        similarity: &[T],
        states: &mut [&mut [T]],
        member: impl Fn(T, T) -> (T, bool) + Sync,
        [alpha, beta]: [T; 2],
    ) {
        let begin = || [[T::zero(); LANES]; 4];
        let visit = |sums: &mut [[T; LANES]; 4], lanes: &Lanes<T>| {
            let Lanes { anchor, candidate, s } = lanes;
            let (p, n) = (Lanes::<T>::of(anchor, self.positive), Lanes::<T>::of(anchor, self.value));
            let (h, other_p) = (Lanes::<T>::of(anchor, self.index), Lanes::<T>::of(candidate, self.positive));
            let ids = self.ids.map(|ids| (Lanes::<T>::of(anchor, ids), Lanes::<T>::of(candidate, ids)));
            let (own_id, other_id) = ids.unwrap_or((*anchor, *candidate));
            let count = |is_in: bool| if is_in { T::one() } else { T::zero() };
            for k in 0..LANES {
                let other = candidate[k] != anchor[k] && candidate[k] != NO_PAIR;
                let (u, stays) = member(p[k] - other_p[k], alpha);
                let in_u = other & stays & (other_p[k] <= n[k] + self.threshold);
                sums[0][k] += if in_u { u } else { T::zero() };
                sums[1][k] += count(in_u);
                let (v, stays) = member(n[k] - s[k], -beta);
                let negative = other & (candidate[k] != h[k]) & (own_id[k] != other_id[k]);
                let in_v = negative & stays & (s[k] >= self.floor);
                sums[2][k] += if in_v { v } else { T::zero() };
                sums[3][k] += count(in_v);
            }
        };
        let end = |state: &mut &mut [T], _, sums: &[[T; LANES]; 4], own: Range<usize>| {
            for (total, sums) in state.iter_mut().zip(sums) {
                let before = if block.candidate_offset == 0 { T::zero() } else { *total };
                *total = sums[own.clone()].iter().fold(before, |total, &sum| total + sum);
            }
        };
        block.lanes(similarity, states, begin, visit, end);
    }
}
