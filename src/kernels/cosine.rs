//! Cosine of angles in turns, and its backward pass (docs/math.md, "Random features").

use super::lab::{D, Lab, N};
use super::{Access, Kernel, KernelSpec, Real, by_rows, vectorized};
use crate::Result;
use crate::device::{Commands, Mat, MatMut, clock, padded};
use rayon::prelude::*;

pub(super) static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "cosine",
        source: include_str!("../../shaders/cosine.wgsl"),
        params: Params::MEMBERS,
        bindings: &[Access::Read, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 1e-6,
    check,
    mutation: ["turns - round(turns)", "turns - floor(turns)"],
};

pub(super) static BACKWARD: Kernel = Kernel {
    spec: KernelSpec {
        name: "cosine_backward",
        source: include_str!("../../shaders/cosine_backward.wgsl"),
        params: Params::MEMBERS,
        bindings: &[Access::Read, Access::Read, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 1e-6,
    check: check_backward,
    mutation: ["- 0.25);", "+ 0.25);"],
};

params!(rows: u32, cols: u32, stride4: u32);

impl Params {
    fn of(rows: usize, cols: usize) -> Self {
        Self { rows: rows as u32, cols: cols as u32, stride4: padded(cols) as u32 / 4 }
    }
}

/// z = cos(2 pi t), element by element.
pub fn cosine(commands: &mut Commands, t: Mat, mut z: MatMut) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("cosine");
            reference(t.data.host()?, t.cols, z.data.host()?);
        }
        Commands::Gpu(recorder) => {
            let stride = t.stride();
            let regions = [(t.data.region()?, stride), (z.data.region()?, stride)];
            by_rows(recorder, &KERNEL.spec, t.rows, &regions, 14 * t.cols, |rows| Params::of(rows, t.cols))?;
        }
    }
    Ok(())
}

/// Overwrites dt with -2 pi sin(2 pi t) g, where `g` is the gradient at the cosines.
pub fn cosine_backward(commands: &mut Commands, t: Mat, g: Mat, mut dt: MatMut) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("cosine_backward");
            backward_reference(t.data.host()?, g.data.host()?, t.cols, dt.data.host()?);
        }
        Commands::Gpu(recorder) => {
            let stride = t.stride();
            let regions =
                [(t.data.region()?, stride), (g.data.region()?, stride), (dt.data.region()?, stride)];
            let params = |rows| Params::of(rows, t.cols);
            by_rows(recorder, &BACKWARD.spec, t.rows, &regions, 18 * t.cols, params)?;
        }
    }
    Ok(())
}

/// The cosine of an angle in turns. The polynomial is that of the shader.
#[inline(always)]
fn wave<T: Real>(turns: T) -> T {
    // floor(t + 1/2) and the shader's round differ only where t is half way. There both give |t - round(t)| = 1/2.
    let w = T::of(0.25) - (turns - (turns + T::of(0.5)).floor()).abs();
    let s = w * w;
    let sum = T::of(39.5367061) * s - T::of(76.5497823);
    let sum = (sum * s + T::of(81.6010041)) * s - T::of(41.341655);
    w * (sum * s + T::of(6.28318516))
}

/// [`cosine`] as a plain loop over padded rows of `cols` columns.
pub fn reference<T: Real>(t: &[T], cols: usize, z: &mut [T]) {
    let stride = padded(cols);
    let rows = t.par_chunks_exact(stride).zip(z.par_chunks_exact_mut(stride));
    rows.with_min_len(8).for_each(|(t, z)| {
        vectorized(
            #[inline(always)]
            || z[..cols].iter_mut().zip(t).for_each(|(z, &t)| *z = wave(t)),
        );
        z[cols..].fill(T::zero());
    });
}

/// [`cosine_backward`] as a plain loop.
pub fn backward_reference<T: Real>(t: &[T], g: &[T], cols: usize, dt: &mut [T]) {
    let stride = padded(cols);
    let rows = t.par_chunks_exact(stride).zip(g.par_chunks_exact(stride));
    rows.zip(dt.par_chunks_exact_mut(stride)).with_min_len(8).for_each(|((t, g), dt)| {
        let turn = T::of(-std::f64::consts::TAU);
        vectorized(
            #[inline(always)]
            || {
                for ((dt, &t), &g) in dt[..cols].iter_mut().zip(t).zip(g) {
                    *dt = turn * wave(t - (t + T::of(0.5)).floor() - T::of(0.25)) * g;
                }
            },
        );
        dt[cols..].fill(T::zero());
    });
}

/// Angles of up to three turns either way.
fn angles(lab: &mut Lab) -> Result<super::lab::Pair<f32>> {
    let numbers: Vec<f32> = lab.numbers(N * padded(D)).iter().map(|x| 3.0 * x).collect();
    lab.pair(numbers)
}

fn check(lab: &mut Lab) -> Result<()> {
    let t = angles(lab)?;
    let mut z = lab.poison(t.host.len())?;
    lab.run(|commands| cosine(commands, t.mat(N, D), z.mat_mut(N, D)))?;
    let mut expected = z.wide();
    reference(&t.wide(), D, &mut expected);
    lab.compare(&z, &expected)
}

fn check_backward(lab: &mut Lab) -> Result<()> {
    let (t, g) = (angles(lab)?, lab.matrix(N, D)?);
    let mut dt = lab.poison(g.host.len())?;
    lab.run(|commands| cosine_backward(commands, t.mat(N, D), g.mat(N, D), dt.mat_mut(N, D)))?;
    let mut expected = dt.wide();
    backward_reference(&t.wide(), &g.wide(), D, &mut expected);
    lab.compare(&dt, &expected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::TAU;

    /// The error of the polynomial, and in f32 a few roundings of numbers up to 2 pi.
    #[test]
    fn cosines_are_those_of_the_standard_library() {
        let turns: Vec<f32> = (0..400_000).map(|k| -5.0 + k as f32 / 40_000.0).collect();
        let exact: Vec<f64> = turns.iter().map(|&t| (TAU * f64::from(t)).cos()).collect();
        let mut single = vec![0.0f32; turns.len()];
        reference(&turns, turns.len(), &mut single);
        let wide: Vec<f64> = turns.iter().map(|&t| t.into()).collect();
        let mut double = vec![0.0; wide.len()];
        reference(&wide, wide.len(), &mut double);
        let worst = |found: &mut dyn Iterator<Item = f64>| {
            found.zip(&exact).map(|(found, exact)| (found - exact).abs()).fold(0.0, f64::max)
        };
        let errors = [worst(&mut single.iter().map(|&x| x.into())), worst(&mut double.iter().copied())];
        assert!(errors[0] < 3e-7 && errors[1] < 4e-9, "{errors:?}");
    }

    #[test]
    fn the_backward_pass_is_the_derivative() {
        let turns: Vec<f64> = (0..4000).map(|k| -5.0 + f64::from(k) / 400.0).collect();
        let g: Vec<f64> = (0..4000).map(|k| f64::from(k % 7) - 3.0).collect();
        let mut found = vec![0.0; turns.len()];
        backward_reference(&turns, &g, turns.len(), &mut found);
        for ((found, t), g) in found.iter().zip(&turns).zip(&g) {
            assert!((found + TAU * (TAU * t).sin() * g).abs() < 1e-7, "{t}: {found}");
        }
    }
}
