//! Composes the gradient from coefficients and mined indices (docs/math.md, "Assembled gradient").

use super::lab::{D, Lab, N};
use super::{Access, Kernel, KernelSpec, Real, chunks, lanes, mined_keys, vectorized};
use crate::Result;
use crate::device::{Commands, Mat, MatMut, Slice, clock, padded};
use rayon::prelude::*;
use std::ops::Range;

pub(super) static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "compose",
        source: include_str!("../../shaders/compose.wgsl"),
        params: Params::MEMBERS,
        bindings: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::Read, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 1e-5,
    check,
    mutation: ["other[j].y * y", "0.999 * other[j].y * y"],
};

params!(stride4: u32, accumulate: u32, row_offset: u32, y_offset: u32, y_rows: u32, pairs: u32, keys: u32, positive: u32);

/// Inputs of [`compose`]. `own` and `other` are the coefficients `[pairs, 2]` of the two directions; the anchors of
/// `own` receive the gradient. `own_index [pairs]` is the row that each of them mined. `other_keys` says which anchors
/// of the other direction mined which row, in the order of `mined_order`.
#[derive(Clone, Copy)]
pub struct Composition<'a> {
    pub own: Slice<'a, f32>,
    pub own_index: Slice<'a, u32>,
    pub other: Slice<'a, f32>,
    pub other_keys: Slice<'a, u32>,
    /// Whether the own pair is the positive. Otherwise the coefficients of the positive are not used.
    pub positive: bool,
    /// Add to dx instead of overwriting it.
    pub accumulate: bool,
}

/// dx = A Y, row by row. `y [rows, cols]` holds the rows `y_offset..` of the other side's embeddings, and dx gets only
/// their part of the sum. Rows below number `dx.rows` are those of the batch. Later rows are those of a memory bank:
/// they are mined, but are not anchors.
pub fn compose(
    commands: &mut Commands,
    (y, y_offset): (Mat, usize),
    from: Composition,
    mut dx: MatMut,
) -> Result<()> {
    let Composition { own, own_index, other, other_keys, positive, accumulate } = from;
    match commands {
        Commands::Cpu => {
            let _clock = clock("compose");
            let own = (own.host()?, own_index.host()?);
            let other = (other.host()?, other_keys.host()?);
            let pairs = dx.rows;
            let dx = &mut dx.data.host()?[..pairs * y.stride()];
            let y_rows = &y.data.host()?[..y.rows * y.stride()];
            reference((y_rows, y_offset), y.cols, own, other, [positive, accumulate], dx);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let stride = y.stride();
            let held = recorder.rows_per_binding(stride);
            // A row of dx gathers three rows of Y on average, after a search. A row that all anchors mined costs more
            // than this.
            let cost = stride as f64 / 4.0 * 60.0;
            let step = ((recorder.budget / cost) as usize / 64 * 64).clamp(64, held);
            let part = |of: &Range<usize>| of.start * stride..of.end * stride;
            for rows in chunks(dx.rows, step) {
                for from in chunks(y.rows, held) {
                    let params = Params {
                        stride4: stride as u32 / 4,
                        accumulate: (accumulate || from.start > 0).into(),
                        row_offset: rows.start as u32,
                        y_offset: (y_offset + from.start) as u32,
                        y_rows: from.len() as u32,
                        pairs: dx.rows as u32,
                        keys: mined_keys(dx.rows) as u32,
                        positive: positive.into(),
                    };
                    let regions = [
                        y.data.region()?.part(part(&from)),
                        own.region()?,
                        own_index.region()?,
                        other.region()?,
                        other_keys.region()?,
                        dx.data.region()?.part(part(&rows)),
                    ];
                    // On a software adapter, the search for a row's anchors costs more than the rest, so one workgroup
                    // per row makes it once.
                    let groups = (stride / 4).div_ceil(recorder.lanes as usize);
                    let grid = [if recorder.lanes < 64 { 1 } else { groups }, rows.len(), 1];
                    let cost = rows.len() as f64 * cost;
                    recorder.dispatch(&KERNEL.spec, &lanes(recorder), &params, &regions, grid, cost)?;
                }
            }
            Ok(())
        }
    }
}

/// [`compose`] as a plain loop. `own` is (coefficients, indices), `other` is (coefficients, keys), and `y` comes with
/// the number of its first row.
pub fn reference<T: Real>(
    (y, y_offset): (&[T], usize),
    cols: usize,
    (own, own_index): (&[T], &[u32]),
    (other, other_keys): (&[T], &[u32]),
    [positive, accumulate]: [bool; 2],
    dx: &mut [T],
) {
    let stride = padded(cols);
    let pairs = dx.len() / stride;
    let row = |i: usize| i.checked_sub(y_offset).and_then(|i| y.get(i * stride..(i + 1) * stride));
    dx.par_chunks_exact_mut(stride).enumerate().with_min_len(16).for_each(|(i, dx)| {
        if !accumulate {
            dx.fill(T::zero());
        }
        let mut add = |weight: T, y: Option<&[T]>| {
            vectorized(
                #[inline(always)]
                || dx.iter_mut().zip(y.unwrap_or_default()).for_each(|(d, &y)| *d += weight * y),
            );
        };
        if positive {
            add(-(own[2 * i] + other[2 * i]), row(i));
        }
        add(own[2 * i + 1], row(own_index[i] as usize));
        let wanted = (i * pairs) as u32;
        let mined = &other_keys[other_keys.partition_point(|&key| key < wanted)..];
        for j in mined.iter().map(|key| (key - wanted) as usize).take_while(|&j| j < pairs) {
            add(other[2 * j + 1], row(j));
        }
    });
}

fn check(lab: &mut Lab) -> Result<()> {
    let y = lab.matrix(N, D)?;
    let (own, other) = (lab.vector(2 * N)?, lab.vector(2 * N)?);
    let (own_index, other_index) = (lab.indices(N, N as u32)?, lab.indices(N, 20)?);
    let mut keys = vec![0; mined_keys(N)];
    super::mined_order::reference(&other_index.host, &mut keys);
    let other_keys = lab.pair(keys)?;
    for positive in [true, false] {
        let mut dx = lab.poison(y.host.len())?;
        let from = Composition {
            own: own.get(),
            own_index: own_index.get(),
            other: other.get(),
            other_keys: other_keys.get(),
            positive,
            accumulate: false,
        };
        lab.run(|commands| compose(commands, (y.mat(N, D), 0), from, dx.mat_mut(N, D)))?;
        let mut expected = dx.wide();
        let (wide_own, wide_other) = (own.wide(), other.wide());
        let (own, other) = ((&wide_own[..], &own_index.host[..]), (&wide_other[..], &other_keys.host[..]));
        reference((&y.wide(), 0), D, own, other, [positive, false], &mut expected);
        lab.compare(&dx, &expected)?;
    }
    Ok(())
}
