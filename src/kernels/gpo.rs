//! The generalised pooling operator (docs/math.md, "Generalised pooling") over the items of a batch, with its backward
//! passes.
//!
//! The file is long because it holds four kernels over the same items, each with its reference and its check.

use super::lab::{Lab, Pair};
use super::lab_local::{COLS, LENGTH_BUCKETS, LENGTHS, LONGEST, ROWS, SLOTS};
use super::{Access, Kernel, KernelSpec, Real, chunks, lanes};
use crate::Result;
use crate::device::{Commands, Mat, MatMut, Slice, SliceMut, clock, padded};
use rayon::prelude::*;

pub(super) static ORDER: Kernel = Kernel {
    spec: KernelSpec {
        name: "gpo_order",
        source: include_str!("../../shaders/gpo_order.wgsl"),
        params: OrderParams::MEMBERS,
        bindings: &[Access::Read, Access::Read, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 0.0,
    check: check_order,
    mutation: [">= f", "> f"],
};

pub(super) static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "gpo",
        source: include_str!("../../shaders/gpo.wgsl"),
        params: Params::MEMBERS,
        bindings: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::Read, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 1e-5,
    check,
    mutation: ["sum += theta", "sum += 1.001 * theta"],
};

pub(super) static BACKWARD: Kernel = Kernel {
    spec: KernelSpec {
        name: "gpo_backward",
        source: include_str!("../../shaders/gpo_backward.wgsl"),
        params: Params::MEMBERS,
        bindings: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::Read, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 1e-6,
    check: check_backward,
    mutation: ["params.slots + t]", "params.slots]"],
};

pub(super) static DOTS: Kernel = Kernel {
    spec: KernelSpec {
        name: "gpo_dots",
        source: include_str!("../../shaders/gpo_dots.wgsl"),
        params: DotsParams::MEMBERS,
        bindings: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 1e-5,
    check: check_dots,
    mutation: ["d < width", "d + 1u < width"],
};

params!(OrderParams { stride4: u32, item_offset: u32 });
params!(stride4: u32, slots: u32);
params!(DotsParams { stride4: u32 });

/// Items of different lengths, stored one after the other.
#[derive(Clone, Copy)]
pub struct Ragged<'a> {
    /// `[count + 1]`: item i owns the rows `offsets[i]..offsets[i + 1]`. There is at least one.
    pub offsets: Slice<'a, u32>,
    /// `[count]`: the row of theta that belongs to the item's length.
    pub length_bucket: Slice<'a, u32>,
    pub count: usize,
    /// Rows of the longest item.
    pub longest: usize,
}

/// Overwrites `order [rows, cols]`. For each column, the t-th row of an item gets the row of the item's t-th largest
/// value, counted from the item's first row. Of equal values, the lower row comes first.
pub fn gpo_order(
    commands: &mut Commands,
    items: Ragged,
    features: Mat,
    mut order: SliceMut<u32>,
) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("gpo_order");
            order_reference(items.offsets.host()?, features.data.host()?, features.cols, order.host()?);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let regions = [features.data.region()?, items.offsets.region()?, order.region()?];
            // Every value is compared with all values of its item and column. A dispatch takes as many items as a
            // submission should hold.
            let cost = features.stride() as f64 * (items.longest as f64 * (2.0 * items.longest as f64 + 8.0));
            let step = ((recorder.budget / cost) as usize).clamp(1, 65_535);
            for item in chunks(items.count, step) {
                let params =
                    OrderParams { stride4: features.stride() as u32 / 4, item_offset: item.start as u32 };
                let columns = (features.stride() / 4).div_ceil(recorder.lanes as usize);
                let grid = [columns, items.longest, item.len()];
                let cost = item.len() as f64 * cost;
                recorder.dispatch(&ORDER.spec, &lanes(recorder), &params, &regions, grid, cost)?;
            }
            Ok(())
        }
    }
}

