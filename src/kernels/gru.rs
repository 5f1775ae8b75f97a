//! The bidirectional GRU of the generalised pooling operator, and its backward pass (docs/math.md, "GRU").

use super::lab::{Lab, Pair};
use super::lab_local::{HIDDEN, LENGTH_BUCKETS, LONGEST, SLOTS, STATES, small};
use super::{Access, Kernel, KernelSpec, Real, sigma};
use crate::Result;
use crate::device::Recorder;
use crate::device::{Commands, Mat, MatMut, Slice, clock, padded};
use rayon::prelude::*;

pub(super) static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "gru",
        source: include_str!("../../shaders/gru.wgsl"),
        params: Params::MEMBERS,
        bindings: &[
            Access::Read,
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
    mutation: ["after = (1.0 - z) * c", "after = (1.0 - z) * r"],
};

pub(super) static BACKWARD: Kernel = Kernel {
    spec: KernelSpec {
        name: "gru_backward",
        source: include_str!("../../shaders/gru_backward.wgsl"),
        params: Params::MEMBERS,
        bindings: &[
            Access::Read,
            Access::Read,
            Access::Read,
            Access::Read,
            Access::Read,
            Access::Read,
            Access::ReadWrite,
            Access::ReadWrite,
        ],
        workgroup: [64, 1, 1],
    },
    tolerance: 2e-5,
    check: check_backward,
    mutation: ["sum = g * z", "sum = 0.999 * g * z"],
};

/// Largest number of units per direction. Each unit takes a lane, and every adapter grants this many lanes.
pub const GRU_UNITS: usize = 256;

params!(hidden: u32, slots: u32, longest: u32, chains: u32, hidden_stride: u32, projected_stride: u32);

impl Params {
    fn of(chains: &Chains, hidden: usize) -> Self {
        Self {
            hidden: hidden as u32,
            slots: chains.slots() as u32,
            longest: chains.longest as u32,
            chains: 1 + chains.count as u32,
            hidden_stride: padded(hidden) as u32,
            projected_stride: padded(6 * hidden) as u32,
        }
    }
}

/// One lane per unit, on software adapters too.
fn lanes(recorder: &Recorder, hidden: usize) -> [(&'static str, String); 1] {
    let units = padded(hidden).next_power_of_two().max(recorder.lanes as usize);
    [("LANES", format!("{units}u"))]
}

/// The chains of a GRU: one forward over `longest` positions, and one backward over each of `lengths`.
#[derive(Clone, Copy)]
pub struct Chains<'a> {
    /// `[count]`, each at least 1 and at most `longest`.
    pub lengths: Slice<'a, u32>,
    /// Number of backward chains.
    pub count: usize,
    pub longest: usize,
}

impl Chains<'_> {
    /// Rows of a chain: the positions, rounded up to whole `vec4`s.
    pub fn slots(&self) -> usize {
        padded(self.longest)
    }

    /// Rows of all chains.
    pub fn rows(&self) -> usize {
        (1 + self.count) * self.slots()
    }
}

/// The recurrent weights: `weight [6 hidden, hidden]` and `bias [6 hidden]`. Their rows are the forward r, z, c, then
/// the backward r, z, c.
#[derive(Clone, Copy)]
pub struct GruWeights<'a> {
    pub weight: Mat<'a>,
    pub bias: Slice<'a, f32>,
}

/// The outputs of [`gru`]: `states` and `previous [rows, hidden]`, `gates [rows, 4 hidden]` (r, z, c, q).
pub struct GruTrace<'a> {
    pub states: MatMut<'a>,
    pub previous: MatMut<'a>,
    pub gates: MatMut<'a>,
}

