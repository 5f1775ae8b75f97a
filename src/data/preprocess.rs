//! Preprocessing: pooling, standardisation, size augmentation and input dropout turn a dataset's rows into the input of
//! a head.
//!
//! Callers pass the random numbers.
//! The file is long because pooling, standardisation, augmentation and dropout of a row are read together.

use std::ops::{Range, RangeInclusive};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

use super::{Dataset, Side};
use crate::io::RowList;
use crate::model::Pooling;
use crate::model::Standardizer;
use crate::{Error, Result};

/// Distance between the starts of two preprocessed rows: the dimension rounded up to a multiple of 4.
pub fn row_stride(dim: usize) -> usize {
    crate::device::padded(dim)
}

impl Standardizer {
    fn apply(&self, row: &mut [f32]) {
        for ((x, mean), inverse) in row.iter_mut().zip(&self.mean).zip(&self.inverse_std) {
            *x = (*x - mean) * inverse;
        }
    }
}

/// What is known of a part of a batch that was prepared.
pub(super) struct Prepared {
    /// How many of the rows that were read were all zero.
    pub zero_rows: usize,
    /// The number of its first row among the rows of the whole batch.
    pub first: usize,
}

/// Read-ahead is on for the first 32 batches, and for 32 batches after each read that had to wait for the disk. Batches
/// are then announced to the system, and the pool does not read them. It is off otherwise, because announcing a cached
/// file takes as long as reading it.
pub(crate) struct ReadAhead(u32);

impl ReadAhead {
    const BATCHES: u32 = 32;

    pub fn new() -> Self {
        Self(Self::BATCHES)
    }

    /// Whether to announce the next batch. To be called once per batch.
    pub(crate) fn due(&mut self, dataset: &Dataset) -> bool {
        if dataset.missed() {
            *self = Self::new();
        }
        let due = self.0 > 0;
        self.0 = self.0.saturating_sub(1);
        due
    }
}

/// How the features of items become input: pooled or not, standardised or not, and in training with size augmentation
/// and dropout.
#[derive(Debug, Clone, Default)]
pub struct Preprocess {
    standardize: Option<[Standardizer; 2]>,
    dropout: f32,
    pooling: [Pooling; 2],
    signed_root: [bool; 2],
    row_dropout: [f64; 2],
}

impl Preprocess {
    /// Usable magnitudes of features: the squares of embeddings do not overflow, and their norm is far above its
    /// epsilon.
    pub(super) const USABLE: RangeInclusive<f32> = 1e-6..=1e15;

    /// `standardize` holds the image and the text standardizer; `dropout` is the probability in [0, 1) that
    /// a training feature is zeroed, in steps of 1/65536.
    ///
    /// # Errors
    /// A probability outside of [0, 1).
    pub fn new(standardize: Option<[Standardizer; 2]>, dropout: f32) -> Result<Self> {
        if (0.0..1.0).contains(&dropout) {
            return Ok(Self { standardize, dropout, ..Self::default() });
        }
        Err(Error::config("input dropout", "a probability of at least 0 and below 1", dropout, "change it"))
    }

    /// Whether all values of a side are f16, as they are cached.
    pub(super) fn keeps_halves(&self, dataset: &Dataset, side: Side) -> bool {
        let raw = matches!(self.pooling[side as usize], Pooling::None | Pooling::Gpo);
        let as_they_are =
            self.standardize.is_none() && self.dropout == 0.0 && !self.signed_root[side as usize];
        raw && as_they_are && dataset.is_half(side, self.pooling[side as usize] == Pooling::Gpo)
    }

    /// How the features of a side become one vector per item.
    pub(super) fn pooling_of(&self, side: Side) -> Pooling {
        self.pooling[side as usize]
    }

    /// Announces to the system that items will be read. Neighbours are announced together.
    pub(crate) fn will_need(&self, dataset: &Dataset, side: Side, items: impl Iterator<Item = u64>) {
        let mut items: Vec<_> = items.map(|item| item as usize).collect();
        items.sort_unstable();
        for run in items.chunk_by(|a, b| b - a <= 1) {
            dataset.will_need(side, run[0]..run[run.len() - 1] + 1, self.pooling[side as usize]);
        }
    }

    /// The same with another pooling of images and texts.
    #[must_use]
    pub fn with_pooling(self, pooling: [Pooling; 2]) -> Self {
        Self { pooling, ..self }
    }

    /// The same with the signed square root of the features of images and of texts, applied after host pooling.
    #[must_use]
    pub fn with_signed_root(self, signed_root: [bool; 2]) -> Self {
        Self { signed_root, ..self }
    }

