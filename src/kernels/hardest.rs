//! Hardest negative of every anchor, one direction (goal-math.md section 2).

use super::{Access, Block, KernelSpec, Real, lanes};
use crate::Result;
use crate::device::{Commands, Mat, Region, Slice, SliceMut, clock};

pub(super) static SPEC: KernelSpec = KernelSpec {
    name: "hardest",
    source: include_str!("../../shaders/hardest.wgsl"),
    params: Params::MEMBERS,
    bindings: &[Access::Read, Access::Read, Access::ReadWrite, Access::ReadWrite, Access::ReadWrite],
    workgroup: [64, 1, 1],
};

params!(block mask: u32, exclude_own: u32);

/// What mining one direction writes, all `[pairs]`.
pub struct Hardest<'a> {
    /// p, written where the block holds the diagonal.
    pub positive: SliceMut<'a, f32>,
    /// n
    pub value: SliceMut<'a, f32>,
    /// h
    pub index: SliceMut<'a, u32>,
}

/// Mines a block: n = max of M over the candidates, h the smallest index that attains it; blocks in ascending order of
/// candidates continue each other. With `ids`, candidates of the anchor's own image are no negatives. The anchor's own pair
/// takes part as -1 (GOAL), or with `exclude_own` not at all (hinge).
pub fn hardest(
    commands: &mut Commands,
    block: &Block,
    similarity: Mat,
    ids: Option<Slice<u32>>,
    exclude_own: bool,
    mut out: Hardest,
) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("hardest");
            let ids = ids.map(|ids| ids.host()).transpose()?;
            let (value, index) = (out.value.host()?, out.index.host()?);
            twin(block, similarity.data.host()?, ids, exclude_own, out.positive.host()?, value, index);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let params =
                Params { mask: ids.is_some().into(), exclude_own: exclude_own.into(), ..Params::on(block) };
            let regions = [
                similarity.data.region()?,
                ids.map_or(Ok(Region::NOTHING), |ids| ids.region())?,
                out.positive.region()?,
                out.value.region()?,
                out.index.region()?,
            ];
            let cost = 8.0 * block.anchors as f64 * block.candidates as f64;
            recorder.dispatch(&SPEC, &lanes(recorder), &params, &regions, [block.anchors, 1, 1], cost)
        }
    }
}

/// [`hardest`] as a plain loop.
pub fn twin<T: Real>(
    block: &Block,
    similarity: &[T],
    ids: Option<&[u32]>,
    exclude_own: bool,
    positive: &mut [T],
    value: &mut [T],
    index: &mut [u32],
) {
    let anchors = block.anchor_offset..block.anchor_offset + block.anchors;
    if block.candidate_offset == 0 {
        for anchor in anchors {
            (value[anchor], index[anchor]) = (T::neg_infinity(), anchor as u32);
        }
    } else if exclude_own {
        // Nothing found so far.
        for anchor in anchors.filter(|&anchor| index[anchor] as usize == anchor) {
            value[anchor] = T::neg_infinity();
        }
    }
    let mut states: Vec<_> = value.iter_mut().zip(index).zip(positive).collect();
    block.sweep(similarity, &mut states, |((n, h), p), anchor, candidate, s| {
        let m = if candidate == anchor {
            **p = s;
            if exclude_own {
                return;
            }
            -T::one()
        } else if ids.is_some_and(|ids| ids[candidate] == ids[anchor]) {
            return;
        } else {
            s
        };
        if m > **n {
            **n = m;
            **h = candidate as u32;
        }
    });
    for ((n, _), _) in &mut states {
        if **n == T::neg_infinity() {
            **n = -T::one();
        }
    }
}
