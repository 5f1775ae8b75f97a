//! The thread that prepares training batches. It holds only a few of them.

use rayon::ThreadPoolBuilder;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::batch::{Batch, Epoch, filler};
use super::{Dataset, Preprocess};
use crate::device::Device;
use crate::{Error, Result};

/// Finished batches that wait for the consumer.
const AHEAD: usize = 2;

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
    /// and [`super::steps_per_epoch`].
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
        let epoch = Epoch { batch, window: None, slices: None, seeds: [seed, epoch], begin: 0 };
        Self::for_device(&Device::cpu(), dataset, preprocess, epoch)
    }

    /// [`Batches::new`] with a window of the shuffle. The thread also prepares the uploads to `device`. With `slices`,
    /// these slices of every batch are yielded, each as a batch of its own. The steps before `begin` are left out.
    pub(crate) fn for_device(
        device: &Device,
        dataset: Arc<Dataset>,
        preprocess: Arc<Preprocess>,
        epoch: Epoch,
    ) -> Result<Self> {
        let (steps, fill) = filler(device, dataset, preprocess, epoch)?;
        Self::spawn(steps, fill)
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
