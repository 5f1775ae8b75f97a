//! The gate of a perceptron, and its backward pass (docs/math.md, "Gated encoder").

use super::lab::{D, Lab, N, Pair};
use super::{Access, Kernel, KernelSpec, Real, by_rows, vectorized};
use crate::Result;
use crate::device::{Commands, Mat, MatMut, clock, padded};
use rayon::prelude::*;

/// The largest factor of the gate, as of ReLU6.
const MOST: f64 = 6.0;

pub(super) static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "gate",
        source: include_str!("../../shaders/gate.wgsl"),
        params: Params::MEMBERS,
        bindings: &[Access::Read, Access::Read, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 1e-6,
    check,
    mutation: ["vec4f(6.0));", "vec4f(7.0));"],
};

pub(super) static BACKWARD: Kernel = Kernel {
    spec: KernelSpec {
        name: "gate_backward",
        source: include_str!("../../shaders/gate_backward.wgsl"),
        params: Params::MEMBERS,
        bindings: &[Access::Read, Access::ReadWrite, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 1e-6,
    check: check_backward,
    mutation: ["(gate < vec4f(6.0))", "(gate < vec4f(7.0))"],
};

params!(rows: u32, cols: u32, stride4: u32);

impl Params {
    fn of(rows: usize, cols: usize) -> Self {
        Self { rows: rows as u32, cols: cols as u32, stride4: padded(cols) as u32 / 4 }
    }
}

/// h = min(max(a, 0), 6) b, element by element.
pub fn gate(commands: &mut Commands, a: Mat, b: Mat, mut h: MatMut) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("gate");
            reference(a.data.host()?, b.data.host()?, a.cols, h.data.host()?);
        }
        Commands::Gpu(recorder) => {
            let stride = a.stride();
            let regions =
                [(a.data.region()?, stride), (b.data.region()?, stride), (h.data.region()?, stride)];
            by_rows(recorder, &KERNEL.spec, a.rows, &regions, 3 * a.cols, |rows| Params::of(rows, a.cols))?;
        }
    }
    Ok(())
}

/// Replaces a and b of [`gate`] with the gradients at them. `g` is the gradient at h.
pub fn gate_backward(commands: &mut Commands, g: Mat, mut a: MatMut, mut b: MatMut) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("gate_backward");
            backward_reference(g.data.host()?, g.cols, [a.data.host()?, b.data.host()?]);
        }
        Commands::Gpu(recorder) => {
            let stride = g.stride();
            let regions =
                [(g.data.region()?, stride), (a.data.region()?, stride), (b.data.region()?, stride)];
            let params = |rows| Params::of(rows, g.cols);
            by_rows(recorder, &BACKWARD.spec, g.rows, &regions, 6 * g.cols, params)?;
        }
    }
    Ok(())
}

#[inline(always)]
fn open<T: Real>(a: T) -> T {
    a.max(T::zero()).min(T::of(MOST))
}

/// [`gate`] as a plain loop over padded rows of `cols` columns.
pub fn reference<T: Real>(a: &[T], b: &[T], cols: usize, h: &mut [T]) {
    let stride = padded(cols);
    let rows = a.par_chunks_exact(stride).zip(b.par_chunks_exact(stride));
    rows.zip(h.par_chunks_exact_mut(stride)).with_min_len(8).for_each(|((a, b), h)| {
        vectorized(
            #[inline(always)]
            || {
                for ((h, &a), &b) in h[..cols].iter_mut().zip(a).zip(b) {
                    *h = open(a) * b;
                }
            },
        );
        h[cols..].fill(T::zero());
    });
}

/// [`gate_backward`] as a plain loop.
pub fn backward_reference<T: Real>(g: &[T], cols: usize, [a, b]: [&mut [T]; 2]) {
    let stride = padded(cols);
    let rows = a.par_chunks_exact_mut(stride).zip(b.par_chunks_exact_mut(stride));
    rows.zip(g.par_chunks_exact(stride)).with_min_len(8).for_each(|((a, b), g)| {
        for ((a, b), &g) in a[..cols].iter_mut().zip(&mut b[..cols]).zip(g) {
            let inside = *a > T::zero() && *a < T::of(MOST);
            (*a, *b) = (if inside { g * *b } else { T::zero() }, g * open(*a));
        }
        a[cols..].fill(T::zero());
        b[cols..].fill(T::zero());
    });
}

/// Numbers of which a quarter are above the gate's largest factor, and half below 0.
fn gates(lab: &mut Lab) -> Result<Pair<f32>> {
    let numbers: Vec<f32> = lab.matrix(N, D)?.host.iter().map(|x| 12.0 * x).collect();
    lab.pair(numbers)
}

fn check(lab: &mut Lab) -> Result<()> {
    let (a, b) = (gates(lab)?, lab.matrix(N, D)?);
    let mut h = lab.poison(a.host.len())?;
    lab.run(|commands| gate(commands, a.mat(N, D), b.mat(N, D), h.mat_mut(N, D)))?;
    let mut expected = h.wide();
    reference(&a.wide(), &b.wide(), D, &mut expected);
    lab.compare(&h, &expected)
}

fn check_backward(lab: &mut Lab) -> Result<()> {
    let (mut a, mut b, g) = (gates(lab)?, lab.matrix(N, D)?, lab.matrix(N, D)?);
    let (mut da, mut db) = (a.wide(), b.wide());
    backward_reference(&g.wide(), D, [&mut da, &mut db]);
    lab.run(|commands| gate_backward(commands, g.mat(N, D), a.mat_mut(N, D), b.mat_mut(N, D)))?;
    lab.compare(&a, &da)?;
    lab.compare(&b, &db)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the gate has a slope, the gradient is that of finite differences in f64.
    #[test]
    fn the_backward_pass_is_the_derivative() {
        let a: Vec<f64> = (0..400).map(|k| -4.0 + 0.0313 * f64::from(k)).collect();
        let b: Vec<f64> = (0..400).map(|k| f64::from(k % 7) - 2.5).collect();
        let g: Vec<f64> = (0..400).map(|k| f64::from(k % 5) - 2.25).collect();
        let value = |a: &[f64], b: &[f64]| {
            let mut h = vec![0.0; a.len()];
            reference(a, b, a.len(), &mut h);
            h
        };
        let (mut da, mut db) = (a.clone(), b.clone());
        backward_reference(&g, a.len(), [&mut da, &mut db]);
        const STEP: f64 = 1e-6;
        let moved = |x: &[f64], step: f64| x.iter().map(|x| x + step).collect::<Vec<_>>();
        let slope = |up: Vec<f64>, down: Vec<f64>, k: usize| g[k] * (up[k] - down[k]) / (2.0 * STEP);
        for k in 0..a.len() {
            let of_a = slope(value(&moved(&a, STEP), &b), value(&moved(&a, -STEP), &b), k);
            let of_b = slope(value(&a, &moved(&b, STEP)), value(&a, &moved(&b, -STEP)), k);
            assert!((da[k] - of_a).abs() < 1e-8 && (db[k] - of_b).abs() < 1e-8, "{k}: {} {}", da[k], db[k]);
        }
    }
}
