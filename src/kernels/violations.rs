//! Violations of the margin over all negatives, one direction: the "sum" form of the hinge triplet
//! (vse-models.md section 1).

use super::{Access, Block, KernelSpec, Real, lanes};
use crate::Result;
use crate::device::{Commands, Mat, Region, Slice, SliceMut, clock};

pub(super) static SPEC: KernelSpec = KernelSpec {
    name: "violations",
    source: include_str!("../../shaders/violations.wgsl"),
    params: Params::MEMBERS,
    bindings: &[Access::Read, Access::Read, Access::Read, Access::ReadWrite, Access::ReadWrite],
    workgroup: [64, 1, 1],
};

params!(block mask: u32, margin: f32, scale: f32);

/// What violations are counted from, and the upstream gradient.
#[derive(Clone, Copy)]
pub struct Violations<'a> {
    /// p `[pairs]`
    pub positive: Slice<'a, f32>,
    /// Pairs with equal ids are no negatives of each other.
    pub ids: Option<Slice<'a, u32>>,
    pub margin: f32,
    pub scale: f32,
}

/// Writes `coefficients [pairs, 2]` = (scale x violations, 0) and `loss [pairs]`; blocks add up.
pub fn violations(
    commands: &mut Commands,
    block: &Block,
    similarity: Mat,
    from: Violations,
    mut coefficients: SliceMut<f32>,
    mut loss: SliceMut<f32>,
) -> Result<()> {
    let Violations { positive, ids, margin, scale } = from;
    match commands {
        Commands::Cpu => {
            let _clock = clock("violations");
            let ids = ids.map(|ids| ids.host()).transpose()?;
            let (coefficients, loss) = (coefficients.host()?, loss.host()?);
            twin(block, similarity.data.host()?, positive.host()?, ids, (margin, scale), coefficients, loss);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let params = Params { mask: ids.is_some().into(), margin, scale, ..Params::on(block) };
            let regions = [
                similarity.data.region()?,
                ids.map_or(Ok(Region::NOTHING), |ids| ids.region())?,
                positive.region()?,
                coefficients.region()?,
                loss.region()?,
            ];
            let cost = 8.0 * block.anchors as f64 * block.candidates as f64;
            recorder.dispatch(&SPEC, &lanes(recorder), &params, &regions, [block.anchors, 1, 1], cost)
        }
    }
}

/// [`violations`] as a plain loop.
pub fn twin<T: Real>(
    block: &Block,
    similarity: &[T],
    positive: &[T],
    ids: Option<&[u32]>,
    (margin, scale): (T, T),
    coefficients: &mut [T],
    loss: &mut [T],
) {
    let mut states: Vec<_> = coefficients.chunks_exact_mut(2).zip(loss).collect();
    for (coefficients, loss) in &mut states[block.anchor_offset..][..block.anchors] {
        if block.candidate_offset == 0 {
            coefficients[0] = T::zero();
            **loss = T::zero();
        }
        coefficients[1] = T::zero();
    }
    block.sweep(similarity, &mut states, |(coefficients, loss), anchor, candidate, s| {
        let negative = match ids {
            Some(ids) => ids[candidate] != ids[anchor],
            None => candidate != anchor,
        };
        let cost = margin + s - positive[anchor];
        if negative && cost > T::zero() {
            coefficients[0] += scale;
            **loss += cost;
        }
    });
}
