//! How long the ranks of a job wait for one another.

use super::{Communicator, gather, texts};
use crate::Result;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// A job that measures how long this process is in calls of it: the time of the exchange, and the wait for the others.
pub(crate) struct Measured {
    ranks: Arc<dyn Communicator>,
    nanoseconds: AtomicU64,
}

/// The process that the others waited for.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Waited {
    /// Its number, from 0.
    pub process: usize,
    /// The name of its machine; empty if it is not known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub machine: String,
    /// How much longer than it the others waited, in seconds: the mean over them.
    pub seconds: f64,
}

impl Measured {
    pub fn new(ranks: Arc<dyn Communicator>) -> Self {
        Self { ranks, nanoseconds: AtomicU64::new(0) }
    }

    /// Measures from now on.
    pub fn restart(&self) {
        self.nanoseconds.store(0, Ordering::Relaxed);
    }

    /// The process that the others have waited for since [`Measured::restart`]: the one that waited least. All processes
    /// call this together.
    pub fn waited(&self) -> Result<Waited> {
        let own = self.nanoseconds.load(Ordering::Relaxed);
        let all = gather(self, &[own], &vec![1; self.size()])?;
        let machines = texts(self, &self.machine())?;
        let process = slowest(&all);
        let (least, others) = (all[process], all.len().max(2) - 1);
        let more: f64 = all.iter().map(|waited| (waited - least) as f64 / 1e9).sum();
        Ok(Waited { process, machine: machines[process].clone(), seconds: more / others as f64 })
    }
}

/// The first of those that waited least.
fn slowest(waited: &[u64]) -> usize {
    waited.iter().enumerate().min_by_key(|(_, waited)| **waited).map_or(0, |(process, _)| process)
}

impl Communicator for Measured {
    fn rank(&self) -> usize {
        self.ranks.rank()
    }

    fn size(&self) -> usize {
        self.ranks.size()
    }

    fn local(&self) -> [usize; 2] {
        self.ranks.local()
    }

    fn machine(&self) -> String {
        self.ranks.machine()
    }

    fn gather(&self, own: &[u8], lens: &[usize], whole: &mut [u8]) -> Result<()> {
        let began = Instant::now();
        let done = self.ranks.gather(own, lens, whole);
        self.nanoseconds.fetch_add(began.elapsed().as_nanos() as u64, Ordering::Relaxed);
        done
    }

    fn exchange(&self, own: &[u8], to: &[usize], from: &[usize], whole: &mut [u8]) -> Result<()> {
        let began = Instant::now();
        let done = self.ranks.exchange(own, to, from, whole);
        self.nanoseconds.fetch_add(began.elapsed().as_nanos() as u64, Ordering::Relaxed);
        done
    }

    fn abort(&self, code: u8) -> u8 {
        self.ranks.abort(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Two processes of which this is the second; every call takes a while, and the other one has waited for 3 s.
    struct Two;

    impl Communicator for Two {
        fn rank(&self) -> usize {
            1
        }

        fn size(&self) -> usize {
            2
        }

        fn local(&self) -> [usize; 2] {
            [1, 2]
        }

        fn gather(&self, own: &[u8], lens: &[usize], whole: &mut [u8]) -> Result<()> {
            std::thread::sleep(Duration::from_millis(20));
            let (first, second) = whole.split_at_mut(lens[0]);
            second.copy_from_slice(own);
            if lens == [8, 8] {
                first.copy_from_slice(&3_000_000_000u64.to_le_bytes());
            }
            Ok(())
        }

        fn exchange(&self, _: &[u8], _: &[usize], _: &[usize], _: &mut [u8]) -> Result<()> {
            Ok(())
        }

        fn abort(&self, code: u8) -> u8 {
            code
        }
    }

    #[test]
    fn the_process_that_waits_least_is_the_slow_one() {
        let measured = Measured::new(Arc::new(Two));
        gather(&measured, &[0u32], &[1, 1]).unwrap();
        measured.restart();
        gather(&measured, &[0u32], &[1, 1]).unwrap();
        let Waited { process, machine, seconds } = measured.waited().unwrap();
        assert_eq!((process, machine.as_str()), (1, ""));
        assert!((1.0..=2.98).contains(&seconds), "{seconds}");
        assert_eq!(slowest(&[3, 1, 1]), 1);
    }
}
