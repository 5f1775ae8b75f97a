//! Ranks of the right candidates of every query (docs/math.md, "Evaluation"). Of equal similarities, the lower index
//! comes first.

use super::lab::{Lab, N};
use super::{Access, Kernel, KernelSpec, Real, lanes};
use crate::Result;
use crate::device::{Commands, Mat, Slice, SliceMut, clock, padded};
use rayon::prelude::*;

pub(super) static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "ranks",
        source: include_str!("../../shaders/ranks.wgsl"),
        params: Params::MEMBERS,
        bindings: &[Access::Read, Access::Read, Access::Read, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 0.0,
    check,
    mutation: ["vec4u(c) < r", "vec4u(c) <= r"],
};

params!(queries: u32, candidates: u32, stride: u32);

/// The right candidates of the queries of a block of similarities.
#[derive(Clone, Copy)]
pub struct RightCandidates<'a> {
    /// Query q owns the entries `offsets[q]..offsets[q + 1]`; `[queries + 1]`, starting at 0.
    pub offsets: Slice<'a, u32>,
    /// The candidate of every entry.
    pub right: Slice<'a, u32>,
    /// The number of entries.
    pub entries: usize,
}

/// Writes the 0-based rank of every right candidate of the queries of `similarity [queries, candidates]`.
pub fn ranks(
    commands: &mut Commands,
    similarity: Mat,
    of: RightCandidates,
    mut ranks: SliceMut<u32>,
) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("ranks");
            let offsets = &of.offsets.host()?[..=similarity.rows];
            let (right, ranks) = (&of.right.host()?[..of.entries], &mut ranks.host()?[..of.entries]);
            reference(similarity.data.host()?, similarity.cols, offsets, right, ranks);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let params = Params {
                queries: similarity.rows as u32,
                candidates: similarity.cols as u32,
                stride: similarity.stride() as u32,
            };
            let regions =
                [similarity.data.region()?, of.offsets.region()?, of.right.region()?, ranks.region()?];
            let passes = similarity.rows + of.entries / 4;
            let cost = 12.0 * passes as f64 * similarity.cols as f64;
            let grid = [similarity.rows, 1, 1];
            recorder.dispatch(&KERNEL.spec, &lanes(recorder), &params, &regions, grid, cost)
        }
    }
}

/// [`ranks`] as a plain loop over padded rows.
pub fn reference<T: Real>(
    similarity: &[T],
    candidates: usize,
    offsets: &[u32],
    right: &[u32],
    ranks: &mut [u32],
) {
    let mut left = ranks;
    let mut rows = Vec::with_capacity(offsets.len());
    for (row, entries) in similarity.chunks_exact(padded(candidates)).zip(offsets.windows(2)) {
        let (own, others) = left.split_at_mut((entries[1] - entries[0]) as usize);
        rows.push((&row[..candidates], &right[entries[0] as usize..entries[1] as usize], own));
        left = others;
    }
    rows.into_par_iter().for_each(|(row, right, ranks)| {
        for (&r, rank) in right.iter().zip(ranks) {
            let s = row[r as usize];
            let better = row.iter().filter(|&&v| v > s).count();
            let tied_before = row[..r as usize].iter().filter(|&&v| v == s).count();
            *rank = (better + tied_before) as u32;
        }
    });
}

fn check(lab: &mut Lab) -> Result<()> {
    const CANDIDATES: usize = 131;
    let coarse = lab.numbers(N * CANDIDATES).iter().map(|s| (s * 32.0).round() / 32.0).collect::<Vec<_>>();
    let similarity = lab.pair(crate::device::pad_rows(&coarse, CANDIDATES).into_owned())?;
    // 0 to 6 right candidates of each query.
    let offsets: Vec<u32> = (0..=N as u32).map(|q| 3 * q + q % 4).collect();
    let entries = offsets[N] as usize;
    let (offsets, right) = (lab.pair(offsets)?, lab.indices(entries, CANDIDATES as u32)?);
    let mut out = lab.poison_indices(entries)?;
    let of = RightCandidates { offsets: offsets.get(), right: right.get(), entries };
    lab.run(|commands| ranks(commands, similarity.mat(N, CANDIDATES), of, out.get_mut()))?;
    let mut expected = vec![0; entries];
    reference(&similarity.wide(), CANDIDATES, &offsets.host, &right.host, &mut expected);
    lab.compare_indices(&out, &expected)
}
