//! Batch norm per column with relu, and its backward pass (docs/math.md, "Batch norm").

use super::lab::Lab;
use super::lab_local::{COLS, REPEATS, ROWS};
use super::{Access, Kernel, KernelSpec, Real, lanes};
use crate::Result;
use crate::device::{Commands, Mat, MatMut, Slice, SliceMut, clock, padded};

pub(super) static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "batch_norm",
        source: include_str!("../../shaders/batch_norm.wgsl"),
        params: Params::MEMBERS,
        bindings: &[Access::Read, Access::Read, Access::ReadWrite, Access::ReadWrite, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 1e-5,
    check,
    mutation: ["squared / max(count - 1.0, 1.0)", "squared / count"],
};

pub(super) static BACKWARD: Kernel = Kernel {
    spec: KernelSpec {
        name: "batch_norm_backward",
        source: include_str!("../../shaders/batch_norm_backward.wgsl"),
        params: BackwardParams::MEMBERS,
        bindings: &[
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
    tolerance: 1e-5,
    check: check_backward,
    mutation: ["select(1.0, params.repeats, last)", "1.0"],
};

const EPSILON: f32 = 1e-5;
/// Momentum of the running statistics.
const MOMENTUM: f32 = 0.1;

params!(rows: u32, stride4: u32, repeats: f32, training: u32, momentum: f32, epsilon: f32);
params!(BackwardParams { rows: u32, stride4: u32, repeats: f32 });

/// y = relu(scale n + shift), where n is `x [rows, cols]` normalised per column. The other operands are `[2, cols]`:
/// `affine` is scale and shift, `running` is the running mean and variance, `stats` is the mean and 1/deviation that
/// were used.
///
/// The last row of `x` stands for the padding and counts `repeats` times, which may be 0. The running statistics are
/// updated only in `training`.
pub fn batch_norm(
    commands: &mut Commands,
    x: Mat,
    repeats: usize,
    training: bool,
    affine: Slice<f32>,
    [mut running, mut stats]: [SliceMut<f32>; 2],
    mut y: MatMut,
) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("batch_norm");
            let out = [running.host()?, stats.host()?, y.data.host()?];
            reference(x.data.host()?, x.cols, repeats, training, affine.host()?, out);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let params = Params {
                rows: x.rows as u32,
                stride4: x.stride() as u32 / 4,
                repeats: repeats as f32,
                training: training.into(),
                momentum: if training { MOMENTUM } else { 0.0 },
                epsilon: EPSILON,
            };
            let regions =
                [x.data.region()?, affine.region()?, running.region()?, stats.region()?, y.data.region()?];
            let cost = 10.0 * (x.rows * x.stride()) as f64;
            recorder.dispatch(&KERNEL.spec, &lanes(recorder), &params, &regions, [x.stride() / 4, 1, 1], cost)
        }
    }
}

/// The inputs of [`batch_norm_backward`].
#[derive(Clone, Copy)]
pub struct NormGradient<'a> {
    /// Input and output of [`batch_norm`].
    pub x: Mat<'a>,
    pub y: Mat<'a>,
    /// Gradient at y. Its last row counts as zero.
    pub dy: Mat<'a>,
    pub stats: Slice<'a, f32>,
    pub affine: Slice<'a, f32>,
    pub repeats: usize,
}

/// Overwrites `dx [rows, cols]` and `d_affine [2, cols]` with the gradients. The last row of `dx` is the sum over its
/// repeats.
pub fn batch_norm_backward(
    commands: &mut Commands,
    from: NormGradient,
    mut dx: MatMut,
    mut d_affine: SliceMut<f32>,
) -> Result<()> {
    let NormGradient { x, y, dy, stats, affine, repeats } = from;
    match commands {
        Commands::Cpu => {
            let _clock = clock("batch_norm_backward");
            let read = [x.data.host()?, y.data.host()?, dy.data.host()?];
            let out = [dx.data.host()?, d_affine.host()?];
            backward_reference(read, x.cols, repeats, stats.host()?, affine.host()?, out);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let params = BackwardParams {
                rows: x.rows as u32,
                stride4: x.stride() as u32 / 4,
                repeats: repeats as f32,
            };
            let regions = [
                x.data.region()?,
                y.data.region()?,
                dy.data.region()?,
                stats.region()?,
                affine.region()?,
                dx.data.region()?,
                d_affine.region()?,
            ];
            let cost = 15.0 * (x.rows * x.stride()) as f64;
            recorder.dispatch(
                &BACKWARD.spec,
                &lanes(recorder),
                &params,
                &regions,
                [x.stride() / 4, 1, 1],
                cost,
            )
        }
    }
}

/// How many times a row counts.
fn weight<T: Real>(row: usize, rows: usize, repeats: usize) -> T {
    if row + 1 == rows { T::of(repeats as f64) } else { T::one() }
}

