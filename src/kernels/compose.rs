//! Composition of the gradient from coefficients and mined indices (goal-math.md section 5).

use super::{Access, KernelSpec, Real, lanes, stretches};
use crate::Result;
use crate::device::{Commands, Mat, MatMut, Slice, clock, padded};
use rayon::prelude::*;
use std::ops::Range;

pub(super) static SPEC: KernelSpec = KernelSpec {
    name: "compose",
    source: include_str!("../../shaders/compose.wgsl"),
    params: Params::MEMBERS,
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::Read, Access::ReadWrite],
    workgroup: [64, 1, 1],
};

params!(stride4: u32, accumulate: u32, row_offset: u32, y_offset: u32, y_rows: u32);

/// Coefficients `[pairs, 2]` and mined indices `[pairs]` of both directions, `own` being the one whose anchors receive
/// the gradient.
#[derive(Clone, Copy)]
pub struct Composition<'a> {
    pub own: Slice<'a, f32>,
    pub own_index: Slice<'a, u32>,
    pub other: Slice<'a, f32>,
    pub other_index: Slice<'a, u32>,
    /// Add to dx instead of overwriting it.
    pub accumulate: bool,
}

/// dx = A Y by rows, where `y [pairs, cols]` holds the other side's embeddings.
pub fn compose(commands: &mut Commands, y: Mat, from: Composition, mut dx: MatMut) -> Result<()> {
    let Composition { own, own_index, other, other_index, accumulate } = from;
    match commands {
        Commands::Cpu => {
            let _clock = clock("compose");
            let own = (own.host()?, own_index.host()?);
            let other = (other.host()?, other_index.host()?);
            twin(y.data.host()?, y.cols, own, other, accumulate, dx.data.host()?);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let stride = y.stride();
            let held = recorder.rows_per_binding(stride);
            // Every row walks all pairs: rows are dispatched by as many as a submission should hold.
            let cost = stride as f64 / 4.0 * (2.0 * y.rows.min(held) as f64 + 16.0);
            let step = ((recorder.budget / cost) as usize / 64 * 64).clamp(64, held);
            let part = |of: &Range<usize>| of.start * stride..of.end * stride;
            for rows in stretches(y.rows, step) {
                for from in stretches(y.rows, held) {
                    let params = Params {
                        stride4: stride as u32 / 4,
                        accumulate: (accumulate || from.start > 0).into(),
                        row_offset: rows.start as u32,
                        y_offset: from.start as u32,
                        y_rows: from.len() as u32,
                    };
                    let regions = [
                        y.data.region()?.part(part(&from)),
                        own.region()?,
                        own_index.region()?,
                        other.region()?,
                        other_index.region()?,
                        dx.data.region()?.part(part(&rows)),
                    ];
                    let grid = [(stride / 4).div_ceil(recorder.lanes as usize), rows.len(), 1];
                    let cost = rows.len() as f64 * cost;
                    recorder.dispatch(&SPEC, &lanes(recorder), &params, &regions, grid, cost)?;
                }
            }
            Ok(())
        }
    }
}

/// [`compose`] as a plain loop; `own` and `other` are (coefficients, indices).
pub fn twin<T: Real>(
    y: &[T],
    cols: usize,
    (own, own_index): (&[T], &[u32]),
    (other, other_index): (&[T], &[u32]),
    accumulate: bool,
    dx: &mut [T],
) {
    let stride = padded(cols);
    let pairs = y.len() / stride;
    let row = |i: usize| &y[i * stride..][..stride];
    dx.par_chunks_exact_mut(stride).enumerate().with_min_len(16).for_each(|(i, dx)| {
        if !accumulate {
            dx.fill(T::zero());
        }
        let mut add = |weight: T, y: &[T]| dx.iter_mut().zip(y).for_each(|(d, &y)| *d += weight * y);
        add(-(own[2 * i] + other[2 * i]), row(i));
        add(own[2 * i + 1], row(own_index[i] as usize));
        for j in (0..pairs).filter(|&j| other_index[j] as usize == i) {
            add(other[2 * j + 1], row(j));
        }
    });
}
