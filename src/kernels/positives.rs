//! The positive p of anchors whose image has several pairs, in one direction (docs/math.md, "Several positives").

use super::hardest::mined;
use super::lab::{Lab, N, directions};
use super::{Access, Block, Kernel, KernelSpec, NOTHING, Real, is_left_out, lanes};
use crate::Result;
use crate::device::{Commands, Mat, Slice, SliceMut, clock};

pub(super) static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "positives",
        source: include_str!("../../shaders/positives.wgsl"),
        params: Params::MEMBERS,
        bindings: &[
            Access::Read,
            Access::Read,
            Access::Read,
            Access::ReadWrite,
            Access::ReadWrite,
            Access::ReadWrite,
        ],
        workgroup: [64, 1, 1],
    },
    tolerance: 2e-5,
    check,
    mutation: ["found.z = earlier.z + sums.y", "found.z = earlier.z + 1.001 * sums.y"],
};

params!(block aggregate: u32, mined: u32, rate: f32, margin: f32, reach: f32);

/// What several positives become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregate {
    /// The lowest similarity.
    Hardest = 0,
    /// Their mean.
    Mean = 1,
    /// −(1/rate) log Σ e^(−rate s)
    LogSum = 2,
    /// (1/rate) log Σ e^f(s), with the exponent f of the circle loss at a positive.
    Circle = 3,
}

/// How several positives become one number.
#[derive(Debug, Clone, Copy)]
pub struct PositivesParams {
    pub aggregate: Aggregate,
    /// Scale of the exponents.
    pub rate: f32,
    /// Margin of the circle loss.
    pub margin: f32,
    /// If given, only positives with s < n + reach count, where n is the hardest negative.
    pub reach: Option<f32>,
}

impl PositivesParams {
    /// The mean of all positives.
    pub const MEAN: Self = Self { aggregate: Aggregate::Mean, rate: 1.0, margin: 0.0, reach: None };

    /// Whether a positive counts beside the hardest negative n.
    pub(super) fn counts<T: Real>(&self, s: T, n: T) -> bool {
        self.reach.is_none_or(|reach| s < n + T::of(reach.into()))
    }

    /// The factor P⁺ of the circle loss at a positive; 1 for the other aggregates.
    pub(super) fn factor<T: Real>(&self, s: T) -> T {
        match self.aggregate {
            Aggregate::Circle => (T::one() + T::of(self.margin.into()) - s).max(T::zero()),
            _ => T::one(),
        }
    }

    /// f(s), the exponent of a positive.
    pub(super) fn exponent<T: Real>(&self, s: T) -> T {
        let [rate, margin] = [self.rate, self.margin].map(|x| T::of(x.into()));
        match self.aggregate {
            Aggregate::Circle => rate * self.factor(s) * (T::one() - margin - s),
            _ => -rate * s,
        }
    }

    /// The parameters of the kernels' own checks.
    pub(super) fn tested() -> [Self; 5] {
        use Aggregate::{Circle, Hardest, LogSum, Mean};
        let usual = Self { aggregate: Hardest, rate: 4.0, margin: 0.25, reach: None };
        let mined = Self { aggregate: LogSum, reach: Some(0.125), ..usual };
        let [first, second, third, fourth] =
            [Hardest, Mean, LogSum, Circle].map(|aggregate| Self { aggregate, ..usual });
        [first, second, third, fourth, mined]
    }
}

/// Writes p and the lowest similarity of every anchor's positives, `[pairs]` each, and the `state [pairs, 4]` that
/// `positive_field` reads. Positives are the pairs with the anchor's id, its own pair among them. `value` is n. Blocks
/// continue each other.
pub fn positives(
    commands: &mut Commands,
    block: &Block,
    similarity: Mat,
    (ids, value): (Slice<u32>, Slice<f32>),
    params: &PositivesParams,
    mut state: SliceMut<f32>,
    [mut positive, mut lowest]: [SliceMut<f32>; 2],
) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("positives");
            let from = (ids.host()?, value.host()?);
            let out = (state.host()?, [positive.host()?, lowest.host()?]);
            reference(block, similarity.data.host()?, from, params, out);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let PositivesParams { aggregate, rate, margin, reach } = *params;
            let params = Params {
                aggregate: aggregate as u32,
                mined: reach.is_some().into(),
                rate,
                margin,
                reach: reach.unwrap_or(0.0),
                ..Params::on(block)
            };
            let regions = [
                similarity.data.region()?,
                ids.region()?,
                value.region()?,
                state.region()?,
                positive.region()?,
                lowest.region()?,
            ];
            let cost = 20.0 * block.anchors as f64 * block.candidates as f64;
            recorder.dispatch(&KERNEL.spec, &lanes(recorder), &params, &regions, [block.anchors, 1, 1], cost)
        }
    }
}

