//! The field of a GOAL gradient over all negatives. It overwrites the similarities.

use super::dense_sum::dense_weights;
use super::dense_sum::is_negative;
use super::hardest::mined;
use super::lab::{Lab, N, directions};
use super::weights::weighed_triplet;
use super::{Access, Dense, Kernel, KernelSpec, Real, WeightParams, is_left_out, lanes, weight_sections};
use crate::Result;
use crate::device::{Commands, MatMut, Region, Slice, clock, padded};
use rayon::prelude::*;

pub(super) static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "dense_field",
        source: include_str!("../../shaders/dense_field.wgsl"),
        params: Params::MEMBERS,
        bindings: &[Access::Read, Access::Read, Access::Read, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 1e-5,
    check,
    mutation: ["positive_ti[j], s,", "positive_it[i], s,"],
};

params!(weights rows: u32, pairs: u32, stride: u32, row_offset: u32, mask: u32, share_it: f32, share_ti: f32);

/// Replaces the similarities of images `row_offset..` against all texts by the elements of A off the diagonal. The
/// diagonal becomes 0. `shares` are factors of both directions.
pub fn dense_field(
    commands: &mut Commands,
    mut field: MatMut,
    row_offset: usize,
    from: Dense<[Slice<f32>; 2]>,
    shares: [f32; 2],
) -> Result<()> {
    let Dense { positive, ids, weights } = from;
    match commands {
        Commands::Cpu => {
            let _clock = clock("dense_field");
            let ids = ids.map(|ids| ids.host()).transpose()?;
            let pairs = field.cols;
            let positive = [positive[0].host()?, positive[1].host()?];
            reference(field.data.host()?, (row_offset, pairs), positive, ids, weights, shares)
        }
        Commands::Gpu(recorder) => {
            let (rows, pairs) = (field.rows, field.cols);
            let params = Params {
                rows: rows as u32,
                pairs: pairs as u32,
                stride: field.stride as u32,
                row_offset: row_offset as u32,
                mask: ids.is_some().into(),
                share_it: shares[0],
                share_ti: shares[1],
                ..Default::default()
            };
            let params = params.weighing(weights);
            let regions = [
                ids.map_or(Ok(Region::NOTHING), |ids| ids.region())?,
                positive[0].region()?,
                positive[1].region()?,
                field.data.region()?,
            ];
            let [lanes] = lanes(recorder);
            let cost = (120.0 + weights.own_cost()) * rows as f64 * pairs as f64;
            let [numbers, weights, triplet] = weight_sections(weights.custom.as_ref());
            let grid = [pairs.div_ceil(recorder.lanes as usize), rows, 1];
            recorder.dispatch(
                &KERNEL.spec,
                &[lanes, numbers, weights, triplet],
                &params,
                &regions,
                grid,
                cost,
            )
        }
    }
}

/// [`dense_field`] as a plain loop over images `first..` of `pairs`. It fails if a weight file cannot be evaluated.
pub fn reference<T: Real>(
    field: &mut [T],
    (first, pairs): (usize, usize),
    positive: [&[T]; 2],
    ids: Option<&[u32]>,
    weights: &WeightParams,
    shares: [T; 2],
) -> Result<()> {
    field.par_chunks_exact_mut(padded(pairs)).enumerate().try_for_each(|(row, field)| {
        let i = row + first;
        for (j, s) in field[..pairs].iter_mut().enumerate() {
            let push = |p: T| weighed_triplet(weights, p, *s, [T::zero(); 2]).map(|[_, push, _]| push);
            *s = if is_negative(ids, i, j) && !is_left_out(*s) {
                shares[0] * push(positive[0][i])? + shares[1] * push(positive[1][j])?
            } else {
                T::zero()
            };
        }
        Ok(())
    })
}

fn check(lab: &mut Lab) -> Result<()> {
    for weights in dense_weights() {
        let m = mined(lab, &directions()[0])?;
        let mut field = lab.pair(m.similarity.host.clone())?;
        let other = lab.vector(N)?;
        let positive = [m.positive.get(), other.get()];
        let from = Dense { positive, ids: Some(m.ids.get()), weights: &weights };
        lab.run(|commands| dense_field(commands, field.mat_mut(N, N), 0, from, [1.0, 0.5]))?;
        let mut expected = m.similarity.wide();
        let (it, ti) = (m.positive.wide(), other.wide());
        reference(&mut expected, (0, N), [&it, &ti], Some(&m.ids.host), &weights, [1.0, 0.5])?;
        lab.compare(&field, &expected)?;
    }
    Ok(())
}
