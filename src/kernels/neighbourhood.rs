//! Gradient of the distance between neighbourhoods before and after a head (docs/math.md, "Neighbourhoods").

use super::lab::{Lab, N};
use super::{Access, Kernel, KernelSpec, Real, by_rows};
use crate::Result;
use crate::device::{Commands, Mat, MatMut, clock, padded};
use rayon::prelude::*;

pub(super) static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "neighbourhood",
        source: include_str!("../../shaders/neighbourhood.wgsl"),
        params: Params::MEMBERS,
        bindings: &[Access::Read, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 2e-5,
    check,
    mutation: ["slope(own.x, own.y) - mean", "slope(own.x, own.y)"],
};

params!(cols: u32, stride: u32, rate: f32, weight: f32);

/// Overwrites the similarities `b` of embeddings with `weight` times the gradient of the Jensen-Shannon divergence
/// between softmax(a / `temperature`) and softmax(b / `temperature`), row by row. `a` are the similarities of the
/// features, of the same shape.
pub fn neighbourhood(
    commands: &mut Commands,
    a: Mat,
    mut b: MatMut,
    temperature: f64,
    weight: f64,
) -> Result<()> {
    let rate = 1.0 / temperature;
    match commands {
        Commands::Cpu => {
            let _clock = clock("neighbourhood");
            reference(a.data.host()?, b.data.host()?, a.cols, rate, weight);
        }
        Commands::Gpu(recorder) => {
            let stride = a.stride();
            let regions = [(a.data.region()?, stride), (b.data.region()?, stride)];
            let (cols, stride) = (a.cols as u32, stride as u32);
            let params = |_| Params { cols, stride, rate: rate as f32, weight: weight as f32 };
            by_rows(recorder, &KERNEL.spec, a.rows, &regions, 40 * a.cols, params)?;
        }
    }
    Ok(())
}

/// [`neighbourhood`] as a plain loop over padded rows of `cols` columns. `rate` is 1 / temperature.
pub fn reference<T: Real>(a: &[T], b: &mut [T], cols: usize, rate: f64, weight: f64) {
    let stride = padded(cols);
    let (rate, weight, half, two) = (T::of(rate), T::of(weight), T::of(0.5), T::of(2.0));
    let softmax = |row: &[T]| {
        let top = row.iter().fold(T::neg_infinity(), |top, &x| top.max(x));
        let values: Vec<T> = row.iter().map(|&x| (rate * (x - top)).exp()).collect();
        let sum = values.iter().fold(T::zero(), |sum, &x| sum + x);
        values.into_iter().map(|x| x / sum).collect::<Vec<T>>()
    };
    a.par_chunks_exact(stride).zip(b.par_chunks_exact_mut(stride)).for_each(|(a, b)| {
        let (p, q) = (softmax(&a[..cols]), softmax(&b[..cols]));
        let slope = |p: T, q: T| if q > T::zero() { half * (two * q / (p + q)).ln() } else { T::zero() };
        let slopes: Vec<T> = p.iter().zip(&q).map(|(&p, &q)| slope(p, q)).collect();
        let mean = q.iter().zip(&slopes).fold(T::zero(), |sum, (&q, &slope)| sum + q * slope);
        for ((b, q), slope) in b.iter_mut().zip(q).zip(slopes) {
            *b = weight * rate * q * (slope - mean);
        }
    });
}

fn check(lab: &mut Lab) -> Result<()> {
    const ROWS: usize = 21;
    let (a, mut b) = (lab.matrix(ROWS, N)?, lab.matrix(ROWS, N)?);
    let mut expected = b.wide();
    reference(&a.wide(), &mut expected, N, 10.0, 3.0);
    lab.run(|commands| neighbourhood(commands, a.mat(ROWS, N), b.mat_mut(ROWS, N), 0.1, 3.0))?;
    lab.compare(&b, &expected)
}
