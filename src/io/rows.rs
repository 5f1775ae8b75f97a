//! Lists of row numbers. A row number is a u64, so a dataset may have billions of rows.
//!
//! A list of neighbours takes no memory per row, so the rows of such a dataset can be listed. Rows below 2^32 take four
//! bytes each where they are no neighbours, others eight.

mod collected;

pub(crate) use collected::Collected;
use std::fmt;
use std::ops::Range;

/// Neighbours: the rows `start`, `start + 1` and so on. The first of them is at position `first` of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: usize,
    start: u64,
}

/// How the rows are kept. The same rows are always kept in the same way.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kept {
    /// Runs, and the number of rows of all of them.
    Runs(Vec<Run>, usize),
    Short(Vec<u32>),
    Long(Vec<u64>),
}

/// A list of row numbers in any order. Neighbours, such as `0..5_000_000_000`, take no memory per row. Other rows take
/// 4 bytes each, or 8 if one of them is above `u32::MAX`.
///
/// ```
/// use wgoal::data::RowList;
/// let all = RowList::from(0..5_000_000_000);
/// assert_eq!((all.len(), all.get(4_999_999_999)), (5_000_000_000, Some(4_999_999_999)));
/// let some: RowList = [7, 3, 5].into();
/// assert_eq!(some.iter().max(), Some(7));
/// assert_eq!(some, [7, 3, 5]);
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct RowList(Kept);

impl RowList {
    /// The number of rows.
    pub fn len(&self) -> usize {
        match &self.0 {
            Kept::Runs(_, len) => *len,
            Kept::Short(rows) => rows.len(),
            Kept::Long(rows) => rows.len(),
        }
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The row at a position; `None` beyond the last.
    pub fn get(&self, position: usize) -> Option<u64> {
        match &self.0 {
            Kept::Runs(runs, len) => (position < *len).then(|| {
                let run = runs[runs.partition_point(|run| run.first <= position) - 1];
                run.start + (position - run.first) as u64
            }),
            Kept::Short(rows) => rows.get(position).map(|&row| row.into()),
            Kept::Long(rows) => rows.get(position).copied(),
        }
    }

    /// The row at a position.
    ///
    /// # Panics
    /// A position beyond the last, as for a slice.
    pub(crate) fn at(&self, position: usize) -> u64 {
        match self.get(position) {
            Some(row) => row,
            None => panic!("position {position} of a list of {} rows", self.len()),
        }
    }

    /// The rows in their order.
    pub fn iter(&self) -> RowIter<'_> {
        self.between(0..self.len())
    }

