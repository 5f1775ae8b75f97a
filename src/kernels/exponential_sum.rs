//! Sum of exponentials over all negatives of every anchor, in one direction. Multi-similarity, lifted structure and the
//! circle loss share it.

use super::hardest::mined;
use super::lab::{Lab, N, directions};
use super::{
    Access, Block, ExponentialLoss, ExponentialParams, Kernel, KernelSpec, Real, is_left_out, lanes,
};
use crate::Result;
use crate::device::{Commands, Mat, Region, Slice, SliceMut, clock};

pub(super) static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "exponential_sum",
        source: include_str!("../../shaders/exponential_sum.wgsl"),
        params: Params::MEMBERS,
        bindings: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::Read, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 2e-5,
    check,
    mutation: ["earlier + partial[0]", "earlier + 1.001 * partial[0]"],
};

params!(block mask: u32, circle: u32, mined: u32, rate: f32, margin: f32, reach: f32);

/// What is known of every anchor before the sums, `[pairs]` each.
#[derive(Clone, Copy)]
pub struct Known<V> {
    /// p
    pub positive: V,
    /// The lowest positive; p if there is one only.
    pub lowest: V,
    /// The hardest negative n.
    pub value: V,
}

/// Writes `state [pairs, 4]` = (p, n, sum over the negatives of e^(f(s) - top), lowest positive) of every anchor, with f
/// and top of [`ExponentialParams::exponent`] and [`ExponentialParams::top`]. Each block adds to the sums of the blocks
/// before it.
pub fn exponential_sum(
    commands: &mut Commands,
    block: &Block,
    similarity: Mat,
    ids: Option<Slice<u32>>,
    known: Known<Slice<f32>>,
    params: &ExponentialParams,
    mut state: SliceMut<f32>,
) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("exponential_sum");
            let ids = ids.map(|ids| ids.host()).transpose()?;
            let Known { positive, lowest, value } = known;
            let known = Known { positive: positive.host()?, lowest: lowest.host()?, value: value.host()? };
            reference(block, similarity.data.host()?, ids, known, params, state.host()?);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let ExponentialParams { loss, rate, margin, reach, .. } = *params;
            let params = Params {
                mask: ids.is_some().into(),
                circle: (loss == ExponentialLoss::Circle).into(),
                mined: reach.is_some().into(),
                rate,
                margin,
                reach: reach.unwrap_or(0.0),
                ..Params::on(block)
            };
            let regions = [
                similarity.data.region()?,
                ids.map_or(Ok(Region::NOTHING), |ids| ids.region())?,
                known.positive.region()?,
                known.value.region()?,
                known.lowest.region()?,
                state.region()?,
            ];
            let cost = 20.0 * block.anchors as f64 * block.candidates as f64;
            recorder.dispatch(&KERNEL.spec, &lanes(recorder), &params, &regions, [block.anchors, 1, 1], cost)
        }
    }
}

/// [`exponential_sum`] as a plain loop.
pub fn reference<T: Real>(
    block: &Block,
    similarity: &[T],
    ids: Option<&[u32]>,
    known: Known<&[T]>,
    params: &ExponentialParams,
    state: &mut [T],
) {
    let mut states: Vec<_> = state.chunks_exact_mut(4).collect();
    for (k, state) in states[block.anchor_offset..][..block.anchors].iter_mut().enumerate() {
        let anchor = k + block.anchor_offset;
        let earlier = if block.candidate_offset == 0 { T::zero() } else { state[2] };
        let Known { positive, lowest, value } = known;
        state.copy_from_slice(&[positive[anchor], value[anchor], earlier, lowest[anchor]]);
    }
    block.sweep(similarity, &mut states, |state, anchor, candidate, s| {
        let negative = match ids {
            Some(ids) => ids[candidate] != ids[anchor],
            None => candidate != anchor,
        };
        if negative && !is_left_out(s) && params.counts(s, state[3]) {
            state[2] += (params.exponent(s) - params.top(state[1])).exp();
        }
    });
}

fn check(lab: &mut Lab) -> Result<()> {
    let losses = [(ExponentialLoss::MultiSimilarity, 10.0), (ExponentialLoss::Circle, 6.0)];
    for (block, (loss, rate)) in directions().into_iter().flat_map(|block| losses.map(|loss| (block, loss))) {
        let m = mined(lab, &block)?;
        let mut state = lab.poison(4 * N)?;
        let known = Known { positive: m.positive.get(), lowest: m.positive.get(), value: m.value.get() };
        let params = ExponentialParams { loss, rate, ..ExponentialParams::TESTED };
        lab.run(|commands| {
            let s = m.similarity.mat(N, N);
            exponential_sum(commands, &block, s, Some(m.ids.get()), known, &params, state.get_mut())
        })?;
        let mut expected = state.wide();
        let (s, p, n) = (m.similarity.wide(), m.positive.wide(), m.value.wide());
        let known = Known { positive: &p[..], lowest: &p[..], value: &n[..] };
        reference(&block, &s, Some(&m.ids.host), known, &params, &mut expected);
        lab.compare(&state, &expected)?;
    }
    Ok(())
}
