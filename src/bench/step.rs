//! One training step: forward, gradient, backward, update.

use super::ceiling::{Ceiling, Row};
use super::{numbers, wrong};
use crate::Result;
use crate::device::{Device, Profile};
use crate::model::Head;
use crate::train::{Features, Pipeline, StepStats, TrainConfig};
use serde::Serialize;
use std::time::Instant;

/// Time to spend on samples, and how many at least and at most.
const SECONDS: f64 = 3.0;
const SAMPLES: std::ops::RangeInclusive<usize> = 7..=201;
/// What a sample should take: on a quick GPU, several submissions, of which one is made ready while the one before runs.
const SAMPLE_MS: f64 = 20.0;
/// Steps in a sample at least, and at most.
const STEPS: std::ops::RangeInclusive<usize> = 4..=256;
/// Steps of a profile.
const PROFILED: usize = 16;

/// Which steps are timed kernel by kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StepProfile {
    /// None.
    None,
    /// Some steps after the samples.
    Steps,
    /// The first, which holds what a driver compiles at a dispatch: most of it on software adapters.
    First,
}

/// What steps take.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct StepTimes {
    /// Median over samples of several steps each, the device kept busy.
    pub median_ms: f64,
    /// From nothing but an open device to the end of the first step, shaders compiled.
    pub first_step_ms: f64,
    /// Steps timed.
    pub steps: usize,
    /// By kernel, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profiled>,
}

/// The kernels of a step against the ceilings of the device.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Profiled {
    /// What the device can do at most.
    pub ceiling: Ceiling,
    /// What each kernel takes.
    pub kernels: Vec<Row>,
}

/// Times steps of `config` on batches of `[pairs, image width, text width, embedding width]`.
///
/// # Errors
/// Options out of range, a failing device, or one whose first step is not what the CPU makes of it.
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

/// What the device can do at most, and the kernels of a step against that. `shape` as for [`step`].
///
/// # Errors
/// Those of [`step`].
pub fn roofline(device: &Device, config: &TrainConfig, shape: [usize; 4]) -> Result<Profiled> {
    let (mut bench, mut pipeline, _) = prepare(device, config, shape, false)?;
    bench.profile(device, &mut pipeline)
}

/// What the first step took.
struct FirstStep {
    ms: f64,
    /// By kernel, where that was asked for.
    profile: Profile,
}

/// The data, and a pipeline whose first step was right; what that step took.
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

    /// The ceilings and, against them, the kernels of some steps.
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

    /// The first step must be what the CPU makes of it.
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
