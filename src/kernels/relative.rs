//! Relative sets U and V of every anchor, one direction (goal-math.md section 4, "Relative terms").

use super::{Access, Block, KernelSpec, Real, lanes};
use crate::Result;
use crate::device::{Commands, Mat, Region, Slice, SliceMut, clock};

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
    let p_min = positive.iter().copied().fold(T::infinity(), T::min);
    let member = |difference: T, rate: T| {
        let exponent = rate * difference;
        let (value, stays) = match rates {
            None => (difference, difference != T::zero()),
            Some(_) => (exponent.max(T::of(-87.0)).exp(), exponent > T::of(UNDERFLOW)),
        };
        stays.then_some(value)
    };
    let (alpha, beta) = rates.unwrap_or_default();
    let mut states: Vec<_> = sums.chunks_exact_mut(4).collect();
    if block.candidate_offset == 0 {
        states[block.anchor_offset..][..block.anchors].iter_mut().for_each(|sums| sums.fill(T::zero()));
    }
    block.sweep(similarity, &mut states, |sums, anchor, candidate, s| {
        if candidate == anchor {
            return;
        }
        let (p, n) = (positive[anchor], value[anchor]);
        if positive[candidate] <= n + threshold {
            if let Some(u) = member(p - positive[candidate], alpha) {
                sums[0] += u;
                sums[1] += T::one();
            }
        }
        let masked = ids.is_some_and(|ids| ids[candidate] == ids[anchor]);
        if candidate != index[anchor] as usize && !masked && s >= p_min - threshold {
            if let Some(v) = member(n - s, -beta) {
                sums[2] += v;
                sums[3] += T::one();
            }
        }
    });
}
