//! Training batches, and the worker that prepares them.
//!
//! Everything random about the data is a pure function of seed, epoch and batch. A run that is resumed at any epoch
//! therefore sees the same bits. The worker holds only a few batches.

use rayon::ThreadPoolBuilder;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender, TryRecvError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::order::Order;
use super::preprocess::{Prepared, ReadAhead, row_stride};
use super::{Dataset, Preprocess, Side, Split};
use crate::cluster::Slices;
use crate::device::{Device, Upload};
use crate::math::{Purpose, random};
use crate::{Error, Result};

/// Finished batches that wait for the consumer.
const AHEAD: usize = 2;

/// Batches of one epoch: the last incomplete batch is dropped, unless it is the only one.
pub fn steps_per_epoch(pairs: usize, batch: usize) -> usize {
    match pairs.checked_div(batch) {
        Some(0) => usize::from(pairs > 0),
        steps => steps.unwrap_or(0),
    }
}

/// One batch, ready for upload: row-major f32, padded with zeros. When it is dropped, its memory returns to the worker.
#[derive(Debug, Default)]
pub struct Batch {
    /// Image features `[rows, row_stride(dim)]`; row i is the image of pair i. If the device pools, `[local rows,
    /// row_stride(dim)]`; see `offsets`.
    pub images: Vec<f32>,
    /// Text features, in the same form.
    pub texts: Vec<f32>,
    /// For images and texts: pair i owns the local rows `offsets[i]..offsets[i + 1]`, at least one. Empty if there is
    /// one row per pair.
    pub offsets: [Vec<u32>; 2],
    /// Image row of each pair in the dataset; equal for captions of one image.
    pub ids: Vec<u32>,
    /// Text row of each pair in the dataset.
    pub text_rows: Vec<u32>,
    /// How many of the feature rows that were read were all zero in the dataset.
    pub zero_rows: usize,
    /// Pairs.
    pub rows: usize,
    /// The image rows and the text rows of all pairs of the batch, if this is the first of several slices that a process
    /// takes of it.
    pub(crate) whole: [Vec<u32>; 2],
    /// The features of both sides, already prepared for upload, if the device supports it.
    pub(crate) staged: [Option<Upload<'static, f32>>; 2],
    home: Option<Sender<Batch>>,
}

impl Batch {
    /// `halves` says for each side whether all values are f16.
    fn stage(&mut self, device: &Device, halves: [bool; 2]) {
        let stage = |rows: &[f32], halves| match halves {
            true => device.stage_halves(rows).map(Upload::Halves),
            false => device.stage(rows).map(Upload::Staged),
        };
        self.staged = [stage(&self.images, halves[0]), stage(&self.texts, halves[1])];
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            // If the worker is gone, the memory is freed here.
            let _ = home.send(std::mem::take(self));
        }
    }
}

/// Whether the thread of [`Batches`] does without the global pool.
static ALONE: AtomicBool = AtomicBool::new(false);

/// From now on, the thread that prepares [`Batches`] reads rows alone, without the global rayon pool. A process that was
/// forked after its parent has started that pool needs this, because it has none of the pool's threads.
pub fn read_batches_alone() {
    ALONE.store(true, Ordering::Relaxed);
}

/// Runs the work of the thread of [`Batches`].
fn in_pool(work: impl FnOnce()) {
    if ALONE.load(Ordering::Relaxed) {
        // This thread becomes a pool by itself. If that fails, it uses the global pool like others.
        let _pool = ThreadPoolBuilder::new().num_threads(1).use_current_thread().build();
        return work();
    }
    work();
}

/// The training batches of one epoch. A thread prepares them while the consumer computes. The global rayon pool reads
/// rows that are in memory.
///
/// An error is yielded once and ends the iteration. Dropping the iterator stops the thread. On a thread of a rayon
/// pool, both do other work of the pool while they wait. So do not hold a lock there that such work may take, and leave
/// the global pool at least one free thread.
#[derive(Debug)]
pub struct Batches {
    results: Option<Receiver<Result<Batch>>>,
    worker: Option<JoinHandle<()>>,
    left: usize,
}

