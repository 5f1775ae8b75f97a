//! What is allowed in features but seldom intended: zero rows, repeated rows, columns that hardly vary.
//!
//! Rows that cannot be read are left to the code that uses them.

use std::fmt;

use serde::Serialize;

use super::look::{Leak, Look, Scope};
use super::{Dataset, Preprocess, Side, Split};
use crate::io::{RowList, quoted};
use crate::model::{HeadConfig, Pooling};

/// Most bytes of an array that are read. Reading as much from memory takes a tenth of a second.
pub(super) const BYTES: usize = 1 << 28;
/// Fewest rows from which to judge whether a column varies, and whether it is zero throughout.
const FEW: [usize; 2] = [32, 256];
/// A column hardly varies if it varies by at most this share of its largest magnitude: f16 and bf16 do not resolve
/// less.
pub(super) const VARIES: f32 = 1e-3;
/// Magnitudes that learning rates and initial weights are made for. Other features should be multiplied by a factor.
const USUAL: [f32; 2] = [1e-3, 1e5];
/// A row is extreme if it is longer or shorter than the median by more than this factor.
pub(super) const EXTREME: f32 = 10.0;

/// A property of features that is allowed but seldom intended. Its text is one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Suspicion {
    /// Whether results are likely to suffer.
    pub grave: bool,
    /// Whether it is that different images have equal captions, which
    /// [`EqualCaptions::Mask`](super::EqualCaptions::Mask) takes care of.
    #[serde(skip)]
    pub equal_captions: bool,
    text: String,
}

impl fmt::Display for Suspicion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Dataset {
    /// Reports what was assumed when the dataset was opened, and what is gravely suspicious about the features of
    /// `splits` that a head with this configuration uses. Without splits, it looks at all items. Of an array above 256
    /// MiB it reads a sample. It skips rows that cannot be read. [`Dataset::inspect`] reads everything and reports more.
    pub fn suspicions(&self, config: &HeadConfig, splits: &[Split]) -> Vec<Suspicion> {
        let assumed = |text: &String| Suspicion { grave: false, equal_captions: false, text: text.clone() };
        let mut found: Vec<_> = self.notes.iter().map(assumed).collect();
        for (side, pooling) in [Side::Image, Side::Text].into_iter().zip(config.pooling()) {
            let items = self.items_of(side, splits);
            let scope = Scope { side, items: &items, most: Some(BYTES) };
            let pooled = matches!(pooling, Pooling::None | Pooling::Joined);
            for look in self.looks(&scope, pooled, pooling != Pooling::None) {
                let remarks = look.remarks(self, config.standardize);
                found.extend(remarks.into_iter().filter(|remark| remark.grave));
            }
        }
        found
    }

    /// The items of a side that belong to `splits`, ascending; all items if `splits` is empty.
    fn items_of(&self, side: Side, splits: &[Split]) -> RowList {
        if splits.is_empty() {
            return (0..self.items(side) as u64).into();
        }
        RowList::union(splits.iter().map(|split| self.split(*split).of(side)))
    }
}