    /// The rows at these positions. Positions beyond the last count as none.
    pub fn between(&self, positions: Range<usize>) -> RowIter<'_> {
        let end = positions.end.min(self.len());
        let position = positions.start.min(end);
        let run = match &self.0 {
            Kept::Runs(runs, _) => runs.partition_point(|run| run.first <= position).saturating_sub(1),
            _ => 0,
        };
        RowIter { rows: self, position, end, run }
    }

    /// The rows in pieces of `size`. The last piece may have fewer.
    ///
    /// # Panics
    /// A size of 0, as for a slice.
    pub fn chunks(&self, size: usize) -> impl ExactSizeIterator<Item = Vec<u64>> + '_ {
        (0..self.len()).step_by(size).map(move |at| self.between(at..at.saturating_add(size)).collect())
    }

    /// All rows as a vector, 8 bytes each.
    pub fn to_vec(&self) -> Vec<u64> {
        self.iter().collect()
    }

    /// The neighbours in this list, in its order: the first row and the number of rows.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (u64, usize)> + '_ {
        let mut position = 0;
        std::iter::from_fn(move || {
            let start = self.get(position)?;
            let len = match &self.0 {
                Kept::Runs(runs, len) => {
                    let next = runs.partition_point(|run| run.first <= position);
                    runs.get(next).map_or(*len, |run| run.first) - position
                }
                _ => {
                    let rows = self.between(position..self.len()).zip(0..);
                    rows.take_while(|&(row, at)| row.checked_sub(start) == Some(at)).count()
                }
            };
            position += len;
            Some((start, len))
        })
    }

    /// Whether the list takes no memory per row.
    pub(crate) fn is_in_runs(&self) -> bool {
        matches!(self.0, Kept::Runs(..))
    }

    /// Whether it is `0..len`.
    pub(crate) fn counts_up(&self, len: usize) -> bool {
        self.len() == len && self.runs().next().is_none_or(|run| run == (0, len))
    }

    /// The rows of these lists in ascending order, each once.
    pub(crate) fn union<'a>(lists: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut runs: Vec<_> = lists.into_iter().flat_map(Self::runs).collect();
        runs.sort_unstable();
        let (mut rows, mut before) = (Collected::default(), None);
        for (start, len) in runs {
            let last = start + (len as u64 - 1);
            // The rows up to `before` are collected.
            match before {
                Some(before) if last <= before => {}
                Some(before) if start <= before => rows.push_run(before + 1, (last - before) as usize),
                _ => rows.push_run(start, len),
            }
            before = before.max(Some(last));
        }
        rows.finish()
    }

    /// The rows of these runs, one after the other.
    pub(crate) fn of_runs(runs: impl IntoIterator<Item = (u64, usize)>) -> Self {
        let mut rows = Collected::default();
        runs.into_iter().for_each(|(start, len)| rows.push_run(start, len));
        rows.finish()
    }

    /// How many different rows there are.
    pub fn count_distinct(&self) -> usize {
        Self::union([self]).len()
    }

    /// The first position with a row of `least` or more.
    pub(crate) fn position_of(&self, least: u64) -> Option<usize> {
        let mut position = 0;
        self.runs().find_map(|(start, len)| {
            let before = least.saturating_sub(start);
            let found = (before < len as u64).then(|| position + before as usize);
            position += len;
            found
        })
    }

    /// The position of a row in a list that ascends.
    pub(crate) fn position_in_ascending(&self, row: u64) -> Option<usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.at(middle) < row {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        (self.get(low) == Some(row)).then_some(low)
    }
}

impl Default for RowList {
    fn default() -> Self {
        Self(Kept::Short(Vec::new()))
    }
}

impl fmt::Debug for RowList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kept::Runs(..) => f
                .debug_list()
                .entries(self.runs().map(|(start, len)| start..start.saturating_add(len as u64)))
                .finish(),
            Kept::Short(rows) => rows.fmt(f),
            Kept::Long(rows) => rows.fmt(f),
        }
    }
}

/// The rows of a [`RowList`], in its order.
#[derive(Debug, Clone)]
pub struct RowIter<'a> {
    rows: &'a RowList,
    position: usize,
    end: usize,
    /// The run that the position is in.
    run: usize,
}

impl Iterator for RowIter<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        if self.position >= self.end {
            return None;
        }
        let row = match &self.rows.0 {
            Kept::Runs(runs, _) => {
                if runs.get(self.run + 1).is_some_and(|next| next.first <= self.position) {
                    self.run += 1;
                }
                runs[self.run].start + (self.position - runs[self.run].first) as u64
            }
            Kept::Short(rows) => rows[self.position].into(),
            Kept::Long(rows) => rows[self.position],
        };
        self.position += 1;
        Some(row)
    }

    fn nth(&mut self, skipped: usize) -> Option<u64> {
        *self = self.rows.between(self.position.saturating_add(skipped)..self.end);
        self.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.end - self.position;
        (left, Some(left))
    }
}

impl ExactSizeIterator for RowIter<'_> {}

impl<'a> IntoIterator for &'a RowList {
    type Item = u64;
    type IntoIter = RowIter<'a>;

    fn into_iter(self) -> RowIter<'a> {
        self.iter()
    }
}

impl From<Range<u64>> for RowList {
    fn from(rows: Range<u64>) -> Self {
        // A system with short addresses has no file of more rows.
        let len = usize::try_from(rows.end.saturating_sub(rows.start)).unwrap_or(usize::MAX);
        Self::of_runs([(rows.start, len)])
    }
}

impl FromIterator<u64> for RowList {
    fn from_iter<I: IntoIterator<Item = u64>>(rows: I) -> Self {
        let mut collected = Collected::default();
        rows.into_iter().for_each(|row| collected.push(row));
        collected.finish()
    }
}

impl From<Vec<u64>> for RowList {
    fn from(rows: Vec<u64>) -> Self {
        rows.into_iter().collect()
    }
}