/// [`positives`] as a plain loop. The output is (state, [p, min s]).
pub fn reference<T: Real>(
    block: &Block,
    similarity: &[T],
    (ids, value): (&[u32], &[T]),
    params: &PositivesParams,
    (state, [positive, lowest]): (&mut [T], [&mut [T]; 2]),
) {
    let (nothing, zero) = (T::of(f64::from(-NOTHING)), T::zero());
    let by_exponents = matches!(params.aggregate, Aggregate::LogSum | Aggregate::Circle);
    let own = block.anchor_offset..block.anchor_offset + block.anchors;
    let mut states: Vec<_> = state.chunks_exact_mut(4).collect();
    if block.candidate_offset == 0 {
        let empty = [nothing, zero, if by_exponents { -nothing } else { zero }, zero];
        states[own.clone()].iter_mut().for_each(|state| state.copy_from_slice(&empty));
    }
    let is_positive = |anchor: usize, candidate: usize, s: T| {
        ids[candidate] == ids[anchor] && !is_left_out(s) && params.counts(s, value[anchor])
    };
    let earlier: Vec<_> = states.iter().map(|state| state[2]).collect();
    block.sweep(similarity, &mut states, |state, anchor, candidate, s| {
        if !is_positive(anchor, candidate, s) {
            return;
        }
        state[1] += T::one();
        match params.aggregate {
            Aggregate::Hardest if s < state[0] => state[2] = T::of(candidate as f64),
            Aggregate::Hardest => {}
            Aggregate::Mean => state[2] += s,
            Aggregate::LogSum | Aggregate::Circle => state[2] = state[2].max(params.exponent(s)),
        }
        state[0] = state[0].min(s);
    });
    if by_exponents {
        for anchor in own.clone() {
            let state = &mut states[anchor];
            state[3] *= (earlier[anchor] - state[2]).exp();
        }
        block.sweep(similarity, &mut states, |state, anchor, candidate, s| {
            if is_positive(anchor, candidate, s) {
                state[3] += (params.exponent(s) - state[2]).exp();
            }
        });
    }
    for anchor in own {
        let state = &states[anchor];
        let rate = T::of(params.rate.into());
        lowest[anchor] = state[0];
        positive[anchor] = match params.aggregate {
            _ if state[1] == zero => zero,
            Aggregate::Hardest => state[0],
            Aggregate::Mean => state[2] / state[1],
            Aggregate::LogSum => -(state[2] + state[3].ln()) / rate,
            Aggregate::Circle => (state[2] + state[3].ln()) / rate,
        };
    }
}

fn check(lab: &mut Lab) -> Result<()> {
    for (block, params) in
        directions().into_iter().flat_map(|block| PositivesParams::tested().map(|params| (block, params)))
    {
        let m = mined(lab, &block)?;
        let (mut state, mut p, mut lowest) = (lab.poison(4 * N)?, lab.poison(N)?, lab.poison(N)?);
        lab.run(|commands| {
            let (s, from) = (m.similarity.mat(N, N), (m.ids.get(), m.value.get()));
            let out = [p.get_mut(), lowest.get_mut()];
            positives(commands, &block, s, from, &params, state.get_mut(), out)
        })?;
        let (mut expected, mut wide_p, mut wide_lowest) = (state.wide(), p.wide(), lowest.wide());
        let out = (&mut expected[..], [&mut wide_p[..], &mut wide_lowest[..]]);
        let from = (&m.ids.host[..], &m.value.wide()[..]);
        reference(&block, &m.similarity.wide(), from, &params, out);
        lab.compare(&state, &expected)?;
        lab.compare(&p, &wide_p)?;
        lab.compare(&lowest, &wide_lowest)?;
    }
    Ok(())
}