impl Batches {
    /// Starts an epoch of the training split in batches of `batch` pairs; see [`pair_order`](super::pair_order)
    /// and [`steps_per_epoch`].
    ///
    /// # Errors
    /// A batch of 0 pairs, or no thread could be started.
    pub fn new(
        dataset: Arc<Dataset>,
        preprocess: Arc<Preprocess>,
        batch: usize,
        seed: u64,
        epoch: u64,
    ) -> Result<Self> {
        Self::for_device(&Device::cpu(), dataset, preprocess, (batch, None), None, ([seed, epoch], 0))
    }

    /// [`Batches::new`] with a window of the shuffle. The thread also prepares the uploads to `device`. With `slices`,
    /// these slices of every batch are yielded, each as a batch of its own. The steps before `begin` are left out.
    ///
    /// The function is long because all that is random in a batch stands in it, in one order.
    pub(crate) fn for_device(
        device: &Device,
        dataset: Arc<Dataset>,
        preprocess: Arc<Preprocess>,
        (batch, window): (usize, Option<usize>),
        slices: Option<(Slices, Range<usize>)>,
        ([seed, epoch], begin): ([u64; 2], usize),
    ) -> Result<Self> {
        let device = device.clone();
        let halves = [Side::Image, Side::Text].map(|side| preprocess.keeps_halves(&dataset, side));
        if batch == 0 {
            return Err(Error::config("batch size", "at least 1", 0, "choose a larger batch"));
        }
        let pairs = dataset.split(Split::Train).texts.len();
        let order = Order::new(pairs, window, seed, epoch);
        let (steps, mut read_ahead, mut waiting) = (steps_per_epoch(pairs, batch), ReadAhead::new(), false);
        let in_blocks = order.in_blocks().then(|| InBlocks::new(dataset.clone()));
        let count = slices.as_ref().map_or(1, |(_, own)| own.len());
        Self::spawn((steps.saturating_sub(begin), count), move |number, out| {
            let (step, slice) = (begin + number / count, number % count);
            let split = dataset.split(Split::Train);
            let until = |step: usize| order.pairs.len().min(steps * batch).min(step.saturating_mul(batch));
            let image = |&pair: &u32| split.images[split.text_image[pair as usize] as usize];
            // Announce one batch ahead, or one window of blocks: the system fetches uncached rows while this batch is
            // preprocessed and computed. Blocks need few calls.
            if slice == 0 {
                waiting = read_ahead.due(&dataset);
            }
            if slice == 0 && (waiting || in_blocks.is_some()) {
                let first =
                    if step == begin { order.first(until(step)) } else { order.told(until(step + 1)) };
                let next = first..order.told(until(step + 2));
                // A batch without blocks is announced in its own order, of which only the own slices are read.
                let next = match &slices {
                    Some((slices, own)) if in_blocks.is_none() && next.len() == batch => {
                        next.start + slices.pairs(own.start).start..next.start + slices.pairs(own.end - 1).end
                    }
                    _ => next,
                };
                let pairs = &order.announced[next];
                preprocess.will_need(&dataset, Side::Image, pairs.iter().map(image));
                preprocess.will_need(
                    &dataset,
                    Side::Text,
                    pairs.iter().map(|&pair| split.texts[pair as usize]),
                );
            }
            let pairs = &order.pairs[step * batch..until(step + 1)];
            let texts: Vec<u32> = pairs.iter().map(|&pair| split.texts[pair as usize]).collect();
            let images: Vec<u32> = pairs.iter().map(image).collect();
            let part =
                slices.as_ref().map_or(0..pairs.len(), |(slices, own)| slices.pairs(own.start + slice));
            out.rows = part.len();
            out.zero_rows = 0;
            let rng = |purpose| random(purpose, seed, epoch, step as u32);
            let [image_offsets, text_offsets] = &mut out.offsets;
            for (side, items, values, offsets, [rows, dropout]) in [
                (
                    Side::Image,
                    &images,
                    &mut out.images,
                    image_offsets,
                    [Purpose::ImageRows, Purpose::ImageDropout],
                ),
                (Side::Text, &texts, &mut out.texts, text_offsets, [Purpose::TextRows, Purpose::TextDropout]),
            ] {
                let (items, into) = ((&items[..], part.clone()), (&mut *values, offsets));
                let rows = Some(rng(rows));
                let Prepared { zero_rows, first } =
                    preprocess.preprocess(&dataset, side, items, rows, !waiting, into)?;
                out.zero_rows += zero_rows;
                let width = row_stride(dataset.width(side, preprocess.pooling_of(side))?);
                preprocess.drop_features(values, rng(dropout), first * width);
            }
            replace(&mut out.ids, &images[part.clone()]);
            replace(&mut out.text_rows, &texts[part]);
            out.whole = if slices.is_some() && slice == 0 { [images, texts] } else { Default::default() };
            out.stage(&device, halves);
            Ok(())
        })
    }

