//! A vector that moves towards another: y <- y + rate (x - y).

use super::lab::{ELEMENTS, Lab};
use super::{Access, Kernel, KernelSpec, Real, chunks, lanes};
use crate::Result;
use crate::device::{Commands, Slice, SliceMut, clock};
use crate::math::{vectorized, without_subnormals};
use rayon::prelude::*;

pub(super) static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "blend",
        source: include_str!("../../shaders/blend.wgsl"),
        params: Params::MEMBERS,
        bindings: &[Access::Read, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 1e-6,
    check,
    mutation: ["(x[k] - y[k])", "x[k]"],
};

params!(count4: u32, rate: f32);

/// Moves `y` towards `x` by the share `rate` of the difference. `len` is a multiple of four.
pub fn blend(
    commands: &mut Commands,
    x: Slice<f32>,
    rate: f64,
    mut y: SliceMut<f32>,
    len: usize,
) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("blend");
            reference(&x.host()?[..len], rate, &mut y.host()?[..len]);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let (x, y) = (x.region()?, y.region()?);
            for part in chunks(len, recorder.elements_per_binding()) {
                let params = Params { count4: part.len() as u32 / 4, rate: rate as f32 };
                let grid = [(part.len() / 4).div_ceil(recorder.lanes as usize).min(4096), 1, 1];
                let regions = [x.part(part.clone()), y.part(part.clone())];
                let work = 3.0 * part.len() as f64;
                recorder.dispatch(&KERNEL.spec, &lanes(recorder), &params, &regions, grid, work)?;
            }
            Ok(())
        }
    }
}

/// [`blend`] as a plain loop.
pub fn reference<T: Real>(x: &[T], rate: f64, y: &mut [T]) {
    const CHUNK: usize = 1 << 14;
    let rate = T::of(rate);
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
        vectorized(
            #[inline(always)]
            || {
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = without_subnormals(*y + rate * (x - *y));
                }
            },
        );
    });
}

fn check(lab: &mut Lab) -> Result<()> {
    for rate in [0.125, 1.0] {
        let (x, mut y) = (lab.vector(ELEMENTS)?, lab.vector(ELEMENTS)?);
        let mut expected = y.wide();
        reference(&x.wide(), rate, &mut expected);
        lab.run(|commands| blend(commands, x.get(), rate, y.get_mut(), ELEMENTS))?;
        lab.compare(&y, &expected)?;
    }
    Ok(())
}
