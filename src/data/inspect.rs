//! Everything that can be said about a dataset without training: sizes, lengths of rows, equal rows, leaks.
//!
//! Reads every row once. What it finds is either refused by commands (a fault) or allowed (a remark).

use std::path::Path;

use serde::Serialize;

use super::array::FeatureFile;
use super::features::Features;
use super::look::{Look, Scope};
use super::suspicions::{BYTES, EXTREME, Suspicion, VARIES};
use super::{Dataset, Side, Split, Summary};
use crate::Result;
use crate::io::RowList;

/// What [`Dataset::inspect`] finds.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Inspection {
    /// The size of the dataset.
    #[serde(flatten)]
    pub summary: Summary,
    /// Whether there is no `text_to_image`, so that text i is the caption of image i.
    pub paired: bool,
    /// Whether there are no splits, so that the images are divided by the default [`super::Division`].
    pub divided: bool,
    /// Each array of features.
    pub arrays: Vec<ArrayInspection>,
    /// What two splits have in common, for each pair of splits with images.
    pub leaks: Vec<SharedRows>,
    /// What commands refuse, one error per line.
    pub faults: Vec<String>,
    /// What is allowed but seldom intended.
    pub remarks: Vec<Suspicion>,
}

/// What is in one array of features.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ArrayInspection {
    /// The file, and the array in it if it holds several.
    pub name: String,
    /// The number of rows and of columns. Rows of regions or tokens are counted over all items.
    pub shape: [usize; 2],
    /// The type of the values, as the file names it.
    #[serde(rename = "type")]
    pub value_type: String,
    /// The smallest, the median and the largest length of the rows that are not zero.
    pub row_lengths: Option<[f32; 3]>,
    /// The largest magnitude of a value.
    pub largest_value: f32,
    /// Rows that are zero.
    pub zero_rows: Found,
    /// Rows with a value that is not a finite number.
    pub rows_not_finite: Found,
    /// Rows (or items, of regions and tokens) that are equal to an earlier one, and not zero.
    pub repeated_rows: Found,
    /// Captions that are equal to one of another image. Always 0 for images.
    pub equal_captions: Found,
    /// Rows whose length is above ten times the median, or below a tenth of it.
    pub rows_of_extreme_length: Found,
    /// Columns with the same value in all rows that are not zero.
    pub constant_columns: Found,
    /// Other columns that vary by at most a thousandth of their largest magnitude.
    pub nearly_constant_columns: Found,
}

/// How many rows or columns there are of a kind, and the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Found {
    /// How many.
    pub count: usize,
    /// The first of them.
    pub first: Option<usize>,
}

/// What two splits have in common.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct SharedRows {
    /// The two splits.
    pub splits: [String; 2],
    /// Images that are in both.
    pub same_images: usize,
    /// Images of the second split with the same features as an image of the first.
    pub equal_images: usize,
    /// Captions of the second split with the same features as a caption of the first.
    pub equal_captions: usize,
}

impl Found {
    fn of(mut found: impl Iterator<Item = usize>) -> Self {
        let first = found.next();
        Self { count: usize::from(first.is_some()) + found.count(), first }
    }
}

impl Dataset {
    /// Opens a dataset to inspect it. Images or texts alone are one, too. What is wrong with the splits is no error here; [`Dataset::inspect`] reports it.
    /// Do not train on such a dataset: an image may be in two splits.
    ///
    /// # Errors
    /// Those of [`Dataset::open`] that do not concern splits.
    pub fn open_to_inspect(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_leniently(path.as_ref())
    }

    /// Bytes of the features that [`Dataset::inspect`] reads.
    pub fn feature_bytes(&self) -> u64 {
        let of_side = |side: Side| {
            let Features { pooled, local, .. } = &self.sides[side as usize];
            let files = pooled.iter().chain(local.iter().map(|local| &local.rows));
            let bytes = files.map(|file| file.rows as u64 * file.row_bytes() as u64);
            let most = self.most_looked_at(side).map_or(u64::MAX, |most| most as u64);
            bytes.map(|bytes| bytes.min(most)).sum::<u64>()
        };
        [Side::Image, Side::Text].map(of_side).iter().sum()
    }

