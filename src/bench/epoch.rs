//! Times an epoch over many cached features, and compares it with the matrix products of its steps.

use super::products::Products;
use super::{numbers, peak_memory, wrong};
use crate::data::{Dataset, Split};
use crate::device::Device;
use crate::io::{Obstacle, write_npy_header};
use crate::train::{Event, TrainConfig, Trainer};
use crate::{ErrorKind, Result};
use half::f16;
use serde::Serialize;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The times of an epoch.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct EpochTimes {
    /// The number of steps in the epoch.
    pub steps: usize,
    /// The seconds of the epoch. This includes reading and the first compilation, and excludes validation.
    pub seconds: f64,
    /// The seconds that the matrix products of its steps take alone.
    pub products: f64,
    /// `seconds` divided by `products`.
    pub ratio: f64,
    /// The largest resident memory of the process in MB. It includes the matrices of the products that are timed alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_mb: Option<u64>,
}

/// Times an epoch of `config` over a dataset of shape `[images, captions, image width, text width]`. The embedding
/// width is that of `config`. The features are f16, in a temporary folder below `scratch`. With `cold` (Linux only),
/// the page cache holds none of them at the start.
///
/// # Errors
/// The folder cannot be written, an option is out of range, the device fails, or the epoch has no gradient.
pub fn epoch(
    device: &Device,
    config: TrainConfig,
    [n, m, p, q]: [usize; 4],
    scratch: &Path,
    cold: bool,
) -> Result<EpochTimes> {
    let fault = |e: std::io::Error| {
        let advice = "give a folder that can be written with --scratch";
        Obstacle::from(e).error(ErrorKind::Config, scratch.display(), "a folder for features", advice)
    };
    let folder = tempfile::tempdir_in(scratch).map_err(fault)?;
    write_features(folder.path(), [n, m, p, q]).map_err(fault)?;
    for name in ["images.npy", "texts.npy"] {
        put_away(&folder.path().join(name), cold).map_err(fault)?;
    }
    let (d, batch) = (config.embed, config.batch);
    let mut trainer = Trainer::new(device, Dataset::open(folder.path())?, config)?;
    let steps = trainer.steps_per_epoch();
    let b = batch.min(trainer.dataset().split(Split::Train).texts.len());
    let shapes =
        [([b, d, p], false), ([b, d, q], false), ([b, b, d], false), ([d, p, b], true), ([d, q, b], true)];
    let mut alone = Products::new(device, &shapes)?;
    alone.seconds()?;
    let receiver = stop_now_and_then(&mut trainer, alone);
    let start = Instant::now();
    let epoch = trainer.run_epoch()?;
    // This closes the channel.
    drop(trainer);
    if !(epoch.loss.is_finite() && epoch.gradient_norm > 0.0) {
        return Err(wrong("the epoch", "a gradient", format!("{epoch:?}")));
    }
    let stops = receiver.iter().collect::<Result<Vec<_>>>()?;
    // The last stop is just before validation. The epoch ends there.
    let Some((last, within)) = stops.split_last() else {
        return Err(wrong("the epoch", "a validation", "none"));
    };
    let paused: Duration = within.iter().map(|stop| stop.until - stop.from).sum();
    let seconds = (last.from - start - paused).as_secs_f64();
    let products = steps as f64 * stops.iter().map(|stop| stop.products).sum::<f64>() / stops.len() as f64;
    Ok(EpochTimes { steps, seconds, products, ratio: seconds / products, peak_mb: peak_memory() })
}

/// Pauses the epoch a few times and times its matrix products in each pause.
fn stop_now_and_then(trainer: &mut Trainer, mut alone: Products) -> mpsc::Receiver<Result<Stop>> {
    let apart = trainer.steps_per_epoch().div_ceil(STOPS).max(LEAST);
    let (sender, receiver) = mpsc::channel();
    trainer.on_event(move |event| {
        let stop = match event {
            Event::Step { step, .. } => step % apart == 0,
            _ => true,
        };
        if stop {
            // The receiver is gone if training has failed.
            let _ = sender.send(Stop::new(&mut alone));
        }
        ControlFlow::Continue(())
    });
    receiver
}

/// The number of pauses in an epoch, not counting the one before validation, and the fewest steps between two pauses.
/// In each pause one or two batches are prepared at no cost, so pauses must be rare.
const STOPS: usize = 10;
const LEAST: usize = 50;

/// A pause of the epoch in which its products are timed. Several pauses are needed because the speed of the machine
/// changes over time.
struct Stop {
    from: Instant,
    until: Instant,
    /// The seconds of the products of one step.
    products: f64,
}

impl Stop {
    fn new(alone: &mut Products) -> Result<Self> {
        alone.settle()?;
        let from = Instant::now();
        // Lets the batch thread finish the batches that it may prepare ahead. Then it does not disturb the timing.
        std::thread::sleep(Duration::from_millis(10));
        // One run to fill the caches.
        alone.run()?;
        let mut samples = [0.0; 3];
        for sample in &mut samples {
            let start = Instant::now();
            alone.run()?;
            *sample = start.elapsed().as_secs_f64();
        }
        samples.sort_by(f64::total_cmp);
        Ok(Self { from, until: Instant::now(), products: samples[1] })
    }
}

/// Writes a file to the disk now, because the system would otherwise do so during the epoch. `cold` drops the file from
/// the page cache.
fn put_away(path: &Path, cold: bool) -> std::io::Result<()> {
    let file = std::fs::File::open(path)?;
    file.sync_all()?;
    if cold {
        #[cfg(target_os = "linux")]
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        #[cfg(not(target_os = "linux"))]
        return Err(std::io::Error::other("--cold is for Linux"));
    }
    Ok(())
}

/// Writes a dataset of f16 features. The first images are the validation split, the next ones the test split.
fn write_features(folder: &Path, [n, m, p, q]: [usize; 4]) -> std::io::Result<()> {
    let create = |name: &str| std::fs::File::create(folder.join(name)).map(BufWriter::new);
    let features = |name: &str, rows: usize, cols: usize| {
        let mut npy = create(name)?;
        write_npy_header(&mut npy, "<f2", &format!("{rows}, {cols}"))?;
        let mut values = numbers().take(rows * cols);
        values.try_for_each(|x| npy.write_all(&f16::from_f32(x).to_le_bytes()))?;
        npy.flush()
    };
    let indices = |name: &str, values: &mut dyn ExactSizeIterator<Item = i64>| {
        let mut npy = create(name)?;
        write_npy_header(&mut npy, "<i8", &format!("{},", values.len()))?;
        for row in values {
            npy.write_all(&row.to_le_bytes())?;
        }
        npy.flush()
    };
    features("images.npy", n, p)?;
    features("texts.npy", m, q)?;
    // If there are more images than captions, the images with a caption are spread evenly.
    let used = n.min(m);
    let image = |k: usize| (k * (n / used)) as i64;
    indices("text_to_image.npy", &mut (0..m).map(|text| image(text % used)))?;
    let held = (used / 100).clamp(1, 100);
    indices("split_val.npy", &mut (0..held).map(image))?;
    indices("split_test.npy", &mut (held..2 * held).map(image))?;
    indices("split_train.npy", &mut (2 * held..used).map(image))
}
