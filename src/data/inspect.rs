//! Warnings about features that are allowed but seldom intended: zero rows, repeated rows, columns that hardly vary.
//!
//! Reads every row once, or a bounded sample of a large array. A sample consists of runs of neighbours, in which
//! repeated rows show. It changes nothing. Rows that cannot be read are left to the code that uses them.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use super::{Dataset, FeatureFile, Preprocess, Side, Split};
use crate::model::HeadConfig;
use crate::model::Pooling;

/// Most bytes of an array that are read. Reading as much from memory takes a tenth of a second.
const BYTES: usize = 1 << 28;
/// Items per run of neighbours in a sample.
const RUN: usize = 64;
/// Fewest rows from which to judge whether a column varies, and whether it is zero throughout.
const FEW: [usize; 2] = [32, 256];
/// A column hardly varies if it varies by at most this share of its largest magnitude: f16 and bf16 do not resolve
/// less.
const VARIES: f32 = 1e-3;
/// Magnitudes that learning rates and initial weights are made for. Other features should be multiplied by a factor.
const USUAL: [f32; 2] = [1e-3, 1e5];

/// A property of features that is allowed but seldom intended. Its text is one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspicion {
    /// Whether results are likely to suffer.
    pub grave: bool,
    text: String,
}

impl fmt::Display for Suspicion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Dataset {
    /// Reports what is suspicious about the features of `splits` that a head with this configuration uses. Without
    /// splits, it looks at all items. Of an array above 256 MiB it reads a sample. It skips rows that cannot be read.
    pub fn suspicions(&self, config: &HeadConfig, splits: &[Split]) -> Vec<Suspicion> {
        let mut found: Vec<_> =
            self.notes.iter().map(|text| Suspicion { grave: false, text: text.clone() }).collect();
        for (side, pooling) in [Side::Image, Side::Text].into_iter().zip(config.pooling()) {
            let items = self.items_of(side, splits);
            let features = &self.sides[side as usize];
            if let (Some(file), Pooling::None | Pooling::Joined) = (&features.pooled, pooling) {
                let own = |item: usize| item..item + 1;
                self.look(side, file, features.items, &items, own).report(self, config, &mut found);
            }
            if let (Some(local), false) = (&features.local, pooling == Pooling::None) {
                let own = |item: usize| local.rows_of(item);
                self.look(side, &local.rows, features.items, &items, own).report(self, config, &mut found);
            }
        }
        found
    }

    /// The items of a side that belong to `splits`, ascending; all items if `splits` is empty.
    fn items_of(&self, side: Side, splits: &[Split]) -> Vec<u32> {
        if splits.is_empty() {
            return (0..self.items(side) as u32).collect();
        }
        let of = |split: &Split| match side {
            Side::Image => self.split(*split).images.iter(),
            Side::Text => self.split(*split).texts.iter(),
        };
        let mut items: Vec<u32> = splits.iter().flat_map(of).copied().collect();
        items.sort_unstable();
        items
    }

    /// Looks at all items of a file, or at a sample of `items` if the file is large. Zero rows and columns count only
    /// among `items`. Repeated rows count everywhere, because they are a fault of the whole array.
    ///
    /// The function is long because it collects everything that is reported in one pass over the rows.
    fn look<'a>(
        &self,
        side: Side,
        file: &'a FeatureFile,
        all: usize,
        items: &[u32],
        own: impl Fn(usize) -> Range<usize>,
    ) -> Look<'a> {
        let most = (BYTES / (file.row_bytes() * file.rows.div_ceil(all.max(1))).max(1)).max(RUN);
        let looked_at: Vec<u32> = if all <= most { (0..all as u32).collect() } else { sample(items, most) };
        let mut look = Look {
            side,
            file,
            sampled: looked_at.len() < items.len(),
            used: [0; 2],
            zero: Vec::new(),
            rows: 0,
            repeated: Vec::new(),
            lowest: vec![f32::INFINITY; file.cols],
            highest: vec![f32::NEG_INFINITY; file.cols],
        };
        let (mut bytes, mut values) = (Vec::new(), vec![0.0; file.cols]);
        // For each hash of an item's bytes, the first item that has it.
        let mut first: HashMap<u128, u32> = HashMap::new();
        let text_image = |text: u32| self.text_to_image.get(text as usize);
        'items: for item in looked_at {
            let used = items.binary_search(&item).is_ok();
            let (mut hash, mut zero) = (Hash::default(), true);
            for row in own(item as usize) {
                if file.read_bytes(row, &mut bytes).is_err() {
                    continue 'items;
                }
                let largest = file.decode_row(&bytes, &mut values);
                if largest >= f32::INFINITY.to_bits() {
                    continue 'items;
                }
                hash.add(&bytes);
                zero &= largest == 0;
                if !used {
                    continue;
                }
                look.used[0] += 1;
                if largest == 0 {
                    look.zero.push(row);
                    continue;
                }
                look.used[1] += 1;
                for ((low, high), &x) in look.lowest.iter_mut().zip(&mut look.highest).zip(&values) {
                    *low = if x < *low { x } else { *low };
                    *high = if x > *high { x } else { *high };
                }
            }
            if zero {
                continue;
            }
            look.rows += 1;
            let earlier = *first.entry(hash.0).or_insert(item);
            // An image may have the same caption twice.
            if earlier != item && (side == Side::Image || text_image(earlier) != text_image(item)) {
                look.repeated.push((item, earlier));
            }
        }
        look
    }
}