    /// The same with size augmentation in training (docs/math.md, "Size augmentation"): the
    /// probabilities that a region and a token are left out.
    ///
    /// Every row is left out or kept independently. The published code may keep no row. Here, one row drawn at random
    /// is kept then, because an empty item cannot be pooled.
    ///
    /// # Errors
    /// A probability outside of [0, 1).
    pub fn with_row_dropout(self, row_dropout: [f64; 2]) -> Result<Self> {
        match row_dropout.iter().find(|p| !(0.0..1.0).contains(*p)) {
            None => Ok(Self { row_dropout, ..self }),
            Some(p) => Err(Error::config(
                "size augmentation",
                "a probability of at least 0 and below 1",
                p,
                "change it",
            )),
        }
    }

    /// Preprocesses the items `rows` of one side into `out`, without dropout and augmentation:
    /// `[rows.len(), row_stride(dim)]` row-major, padded with zeros. Reuses the allocation of `out`. Returns how many
    /// rows are all zero in the dataset.
    ///
    /// # Errors
    /// Those of [`Preprocess::items`], and a side that the device pools, whose items have several rows.
    pub fn rows(&self, dataset: &Dataset, side: Side, rows: &[u64], out: &mut Vec<f32>) -> Result<usize> {
        if self.pooling[side as usize] == Pooling::Gpo {
            let (expected, advice) = ("pooling on the host", "preprocess items, which gives offsets as well");
            return Err(Error::config("rows of a dataset", expected, "gpo", advice));
        }
        self.items(dataset, side, rows, out, &mut Vec::new())
    }

    /// Reads items of one side only to check them.
    ///
    /// # Errors
    /// Those of [`Preprocess::items`].
    pub(crate) fn check(&self, dataset: &Dataset, side: Side, items: &RowList) -> Result<()> {
        let (mut values, mut offsets) = (Vec::new(), Vec::new());
        items.chunks(64).try_for_each(|items| {
            self.items(dataset, side, &items, &mut values, &mut offsets)?;
            self.check_scale(dataset, side, &items, &values)
        })
    }

    /// Checks that f32 can hold the squared length of the embeddings of `items`: no row of `values` may be too large,
    /// and not all rows may be too small. Rows of zeros do not count.
    ///
    /// # Errors
    /// Features of another magnitude. The message has the factor to multiply them by.
    pub(crate) fn check_scale(
        &self,
        dataset: &Dataset,
        side: Side,
        items: &[u64],
        values: &[f32],
    ) -> Result<()> {
        let pooling = self.pooling[side as usize];
        let stride = row_stride(dataset.width(side, pooling)?);
        // Without the sign bit, the bits of floats sort by magnitude.
        let largest = |row: &[f32]| row.iter().fold(0, |most, x| (x.to_bits() & 0x7fff_ffff).max(most));
        let rows = values.chunks_exact(stride).map(largest).enumerate();
        let Some((row, bits)) = rows.max_by_key(|&(_, bits)| bits) else { return Ok(()) };
        let largest = f32::from_bits(bits);
        if largest == 0.0 || Self::USABLE.contains(&largest) {
            return Ok(());
        }
        let thing = match (pooling, items.get(row)) {
            (Pooling::Gpo, _) | (_, None) => dataset.sides[side as usize].label.clone(),
            (_, Some(&item)) => dataset.place(side, item as usize),
        };
        let name = if side == Side::Image { "image" } else { "text" };
        let expected =
            format!("features of a magnitude from {:e} to {:e}", Self::USABLE.start(), Self::USABLE.end());
        let found = match largest < 1.0 {
            true => format!("{largest:e} as the largest of {} rows", items.len()),
            false => format!("{largest:e}"),
        };
        let factor = -largest.log10().floor();
        let advice = format!(
            "multiply all {name} features by 1e{factor}, those to embed later too; if this row alone is so, compute it again"
        );
        Err(Error::data(thing, expected, found, advice))
    }

    /// Preprocesses items of one side into `out`, without dropout and augmentation: `[rows, row_stride(dim)]`
    /// row-major, padded with zeros. `dim` is [`Dataset::width`].
    ///
    /// If the device pools ([`Pooling::Gpo`]), item i owns the rows `offsets[i]..offsets[i + 1]`, at least one.
    /// Otherwise each item has one row and `offsets` stays empty. Reuses both allocations. Returns how many of the rows
    /// read were all zero.
    ///
    /// # Errors
    /// Those of [`Dataset::read_row`] and [`Dataset::width`], and standardizers of another dimension.
    pub fn items(
        &self,
        dataset: &Dataset,
        side: Side,
        items: &[u64],
        out: &mut Vec<f32>,
        offsets: &mut Vec<u32>,
    ) -> Result<usize> {
        let part = 0..items.len();
        Ok(self.preprocess(dataset, side, (items, part), None, true, (out, offsets))?.zero_rows)
    }