impl From<&[u64]> for RowList {
    fn from(rows: &[u64]) -> Self {
        rows.iter().copied().collect()
    }
}

impl<const N: usize> From<[u64; N]> for RowList {
    fn from(rows: [u64; N]) -> Self {
        rows.into_iter().collect()
    }
}

impl PartialEq<[u64]> for RowList {
    fn eq(&self, rows: &[u64]) -> bool {
        self.iter().eq(rows.iter().copied())
    }
}

impl PartialEq<Vec<u64>> for RowList {
    fn eq(&self, rows: &Vec<u64>) -> bool {
        *self == rows[..]
    }
}

impl<const N: usize> PartialEq<[u64; N]> for RowList {
    fn eq(&self, rows: &[u64; N]) -> bool {
        *self == rows[..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = u32::MAX as u64;

    #[test]
    fn lists_hold_their_rows_however_they_are_kept() {
        let scattered: Vec<u64> = (0..200_000).map(|i| i * 7919 % 200_003).collect();
        let far: Vec<u64> = scattered.iter().map(|row| row + LIMIT - 100_000).collect();
        let runs: Vec<u64> = (0..500).chain(480..600).chain(9_000_000_000..9_000_000_500).collect();
        for (rows, in_runs) in
            [(vec![], false), (vec![5, 4], false), (scattered, false), (far, false), (runs, true)]
        {
            let kept = RowList::from(rows.clone());
            assert_eq!((kept.is_in_runs(), kept.len()), (in_runs, rows.len()));
            assert!(kept == rows && kept.to_vec() == rows);
            assert_eq!(kept.chunks(64).flatten().collect::<Vec<_>>(), rows);
            let runs = kept.runs().flat_map(|(start, len)| start..start + len as u64);
            assert!(runs.eq(rows.iter().copied()));
            assert!(kept.iter().step_by(97).eq(rows.iter().copied().step_by(97)));
            assert!((0..=rows.len()).step_by(13).all(|at| kept.get(at) == rows.get(at).copied()));
            assert_eq!(RowList::of_runs(kept.runs()), kept, "the same rows are kept in the same way");
            let sorted = RowList::union([&kept, &kept]);
            let expected: std::collections::BTreeSet<u64> = rows.iter().copied().collect();
            assert!(sorted.iter().eq(expected) && sorted.len() == kept.count_distinct());
            for row in rows.iter().step_by((rows.len() / 1200).max(1)) {
                assert_eq!(sorted.position_in_ascending(*row).map(|at| sorted.at(at)), Some(*row));
                assert_eq!(kept.position_of(*row), rows.iter().position(|other| other >= row));
            }
        }
    }

    #[test]
    fn billions_of_neighbours_take_no_memory() {
        let rows = RowList::from(0..5_000_000_000);
        assert!(rows.is_in_runs() && rows.counts_up(5_000_000_000));
        assert_eq!(
            rows.between(4_999_999_998..6_000_000_000).collect::<Vec<_>>(),
            [4_999_999_998, 4_999_999_999]
        );
        assert_eq!(rows.position_in_ascending(4_500_000_000), Some(4_500_000_000));
        assert_eq!(format!("{rows:?}"), "[0..5000000000]");
        assert!(!RowList::from([0, 2]).counts_up(2) && RowList::default().counts_up(0));
        let last: RowList = (u64::MAX - 40..u64::MAX).chain([u64::MAX, 0]).collect();
        assert_eq!((last.at(40), last.at(41), last.runs().last()), (u64::MAX, 0, Some((0, 1))));
    }

    #[test]
    fn a_row_above_32_bits_makes_a_list_long() {
        let mut rows = Collected::default();
        let scattered = || (0..300_000u64).map(|i| i * 7919 % 300_007);
        scattered().chain([LIMIT, LIMIT + 1]).for_each(|row| rows.push(row));
        let rows = rows.finish();
        assert!(matches!(rows.0, Kept::Long(_)) && rows.at(300_001) == LIMIT + 1);
        assert!(rows.iter().eq(scattered().chain([LIMIT, LIMIT + 1])));
        assert!(matches!(scattered().collect::<RowList>().0, Kept::Short(_)));
    }
}
