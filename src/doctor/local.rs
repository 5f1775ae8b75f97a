//! The checks of the kernels of local features: generalised pooling and batch norm.

use super::{Lab, Pair};
use crate::Result;
use crate::device::padded;
use crate::kernels;
use crate::kernels::*;

/// Lengths of the items of a batch, and those that occur.
const LENGTHS: [u32; 7] = [5, 23, 1, 5, 12, 23, 2];
const KINDS: [u32; 5] = [1, 2, 5, 12, 23];
const LONGEST: usize = 23;
const SLOTS: usize = 24;
/// Rows of the items, and columns of their features.
const ROWS: usize = 71;
const COLS: usize = 37;
/// Units of the GRU, and rows of its chains.
const HIDDEN: usize = 13;
const STATES: usize = (1 + KINDS.len()) * SLOTS;

/// As [`super::kernels::CHECKS`].
pub(super) const CHECKS: &[(&str, f64, fn(&mut Lab) -> Result<()>)] = &[
    ("gru", 2e-5, gru),
    ("gru_backward", 2e-5, gru_backward),
    ("gpo_weights", 5e-5, gpo_weights),
    ("gpo_weights_backward", 1e-5, gpo_weights_backward),
    ("gpo_order", 0.0, gpo_order),
    ("gpo", 1e-5, gpo),
    ("gpo_backward", 1e-6, gpo_backward),
    ("gpo_dots", 1e-5, gpo_dots),
    ("batch_norm", 1e-5, batch_norm),
    ("batch_norm_backward", 1e-5, batch_norm_backward),
];

/// Numbers of a size at which a GRU forgets.
fn small(lab: &mut Lab, rows: usize, cols: usize) -> Result<Pair<f32>> {
    let values = lab.matrix(rows, cols)?.host.iter().map(|x| 0.3 * x).collect();
    lab.pair(values)
}

fn chains(lengths: &Pair<u32>) -> Chains<'_> {
    Chains { lengths: lengths.get(), count: KINDS.len(), longest: LONGEST }
}

fn gru(lab: &mut Lab) -> Result<()> {
    let lengths = lab.pair(KINDS.to_vec())?;
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
        kernels::gru(commands, chains(&lengths), projected.mat(SLOTS, 6 * HIDDEN), weights, trace)
    })?;
    let (mut s, mut p, mut g) = (states.wide(), previous.wide(), gates.wide());
    let weights = (&weight.wide()[..], &bias.wide()[..]);
    reference::gru(&KINDS, LONGEST, &projected.wide(), weights, HIDDEN, [&mut s, &mut p, &mut g]);
    lab.compare(&states, &s)?;
    lab.compare(&previous, &p)?;
    lab.compare(&gates, &g)
}

fn gru_backward(lab: &mut Lab) -> Result<()> {
    let lengths = lab.pair(KINDS.to_vec())?;
    let mut ds = lab.numbers(KINDS.len() * SLOTS);
    for (ds, length) in ds.chunks_exact_mut(SLOTS).zip(KINDS) {
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
            d_scores: ds.mat(KINDS.len(), SLOTS),
            v: v.get(),
            weight: weight.mat(6 * HIDDEN, HIDDEN),
            previous: previous.mat(STATES, HIDDEN),
            gates: gates.mat(STATES, 4 * HIDDEN),
        };
        let (d_input, d_hidden) = (d_input.mat_mut(STATES, 6 * HIDDEN), d_hidden.mat_mut(STATES, 6 * HIDDEN));
        kernels::gru_backward(commands, chains(&lengths), from, d_input, d_hidden)
    })?;
    let (mut i, mut h) = (d_input.wide(), d_hidden.wide());
    let (parameters, trace) =
        ((&v.wide()[..], &weight.wide()[..]), (&previous.wide()[..], &gates.wide()[..]));
    reference::gru_backward((&KINDS, LONGEST), &ds.wide(), parameters, HIDDEN, trace, [&mut i, &mut h]);
    lab.compare(&d_input, &i)?;
    lab.compare(&d_hidden, &h)
}