/// Overwrites `pooled [count, cols]` with the pooled `features [rows, cols]`: sums in the order of [`gpo_order`],
/// weighted by `theta`.
pub fn gpo(
    commands: &mut Commands,
    items: Ragged,
    features: Mat,
    order: Slice<u32>,
    theta: Mat,
    mut pooled: MatMut,
) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("gpo");
            let ragged = (items.offsets.host()?, items.length_bucket.host()?);
            let theta = (theta.data.host()?, theta.cols);
            reference(
                ragged,
                features.data.host()?,
                features.cols,
                order.host()?,
                theta,
                pooled.data.host()?,
            );
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let params = Params { stride4: features.stride() as u32 / 4, slots: theta.stride() as u32 };
            let regions = [
                features.data.region()?,
                order.region()?,
                items.offsets.region()?,
                items.length_bucket.region()?,
                theta.data.region()?,
                pooled.data.region()?,
            ];
            let grid = [(features.stride() / 4).div_ceil(recorder.lanes as usize), items.count, 1];
            let cost = 4.0 * (features.rows * features.stride()) as f64;
            recorder.dispatch(&KERNEL.spec, &lanes(recorder), &params, &regions, grid, cost)
        }
    }
}

/// Overwrites `d_features [rows, cols]` with the gradient at the features. `g [count, cols]` is the gradient at the
/// pooled rows.
pub fn gpo_backward(
    commands: &mut Commands,
    items: Ragged,
    g: Mat,
    order: Slice<u32>,
    theta: Mat,
    mut d_features: MatMut,
) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("gpo_backward");
            let ragged = (items.offsets.host()?, items.length_bucket.host()?);
            let theta = (theta.data.host()?, theta.cols);
            backward_reference(ragged, g.data.host()?, g.cols, order.host()?, theta, d_features.data.host()?);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let params = Params { stride4: g.stride() as u32 / 4, slots: theta.stride() as u32 };
            let regions = [
                g.data.region()?,
                order.region()?,
                items.offsets.region()?,
                items.length_bucket.region()?,
                theta.data.region()?,
                d_features.data.region()?,
            ];
            let grid = [(g.stride() / 4).div_ceil(recorder.lanes as usize), items.count, 1];
            let cost = 4.0 * (d_features.rows * g.stride()) as f64;
            recorder.dispatch(&BACKWARD.spec, &lanes(recorder), &params, &regions, grid, cost)
        }
    }
}

/// Overwrites `parts [rows]` with every item's part of the gradient at theta. The t-th row of an item gets the sum over
/// the dimensions of g times the t-th largest value.
pub fn gpo_dots(
    commands: &mut Commands,
    items: Ragged,
    g: Mat,
    features: Mat,
    order: Slice<u32>,
    mut parts: SliceMut<f32>,
) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("gpo_dots");
            let offsets = items.offsets.host()?;
            let order = order.host()?;
            dots_reference(offsets, g.data.host()?, features.data.host()?, g.cols, order, parts.host()?);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let params = DotsParams { stride4: g.stride() as u32 / 4 };
            let regions = [
                g.data.region()?,
                features.data.region()?,
                order.region()?,
                items.offsets.region()?,
                parts.region()?,
            ];
            let grid = [items.longest, items.count, 1];
            let cost = 4.0 * (features.rows * g.stride()) as f64;
            recorder.dispatch(&DOTS.spec, &lanes(recorder), &params, &regions, grid, cost)
        }
    }
}

/// [`gpo_order`] as a stable sort of every column, items in parallel.
pub fn order_reference<T: Real>(offsets: &[u32], features: &[T], cols: usize, order: &mut [u32]) {
    let stride = padded(cols);
    let items = rows_of(offsets, order, stride).enumerate();
    items.for_each(|(i, order)| {
        let features = &features[offsets[i] as usize * stride..][..order.len()];
        let mut column: Vec<(T, u32)> = Vec::new();
        for d in 0..stride {
            column.clear();
            column.extend(features[d..].iter().step_by(stride).zip(0..).map(|(&f, k)| (f, k)));
            column.sort_by(|a, b| b.0.partial_cmp(&a.0).unwrap_or(std::cmp::Ordering::Equal));
            column.iter().enumerate().for_each(|(t, &(_, k))| order[t * stride + d] = k);
        }
    });
}

