//! Work in a browser, which must not wait: what would be too much for the device at once is held back.
//!
//! At most [`MAX_IN_FLIGHT`] submissions are in flight. Further work stays here until one of them has ended. The end of a
//! submission is only noted when it is told, because what tells it cannot hold the device. [`Gpu::keep_up`] then submits
//! the work that is held back.

use super::faults::lock;
use super::gpu::Gpu;
use super::work::{MAX_IN_FLIGHT, Submission, Work};
use crate::Result;
use futures_channel::oneshot::{self, Receiver, Sender};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use web_time::Instant;

/// Work that is held back.
#[derive(Default)]
pub(super) struct HeldBack {
    work: VecDeque<Work>,
    ends: Arc<Ends>,
}

impl HeldBack {
    /// Where the end of a submission is noted, or that the device is lost.
    pub fn ends(&self) -> Arc<Ends> {
        self.ends.clone()
    }
}

/// The submissions that have ended since the last look, and those who wait for one more.
#[derive(Default)]
pub(super) struct Ends {
    count: AtomicUsize,
    waiting: Mutex<Vec<Sender<()>>>,
}

impl Ends {
    /// Wakes all who wait.
    pub fn wake(&self) {
        for sender in lock(&self.waiting).drain(..) {
            // One who no longer waits needs no word.
            let _ = sender.send(());
        }
    }
}

impl Gpu {
    /// Whether work is held back.
    pub(super) fn holds_back(&self) -> bool {
        !lock(&self.0.flight).held.work.is_empty()
    }

    /// Gives work to the driver now, or when earlier work has ended.
    pub(super) fn submit(&self, work: Work) -> Result<()> {
        if !work.items.is_empty() {
            lock(&self.0.flight).held.work.push_back(work);
            self.submit_held();
        }
        self.check()
    }

    /// Submits as much of the work that is held back as the device may have now.
    fn submit_held(&self) {
        loop {
            let work = {
                let mut flight = lock(&self.0.flight);
                for _ in 0..flight.held.ends.count.swap(0, Ordering::Relaxed) {
                    if let Some(Submission { cost, begun, .. }) = flight.submissions.pop_front() {
                        flight.measure(cost, begun);
                    }
                }
                if flight.submissions.len() >= MAX_IN_FLIGHT {
                    return;
                }
                let Some(work) = flight.held.work.pop_front() else { return };
                flight.submissions.push_back(Submission { cost: work.cost, begun: Instant::now() });
                work
            };
            self.give(work);
            let ends = lock(&self.0.flight).held.ends();
            self.0.queue.on_submitted_work_done(move || {
                ends.count.fetch_add(1, Ordering::Relaxed);
                ends.wake();
            });
        }
    }

    /// Waits until no work is held back, and fewer than the most submissions are in flight.
    pub(super) async fn keep_up(&self) -> Result<()> {
        loop {
            self.submit_held();
            self.check()?;
            let ended = {
                let flight = lock(&self.0.flight);
                if flight.held.work.is_empty() && flight.submissions.len() < MAX_IN_FLIGHT {
                    return Ok(());
                }
                let (sender, receiver): (_, Receiver<()>) = oneshot::channel();
                lock(&flight.held.ends.waiting).push(sender);
                receiver
            };
            // A sender that is gone means the same: look again.
            let _ = ended.await;
        }
    }
}
