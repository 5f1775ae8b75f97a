//! L2 normalisation of rows, and its backward pass (docs/math.md, "L2 normalisation").

use super::lab::{D, Lab, N};
use super::{Access, Kernel, KernelSpec, Real, by_rows, dot, vectorized};
use crate::Result;
use crate::device::{Commands, Mat, MatMut, Slice, SliceMut, clock, padded};
use rayon::prelude::*;

pub(super) static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "l2norm",
        source: include_str!("../../shaders/l2norm.wgsl"),
        params: Params::MEMBERS,
        bindings: &[Access::Read, Access::ReadWrite, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 2e-6,
    check,
    mutation: ["sqrt(partial[0])", "1.0001 * sqrt(partial[0])"],
};

pub(super) static BACKWARD: Kernel = Kernel {
    spec: KernelSpec {
        name: "l2norm_backward",
        source: include_str!("../../shaders/l2norm_backward.wgsl"),
        params: Params::MEMBERS,
        bindings: &[Access::Read, Access::Read, Access::Read, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 5e-6,
    check: check_backward,
    mutation: ["if (r > 0.0)", "if (r >= 0.0)"],
};

/// epsilon of x = z / (|z| + epsilon), as in the VSE-infinity code.
const EPSILON: f32 = 1e-8;

params!(rows: u32, stride4: u32, epsilon: f32);

impl Params {
    fn of(rows: usize, stride: usize) -> Self {
        Self { rows: rows as u32, stride4: stride as u32 / 4, epsilon: EPSILON }
    }
}

/// x = z / (|z| + 1e-8) and `norms` = |z|, row by row. A zero row stays zero.
pub fn l2norm(commands: &mut Commands, z: Mat, mut x: MatMut, mut norms: SliceMut<f32>) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("l2norm");
            reference(z.data.host()?, z.cols, x.data.host()?, norms.host()?);
        }
        Commands::Gpu(recorder) => {
            let stride = z.stride();
            let regions = [(z.data.region()?, stride), (x.data.region()?, stride), (norms.region()?, 1)];
            by_rows(recorder, &KERNEL.spec, z.rows, &regions, 3 * z.cols, |rows| Params::of(rows, stride))?;
        }
    }
    Ok(())
}

/// Overwrites dz with g / (|z| + 1e-8) - x (x.g) / |z|, where `g` is the gradient at x. It is zero where the row is
/// zero.
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
            by_rows(recorder, &BACKWARD.spec, g.rows, &regions, 5 * g.cols, |rows| Params::of(rows, stride))?;
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

fn check(lab: &mut Lab) -> Result<()> {
    let z = lab.matrix(N, D)?;
    let (mut x, mut norms) = (lab.poison(z.host.len())?, lab.poison(N)?);
    lab.run(|commands| l2norm(commands, z.mat(N, D), x.mat_mut(N, D), norms.get_mut()))?;
    let (mut unit, mut lengths) = (x.wide(), norms.wide());
    reference(&z.wide(), D, &mut unit, &mut lengths);
    lab.compare(&x, &unit)?;
    lab.compare(&norms, &lengths)
}

fn check_backward(lab: &mut Lab) -> Result<()> {
    let (g, x) = (lab.matrix(N, D)?, lab.matrix(N, D)?);
    let mut lengths: Vec<f32> = lab.numbers(N).iter().map(|x| 1.5 + x).collect();
    lengths[3] = 0.0;
    let norms = lab.pair(lengths)?;
    let mut dz = lab.poison(g.host.len())?;
    lab.run(|commands| l2norm_backward(commands, g.mat(N, D), x.mat(N, D), norms.get(), dz.mat_mut(N, D)))?;
    let mut expected = dz.wide();
    backward_reference(&g.wide(), &x.wide(), &norms.wide(), D, &mut expected);
    lab.compare(&dz, &expected)
}