/// [`gpo`] as plain loops, items in parallel; `theta` is (values, columns).
pub fn reference<T: Real>(
    (offsets, length_bucket): (&[u32], &[u32]),
    features: &[T],
    cols: usize,
    order: &[u32],
    (theta, lengths): (&[T], usize),
    pooled: &mut [T],
) {
    let (stride, slots) = (padded(cols), padded(lengths));
    pooled.par_chunks_exact_mut(stride).enumerate().for_each(|(i, pooled)| {
        let rows = offsets[i] as usize * stride..offsets[i + 1] as usize * stride;
        let (features, order) = (&features[rows.clone()], &order[rows]);
        pooled.fill(T::zero());
        for (order, &w) in order.chunks_exact(stride).zip(&theta[length_bucket[i] as usize * slots..]) {
            for (d, (x, &k)) in pooled.iter_mut().zip(order).enumerate() {
                *x += w * features[k as usize * stride + d];
            }
        }
    });
}

/// [`gpo_backward`] as plain loops, items in parallel.
pub fn backward_reference<T: Real>(
    (offsets, length_bucket): (&[u32], &[u32]),
    g: &[T],
    cols: usize,
    order: &[u32],
    (theta, lengths): (&[T], usize),
    d_features: &mut [T],
) {
    let (stride, slots) = (padded(cols), padded(lengths));
    let items = g.par_chunks_exact(stride).zip(rows_of(offsets, d_features, stride)).enumerate();
    items.for_each(|(i, (g, df))| {
        let order = &order[offsets[i] as usize * stride..][..df.len()];
        for (order, &w) in order.chunks_exact(stride).zip(&theta[length_bucket[i] as usize * slots..]) {
            for (d, (&k, &g)) in order.iter().zip(g).enumerate() {
                df[k as usize * stride + d] = w * g;
            }
        }
    });
}

/// [`gpo_dots`] as plain loops, items in parallel.
pub fn dots_reference<T: Real>(
    offsets: &[u32],
    g: &[T],
    features: &[T],
    cols: usize,
    order: &[u32],
    parts: &mut [T],
) {
    let stride = padded(cols);
    let items = g.par_chunks_exact(stride).zip(rows_of(offsets, parts, 1)).enumerate();
    items.for_each(|(i, (g, parts))| {
        let first = offsets[i] as usize * stride;
        for (t, part) in parts.iter_mut().enumerate() {
            let order = &order[first + t * stride..][..stride];
            let value = |d: usize| features[first + order[d] as usize * stride + d];
            *part = (0..stride).fold(T::zero(), |sum, d| sum + g[d] * value(d));
        }
    });
}

/// Splits `values` into the rows of each item.
fn rows_of<'a, T: Send>(
    offsets: &[u32],
    mut values: &'a mut [T],
    stride: usize,
) -> rayon::vec::IntoIter<&'a mut [T]> {
    let mut items = Vec::with_capacity(offsets.len());
    for item in offsets.windows(2) {
        let (rows, rest) = values.split_at_mut((item[1] - item[0]) as usize * stride);
        items.push(rows);
        values = rest;
    }
    items.into_par_iter()
}

/// Test data: the items of a batch, weights per length bucket, and an arbitrary order of the rows.
pub(crate) struct Items {
    pub offsets: Pair<u32>,
    pub length_bucket: Pair<u32>,
    pub theta: Pair<f32>,
    pub order: Pair<u32>,
}

