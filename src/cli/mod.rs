//! Arguments and commands. Results go to standard output, everything else to standard error.

mod analyze;
mod baseline;
mod bench;
mod data;
mod doctor;
mod embed;
mod eval;
mod gradient;
mod options;
mod output;
mod resume;
mod run_folder;
mod sweep;
mod train;

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use wgoal::device::DeviceInfo;
use wgoal::objective::CustomWeights;
use wgoal::{Device, Objective, Plain, Result, is_unsafe};

pub use output::Safe;
use output::{make_folder, print_json, refuse_overwriting, say, shown, to_json};

/// Trains a joint image-text projection head on cached features, on any GPU or on the CPU.
#[derive(Parser)]
#[command(version, about, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a head on a dataset, validating after every epoch
    Train(Box<train::TrainArgs>),
    /// Fit a head in closed form, to compare a trained one with
    Baseline(baseline::BaselineArgs),
    /// Train many objectives with several seeds, and compare them in a table
    Sweep(Box<sweep::SweepArgs>),
    /// Recall of a checkpoint on a split of a dataset
    Eval(eval::EvalArgs),
    /// Write the embeddings of a split, unit rows in f32
    Embed(embed::EmbedArgs),
    /// The gradient of an objective at given embeddings
    Gradient(gradient::GradientArgs),
    /// Whether an objective's gradient is that of a loss, where it pushes the wrong way, where f32 cannot hold it
    Analyze(analyze::AnalyzeArgs),
    /// Measure speed
    Bench {
        #[command(subcommand)]
        what: bench::BenchCommand,
    },
    /// Run every kernel and a step of every objective against the f64 twins on this machine
    Doctor(doctor::DoctorArgs),
    /// List the devices of this machine
    Devices {
        /// One JSON array instead of a table
        #[arg(long)]
        json: bool,
    },
}

/// The call, or the end of the process with what is wrong about it, or with the help that was asked for.
pub fn parse() -> Cli {
    Cli::try_parse().unwrap_or_else(|error| {
        // An error repeats arguments: without what they may do to a terminal, it is the same.
        let safe = |argument: OsString| match argument.to_str() {
            Some(text) if text.len() <= 200 && !text.contains(is_unsafe) => argument,
            _ => Plain(argument.to_string_lossy()).to_string().into(),
        };
        let error = Cli::try_parse_from(std::env::args_os().map(safe)).err().unwrap_or(error);
        error.exit()
    })
}

impl Cli {
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::Train(args) => args.run(),
            Command::Baseline(args) => args.run(),
            Command::Sweep(args) => args.run(),
            Command::Eval(args) => args.run(),
            Command::Embed(args) => args.run(),
            Command::Gradient(args) => args.run(),
            Command::Analyze(args) => args.run(),
            Command::Bench { what } => what.run(),
            Command::Doctor(args) => args.run(),
            Command::Devices { json } => devices(json),
        }
    }
}

/// An option that is on or off.
#[derive(Clone, Copy, ValueEnum)]
enum Switch {
    On,
    Off,
}

impl Switch {
    fn is_on(self) -> bool {
        matches!(self, Self::On)
    }
}

/// Which device, on every command that computes.
#[derive(Args)]
pub struct DeviceArg {
    /// auto, gpu, cpu, an index of `wgoal devices`, or part of a name, such as vulkan or gl:llvmpipe
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: String,
}

impl DeviceArg {
    /// Opens it and says which it is and why.
    fn open(&self) -> Result<Device> {
        self.open_as(None)
    }

    /// The same, where none is named that which gives itself the name `before`, if it is here.
    fn open_as(&self, before: Option<&str>) -> Result<Device> {
        let variable = std::env::var_os("WGPU_ADAPTER_NAME").filter(|name| !name.is_empty());
        let named = self.device != "auto" || variable.is_some();
        let found = before.filter(|_| !named).and_then(|before| {
            // The CPU's name tells its threads, which change nothing.
            if before.ends_with("(native)") {
                return Some("cpu".to_string());
            }
            let info = Device::list().into_iter().find(|info| info.to_string() == before)?;
            Some(info.index.to_string())
        });
        wgoal::check_environment()?;
        let device = Device::open(found.as_deref().unwrap_or(&self.device))?;
        let reason = if found.is_some() { "as before" } else { &device.info().reason };
        note!("device: {device}, {reason}");
        Ok(device)
    }
}