/// [`batch_norm`] as plain loops.
pub fn reference<T: Real>(
    x: &[T],
    cols: usize,
    repeats: usize,
    training: bool,
    affine: &[T],
    [running, stats, y]: [&mut [T]; 3],
) {
    let stride = padded(cols);
    let rows = x.len() / stride;
    let count = T::of((rows - 1 + repeats) as f64);
    let (mut mean, mut squares) = (vec![T::zero(); stride], vec![T::zero(); stride]);
    for (i, x) in x.chunks_exact(stride).enumerate() {
        let weight = weight::<T>(i, rows, repeats);
        mean.iter_mut().zip(x).for_each(|(mean, &x)| *mean += weight * x);
    }
    mean.iter_mut().for_each(|mean| *mean /= count);
    for (i, x) in x.chunks_exact(stride).enumerate() {
        let weight = weight::<T>(i, rows, repeats);
        squares
            .iter_mut()
            .zip(x.iter().zip(&mean))
            .for_each(|(s, (&x, &m))| *s += weight * (x - m) * (x - m));
    }
    let (running_mean, running_variance) = running.split_at_mut(stride);
    let (used_mean, inverse) = stats.split_at_mut(stride);
    for k in 0..stride {
        let (m, variance) =
            if training { (mean[k], squares[k] / count) } else { (running_mean[k], running_variance[k]) };
        (used_mean[k], inverse[k]) = (m, T::one() / (variance + T::of(EPSILON.into())).sqrt());
        if training {
            let unbiased = squares[k] / (count - T::one()).max(T::one());
            running_mean[k] += T::of(MOMENTUM.into()) * (mean[k] - running_mean[k]);
            running_variance[k] += T::of(MOMENTUM.into()) * (unbiased - running_variance[k]);
        }
    }
    let (scale, shift) = affine.split_at(stride);
    for (y, x) in y.chunks_exact_mut(stride).zip(x.chunks_exact(stride)) {
        for k in 0..stride {
            y[k] = (scale[k] * ((x[k] - used_mean[k]) * inverse[k]) + shift[k]).max(T::zero());
        }
    }
}

/// [`batch_norm_backward`] as plain loops.
pub fn backward_reference<T: Real>(
    [x, y, dy]: [&[T]; 3],
    cols: usize,
    repeats: usize,
    stats: &[T],
    affine: &[T],
    [dx, d_affine]: [&mut [T]; 2],
) {
    let stride = padded(cols);
    let rows = x.len() / stride;
    let count = T::of((rows - 1 + repeats) as f64);
    let (mean, inverse) = stats.split_at(stride);
    let (d_scale, d_shift) = d_affine.split_at_mut(stride);
    d_scale.fill(T::zero());
    d_shift.fill(T::zero());
    let row = |i: usize| [x, y, dy].map(|values| &values[i * stride..][..stride]);
    let normal = |x: &[T], k: usize| (x[k] - mean[k]) * inverse[k];
    for i in 0..rows - 1 {
        let [x, y, dy] = row(i);
        for k in (0..stride).filter(|&k| y[k] > T::zero()) {
            d_shift[k] += dy[k];
            d_scale[k] += dy[k] * normal(x, k);
        }
    }
    for (i, dx) in dx.chunks_exact_mut(stride).enumerate() {
        let ([x, y, dy], weight) = (row(i), weight::<T>(i, rows, repeats));
        for k in 0..stride {
            let g = if i + 1 < rows && y[k] > T::zero() { dy[k] } else { T::zero() };
            let spread = (d_shift[k] + normal(x, k) * d_scale[k]) / count;
            dx[k] = affine[k] * inverse[k] * (g - spread) * weight;
        }
    }
}

fn check(lab: &mut Lab) -> Result<()> {
    let (x, affine) = (lab.matrix(ROWS, COLS)?, lab.matrix(2, COLS)?);
    for training in [true, false] {
        let running = lab.matrix(2, COLS)?.host.iter().map(|x| x.abs()).collect();
        let mut running = lab.pair(running)?;
        let (mut stats, mut y) = (lab.poison(2 * padded(COLS))?, lab.poison(x.host.len())?);
        let (mut r, mut s, mut expected) = (running.wide(), stats.wide(), y.wide());
        lab.run(|commands| {
            let statistics = [running.get_mut(), stats.get_mut()];
            let (x, y) = (x.mat(ROWS, COLS), y.mat_mut(ROWS, COLS));
            batch_norm(commands, x, REPEATS, training, affine.get(), statistics, y)
        })?;
        let out = [&mut r[..], &mut s, &mut expected];
        reference(&x.wide(), COLS, REPEATS, training, &affine.wide(), out);
        lab.compare(&running, &r)?;
        lab.compare(&stats, &s)?;
        lab.compare(&y, &expected)?;
    }
    Ok(())
}

fn check_backward(lab: &mut Lab) -> Result<()> {
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
        batch_norm_backward(commands, from, dx.mat_mut(ROWS, COLS), d_affine.get_mut())
    })?;
    let (mut d, mut a) = (dx.wide(), d_affine.wide());
    let read = [&x.wide()[..], &y.wide(), &dy.wide()];
    backward_reference(read, COLS, REPEATS, &stats.wide(), &affine.wide(), [&mut d, &mut a]);
    lab.compare(&dx, &d)?;
    lab.compare(&d_affine, &a)
}
