//! L2 normalisation of rows and its backward (goal-math.md section 7).

use super::{Access, KernelSpec, Real, by_rows, dot, vectorized};
use crate::Result;
use crate::device::{Commands, Mat, MatMut, Slice, SliceMut, clock, padded};
use rayon::prelude::*;

pub(super) static SPEC: KernelSpec = KernelSpec {
    name: "l2norm",
    source: include_str!("../../shaders/l2norm.wgsl"),
    params: Params::MEMBERS,
    bindings: &[Access::Read, Access::ReadWrite, Access::ReadWrite],
    workgroup: [64, 1, 1],
};

pub(super) static BACKWARD_SPEC: KernelSpec = KernelSpec {
    name: "l2norm_backward",
    source: include_str!("../../shaders/l2norm_backward.wgsl"),
    params: Params::MEMBERS,
    bindings: &[Access::Read, Access::Read, Access::Read, Access::ReadWrite],
    workgroup: [64, 1, 1],
};

/// epsilon of x = z / (|z| + epsilon), as in the VSE-infinity code.
const EPSILON: f32 = 1e-8;

params!(rows: u32, stride4: u32, epsilon: f32);

impl Params {
    fn of(rows: usize, stride: usize) -> Self {
        Self { rows: rows as u32, stride4: stride as u32 / 4, epsilon: EPSILON }
    }
}

/// x = z / (|z| + 1e-8) by rows, `norms` = |z|; a zero row stays zero.
pub fn l2norm(commands: &mut Commands, z: Mat, mut x: MatMut, mut norms: SliceMut<f32>) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("l2norm");
            reference(z.data.host()?, z.cols, x.data.host()?, norms.host()?);
        }
        Commands::Gpu(recorder) => {
            let stride = z.stride();
            let regions = [(z.data.region()?, stride), (x.data.region()?, stride), (norms.region()?, 1)];
            by_rows(recorder, &SPEC, z.rows, &regions, 3 * z.cols, |rows| Params::of(rows, stride))?;
        }
    }
    Ok(())
}

/// dz from the gradient `g` at x: g / (|z| + 1e-8) - x (x.g) / |z|; zero where the row is zero. Overwrites.
pub fn l2norm_backward(
    commands: &mut Commands,
    g: Mat,
    x: Mat,
    norms: Slice<f32>,
    mut dz: MatMut,
) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("l2norm_backward");
            backward_reference(g.data.host()?, x.data.host()?, norms.host()?, g.cols, dz.data.host()?)
        }
        Commands::Gpu(recorder) => {
            let stride = g.stride();
            let regions = [
                (g.data.region()?, stride),
                (x.data.region()?, stride),
                (norms.region()?, 1),
                (dz.data.region()?, stride),
            ];
            by_rows(recorder, &BACKWARD_SPEC, g.rows, &regions, 5 * g.cols, |rows| Params::of(rows, stride))?;
        }
    }
    Ok(())
}

/// [`l2norm`] as a plain loop over padded rows of `cols` columns.
pub fn reference<T: Real>(z: &[T], cols: usize, x: &mut [T], norms: &mut [T]) {
    let stride = padded(cols);
    let rows = z.par_chunks_exact(stride).zip(x.par_chunks_exact_mut(stride)).zip(norms);
    rows.with_min_len(16).for_each(|((z, x), norm)| {
        *norm = vectorized(
            #[inline(always)]
            || {
                let r = dot(z, z).sqrt();
                let scale = T::one() / (r + T::of(EPSILON.into()));
                x.iter_mut().zip(z).for_each(|(x, &z)| *x = z * scale);
                r
            },
        );
    });
}

/// [`l2norm_backward`] as a plain loop.
pub fn backward_reference<T: Real>(g: &[T], x: &[T], norms: &[T], cols: usize, dz: &mut [T]) {
    let stride = padded(cols);
    let rows = g.par_chunks_exact(stride).zip(x.par_chunks_exact(stride)).zip(norms);
    rows.zip(dz.par_chunks_exact_mut(stride)).with_min_len(16).for_each(|(((g, x), &r), dz)| {
        if r <= T::zero() {
            return dz.fill(T::zero());
        }
        vectorized(
            #[inline(always)]
            || {
                let along = dot(x, g) / r;
                let scale = T::one() / (r + T::of(EPSILON.into()));
                dz.iter_mut().zip(g.iter().zip(x)).for_each(|(dz, (&g, &x))| *dz = g * scale - x * along);
            },
        );
    });
}
