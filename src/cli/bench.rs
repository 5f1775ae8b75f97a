//! `wgoal bench`: times training steps, gradients, epochs and evaluations on synthetic data, and measures the peak
//! rates of the device. Every result is checked.

use super::job::Job;
use super::{DeviceArg, ObjectiveArgs, make_folder, print_json, refuse_overwriting, say};
use clap::{Args, Subcommand};
use serde::Serialize;
use std::path::PathBuf;
use wgoal::bench::{self, Ceiling, Row, StepProfile};
use wgoal::cluster::SLICES;
use wgoal::data::write_file;
use wgoal::device::KernelTime;
use wgoal::{Error, ErrorKind, Result, TrainConfig};

#[derive(Subcommand)]
pub enum BenchCommand {
    /// Time one training step: forward, gradient, backward, AdamW
    Step {
        #[command(flatten)]
        bench: Box<BenchArgs>,
        /// Also time each kernel of the step, and compare it with the peak rates of the device
        #[arg(long)]
        profile: bool,
        /// Like --profile, for the first step: includes what the driver compiles at the first dispatch
        #[arg(long, conflicts_with = "profile")]
        profile_first: bool,
    },
    /// Measure the peak rates of the device, and compare each kernel of a step with them
    Roofline {
        #[command(flatten)]
        bench: Box<BenchArgs>,
    },
    /// Time and memory of the gradient for growing batches
    Pairs(Box<PairsBench>),
    /// Time an epoch over a large dataset of f16 features, and compare it with its matrix products
    Epoch(Box<EpochBench>),
    /// Time steps of a batch that the processes of `mpirun` share, and what they exchange
    Ranks(RanksBench),
    /// Time the recall of many images and captions, and compare it with its matrix products
    Eval(EvalBench),
}

#[derive(Args)]
pub struct BenchArgs {
    /// Pairs in the batch, image width, text width and embedding width
    #[arg(long, value_name = "N:P:Q:D", default_value = "128:1280:384:256")]
    shape: String,
    #[command(flatten)]
    objective: ObjectiveArgs,
    #[command(flatten)]
    device: DeviceArg,
    /// Print the result as one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct EpochBench {
    /// Images, captions, image width, text width and embedding width of the dataset
    #[arg(long, value_name = "N:M:P:Q:D", default_value = "29000:145000:2048:768:1024")]
    shape: String,
    /// Pairs per batch
    #[arg(long, default_value_t = 128)]
    batch: usize,
    /// Order of the pairs, as on `wgoal train`
    #[arg(long, value_name = "full|blocks|blocks:PAIRS", default_value = "full")]
    shuffle: String,
    /// Empty the page cache of the features before the epoch, as if they did not fit into memory (Linux)
    #[arg(long)]
    cold: bool,
    /// Folder for the temporary feature files [default: the system's folder for temporary files]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    #[command(flatten)]
    objective: ObjectiveArgs,
    #[command(flatten)]
    device: DeviceArg,
    /// Print the result as one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct RanksBench {
    /// Pairs in the batch, image width, text width and embedding width
    #[arg(long, value_name = "N:P:Q:D", default_value = "4096:1280:384:256")]
    shape: String,
    /// Slices of the batch, as on `wgoal train`
    #[arg(long, default_value_t = SLICES as u32, value_parser = clap::value_parser!(u32).range(1..))]
    slices: u32,
    /// Numbers in which embeddings are exchanged, f32 or f16
    #[arg(long, value_name = "f32|f16", default_value = "f32")]
    gather: String,
    /// Also time each kernel of the first process
    #[arg(long)]
    profile: bool,
    #[command(flatten)]
    objective: ObjectiveArgs,
    #[command(flatten)]
    device: DeviceArg,
    /// Print the result as one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct EvalBench {
    /// Images, captions and embedding width; captions are assigned to the images in turn
    #[arg(long, value_name = "N:M:D", default_value = "5000:25000:1024")]
    shape: String,
    #[command(flatten)]
    device: DeviceArg,
    /// Print the result as one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct PairsBench {
    /// Numbers of pairs to time, separated by commas
    #[arg(
        long,
        value_name = "PAIRS",
        value_delimiter = ',',
        default_value = "128,256,512,1024,2048,4096,8192,16384,32768"
    )]
    pairs: Vec<usize>,
    /// Width of the embeddings
    #[arg(long, default_value_t = 256, value_parser = width)]
    embed: usize,
    #[command(flatten)]
    objective: ObjectiveArgs,
    #[command(flatten)]
    device: DeviceArg,
    /// Write a plot of both times over the number of pairs, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Print the result as one line of JSON
    #[arg(long)]
    json: bool,
}