    /// Reads all features and reports what is in them. It needs no device. Of a side with more than 2^32 items it reads a sample.
    ///
    /// ```
    /// let data = wgoal::Dataset::open("data/clipart-mini")?;
    /// let found = data.inspect();
    /// assert_eq!((found.arrays[0].shape, found.arrays[0].zero_rows.count), ([1400, 1280], 0));
    /// assert!(found.faults.is_empty());
    /// # Ok::<(), wgoal::Error>(())
    /// ```
    pub fn inspect(&self) -> Inspection {
        let mut inspection = Inspection {
            summary: self.summary(),
            paired: self.is_paired(),
            divided: self.is_divided(),
            arrays: Vec::new(),
            leaks: self.same_images(),
            faults: self.faults.clone(),
            remarks: Vec::new(),
        };
        for side in [Side::Image, Side::Text] {
            let items = (0..self.items(side) as u64).into();
            for look in
                self.looks(&Scope { side, items: &items, most: self.most_looked_at(side) }, true, true)
            {
                inspection.faults.extend(self.bad_row(&look));
                inspection.remarks.extend(look.remarks(self, false));
                inspection.arrays.push(ArrayInspection::of(&look));
                inspection.leaks.iter_mut().for_each(|shared| shared.add(&look));
            }
        }
        // A stable sort: the grave ones first.
        inspection.remarks.sort_by_key(|remark| !remark.grave);
        for lines in [self.caption(0).err(), self.image_name(0).err()] {
            inspection.faults.extend(lines.map(|fault| fault.to_string()));
        }
        inspection
    }

    /// Most bytes of an array of a side to read. All rows beyond 2^32 would take days, and memory for each of them.
    fn most_looked_at(&self, side: Side) -> Option<usize> {
        (self.items(side) > u32::MAX as usize).then_some(BYTES)
    }

    /// The error of the first row that cannot be used.
    fn bad_row(&self, look: &Look) -> Option<String> {
        let (&row, mut values) = (look.bad.first()?, vec![0.0; look.file.cols]);
        let error = look.file.read_row(row, &mut Vec::new(), &mut values).err()?;
        let count = look.bad.len();
        Some(if count > 1 { format!("{error} ({count} such rows)") } else { error.to_string() })
    }

    /// The images that two splits have in common.
    fn same_images(&self) -> Vec<SharedRows> {
        let pairs = [(0, 1), (0, 2), (1, 2)];
        let pairs = pairs.map(|(from, into)| (Split::ALL[from], Split::ALL[into]));
        let both = |&(from, into): &(Split, Split)| {
            [from, into].iter().all(|&split| !self.split(split).images.is_empty())
        };
        let shared = |(from, into): (Split, Split)| {
            let lists = [from, into].map(|split| &self.split(split).images);
            let [first, second] = lists.map(RowList::count_distinct);
            let same = first + second - RowList::union(lists).len();
            let splits = [from, into].map(|split| split.to_string());
            SharedRows { splits, same_images: same, equal_images: 0, equal_captions: 0 }
        };
        pairs.into_iter().filter(both).map(shared).collect()
    }
}

impl SharedRows {
    /// Adds what an array tells. Of a side with two arrays, the larger number counts.
    fn add(&mut self, look: &Look) {
        let leak = look
            .leaks
            .iter()
            .find(|leak| [leak.from, leak.into].map(|split| split.to_string()) == self.splits);
        let count = if look.side == Side::Image { &mut self.equal_images } else { &mut self.equal_captions };
        *count = leak.map_or(*count, |leak| leak.count.max(*count));
    }
}

impl ArrayInspection {
    fn of(look: &Look) -> Self {
        let FeatureFile { label, rows, cols, type_name, .. } = look.file;
        let items = |pairs: &[(u64, u64)]| Found::of(pairs.iter().map(|(item, _)| *item as usize));
        let is_constant = |low: f32, high: f32| low == high;
        let is_near = |low: f32, high: f32| low < high && high - low <= VARIES * low.abs().max(high.abs());
        let columns = |is: &dyn Fn(f32, f32) -> bool| {
            Found::of(look.columns().filter(|&(_, low, high)| is(low, high)).map(|(column, ..)| column))
        };
        Self {
            name: label.clone(),
            shape: [*rows, *cols],
            value_type: type_name.trim_matches('\'').into(),
            row_lengths: look.spread(),
            largest_value: look.largest(),
            zero_rows: Found::of(look.zero.iter().copied()),
            rows_not_finite: Found::of(look.bad.iter().copied()),
            repeated_rows: items(&look.equal),
            equal_captions: items(if look.side == Side::Text { &look.repeated } else { &[] }),
            rows_of_extreme_length: Found::of(look.extreme(EXTREME).into_iter().map(|row| row as usize)),
            constant_columns: columns(&is_constant),
            nearly_constant_columns: columns(&is_near),
        }
    }
}
