//! Training batches: their order, pooling, standardisation, size augmentation, input dropout, and the worker that
//! prepares them.
//!
//! Owns everything random about the data, all of it a pure function of seed, epoch and batch, so that a run
//! resumed at any epoch sees the same bits. It holds no more than a few batches.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread::{self, JoinHandle};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

use super::{Dataset, Side, Split};
use crate::config::Pooling;
use crate::device::{Device, Upload};
use crate::head::Standardizer;
use crate::random::{Purpose, random};
use crate::{Error, Result};

/// Finished batches that wait for the consumer.
const AHEAD: usize = 2;

/// The order in which an epoch visits its pairs: `0..pairs`, shuffled by seed and epoch.
///
/// Pairs beyond `u32::MAX` are left out; no dataset that opens has that many.
pub fn pair_order(pairs: usize, seed: u64, epoch: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..u32::try_from(pairs).unwrap_or(u32::MAX)).collect();
    let mut rng = random(Purpose::Order, seed, epoch, 0);
    // Written out, since the order must not change with the version of a library or the width of usize.
    for last in (1..order.len()).rev() {
        let chosen = (u128::from(rng.next_u64()) * (last as u128 + 1)) >> 64;
        order.swap(last, chosen as usize);
    }
    order
}

/// Batches of one epoch: the last incomplete batch is dropped, unless it is the only one.
pub fn steps_per_epoch(pairs: usize, batch: usize) -> usize {
    match pairs.checked_div(batch) {
        Some(0) => usize::from(pairs > 0),
        steps => steps.unwrap_or(0),
    }
}

/// Values from one row to the next in gathered rows: the dimension rounded up to a multiple of 4.
pub fn row_stride(dim: usize) -> usize {
    crate::device::padded(dim)
}

impl Standardizer {
    /// Reads the items `rows` of one side once and fits every column: over the rows that `gather`, which must not
    /// standardise itself, makes of them, and over all of their local rows where the device pools ([`Pooling::Gpo`]).
    ///
    /// # Errors
    /// Those of [`Gather::items`].
    pub fn fit(dataset: &Dataset, side: Side, gather: &Gather, rows: &[u32]) -> Result<Self> {
        let dim = dataset.width(side, gather.pooling[side as usize])?;
        let (mut values, mut offsets) = (Vec::new(), Vec::new());
        let (mut mean, mut squares, mut seen) = (vec![0f64; dim], vec![0f64; dim], 0u64);
        for item in rows.chunks(1) {
            gather.items(dataset, side, item, &mut values, &mut offsets)?;
            for row in values.chunks_exact(row_stride(dim)) {
                // Welford's update: exact for a constant column, and safe where the mean dwarfs the deviation.
                seen += 1;
                let share = 1.0 / seen as f64;
                for ((mean, squares), &x) in mean.iter_mut().zip(&mut squares).zip(row) {
                    let before = f64::from(x) - *mean;
                    *mean += before * share;
                    *squares += before * (f64::from(x) - *mean);
                }
            }
        }
        let inverse = |squares: f64| {
            let inverse = (seen as f64 / squares).sqrt() as f32;
            if inverse.is_finite() { inverse } else { 0.0 }
        };
        Ok(Self {
            mean: mean.into_iter().map(|x| x as f32).collect(),
            inverse_std: squares.into_iter().map(inverse).collect(),
        })
    }

    fn apply(&self, row: &mut [f32]) {
        for ((x, mean), inverse) in row.iter_mut().zip(&self.mean).zip(&self.inverse_std) {
            *x = (*x - mean) * inverse;
        }
    }
}

/// How the features of items become input: pooled or not, standardised or not, and in training with size augmentation and
/// dropout.
#[derive(Debug, Clone, Default)]
pub struct Gather {
    standardize: Option<[Standardizer; 2]>,
    dropout: f32,
    pooling: [Pooling; 2],
    signed_root: [bool; 2],
    row_dropout: [f64; 2],
}

