//! How references walk over a block of similarities: element by element, or in lanes for vector instructions.

use super::{Block, Real};
use rayon::prelude::*;
use std::ops::Range;

/// Number of elements that a reference processes together.
pub(crate) const LANES: usize = 32;
/// Stands for no pair, in lanes past the end.
pub(crate) const NO_PAIR: u32 = u32::MAX;

/// The computation of a reference over the elements of a block.
pub(crate) trait Scan<T>: Sync {
    /// Accumulators, one set per lane.
    type Sums;
    /// The state of an anchor.
    type State: Send;

    fn begin(&self) -> Self::Sums;

    /// Adds the elements of all lanes to the sums. It must be inlined, whatever its size, and must not branch on lanes.
    /// Then it becomes vector instructions of the processor it runs on.
    fn visit(&self, sums: &mut Self::Sums, lanes: &Lanes<T>);

    /// Whether [`Scan::visit_others`] may take the place of [`Scan::visit`].
    fn has_others(&self) -> bool {
        false
    }

    /// [`Scan::visit`] with the same bits, for lanes that are all filled, none of them with an anchor's own pair.
    #[inline(always)]
    fn visit_others(&self, sums: &mut Self::Sums, lanes: &Lanes<T>) {
        self.visit(sums, lanes);
    }

    /// Adds the sums of an anchor's own lanes to its state, once per block.
    fn end(&self, state: &mut Self::State, sums: &Self::Sums, own: Range<usize>);
}

/// Some elements of a block. Lanes with the candidate [`NO_PAIR`] are empty.
pub(crate) struct Lanes<T> {
    pub anchor: [u32; LANES],
    pub candidate: [u32; LANES],
    pub s: [T; LANES],
}

impl<T: Real> Lanes<T> {
    /// Image ids of the anchors and of the candidates. Pairs with equal ids are never negatives of each other.
    #[inline(always)]
    pub fn ids(&self, ids: Option<&[u32]>) -> ([u32; LANES], [u32; LANES]) {
        match ids {
            Some(ids) => (Self::of(&self.anchor, ids), Self::of(&self.candidate, ids)),
            None => (self.anchor, self.candidate),
        }
    }

    /// Fills lanes with similarities, and the remaining lanes with no pair.
    #[inline(always)]
    fn take(&mut self, s: &[T]) {
        // In all chunks but the last, the compiler knows the length.
        match s.try_into() {
            Ok(s) => self.s = s,
            Err(_) => {
                self.s[..s.len()].copy_from_slice(s);
                self.candidate[s.len()..].fill(NO_PAIR);
            }
        }
    }

    /// Values by pair number. Empty lanes get the first value.
    #[inline(always)]
    pub fn of<V: Copy>(pairs: &[u32; LANES], values: &[V]) -> [V; LANES] {
        // If all lanes have the same pair, or consecutive pairs, no value is looked up by lane.
        let first = pairs[0] as usize;
        if pairs[1] == pairs[0] {
            return [values[first]; LANES];
        }
        match values.get(first..first + LANES) {
            Some(values) => std::array::from_fn(|lane| values[lane]),
            None => {
                std::array::from_fn(|lane| values.get(pairs[lane] as usize).copied().unwrap_or(values[0]))
            }
        }
    }
}

fn iota(first: usize) -> [u32; LANES] {
    std::array::from_fn(|lane| (first + lane) as u32)
}

/// A scan whose lanes are candidates of one anchor, with the processor's vector instructions.
struct AlongRow<'a, T, S: Scan<T>> {
    scan: &'a S,
    block: &'a Block,
    anchor: usize,
    row: &'a [T],
    state: &'a mut S::State,
}

impl<T: Real, S: Scan<T>> pulp::WithSimd for AlongRow<'_, T, S> {
    type Output = ();

    #[inline(always)]
    fn with_simd<P: pulp::Simd>(self, _: P) {
        let Self { scan, block, anchor, row, state } = self;
        let mut sums = scan.begin();
        let mut lanes = Lanes { anchor: [anchor as u32; LANES], candidate: iota(0), s: [T::zero(); LANES] };
        let has_others = scan.has_others();
        for (chunk, s) in row.chunks(LANES).enumerate() {
            let first = block.candidate_offset + chunk * LANES;
            lanes.candidate = iota(first);
            lanes.take(s);
            if has_others && s.len() == LANES && !(first..first + LANES).contains(&anchor) {
                scan.visit_others(&mut sums, &lanes);
            } else {
                scan.visit(&mut sums, &lanes);
            }
        }
        scan.end(state, &sums, 0..LANES);
    }
}