fn gpo_weights(lab: &mut Lab) -> Result<()> {
    let lengths = lab.pair(KINDS.to_vec())?;
    let (states, v) = (lab.matrix(STATES, HIDDEN)?, small(lab, 1, HIDDEN)?);
    let rows = KINDS.len() * SLOTS;
    let (mut mean, mut theta) = (lab.poison(rows * padded(HIDDEN))?, lab.poison(rows)?);
    lab.run(|commands| {
        let (mean, theta) = (mean.mat_mut(rows, HIDDEN), theta.mat_mut(KINDS.len(), SLOTS));
        kernels::gpo_weights(commands, chains(&lengths), states.mat(STATES, HIDDEN), v.get(), mean, theta)
    })?;
    let (mut m, mut t) = (mean.wide(), theta.wide());
    reference::gpo_weights(&KINDS, LONGEST, &states.wide(), &v.wide(), HIDDEN, (&mut m, &mut t));
    lab.compare(&mean, &m)?;
    lab.compare(&theta, &t)
}

/// The items of a batch, weights for each length, and any order of their rows.
struct Items {
    offsets: Pair<u32>,
    kind: Pair<u32>,
    theta: Pair<f32>,
    order: Pair<u32>,
}

impl Items {
    fn new(lab: &mut Lab) -> Result<Self> {
        let (mut offsets, mut order) = (vec![0], Vec::new());
        for length in LENGTHS {
            let rows = 0..length * padded(COLS) as u32;
            order.extend(rows.map(|at| (at / padded(COLS) as u32 + at % padded(COLS) as u32) % length));
            offsets.push(offsets[offsets.len() - 1] + length);
        }
        let kind = LENGTHS.iter().map(|length| KINDS.partition_point(|kind| kind < length) as u32).collect();
        let mut theta: Vec<f32> = lab.numbers(KINDS.len() * SLOTS).iter().map(|x| 1.5 + x).collect();
        for (theta, length) in theta.chunks_exact_mut(SLOTS).zip(KINDS) {
            theta.iter_mut().for_each(|w| *w /= length as f32);
            theta[length as usize..].fill(0.0);
        }
        let (offsets, kind) = (lab.pair(offsets)?, lab.pair(kind)?);
        Ok(Self { offsets, kind, theta: lab.pair(theta)?, order: lab.pair(order)? })
    }

    fn ragged(&self) -> Ragged<'_> {
        let (offsets, kind) = (self.offsets.get(), self.kind.get());
        Ragged { offsets, kind, count: LENGTHS.len(), longest: LONGEST }
    }

    fn host(&self) -> (&[u32], &[u32]) {
        (&self.offsets.host, &self.kind.host)
    }

    fn theta(&self) -> crate::device::Mat<'_> {
        self.theta.mat(KINDS.len(), SLOTS)
    }
}

fn gpo_weights_backward(lab: &mut Lab) -> Result<()> {
    let (items, lengths, parts) = (Items::new(lab)?, lab.pair(KINDS.to_vec())?, lab.vector(ROWS)?);
    let mut ds = lab.poison(KINDS.len() * SLOTS)?;
    lab.run(|commands| {
        let (chains, ds) = (chains(&lengths), ds.mat_mut(KINDS.len(), SLOTS));
        kernels::gpo_weights_backward(commands, chains, items.ragged(), parts.get(), items.theta(), ds)
    })?;
    let mut expected = ds.wide();
    let theta = items.theta.wide();
    reference::gpo_weights_backward((&KINDS, LONGEST), items.host(), &parts.wide(), &theta, &mut expected);
    lab.compare(&ds, &expected)
}

fn gpo_order(lab: &mut Lab) -> Result<()> {
    let items = Items::new(lab)?;
    // Coarse, so that ties abound.
    let features = lab.matrix(ROWS, COLS)?.host.iter().map(|f| (4.0 * f).round()).collect();
    let features = lab.pair(features)?;
    let mut order = lab.poison_indices(features.host.len())?;
    lab.run(|commands| {
        kernels::gpo_order(commands, items.ragged(), features.mat(ROWS, COLS), order.get_mut())
    })?;
    let mut expected = order.host.clone();
    reference::gpo_order(&items.offsets.host, &features.wide(), COLS, &mut expected);
    lab.compare_indices(&order, &expected)
}

fn gpo(lab: &mut Lab) -> Result<()> {
    let (items, features) = (Items::new(lab)?, lab.matrix(ROWS, COLS)?);
    let mut pooled = lab.poison(LENGTHS.len() * padded(COLS))?;
    lab.run(|commands| {
        let (f, pooled) = (features.mat(ROWS, COLS), pooled.mat_mut(LENGTHS.len(), COLS));
        kernels::gpo(commands, items.ragged(), f, items.order.get(), items.theta(), pooled)
    })?;
    let mut expected = pooled.wide();
    let theta = (&items.theta.wide()[..], SLOTS);
    reference::gpo(items.host(), &features.wide(), COLS, &items.order.host, theta, &mut expected);
    lab.compare(&pooled, &expected)
}

