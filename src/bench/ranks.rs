//! Times training steps of a batch that several processes share, and counts what they exchange.

use super::step::Profiled;
use super::{peak_memory, wrong};
use crate::cluster::{Communicator, gather};
use crate::device::{Device, padded};
use crate::model::Head;
use crate::train::{Pipeline, TrainConfig};
use crate::{Error, Result};
use serde::Serialize;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

/// The seconds to spend on timed steps, and the fewest and the most of them.
const SECONDS: f64 = 4.0;
const STEPS: std::ops::RangeInclusive<usize> = 5..=200;
/// The number of steps in a profile.
const PROFILED: usize = 4;

/// The times of the steps of a batch that several processes share.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct RanksTimes {
    /// The number of processes.
    pub ranks: usize,
    /// Threads of this process.
    pub threads: usize,
    /// The number of slices of the batch.
    pub slices: usize,
    /// The number of timed steps.
    pub steps: usize,
    /// The median over the steps.
    pub median_ms: f64,
    /// Of a step, how long this process moved data to and from the others: the median.
    pub moving_ms: f64,
    /// Of a step, how long this process waited for a slower one before: the median.
    pub waiting_ms: f64,
    /// The exchanges in a step.
    pub exchanges: usize,
    /// The bytes that a step brings from the other processes.
    pub received: u64,
    /// The numbers of a gradient of the head.
    pub parameters: usize,
    /// The largest resident memory of each process, in MB; empty if the system does not report it.
    pub peak_mb: Vec<u64>,
    /// The same before the pipeline was made.
    pub before_mb: Vec<u64>,
    /// A hash of the gradient of the first step. It does not depend on the number of processes.
    pub gradient: String,
    /// A hash of the head after three steps. It does not depend on the number of processes.
    pub head: String,
    /// The time of each kernel on this process, if requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profiled>,
}

/// Times steps of `config` on batches of `[pairs, image width, text width, embedding width]` that all processes share.
/// Each has the features of its own pairs only. All processes call it together. The function is long because it fills
/// one table, row by row.
///
/// # Errors
/// An option is out of range, the device fails, or the processes end with different heads.
pub fn ranks(
    device: &Device,
    config: &TrainConfig,
    shape: [usize; 4],
    ranks: Arc<dyn Communicator>,
    profile: bool,
) -> Result<RanksTimes> {
    let [pairs, p, q, d] = shape;
    let before = peak_memory();
    let counted = Arc::new(Counted::new(ranks));
    let mut pipeline = Pipeline::new(device, Head::new(p, q, d, config.seed)?, config, pairs)?;
    pipeline.share(counted.clone())?;
    let (slices, own) = pipeline
        .slices()
        .ok_or_else(|| Error::config("slices of a batch", "1 or more", 0, "set TrainConfig::slices"))?;
    let first = slices.pairs(own.start).start..slices.pairs(own.end - 1).end;
    let mut images = rows(1, first.clone(), p);
    let mut texts = rows(2, first, q);
    let mut step = |pipeline: &mut Pipeline| -> Result<()> {
        pipeline.step_slices([&mut images, &mut texts], &config.objective, config.lr)?;
        // Its record is there when the step is done.
        pipeline.records().map(drop)
    };
    step(&mut pipeline)?;
    let gradient = hash(&pipeline.gradient()?);
    step(&mut pipeline)?;
    step(&mut pipeline)?;
    let head = hash(&pipeline.head()?.values);
    let all = gather(&*counted, &[gradient, head], &vec![2; counted.size()])?;
    if let Some(other) = all.chunks_exact(2).find(|other| **other != [gradient, head]) {
        return Err(wrong(
            "the gradient and the head of all processes",
            format!("{:x?}", [gradient, head]),
            format!("{other:x?}"),
        ));
    }
    let (began, mut times) = (Instant::now(), Vec::new());
    loop {
        counted.restart();
        let start = Instant::now();
        step(&mut pipeline)?;
        times.push((start.elapsed().as_secs_f64(), counted.taken()));
        let more = times.len() < *STEPS.start()
            || (began.elapsed().as_secs_f64() < SECONDS && times.len() < *STEPS.end());
        // The first process decides for all.
        let decided = gather(&*counted, &[u8::from(more)], &vec![1; counted.size()])?;
        if decided[0] == 0 {
            break;
        }
    }
    let peaks = |mb: Option<u64>| -> Result<Vec<u64>> {
        let all = gather(&*counted, &[mb.unwrap_or(0)], &vec![1; counted.size()])?;
        Ok(if mb.is_some() { all } else { Vec::new() })
    };
    let (before_mb, peak_mb) = (peaks(before)?, peaks(peak_memory())?);
    let mut some = || (0..PROFILED).try_for_each(|_| step(&mut pipeline));
    let profile = if profile { Some(Profiled::of(device, PROFILED, &mut some)?) } else { None };
    let [exchanges, received] = [times[0].1.exchanges, times[0].1.received];
    let median = |of: fn(&(f64, Taken)) -> f64| {
        let mut all: Vec<f64> = times.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        1e3 * all[all.len() / 2]
    };
    Ok(RanksTimes {
        ranks: counted.size(),
        threads: rayon::current_num_threads(),
        slices: slices.count(),
        steps: times.len(),
        median_ms: median(|(step, _)| *step),
        moving_ms: median(|(_, taken)| taken.moving as f64 / 1e9),
        waiting_ms: median(|(_, taken)| taken.waiting as f64 / 1e9),
        exchanges: exchanges as usize,
        received,
        parameters: pipeline.parameters(),
        peak_mb,
        before_mb,
        gradient: format!("{gradient:016x}"),
        head: format!("{head:016x}"),
        profile,
    })
}

