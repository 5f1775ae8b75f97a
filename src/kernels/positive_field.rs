//! The field of the pull on several positives (docs/math.md, "Several positives"). It overwrites the similarities.

use super::hardest::mined;
use super::lab::{Lab, N, directions};
use super::{Access, Aggregate, Kernel, KernelSpec, PositivesParams, Real, is_left_out, lanes, positives};
use crate::Result;
use crate::device::{Commands, MatMut, Slice, clock, padded};
use rayon::prelude::*;

pub(super) static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "positive_field",
        source: include_str!("../../shaders/positive_field.wgsl"),
        params: Params::MEMBERS,
        bindings: &[
            Access::Read,
            Access::Read,
            Access::Read,
            Access::Read,
            Access::Read,
            Access::Read,
            Access::Read,
            Access::ReadWrite,
        ],
        workgroup: [64, 1, 1],
    },
    tolerance: 2e-5,
    check,
    mutation: ["share(s, i, value_ti[j]", "share(s, j, value_ti[j]"],
};

params!(rows: u32, pairs: u32, stride: u32, row_offset: u32, aggregate: u32, mined: u32, rate: f32, margin: f32, reach: f32);

/// What is known of the positives of one direction's anchors.
#[derive(Clone, Copy)]
pub struct Pulled<'a> {
    /// n `[pairs]`
    pub value: Slice<'a, f32>,
    /// The state of `positives` `[pairs, 4]`.
    pub state: Slice<'a, f32>,
    /// (coefficient of p, unused) `[pairs, 2]`
    pub pulls: Slice<'a, f32>,
}

/// Replaces the similarities of images `row_offset..` against all texts by the field of the pulls of both directions. It
/// is 0 where a pair is no positive.
pub fn positive_field(
    commands: &mut Commands,
    mut field: MatMut,
    row_offset: usize,
    ids: Slice<u32>,
    directions: [Pulled; 2],
    params: &PositivesParams,
) -> Result<()> {
    let [it, ti] = directions;
    match commands {
        Commands::Cpu => {
            let _clock = clock("positive_field");
            let pairs = field.cols;
            let anchors = [it.on_host()?, ti.on_host()?];
            reference(field.data.host()?, (row_offset, pairs), ids.host()?, anchors, params);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let (rows, pairs) = (field.rows, field.cols);
            let PositivesParams { aggregate, rate, margin, reach } = *params;
            let params = Params {
                rows: rows as u32,
                pairs: pairs as u32,
                stride: field.stride as u32,
                row_offset: row_offset as u32,
                aggregate: aggregate as u32,
                mined: reach.is_some().into(),
                rate,
                margin,
                reach: reach.unwrap_or(0.0),
            };
            let regions = [
                ids.region()?,
                it.value.region()?,
                ti.value.region()?,
                it.state.region()?,
                ti.state.region()?,
                it.pulls.region()?,
                ti.pulls.region()?,
                field.data.region()?,
            ];
            let grid = [pairs.div_ceil(recorder.lanes as usize), rows, 1];
            let cost = 40.0 * rows as f64 * pairs as f64;
            recorder.dispatch(&KERNEL.spec, &lanes(recorder), &params, &regions, grid, cost)
        }
    }
}

/// [`Pulled`] in host memory.
#[derive(Clone, Copy)]
pub struct Anchors<'a, T> {
    pub value: &'a [T],
    pub state: &'a [T],
    pub pulls: &'a [T],
}

impl<T: Real> Anchors<'_, T> {
    /// The pull of an anchor on a candidate of its image with the similarity s.
    fn pull(&self, params: &PositivesParams, anchor: usize, candidate: usize, s: T) -> T {
        let state = &self.state[4 * anchor..];
        let share = match params.aggregate {
            _ if !params.counts(s, self.value[anchor]) => return T::zero(),
            Aggregate::Hardest if state[2] == T::of(candidate as f64) => T::one(),
            Aggregate::Hardest => T::zero(),
            Aggregate::Mean => T::one() / state[1],
            Aggregate::LogSum | Aggregate::Circle => {
                params.factor(s) * (params.exponent(s) - state[2]).exp() / state[3]
            }
        };
        self.pulls[2 * anchor] * share
    }
}

impl<'a> Pulled<'a> {
    fn on_host(&self) -> Result<Anchors<'a, f32>> {
        Ok(Anchors { value: self.value.host()?, state: self.state.host()?, pulls: self.pulls.host()? })
    }
}

/// [`positive_field`] as a plain loop over images `first..` of `pairs`.
pub fn reference<T: Real>(
    field: &mut [T],
    (first, pairs): (usize, usize),
    ids: &[u32],
    [it, ti]: [Anchors<T>; 2],
    params: &PositivesParams,
) {
    field.par_chunks_exact_mut(padded(pairs)).enumerate().for_each(|(row, field)| {
        let i = row + first;
        for (j, s) in field[..pairs].iter_mut().enumerate() {
            *s = match ids[i] == ids[j] && !is_left_out(*s) {
                true => -(it.pull(params, i, j, *s) + ti.pull(params, j, i, *s)),
                false => T::zero(),
            };
        }
    });
}

fn check(lab: &mut Lab) -> Result<()> {
    for params in PositivesParams::tested() {
        let m = mined(lab, &directions()[0])?;
        let mut field = lab.pair(m.similarity.host.clone())?;
        let [it, ti] = directions().map(|block| -> Result<_> {
            let (mut state, mut p, mut lowest) = (vec![0.0; 4 * N], vec![0.0; N], vec![0.0; N]);
            let (s, from) = (&m.similarity.host[..], (&m.ids.host[..], &m.value.host[..]));
            positives::reference(&block, s, from, &params, (&mut state, [&mut p, &mut lowest]));
            Ok((lab.pair(state)?, lab.vector(2 * N)?))
        });
        let ((state_it, pull_it), (state_ti, pull_ti)) = (it?, ti?);
        let pulled = |state, pulls| Pulled { value: m.value.get(), state, pulls };
        let from = [pulled(state_it.get(), pull_it.get()), pulled(state_ti.get(), pull_ti.get())];
        lab.run(|commands| positive_field(commands, field.mat_mut(N, N), 0, m.ids.get(), from, &params))?;
        let mut expected = m.similarity.wide();
        let wide = [m.value.wide(), state_it.wide(), pull_it.wide(), state_ti.wide(), pull_ti.wide()];
        let [value, state_it, pull_it, state_ti, pull_ti] = &wide;
        let it = Anchors { value, state: state_it, pulls: pull_it };
        let ti = Anchors { value, state: state_ti, pulls: pull_ti };
        reference(&mut expected, (0, N), &m.ids.host, [it, ti], &params);
        lab.compare(&field, &expected)?;
    }
    Ok(())
}