/// At most `most` of `items`, in runs of neighbours that are spread from the first to the last.
fn sample(items: &[u32], most: usize) -> Vec<u32> {
    if items.len() <= most {
        return items.to_vec();
    }
    let (runs, last) = ((most / RUN).max(1), items.len() - RUN.min(items.len()));
    let start = |run: usize| if runs > 1 { run * last / (runs - 1) } else { 0 };
    (0..runs).flat_map(|run| &items[start(run)..][..RUN.min(items.len())]).copied().collect()
}

/// The findings about one array.
struct Look<'a> {
    side: Side,
    file: &'a FeatureFile,
    /// Whether only some of the items were looked at.
    sampled: bool,
    /// How many rows are in use, and how many of them are not zero.
    used: [usize; 2],
    /// The rows in use that are zero.
    zero: Vec<usize>,
    /// How many items are not zero.
    rows: usize,
    /// Items that repeat an earlier one, each with the earlier one.
    repeated: Vec<(u32, u32)>,
    /// The lowest value of every column, over the rows in use that are not zero. `highest` likewise.
    lowest: Vec<f32>,
    highest: Vec<f32>,
}

impl Look<'_> {
    /// The function is long because it is the list of all warnings, in the order in which they are shown.
    fn report(&self, dataset: &Dataset, config: &HeadConfig, found: &mut Vec<Suspicion>) {
        let (item, file) = (if self.side == Side::Image { "image" } else { "text" }, self.file);
        let local = dataset.sides[self.side as usize].local.as_ref();
        let local = local.is_some_and(|local| std::ptr::eq(&raw const local.rows, self.file));
        let label = &file.label;
        let sampled = if self.sampled { " looked at" } else { "" };
        let mut add = |grave, text| found.push(Suspicion { grave, text });
        let rows = match (self.side, local) {
            (_, false) => format!("{item} rows"),
            (Side::Image, true) => "rows of regions".into(),
            (Side::Text, true) => "rows of tokens".into(),
        };
        match self.zero[..] {
            [] => {}
            _ if self.used[1] == 0 => add(
                true,
                format!(
                    "{label}: all {} {rows}{sampled} are zero and tell nothing apart; compute the features again",
                    self.used[0]
                ),
            ),
            [first, ..] => {
                let more: Vec<_> = self.zero.iter().take(5).map(usize::to_string).collect();
                let (count, etc) = (self.zero.len(), if self.zero.len() > 5 { ", ..." } else { "" });
                let advice = match local {
                    true => {
                        "if they pad items with fewer rows, add an array of offsets (docs/your-features.md)"
                            .into()
                    }
                    false => format!(
                        "compute these features again, or leave these {item}s out: a zero row tells nothing of its {item}"
                    ),
                };
                let word = if count == 1 { "is" } else { "are" };
                add(
                    true,
                    format!(
                        "{label}: {count} of {} {rows}{sampled} {word} zero, the first at row {first} (rows {}{etc}); {advice}",
                        self.used[0],
                        more.join(", ")
                    ),
                );
            }
        }
        if let Some((row, earlier)) = self.repeated.first() {
            let (count, all) = (self.repeated.len(), self.rows);
            // Any large collection has some repeated rows by chance.
            let grave = count * if self.side == Side::Image { 100 } else { 20 } >= all;
            let text = match self.side {
                Side::Image => format!(
                    "{label}: {all} {item} rows{sampled}, {} different ones (row {row} is the same as row {earlier}); if \
                     images are repeated for their captions, keep each once and let text_to_image and the splits point at \
                     it, with numpy: _, first, at = numpy.unique(images, axis=0, return_index=True, return_inverse=True), \
                     then images[first], at[text_to_image] and numpy.unique(at[split])",
                    all - count
                ),
                Side::Text => format!(
                    "{label}: {count} of {all} {item} rows{sampled} are the same as an earlier one of another image (row \
                     {row} and row {earlier}): equal captions count as negatives in training and as wrong answers in \
                     retrieval; leave such captions out, or make one image of theirs"
                ),
            };
            add(grave, text);
        }
        let different = self.rows - self.repeated.len();
        let columns = self.lowest.iter().zip(&self.highest).enumerate();
        let flat = |zero: bool| {
            let is = move |(_, (low, high)): &(usize, (&f32, &f32))| {
                let most = low.abs().max(high.abs());
                **high - **low <= VARIES * most && (most == 0.0) == zero
            };
            let mut columns = columns.clone().filter(is).map(|(column, _)| column);
            columns.next().map(|first| (first, 1 + columns.count()))
        };
        if let (true, Some((first, count))) = (different >= FEW[0] && self.used[1] >= FEW[0], flat(false)) {
            let value = self.highest[first];
            add(
                true,
                format!(
                    "{label}: {count} of {} columns hardly vary among the {} {rows}{sampled}, the first column {first} \
                     (always about {value}); check how the features were made, or leave the columns out",
                    file.cols, self.used[1]
                ),
            );
        }
        let largest =
            self.lowest.iter().zip(&self.highest).fold(0f32, |most, (low, high)| most.max(-low).max(*high));
        // A magnitude that cannot be used at all is an error when the rows are used.
        let unusual = !(USUAL[0]..=USUAL[1]).contains(&largest) && Preprocess::USABLE.contains(&largest);
        if self.used[1] > 0 && unusual && !config.standardize {
            let factor = -largest.log10().floor();
            add(
                true,
                format!(
                    "{label}: the largest value of {} {rows}{sampled} is {largest:e}, and training is made for values near 1; \
                     multiply all of them by 1e{factor}, or add --standardize",
                    self.used[1]
                ),
            );
        }
        if let (true, Some((first, count))) = (self.used[1] >= FEW[1], flat(true)) {
            add(
                false,
                format!(
                    "{label}: {count} of {} columns are zero in all {} {rows}{sampled}, the first column {first}",
                    file.cols, self.used[1]
                ),
            );
        }
    }
}

