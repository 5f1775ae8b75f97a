//! Field of the hinge triplet over all negatives, in the place of the similarities (vse-models.md section 1).

use super::{Access, KernelSpec, Real, Violations, lanes};
use crate::Result;
use crate::device::{Commands, MatMut, Region, clock, padded};
use rayon::prelude::*;

pub(super) static SPEC: KernelSpec = KernelSpec {
    name: "hinge_sum",
    source: include_str!("../../shaders/hinge_sum.wgsl"),
    params: Params::MEMBERS,
    bindings: &[Access::Read, Access::Read, Access::ReadWrite],
    workgroup: [64, 1, 1],
};

params!(rows: u32, pairs: u32, stride: u32, row_offset: u32, mask: u32, margin: f32, scale: f32);

/// Turns the similarities of images `row_offset..` against all texts into A off the diagonal, in place.
pub fn hinge_sum(
    commands: &mut Commands,
    mut field: MatMut,
    row_offset: usize,
    from: Violations,
) -> Result<()> {
    let Violations { positive, ids, margin, scale } = from;
    match commands {
        Commands::Cpu => {
            let _clock = clock("hinge_sum");
            let ids = ids.map(|ids| ids.host()).transpose()?;
            let pairs = field.cols;
            twin(field.data.host()?, row_offset, &positive.host()?[..pairs], ids, (margin, scale));
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let (rows, pairs) = (field.rows, field.cols);
            let params = Params {
                rows: rows as u32,
                pairs: pairs as u32,
                stride: field.stride as u32,
                row_offset: row_offset as u32,
                mask: ids.is_some().into(),
                margin,
                scale,
            };
            let regions = [
                ids.map_or(Ok(Region::NOTHING), |ids| ids.region())?,
                positive.region()?,
                field.data.region()?,
            ];
            let grid = [pairs.div_ceil(recorder.lanes as usize), rows, 1];
            recorder.dispatch(
                &SPEC,
                &lanes(recorder),
                &params,
                &regions,
                grid,
                8.0 * rows as f64 * pairs as f64,
            )
        }
    }
}

/// [`hinge_sum`] as a plain loop.
pub fn twin<T: Real>(
    field: &mut [T],
    row_offset: usize,
    positive: &[T],
    ids: Option<&[u32]>,
    (margin, scale): (T, T),
) {
    let pairs = positive.len();
    field.par_chunks_exact_mut(padded(pairs)).enumerate().for_each(|(row, field)| {
        let i = row + row_offset;
        for (j, s) in field[..pairs].iter_mut().enumerate() {
            let negative = match ids {
                Some(ids) => ids[i] != ids[j],
                None => i != j,
            };
            let violated = |p: T| if negative && margin + *s - p > T::zero() { scale } else { T::zero() };
            *s = violated(positive[i]) + violated(positive[j]);
        }
    });
}
