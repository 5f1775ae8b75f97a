//! Marks pairs of a strip of similarities as neither positive nor negative (docs/math.md, "Equal captions and further
//! pairs").

use super::lab::{Lab, N};
use super::{Access, Kernel, KernelSpec, Real, lanes};
use crate::Result;
use crate::device::{Commands, MatMut, Slice, clock, padded};
use std::ops::Range;

pub(super) static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "leave_out",
        source: include_str!("../../shaders/leave_out.wgsl"),
        params: Params::MEMBERS,
        bindings: &[Access::Read, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 0.0,
    check,
    mutation: ["(params.first + k)", "(params.first + k / 2u * 2u)"],
};

params!(first: u32, count: u32, stride: u32, row_offset: u32);

/// What a similarity becomes that is left out.
pub const NOTHING: f32 = -3.4e38;
/// Similarities below this are left out. The shaders have the same number.
const LEFT_OUT: f64 = -3.0e38;

/// Whether a similarity is left out.
#[inline(always)]
pub(super) fn is_left_out<T: Real>(s: T) -> bool {
    s < T::of(LEFT_OUT)
}

/// Leaves elements of S out of a strip that holds its rows from `row_offset` on. `positions` holds row and column of
/// every element in turn. The strip's own are those in `range`, counted in elements.
pub fn leave_out(
    commands: &mut Commands,
    mut similarity: MatMut,
    row_offset: usize,
    positions: Slice<u32>,
    range: Range<usize>,
) -> Result<()> {
    if range.is_empty() {
        return Ok(());
    }
    match commands {
        Commands::Cpu => {
            let _clock = clock("leave_out");
            let positions = &positions.host()?[2 * range.start..2 * range.end];
            reference(similarity.data.host()?, similarity.cols, row_offset, positions);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let params = Params {
                first: range.start as u32,
                count: range.len() as u32,
                stride: similarity.stride as u32,
                row_offset: row_offset as u32,
            };
            let regions = [positions.region()?, similarity.data.region()?];
            let grid = [range.len().div_ceil(recorder.lanes as usize).min(4096), 1, 1];
            recorder.dispatch(&KERNEL.spec, &lanes(recorder), &params, &regions, grid, range.len() as f64)
        }
    }
}

/// [`leave_out`] as a plain loop over the strip's own `positions`.
pub fn reference<T: Real>(similarity: &mut [T], cols: usize, row_offset: usize, positions: &[u32]) {
    for at in positions.chunks_exact(2) {
        similarity[(at[0] as usize - row_offset) * padded(cols) + at[1] as usize] = T::of(NOTHING.into());
    }
}

fn check(lab: &mut Lab) -> Result<()> {
    const ROWS: usize = 48;
    let mut strip = lab.matrix(ROWS, N)?;
    // The strip's own positions stand between others.
    let positions: Vec<u32> =
        (0..3 * N).flat_map(|k| [16 + k * (ROWS - 1) / (3 * N), 7 * k % N]).map(|x| x as u32).collect();
    let (positions, range) = (lab.pair(positions)?, 5..3 * N - 4);
    let mut expected = strip.wide();
    reference(&mut expected, N, 16, &positions.host[2 * range.start..2 * range.end]);
    lab.run(|commands| leave_out(commands, strip.mat_mut(ROWS, N), 16, positions.get(), range))?;
    let found = lab.read(&strip, 0..expected.len())?;
    // As flags, since other errors would vanish beside a number of this size.
    let flags = |left_out: Vec<bool>| -> Vec<f32> {
        left_out.into_iter().map(|out| f32::from(u8::from(out))).collect()
    };
    let found = flags(found.into_iter().map(is_left_out).collect());
    let expected = flags(expected.into_iter().map(is_left_out).collect());
    lab.compare_values(&found, &expected.into_iter().map(f64::from).collect::<Vec<_>>());
    Ok(())
}