    /// [`Preprocess::items`] of a part of a batch, with size augmentation if random numbers are given. These depend on
    /// the batch, not on the part.
    ///
    /// With `in_shares`, idle threads of the pool read a few rows at a time; otherwise the calling thread reads all. A
    /// thread beside the pool would take a core away in the middle of a product. A thread of the pool must not wait for
    /// a disk.
    ///
    /// The function is long because it is one pass over a row, in the order in which its values change.
    pub(super) fn preprocess(
        &self,
        dataset: &Dataset,
        side: Side,
        (items, part): (&[u64], Range<usize>),
        rng: Option<ChaCha8Rng>,
        in_shares: bool,
        (out, offsets): (&mut Vec<f32>, &mut Vec<u32>),
    ) -> Result<Prepared> {
        /// Rows of one share.
        const SHARE: usize = 8;
        let pooling = self.pooling[side as usize];
        let dim = dataset.width(side, pooling)?;
        let standardizer = self.standardize.as_ref().map(|sides| &sides[side as usize]);
        if let Some(Standardizer { mean, inverse_std }) = standardizer
            && (mean.len() != dim || inverse_std.len() != dim)
        {
            let thing = format!("standardisation of {}", dataset.name());
            let advice = "use the dataset that it was fitted on";
            return Err(Error::data(thing, format!("{dim} columns"), mean.len(), advice));
        }
        let stride = row_stride(dim);
        offsets.clear();
        let (rows, own) = match pooling {
            Pooling::None => (Vec::new(), part.clone()),
            _ => {
                let mut rows = self.local_rows(dataset, side, items, rng, offsets)?;
                let own = offsets[part.start] as usize..offsets[part.end] as usize;
                offsets.truncate(part.end + 1);
                offsets.drain(..part.start);
                offsets.iter_mut().for_each(|offset| *offset -= own.start as u32);
                rows.truncate(own.end);
                rows.drain(..own.start);
                (rows, own)
            }
        };
        let first = if pooling == Pooling::Gpo { own.start } else { part.start };
        let items = &items[part];
        let kept = if pooling == Pooling::Gpo { rows.len() } else { items.len() };
        out.resize(kept * stride, 0.0);
        let (rows, own) = (&rows, &*offsets);
        let fill = |first: usize, out: &mut [f32]| -> Result<usize> {
            let (mut scratch, mut values, mut zero_rows) = (Vec::new(), Vec::new(), 0);
            for (i, out) in (first..).zip(out.chunks_exact_mut(stride)) {
                let (row, padding) = out.split_at_mut(dim);
                zero_rows += match pooling {
                    Pooling::None => {
                        usize::from(dataset.read_row(side, items[i] as usize, &mut scratch, row)?)
                    }
                    Pooling::Gpo => {
                        usize::from(dataset.read_local_row(side, rows[i] as usize, &mut scratch, row)?)
                    }
                    pooling => {
                        let own = &rows[own[i] as usize..own[i + 1] as usize];
                        let item = (side, items[i], own);
                        pool_item(dataset, pooling, item, (&mut scratch, &mut values), row)?
                    }
                };
                padding.fill(0.0);
                if self.signed_root[side as usize] {
                    row.iter_mut().for_each(|x| *x = x.abs().sqrt().copysign(*x));
                }
                if let Some(standardizer) = standardizer {
                    standardizer.apply(row);
                }
            }
            Ok(zero_rows)
        };
        let share = (SHARE * kept / rows.len().max(kept).max(1)).max(1);
        let zero_rows = if in_shares && kept > share {
            let mut shares: Vec<_> = out.chunks_mut(share * stride).map(|out| (out, Ok(0))).collect();
            let fill = &fill;
            rayon::in_place_scope(|scope| {
                for (first, (out, zero_rows)) in (0..).step_by(share).zip(&mut shares) {
                    scope.spawn(move |_| *zero_rows = fill(first, out));
                }
            });
            shares.into_iter().map(|(_, zero_rows)| zero_rows).sum::<Result<usize>>()?
        } else {
            fill(0, out)?
        };
        if pooling != Pooling::Gpo {
            offsets.clear();
        }
        Ok(Prepared { zero_rows, first })
    }

