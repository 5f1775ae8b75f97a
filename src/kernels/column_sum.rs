//! Sum over the rows of a matrix: the gradient of a bias.

use super::lab::{D, Lab, N};
use super::{Access, Kernel, KernelSpec, Real, chunks, lanes};
use crate::Result;
use crate::device::{Commands, Mat, SliceMut, clock, padded};

pub(super) static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "column_sum",
        source: include_str!("../../shaders/column_sum.wgsl"),
        params: Params::MEMBERS,
        bindings: &[Access::Read, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 1e-5,
    check,
    mutation: ["i < params.rows", "i + 1u < params.rows"],
};

params!(rows: u32, stride4: u32, accumulate: u32);

/// Overwrites y with the sum over the rows of `a`. y has the padded width of `a`.
pub fn column_sum(commands: &mut Commands, a: Mat, mut y: SliceMut<f32>) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("column_sum");
            reference(a.data.host()?, a.cols, y.host()?);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let stride = a.stride();
            for rows in chunks(a.rows, recorder.rows_per_binding(stride)) {
                let accumulate = (rows.start > 0).into();
                let params = Params { rows: rows.len() as u32, stride4: stride as u32 / 4, accumulate };
                let regions = [a.data.region()?.part(rows.start * stride..rows.end * stride), y.region()?];
                let cost = (rows.len() * stride) as f64;
                recorder.dispatch(
                    &KERNEL.spec,
                    &lanes(recorder),
                    &params,
                    &regions,
                    [stride / 4, 1, 1],
                    cost,
                )?;
            }
            Ok(())
        }
    }
}

/// [`column_sum`] as a plain loop.
pub fn reference<T: Real>(a: &[T], cols: usize, y: &mut [T]) {
    y.fill(T::zero());
    for row in a.chunks_exact(padded(cols)) {
        y.iter_mut().zip(row).for_each(|(y, &a)| *y += a);
    }
}

fn check(lab: &mut Lab) -> Result<()> {
    let a = lab.matrix(N, D)?;
    let mut y = lab.poison(padded(D))?;
    lab.run(|commands| column_sum(commands, a.mat(N, D), y.get_mut()))?;
    let mut expected = y.wide();
    reference(&a.wide(), D, &mut expected);
    lab.compare(&y, &expected)
}
