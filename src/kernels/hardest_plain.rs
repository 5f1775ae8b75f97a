//! The reference of `hardest` for candidates without a mask or a bound: the maxima first, then the first place of each.
//! It finds what the scan with masks finds, in a third of the time.

use super::{Block, LANES, Real, is_left_out, vectorized};
use rayon::prelude::*;

/// What an anchor's own pair counts as, if it is a candidate.
const OWN: f64 = -1.0;

/// Continues n and h of the anchors of a block: n is negative infinity where an anchor has found nothing.
pub(super) fn scan<T: Real>(
    block: &Block,
    similarity: &[T],
    exclude_own: bool,
    (value, index): (&mut [T], &mut [u32]),
) {
    let own = block.anchor_offset..block.anchor_offset + block.anchors;
    let (value, index) = (&mut value[own.clone()], &mut index[own]);
    if block.candidate_stride == 1 {
        let states = value.par_iter_mut().zip(index).enumerate().with_min_len(4);
        states.for_each(|(a, state)| {
            let row = &similarity[a * block.anchor_stride..][..block.candidates];
            let own = (a + block.anchor_offset).checked_sub(block.candidate_offset);
            let found = vectorized(
                #[inline(always)]
                || along_row(row, own),
            );
            let own = own.filter(|&own| own < row.len() && !exclude_own);
            settle(block, found, own, state);
        });
        return;
    }
    let found = down_columns(block, similarity);
    for (a, (state, found)) in value.iter_mut().zip(index).zip(found).enumerate() {
        let own = (a + block.anchor_offset).checked_sub(block.candidate_offset);
        let own = own.filter(|&own| own < block.candidates && !exclude_own);
        settle(block, found, own, state);
    }
}

/// Puts the best negative of a block, or the own pair if it is better or comes first, in the place of a worse one.
fn settle<T: Real>(
    block: &Block,
    negative: Option<(T, usize)>,
    own: Option<usize>,
    (n, h): (&mut T, &mut u32),
) {
    let own = own.map(|own| (T::of(OWN), own));
    let best = match (negative, own) {
        (Some(negative), Some(own)) if own.0 > negative.0 || (own.0 == negative.0 && own.1 < negative.1) => {
            Some(own)
        }
        (None, own) => own,
        (negative, _) => negative,
    };
    // On a tie, the earlier block wins, because it holds lower indices.
    if let Some((m, candidate)) = best.filter(|(m, _)| *m > *n) {
        (*n, *h) = (m, (candidate + block.candidate_offset) as u32);
    }
    if *n == T::neg_infinity() {
        *n = T::of(OWN);
    }
}

/// The largest element of a row but its own, and its first place; `None` if all are left out.
#[inline(always)]
fn along_row<T: Real>(row: &[T], own: Option<usize>) -> Option<(T, usize)> {
    let own = own.map_or(row.len(), |own| own.min(row.len()));
    let (before, after) = (&row[..own], &row[row.len().min(own + 1)..]);
    let (top, other) = (largest(before), largest(after));
    let top = if other > top { other } else { top };
    if is_left_out(top) {
        return None;
    }
    let place = first(before, top).or_else(|| first(after, top).map(|place| place + own + 1));
    place.map(|place| (top, place))
}

/// The largest of some numbers.
#[inline(always)]
fn largest<T: Real>(values: &[T]) -> T {
    let mut top = [T::neg_infinity(); LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    for s in whole {
        for k in 0..LANES {
            top[k] = if s[k] > top[k] { s[k] } else { top[k] };
        }
    }
    let mut half = LANES / 2;
    while half > 0 {
        for k in 0..half {
            top[k] = if top[k + half] > top[k] { top[k + half] } else { top[k] };
        }
        half /= 2;
    }
    rest.iter().fold(top[0], |top, &s| if s > top { s } else { top })
}

/// The first place of a number.
#[inline(always)]
fn first<T: Real>(values: &[T], wanted: T) -> Option<usize> {
    let (whole, _) = values.as_chunks::<LANES>();
    let holds = |s: &[T; LANES]| s.iter().fold(false, |found, &s| found | (s == wanted));
    let chunk = whole.iter().position(holds).unwrap_or(whole.len());
    let place = values[chunk * LANES..].iter().position(|&s| s == wanted);
    place.map(|place| chunk * LANES + place)
}

impl Block {
    /// The stored rows of candidates from `first` on: the number of each, its elements, and the place among them of its
    /// own pair, if that is one of the anchors.
    fn candidate_rows<'a, T>(
        &self,
        first: usize,
        rows: &'a [T],
    ) -> impl Iterator<Item = (usize, &'a [T], usize)> {
        let Self { anchors, anchor_offset, candidates, candidate_offset, .. } = *self;
        let rows = rows.chunks(self.candidate_stride).zip(first..candidates);
        rows.map(move |(row, c)| (c, &row[..anchors], (c + candidate_offset).wrapping_sub(anchor_offset)))
    }
}

