//! The slices of a batch. They depend on the batch alone, so that sums over them do not depend on the number of ranks.

use std::ops::Range;

/// The number of slices of a batch, unless another number is asked for. It is the largest number of ranks.
pub const SLICES: usize = 8;

/// Pairs that stay together, so that the rows of every slice begin where a GPU can bind them.
const TOGETHER: usize = 16;

/// A batch of pairs in slices of neighbours. Their sizes differ by at most 16 pairs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slices {
    /// The first pair of every slice, and the number of pairs.
    bounds: Vec<usize>,
}

impl Slices {
    /// Divides `pairs` pairs into at most `most` slices. A batch of fewer than 16 `most` pairs has fewer slices.
    pub fn new(pairs: usize, most: usize) -> Self {
        let blocks = pairs.div_ceil(TOGETHER);
        let count = most.min(blocks).max(1);
        let bounds = (0..=count).map(|slice| (slice * blocks / count * TOGETHER).min(pairs)).collect();
        Self { bounds }
    }

    /// The number of slices.
    pub fn count(&self) -> usize {
        self.bounds.len() - 1
    }

    /// The pairs of a slice.
    pub fn pairs(&self, slice: usize) -> Range<usize> {
        self.bounds[slice]..self.bounds[slice + 1]
    }

    /// The slices of a rank. They are neighbours, and every rank has one if there are enough.
    pub fn of_rank(&self, rank: usize, size: usize) -> Range<usize> {
        self.count() * rank / size..self.count() * (rank + 1) / size
    }

    /// The number of pairs of every rank.
    pub fn lens(&self, size: usize) -> Vec<usize> {
        let pairs = |slices: Range<usize>| self.bounds[slices.end] - self.bounds[slices.start];
        (0..size).map(|rank| pairs(self.of_rank(rank, size))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_and_ranks_cover_every_pair_once() {
        for pairs in [1, 15, 16, 17, 100, 127, 128, 130, 1000, 4096] {
            for most in [1, 2, 8, 13] {
                let slices = Slices::new(pairs, most);
                assert!((1..=most).contains(&slices.count()));
                assert_eq!(slices.count() == most, pairs > 16 * (most - 1), "{pairs} {most}");
                let all: Vec<_> = (0..slices.count()).flat_map(|slice| slices.pairs(slice)).collect();
                assert_eq!(all, (0..pairs).collect::<Vec<_>>());
                let lens: Vec<_> = (0..slices.count()).map(|slice| slices.pairs(slice).len()).collect();
                assert!(lens.iter().all(|&len| len > 0), "{lens:?}");
                assert!((0..slices.count()).all(|slice| slices.pairs(slice).start.is_multiple_of(16)));
                for size in 1..=slices.count() {
                    let owned: Vec<_> = (0..size).flat_map(|rank| slices.of_rank(rank, size)).collect();
                    assert_eq!(owned, (0..slices.count()).collect::<Vec<_>>());
                    let lens = slices.lens(size);
                    assert!(lens.iter().sum::<usize>() == pairs && lens.iter().all(|&len| len > 0));
                }
            }
        }
    }
}