    /// Runs `fill` for every step on its own thread, ahead of the consumer. A step is `count` parts.
    fn spawn(
        (steps, count): (usize, usize),
        fill: impl FnMut(usize, &mut Batch) -> Result<()> + Send + 'static,
    ) -> Result<Self> {
        let (steps, ahead) = (steps * count, AHEAD * count);
        let (sender, results) = mpsc::sync_channel(ahead);
        let worker = thread::Builder::new()
            .name("batches".into())
            .spawn(move || in_pool(|| work(steps, fill, &sender)))
            .map_err(|e| Error::data("the batch thread", "a thread", e, "free some memory or processes"))?;
        Ok(Self { results: Some(results), worker: Some(worker), left: steps })
    }
}

/// The image rows and the text rows of the pairs of each of these `steps`, as [`Batches`] visits them.
pub(crate) fn rows_of_steps(
    dataset: &Dataset,
    (batch, window): (usize, Option<usize>),
    [seed, epoch]: [u64; 2],
    steps: Range<usize>,
) -> Vec<[Vec<u32>; 2]> {
    let split = dataset.split(Split::Train);
    let order = Order::new(split.texts.len(), window, seed, epoch).pairs;
    let rows = |step: usize| {
        let pairs = order.iter().skip(step.saturating_mul(batch)).take(batch).map(|&pair| pair as usize);
        let image = |pair: usize| split.images[split.text_image[pair] as usize];
        [pairs.clone().map(image).collect(), pairs.map(|pair| split.texts[pair]).collect()]
    };
    steps.map(rows).collect()
}

/// Overwrites a vector, in the memory that it has.
fn replace(old: &mut Vec<u32>, new: &[u32]) {
    old.clear();
    old.extend_from_slice(new);
}

/// While it lives, the files of a dataset are read in announced blocks.
struct InBlocks(Arc<Dataset>);

impl InBlocks {
    fn new(dataset: Arc<Dataset>) -> Self {
        dataset.files().for_each(|file| file.reads_on(false));
        Self(dataset)
    }
}

impl Drop for InBlocks {
    fn drop(&mut self) {
        self.0.files().for_each(|file| file.reads_on(true));
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

/// On a thread of the pool, does the pool's work until `come_about` returns true. This work may include shares of the
/// batch that is waited for, because no other thread may be free to do them. On other threads it returns at once.
fn help_until(mut come_about: impl FnMut() -> bool) {
    while !come_about() {
        match rayon::yield_now() {
            None => return,
            Some(rayon::Yield::Executed) => {}
            Some(rayon::Yield::Idle) => thread::sleep(Duration::from_micros(50)),
        }
    }
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let results = self.results.as_ref()?;
        let mut ready = None;
        help_until(|| match results.try_recv() {
            Err(TryRecvError::Empty) => false,
            result => {
                ready = Some(result.ok());
                true
            }
        });
        let result = ready.unwrap_or_else(|| results.recv().ok()).unwrap_or_else(|| {
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
        // Without a receiver, the thread's next send fails. The thread then ends and can be joined.
        self.results = None;
        if let Some(worker) = self.worker.take() {
            help_until(|| worker.is_finished());
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_worker_becomes_one_error() {
        let mut batches = Batches::spawn((9, 1), |step, _| {
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
        let batches = Batches::spawn((100, 1), move |_, batch| {
            if batch.ids.capacity() == 0 {
                fresh.send(()).unwrap();
            }
            batch.ids.resize(10, 0);
            Ok(())
        });
        assert_eq!(batches.unwrap().map(Result::unwrap).count(), 100);
        // The batches that wait, the one that the worker fills, and the one that the consumer holds.
        assert!(allocated.iter().count() <= AHEAD + 2);
    }
}