/// Runs all chains over `projected [slots, 6 hidden]`, which is W_i e + b_i of each position. Overwrites `out`; rows
/// past a chain's end are zero.
pub fn gru(
    commands: &mut Commands,
    chains: Chains,
    projected: Mat,
    weights: GruWeights,
    mut out: GruTrace,
) -> Result<()> {
    let hidden = weights.weight.cols;
    assert!(hidden <= GRU_UNITS && projected.cols == 6 * hidden && projected.rows == chains.slots());
    match commands {
        Commands::Cpu => {
            let _clock = clock("gru");
            let trace = [out.states.data.host()?, out.previous.data.host()?, out.gates.data.host()?];
            let weights = (weights.weight.data.host()?, weights.bias.host()?);
            reference(chains.lengths.host()?, chains.longest, projected.data.host()?, weights, hidden, trace);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let regions = [
                projected.data.region()?,
                weights.weight.data.region()?,
                weights.bias.region()?,
                chains.lengths.region()?,
                out.states.data.region()?,
                out.previous.data.region()?,
                out.gates.data.region()?,
            ];
            let cost = (chains.rows() * hidden) as f64 * (6.0 * hidden as f64 + 60.0);
            recorder.dispatch(
                &KERNEL.spec,
                &lanes(recorder, hidden),
                &Params::of(&chains, hidden),
                &regions,
                [1 + chains.count, 1, 1],
                cost,
            )
        }
    }
}

/// The inputs of [`gru_backward`] besides the chains.
#[derive(Clone, Copy)]
pub struct GruGradient<'a> {
    /// Gradient of the scores `[count, slots]`.
    pub d_scores: Mat<'a>,
    /// `[hidden]`
    pub v: Slice<'a, f32>,
    /// `[6 hidden, hidden]`
    pub weight: Mat<'a>,
    /// As in [`GruTrace`].
    pub previous: Mat<'a>,
    /// As in [`GruTrace`].
    pub gates: Mat<'a>,
}

/// Overwrites `d_input` and `d_hidden`, both `[rows, 6 hidden]`, with the gradients at the input side and at the
/// recurrent side of the gates. They are zero outside a chain's own direction and positions.
pub fn gru_backward(
    commands: &mut Commands,
    chains: Chains,
    from: GruGradient,
    mut d_input: MatMut,
    mut d_hidden: MatMut,
) -> Result<()> {
    let GruGradient { d_scores, v, weight, previous, gates } = from;
    let hidden = weight.cols;
    match commands {
        Commands::Cpu => {
            let _clock = clock("gru_backward");
            let trace = (previous.data.host()?, gates.data.host()?);
            let lengths = (chains.lengths.host()?, chains.longest);
            let out = [d_input.data.host()?, d_hidden.data.host()?];
            backward_reference(
                lengths,
                d_scores.data.host()?,
                (v.host()?, weight.data.host()?),
                hidden,
                trace,
                out,
            );
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let regions = [
                d_scores.data.region()?,
                v.region()?,
                weight.data.region()?,
                chains.lengths.region()?,
                previous.data.region()?,
                gates.data.region()?,
                d_input.data.region()?,
                d_hidden.data.region()?,
            ];
            let cost = (chains.rows() * hidden) as f64 * (6.0 * hidden as f64 + 60.0);
            let grid = [1 + chains.count, 1, 1];
            recorder.dispatch(
                &BACKWARD.spec,
                &lanes(recorder, hidden),
                &Params::of(&chains, hidden),
                &regions,
                grid,
                cost,
            )
        }
    }
}

/// Length of a chain, and the first row of its direction's weights.
fn of_chain(chain: usize, lengths: &[u32], longest: usize, hidden: usize) -> (usize, usize) {
    if chain == 0 { (longest, 0) } else { (lengths[chain - 1] as usize, 3 * hidden) }
}

