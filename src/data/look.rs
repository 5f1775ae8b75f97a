//! One pass over the rows of a feature array: what is zero, equal, constant or extreme.
//!
//! Reads every row once, or a bounded sample of a large array. A sample consists of runs of neighbours, in which equal
//! rows show. It changes nothing and judges nothing.

use std::collections::HashMap;
use std::ops::Range;

use super::array::FeatureFile;
use super::hash::Hash;
use super::sample::{RUN, sample};
use super::{Dataset, Side, Split};
use crate::io::RowList;
use crate::math::dot;

/// What one array of features holds.
pub(super) struct Look<'a> {
    pub side: Side,
    /// Whether the rows are regions or tokens.
    pub local: bool,
    pub file: &'a FeatureFile,
    /// Whether only some of the items were looked at.
    pub sampled: bool,
    /// How many rows are in use, and how many of them are not zero.
    pub used: [usize; 2],
    /// The rows in use that are zero.
    pub zero: Vec<usize>,
    /// Rows that cannot be read, because they hold values that are not finite.
    pub bad: Vec<usize>,
    /// How many items are not zero.
    pub items: usize,
    /// Items that are equal to an earlier one, each with the first such one.
    pub equal: Vec<(u64, u64)>,
    /// Those of them that repeat an image, or a caption of another image.
    pub repeated: Vec<(u64, u64)>,
    /// Items of a split that are equal to one of an earlier split.
    pub leaks: Vec<Leak>,
    /// The lowest value of every column, over the rows in use that are not zero. `highest` likewise.
    pub lowest: Vec<f32>,
    pub highest: Vec<f32>,
    /// The rows in use that are not zero, and their lengths.
    pub lengths: Vec<(u64, f32)>,
}

/// Items of the split `into` that are equal to an item of the split `from`.
pub(super) struct Leak {
    pub from: Split,
    pub into: Split,
    pub count: usize,
    /// The first such item of `into`, and the first item of `from` that is equal to it.
    pub first: (u64, u64),
}

/// Equal items: the first of all, and the first of every split.
struct Equal {
    first: u64,
    of_split: [Option<u64>; 3],
}

/// What to look at.
pub(super) struct Scope<'a> {
    pub side: Side,
    /// Zero rows, columns and lengths count only among these items. Equal rows count everywhere, because they are a
    /// fault of the whole array.
    pub items: &'a RowList,
    /// Most bytes of an array to read; more are sampled.
    pub most: Option<usize>,
}

impl Dataset {
    /// Looks at the rows of an item (`pooled`), at the local rows, or at both.
    pub(super) fn looks(&self, scope: &Scope, pooled: bool, local: bool) -> Vec<Look<'_>> {
        let features = &self.sides[scope.side as usize];
        let mut looks = Vec::new();
        if let (Some(file), true) = (&features.pooled, pooled) {
            looks.push(self.look(scope, file, false, |item| item..item + 1));
        }
        if let (Some(rows), true) = (&features.local, local) {
            looks.push(self.look(scope, &rows.rows, true, |item| rows.rows_of(item)));
        }
        looks
    }

    /// The split of each of these items of a side, which ascend, as its position in [`Split::ALL`].
    fn split_of(&self, side: Side, hashes: &[(u64, u128)]) -> Vec<Option<u8>> {
        let mut of = vec![None; hashes.len()];
        let place = |row: u64| hashes.partition_point(|&(item, _)| item < row);
        for (rows, split) in self.splits.iter().zip(0..) {
            for (start, len) in rows.of(side).runs() {
                of[place(start)..place(start + len as u64)].fill(Some(split));
            }
        }
        of
    }

    fn look<'a>(
        &self,
        scope: &Scope,
        file: &'a FeatureFile,
        local: bool,
        own: impl Fn(usize) -> Range<usize>,
    ) -> Look<'a> {
        let (all, items) = (self.items(scope.side), scope.items);
        let most = scope.most.map_or(usize::MAX, |bytes| {
            (bytes / (file.row_bytes() * file.rows.div_ceil(all.max(1))).max(1)).max(RUN)
        });
        let looked_at = if all <= most { (0..all as u64).into() } else { sample(items, most) };
        let mut look = Look::new(scope.side, local, file, looked_at.len() < items.len());
        let (mut bytes, mut values) = (Vec::new(), vec![0.0; file.cols]);
        let mut hashes = Vec::new();
        for item in &looked_at {
            let used = items.position_in_ascending(item).is_some();
            let (mut hash, mut zero, mut whole) = (Hash::default(), true, true);
            for row in own(item as usize) {
                let read = file.read_bytes(row, &mut bytes).map(|()| file.decode_row(&bytes, &mut values));
                let Some(largest) = read.ok().filter(|&largest| largest < f32::INFINITY.to_bits()) else {
                    look.bad.push(row);
                    whole = false;
                    continue;
                };
                hash.add(&bytes);
                zero &= largest == 0;
                if used {
                    look.row(row, largest == 0, &values);
                }
            }
            if whole && !zero {
                hashes.push((item, hash.0));
            }
        }
        look.items = hashes.len();
        self.compare(&mut look, &hashes);
        look
    }

    /// Finds equal items by their hashes.
    fn compare(&self, look: &mut Look, hashes: &[(u64, u128)]) {
        let of = self.split_of(look.side, hashes);
        let mut groups: HashMap<u128, Equal> = HashMap::with_capacity(hashes.len());
        let text_image = |text: u64| self.text_to_image.get(text as usize);
        for (&(item, hash), of) in hashes.iter().zip(&of) {
            let group = groups.entry(hash).or_insert(Equal { first: item, of_split: [None; 3] });
            if let Some(split) = *of {
                group.of_split[split as usize].get_or_insert(item);
            }
            if group.first != item {
                look.equal.push((item, group.first));
                // An image may have the same caption twice.
                if look.side == Side::Image || text_image(group.first) != text_image(item) {
                    look.repeated.push((item, group.first));
                }
            }
        }
        for (from, into) in [(0, 1), (0, 2), (1, 2)] {
            let leaked = hashes.iter().zip(&of).filter(|(_, of)| **of == Some(into as u8));
            let mut leaked =
                leaked.filter_map(|((item, hash), _)| Some((*item, groups[hash].of_split[from]?)));
            if let Some(first) = leaked.next() {
                let count = 1 + leaked.count();
                look.leaks.push(Leak { from: Split::ALL[from], into: Split::ALL[into], count, first });
            }
        }
    }
}

