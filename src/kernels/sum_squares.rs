//! Squared norm of a buffer, in parts that `record` adds.

use super::lab::Lab;
use super::{Access, Kernel, KernelSpec, Real, chunks, dot, lanes, vectorized};
use crate::Result;
use crate::device::{Commands, Slice, SliceMut, clock};
use rayon::prelude::*;

pub(super) static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "sum_squares",
        source: include_str!("../../shaders/sum_squares.wgsl"),
        params: Params::MEMBERS,
        bindings: &[Access::Read, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 1e-5,
    check,
    mutation: ["k < end", "k + 1u < end"],
};

/// Number of parts of the sum.
pub const PARTS: usize = 64;

params!(count4: u32, accumulate: u32);

/// Writes [`PARTS`] parts of the sum of squares of `a`, whose length is a multiple of four.
pub fn sum_squares(
    commands: &mut Commands,
    a: Slice<f32>,
    len: usize,
    mut parts: SliceMut<f32>,
) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("sum_squares");
            reference(a.host()?, parts.host()?);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            for part in chunks(len, recorder.elements_per_binding()) {
                let params = Params { count4: part.len() as u32 / 4, accumulate: (part.start > 0).into() };
                let regions = [a.region()?.part(part.clone()), parts.region()?];
                let cost = 2.0 * part.len() as f64;
                recorder.dispatch(&KERNEL.spec, &lanes(recorder), &params, &regions, [PARTS, 1, 1], cost)?;
            }
            Ok(())
        }
    }
}

/// [`sum_squares`] as plain loops over [`PARTS`] chunks.
pub fn reference<T: Real>(a: &[T], parts: &mut [T]) {
    let stretch = a.len().div_ceil(PARTS);
    parts.par_iter_mut().enumerate().with_min_len(8).for_each(|(i, part)| {
        let a = &a[(i * stretch).min(a.len())..((i + 1) * stretch).min(a.len())];
        *part = vectorized(
            #[inline(always)]
            || dot(a, a),
        );
    });
}

fn check(lab: &mut Lab) -> Result<()> {
    let a = lab.vector(4 * 1237)?;
    let mut parts = lab.poison(PARTS)?;
    lab.run(|commands| sum_squares(commands, a.get(), a.host.len(), parts.get_mut()))?;
    // Devices may split the sum into other parts. Only the sum of the parts must agree.
    let found = lab.read(&parts, 0..PARTS)?;
    let expected: f64 = a.wide().iter().map(|x| x * x).sum();
    let sum: f64 = found.iter().map(|&x| f64::from(x)).sum();
    lab.compare_values(&[sum as f32], &[expected]);
    Ok(())
}