impl Look<'_> {
    /// What is suspicious about the array. `standardized` says whether the head standardises its features.
    pub fn remarks(&self, dataset: &Dataset, standardized: bool) -> Vec<Suspicion> {
        let later = [
            self.flat_columns(),
            self.unusual_magnitude(standardized),
            self.extreme_rows(),
            self.zero_columns(),
        ];
        let equal_captions = self.side == Side::Text;
        let repeated = self.repeated_items().map(|(grave, text)| (grave, equal_captions, text));
        let leaks = self.leaks.iter().map(|leak| Some(self.leak(dataset, leak)));
        let others = |found: Option<(bool, String)>| found.map(|(grave, text)| (grave, false, text));
        let later = later.into_iter().chain(leaks).filter_map(others);
        let found = others(self.zero_rows()).into_iter().chain(repeated).chain(later);
        let label = &self.file.label;
        let suspicion = |(grave, equal_captions, text)| Suspicion {
            grave,
            equal_captions,
            text: format!("{label}: {text}"),
        };
        found.map(suspicion).collect()
    }

    fn item(&self) -> &'static str {
        if self.side == Side::Image { "image" } else { "text" }
    }

    fn rows(&self) -> String {
        match (self.side, self.local) {
            (_, false) => format!("{} rows", self.item()),
            (Side::Image, true) => "rows of regions".into(),
            (Side::Text, true) => "rows of tokens".into(),
        }
    }

    fn sampled(&self) -> &'static str {
        if self.sampled { " looked at" } else { "" }
    }

    fn zero_rows(&self) -> Option<(bool, String)> {
        let (rows, sampled, used) = (self.rows(), self.sampled(), self.used[0]);
        let first = self.zero.first()?;
        if self.used[1] == 0 {
            let advice = "tell nothing apart; compute the features again";
            return Some((true, format!("all {used} {rows}{sampled} are zero and {advice}")));
        }
        let more: Vec<_> = self.zero.iter().take(5).map(usize::to_string).collect();
        let (count, etc) = (self.zero.len(), if self.zero.len() > 5 { ", ..." } else { "" });
        let advice = match self.local {
            true => {
                "if they pad items with fewer rows, add an array of offsets (docs/your-features.md)".into()
            }
            false => {
                let item = self.item();
                format!(
                    "compute these features again, or leave these {item}s out: a zero row tells nothing of its {item}"
                )
            }
        };
        let word = if count == 1 { "is" } else { "are" };
        let listed = more.join(", ");
        Some((
            true,
            format!(
                "{count} of {used} {rows}{sampled} {word} zero, the first at row {first} (rows {listed}{etc}); {advice}"
            ),
        ))
    }

    fn repeated_items(&self) -> Option<(bool, String)> {
        let (row, earlier) = self.repeated.first()?;
        let (count, all, sampled) = (self.repeated.len(), self.items, self.sampled());
        // Any large collection has some repeated rows by chance.
        let grave = count * if self.side == Side::Image { 100 } else { 20 } >= all;
        let text = match self.side {
            Side::Image => format!(
                "{all} image rows{sampled}, {} different ones (row {row} is the same as row {earlier}); if images are \
                 repeated for their captions, keep each once and let text_to_image and the splits point at it, with \
                 numpy: _, first, at = numpy.unique(images, axis=0, return_index=True, return_inverse=True), then \
                 images[first], at[text_to_image] and numpy.unique(at[split])",
                all - count
            ),
            Side::Text => format!(
                "{count} of {all} text rows{sampled} are the same as an earlier one of another image (row {row} and row \
                 {earlier}): equal captions count as negatives in training and as wrong answers in retrieval; with \
                 --equal-captions mask, train, sweep, baseline and eval count them as right; or leave such captions out, \
                 or make one image of theirs"
            ),
        };
        Some((grave, text))
    }

    /// Equal images in two splits are grave from one percent of the later split on. Equal captions are common.
    fn leak(&self, dataset: &Dataset, leak: &Leak) -> (bool, String) {
        let Leak { from, into, count, first: (row, earlier) } = leak;
        let rows = dataset.split(*into);
        let (all, what) = match self.side {
            Side::Image => (rows.images.len(), "images"),
            Side::Text => (rows.texts.len(), "captions"),
        };
        let have = if *count == 1 { "has" } else { "have" };
        let facts = format!(
            "{count} of {all} {what} of split_{into} {have} the same features as one of split_{from} (row {row} and row \
             {earlier})"
        );
        if self.side == Side::Text {
            return (false, format!("{facts}: captions of other images, which training has seen"));
        }
        let advice = match dataset.folder() {
            Some(folder) => {
                format!("`wgoal split {} --replace` writes splits that keep them together", quoted(folder))
            }
            None => "move them".into(),
        };
        let text = format!(
            "{facts}, so results on split_{into} are too good; equal images belong in one split: {advice}"
        );
        (count * 100 >= all, text)
    }

    /// The first of the columns that hardly vary, and how many there are. Zero columns are counted apart.
    fn flat(&self, zero: bool) -> Option<(usize, usize)> {
        let is = |&(_, low, high): &(usize, f32, f32)| {
            let most = low.abs().max(high.abs());
            high - low <= VARIES * most && (most == 0.0) == zero
        };
        let mut columns = self.columns().filter(is).map(|(column, ..)| column);
        columns.next().map(|first| (first, 1 + columns.count()))
    }

    fn flat_columns(&self) -> Option<(bool, String)> {
        let different = self.items - self.repeated.len();
        let (first, count) = self.flat(false).filter(|_| different >= FEW[0] && self.used[1] >= FEW[0])?;
        let (value, rows, sampled) = (self.highest[first], self.rows(), self.sampled());
        Some((
            true,
            format!(
                "{count} of {} columns hardly vary among the {} {rows}{sampled}, the first column {first} (always about \
                 {value}); check how the features were made, or leave the columns out",
                self.file.cols, self.used[1]
            ),
        ))
    }

    fn unusual_magnitude(&self, standardized: bool) -> Option<(bool, String)> {
        let largest = self.largest();
        // A magnitude that cannot be used at all is an error when the rows are used.
        let unusual = !(USUAL[0]..=USUAL[1]).contains(&largest) && Preprocess::USABLE.contains(&largest);
        if self.used[1] == 0 || !unusual || standardized {
            return None;
        }
        let (factor, rows, sampled) = (-largest.log10().floor(), self.rows(), self.sampled());
        Some((
            true,
            format!(
                "the largest value of {} {rows}{sampled} is {largest:e}, and training is made for values near 1; multiply \
                 all of them by 1e{factor}, or add --standardize",
                self.used[1]
            ),
        ))
    }

    fn extreme_rows(&self) -> Option<(bool, String)> {
        let extreme = self.extreme(EXTREME);
        let (first, [_, median, _]) = (extreme.first()?, self.spread()?);
        let length = self.lengths.iter().find(|(row, _)| row == first).map_or(0.0, |(_, length)| *length);
        let (count, rows, sampled) = (extreme.len(), self.rows(), self.sampled());
        let ratio = length / median;
        Some((
            false,
            format!(
                "{count} of {} {rows}{sampled} have an unusual length, the first at row {first} ({ratio:.3} times the \
                 median); check how these features were made",
                self.used[1]
            ),
        ))
    }

    fn zero_columns(&self) -> Option<(bool, String)> {
        let (first, count) = self.flat(true).filter(|_| self.used[1] >= FEW[1])?;
        let (rows, sampled) = (self.rows(), self.sampled());
        Some((
            false,
            format!(
                "{count} of {} columns are zero in all {} {rows}{sampled}, the first column {first}",
                self.file.cols, self.used[1]
            ),
        ))
    }
}