/// The measurement, with its device, shape and objective.
#[derive(Serialize)]
struct Measured<T> {
    device: String,
    shape: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    objective: Option<String>,
    #[serde(flatten)]
    times: T,
}

impl BenchCommand {
    /// Returns the exit code.
    pub fn run(self, job: Job) -> Result<u8> {
        match self {
            Self::Ranks(bench) => job.run(|job| bench.run(job)),
            bench => job.run_first(|| bench.run_alone()),
        }
    }

    /// A measurement of one process.
    fn run_alone(self) -> Result<()> {
        match self {
            Self::Step { bench, profile, profile_first } => bench.step(match (profile, profile_first) {
                (true, _) => StepProfile::Steps,
                (_, true) => StepProfile::First,
                _ => StepProfile::None,
            }),
            Self::Roofline { bench } => bench.roofline(),
            Self::Pairs(bench) => bench.run(),
            Self::Epoch(bench) => bench.run(),
            Self::Ranks(bench) => bench.run(&Job::alone()).map(|_| ()),
            Self::Eval(bench) => bench.run(),
        }
    }
}

impl BenchArgs {
    fn config(&self) -> Result<TrainConfig> {
        let mut config = TrainConfig::default().with(|c| c.mask_same_image = false);
        config.objective = self.objective.apply(config.objective)?;
        Ok(config)
    }

    fn step(self, profile: StepProfile) -> Result<()> {
        let (config, shape) = (self.config()?, parse_shape(&self.shape)?);
        let device = self.device.open()?;
        let times = bench::step(&device, &config, shape, profile)?;
        let (device, objective) = (device.to_string(), config.objective.to_string());
        if self.json {
            return print_json(&Measured { device, shape: self.shape, objective: Some(objective), times });
        }
        say(format!(
            "{objective} {} on {device}: {:.2} ms per step (median of {} steps), first step {:.0} ms",
            self.shape, times.median_ms, times.steps, times.first_step_ms
        ))?;
        times.profile.map_or(Ok(()), |profile| print_rows(&profile.kernels))
    }

    fn roofline(self) -> Result<()> {
        let (config, shape) = (self.config()?, parse_shape(&self.shape)?);
        let device = self.device.open()?;
        let times = bench::roofline(&device, &config, shape)?;
        let (device, objective) = (device.to_string(), config.objective.to_string());
        if self.json {
            return print_json(&Measured { device, shape: self.shape, objective: Some(objective), times });
        }
        say(format!("peak rates of {device}"))?;
        print_ceiling(&times.ceiling)?;
        say(format!("kernels of a step of {objective} {}", self.shape))?;
        print_rows(&times.kernels)
    }
}

