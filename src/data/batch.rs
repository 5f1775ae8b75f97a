//! Training batches, and how they are filled.
//!
//! Everything random about the data is a pure function of seed, epoch and batch. A run that is resumed at any epoch
//! therefore sees the same bits.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use super::order::Order;
use super::preprocess::{Prepared, ReadAhead, row_stride};
use super::{Dataset, Preprocess, Side, Split};
use crate::cluster::Slices;
use crate::device::{Device, Upload};
use crate::math::{Purpose, random};
use crate::{Error, Result};

#[cfg(not(feature = "native"))]
pub use super::one_by_one::Batches;
#[cfg(feature = "native")]
pub use super::worker::Batches;

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
    pub ids: Vec<u64>,
    /// Text row of each pair in the dataset.
    pub text_rows: Vec<u64>,
    /// How many of the feature rows that were read were all zero in the dataset.
    pub zero_rows: usize,
    /// Pairs.
    pub rows: usize,
    /// The image rows and the text rows of all pairs of the batch, if this is the first of several slices that a process
    /// takes of it.
    pub(crate) whole: [Vec<u64>; 2],
    /// The features of both sides, already prepared for upload, if the device supports it.
    pub(crate) staged: [Option<Upload<'static, f32>>; 2],
    pub(super) home: Option<Sender<Batch>>,
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

/// The batches of an epoch.
pub(crate) struct Epoch {
    /// Pairs of a batch.
    pub batch: usize,
    /// Pairs of a window of the shuffle.
    pub window: Option<usize>,
    /// With slices, these slices of every batch are filled, each as a batch of its own.
    pub slices: Option<(Slices, Range<usize>)>,
    /// The seed of the run, and the epoch, counted from 0.
    pub seeds: [u64; 2],
    /// The steps before this one are left out.
    pub begin: usize,
}

/// What fills the batches of an epoch, of the training split, one after another. It also prepares the uploads to `device`.
/// Beside it, the steps and the parts of each step.
///
/// The function is long because all that is random in a batch stands in it, in one order.
///
/// # Errors
/// A batch of 0 pairs.
pub(super) fn filler(
    device: &Device,
    dataset: Arc<Dataset>,
    preprocess: Arc<Preprocess>,
    epoch: Epoch,
) -> Result<((usize, usize), impl FnMut(usize, &mut Batch) -> Result<()> + use<>)> {
    let Epoch { batch, window, slices, seeds: [seed, epoch], begin } = epoch;
    let device = device.clone();
    let halves = [Side::Image, Side::Text].map(|side| preprocess.keeps_halves(&dataset, side));
    if batch == 0 {
        return Err(Error::config("batch size", "at least 1", 0, "choose a larger batch"));
    }
    let pairs = dataset.split(Split::Train).texts.len();
    let mut order = Order::new(pairs, window, seed, epoch)?;
    let (steps, mut read_ahead, mut waiting) = (steps_per_epoch(pairs, batch), ReadAhead::new(), false);
    let in_blocks = order.in_blocks().then(|| InBlocks::new(dataset.clone()));
    let count = slices.as_ref().map_or(1, |(_, own)| own.len());
    let fill = move |number: usize, out: &mut Batch| {
        let (step, slice) = (begin + number / count, number % count);
        let split = dataset.split(Split::Train);
        let until = |step: usize| pairs.min(steps * batch).min(step.saturating_mul(batch));
        let image = |&pair: &u64| split.image_of(pair as usize);
        let text = |&pair: &u64| split.texts.at(pair as usize);
        // Announce one batch ahead, or one window of blocks: the system fetches uncached rows while this batch is
        // preprocessed and computed. Blocks need few calls.
        if slice == 0 {
            waiting = read_ahead.due(&dataset);
        }
        if slice == 0 && (waiting || in_blocks.is_some()) {
            let first = if step == begin { order.first(until(step)) } else { order.told(until(step + 1)) };
            let next = first..order.told(until(step + 2));
            // A batch without blocks is announced in its own order, of which only the own slices are read.
            let next = match &slices {
                Some((slices, own)) if in_blocks.is_none() && next.len() == batch => {
                    next.start + slices.pairs(own.start).start..next.start + slices.pairs(own.end - 1).end
                }
                _ => next,
            };
            let pairs = order.announced(next);
            preprocess.will_need(&dataset, Side::Image, pairs.iter().map(image));
            preprocess.will_need(&dataset, Side::Text, pairs.iter().map(text));
        }
        let pairs = order.pairs(step * batch..until(step + 1));
        let texts: Vec<u64> = pairs.iter().map(text).collect();
        let images: Vec<u64> = pairs.iter().map(image).collect();
        let part = slices.as_ref().map_or(0..pairs.len(), |(slices, own)| slices.pairs(own.start + slice));
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
    };
    Ok(((steps.saturating_sub(begin), count), fill))
}

/// The image rows and the text rows of the pairs of each of these `steps`, as [`Batches`] visits them.
pub(crate) fn rows_of_steps(
    dataset: &Dataset,
    (batch, window): (usize, Option<usize>),
    [seed, epoch]: [u64; 2],
    steps: Range<usize>,
) -> Result<Vec<[Vec<u64>; 2]>> {
    let split = dataset.split(Split::Train);
    let mut order = Order::new(split.texts.len(), window, seed, epoch)?;
    let mut rows = |step: usize| {
        let first = step.saturating_mul(batch);
        let pairs = order.pairs(first..first.saturating_add(batch));
        let pairs = pairs.into_iter().map(|pair| pair as usize);
        [
            pairs.clone().map(|pair| split.image_of(pair)).collect(),
            pairs.map(|pair| split.texts.at(pair)).collect(),
        ]
    };
    Ok(steps.map(&mut rows).collect())
}

/// Overwrites a vector, in the memory that it has.
fn replace(old: &mut Vec<u64>, new: &[u64]) {
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
