//! Weighted sum: out = weight x (+ out).

use super::lab::{Lab, N};
use super::{Access, Kernel, KernelSpec, Real, chunks, lanes};
use crate::Result;
use crate::device::{Commands, Slice, SliceMut, clock};

pub(super) static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "accumulate",
        source: include_str!("../../shaders/accumulate.wgsl"),
        params: Params::MEMBERS,
        bindings: &[Access::Read, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 1e-6,
    check,
    mutation: ["params.weight * x[k]", "1.001 * params.weight * x[k]"],
};

params!(count4: u32, at4: u32, accumulate: u32, weight: f32);

/// Writes `weight` x to the elements of `out` from `at` on, or adds it if `add` is set. `at` is a multiple of four.
/// `len` is the number of elements of x, whose memory is a whole number of vec4s.
pub fn accumulate(
    commands: &mut Commands,
    (x, len): (Slice<f32>, usize),
    weight: f32,
    (mut out, at): (SliceMut<f32>, usize),
    add: bool,
) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("accumulate");
            reference(&x.host()?[..len], weight, &mut out.host()?[at..at + len], add);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let (x, out) = (x.region()?, out.region()?);
            let len = len.next_multiple_of(4);
            for part in chunks(len, recorder.elements_per_binding()) {
                // If `at` is aligned, only the needed part of `out` is bound; otherwise all of it.
                let (region, first) = match at % 64 {
                    0 => (out.part(at + part.start..at + part.end), 0),
                    _ => (out, at + part.start),
                };
                let params = Params {
                    count4: part.len() as u32 / 4,
                    at4: first as u32 / 4,
                    accumulate: add.into(),
                    weight,
                };
                let grid = [(part.len() / 4).div_ceil(recorder.lanes as usize).min(4096), 1, 1];
                let regions = [x.part(part.clone()), region];
                recorder.dispatch(
                    &KERNEL.spec,
                    &lanes(recorder),
                    &params,
                    &regions,
                    grid,
                    2.0 * part.len() as f64,
                )?;
            }
            Ok(())
        }
    }
}

/// [`accumulate`] as a plain loop. `out` holds only the elements that it writes.
pub fn reference<T: Real>(x: &[T], weight: T, out: &mut [T], add: bool) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = weight * x + if add { *out } else { T::zero() };
    }
}

fn check(lab: &mut Lab) -> Result<()> {
    for (at, add) in [(0, false), (12, true), (64, true)] {
        let x = lab.vector(N)?;
        let mut out = lab.vector(N + at)?;
        let mut expected = out.wide();
        reference(&x.wide(), 0.375, &mut expected[at..], add);
        lab.run(|commands| accumulate(commands, (x.get(), N), 0.375, (out.get_mut(), at), add))?;
        lab.compare(&out, &expected)?;
    }
    Ok(())
}