/// The parameters of objectives.
#[derive(Args, Clone, Default)]
pub struct ObjectiveArgs {
    /// con|nca|cir : con|lin|lin-ms|sig|sig-ms (as in cir:sig-ms), triplet, nt-xent, squared-pair,
    /// binomial-deviance, circle, circle-detached, contrastive, multi-similarity, lifted, hinge, hinge-sum, infonce,
    /// infonce-masked or custom; or a weighted sum of them, as in infonce+0.5*cir:sig-ms
    #[arg(long, value_name = "NAME")]
    objective: Option<String>,
    /// Negatives of an anchor that an objective on triplets weighs: hardest, semi-hard (the hardest below the positive),
    /// top:K or all [hardest]
    #[arg(long, value_name = "WHICH")]
    negatives: Option<String>,
    /// Margin of the hinge [0.2]; on a GOAL objective, closes triplets that satisfy it [off]
    #[arg(long, allow_negative_numbers = true)]
    margin: Option<f32>,
    /// Scale of the triplet weights nca and cir [1]
    #[arg(long, allow_negative_numbers = true)]
    tau: Option<f32>,
    /// Scale of the positive weight of sig and sig-ms [2]
    #[arg(long, allow_negative_numbers = true)]
    alpha: Option<f32>,
    /// Scale of the negative weight of sig and sig-ms [10]
    #[arg(long, allow_negative_numbers = true)]
    beta: Option<f32>,
    /// Centre of the weights of sig and sig-ms [0.5]
    #[arg(long, allow_negative_numbers = true)]
    lambda: Option<f32>,
    /// Reach of the relative sets of lin-ms and sig-ms [0.1]
    #[arg(long, allow_negative_numbers = true)]
    threshold: Option<f32>,
    /// Margin inside the weight cir [0.5]
    #[arg(long, allow_negative_numbers = true)]
    circle_margin: Option<f32>,
    /// Temperature of infonce [0.07]
    #[arg(long, allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Learn the temperature of infonce, within 0.001 and 0.5
    #[arg(long, value_name = "on|off", num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    learn_temperature: Option<Switch>,
    /// The WGSL file of custom: triplet_weight(p, n) -> f32 and pair_weights(p, n) -> vec2f
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// A value for a parameter of that file, an `override name: f32 = value;`; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parameter, allow_hyphen_values = true)]
    param: Vec<(String, f32)>,
}

/// NAME=VALUE
fn parameter(text: &str) -> std::result::Result<(String, f32), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    let value = value.parse().map_err(|e| format!("{e}: `{value}`"))?;
    Ok((name.to_string(), value))
}

impl ObjectiveArgs {
    /// The objective that results from `base` (used where none is named) and the parameters given; says which of them
    /// have no effect.
    fn apply(&self, base: Objective) -> Result<Objective> {
        let objective = self.resolve(base)?;
        options::warn(&self.unused(&objective));
        Ok(objective)
    }

    /// The objective that results from `base` (used where none is named) and the parameters given.
    fn resolve(&self, base: Objective) -> Result<Objective> {
        let named = |name: &str| match &self.weights {
            Some(path) if name == "custom" => {
                let given = self.param.iter().map(|(name, value)| (name.as_str(), *value));
                let weights = CustomWeights::open(path, given)?;
                Ok(Objective::Custom { weights, margin: base.margin() })
            }
            _ => name.parse(),
        };
        let mut objective = match &self.objective {
            None if self.weights.is_some() => named("custom")?,
            Some(name) if self.weights.is_some() || *name != base.to_string() => {
                Objective::parse_with(name, named)?
            }
            _ => base,
        };
        self.set(&mut objective)?;
        if let Some(negatives) = &self.negatives {
            objective = objective.over(negatives.parse()?)?;
        }
        objective.validate()?;
        Ok(objective)
    }

    /// Sets the parameters given in an objective, or in all terms of a sum.
    fn set(&self, objective: &mut Objective) -> Result<()> {
        let set = |field: &mut f32, value: Option<f32>| *field = value.unwrap_or(*field);
        match objective {
            Objective::Goal(_, _, params) | Objective::Loss(_, params) => {
                set(&mut params.tau, self.tau);
                set(&mut params.alpha, self.alpha);
                set(&mut params.beta, self.beta);
                set(&mut params.lambda, self.lambda);
                set(&mut params.threshold, self.threshold);
                set(&mut params.circle, self.circle_margin);
                params.margin = self.margin.or(params.margin);
            }
            Objective::Hinge { margin } | Objective::HingeSum { margin } => set(margin, self.margin),
            Objective::Infonce(params) => {
                set(&mut params.temperature, self.temperature);
                params.learn_temperature =
                    self.learn_temperature.map_or(params.learn_temperature, Switch::is_on);
            }
            Objective::Custom { weights, margin } => {
                if self.weights.is_none() && !self.param.is_empty() {
                    *weights =
                        weights.with(self.param.iter().map(|(name, value)| (name.as_str(), *value)))?;
                }
                *margin = self.margin.or(*margin);
            }
            Objective::Over(_, objective) => self.set(objective)?,
            Objective::Sum(terms) => terms.iter_mut().try_for_each(|(_, term)| self.set(term))?,
            _ => {}
        }
        Ok(())
    }
}

fn devices(json: bool) -> Result<()> {
    wgoal::check_environment()?;
    let devices = Device::list();
    if json {
        return print_json(&devices);
    }
    say("index  kind        backend  name")?;
    for device in devices {
        let kind = format!("{:?}", device.kind).to_lowercase();
        let DeviceInfo { index, backend, name, driver, .. } = device;
        say(format!("{index:5}  {kind:10}  {backend:7}  {name}  ({driver})"))?;
    }
    Ok(())
}
