//! The order in which an epoch visits its pairs: a pure function of seed and epoch.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use std::collections::VecDeque;
use std::ops::Range;

use crate::io::RowList;
use crate::math::{Purpose, random};
use crate::{Error, Result};

/// Pairs per block. They are neighbours, so the disk reads a block in one piece.
const BLOCK: usize = 64;

/// Windows that are kept: those of the pairs and of the announcements of two batches.
const KEPT: usize = 6;

/// The order in which an epoch visits its pairs: `0..pairs`, shuffled by seed and epoch.
pub fn pair_order(pairs: usize, seed: u64, epoch: u64) -> Vec<u64> {
    let mut order: Vec<u64> = (0..pairs as u64).collect();
    shuffle(&mut order, &mut random(Purpose::Order, seed, epoch, 0));
    order
}

/// [`pair_order`] in two stages (CorgiPile, Xu et al., 2022). First, blocks of 64 neighbours are shuffled. Then, the
/// pairs within each `window` of the result are shuffled. A window is read block by block. A window of all pairs makes
/// it a full shuffle.
///
/// # Errors
/// More than 2^38 pairs.
pub fn block_order(pairs: usize, window: usize, seed: u64, epoch: u64) -> Result<Vec<u64>> {
    Ok(Order::new(pairs, Some(window), seed, epoch)?.pairs(0..pairs))
}

/// Implemented here, because an order must not change with the version of a library or the width of usize.
fn shuffle<T>(order: &mut [T], rng: &mut ChaCha8Rng) {
    for last in (1..order.len()).rev() {
        let chosen = (u128::from(rng.next_u64()) * (last as u128 + 1)) >> 64;
        order.swap(last, chosen as usize);
    }
}

/// An epoch's order, and the order in which its pairs are announced to the system.
pub(super) struct Order {
    pairs: usize,
    kind: Kind,
}

enum Kind {
    /// All pairs, shuffled. They are announced in this order.
    Full(Vec<u32>),
    /// Blocks. Each window is announced in ascending order, so that neighbours are fetched together.
    Blocks(Box<Blocks>),
}

impl Order {
    /// # Errors
    /// Too many pairs for this kind of order.
    pub fn new(pairs: usize, window: Option<usize>, seed: u64, epoch: u64) -> Result<Self> {
        check(pairs, window)?;
        let mut rng = random(Purpose::Order, seed, epoch, 0);
        let kind = match window {
            None => {
                let mut order: Vec<u32> = (0..pairs as u32).collect();
                shuffle(&mut order, &mut rng);
                Kind::Full(order)
            }
            Some(window) => Kind::Blocks(Box::new(Blocks::new(pairs, window.max(1), rng))),
        };
        Ok(Self { pairs, kind })
    }

    /// The pairs at these positions of the order. Positions beyond the last count as none.
    pub fn pairs(&mut self, positions: Range<usize>) -> Vec<u64> {
        self.at(positions, false)
    }

    /// The pairs at these positions of the announcements.
    pub fn announced(&mut self, positions: Range<usize>) -> Vec<u64> {
        self.at(positions, true)
    }

    fn at(&mut self, positions: Range<usize>, announced: bool) -> Vec<u64> {
        let end = positions.end.min(self.pairs);
        let positions = positions.start.min(end)..end;
        match &mut self.kind {
            Kind::Full(order) => order[positions].iter().map(|&pair| pair.into()).collect(),
            Kind::Blocks(blocks) => blocks.at(positions, announced),
        }
    }

    /// Whether the order consists of blocks of neighbours.
    pub fn in_blocks(&self) -> bool {
        self.lead() > 0
    }

    /// By how many pairs the announcements are ahead of the pairs: one window, or 0 without windows.
    fn lead(&self) -> usize {
        match &self.kind {
            Kind::Full(_) => 0,
            Kind::Blocks(blocks) => blocks.window,
        }
    }

    /// Where in the announcements an epoch begins that goes on after `pairs` pairs: with the window that they end in.
    pub fn first(&self, pairs: usize) -> usize {
        match self.lead() {
            0 => pairs,
            window => pairs / window * window,
        }
    }

