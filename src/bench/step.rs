//! Times one training step: forward, gradient, backward, update.

use super::ceiling::{Ceiling, Row};
use super::{numbers, wrong};
use crate::Result;
use crate::device::{Device, Profile};
use crate::model::Head;
use crate::train::{Features, Pipeline, StepStats, TrainConfig};
use serde::Serialize;
use std::time::Instant;

/// The seconds to spend on samples, and the fewest and the most samples.
const SECONDS: f64 = 3.0;
const SAMPLES: std::ops::RangeInclusive<usize> = 7..=201;
/// The intended time of a sample. On a fast GPU this covers several submissions, so that recording one overlaps with
/// running the one before.
const SAMPLE_MS: f64 = 20.0;
/// The fewest and the most steps in a sample.
const STEPS: std::ops::RangeInclusive<usize> = 4..=256;
/// The number of steps in a profile.
const PROFILED: usize = 16;

/// Which steps are timed kernel by kernel.
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
    /// The time of each kernel, if requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profiled>,
}

/// The kernels of a step, compared with the peak rates of the device.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Profiled {
    /// The peak rates of the device.
    pub ceiling: Ceiling,
    /// One row per kernel.
    pub kernels: Vec<Row>,
}

/// Times steps of `config` on batches of `[pairs, image width, text width, embedding width]`.
///
/// # Errors
/// An option is out of range, the device fails, or its first step differs from that of the CPU.
pub fn step(
    device: &Device,
    config: &TrainConfig,
    shape: [usize; 4],
    profile: StepProfile,
) -> Result<StepTimes> {
    let (mut bench, mut pipeline, first) = prepare(device, config, shape, profile == StepProfile::First)?;
    let mut sample = |steps: usize| -> Result<f64> {
        let start = Instant::now();
        for _ in 0..steps {
            bench.step(&mut pipeline)?;
        }
        pipeline.records()?;
        Ok(1e3 * start.elapsed().as_secs_f64() / steps as f64)
    };
    let steps = (SAMPLE_MS / sample(*STEPS.start())?) as usize;
    let steps = steps.clamp(*STEPS.start(), *STEPS.end());
    let mut samples = Vec::new();
    let start = Instant::now();
    while samples.len() < *SAMPLES.start()
        || (start.elapsed().as_secs_f64() < SECONDS && samples.len() < *SAMPLES.end())
    {
        samples.push(sample(steps)?);
    }
    samples.sort_by(f64::total_cmp);
    let profile = match profile {
        StepProfile::None => None,
        StepProfile::Steps => Some(bench.profile(device, &mut pipeline)?),
        StepProfile::First => {
            let ceiling = Ceiling::of(device)?;
            Some(Profiled { kernels: ceiling.rows(&first.profile, 1), ceiling })
        }
    };
    let (median_ms, steps) = (samples[samples.len() / 2], samples.len() * steps);
    Ok(StepTimes { median_ms, first_step_ms: first.ms, steps, profile })
}

/// Measures the peak rates of the device and compares the kernels of a step with them. `shape` is that of [`step`].
///
/// # Errors
/// The same as those of [`step`].
pub fn roofline(device: &Device, config: &TrainConfig, shape: [usize; 4]) -> Result<Profiled> {
    let (mut bench, mut pipeline, _) = prepare(device, config, shape, false)?;
    bench.profile(device, &mut pipeline)
}

/// The time of the first step.
struct FirstStep {
    ms: f64,
    /// The time of each kernel, if requested.
    profile: Profile,
}

/// Makes the data and a pipeline, runs and checks the first step, and returns its time.
fn prepare(
    device: &Device,
    config: &TrainConfig,
    shape: [usize; 4],
    profile: bool,
) -> Result<(Bench, Pipeline, FirstStep)> {
    let mut bench = Bench::new(config, shape)?;
    device.profile(profile);
    let start = Instant::now();
    let mut pipeline = bench.pipeline(device)?;
    bench.step(&mut pipeline)?;
    let first = pipeline.records()?;
    let ms = 1e3 * start.elapsed().as_secs_f64();
    let profile = device.profile(false);
    bench.check(&first)?;
    Ok((bench, pipeline, FirstStep { ms, profile }))
}

struct Bench {
    config: TrainConfig,
    head: Head,
    pairs: usize,
    images: Vec<f32>,
    texts: Vec<f32>,
    ids: Vec<u32>,
}

impl Bench {
    fn new(config: &TrainConfig, [pairs, p, q, d]: [usize; 4]) -> Result<Self> {
        let head = Head::new(p, q, d, config.seed)?;
        let mut numbers = numbers();
        let images = numbers.by_ref().take(pairs * p).collect();
        let texts = numbers.take(pairs * q).collect();
        Ok(Self { config: config.clone(), head, pairs, images, texts, ids: (0..pairs as u32).collect() })
    }

    fn pipeline(&self, device: &Device) -> Result<Pipeline> {
        Pipeline::new(device, self.head.clone(), &self.config, self.pairs)
    }

    fn step(&mut self, pipeline: &mut Pipeline) -> Result<()> {
        let batch = Features { images: &self.images, texts: &self.texts, ids: &self.ids };
        pipeline.step(batch, &self.config.objective, self.config.lr)
    }

    /// Profiles some steps and compares their kernels with the peak rates.
    fn profile(&mut self, device: &Device, pipeline: &mut Pipeline) -> Result<Profiled> {
        let ceiling = Ceiling::of(device)?;
        device.profile(true);
        let mut steps = || {
            for _ in 0..PROFILED {
                self.step(pipeline)?;
            }
            pipeline.records()
        };
        let ran = steps();
        let profile = device.profile(false);
        ran?;
        Ok(Profiled { kernels: ceiling.rows(&profile, PROFILED), ceiling })
    }

    /// Checks that the first step agrees with that of the CPU.
    fn check(&mut self, found: &[StepStats]) -> Result<()> {
        let mut pipeline = self.pipeline(&Device::cpu())?;
        self.step(&mut pipeline)?;
        let expected = pipeline.records()?;
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
