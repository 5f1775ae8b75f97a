//! Training batches without threads: each is filled when it is asked for.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use super::batch::{Batch, Epoch, filler};
use super::{Dataset, Preprocess};
use crate::Result;
use crate::device::Device;

/// The training batches of one epoch. An error is yielded once and ends the iteration.
pub struct Batches {
    fill: Box<dyn FnMut(usize, &mut Batch) -> Result<()>>,
    next: usize,
    end: usize,
    /// Where the memory of dropped batches comes back.
    home: (Sender<Batch>, Receiver<Batch>),
}

impl Batches {
    /// The batches of an epoch. They are prepared for `device`.
    ///
    /// # Errors
    /// A batch of 0 pairs.
    pub(crate) fn for_device(
        device: &Device,
        dataset: Arc<Dataset>,
        preprocess: Arc<Preprocess>,
        epoch: Epoch,
    ) -> Result<Self> {
        let ((steps, count), fill) = filler(device, dataset, preprocess, epoch)?;
        Ok(Self { fill: Box::new(fill), next: 0, end: steps * count, home: mpsc::channel() })
    }
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.end {
            return None;
        }
        let mut batch = self.home.1.try_recv().unwrap_or_default();
        let filled = (self.fill)(self.next, &mut batch);
        self.next = if filled.is_ok() { self.next + 1 } else { self.end };
        batch.home = Some(self.home.0.clone());
        Some(filled.map(|()| batch))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.next < self.end), Some(self.end - self.next))
    }
}
