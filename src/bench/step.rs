//! Times one training step: forward, gradient, backward, update. This is the one benchmark that runs in a browser too.

#[cfg(feature = "native")]
use super::ceiling::{Ceiling, Row};
use super::{numbers, wrong};
use crate::Result;
use crate::device::Device;
#[cfg(feature = "native")]
use crate::device::Profile;
use crate::model::Head;
use crate::train::{Features, Pipeline, StepStats, TrainConfig};
use serde::Serialize;
use web_time::Instant;

/// The seconds to spend on samples, and the fewest and the most samples.
const SECONDS: f64 = 3.0;
const SAMPLES: std::ops::RangeInclusive<usize> = 7..=201;
/// The intended time of a sample. On a fast GPU this covers several submissions, so that recording one overlaps with
/// running the one before.
const SAMPLE_MS: f64 = 20.0;
/// The fewest and the most steps in a sample.
const STEPS: std::ops::RangeInclusive<usize> = 4..=256;
/// The number of steps in a profile.
#[cfg(feature = "native")]
const PROFILED: usize = 16;

/// Which steps are timed kernel by kernel.
#[cfg(feature = "native")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StepProfile {
    /// No step.
    None,
    /// A few steps after the samples.
    Steps,
    /// The first step. It includes what the driver compiles at a dispatch, which is most of its time on software
    /// adapters.
    First,
}

/// The times of training steps.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct StepTimes {
    /// The median over samples of several steps each, while the device is kept busy.
    pub median_ms: f64,
    /// The time from an open device to the end of the first step, including the compilation of shaders.
    pub first_step_ms: f64,
    /// The number of timed steps.
    pub steps: usize,
    /// The values of the objective in the first steps, to compare one device with another.
    pub losses: Vec<f32>,
    /// The time of each kernel, if requested.
    #[cfg(feature = "native")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profiled>,
}

/// The kernels of a step, compared with the peak rates of the device.
#[cfg(feature = "native")]
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Profiled {
    /// The peak rates of the device.
    pub ceiling: Ceiling,
    /// One row per kernel.
    pub kernels: Vec<Row>,
}

#[cfg(feature = "native")]
impl Profiled {
    /// Measures the device, runs so many steps, and compares their kernels with it.
    pub(super) fn of(device: &Device, steps: usize, run: impl FnOnce() -> Result<()>) -> Result<Self> {
        let ceiling = Ceiling::of(device)?;
        device.profile(true);
        let ran = run();
        let profile = device.profile(false);
        ran?;
        Ok(Self { kernels: ceiling.rows(&profile, steps), ceiling })
    }
}

/// Times steps of `config` on batches of `[pairs, image width, text width, embedding width]`.
///
/// # Errors
/// An option is out of range, the device fails, or its first step differs from that of the CPU.
#[cfg(feature = "native")]
pub fn step(
    device: &Device,
    config: &TrainConfig,
    shape: [usize; 4],
    profile: StepProfile,
) -> Result<StepTimes> {
    let (bench, mut pipeline, first) = prepare(device, config, shape, profile == StepProfile::First)?;
    let mut times = crate::device::wait(bench.times(&mut pipeline, first.step))?;
    times.profile = match profile {
        StepProfile::None => None,
        StepProfile::Steps => Some(bench.profile(&mut pipeline)?),
        StepProfile::First => {
            let ceiling = Ceiling::of(device)?;
            Some(Profiled { kernels: ceiling.rows(&first.profile, 1), ceiling })
        }
    };
    Ok(times)
}

/// [`step`] without waiting and without a profile.
///
/// # Errors
/// The same as those of [`step`].
pub async fn step_async(device: &Device, config: &TrainConfig, shape: [usize; 4]) -> Result<StepTimes> {
    let bench = Bench::new(device, config, shape)?;
    let (mut pipeline, first) = bench.first().await?;
    bench.check(&first.records).await?;
    bench.times(&mut pipeline, first).await
}

/// Measures the peak rates of the device and compares the kernels of a step with them. `shape` is that of [`step`].
///
/// # Errors
/// The same as those of [`step`].
#[cfg(feature = "native")]
pub fn roofline(device: &Device, config: &TrainConfig, shape: [usize; 4]) -> Result<Profiled> {
    let (bench, mut pipeline, _) = prepare(device, config, shape, false)?;
    bench.profile(&mut pipeline)
}

/// The first step: its time, and what it recorded.
struct FirstStep {
    ms: f64,
    records: Vec<StepStats>,
}

/// The first step, with the time of each kernel if requested.
#[cfg(feature = "native")]
struct ProfiledFirst {
    step: FirstStep,
    profile: Profile,
}