/// The same for every column of a block, in the order in which it is stored.
fn down_columns<T: Real>(block: &Block, similarity: &[T]) -> Vec<Option<(T, usize)>> {
    // The candidates of a task. The result does not depend on it.
    let step = (block.candidates / 16).clamp(8, 64);
    let tasks = || similarity.par_chunks(step * block.candidate_stride).enumerate();
    let parts: Vec<_> = tasks()
        .map(|(task, rows)| {
            let mut tops = vec![T::neg_infinity(); block.anchors];
            for (_, row, own) in block.candidate_rows(task * step, rows) {
                let before = tops.get(own).copied();
                vectorized(
                    #[inline(always)]
                    || {
                        for (top, &s) in tops.iter_mut().zip(row) {
                            *top = if s > *top { s } else { *top };
                        }
                    },
                );
                if let (Some(top), Some(before)) = (tops.get_mut(own), before) {
                    *top = before;
                }
            }
            tops
        })
        .collect();
    let mut tops = vec![T::neg_infinity(); block.anchors];
    for part in &parts {
        tops.iter_mut().zip(part).for_each(|(top, &s)| *top = if s > *top { s } else { *top });
    }
    // No similarity is NaN.
    let wanted: Vec<T> = tops.iter().map(|&top| if is_left_out(top) { T::nan() } else { top }).collect();
    let places: Vec<Vec<(usize, usize)>> = tasks()
        .map(|(task, rows)| {
            let (mut wanted, mut places) = (wanted.clone(), Vec::new());
            for (c, row, own) in block.candidate_rows(task * step, rows) {
                vectorized(
                    #[inline(always)]
                    || {
                        find(row, &mut wanted, own, |j| places.push((j, c)));
                    },
                );
            }
            places
        })
        .collect();
    let mut found = vec![None; block.anchors];
    for (j, c) in places.into_iter().flatten() {
        found[j] = found[j].or(Some((tops[j], c)));
    }
    found
}

/// Calls `hit` with the places where a row has the wanted number, and wants it no more. The place `own` is no hit.
#[inline(always)]
fn find<T: Real>(row: &[T], wanted: &mut [T], own: usize, mut hit: impl FnMut(usize)) {
    for (chunk, (s, wanted)) in row.chunks(LANES).zip(wanted.chunks_mut(LANES)).enumerate() {
        let any = match (<&[T; LANES]>::try_from(s), <&[T; LANES]>::try_from(&*wanted)) {
            (Ok(s), Ok(wanted)) => (0..LANES).fold(false, |any, k| any | (s[k] == wanted[k])),
            _ => true,
        };
        if !any {
            continue;
        }
        for (k, (s, wanted)) in s.iter().zip(wanted).enumerate() {
            if s == wanted && chunk * LANES + k != own {
                hit(chunk * LANES + k);
                *wanted = T::nan();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::leave_out::NOTHING;
    use super::super::{Block, hardest};
    use crate::device::padded;

    /// Distinct ids mask nothing, so the scan with masks must find the same bits: among ties, with numbers that are left
    /// out, in blocks that continue each other.
    #[test]
    fn it_finds_what_the_scan_with_masks_finds() {
        // Multiples of 1/4 have ties, also with -1. Multiples of 1e-5 have none that matters, so each lane counts.
        for (pairs, unit) in
            [1, 2, 31, 32, 33, 100].into_iter().flat_map(|pairs| [(pairs, 0.25), (pairs, 1e-5)])
        {
            let stride = padded(pairs);
            let similarity: Vec<f32> = (0..pairs * stride)
                .map(|at| match at % 13 {
                    3 => NOTHING,
                    _ => (((at * at) as f32).sin().mul_add(1.5, -1.0) / unit).round() * unit,
                })
                .collect();
            let ids: Vec<u32> = (0..pairs as u32).collect();
            for (rows, exclude_own) in [(pairs, true), (pairs, false), (16, true), (16, false)] {
                for texts in [false, true] {
                    let [plain, masked] = [None, Some(&ids[..])].map(|ids| {
                        let (mut p, mut n, mut h) = (vec![0.0; pairs], vec![0.0; pairs], vec![0; pairs]);
                        for begin in (0..pairs).step_by(rows) {
                            let rows = rows.min(pairs - begin);
                            let block = match texts {
                                true => Block::texts(begin, rows, pairs),
                                false => Block::images(begin, rows, pairs),
                            };
                            let out = (&mut p[..], &mut n[..], &mut h[..]);
                            let s = &similarity[begin * stride..];
                            hardest::reference(&block, s, (ids, exclude_own, None), out);
                        }
                        (p, n, h)
                    });
                    assert!(
                        plain == masked,
                        "{pairs} pairs, {rows} rows, {exclude_own}, texts {texts}, multiples of {unit}"
                    );
                }
            }
        }
    }
}
