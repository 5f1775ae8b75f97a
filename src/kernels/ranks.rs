//! Rank of the best correct candidate of every query (docs/math.md, "Evaluation"). Of equal similarities, the lower
//! index comes first.

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
    mutation: ["c < r)", "c <= r)"],
};

params!(queries: u32, candidates: u32, stride: u32, query_offset: u32);

/// Which queries and candidates a block of similarities belongs to.
#[derive(Clone, Copy)]
pub struct RankBlock<'a> {
    /// Ids of all queries.
    pub query_ids: Slice<'a, u32>,
    /// Ids of the candidates. A candidate is correct if its id equals the query's.
    pub candidate_ids: Slice<'a, u32>,
    /// The block's first query.
    pub query_offset: usize,
}

/// Writes the 0-based ranks of the block's queries from `similarity [queries, candidates]`. A query without a correct
/// candidate gets the number of candidates.
pub fn ranks(
    commands: &mut Commands,
    similarity: Mat,
    block: RankBlock,
    mut ranks: SliceMut<u32>,
) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("ranks");
            let (queries, candidates) = (block.query_ids.host()?, block.candidate_ids.host()?);
            let out = &mut ranks.host()?[block.query_offset..][..similarity.rows];
            let ids = &queries[block.query_offset..][..similarity.rows];
            reference(similarity.data.host()?, ids, &candidates[..similarity.cols], out);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let params = Params {
                queries: similarity.rows as u32,
                candidates: similarity.cols as u32,
                stride: similarity.stride() as u32,
                query_offset: block.query_offset as u32,
            };
            let regions = [
                similarity.data.region()?,
                block.query_ids.region()?,
                block.candidate_ids.region()?,
                ranks.region()?,
            ];
            let cost = 12.0 * similarity.rows as f64 * similarity.cols as f64;
            recorder.dispatch(
                &KERNEL.spec,
                &lanes(recorder),
                &params,
                &regions,
                [similarity.rows, 1, 1],
                cost,
            )
        }
    }
}

/// [`ranks`] as a plain loop over padded rows. `query_ids` and `ranks` are those of the block.
pub fn reference<T: Real>(similarity: &[T], query_ids: &[u32], candidate_ids: &[u32], ranks: &mut [u32]) {
    let candidates = candidate_ids.len();
    let rows = similarity.par_chunks_exact(padded(candidates)).zip(query_ids).zip(ranks);
    rows.for_each(|((row, &id), rank)| {
        let row = &row[..candidates];
        let mut best = (T::neg_infinity(), candidates);
        for (c, &s) in row.iter().enumerate() {
            if candidate_ids[c] == id && s > best.0 {
                best = (s, c);
            }
        }
        let (s, r) = best;
        let better = row.iter().filter(|&&v| v > s).count();
        let tied_before = row[..r].iter().filter(|&&v| v == s).count();
        *rank = (better + tied_before) as u32;
    });
}

fn check(lab: &mut Lab) -> Result<()> {
    const CANDIDATES: usize = 131;
    let coarse = lab.numbers(N * CANDIDATES).iter().map(|s| (s * 32.0).round() / 32.0).collect::<Vec<_>>();
    let similarity = lab.pair(crate::device::pad_rows(&coarse, CANDIDATES).into_owned())?;
    let (query_ids, candidate_ids) = (lab.indices(N, 31)?, lab.indices(CANDIDATES, 30)?);
    let mut out = lab.poison_indices(N)?;
    let block = RankBlock { query_ids: query_ids.get(), candidate_ids: candidate_ids.get(), query_offset: 0 };
    lab.run(|commands| ranks(commands, similarity.mat(N, CANDIDATES), block, out.get_mut()))?;
    let mut expected = vec![0; N];
    reference(&similarity.wide(), &query_ids.host, &candidate_ids.host, &mut expected);
    lab.compare_indices(&out, &expected)
}