/// A hash of bytes by products of 64 by 64 bits. It is fast, and wide enough to take rows with the same hash for equal.
#[derive(Clone, Copy)]
struct Hash(u128);

impl Default for Hash {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
    }
}

impl Hash {
    fn add(&mut self, bytes: &[u8]) {
        let [mut low, mut high] = [self.0 as u64, (self.0 >> 64) as u64];
        let mut mix = |word: u64, k: u64| {
            let product = u128::from(low ^ word) * u128::from(0xa076_1d64_78bd_642fu64);
            low = (product as u64) ^ ((product >> 64) as u64) ^ k;
            high = (high.rotate_left(23) ^ word).wrapping_mul(0xe703_7ed1_a0b4_28db);
        };
        let words = bytes.chunks_exact(8);
        let mut rest = [0; 8];
        rest[..words.remainder().len()].copy_from_slice(words.remainder());
        for (word, k) in words.filter_map(|word| word.try_into().ok()).zip(1..) {
            mix(u64::from_le_bytes(word), k);
        }
        mix(u64::from_le_bytes(rest), bytes.len() as u64);
        self.0 = u128::from(high) << 64 | u128::from(low);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_runs_from_the_first_to_the_last() {
        let items: Vec<u32> = (0..1000).map(|i| 3 * i).collect();
        assert_eq!(sample(&items, 1000), items);
        let some = sample(&items, 256);
        assert_eq!((some.len(), some[0], some[255]), (256, 0, 2997));
        assert!(some.chunks(RUN).all(|run| run.windows(2).all(|pair| pair[1] == pair[0] + 3)));
        assert_eq!(sample(&items, 64), items[..64]);
    }

    #[test]
    fn rows_that_differ_in_a_bit_hash_apart() {
        let hash = |bytes: &[u8]| {
            let mut hash = Hash::default();
            hash.add(bytes);
            hash.0
        };
        let row: Vec<u8> = (0..100).collect();
        let mut hashes = vec![hash(&row), hash(&row[..99])];
        for bit in 0..800 {
            let mut other = row.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            hashes.push(hash(&other));
        }
        hashes.push(hash(&row.iter().rev().copied().collect::<Vec<_>>()));
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), 803);
    }
}
