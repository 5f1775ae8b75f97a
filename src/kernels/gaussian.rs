//! The Gaussian kernel from its exponents, and its backward pass (docs/math.md, "Landmarks").

use super::lab::{D, Lab, N};
use super::{Access, Kernel, KernelSpec, Real, by_rows, vectorized};
use crate::Result;
use crate::device::{Commands, Mat, MatMut, clock, padded};
use rayon::prelude::*;

pub(super) static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "gaussian",
        source: include_str!("../../shaders/gaussian.wgsl"),
        params: Params::MEMBERS,
        bindings: &[Access::Read, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    // WGSL's exp is right to 3 + 2 |t| units in the last place, here of numbers below 1.
    tolerance: 1e-6,
    check,
    mutation: ["vec4f(0.0)));", "vec4f(1.0)));"],
};

pub(super) static BACKWARD: Kernel = Kernel {
    spec: KernelSpec {
        name: "gaussian_backward",
        source: include_str!("../../shaders/gaussian_backward.wgsl"),
        params: Params::MEMBERS,
        bindings: &[Access::Read, Access::Read, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 1e-6,
    check: check_backward,
    mutation: ["z[start + k] * g[start + k]", "g[start + k]"],
};

params!(rows: u32, cols: u32, stride4: u32);

impl Params {
    fn of(rows: usize, cols: usize) -> Self {
        Self { rows: rows as u32, cols: cols as u32, stride4: padded(cols) as u32 / 4 }
    }
}

/// z = exp(min(t, 0)), element by element.
pub fn gaussian(commands: &mut Commands, t: Mat, mut z: MatMut) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("gaussian");
            reference(t.data.host()?, t.cols, z.data.host()?);
        }
        Commands::Gpu(recorder) => {
            let stride = t.stride();
            let regions = [(t.data.region()?, stride), (z.data.region()?, stride)];
            by_rows(recorder, &KERNEL.spec, t.rows, &regions, 10 * t.cols, |rows| Params::of(rows, t.cols))?;
        }
    }
    Ok(())
}

/// Overwrites dt with z g, where `z` is [`gaussian`] of t and `g` is the gradient at z.
pub fn gaussian_backward(commands: &mut Commands, z: Mat, g: Mat, mut dt: MatMut) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("gaussian_backward");
            backward_reference(z.data.host()?, g.data.host()?, z.cols, dt.data.host()?);
        }
        Commands::Gpu(recorder) => {
            let stride = z.stride();
            let regions =
                [(z.data.region()?, stride), (g.data.region()?, stride), (dt.data.region()?, stride)];
            let params = |rows| Params::of(rows, z.cols);
            by_rows(recorder, &BACKWARD.spec, z.rows, &regions, 2 * z.cols, params)?;
        }
    }
    Ok(())
}

/// [`gaussian`] as a plain loop over padded rows of `cols` columns.
pub fn reference<T: Real>(t: &[T], cols: usize, z: &mut [T]) {
    let stride = padded(cols);
    let rows = t.par_chunks_exact(stride).zip(z.par_chunks_exact_mut(stride));
    rows.with_min_len(8).for_each(|(t, z)| {
        vectorized(
            #[inline(always)]
            || z[..cols].iter_mut().zip(t).for_each(|(z, &t)| *z = t.min(T::zero()).power_of_e()),
        );
        z[cols..].fill(T::zero());
    });
}

/// [`gaussian_backward`] as a plain loop.
pub fn backward_reference<T: Real>(z: &[T], g: &[T], cols: usize, dt: &mut [T]) {
    let stride = padded(cols);
    let rows = z.par_chunks_exact(stride).zip(g.par_chunks_exact(stride));
    rows.zip(dt.par_chunks_exact_mut(stride)).with_min_len(8).for_each(|((z, g), dt)| {
        for ((dt, &z), &g) in dt[..cols].iter_mut().zip(z).zip(g) {
            *dt = z * g;
        }
        dt[cols..].fill(T::zero());
    });
}

/// Exponents from -9 to 0.1.
fn exponents(lab: &mut Lab) -> Result<super::lab::Pair<f32>> {
    let numbers: Vec<f32> = lab.numbers(N * padded(D)).iter().map(|x| 4.55 * x - 4.45).collect();
    lab.pair(numbers)
}

fn check(lab: &mut Lab) -> Result<()> {
    let t = exponents(lab)?;
    let mut z = lab.poison(t.host.len())?;
    lab.run(|commands| gaussian(commands, t.mat(N, D), z.mat_mut(N, D)))?;
    let mut expected = z.wide();
    reference(&t.wide(), D, &mut expected);
    lab.compare(&z, &expected)
}

fn check_backward(lab: &mut Lab) -> Result<()> {
    let (z, g) = (lab.matrix(N, D)?, lab.matrix(N, D)?);
    let mut dt = lab.poison(g.host.len())?;
    lab.run(|commands| gaussian_backward(commands, z.mat(N, D), g.mat(N, D), dt.mat_mut(N, D)))?;
    let mut expected = dt.wide();
    backward_reference(&z.wide(), &g.wide(), D, &mut expected);
    lab.compare(&dt, &expected)
}