impl Gather {
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
    fn keeps_halves(&self, dataset: &Dataset, side: Side) -> bool {
        let raw = matches!(self.pooling[side as usize], Pooling::None | Pooling::Gpo);
        let as_they_are =
            self.standardize.is_none() && self.dropout == 0.0 && !self.signed_root[side as usize];
        raw && as_they_are && dataset.is_half(side, self.pooling[side as usize] == Pooling::Gpo)
    }

    /// The same with another pooling of images and texts.
    #[must_use]
    pub fn with_pooling(self, pooling: [Pooling; 2]) -> Self {
        Self { pooling, ..self }
    }

    /// The same with the signed square root of the features of images, of texts; after the pooling where the host pools.
    #[must_use]
    pub fn with_signed_root(self, signed_root: [bool; 2]) -> Self {
        Self { signed_root, ..self }
    }

    /// The same with size augmentation in training (vse-models.md section 2.4): the probabilities that a region and a
    /// token are left out.
    ///
    /// Every row is left out or kept on its own. The reference may keep none; here one row, drawn evenly, is kept then,
    /// since nothing can be pooled over none.
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

    /// Gathers the items `rows` of one side into `out`, without dropout and augmentation: `[rows.len(), row_stride(dim)]`
    /// row-major, the padding zero. Reuses the allocation of `out`; returns how many rows were all zero in the dataset.
    ///
    /// # Errors
    /// Those of [`Gather::items`], and a side that the device pools, whose items have several rows.
    pub fn rows(&self, dataset: &Dataset, side: Side, rows: &[u32], out: &mut Vec<f32>) -> Result<usize> {
        if self.pooling[side as usize] == Pooling::Gpo {
            let (expected, advice) = ("pooling on the host", "gather items, which gives offsets as well");
            return Err(Error::config("rows of a dataset", expected, "gpo", advice));
        }
        self.items(dataset, side, rows, out, &mut Vec::new())
    }

    /// Gathers items of one side into `out`, without dropout and augmentation: `[rows, row_stride(dim)]` row-major, the
    /// padding zero, `dim` being [`Dataset::width`].
    ///
    /// Where the device pools ([`Pooling::Gpo`]), item i owns the rows `offsets[i]..offsets[i + 1]`, one at least; else
    /// every item has one row and `offsets` stays empty. Reuses both allocations; returns how many of the rows read were
    /// all zero.
    ///
    /// # Errors
    /// Those of [`Dataset::read_row`] and [`Dataset::width`], and standardizers of another dimension.
    pub fn items(
        &self,
        dataset: &Dataset,
        side: Side,
        items: &[u32],
        out: &mut Vec<f32>,
        offsets: &mut Vec<u32>,
    ) -> Result<usize> {
        self.gather(dataset, side, items, None, out, offsets)
    }