/// [`gru`] as plain loops, chains in parallel.
pub fn reference<T: Real>(
    lengths: &[u32],
    longest: usize,
    projected: &[T],
    (weight, bias): (&[T], &[T]),
    hidden: usize,
    [states, previous, gates]: [&mut [T]; 3],
) {
    let (slots, stride, wide) = (padded(longest), padded(hidden), padded(6 * hidden));
    states.fill(T::zero());
    previous.fill(T::zero());
    gates.fill(T::zero());
    let chains =
        states.par_chunks_exact_mut(slots * stride).zip(previous.par_chunks_exact_mut(slots * stride));
    let chains = chains.zip(gates.par_chunks_exact_mut(slots * 4 * hidden)).enumerate();
    chains.for_each(|(chain, ((states, previous), gates))| {
        let (length, first) = of_chain(chain, lengths, longest, hidden);
        let mut h = vec![T::zero(); hidden];
        for step in 0..length {
            let t = if chain == 0 { step } else { length - 1 - step };
            let p = &projected[t * wide + first..];
            let recurrent = |row: usize| {
                let w = &weight[(first + row) * stride..][..hidden];
                w.iter().zip(&h).fold(bias[first + row], |sum, (&w, &h)| sum + w * h)
            };
            let (state, gates) = (&mut states[t * stride..], &mut gates[t * 4 * hidden..]);
            for j in 0..hidden {
                let r = sigma(p[j] + recurrent(j));
                let z = sigma(p[hidden + j] + recurrent(hidden + j));
                let q = recurrent(2 * hidden + j);
                let c = (p[2 * hidden + j] + r * q).tanh();
                state[j] = (T::one() - z) * c + z * h[j];
                [gates[j], gates[hidden + j], gates[2 * hidden + j], gates[3 * hidden + j]] = [r, z, c, q];
            }
            previous[t * stride..][..hidden].copy_from_slice(&h);
            h.copy_from_slice(&state[..hidden]);
        }
    });
}

/// [`gru_backward`] as plain loops, chains in parallel.
pub fn backward_reference<T: Real>(
    (lengths, longest): (&[u32], usize),
    d_scores: &[T],
    (v, weight): (&[T], &[T]),
    hidden: usize,
    (previous, gates): (&[T], &[T]),
    [d_input, d_hidden]: [&mut [T]; 2],
) {
    let (slots, stride, wide) = (padded(longest), padded(hidden), padded(6 * hidden));
    d_input.fill(T::zero());
    d_hidden.fill(T::zero());
    let chains = d_input.par_chunks_exact_mut(slots * wide).zip(d_hidden.par_chunks_exact_mut(slots * wide));
    chains.enumerate().for_each(|(chain, (d_input, d_hidden))| {
        let (length, first) = of_chain(chain, lengths, longest, hidden);
        let mut carry = vec![T::zero(); hidden];
        for step in 0..length {
            let t = if chain == 0 { length - 1 - step } else { step };
            let ds = match chain {
                0 => d_scores.chunks_exact(slots).fold(T::zero(), |sum, ds| sum + ds[t]),
                _ => d_scores[(chain - 1) * slots + t],
            };
            let (previous, gates) =
                (&previous[(chain * slots + t) * stride..], &gates[(chain * slots + t) * 4 * hidden..]);
            let d_input = &mut d_input[t * wide + first..][..3 * hidden];
            let d_hidden = &mut d_hidden[t * wide + first..][..3 * hidden];
            for j in 0..hidden {
                let [r, z, c, q] = [0, 1, 2, 3].map(|gate| gates[gate * hidden + j]);
                let g = T::of(0.5) * ds * v[j] + carry[j];
                let dc = g * (T::one() - z) * (T::one() - c * c);
                let dr = dc * q * r * (T::one() - r);
                let dz = g * (previous[j] - c) * z * (T::one() - z);
                [d_input[j], d_input[hidden + j], d_input[2 * hidden + j]] = [dr, dz, dc];
                [d_hidden[j], d_hidden[hidden + j], d_hidden[2 * hidden + j]] = [dr, dz, dc * r];
                carry[j] = g * z;
            }
            for (row, &d) in d_hidden.iter().enumerate() {
                let w = &weight[(first + row) * stride..][..hidden];
                carry.iter_mut().zip(w).for_each(|(carry, &w)| *carry += w * d);
            }
        }
    });
}