    /// How many announcements, from their start, contain the first `pairs` of the order.
    pub fn told(&self, pairs: usize) -> usize {
        self.pairs.min(pairs.saturating_add(self.lead()))
    }
}

/// Checks that an epoch of so many pairs has an order: in windows, or without.
///
/// # Errors
/// Too many pairs.
pub(crate) fn check(pairs: usize, window: Option<usize>) -> Result<()> {
    let fault = |what: &str, most: u64, advice: &str| {
        let expected = format!("at most {most} training captions, because {what} is held in memory");
        Err(Error::config("--shuffle", expected, pairs, advice))
    };
    match window {
        None if pairs as u64 > u32::MAX.into() => {
            fault("the order of all", u32::MAX.into(), "give --shuffle blocks")
        }
        Some(_) if pairs.div_ceil(BLOCK) as u64 > u32::MAX.into() => {
            let most = u64::from(u32::MAX) * BLOCK as u64;
            fault("the order of their blocks", most, "list fewer images in split_train")
        }
        _ => Ok(()),
    }
}

/// The bytes of an order of so many pairs.
pub(crate) fn bytes(pairs: usize, window: Option<usize>) -> u64 {
    match window {
        None => 4 * pairs as u64,
        Some(window) => 4 * pairs.div_ceil(BLOCK) as u64 + 4 * (KEPT * window.min(pairs)) as u64,
    }
}

/// Shuffled blocks, whose windows are shuffled when they are asked for.
struct Blocks {
    pairs: usize,
    /// Pairs of a window.
    window: usize,
    /// The numbers of the blocks in their order.
    blocks: Vec<u32>,
    /// Where the last block ends in this order. It alone may be shorter than the others.
    last_ends: usize,
    /// The random numbers after those for the blocks.
    rng: ChaCha8Rng,
    /// Windows that were asked for: the number of each, whether it is in ascending order, and its pairs.
    known: VecDeque<((usize, bool), RowList)>,
}

impl Blocks {
    fn new(pairs: usize, window: usize, mut rng: ChaCha8Rng) -> Self {
        let count = pairs.div_ceil(BLOCK) as u32;
        let mut blocks: Vec<u32> = (0..count).collect();
        shuffle(&mut blocks, &mut rng);
        let last = blocks.iter().position(|&block| block + 1 == count).unwrap_or(0);
        let last_ends = last * BLOCK + pairs - (count as usize).saturating_sub(1) * BLOCK;
        Self { pairs, window, blocks, last_ends, rng, known: VecDeque::new() }
    }

    fn at(&mut self, positions: Range<usize>, ascending: bool) -> Vec<u64> {
        let mut found = Vec::with_capacity(positions.len());
        let mut position = positions.start;
        while position < positions.end {
            let (number, first) = (position / self.window, position / self.window * self.window);
            let end = positions.end.min(first + self.window);
            found.extend(self.window(number, ascending).between(position - first..end - first));
            position = end;
        }
        found
    }

    /// The pairs of a window, shuffled or in ascending order.
    fn window(&mut self, number: usize, ascending: bool) -> &RowList {
        let key = (number, ascending);
        let at = match self.known.iter().position(|(known, _)| *known == key) {
            Some(at) => at,
            None => {
                if self.known.len() == KEPT {
                    self.known.pop_front();
                }
                let mut pairs = self.neighbours(number);
                match ascending {
                    true => pairs.sort_unstable(),
                    false => shuffle(&mut pairs, &mut self.random(number)),
                }
                self.known.push_back((key, pairs.into()));
                self.known.len() - 1
            }
        };
        &self.known[at].1
    }

    /// The random numbers of a window. Each window before takes two words for each of its pairs but one.
    fn random(&self, number: usize) -> ChaCha8Rng {
        let mut rng = self.rng.clone();
        let before = 2 * number as u128 * (self.window as u128 - 1);
        rng.set_word_pos(rng.get_word_pos() + before);
        rng
    }

