//! Log-sum-exp of every anchor's similarities over the temperature, one direction (vse-models.md section 4).

use super::{Access, Block, KernelSpec, LANES, Lanes, NO_PAIR, Real, lanes};
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
    // Whether lanes are the anchor's targets, and whether they are left out.
    let roles = |lanes: &Lanes<T>| {
        let Lanes { anchor, candidate, .. } = lanes;
        let ids = ids.map(|ids| (Lanes::<T>::of(anchor, ids), Lanes::<T>::of(candidate, ids)));
        let (own_id, other_id) = ids.unwrap_or((*anchor, *candidate));
        let own = |k: usize| candidate[k] == anchor[k];
        let same = |k: usize, role| (same_image == role) & (own_id[k] == other_id[k]);
        let none = |k: usize| candidate[k] == NO_PAIR;
        let target: [bool; LANES] = std::array::from_fn(|k| (own(k) | same(k, SameImage::Target)) & !none(k));
        let out: [bool; LANES] = std::array::from_fn(|k| none(k) | (same(k, SameImage::LeftOut) & !own(k)));
        (target, out)
    };
    let highest = |top: &mut [T; LANES], lanes: &Lanes<T>| {
        let (_, out) = roles(lanes);
        for k in 0..LANES {
            let z = lanes.s[k] * rate;
            top[k] = if out[k] | (z <= top[k]) { top[k] } else { z };
        }
    };
    let end = |state: &mut &mut [T], _, top: &[T; LANES], own: Range<usize>| {
        state[0] = top[own].iter().copied().fold(state[0], T::max);
    };
    block.lanes(similarity, &mut states, || [T::neg_infinity(); LANES], highest, end);
    let tops: Vec<_> = states.iter().map(|state| state[0]).collect();
    for anchor in own.filter(|&anchor| earlier[anchor] > T::neg_infinity()) {
        states[anchor][1] *= (earlier[anchor] - tops[anchor]).exp();
    }
    let visit = |sums: &mut [[T; LANES]; 3], lanes: &Lanes<T>| {
        let (target, out) = roles(lanes);
        let top = Lanes::<T>::of(&lanes.anchor, &tops);
        for k in 0..LANES {
            let z = lanes.s[k] * rate;
            sums[0][k] += if out[k] { T::zero() } else { (z - top[k]).power_of_e() };
            sums[1][k] += if target[k] { z } else { T::zero() };
            sums[2][k] += if target[k] { T::one() } else { T::zero() };
        }
    };
    let end = |state: &mut &mut [T], _, sums: &[[T; LANES]; 3], own: Range<usize>| {
        for (total, sums) in state[1..].iter_mut().zip(sums) {
            *total = sums[own.clone()].iter().fold(*total, |total, &sum| total + sum);
        }
    };
    block.lanes(similarity, &mut states, || [[T::zero(); LANES]; 3], visit, end);
}