    /// [`Gather::items`], with size augmentation where there are random numbers for it.
    fn gather(
        &self,
        dataset: &Dataset,
        side: Side,
        items: &[u32],
        rng: Option<ChaCha8Rng>,
        out: &mut Vec<f32>,
        offsets: &mut Vec<u32>,
    ) -> Result<usize> {
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
        let (mut scratch, mut cached_scratch, mut zero_rows) = (Vec::new(), Vec::new(), 0);
        offsets.clear();
        if pooling == Pooling::None {
            out.resize(items.len() * stride, 0.0);
            for (&row, out) in items.iter().zip(out.chunks_exact_mut(stride)) {
                zero_rows +=
                    usize::from(dataset.read_row(side, row as usize, &mut scratch, &mut out[..dim])?);
            }
        } else {
            let rows = self.local_rows(dataset, side, items, rng, offsets)?;
            let kept = if pooling == Pooling::Gpo { rows.len() } else { items.len() };
            out.resize(kept * stride, 0.0);
            let mut read = |row: u32, out: &mut [f32]| -> Result<()> {
                zero_rows += usize::from(dataset.read_local_row(side, row as usize, &mut scratch, out)?);
                Ok(())
            };
            if pooling == Pooling::Gpo {
                rows.iter()
                    .zip(out.chunks_exact_mut(stride))
                    .try_for_each(|(&row, out)| read(row, &mut out[..dim]))?;
            } else {
                // Of joined features the cached row comes first, then the mean, then the largest.
                let local = dataset.local_dim(side).unwrap_or(0);
                let mut values = vec![0.0; local];
                let spans = offsets.windows(2).zip(items).zip(out.chunks_exact_mut(stride));
                for ((own, &item), out) in spans {
                    let own = &rows[own[0] as usize..own[1] as usize];
                    let (cached, pooled) =
                        out[..dim].split_at_mut(if pooling == Pooling::Joined { dim - 2 * local } else { 0 });
                    if !cached.is_empty() {
                        dataset.read_row(side, item as usize, &mut cached_scratch, cached)?;
                    }
                    let kinds: &[Pooling] =
                        if pooling == Pooling::Joined { &[Pooling::Mean, Pooling::Max] } else { &[pooling] };
                    for (i, &row) in own.iter().enumerate() {
                        read(row, &mut values)?;
                        for (&kind, out) in kinds.iter().zip(pooled.chunks_exact_mut(local)) {
                            pool(kind, i == 0, out, &values);
                        }
                    }
                    if kinds[0] == Pooling::Mean {
                        pooled[..local].iter_mut().for_each(|x| *x /= own.len() as f32);
                    }
                }
                offsets.clear();
            }
        }
        for out in out.chunks_exact_mut(stride) {
            let (row, padding) = out.split_at_mut(dim);
            padding.fill(0.0);
            if self.signed_root[side as usize] {
                row.iter_mut().for_each(|x| *x = x.abs().sqrt().copysign(*x));
            }
            if let Some(standardizer) = standardizer {
                standardizer.apply(row);
            }
        }
        Ok(zero_rows)
    }