impl EpochBench {
    fn run(self) -> Result<()> {
        let [n, m, p, q, d] = shape(&self.shape, "N:M:P:Q:D")?;
        let config = TrainConfig::default();
        let objective = self.objective.apply(config.objective.clone())?;
        let shuffle = self.shuffle.parse()?;
        let config = config.with(|c| {
            c.objective = objective;
            c.batch = self.batch;
            c.embed = d;
            c.epochs = 1;
            c.shuffle = shuffle;
        });
        let device = self.device.open()?;
        let scratch = self.scratch.clone().unwrap_or_else(std::env::temp_dir);
        let objective = config.objective.to_string();
        let times = bench::epoch(&device, config, [n, m, p, q], &make_folder(&scratch)?, self.cold)?;
        let device = device.to_string();
        if self.json {
            return print_json(&Measured { device, shape: self.shape, objective: Some(objective), times });
        }
        let peak = times.peak_mb.map_or(String::new(), |mb| format!(", {mb} MB resident at most"));
        say(format!(
            "epoch of {objective} {} on {device}: {:.1} s for {} steps, {:.1} s in matrix products timed alone, ratio \
             {:.2}{peak}",
            self.shape, times.seconds, times.steps, times.products, times.ratio
        ))
    }
}

impl RanksBench {
    fn run(self, job: &Job) -> Result<u8> {
        let gather = self.gather.parse()?;
        let mut config = TrainConfig::default().with(|c| {
            c.mask_same_image = false;
            (c.slices, c.gather) = (self.slices as usize, gather);
        });
        config.objective = self.objective.apply(config.objective)?;
        let shape = parse_shape(&self.shape)?;
        let device = self.device.open_in(job, None)?;
        job.check_makes(&device, Some(false))?;
        let times = bench::ranks(&device, &config, shape, job.ranks(), self.profile)?;
        if !job.is_first() {
            return Ok(0);
        }
        let (device, objective) = (device.to_string(), config.objective.to_string());
        if self.json {
            print_json(&Measured { device, shape: self.shape, objective: Some(objective), times })?;
            return Ok(0);
        }
        say(format!(
            "{objective} {} on {device}, {} processes with {} threads each: {:.2} ms per step (median of {} steps)",
            self.shape, times.ranks, times.threads, times.median_ms, times.steps
        ))?;
        let share = |ms: f64| format!("{ms:.2} ms ({:.1} %)", 100.0 * ms / times.median_ms);
        say(format!(
            "exchange: {}, and {} of waiting for the slowest; {} exchanges bring {:.2} MB to each process",
            share(times.moving_ms),
            share(times.waiting_ms),
            times.exchanges,
            times.received as f64 / 1e6
        ))?;
        say(format!("memory at most: {:?} MB, {:?} MB before", times.peak_mb, times.before_mb))?;
        say(format!("same bits: gradient of the first step {}, head {}", times.gradient, times.head))?;
        times.profile.map_or(Ok(()), |profile| print_rows(&profile.kernels))?;
        Ok(0)
    }
}

impl EvalBench {
    fn run(self) -> Result<()> {
        let shape = shape(&self.shape, "N:M:D")?;
        let device = self.device.open()?;
        let times = bench::eval(&device, shape)?;
        let device = device.to_string();
        if self.json {
            return print_json(&Measured { device, shape: self.shape, objective: None, times });
        }
        say(format!(
            "evaluation {} on {device}: {:.2} s in both directions, {:.2} s of it in matrix products timed alone, \
             ratio {:.2}",
            self.shape, times.seconds, times.products, times.ratio
        ))
    }
}

impl PairsBench {
    fn run(self) -> Result<()> {
        if let Some(out) = &self.plot {
            refuse_overwriting("--plot", out, self.objective.weights.clone())?;
        }
        let objective = self.objective.apply(TrainConfig::default().objective)?;
        let device = self.device.open()?;
        let dim = self.embed;
        if !self.json {
            say(format!("gradient of {objective} at embeddings of width {dim}, on {device}"))?;
            say("  pairs          ms   product ms   ratio   memory MB")?;
        }
        let mut rows = Vec::new();
        for &pairs in &self.pairs {
            let row = bench::pairs(&device, &objective, pairs, dim)?;
            if !self.json {
                let memory = row.grown_mb.map_or("-".into(), |mb| mb.to_string());
                let (ms, product) = (1e3 * row.seconds, 1e3 * row.product);
                say(format!("{pairs:7} {ms:11.2} {product:12.2} {:7.2} {memory:>11}", row.ratio))?;
            }
            rows.push(row);
        }
        if let Some(path) = &self.plot {
            write_file(path, bench::plot(&objective.to_string(), &device.to_string(), &rows).as_bytes())?;
        }
        if self.json { print_json(&rows) } else { Ok(()) }
    }
}

