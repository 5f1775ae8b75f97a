//! Sums of parts that the ranks of a job divide: the same bits, whichever rank computes a part.

use super::team::share;
use super::{Node, Team, Tree, exchange, gather};
use crate::{Error, Result};
use std::ops::Range;

/// The most numbers that one exchange of sums sends from a rank.
const AT_ONCE: usize = 1 << 24;

/// The nodes whose sums a rank has after it has added its parts.
fn nodes(parts: usize, own: Range<usize>) -> Vec<Node> {
    let mut tree = Tree::new(parts);
    // This cannot fail.
    let _ = own.into_iter().try_for_each(|part| tree.push((0, part), (), |(), ()| Ok::<_, Error>(())));
    tree.roots().into_iter().map(|(node, ())| node).collect()
}

/// Adds a sum to that of its left neighbour.
fn add(left: &mut [f64], right: &[f64]) -> Result<()> {
    left.iter_mut().zip(right).for_each(|(left, right)| *left += right);
    Ok(())
}

/// The sum of `parts` parts, added in the order of their tree: `len` numbers. `of` computes a part. The ranks of `team`
/// divide the parts.
///
/// # Errors
/// Those of `of` on any rank, and those of [`Team::join`].
pub(crate) fn sum(
    team: Option<&Team>,
    what: &str,
    (parts, len): (usize, usize),
    mut of: impl FnMut(usize) -> Result<Vec<f64>>,
) -> Result<Vec<f64>> {
    let own = team.map_or(0..parts, |team| team.share(parts));
    let mut tree = Tree::new(parts);
    let done =
        own.into_iter().try_for_each(|part| tree.push((0, part), of(part)?, |left, right| add(left, &right)));
    match team {
        Some(team) => team.sum(what, parts, done.map(|()| tree.roots()), len),
        None => done.map(|()| tree.roots().pop().map_or_else(|| vec![0.0; len], |(_, sum)| sum)),
    }
}

impl Team {
    /// The sum of parts, added in the order of their tree: `len` numbers, on every rank. `own` are the sums of the nodes that
    /// this rank has. Each rank adds one piece of all sums, so it receives about twice a sum, however many ranks there are.
    ///
    /// # Errors
    /// Those of [`Team::join`].
    pub fn sum(
        &self,
        what: &str,
        parts: usize,
        own: Result<Vec<(Node, Vec<f64>)>>,
        len: usize,
    ) -> Result<Vec<f64>> {
        let (own, _) = self.meet(what, own, Vec::len)?;
        let (rank, size) = (self.ranks().rank(), self.ranks().size());
        let nodes: Vec<Vec<Node>> = (0..size).map(|rank| nodes(parts, share(parts, rank, size))).collect();
        let block = (AT_ONCE / nodes.iter().map(Vec::len).max().unwrap_or(1).max(1)).max(1);
        let mut whole = Vec::with_capacity(len);
        for first in (0..len).step_by(block) {
            let here = len.min(first + block) - first;
            let pieces: Vec<_> = (0..size).map(|rank| share(here, rank, size)).collect();
            let of_piece = |piece: &Range<usize>| (first + piece.start)..(first + piece.end);
            let sent: Vec<f64> = pieces
                .iter()
                .flat_map(|piece| own.iter().flat_map(move |(_, sum)| &sum[of_piece(piece)]))
                .copied()
                .collect();
            let to: Vec<_> = pieces.iter().map(|piece| own.len() * piece.len()).collect();
            let width = pieces[rank].len();
            let from: Vec<_> = nodes.iter().map(|nodes| nodes.len() * width).collect();
            let received = exchange(self.ranks(), &sent, [&to, &from])?;
            let mut tree = Tree::new(parts);
            for (node, sum) in nodes.iter().flatten().zip(received.chunks_exact(width.max(1))) {
                tree.push(*node, sum.to_vec(), |left, right| add(left, &right))?;
            }
            let added = tree.roots().pop().map_or_else(Vec::new, |(_, sum)| sum);
            let lens: Vec<_> = pieces.iter().map(ExactSizeIterator::len).collect();
            whole.extend(gather(self.ranks(), &added, &lens)?);
        }
        Ok(whole)
    }
}
