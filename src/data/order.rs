//! The order in which an epoch visits its pairs: a pure function of seed and epoch.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

use crate::math::{Purpose, random};

/// Pairs per block. They are neighbours, so the disk reads a block in one piece.
const BLOCK: usize = 64;

/// The order in which an epoch visits its pairs: `0..pairs`, shuffled by seed and epoch.
///
/// Pairs beyond `u32::MAX` are left out. No dataset that can be opened has so many.
pub fn pair_order(pairs: usize, seed: u64, epoch: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..u32::try_from(pairs).unwrap_or(u32::MAX)).collect();
    shuffle(&mut order, &mut random(Purpose::Order, seed, epoch, 0));
    order
}

/// [`pair_order`] in two stages (CorgiPile, Xu et al., 2022). First, blocks of 64 neighbours are shuffled. Then, the
/// pairs within each `window` of the result are shuffled. A window is read block by block. A window of all pairs makes
/// it a full shuffle.
pub fn block_order(pairs: usize, window: usize, seed: u64, epoch: u64) -> Vec<u32> {
    let pairs = u32::try_from(pairs).unwrap_or(u32::MAX);
    let mut rng = random(Purpose::Order, seed, epoch, 0);
    let mut blocks: Vec<u32> = (0..pairs).step_by(BLOCK).collect();
    shuffle(&mut blocks, &mut rng);
    let block = |start: u32| start..start.saturating_add(BLOCK as u32).min(pairs);
    let mut order: Vec<u32> = blocks.into_iter().flat_map(block).collect();
    order.chunks_mut(window.max(1)).for_each(|window| shuffle(window, &mut rng));
    order
}

/// Implemented here, because an order must not change with the version of a library or the width of usize.
fn shuffle(order: &mut [u32], rng: &mut ChaCha8Rng) {
    for last in (1..order.len()).rev() {
        let chosen = (u128::from(rng.next_u64()) * (last as u128 + 1)) >> 64;
        order.swap(last, chosen as usize);
    }
}

/// An epoch's order, and the order in which its pairs are announced to the system.
pub(super) struct Order {
    pub pairs: Vec<u32>,
    /// Each window in ascending order, so that neighbours are fetched together.
    pub announced: Vec<u32>,
    /// By how many pairs `announced` is ahead of `pairs`: one window, or 0 without windows.
    lead: usize,
}

impl Order {
    pub fn new(pairs: usize, window: Option<usize>, seed: u64, epoch: u64) -> Self {
        match window {
            None => {
                let pairs = pair_order(pairs, seed, epoch);
                Self { announced: pairs.clone(), pairs, lead: 0 }
            }
            Some(window) => {
                let pairs = block_order(pairs, window, seed, epoch);
                let mut announced = pairs.clone();
                announced.chunks_mut(window.max(1)).for_each(<[u32]>::sort_unstable);
                Self { pairs, announced, lead: window }
            }
        }
    }

    /// Whether the order consists of blocks of neighbours.
    pub fn in_blocks(&self) -> bool {
        self.lead > 0
    }

    /// Where in `announced` an epoch begins that goes on after `pairs` pairs: with the window that they end in.
    pub fn first(&self, pairs: usize) -> usize {
        match self.lead {
            0 => pairs,
            window => pairs / window * window,
        }
    }

    /// How many entries of `announced`, from its start, contain the first `pairs` of the order.
    pub fn told(&self, pairs: usize) -> usize {
        self.announced.len().min(pairs.saturating_add(self.lead))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn what_is_told_holds_the_pairs_and_runs_of_neighbours() {
        for (window, runs) in [(None, 0.5), (Some(640), 1.0 / 32.0)] {
            let order = Order::new(10_000, window, 3, 1);
            for pairs in [0, 1, 127, 128, 640, 641, 5000, 9999, 10_000] {
                let told: HashSet<_> = order.announced[..order.told(pairs)].iter().collect();
                assert!(order.pairs[..pairs].iter().all(|pair| told.contains(pair)), "{window:?} {pairs}");
            }
            let breaks = order.announced.windows(2).filter(|pair| pair[0] + 1 != pair[1]).count();
            let share = breaks as f64 / 10_000.0;
            assert!(share < 1.0 && (share < runs) == order.in_blocks(), "{window:?}: {share}");
        }
    }
}