fn print_ceiling(ceiling: &Ceiling) -> Result<()> {
    say(format!("arithmetic  {:9.1} GFLOP/s", ceiling.flops / 1e9))?;
    say(format!("streaming   {:9.1} GB/s", ceiling.bytes / 1e9))?;
    say(format!("dispatch    {:9.1} us", 1e6 * ceiling.dispatch))?;
    say(format!("submission  {:9.1} us", 1e6 * ceiling.submission))?;
    say(format!("read-back   {:9.1} us", 1e6 * ceiling.readback))
}

/// The table of a step.
fn print_rows(rows: &[Row]) -> Result<()> {
    say("kernel                          dispatches        ms   share   GFLOP/s      GB/s  of ceiling")?;
    for Row { kernel, share, of_ceiling, .. } in rows {
        let KernelTime { name, dispatches, seconds, flops, bytes, .. } = kernel;
        // On the CPU, only matrix products report their work.
        let rate = |work: f64| if work > 0.0 { format!("{:.2}", work / seconds / 1e9) } else { "-".into() };
        let of_ceiling =
            if flops + bytes > 0.0 { format!("{:.0} %", 100.0 * of_ceiling) } else { "-".into() };
        say(format!(
            "{name:30} {dispatches:11} {:9.3} {:5.1} % {:>9} {:>9} {of_ceiling:>11}",
            1e3 * seconds,
            100.0 * share,
            rate(*flops),
            rate(*bytes),
        ))?;
    }
    let above = rows.iter().filter(|row| row.of_ceiling > 1.0).count();
    if above > 0 {
        note!(
            "note: {above} of the {} kernels are above 100 % of the ceiling: their data lie in a cache, which is faster \
             than the memory that the ceiling is measured on, or the machine was busier then",
            rows.len()
        );
    }
    let sum = |of: fn(&KernelTime) -> f64| rows.iter().map(|row| of(&row.kernel)).sum::<f64>();
    let (dispatches, seconds) = (sum(|kernel| kernel.dispatches as f64), sum(|kernel| kernel.seconds));
    say(format!("{:30} {dispatches:11} {:9.3}", "all", 1e3 * seconds))
}

/// A width that matrices can have.
fn width(text: &str) -> std::result::Result<usize, String> {
    let width = text.parse().map_err(|e| format!("{e}"))?;
    if (1..=65_536).contains(&width) { Ok(width) } else { Err("expected 1 to 65536".into()) }
}

fn parse_shape(text: &str) -> Result<[usize; 4]> {
    let numbers: [usize; 4] = shape(text, "N:P:Q:D")?;
    if numbers.iter().all(|&k| k * numbers[0] < 1 << 31) {
        return Ok(numbers);
    }
    let expected = "N:P:Q:D, their products with N below 2^31";
    Err(Error::new(ErrorKind::Config, "--shape", expected, text, "give it as in 128:1280:384:256"))
}

fn shape<const K: usize>(text: &str, form: &str) -> Result<[usize; K]> {
    // With this limit the product of any two numbers fits.
    let fits = |n: &usize| (1..1 << 31).contains(n);
    let numbers: Option<Vec<usize>> = text.split(':').map(|n| n.parse().ok().filter(fits)).collect();
    numbers.and_then(|numbers| numbers.try_into().ok()).ok_or_else(|| {
        let expected = format!("{form}, whole numbers of 1 or more and below 2^31");
        Error::new(ErrorKind::Config, "--shape", expected, text, "give it in this form")
    })
}
