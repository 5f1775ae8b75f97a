//! The most similar candidates of every query.

use super::Strips;
use crate::device::Device;
use crate::gradient::{Rows, check_rows};
use crate::{Error, Result};

/// The top K candidates of every query of one direction, best first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TopK {
    /// Candidates per query.
    pub k: usize,
    /// Their indices, `[queries, k]` row-major.
    pub index: Vec<u32>,
    /// Their scores, `[queries, k]`.
    pub score: Vec<f32>,
}

impl TopK {
    /// The `k` most similar of the candidates for every query (all, where there are fewer), best first. Among equal
    /// similarities the lower index comes first. Each side is the values, row-major, and the width of a row, which is the
    /// same for both.
    ///
    /// # Errors
    /// Shapes that disagree, a `k` of 0, a failing device.
    pub fn of(device: &Device, queries: Rows, candidates: Rows, k: usize) -> Result<Self> {
        check_rows("query", queries)?;
        check_rows("candidate", candidates)?;
        let ((queries, dim), (candidates, width)) = (queries, candidates);
        if dim != width {
            let (expected, advice) =
                (format!("the width of the queries, {dim}"), "give embeddings of one head");
            return Err(Error::config("candidate embeddings", expected, width, advice));
        }
        if k == 0 {
            return Err(Error::config("--top", "1 candidate or more", k, "give --top 1 or more"));
        }
        let m = candidates.len() / dim;
        let k = k.min(m);
        let (index, score) = match Self::own(device, queries, candidates, dim, k) {
            Ok((index, score)) => (Ok(index), Ok(score)),
            Err(error) => (Err(error.clone()), Err(error)),
        };
        let index = device.join("candidates", index)?;
        let score = device.join("scores of candidates", score)?;
        Ok(Self { k, index, score })
    }

    /// The candidates and scores of those queries that this process compares.
    fn own(
        device: &Device,
        queries: &[f32],
        candidates: &[f32],
        dim: usize,
        k: usize,
    ) -> Result<(Vec<u32>, Vec<f32>)> {
        let m = candidates.len() / dim;
        let mut strips = Strips::divided(device, queries, candidates, dim)?;
        let (mut index, mut score, mut order) = (Vec::new(), Vec::new(), Vec::<u32>::new());
        for strip in strips.own() {
            for row in device.wait(strips.read(&strip))?.chunks_exact(m) {
                // Adding 0 turns −0 into 0, so that the two are equal.
                let of = |c: u32| row[c as usize] + 0.0;
                let before = |&a: &u32, &b: &u32| of(b).total_cmp(&of(a)).then(a.cmp(&b));
                order.clear();
                order.extend(0..m as u32);
                if k < m {
                    order.select_nth_unstable_by(k, before);
                }
                order[..k].sort_unstable_by(before);
                index.extend(&order[..k]);
                score.extend(order[..k].iter().map(|&c| row[c as usize]));
            }
        }
        Ok((index, score))
    }
}