pub(crate) fn chains(lengths: &Pair<u32>) -> Chains<'_> {
    Chains { lengths: lengths.get(), count: LENGTH_BUCKETS.len(), longest: LONGEST }
}

fn check(lab: &mut Lab) -> Result<()> {
    let lengths = lab.pair(LENGTH_BUCKETS.to_vec())?;
    let (projected, weight) = (lab.matrix(SLOTS, 6 * HIDDEN)?, small(lab, 6 * HIDDEN, HIDDEN)?);
    let bias = lab.matrix(1, 6 * HIDDEN)?;
    let size = STATES * padded(HIDDEN);
    let (mut states, mut previous) = (lab.poison(size)?, lab.poison(size)?);
    let mut gates = lab.poison(STATES * 4 * HIDDEN)?;
    lab.run(|commands| {
        let weights = GruWeights { weight: weight.mat(6 * HIDDEN, HIDDEN), bias: bias.get() };
        let trace = GruTrace {
            states: states.mat_mut(STATES, HIDDEN),
            previous: previous.mat_mut(STATES, HIDDEN),
            gates: gates.mat_mut(STATES, 4 * HIDDEN),
        };
        gru(commands, chains(&lengths), projected.mat(SLOTS, 6 * HIDDEN), weights, trace)
    })?;
    let (mut s, mut p, mut g) = (states.wide(), previous.wide(), gates.wide());
    let weights = (&weight.wide()[..], &bias.wide()[..]);
    reference(&LENGTH_BUCKETS, LONGEST, &projected.wide(), weights, HIDDEN, [&mut s, &mut p, &mut g]);
    lab.compare(&states, &s)?;
    lab.compare(&previous, &p)?;
    lab.compare(&gates, &g)
}

fn check_backward(lab: &mut Lab) -> Result<()> {
    let lengths = lab.pair(LENGTH_BUCKETS.to_vec())?;
    let mut ds = lab.numbers(LENGTH_BUCKETS.len() * SLOTS);
    for (ds, length) in ds.chunks_exact_mut(SLOTS).zip(LENGTH_BUCKETS) {
        ds[length as usize..].fill(0.0);
    }
    let (ds, v, weight) = (lab.pair(ds)?, lab.matrix(1, HIDDEN)?, small(lab, 6 * HIDDEN, HIDDEN)?);
    let previous = lab.matrix(STATES, HIDDEN)?;
    let gates = lab.numbers(STATES * 4 * HIDDEN).iter().map(|x| 0.5 + 0.4 * x).collect();
    let gates = lab.pair(gates)?;
    let size = STATES * padded(6 * HIDDEN);
    let (mut d_input, mut d_hidden) = (lab.poison(size)?, lab.poison(size)?);
    lab.run(|commands| {
        let from = GruGradient {
            d_scores: ds.mat(LENGTH_BUCKETS.len(), SLOTS),
            v: v.get(),
            weight: weight.mat(6 * HIDDEN, HIDDEN),
            previous: previous.mat(STATES, HIDDEN),
            gates: gates.mat(STATES, 4 * HIDDEN),
        };
        let (d_input, d_hidden) = (d_input.mat_mut(STATES, 6 * HIDDEN), d_hidden.mat_mut(STATES, 6 * HIDDEN));
        gru_backward(commands, chains(&lengths), from, d_input, d_hidden)
    })?;
    let (mut i, mut h) = (d_input.wide(), d_hidden.wide());
    let (parameters, trace) =
        ((&v.wide()[..], &weight.wide()[..]), (&previous.wide()[..], &gates.wide()[..]));
    backward_reference((&LENGTH_BUCKETS, LONGEST), &ds.wide(), parameters, HIDDEN, trace, [&mut i, &mut h]);
    lab.compare(&d_input, &i)?;
    lab.compare(&d_hidden, &h)
}
