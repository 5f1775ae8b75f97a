//! Log-sum-exp of every anchor's similarities over the temperature, one direction (vse-models.md section 4).

use super::{Access, Block, KernelSpec, Real, lanes};
use crate::Result;
use crate::device::{Commands, Mat, Region, Slice, SliceMut, clock};

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

impl SameImage {
    /// Whether a candidate is a target, or neither target nor negative.
    pub(super) fn role(self, ids: Option<&[u32]>, anchor: usize, candidate: usize) -> Self {
        match ids {
            _ if candidate == anchor => Self::Target,
            Some(ids) if ids[candidate] == ids[anchor] => self,
            _ => Self::Negative,
        }
    }
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
    // (state, the maximum before this block)
    let mut states: Vec<_> = state.chunks_exact_mut(4).map(|state| (state, T::neg_infinity())).collect();
    for (state, earlier) in &mut states[block.anchor_offset..][..block.anchors] {
        if block.candidate_offset == 0 {
            state.copy_from_slice(&[T::neg_infinity(), T::zero(), T::zero(), T::zero()]);
        }
        *earlier = state[0];
    }
    block.sweep(similarity, &mut states, |(state, _), anchor, candidate, s| {
        if same_image.role(ids, anchor, candidate) != SameImage::LeftOut {
            state[0] = state[0].max(s * rate);
        }
    });
    for (state, earlier) in &mut states[block.anchor_offset..][..block.anchors] {
        if *earlier > T::neg_infinity() {
            state[1] *= (*earlier - state[0]).exp();
        }
    }
    block.sweep(similarity, &mut states, |(state, _), anchor, candidate, s| {
        let z = s * rate;
        let role = same_image.role(ids, anchor, candidate);
        if role != SameImage::LeftOut {
            state[1] += (z - state[0]).exp();
        }
        if role == SameImage::Target {
            state[2] += z;
            state[3] += T::one();
        }
    });
}