impl Items {
    pub fn new(lab: &mut Lab) -> Result<Self> {
        let (mut offsets, mut order) = (vec![0], Vec::new());
        for length in LENGTHS {
            let rows = 0..length * padded(COLS) as u32;
            order.extend(rows.map(|at| (at / padded(COLS) as u32 + at % padded(COLS) as u32) % length));
            offsets.push(offsets[offsets.len() - 1] + length);
        }
        let length_bucket = LENGTHS
            .iter()
            .map(|length| LENGTH_BUCKETS.partition_point(|length_bucket| length_bucket < length) as u32)
            .collect();
        let mut theta: Vec<f32> = lab.numbers(LENGTH_BUCKETS.len() * SLOTS).iter().map(|x| 1.5 + x).collect();
        for (theta, length) in theta.chunks_exact_mut(SLOTS).zip(LENGTH_BUCKETS) {
            theta.iter_mut().for_each(|w| *w /= length as f32);
            theta[length as usize..].fill(0.0);
        }
        let (offsets, length_bucket) = (lab.pair(offsets)?, lab.pair(length_bucket)?);
        Ok(Self { offsets, length_bucket, theta: lab.pair(theta)?, order: lab.pair(order)? })
    }

    pub fn ragged(&self) -> Ragged<'_> {
        let (offsets, length_bucket) = (self.offsets.get(), self.length_bucket.get());
        Ragged { offsets, length_bucket, count: LENGTHS.len(), longest: LONGEST }
    }

    pub fn host(&self) -> (&[u32], &[u32]) {
        (&self.offsets.host, &self.length_bucket.host)
    }

    pub fn theta(&self) -> Mat<'_> {
        self.theta.mat(LENGTH_BUCKETS.len(), SLOTS)
    }
}

fn check_order(lab: &mut Lab) -> Result<()> {
    let items = Items::new(lab)?;
    // Coarse values, so that many are equal.
    let features = lab.matrix(ROWS, COLS)?.host.iter().map(|f| (4.0 * f).round()).collect();
    let features = lab.pair(features)?;
    let mut order = lab.poison_indices(features.host.len())?;
    lab.run(|commands| gpo_order(commands, items.ragged(), features.mat(ROWS, COLS), order.get_mut()))?;
    let mut expected = order.host.clone();
    order_reference(&items.offsets.host, &features.wide(), COLS, &mut expected);
    lab.compare_indices(&order, &expected)
}

fn check(lab: &mut Lab) -> Result<()> {
    let (items, features) = (Items::new(lab)?, lab.matrix(ROWS, COLS)?);
    let mut pooled = lab.poison(LENGTHS.len() * padded(COLS))?;
    lab.run(|commands| {
        let (f, pooled) = (features.mat(ROWS, COLS), pooled.mat_mut(LENGTHS.len(), COLS));
        gpo(commands, items.ragged(), f, items.order.get(), items.theta(), pooled)
    })?;
    let mut expected = pooled.wide();
    let theta = (&items.theta.wide()[..], SLOTS);
    reference(items.host(), &features.wide(), COLS, &items.order.host, theta, &mut expected);
    lab.compare(&pooled, &expected)
}

fn check_backward(lab: &mut Lab) -> Result<()> {
    let (items, g) = (Items::new(lab)?, lab.matrix(LENGTHS.len(), COLS)?);
    let mut df = lab.poison(ROWS * padded(COLS))?;
    lab.run(|commands| {
        let (g, df) = (g.mat(LENGTHS.len(), COLS), df.mat_mut(ROWS, COLS));
        gpo_backward(commands, items.ragged(), g, items.order.get(), items.theta(), df)
    })?;
    let mut expected = df.wide();
    let theta = (&items.theta.wide()[..], SLOTS);
    backward_reference(items.host(), &g.wide(), COLS, &items.order.host, theta, &mut expected);
    lab.compare(&df, &expected)
}

fn check_dots(lab: &mut Lab) -> Result<()> {
    let (items, g) = (Items::new(lab)?, lab.matrix(LENGTHS.len(), COLS)?);
    let features = lab.matrix(ROWS, COLS)?;
    let mut parts = lab.poison(ROWS)?;
    lab.run(|commands| {
        let (g, f) = (g.mat(LENGTHS.len(), COLS), features.mat(ROWS, COLS));
        gpo_dots(commands, items.ragged(), g, f, items.order.get(), parts.get_mut())
    })?;
    let (mut expected, order) = (parts.wide(), &items.order.host);
    dots_reference(&items.offsets.host, &g.wide(), &features.wide(), COLS, order, &mut expected);
    lab.compare(&parts, &expected)
}