/// A scan whose lanes are up to [`LANES`] anchors, adjacent in every row.
struct DownColumns<'a, T, S: Scan<T>> {
    scan: &'a S,
    block: &'a Block,
    first: usize,
    similarity: &'a [T],
    states: &'a mut [S::State],
}

impl<T: Real, S: Scan<T>> pulp::WithSimd for DownColumns<'_, T, S> {
    type Output = ();

    #[inline(always)]
    fn with_simd<P: pulp::Simd>(self, _: P) {
        let Self { scan, block, first, similarity, states } = self;
        let offset = block.anchor_offset;
        let mut sums = scan.begin();
        let mut lanes = Lanes { anchor: iota(offset + first), candidate: [0; LANES], s: [T::zero(); LANES] };
        lanes.anchor[states.len()..].fill(offset as u32);
        let has_others = scan.has_others() && states.len() == LANES;
        let own = offset + first..offset + first + LANES;
        for c in 0..block.candidates {
            let candidate = c + block.candidate_offset;
            lanes.candidate = [candidate as u32; LANES];
            lanes.take(&similarity[c * block.candidate_stride + first..][..states.len()]);
            if has_others && !own.contains(&candidate) {
                scan.visit_others(&mut sums, &lanes);
            } else {
                scan.visit(&mut sums, &lanes);
            }
        }
        for (lane, state) in states.iter_mut().enumerate() {
            scan.end(state, &sums, lane..lane + 1);
        }
    }
}

impl Block {
    /// Visits every element once, [`LANES`] elements at a time. Anchors run in parallel, each with its candidates in
    /// ascending order. `states` has one state per pair.
    pub(crate) fn scan<T: Real, S: Scan<T>>(&self, similarity: &[T], states: &mut [S::State], scan: &S) {
        let states = &mut states[self.anchor_offset..self.anchor_offset + self.anchors];
        let arch = pulp::Arch::new();
        if self.candidate_stride == 1 {
            states.par_iter_mut().enumerate().with_min_len(4).for_each(|(a, state)| {
                let row = &similarity[a * self.anchor_stride..][..self.candidates];
                arch.dispatch(AlongRow { scan, block: self, anchor: a + self.anchor_offset, row, state });
            });
            return;
        }
        states.par_chunks_mut(LANES).enumerate().for_each(|(chunk, states)| {
            arch.dispatch(DownColumns { scan, block: self, first: chunk * LANES, similarity, states });
        });
    }

    /// Visits every element once, in the order in which it is stored. Anchors run in parallel, each with its candidates
    /// in ascending order. `states` has one state per pair, and `visit(state, anchor, candidate, s)` takes pair
    /// numbers.
    pub(crate) fn sweep<T: Real, S: Send>(
        &self,
        similarity: &[T],
        states: &mut [S],
        visit: impl Fn(&mut S, usize, usize, T) + Sync,
    ) {
        const CHUNK: usize = 32;
        let states = &mut states[self.anchor_offset..self.anchor_offset + self.anchors];
        states.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, states)| {
            let first = chunk * CHUNK;
            if self.candidate_stride == 1 {
                for (a, state) in states.iter_mut().enumerate().map(|(a, state)| (first + a, state)) {
                    let row = &similarity[a * self.anchor_stride..][..self.candidates];
                    for (c, &s) in row.iter().enumerate() {
                        visit(state, a + self.anchor_offset, c + self.candidate_offset, s);
                    }
                }
            } else {
                for c in 0..self.candidates {
                    let row = &similarity[c * self.candidate_stride + first * self.anchor_stride..];
                    for (a, state) in states.iter_mut().enumerate() {
                        let s = row[a * self.anchor_stride];
                        visit(state, first + a + self.anchor_offset, c + self.candidate_offset, s);
                    }
                }
            }
        });
    }
}