    /// The local rows of items, without those that the augmentation leaves out, and where each item's rows start.
    fn local_rows(
        &self,
        dataset: &Dataset,
        side: Side,
        items: &[u64],
        mut rng: Option<ChaCha8Rng>,
        offsets: &mut Vec<u32>,
    ) -> Result<Vec<u64>> {
        let probability = self.row_dropout[side as usize];
        let threshold = (probability * 4_294_967_296.0).round() as u64;
        let mut rows: Vec<u64> = Vec::new();
        offsets.push(0);
        for &item in items {
            let own = dataset.local_rows(side, item as usize);
            if own.is_empty() {
                let expected = format!("an item below {}", dataset.items(side));
                return Err(Error::data(dataset.name(), expected, item, "ask for an item of this dataset"));
            }
            let (first, before) = (own.start as u64, rows.len());
            let own = first..own.end as u64;
            match rng.as_mut().filter(|_| threshold > 0) {
                None => rows.extend(own),
                Some(rng) => {
                    let count = own.end - first;
                    rows.extend(own.filter(|_| u64::from(rng.next_u32()) >= threshold));
                    if rows.len() == before {
                        rows.push(first + ((u64::from(rng.next_u32()) * count) >> 32));
                    }
                }
            }
            let total = u32::try_from(rows.len()).map_err(|_| {
                let advice = "choose a smaller batch";
                Error::config("a batch", "fewer than 2^32 local rows", rows.len(), advice)
            })?;
            offsets.push(total);
        }
        Ok(rows)
    }

    /// Zeroes features at random and scales the others, so that the mean stays the same. `first` is the number of the
    /// first value among those of the batch, a multiple of four.
    pub(super) fn drop_features(&self, values: &mut [f32], mut rng: ChaCha8Rng, first: usize) {
        // Each feature uses sixteen random bits. The scale uses the probability as rounded to sixteen bits.
        let threshold = (self.dropout * 65536.0).round().min(65535.0);
        if threshold == 0.0 {
            return;
        }
        let (threshold, scale) = (threshold as u16, 65536.0 / (65536.0 - threshold));
        rng.set_word_pos(first as u128 / 2);
        let mut bits = [0; 1024];
        for values in values.chunks_mut(bits.len() / 2) {
            rng.fill_bytes(&mut bits);
            for (x, &bits) in values.iter_mut().zip(bytemuck::cast_slice(&bits)) {
                *x *= if u16::from_le_bytes(bits) < threshold { 0.0 } else { scale };
            }
        }
    }
}

/// Pools an item's local rows into `out`. Joined features are the cached row, the mean and the maximum, in this order.
/// Returns how many of the local rows were all zero.
fn pool_item(
    dataset: &Dataset,
    pooling: Pooling,
    (side, item, own): (Side, u64, &[u64]),
    (scratch, values): (&mut Vec<u8>, &mut Vec<f32>),
    out: &mut [f32],
) -> Result<usize> {
    let local = dataset.local_dim(side).unwrap_or(0);
    values.resize(local, 0.0);
    let joined = pooling == Pooling::Joined;
    let (cached, pooled) = out.split_at_mut(if joined { out.len() - 2 * local } else { 0 });
    if !cached.is_empty() {
        dataset.read_row(side, item as usize, scratch, cached)?;
    }
    let kinds: &[Pooling] = if joined { &[Pooling::Mean, Pooling::Max] } else { &[pooling] };
    let mut zero_rows = 0;
    for (i, &row) in own.iter().enumerate() {
        zero_rows += usize::from(dataset.read_local_row(side, row as usize, scratch, values)?);
        for (&kind, out) in kinds.iter().zip(pooled.chunks_exact_mut(local)) {
            pool(kind, i == 0, out, values);
        }
    }
    if kinds[0] == Pooling::Mean {
        pooled[..local].iter_mut().for_each(|x| *x /= own.len() as f32);
    }
    Ok(zero_rows)
}

/// Pools one more row into `out`; the mean is divided by the number of rows later.
fn pool(pooling: Pooling, first: bool, out: &mut [f32], row: &[f32]) {
    if first {
        return out.copy_from_slice(row);
    }
    let combine: fn(f32, f32) -> f32 = if pooling == Pooling::Max { f32::max } else { |a, b| a + b };
    out.iter_mut().zip(row).for_each(|(out, &x)| *out = combine(*out, x));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_end_where_no_row_has_to_be_waited_for() {
        let dataset = Dataset::open("data/clipart-mini").unwrap();
        // The first call clears the waits of opening the dataset.
        let mut read_ahead = ReadAhead::new();
        let due: Vec<bool> = (0..40).map(|_| read_ahead.due(&dataset)).collect();
        assert_eq!(due, [[true; 32].as_slice(), &[false; 8]].concat());
    }
}
