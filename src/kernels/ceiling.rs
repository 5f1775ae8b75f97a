//! Measures the peak rates of a device, for comparison with the other kernels; see `wgoal bench roofline`.

use super::lab::Lab;
use super::{Access, Kernel, KernelSpec, Real, lanes};
use crate::Result;
use crate::device::{Commands, Slice, SliceMut, clock};
use rayon::prelude::*;

pub(super) static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "ceiling",
        source: include_str!("../../shaders/ceiling.wgsl"),
        params: Params::MEMBERS,
        bindings: &[Access::Read, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 1e-5,
    check,
    mutation: ["v3 = four_times(v3,", "v3 = four_times(v2,"],
};

params!(count4: u32, rounds: u32, factor: f32, term: f32);

/// Applies x ← factor · x + term `4 * rounds` times to the `len` elements of `x`, and writes the result to `y`. `len`
/// is a multiple of 4096, which gives whole workgroups of any size, and fits into a binding.
pub fn ceiling(
    commands: &mut Commands,
    x: Slice<f32>,
    len: usize,
    rounds: u32,
    (factor, term): (f32, f32),
    mut y: SliceMut<f32>,
) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("ceiling");
            reference(&x.host()?[..len], rounds, (factor, term), y.host()?);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            const GROUPS: usize = 4096;
            let params = Params { count4: len as u32 / 4, rounds, factor, term };
            let regions = [x.region()?.part(0..len), y.region()?.part(0..len)];
            let grid = [(len / 16 / recorder.lanes as usize).clamp(1, GROUPS), 1, 1];
            let cost = 8.0 * f64::from(rounds) * len as f64;
            recorder.dispatch(&KERNEL.spec, &lanes(recorder), &params, &regions, grid, cost)
        }
    }
}

/// [`ceiling`] as a plain loop.
pub fn reference<T: Real>(x: &[T], rounds: u32, (factor, term): (T, T), y: &mut [T]) {
    const CHUNK: usize = 1 << 14;
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = (0..4 * rounds).fold(x, |v, _| v * factor + term);
        }
    });
}

fn check(lab: &mut Lab) -> Result<()> {
    let x = lab.vector(3 * 4096)?;
    let mut y = lab.poison(x.host.len())?;
    let (factor, term) = (0.75, 0.5);
    lab.run(|commands| ceiling(commands, x.get(), x.host.len(), 2, (factor, term), y.get_mut()))?;
    let mut expected = y.wide();
    reference(&x.wide(), 2, (factor.into(), term.into()), &mut expected);
    lab.compare(&y, &expected)
}
