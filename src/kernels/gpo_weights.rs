//! The weights of the generalised pooling operator, and their backward pass (docs/math.md, "Generalised pooling").

use super::gpo::Items;
use super::gru::Chains;
use super::gru::chains;
use super::lab::Lab;
use super::lab_local::{HIDDEN, LENGTH_BUCKETS, LONGEST, ROWS, SLOTS, STATES, small};
use super::{Access, Kernel, KernelSpec, Ragged, Real, lanes};
use crate::Result;
use crate::device::{Commands, Mat, MatMut, Slice, clock, padded};

pub(super) static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "gpo_weights",
        source: include_str!("../../shaders/gpo_weights.wgsl"),
        params: Params::MEMBERS,
        bindings: &[Access::Read, Access::Read, Access::Read, Access::ReadWrite, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 5e-5,
    check,
    mutation: ["0.5 * both", "0.499 * both"],
};

pub(super) static BACKWARD: Kernel = Kernel {
    spec: KernelSpec {
        name: "gpo_weights_backward",
        source: include_str!("../../shaders/gpo_weights_backward.wgsl"),
        params: BackwardParams::MEMBERS,
        bindings: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::Read, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 1e-5,
    check: check_backward,
    mutation: ["- along)", "- 0.999 * along)"],
};

/// Inverse of the softmax temperature, 0.1.
const SHARPNESS: f32 = 10.0;

params!(slots: u32, stride4: u32, sharpness: f32);
params!(BackwardParams { slots: u32, items: u32, sharpness: f32 });

/// Overwrites `theta [count, slots]` with the weights for each chain's length, and `mean [count slots, hidden]` with
/// the mean of both directions' states. The inputs are `v [hidden]` and the GRU's `states [(1 + count) slots, hidden]`.
/// Both outputs are zero past a chain's length.
pub fn gpo_weights(
    commands: &mut Commands,
    chains: Chains,
    states: Mat,
    v: Slice<f32>,
    mut mean: MatMut,
    mut theta: MatMut,
) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("gpo_weights");
            let out = (mean.data.host()?, theta.data.host()?);
            reference(
                chains.lengths.host()?,
                chains.longest,
                states.data.host()?,
                v.host()?,
                states.cols,
                out,
            );
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let params = Params {
                slots: chains.slots() as u32,
                stride4: states.stride() as u32 / 4,
                sharpness: SHARPNESS,
            };
            let regions = [
                states.data.region()?,
                v.region()?,
                chains.lengths.region()?,
                mean.data.region()?,
                theta.data.region()?,
            ];
            let cost = (4 * chains.rows() * states.stride()) as f64;
            recorder.dispatch(&KERNEL.spec, &lanes(recorder), &params, &regions, [chains.count, 1, 1], cost)
        }
    }
}

/// Overwrites `d_scores [count, slots]` with the gradient of the scores, from the items' `parts [rows]` of the gradient
/// at theta. It is zero past a chain's length.
pub fn gpo_weights_backward(
    commands: &mut Commands,
    chains: Chains,
    items: Ragged,
    parts: Slice<f32>,
    theta: Mat,
    mut d_scores: MatMut,
) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("gpo_weights_backward");
            let ragged = (items.offsets.host()?, items.length_bucket.host()?);
            let lengths = (chains.lengths.host()?, chains.longest);
            backward_reference(lengths, ragged, parts.host()?, theta.data.host()?, d_scores.data.host()?);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let params = BackwardParams {
                slots: chains.slots() as u32,
                items: items.count as u32,
                sharpness: SHARPNESS,
            };
            let regions = [
                parts.region()?,
                items.offsets.region()?,
                items.length_bucket.region()?,
                chains.lengths.region()?,
                theta.data.region()?,
                d_scores.data.region()?,
            ];
            let cost = (chains.count * chains.slots() * (items.count + 4)) as f64;
            recorder.dispatch(&BACKWARD.spec, &lanes(recorder), &params, &regions, [chains.count, 1, 1], cost)
        }
    }
}