fn gpo_backward(lab: &mut Lab) -> Result<()> {
    let (items, g) = (Items::new(lab)?, lab.matrix(LENGTHS.len(), COLS)?);
    let mut df = lab.poison(ROWS * padded(COLS))?;
    lab.run(|commands| {
        let (g, df) = (g.mat(LENGTHS.len(), COLS), df.mat_mut(ROWS, COLS));
        kernels::gpo_backward(commands, items.ragged(), g, items.order.get(), items.theta(), df)
    })?;
    let mut expected = df.wide();
    let theta = (&items.theta.wide()[..], SLOTS);
    reference::gpo_backward(items.host(), &g.wide(), COLS, &items.order.host, theta, &mut expected);
    lab.compare(&df, &expected)
}

fn gpo_dots(lab: &mut Lab) -> Result<()> {
    let (items, g) = (Items::new(lab)?, lab.matrix(LENGTHS.len(), COLS)?);
    let features = lab.matrix(ROWS, COLS)?;
    let mut parts = lab.poison(ROWS)?;
    lab.run(|commands| {
        let (g, f) = (g.mat(LENGTHS.len(), COLS), features.mat(ROWS, COLS));
        kernels::gpo_dots(commands, items.ragged(), g, f, items.order.get(), parts.get_mut())
    })?;
    let (mut expected, order) = (parts.wide(), &items.order.host);
    reference::gpo_dots(&items.offsets.host, &g.wide(), &features.wide(), COLS, order, &mut expected);
    lab.compare(&parts, &expected)
}

/// Rows of padding that the last stands for.
const REPEATS: usize = 9;

fn batch_norm(lab: &mut Lab) -> Result<()> {
    let (x, affine) = (lab.matrix(ROWS, COLS)?, lab.matrix(2, COLS)?);
    for training in [true, false] {
        let running = lab.matrix(2, COLS)?.host.iter().map(|x| x.abs()).collect();
        let mut running = lab.pair(running)?;
        let (mut stats, mut y) = (lab.poison(2 * padded(COLS))?, lab.poison(x.host.len())?);
        let (mut r, mut s, mut expected) = (running.wide(), stats.wide(), y.wide());
        lab.run(|commands| {
            let statistics = [running.get_mut(), stats.get_mut()];
            let (x, y) = (x.mat(ROWS, COLS), y.mat_mut(ROWS, COLS));
            kernels::batch_norm(commands, x, REPEATS, training, affine.get(), statistics, y)
        })?;
        let out = [&mut r[..], &mut s, &mut expected];
        reference::batch_norm(&x.wide(), COLS, REPEATS, training, &affine.wide(), out);
        lab.compare(&running, &r)?;
        lab.compare(&stats, &s)?;
        lab.compare(&y, &expected)?;
    }
    Ok(())
}

fn batch_norm_backward(lab: &mut Lab) -> Result<()> {
    let [x, y, dy] = [(); 3].map(|()| lab.matrix(ROWS, COLS));
    let (x, y, dy, affine) = (x?, y?, dy?, lab.matrix(2, COLS)?);
    let stats = lab.matrix(2, COLS)?.host.iter().map(|x| 1.5 + x).collect();
    let stats = lab.pair(stats)?;
    let (mut dx, mut d_affine) = (lab.poison(x.host.len())?, lab.poison(2 * padded(COLS))?);
    lab.run(|commands| {
        let from = NormGradient {
            x: x.mat(ROWS, COLS),
            y: y.mat(ROWS, COLS),
            dy: dy.mat(ROWS, COLS),
            stats: stats.get(),
            affine: affine.get(),
            repeats: REPEATS,
        };
        kernels::batch_norm_backward(commands, from, dx.mat_mut(ROWS, COLS), d_affine.get_mut())
    })?;
    let (mut d, mut a) = (dx.wide(), d_affine.wide());
    let read = [&x.wide()[..], &y.wide(), &dy.wide()];
    reference::batch_norm_backward(read, COLS, REPEATS, &stats.wide(), &affine.wide(), [&mut d, &mut a]);
    lab.compare(&dx, &d)?;
    lab.compare(&d_affine, &a)
}
