//! `wgoal bench`: what a training step takes, on data made up here, and what the device can do at most. Results are checked
//! before they are timed.

use super::roofline::{Ceiling, Row, print_rows};
use super::scale::{EpochBench, EvalBench, PairsBench, numbers};
use super::{DeviceArg, ObjectiveArgs, print_json, say};
use clap::{Args, Subcommand};
use serde::Serialize;
use std::time::Instant;
use wgoal::{Device, Error, ErrorKind, Features, Head, Pipeline, Result, StepStats, TrainConfig};

#[derive(Subcommand)]
pub enum BenchCommand {
    /// One training step: forward, gradient, backward, AdamW
    Step {
        #[command(flatten)]
        bench: Box<BenchArgs>,
        /// Time every kernel of the step on its own, and give each as a share of what the device can do
        #[arg(long)]
        profile: bool,
        /// As --profile, of the first step, which holds what a driver compiles at a dispatch: most of it on software adapters
        #[arg(long, conflicts_with = "profile")]
        profile_first: bool,
    },
    /// What the device can do at most, and every kernel of a step as a share of it
    Roofline {
        #[command(flatten)]
        bench: Box<BenchArgs>,
    },
    /// The gradient of batches that grow: time and memory
    Pairs(Box<PairsBench>),
    /// An epoch over a large dataset of f16 features, against its matrix products
    Epoch(Box<EpochBench>),
    /// Recall of many images and captions, against its matrix products
    Eval(EvalBench),
}

#[derive(Args)]
pub struct BenchArgs {
    /// Pairs : image width : text width : embedding width
    #[arg(long, value_name = "N:P:Q:D", default_value = "128:1280:384:256")]
    shape: String,
    #[command(flatten)]
    objective: ObjectiveArgs,
    #[command(flatten)]
    device: DeviceArg,
    /// One line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Summary {
    device: String,
    shape: String,
    objective: String,
    /// Median over samples of several steps each, the device kept busy.
    median_ms: f64,
    /// From nothing but an open device to the end of the first step, shaders compiled.
    first_step_ms: f64,
    /// Steps timed.
    steps: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<Profiled>,
}

/// What the first step took.
struct FirstStep {
    ms: f64,
    /// By kernel, where that was asked for.
    profile: wgoal::device::Profile,
}

/// The kernels of a step against the ceilings.
#[derive(Serialize)]
struct Profiled {
    ceiling: Ceiling,
    kernels: Vec<Row>,
}

#[derive(Serialize)]
struct Roofline {
    device: String,
    shape: String,
    objective: String,
    #[serde(flatten)]
    profile: Profiled,
}

/// Time to spend on samples, and how many at least and at most.
const SECONDS: f64 = 3.0;
const SAMPLES: std::ops::RangeInclusive<usize> = 7..=201;
/// What a sample should take: on a quick GPU, several submissions, of which one is made ready while the one before runs.
const SAMPLE_MS: f64 = 20.0;
/// Steps in a sample at least, and at most.
const STEPS: std::ops::RangeInclusive<usize> = 4..=256;
/// Steps of a profile.
const PROFILED: usize = 16;

impl BenchCommand {
    pub fn run(self) -> Result<()> {
        match self {
            Self::Step { bench, profile, profile_first } => bench.step(profile, profile_first),
            Self::Roofline { bench } => bench.roofline(),
            Self::Pairs(bench) => bench.run(),
            Self::Epoch(bench) => bench.run(),
            Self::Eval(bench) => bench.run(),
        }
    }
}

impl BenchArgs {
    /// An open device, the data, and a pipeline whose first step was right; what that step took.
    fn prepare(&self, profile: bool) -> Result<(Device, Bench, Pipeline, FirstStep)> {
        let config = TrainConfig { mask_same_image: false, ..Default::default() };
        let config = TrainConfig { objective: self.objective.apply(config.objective)?, ..config };
        let dims = parse_shape(&self.shape)?;
        let device = self.device.open()?;
        let mut bench = Bench::new(&config, dims)?;
        device.profile(profile);
        let start = Instant::now();
        let mut pipeline = bench.pipeline(&device)?;
        bench.step(&mut pipeline)?;
        let first = pipeline.records()?;
        let ms = 1e3 * start.elapsed().as_secs_f64();
        let profile = device.profile(false);
        bench.check(&first)?;
        Ok((device, bench, pipeline, FirstStep { ms, profile }))
    }

    fn step(self, profile: bool, profile_first: bool) -> Result<()> {
        let (device, mut bench, mut pipeline, first) = self.prepare(profile_first)?;
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
        let profile = match (profile, profile_first) {
            (true, _) => Some(bench.profile(&device, &mut pipeline)?),
            (_, true) => {
                let ceiling = Ceiling::of(&device)?;
                Some(Profiled { kernels: ceiling.rows(&first.profile, 1), ceiling })
            }
            _ => None,
        };
        let summary = Summary {
            device: device.to_string(),
            shape: self.shape,
            objective: bench.config.objective.to_string(),
            median_ms: samples[samples.len() / 2],
            first_step_ms: first.ms,
            steps: samples.len() * steps,
            profile,
        };
        if self.json {
            return print_json(&summary);
        }
        let Summary { shape, objective, median_ms, first_step_ms, steps, profile, .. } = &summary;
        say(format!(
            "{objective} {shape} on {device}: {median_ms:.2} ms a step (median of {steps} steps), first step {first_step_ms:.0} ms"
        ))?;
        if let Some(profile) = profile {
            print_rows(&profile.kernels)?;
        }
        Ok(())
    }

    fn roofline(self) -> Result<()> {
        let (device, mut bench, mut pipeline, _) = self.prepare(false)?;
        let roofline = Roofline {
            device: device.to_string(),
            shape: self.shape,
            objective: bench.config.objective.to_string(),
            profile: bench.profile(&device, &mut pipeline)?,
        };
        if self.json {
            return print_json(&roofline);
        }
        let Roofline { device, shape, objective, profile } = &roofline;
        say(format!("{device} can do at most"))?;
        profile.ceiling.print()?;
        say(format!("and a step of {objective} {shape} takes of that"))?;
        print_rows(&profile.kernels)
    }
}

/// The error of a device that computes wrongly.
pub fn wrong(what: &str, expected: impl std::fmt::Display, found: impl std::fmt::Display) -> Error {
    let advice = "this device computes wrongly: report it with the output of `wgoal devices`";
    Error::new(ErrorKind::Device, format!("bench: {what}"), expected, found, advice)
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

    /// The first step must be what the CPU twins make of it.
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

fn parse_shape(shape: &str) -> Result<[usize; 4]> {
    let numbers: [usize; 4] = super::scale::shape(shape, "N:P:Q:D")?;
    if numbers.iter().all(|&k| k * numbers[0] < 1 << 31) {
        return Ok(numbers);
    }
    let expected = "N:P:Q:D, their products with N below 2^31";
    Err(Error::new(ErrorKind::Config, "--shape", expected, shape, "give it as in 128:1280:384:256"))
}