/// [`gpo_weights`] as plain loops.
pub fn reference<T: Real>(
    lengths: &[u32],
    longest: usize,
    states: &[T],
    v: &[T],
    hidden: usize,
    (mean, theta): (&mut [T], &mut [T]),
) {
    let (slots, stride) = (padded(longest), padded(hidden));
    mean.fill(T::zero());
    theta.fill(T::zero());
    let (forward, backward) = states.split_at(slots * stride);
    for (c, &length) in lengths.iter().enumerate() {
        let theta = &mut theta[c * slots..][..length as usize];
        for (t, score) in theta.iter_mut().enumerate() {
            let at = (c * slots + t) * stride;
            let mean = &mut mean[at..][..hidden];
            for j in 0..hidden {
                mean[j] = T::of(0.5) * (forward[t * stride + j] + backward[at + j]);
                *score += v[j] * mean[j];
            }
            *score *= T::of(SHARPNESS.into());
        }
        let top = theta.iter().fold(T::min_value(), |top, &s| top.max(s));
        theta.iter_mut().for_each(|s| *s = (*s - top).exp());
        let total = theta.iter().fold(T::zero(), |total, &e| total + e);
        theta.iter_mut().for_each(|e| *e /= total);
    }
}

/// [`gpo_weights_backward`] as plain loops.
pub fn backward_reference<T: Real>(
    (lengths, longest): (&[u32], usize),
    (offsets, length_bucket): (&[u32], &[u32]),
    parts: &[T],
    theta: &[T],
    d_scores: &mut [T],
) {
    let slots = padded(longest);
    d_scores.fill(T::zero());
    for (item, &length_bucket) in offsets.windows(2).zip(length_bucket) {
        let ds = &mut d_scores[length_bucket as usize * slots..];
        let parts = &parts[item[0] as usize..item[1] as usize];
        ds.iter_mut().zip(parts).for_each(|(ds, &part)| *ds += part);
    }
    for (c, &length) in lengths.iter().enumerate() {
        let (theta, ds) = (&theta[c * slots..][..length as usize], &mut d_scores[c * slots..]);
        let along = theta.iter().zip(&*ds).fold(T::zero(), |along, (&w, &d)| along + w * d);
        ds.iter_mut().zip(theta).for_each(|(ds, &w)| *ds = T::of(SHARPNESS.into()) * w * (*ds - along));
    }
}

fn check(lab: &mut Lab) -> Result<()> {
    let lengths = lab.pair(LENGTH_BUCKETS.to_vec())?;
    let (states, v) = (lab.matrix(STATES, HIDDEN)?, small(lab, 1, HIDDEN)?);
    let rows = LENGTH_BUCKETS.len() * SLOTS;
    let (mut mean, mut theta) = (lab.poison(rows * padded(HIDDEN))?, lab.poison(rows)?);
    lab.run(|commands| {
        let (mean, theta) = (mean.mat_mut(rows, HIDDEN), theta.mat_mut(LENGTH_BUCKETS.len(), SLOTS));
        gpo_weights(commands, chains(&lengths), states.mat(STATES, HIDDEN), v.get(), mean, theta)
    })?;
    let (mut m, mut t) = (mean.wide(), theta.wide());
    reference(&LENGTH_BUCKETS, LONGEST, &states.wide(), &v.wide(), HIDDEN, (&mut m, &mut t));
    lab.compare(&mean, &m)?;
    lab.compare(&theta, &t)
}

fn check_backward(lab: &mut Lab) -> Result<()> {
    let (items, lengths, parts) = (Items::new(lab)?, lab.pair(LENGTH_BUCKETS.to_vec())?, lab.vector(ROWS)?);
    let mut ds = lab.poison(LENGTH_BUCKETS.len() * SLOTS)?;
    lab.run(|commands| {
        let (chains, ds) = (chains(&lengths), ds.mat_mut(LENGTH_BUCKETS.len(), SLOTS));
        gpo_weights_backward(commands, chains, items.ragged(), parts.get(), items.theta(), ds)
    })?;
    let mut expected = ds.wide();
    let theta = items.theta.wide();
    backward_reference((&LENGTH_BUCKETS, LONGEST), items.host(), &parts.wide(), &theta, &mut expected);
    lab.compare(&ds, &expected)
}
