//! Composition of the gradient from coefficients and mined indices (goal-math.md section 5).

use super::{Access, KernelSpec, Real, lanes};
use crate::Result;
use crate::device::{Commands, Mat, MatMut, Slice, padded};
use rayon::prelude::*;

pub(super) static SPEC: KernelSpec = KernelSpec {
    name: "compose",
    source: include_str!("../../shaders/compose.wgsl"),
    params: Params::MEMBERS,
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::Read, Access::ReadWrite],
    workgroup: [64, 1, 1],
};

params!(pairs: u32, stride4: u32, accumulate: u32, row_offset: u32);

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
            let own = (own.host()?, own_index.host()?);
            let other = (other.host()?, other_index.host()?);
            twin(y.data.host()?, y.cols, own, other, accumulate, dx.data.host()?);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let regions = [
                y.data.region()?,
                own.region()?,
                own_index.region()?,
                other.region()?,
                other_index.region()?,
                dx.data.region()?,
            ];
            // Every row walks all pairs: rows are dispatched by as many as a submission should hold.
            let cost = y.stride() as f64 / 4.0 * (2.0 * y.rows as f64 + 16.0);
            let step = ((recorder.budget / cost) as usize).clamp(1, 65_535);
            for first in (0..y.rows).step_by(step) {
                let rows = step.min(y.rows - first);
                let params = Params {
                    pairs: y.rows as u32,
                    stride4: y.stride() as u32 / 4,
                    accumulate: accumulate.into(),
                    row_offset: first as u32,
                };
                let grid = [(y.stride() / 4).div_ceil(recorder.lanes as usize), rows, 1];
                recorder.dispatch(&SPEC, &lanes(recorder), &params, &regions, grid, rows as f64 * cost)?;
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
