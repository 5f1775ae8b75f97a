//! Log-sum-exp of every anchor's similarities over the temperature, one direction (vse-models.md section 4).

use super::{Access, Block, KernelSpec, LANES, Lanes, NO_PAIR, Real, Scan, lanes};
use crate::Result;
use crate::device::{Commands, Mat, Region, Slice, SliceMut, clock};
use std::ops::Range;

pub(super) static SPEC: KernelSpec = KernelSpec {
    name: "log_sum_exp",
    source: include_str!("../../shaders/log_sum_exp.wgsl"),
    params: Params::MEMBERS,
    bindings: &[Access::Read, Access::Read, Access::Read, Access::ReadWrite],
    workgroup: [64, 1, 1],
};

params!(block same_image: u32);

/// What the other pairs of an anchor's image are to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameImage {
    /// Negatives like all others.
    Negative = 0,
    /// Targets, sharing the probability (X-VLM's fine-tuning).
    Target = 1,
    /// Neither.
    LeftOut = 2,
}

/// Writes (max z, sum of e^(z - max), sum of target z, number of targets) of every anchor, `state [pairs, 4]`, with
/// z = s / temperature; blocks continue each other.
pub fn log_sum_exp(
    commands: &mut Commands,
    block: &Block,
    similarity: Mat,
    (ids, same_image): (Option<Slice<u32>>, SameImage),
    temperature: Slice<f32>,
    mut state: SliceMut<f32>,
) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("log_sum_exp");
            let ids = ids.map(|ids| ids.host()).transpose()?;
            let temperature = temperature.host()?[0];
            twin(block, similarity.data.host()?, (ids, same_image), temperature, state.host()?);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let same_image = if ids.is_some() { same_image as u32 } else { 0 };
            let params = Params { same_image, ..Params::on(block) };
            let regions = [
                similarity.data.region()?,
                ids.map_or(Ok(Region::NOTHING), |ids| ids.region())?,
                temperature.region()?,
                state.region()?,
            ];
            let cost = 40.0 * block.anchors as f64 * block.candidates as f64;
            recorder.dispatch(&SPEC, &lanes(recorder), &params, &regions, [block.anchors, 1, 1], cost)
        }
    }
}

/// [`log_sum_exp`] as a plain loop: one pass for the maxima, one for the sums.
pub fn twin<T: Real>(
    block: &Block,
    similarity: &[T],
    (ids, same_image): (Option<&[u32]>, SameImage),
    temperature: T,
    state: &mut [T],
) {
    let rate = T::one() / temperature;
    let mut states: Vec<_> = state.chunks_exact_mut(4).collect();
    let own = block.anchor_offset..block.anchor_offset + block.anchors;
    if block.candidate_offset == 0 {
        let nothing = [T::neg_infinity(), T::zero(), T::zero(), T::zero()];
        states[own.clone()].iter_mut().for_each(|state| state.copy_from_slice(&nothing));
    }
    let earlier: Vec<_> = states.iter().map(|state| state[0]).collect();
    let roles = Roles { ids, same_image, rate };
    block.scan(similarity, &mut states, &Highest(&roles));
    let tops: Vec<_> = states.iter().map(|state| state[0]).collect();
    for anchor in own.filter(|&anchor| earlier[anchor] > T::neg_infinity()) {
        states[anchor][1] *= (earlier[anchor] - tops[anchor]).exp();
    }
    block.scan(similarity, &mut states, &Sums { roles: &roles, tops: &tops });
}

/// What candidates are to anchors.
struct Roles<'a, T> {
    ids: Option<&'a [u32]>,
    same_image: SameImage,
    rate: T,
}

impl<T: Real> Roles<'_, T> {
    /// Whether lanes are their anchors' targets, and whether they are left out.
    #[inline(always)]
    fn of(&self, lanes: &Lanes<T>) -> ([bool; LANES], [bool; LANES]) {
        let Lanes { anchor, candidate, .. } = lanes;
        let (own_id, other_id) = lanes.ids(self.ids);
        let (mut target, mut out) = ([false; LANES], [false; LANES]);
        for k in 0..LANES {
            let (own, none) = (candidate[k] == anchor[k], candidate[k] == NO_PAIR);
            let same = own_id[k] == other_id[k];
            target[k] = (own | (same & (self.same_image == SameImage::Target))) & !none;
            out[k] = none | (same & !own & (self.same_image == SameImage::LeftOut));
        }
        (target, out)
    }
}

/// The first pass: the largest z.
struct Highest<'a, T>(&'a Roles<'a, T>);

impl<'a, T: Real> Scan<T> for Highest<'a, T> {
    type Sums = [T; LANES];
    type State = &'a mut [T];

    fn begin(&self) -> Self::Sums {
        [T::neg_infinity(); LANES]
    }

    #[inline(always)]
    fn visit(&self, top: &mut Self::Sums, lanes: &Lanes<T>) {
        let (_, out) = self.0.of(lanes);
        for k in 0..LANES {
            let z = lanes.s[k] * self.0.rate;
            top[k] = if out[k] | (z <= top[k]) { top[k] } else { z };
        }
    }

    fn end(&self, state: &mut Self::State, top: &Self::Sums, own: Range<usize>) {
        state[0] = top[own].iter().copied().fold(state[0], T::max);
    }
}

/// The second: the sums.
struct Sums<'a, T> {
    roles: &'a Roles<'a, T>,
    tops: &'a [T],
}

impl<'a, T: Real> Scan<T> for Sums<'a, T> {
    type Sums = [[T; LANES]; 3];
    type State = &'a mut [T];

    fn begin(&self) -> Self::Sums {
        [[T::zero(); LANES]; 3]
    }

    #[inline(always)]
    fn visit(&self, sums: &mut Self::Sums, lanes: &Lanes<T>) {
        let (target, out) = self.roles.of(lanes);
        let top = Lanes::<T>::of(&lanes.anchor, self.tops);
        for k in 0..LANES {
            let z = lanes.s[k] * self.roles.rate;
            sums[0][k] += if out[k] { T::zero() } else { (z - top[k]).power_of_e() };
            sums[1][k] += if target[k] { z } else { T::zero() };
            sums[2][k] += if target[k] { T::one() } else { T::zero() };
        }
    }

    fn end(&self, state: &mut Self::State, sums: &Self::Sums, own: Range<usize>) {
        for (total, sums) in state[1..].iter_mut().zip(sums) {
            *total = sums[own.clone()].iter().fold(*total, |total, &sum| total + sum);
        }
    }
}
