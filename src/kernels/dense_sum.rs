//! Sums over all negatives of every anchor, in one direction: the coefficient of the positive, and the loss.

use super::hardest::mined;
use super::lab::{Lab, N, directions};
use super::weights::{weighed_positive, weighed_triplet};
use super::{Access, Block, Kernel, KernelSpec, Real, WeightParams, is_left_out, lanes, weight_sections};
use crate::device::{Commands, Mat, Region, Slice, SliceMut, clock};
use crate::objective::{PairWeight, TripletWeight};
use crate::{Error, Result};
use std::sync::OnceLock;

pub(super) static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "dense_sum",
        source: include_str!("../../shaders/dense_sum.wgsl"),
        params: Params::MEMBERS,
        bindings: &[Access::Read, Access::Read, Access::Read, Access::ReadWrite, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 1e-5,
    check,
    mutation: ["vec2f(total.x, 0.0)", "vec2f(1.001 * total.x, 0.0)"],
};

params!(block weights mask: u32);

/// The inputs of a gradient over all negatives. P is one slice for one direction, or two for both.
#[derive(Clone, Copy)]
pub struct Dense<'a, P> {
    /// p `[pairs]`
    pub positive: P,
    /// Pairs with equal ids are never negatives of each other.
    pub ids: Option<Slice<'a, u32>>,
    /// Weights of a triplet. Relative sets count as empty.
    pub weights: &'a WeightParams,
}

/// Writes `coefficients [pairs, 2]` and `loss [pairs]`. The first coefficient is the sum of scale T P+ over the
/// negatives, or scale P+ if it counts once; the second is 0. Each block adds to the results of the blocks before it.
pub fn dense_sum(
    commands: &mut Commands,
    block: &Block,
    similarity: Mat,
    from: Dense<Slice<f32>>,
    mut coefficients: SliceMut<f32>,
    mut loss: SliceMut<f32>,
) -> Result<()> {
    let Dense { positive, ids, weights } = from;
    match commands {
        Commands::Cpu => {
            let _clock = clock("dense_sum");
            let ids = ids.map(|ids| ids.host()).transpose()?;
            let (coefficients, loss) = (coefficients.host()?, loss.host()?);
            reference(block, similarity.data.host()?, positive.host()?, ids, weights, coefficients, loss)
        }
        Commands::Gpu(recorder) => {
            let params = Params { mask: ids.is_some().into(), ..Params::on(block) }.weighing(weights);
            let regions = [
                similarity.data.region()?,
                ids.map_or(Ok(Region::NOTHING), |ids| ids.region())?,
                positive.region()?,
                coefficients.region()?,
                loss.region()?,
            ];
            let [lanes] = lanes(recorder);
            let cost = (60.0 + weights.own_cost()) * block.anchors as f64 * block.candidates as f64;
            let [numbers, weights, triplet] = weight_sections(weights.custom.as_ref());
            let constants = [lanes, numbers, weights, triplet];
            recorder.dispatch(&KERNEL.spec, &constants, &params, &regions, [block.anchors, 1, 1], cost)
        }
    }
}

/// [`dense_sum`] as a plain loop. It fails if a weight file cannot be evaluated.
pub fn reference<T: Real>(
    block: &Block,
    similarity: &[T],
    positive: &[T],
    ids: Option<&[u32]>,
    weights: &WeightParams,
    coefficients: &mut [T],
    loss: &mut [T],
) -> Result<()> {
    let failed: OnceLock<Error> = OnceLock::new();
    let mut states: Vec<_> = coefficients.chunks_exact_mut(2).zip(loss).collect();
    let own = states[block.anchor_offset..][..block.anchors].iter_mut().zip(&positive[block.anchor_offset..]);
    for ((coefficients, loss), &p) in own {
        if block.candidate_offset == 0 {
            [coefficients[0], **loss] = weighed_positive(weights, p)?;
        }
        coefficients[1] = T::zero();
    }
    block.sweep(similarity, &mut states, |(coefficients, loss), anchor, candidate, s| {
        if !is_negative(ids, anchor, candidate) || is_left_out(s) {
            return;
        }
        match weighed_triplet(weights, positive[anchor], s, [T::zero(); 2]) {
            Ok([pull, _, cost]) => {
                coefficients[0] += pull;
                **loss += cost;
            }
            Err(error) => drop(failed.set(error)),
        }
    });
    failed.into_inner().map_or(Ok(()), Err)
}

/// Whether two pairs are negatives of each other: their ids differ or, without ids, they are different pairs.
pub(super) fn is_negative(ids: Option<&[u32]>, i: usize, j: usize) -> bool {
    ids.map_or(i != j, |ids| ids[i] != ids[j])
}

/// A dyadic fraction, so that rounding cannot change a comparison with it.
pub(crate) const MARGIN: f32 = 13.0 / 64.0;

/// Weights that are nonzero at every p and n, without and with a margin.
pub(crate) fn dense_weights() -> impl Iterator<Item = WeightParams> {
    let usual =
        WeightParams { triplet: TripletWeight::Cir, pair: PairWeight::Sig, scale: 0.5, ..Default::default() };
    [None, Some(MARGIN)].into_iter().map(move |margin| WeightParams { margin, ..usual.clone() })
}

fn check(lab: &mut Lab) -> Result<()> {
    for (block, weights) in
        directions().into_iter().flat_map(|block| dense_weights().map(move |w| (block, w)))
    {
        let m = mined(lab, &block)?;
        let (mut coefficients, mut loss) = (lab.poison(2 * N)?, lab.poison(N)?);
        let from = Dense { positive: m.positive.get(), ids: Some(m.ids.get()), weights: &weights };
        lab.run(|commands| {
            let out = (coefficients.get_mut(), loss.get_mut());
            dense_sum(commands, &block, m.similarity.mat(N, N), from, out.0, out.1)
        })?;
        let (mut c, mut l) = (coefficients.wide(), loss.wide());
        let (s, p, ids) = (m.similarity.wide(), m.positive.wide(), Some(&m.ids.host[..]));
        reference(&block, &s, &p, ids, &weights, &mut c, &mut l)?;
        lab.compare(&coefficients, &c)?;
        lab.compare(&loss, &l)?;
    }
    Ok(())
}