impl<'a> Look<'a> {
    fn new(side: Side, local: bool, file: &'a FeatureFile, sampled: bool) -> Self {
        Self {
            side,
            local,
            file,
            sampled,
            used: [0; 2],
            zero: Vec::new(),
            bad: Vec::new(),
            items: 0,
            equal: Vec::new(),
            repeated: Vec::new(),
            leaks: Vec::new(),
            lowest: vec![f32::INFINITY; file.cols],
            highest: vec![f32::NEG_INFINITY; file.cols],
            lengths: Vec::new(),
        }
    }

    /// Adds a row in use.
    fn row(&mut self, row: usize, zero: bool, values: &[f32]) {
        self.used[0] += 1;
        if zero {
            self.zero.push(row);
            return;
        }
        self.used[1] += 1;
        for ((low, high), &x) in self.lowest.iter_mut().zip(&mut self.highest).zip(values) {
            *low = if x < *low { x } else { *low };
            *high = if x > *high { x } else { *high };
        }
        let squares = dot(values, values);
        // Squares of very large or very small values are outside of f32.
        let length = if squares.is_normal() {
            squares.sqrt()
        } else {
            values.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt() as f32
        };
        self.lengths.push((row as u64, length));
    }

    /// The smallest, the median and the largest length of the rows; `None` if there are none.
    pub fn spread(&self) -> Option<[f32; 3]> {
        let mut lengths: Vec<f32> = self.lengths.iter().map(|(_, length)| *length).collect();
        lengths.sort_unstable_by(f32::total_cmp);
        Some([*lengths.first()?, lengths[lengths.len() / 2], *lengths.last()?])
    }

    /// The rows whose length is more than `times` the median, or less than the median by this factor.
    pub fn extreme(&self, times: f32) -> Vec<u64> {
        let Some([_, median, _]) = self.spread() else { return Vec::new() };
        let is = |length: f32| length > times * median || length * times < median;
        self.lengths.iter().filter(|(_, length)| is(*length)).map(|(row, _)| *row).collect()
    }

    /// The columns, each with its lowest and its highest value.
    pub fn columns(&self) -> impl Iterator<Item = (usize, f32, f32)> + '_ {
        let bounds = self.lowest.iter().zip(&self.highest).enumerate();
        bounds.map(|(column, (&low, &high))| (column, low, high))
    }

    /// The largest magnitude of a value.
    pub fn largest(&self) -> f32 {
        self.columns().fold(0f32, |most, (_, low, high)| most.max(-low).max(high))
    }
}