/// Padded rows of numbers in [−1, 1). A row has the same numbers whichever rows are asked for.
fn rows(side: u64, rows: Range<usize>, dim: usize) -> Vec<f32> {
    let stride = padded(dim);
    let mut values = vec![0.0; rows.len() * stride];
    for (at, row) in rows.zip(values.chunks_exact_mut(stride)) {
        let mut state = (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ side.rotate_right(8);
        for value in &mut row[..dim] {
            // The generator of Knuth's MMIX.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *value = (state >> 40) as f32 / (1 << 23) as f32 - 1.0;
        }
    }
    values
}

fn hash(values: &[f32]) -> u64 {
    xxh3_64(bytemuck::cast_slice(values))
}

/// What one step took of a process, in nanoseconds, exchanges and bytes.
struct Taken {
    moving: u64,
    waiting: u64,
    exchanges: u64,
    received: u64,
}

/// A job that measures its exchanges. Before each, the processes wait for the slowest of them, so that the wait is not
/// taken for the exchange.
struct Counted {
    ranks: Arc<dyn Communicator>,
    moving: AtomicU64,
    waiting: AtomicU64,
    exchanges: AtomicU64,
    received: AtomicU64,
}

impl Counted {
    fn new(ranks: Arc<dyn Communicator>) -> Self {
        let zero = || AtomicU64::new(0);
        Self { ranks, moving: zero(), waiting: zero(), exchanges: zero(), received: zero() }
    }

    fn restart(&self) {
        [&self.moving, &self.waiting, &self.exchanges, &self.received]
            .into_iter()
            .for_each(|number| number.store(0, Ordering::Relaxed));
    }

    /// Runs an exchange that brings so many bytes from others.
    fn measured(&self, received: usize, exchange: impl FnOnce() -> Result<()>) -> Result<()> {
        let size = self.size();
        let start = Instant::now();
        self.ranks.gather(&[0], &vec![1; size], &mut vec![0; size])?;
        let (waited, start) = (start.elapsed(), Instant::now());
        let done = exchange();
        self.waiting.fetch_add(waited.as_nanos() as u64, Ordering::Relaxed);
        self.moving.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
        self.exchanges.fetch_add(1, Ordering::Relaxed);
        self.received.fetch_add(received as u64, Ordering::Relaxed);
        done
    }

    fn taken(&self) -> Taken {
        let [moving, waiting, exchanges, received] =
            [&self.moving, &self.waiting, &self.exchanges, &self.received].map(|n| n.load(Ordering::Relaxed));
        Taken { moving, waiting, exchanges, received }
    }
}

impl Communicator for Counted {
    fn rank(&self) -> usize {
        self.ranks.rank()
    }

    fn size(&self) -> usize {
        self.ranks.size()
    }

    fn local(&self) -> [usize; 2] {
        self.ranks.local()
    }

    fn gather(&self, own: &[u8], lens: &[usize], whole: &mut [u8]) -> Result<()> {
        let received = whole.len() - own.len();
        self.measured(received, || self.ranks.gather(own, lens, whole))
    }

    fn exchange(&self, own: &[u8], to: &[usize], from: &[usize], whole: &mut [u8]) -> Result<()> {
        let received = whole.len() - from[self.rank()];
        self.measured(received, || self.ranks.exchange(own, to, from, whole))
    }

    fn abort(&self, code: u8) -> u8 {
        self.ranks.abort(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Alone;

    #[test]
    fn rows_do_not_depend_on_the_part_that_is_asked_for() {
        let whole = rows(1, 0..40, 6);
        assert_eq!(rows(1, 16..40, 6), whole[16 * 8..]);
        assert!(whole.iter().all(|x| (-1.0..1.0).contains(x)) && rows(2, 0..40, 6) != whole);
    }

    #[test]
    fn a_process_alone_receives_nothing() {
        let config = TrainConfig::default().with(|c| {
            c.slices = 2;
            c.mask_same_image = false;
        });
        let found = ranks(&Device::cpu(), &config, [40, 6, 5, 4], Arc::new(Alone), false).unwrap();
        assert_eq!((found.ranks, found.slices, found.received), (1, 2, 0));
        assert!(found.steps >= 5 && found.median_ms > 0.0);
    }
}
