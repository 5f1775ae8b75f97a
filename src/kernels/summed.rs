//! The reference of `log_sum_exp` where the probabilities of an anchor's targets add up. Negatives and targets each have
//! a maximum of their own. Otherwise all exponentials of the targets would underflow where a negative is far above them.

use super::{Block, LANES, Lanes, NO_PAIR, NOTHING, Real, Scan, is_left_out};
use std::ops::Range;

/// (max s, sum of e^x) of the negatives, then of the targets.
type State<'a, T> = &'a mut [T];

/// Writes `state [pairs, 4]` = (max s of the negatives, their sum of e^x, max s of the targets, their sum of e^x) of every
/// anchor, and a distance of 0. Blocks continue each other.
pub(super) fn reference<T: Real>(
    block: &Block,
    similarity: &[T],
    ids: &[u32],
    rate: T,
    (state, distance): (&mut [T], &mut [T]),
) {
    let own = block.anchor_offset..block.anchor_offset + block.anchors;
    distance[own.clone()].fill(T::zero());
    let mut states: Vec<_> = state.chunks_exact_mut(4).collect();
    if block.candidate_offset == 0 {
        let nothing = T::of(NOTHING.into());
        let empty = [nothing, T::zero(), nothing, T::zero()];
        states[own.clone()].iter_mut().for_each(|state| state.copy_from_slice(&empty));
    }
    let earlier: Vec<_> = states.iter().map(|state| [state[0], state[2]]).collect();
    block.scan(similarity, &mut states, &Highest(ids));
    let tops: [Vec<_>; 2] = [0, 2].map(|at| states.iter().map(|state| state[at]).collect());
    for anchor in own {
        // Rescale the earlier sums to the new maxima.
        for (part, &earlier) in earlier[anchor].iter().enumerate() {
            states[anchor][2 * part + 1] *= (rate * (earlier - tops[part][anchor])).exp();
        }
    }
    block.scan(similarity, &mut states, &Sums { ids, rate, tops: &tops });
}

/// Whether each lane holds a negative of its anchor, and whether it holds a target.
#[inline(always)]
fn roles<T: Real>(ids: &[u32], lanes: &Lanes<T>) -> [[bool; LANES]; 2] {
    let (own, other) = lanes.ids(Some(ids));
    let mut roles = [[false; LANES]; 2];
    for k in 0..LANES {
        let some = (lanes.candidate[k] != NO_PAIR) & !is_left_out(lanes.s[k]);
        let same = own[k] == other[k];
        (roles[0][k], roles[1][k]) = (some & !same, some & same);
    }
    roles
}

/// The first pass: the largest similarities.
struct Highest<'a>(&'a [u32]);

impl<'a, T: Real> Scan<T> for Highest<'a> {
    type Sums = [[T; LANES]; 2];
    type State = State<'a, T>;

    fn begin(&self) -> Self::Sums {
        [[T::of(NOTHING.into()); LANES]; 2]
    }

    #[inline(always)]
    fn visit(&self, tops: &mut Self::Sums, lanes: &Lanes<T>) {
        for (top, role) in tops.iter_mut().zip(roles(self.0, lanes)) {
            for k in 0..LANES {
                let s = lanes.s[k];
                top[k] = if role[k] & (s > top[k]) { s } else { top[k] };
            }
        }
    }

    fn end(&self, state: &mut Self::State, tops: &Self::Sums, own: Range<usize>) {
        for (part, top) in tops.iter().enumerate() {
            state[2 * part] = top[own.clone()].iter().copied().fold(state[2 * part], T::max);
        }
    }
}

/// The second pass: the sums.
struct Sums<'a, T> {
    ids: &'a [u32],
    rate: T,
    /// The maxima of negatives and of targets.
    tops: &'a [Vec<T>; 2],
}

impl<'a, T: Real> Scan<T> for Sums<'a, T> {
    type Sums = [[T; LANES]; 2];
    type State = State<'a, T>;

    fn begin(&self) -> Self::Sums {
        [[T::zero(); LANES]; 2]
    }

    #[inline(always)]
    fn visit(&self, sums: &mut Self::Sums, lanes: &Lanes<T>) {
        for ((sum, tops), role) in sums.iter_mut().zip(self.tops).zip(roles(self.ids, lanes)) {
            let top = Lanes::<T>::of(&lanes.anchor, tops);
            for k in 0..LANES {
                let e = (self.rate * (lanes.s[k] - top[k])).power_of_e();
                sum[k] += if role[k] { e } else { T::zero() };
            }
        }
    }

    fn end(&self, state: &mut Self::State, sums: &Self::Sums, own: Range<usize>) {
        for (part, sums) in sums.iter().enumerate() {
            let before = state[2 * part + 1];
            state[2 * part + 1] = sums[own.clone()].iter().fold(before, |total, &sum| total + sum);
        }
    }
}