    /// The local rows of items, those left out by the augmentation missing; and where each item's own start among them.
    fn local_rows(
        &self,
        dataset: &Dataset,
        side: Side,
        items: &[u32],
        mut rng: Option<ChaCha8Rng>,
        offsets: &mut Vec<u32>,
    ) -> Result<Vec<u32>> {
        let probability = self.row_dropout[side as usize];
        let threshold = (probability * 4_294_967_296.0).round() as u64;
        let mut rows: Vec<u32> = Vec::new();
        offsets.push(0);
        for &item in items {
            let own = dataset.local_rows(side, item as usize);
            if own.is_empty() {
                let expected = format!("an item below {}", dataset.items(side));
                return Err(Error::data(dataset.name(), expected, item, "ask for an item of this dataset"));
            }
            let (first, before) = (own.start as u32, rows.len());
            let own = first..own.end as u32;
            match rng.as_mut().filter(|_| threshold > 0) {
                None => rows.extend(own),
                Some(rng) => {
                    let count = own.len() as u64;
                    rows.extend(own.filter(|_| u64::from(rng.next_u32()) >= threshold));
                    if rows.len() == before {
                        rows.push(first + ((u64::from(rng.next_u32()) * count) >> 32) as u32);
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

    /// Zeroes features at random and scales the others so that every mean stays.
    fn drop_features(&self, values: &mut [f32], mut rng: ChaCha8Rng) {
        // Sixteen random bits a feature. The scale is of the probability as rounded to them.
        let threshold = (self.dropout * 65536.0).round().min(65535.0);
        if threshold == 0.0 {
            return;
        }
        let (threshold, scale) = (threshold as u16, 65536.0 / (65536.0 - threshold));
        let mut bits = [0; 1024];
        for values in values.chunks_mut(bits.len() / 2) {
            rng.fill_bytes(&mut bits);
            for (x, &bits) in values.iter_mut().zip(bytemuck::cast_slice(&bits)) {
                *x *= if u16::from_le_bytes(bits) < threshold { 0.0 } else { scale };
            }
        }
    }
}

/// Pools one more row into `out`; the mean is divided by the number of rows later.
fn pool(pooling: Pooling, first: bool, out: &mut [f32], row: &[f32]) {
    if first {
        return out.copy_from_slice(row);
    }
    let combine: fn(f32, f32) -> f32 = if pooling == Pooling::Max { f32::max } else { |a, b| a + b };
    out.iter_mut().zip(row).for_each(|(out, &x)| *out = combine(*out, x));
}

/// One batch on the host, ready for upload: row-major f32, padding zero. Its memory, or what a
/// device gave for it, returns to the worker when it is dropped.
#[derive(Debug, Default)]
pub struct Batch {
    /// Image features `[rows, row_stride(dim)]`, row i being the image of pair i; where the device pools,
    /// `[local rows, row_stride(dim)]`, see `offsets`.
    pub images: Vec<f32>,
    /// Text features likewise.
    pub texts: Vec<f32>,
    /// Of images and texts: pair i owns the local rows `offsets[i]..offsets[i + 1]`, one at least. Empty where there is
    /// one row a pair.
    pub offsets: [Vec<u32>; 2],
    /// Image row of each pair in the dataset; equal for captions of one image.
    pub ids: Vec<u32>,
    /// How many of the feature rows that were read were all zero in the dataset.
    pub zero_rows: usize,
    /// Pairs.
    pub rows: usize,
    /// Both sides' features once more, where a device has them ready.
    pub(crate) staged: [Option<Upload<'static, f32>>; 2],
    home: Option<Sender<Batch>>,
}

impl Batch {
    /// `halves` tells of either side whether all values are f16.
    fn stage(&mut self, device: &Device, halves: [bool; 2]) -> Result<()> {
        let stage = |rows: &[f32], halves| match halves {
            true => Ok(device.stage_halves(rows)?.map(Upload::Halves)),
            false => Ok(device.stage(rows)?.map(Upload::Staged)),
        };
        self.staged = [stage(&self.images, halves[0])?, stage(&self.texts, halves[1])?];
        Ok(())
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            // The worker may be gone; the memory is then freed here.
            let _ = home.send(std::mem::take(self));
        }
    }
}

/// The training batches of one epoch, prepared by a thread while the consumer computes.
///
/// An error is yielded once and ends the iteration. Dropping the iterator stops the thread.
#[derive(Debug)]
pub struct Batches {
    results: Option<Receiver<Result<Batch>>>,
    worker: Option<JoinHandle<()>>,
    left: usize,
}

impl Batches {
    /// Starts on an epoch of the training split in batches of `batch` pairs; see [`pair_order`] and
    /// [`steps_per_epoch`].
    ///
    /// # Errors
    /// A batch of 0 pairs; no thread to be had.
    pub fn new(
        dataset: Arc<Dataset>,
        gather: Arc<Gather>,
        batch: usize,
        seed: u64,
        epoch: u64,
    ) -> Result<Self> {
        Self::for_device(&Device::cpu(), dataset, gather, batch, seed, epoch)
    }

    /// [`Batches::new`], whose thread makes the uploads to a device ready as well.
    pub(crate) fn for_device(
        device: &Device,
        dataset: Arc<Dataset>,
        gather: Arc<Gather>,
        batch: usize,
        seed: u64,
        epoch: u64,
    ) -> Result<Self> {
        let device = device.clone();
        let halves = [Side::Image, Side::Text].map(|side| gather.keeps_halves(&dataset, side));
        if batch == 0 {
            return Err(Error::config("batch size", "at least 1", 0, "choose a larger batch"));
        }
        let pairs = dataset.split(Split::Train).texts.len();
        let order = pair_order(pairs, seed, epoch);
        let mut texts = Vec::new();
        Self::spawn(steps_per_epoch(pairs, batch), move |step, out| {
            let split = dataset.split(Split::Train);
            let pairs = &order[step * batch..order.len().min((step + 1) * batch)];
            let image = |&pair: &u32| split.images[split.text_image[pair as usize] as usize];
            texts.clear();
            texts.extend(pairs.iter().map(|&pair| split.texts[pair as usize]));
            out.ids.clear();
            out.ids.extend(pairs.iter().map(image));
            out.rows = pairs.len();
            let rng = |purpose| random(purpose, seed, epoch, step as u32);
            let Batch { images, ids, offsets: [image_offsets, text_offsets], .. } = out;
            let image_rng = Some(rng(Purpose::ImageRows));
            out.zero_rows = gather.gather(&dataset, Side::Image, ids, image_rng, images, image_offsets)?;
            let text_rng = Some(rng(Purpose::TextRows));
            out.zero_rows +=
                gather.gather(&dataset, Side::Text, &texts, text_rng, &mut out.texts, text_offsets)?;
            gather.drop_features(&mut out.images, rng(Purpose::ImageDropout));
            gather.drop_features(&mut out.texts, rng(Purpose::TextDropout));
            out.stage(&device, halves)
        })
    }

    /// Runs `fill` for every step on a thread of its own, ahead of the consumer.
    fn spawn(
        steps: usize,
        fill: impl FnMut(usize, &mut Batch) -> Result<()> + Send + 'static,
    ) -> Result<Self> {
        let (sender, results) = mpsc::sync_channel(AHEAD);
        let worker = thread::Builder::new()
            .name("batches".into())
            .spawn(move || work(steps, fill, &sender))
            .map_err(|e| Error::data("the batch thread", "a thread", e, "free some memory or processes"))?;
        Ok(Self { results: Some(results), worker: Some(worker), left: steps })
    }
}

fn work(
    steps: usize,
    mut fill: impl FnMut(usize, &mut Batch) -> Result<()>,
    sender: &SyncSender<Result<Batch>>,
) {
    let (home, returned) = mpsc::channel::<Batch>();
    for step in 0..steps {
        let mut batch = returned.try_recv().unwrap_or_default();
        let result = fill(step, &mut batch);
        batch.home = Some(home.clone());
        let failed = result.is_err();
        // Sending fails once the consumer has dropped the iterator.
        if sender.send(result.map(|()| batch)).is_err() || failed {
            return;
        }
    }
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let result = self.results.as_ref()?.recv().unwrap_or_else(|_| {
            // Only a panic ends the thread before its last batch.
            Err(Error::data("the batch thread", "a batch", "a panic", "report this as a bug of wgoal"))
        });
        if result.is_err() {
            self.left = 0;
        }
        Some(result)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left > 0), Some(self.left))
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        // Without a receiver the thread's next send fails, so that it can be waited for.
        self.results = None;
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_worker_becomes_one_error() {
        let mut batches = Batches::spawn(9, |step, _| {
            assert!(step < 2, "as this test intends");
            Ok(())
        })
        .unwrap();
        assert!(batches.next().unwrap().is_ok() && batches.next().unwrap().is_ok());
        let message = batches.next().unwrap().unwrap_err().to_string();
        assert_eq!(
            message,
            "the batch thread: expected a batch, found a panic; report this as a bug of wgoal"
        );
        assert!(batches.next().is_none());
    }

    #[test]
    fn memory_returns_to_the_worker() {
        let (fresh, allocated) = mpsc::channel();
        let batches = Batches::spawn(100, move |_, batch| {
            if batch.ids.capacity() == 0 {
                fresh.send(()).unwrap();
            }
            batch.ids.resize(10, 0);
            Ok(())
        });
        assert_eq!(batches.unwrap().map(Result::unwrap).count(), 100);
        // Those ahead, the one that the worker is at, and the one that the consumer holds.
        assert!(allocated.iter().count() <= AHEAD + 2);
    }
}