    /// The pairs of a window in the order of the blocks.
    fn neighbours(&self, number: usize) -> Vec<u64> {
        let start = number * self.window;
        let end = self.pairs.min(start.saturating_add(self.window));
        let mut found = Vec::with_capacity(end - start);
        let mut position = start;
        while position < end {
            // Behind the last block, the blocks start earlier by what it lacks.
            let shift = if position < self.last_ends {
                0
            } else {
                self.last_ends.next_multiple_of(BLOCK) - self.last_ends
            };
            let (at, skipped) = ((position + shift) / BLOCK, (position + shift) % BLOCK);
            let first = self.blocks[at] as usize * BLOCK;
            let stop = self.pairs.min(first + BLOCK).min(first + skipped + (end - position));
            found.extend(first as u64 + skipped as u64..stop as u64);
            position += stop - (first + skipped);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// The order as it is defined, all at once.
    fn at_once(pairs: usize, window: usize, seed: u64, epoch: u64) -> Vec<u64> {
        let mut rng = random(Purpose::Order, seed, epoch, 0);
        let mut blocks: Vec<usize> = (0..pairs).step_by(BLOCK).collect();
        shuffle(&mut blocks, &mut rng);
        let block = |start: usize| start as u64..(start + BLOCK).min(pairs) as u64;
        let mut order: Vec<u64> = blocks.into_iter().flat_map(block).collect();
        order.chunks_mut(window).for_each(|window| shuffle(window, &mut rng));
        order
    }

    #[test]
    fn windows_that_are_shuffled_when_needed_are_those_of_the_whole_order() {
        for pairs in [0, 1, 63, 64, 65, 1000, 4096, 4100] {
            for window in [1, 2, 63, 64, 100, 129, 1000, 5000] {
                for epoch in 0..3 {
                    let whole = at_once(pairs, window, 7, epoch);
                    assert_eq!(block_order(pairs, window, 7, epoch).unwrap(), whole, "{pairs} {window}");
                    // From the end to the start, so that no window is known from before.
                    let mut order = Order::new(pairs, Some(window), 7, epoch).unwrap();
                    for start in (0..pairs).rev().step_by(50) {
                        assert_eq!(order.pairs(start..start + 50), whole[start..pairs.min(start + 50)]);
                    }
                    let mut announced = whole.clone();
                    announced.chunks_mut(window).for_each(<[u64]>::sort_unstable);
                    assert_eq!(order.announced(0..pairs), announced);
                }
            }
        }
    }

    #[test]
    fn what_is_told_holds_the_pairs_and_runs_of_neighbours() {
        for (window, runs) in [(None, 0.5), (Some(640), 1.0 / 32.0)] {
            let mut order = Order::new(10_000, window, 3, 1).unwrap();
            let [all, announced] = [order.pairs(0..10_000), order.announced(0..10_000)];
            for pairs in [0, 1, 127, 128, 640, 641, 5000, 9999, 10_000] {
                let told: HashSet<_> = announced[..order.told(pairs)].iter().collect();
                assert!(all[..pairs].iter().all(|pair| told.contains(pair)), "{window:?} {pairs}");
            }
            let breaks = announced.windows(2).filter(|pair| pair[0] + 1 != pair[1]).count();
            let share = breaks as f64 / 10_000.0;
            assert!(share < 1.0 && (share < runs) == order.in_blocks(), "{window:?}: {share}");
        }
    }

    #[test]
    fn a_full_order_of_billions_of_pairs_is_refused() {
        let most = u32::MAX as usize;
        check(most, None).unwrap();
        let error = check(most + 1, None).unwrap_err().to_string();
        let expected = "--shuffle: expected at most 4294967295 training captions, because the order of all is held in \
                        memory, found 4294967296; give --shuffle blocks";
        assert_eq!(error, expected);
        check(BLOCK * most, Some(1)).unwrap();
        assert!(check(BLOCK * most + 1, Some(1)).is_err());
        assert_eq!((bytes(6400, None), bytes(6400, Some(100))), (25_600, 400 + 2400));
    }
}