/// Makes the data and a pipeline, and runs and checks the first step.
#[cfg(feature = "native")]
fn prepare(
    device: &Device,
    config: &TrainConfig,
    shape: [usize; 4],
    profile: bool,
) -> Result<(Bench, Pipeline, ProfiledFirst)> {
    let bench = Bench::new(device, config, shape)?;
    device.profile(profile);
    let first = crate::device::wait(bench.first());
    let profile = device.profile(false);
    let (pipeline, step) = first?;
    crate::device::wait(bench.check(&step.records))?;
    Ok((bench, pipeline, ProfiledFirst { step, profile }))
}

struct Bench {
    device: Device,
    config: TrainConfig,
    head: Head,
    pairs: usize,
    images: Vec<f32>,
    texts: Vec<f32>,
    ids: Vec<u32>,
}

impl Bench {
    fn new(device: &Device, config: &TrainConfig, [pairs, p, q, d]: [usize; 4]) -> Result<Self> {
        let head = Head::new(p, q, d, config.seed)?;
        let mut numbers = numbers();
        let images = numbers.by_ref().take(pairs * p).collect();
        let texts = numbers.take(pairs * q).collect();
        let ids = (0..pairs as u32).collect();
        Ok(Self { device: device.clone(), config: config.clone(), head, pairs, images, texts, ids })
    }

    fn pipeline(&self, device: &Device) -> Result<Pipeline> {
        Pipeline::new(device, self.head.clone(), &self.config, self.pairs)
    }

    async fn step(&self, device: &Device, pipeline: &mut Pipeline) -> Result<()> {
        let batch = Features { images: &self.images, texts: &self.texts, ids: &self.ids };
        device.done(pipeline.step_async(batch, &self.config.objective, self.config.lr)).await
    }

    /// A pipeline, and its first step.
    async fn first(&self) -> Result<(Pipeline, FirstStep)> {
        let start = Instant::now();
        let mut pipeline = self.pipeline(&self.device)?;
        self.step(&self.device, &mut pipeline).await?;
        let records = pipeline.records_async().await?;
        Ok((pipeline, FirstStep { ms: 1e3 * start.elapsed().as_secs_f64(), records }))
    }

    /// The time of a step in milliseconds, as the mean of some steps, and what they recorded.
    async fn sample(&self, pipeline: &mut Pipeline, steps: usize) -> Result<(f64, Vec<StepStats>)> {
        let start = Instant::now();
        for _ in 0..steps {
            self.step(&self.device, pipeline).await?;
        }
        let records = pipeline.records_async().await?;
        Ok((1e3 * start.elapsed().as_secs_f64() / steps as f64, records))
    }

    /// Times the steps after the first.
    async fn times(&self, pipeline: &mut Pipeline, first: FirstStep) -> Result<StepTimes> {
        let (ms, second) = self.sample(pipeline, *STEPS.start()).await?;
        let steps = ((SAMPLE_MS / ms) as usize).clamp(*STEPS.start(), *STEPS.end());
        let mut samples = Vec::new();
        let start = Instant::now();
        while samples.len() < *SAMPLES.start()
            || (start.elapsed().as_secs_f64() < SECONDS && samples.len() < *SAMPLES.end())
        {
            samples.push(self.sample(pipeline, steps).await?.0);
        }
        samples.sort_by(f64::total_cmp);
        Ok(StepTimes {
            median_ms: samples[samples.len() / 2],
            first_step_ms: first.ms,
            steps: samples.len() * steps,
            losses: first.records.iter().chain(&second).map(|record| record.loss).collect(),
            #[cfg(feature = "native")]
            profile: None,
        })
    }

    /// Profiles some steps and compares their kernels with the peak rates.
    #[cfg(feature = "native")]
    fn profile(&self, pipeline: &mut Pipeline) -> Result<Profiled> {
        Profiled::of(&self.device, PROFILED, || {
            crate::device::wait(self.sample(pipeline, PROFILED)).map(drop)
        })
    }

    /// Checks that the first step agrees with that of the CPU.
    async fn check(&self, found: &[StepStats]) -> Result<()> {
        let cpu = Device::cpu();
        let mut pipeline = self.pipeline(&cpu)?;
        self.step(&cpu, &mut pipeline).await?;
        let expected = pipeline.records_async().await?;
        let near = |a: f32, b: f32| (a - b).abs() <= 1e-3 * b.abs().max(1.0);
        match (found, &expected[..]) {
            ([found], [expected])
                if near(found.loss, expected.loss) && near(found.gradient_norm, expected.gradient_norm) =>
            {
                Ok(())
            }
            _ => Err(wrong("the first step", format!("{expected:?}"), format!("{found:?}"))),
        }
    }
}
