//! Arguments and commands. Results go to standard output. Everything else goes to standard error.

mod analyze;
mod baseline;
mod bench;
mod color;
mod compare;
mod config;
mod data;
mod doctor;
mod embed;
mod eval;
mod gradient;
mod help;
mod inspect;
mod interrupt;
mod misspelt;
mod options;
mod outcome;
mod output;
mod progress;
mod rank;
mod report;
mod resume;
mod run_folder;
mod search;
mod shell;
mod split;
mod sweep;
mod train;

use clap::{ArgAction, Args, FromArgMatches, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use wgoal::device::DeviceInfo;
use wgoal::objective::CustomWeights;
use wgoal::{Device, Objective, Plain, Result, is_unsafe};

pub use color::print as print_note;
pub use output::{Safe, is_quiet};
use output::{duration, make_folder, print_json, quoted, refuse_overwriting, say, shown, to_json};

/// Trains a joint image-text projection head on cached features, on any GPU or on the CPU
#[derive(Parser)]
#[command(
    name = "wgoal",
    version,
    about,
    arg_required_else_help = true,
    subcommand_help_heading = "Commands"
)]
#[command(disable_help_flag = true, disable_version_flag = true, before_long_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print only results and errors
    #[arg(short, long, global = true, help_heading = "Other", display_order = 999)]
    quiet: bool,
    #[allow(dead_code, reason = "clap prints the help")]
    /// Print help: -h in short, --help in full
    #[arg(short, long, action = ArgAction::Help, global = true, help_heading = "Other", display_order = 1000)]
    help: Option<bool>,
    #[allow(dead_code, reason = "applied before the arguments are parsed")]
    /// When to use colours
    #[arg(
        long,
        value_name = "WHEN",
        value_enum,
        default_value = "auto",
        global = true,
        help_heading = "Other"
    )]
    #[arg(display_order = 999)]
    color: color::Color,
    #[allow(dead_code, reason = "clap prints the version")]
    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version, help_heading = "Other", display_order = 1001)]
    version: Option<bool>,
}

const EXAMPLES: &str = "\
Examples:
  wgoal train                                       train on the example dataset
  wgoal train my-features --out run                 train on your features
  wgoal eval run my-features                        recall on the test split
  wgoal train --help                                all options of a command";

#[derive(Subcommand)]
enum Command {
    /// Train a head on a dataset
    Train(Box<train::TrainArgs>),
    /// Fit a head in closed form, to compare with trained heads
    Baseline(baseline::BaselineArgs),
    /// Train several objectives with several seeds, and compare them in a table
    Sweep(Box<sweep::SweepArgs>),
    /// Show runs side by side
    Compare(compare::CompareArgs),
    /// Write the report of a run again
    Report(report::ReportArgs),
    /// Measure the recall of a head on a split
    Eval(eval::EvalArgs),
    /// Write the embeddings of a dataset or of a split
    Embed(embed::EmbedArgs),
    /// Write the ranking of every query for evaluation tools
    Rank(rank::RankArgs),
    /// Search images with a text, or texts with an image
    Search(search::SearchArgs),
    /// Show what is in a dataset: sizes, row lengths, equal rows, leaks between splits
    Inspect(inspect::InspectArgs),
    /// Divide the images of a dataset into splits, and write the split files
    Split(split::SplitArgs),
    /// Compute the gradient of an objective at given embeddings
    Gradient(gradient::GradientArgs),
    /// Analyse the gradient of an objective
    ///
    /// It reports whether the gradient is the gradient of a loss, where it pushes in the wrong direction, and where f32
    /// cannot represent it.
    Analyze(analyze::AnalyzeArgs),
    /// Measure speed
    Bench {
        #[command(subcommand)]
        what: bench::BenchCommand,
    },
    /// Check every kernel, and a step of every objective, against f64 references
    Doctor(doctor::DoctorArgs),
    /// Print a configuration file with all options of a command
    ///
    /// Save it with `wgoal config > run.toml`, edit it, and use it with `wgoal train --config run.toml`.
    Config(config::ConfigArgs),
    /// Print a script that completes commands and options in a shell
    Completions(shell::CompletionsArgs),
    /// Print or write the manual pages
    Man(shell::ManArgs),
    /// List the devices of this machine
    #[command(before_long_help = DEVICES_EXAMPLES)]
    Devices {
        /// Print one JSON array instead of a table
        #[arg(long, help_heading = "Output")]
        json: bool,
    },
}

const DEVICES_EXAMPLES: &str = "\
Examples:
  wgoal devices         a table
  wgoal devices --json  one JSON array";

/// Parses the arguments of this process, and the file of `--config`. Ends the process if the arguments are wrong or ask
/// for help.
///
/// # Errors
/// What is wrong with the file of `--config`.
pub fn parse() -> Result<Cli> {
    let command = help::command();
    let parse = |arguments: &[OsString]| {
        let matches = command.clone().try_get_matches_from(arguments)?;
        Cli::from_arg_matches(&matches)
    };
    let arguments: Vec<OsString> = std::env::args_os().collect();
    color::apply(&arguments);
    let arguments = config::expand(&command, arguments)?;
    Ok(parse(&arguments).unwrap_or_else(|error| {
        // The message repeats arguments. Parse them again without characters that could control a terminal.
        let safe = |argument: OsString| match argument.to_str() {
            Some(text) if text.len() <= 200 && !text.contains(is_unsafe) => argument,
            _ => Plain(argument.to_string_lossy()).to_string().into(),
        };
        let safe: Vec<OsString> = arguments.into_iter().map(safe).collect();
        let error = parse(&safe).err().unwrap_or(error);
        if let Some(explained) = misspelt::explain(&command, &safe, &error) {
            always!("error: {explained}");
            std::process::exit(error.exit_code())
        }
        error.exit()
    }))
}

impl Cli {
    /// The exit code is not 0 if a signal stopped the command.
    pub fn run(self) -> Result<ExitCode> {
        if self.quiet {
            output::set_quiet();
        }
        match self.command {
            Command::Train(args) => return args.run(),
            Command::Baseline(args) => args.run(),
            Command::Sweep(args) => args.run(),
            Command::Compare(args) => args.run(),
            Command::Report(args) => args.run(),
            Command::Eval(args) => args.run(),
            Command::Embed(args) => args.run(),
            Command::Rank(args) => args.run(),
            Command::Search(args) => args.run(),
            Command::Inspect(args) => args.run(),
            Command::Split(args) => args.run(),
            Command::Gradient(args) => args.run(),
            Command::Analyze(args) => args.run(),
            Command::Bench { what } => what.run(),
            Command::Doctor(args) => args.run(),
            Command::Config(args) => args.run(),
            Command::Completions(args) => args.run(),
            Command::Man(args) => args.run(),
            Command::Devices { json } => devices(json),
        }?;
        Ok(ExitCode::SUCCESS)
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

/// The device, for every command that computes.
#[derive(Args)]
pub struct DeviceArg {
    /// Device to compute on: auto, gpu, cpu, an index, or part of a name
    ///
    /// `auto` takes the best GPU, or the CPU if there is none. `gpu` also takes a software adapter. An index is one of
    /// `wgoal devices`. Part of a name is, for example, vulkan or gl:llvmpipe.
    #[arg(long, value_name = "DEVICE", default_value = "auto", help_heading = "Device")]
    device: String,
}

impl DeviceArg {
    /// The device as it was named.
    fn name(&self) -> &str {
        &self.device
    }

    /// Opens the device. Prints which device it is and why.
    fn open(&self) -> Result<Device> {
        self.open_as(None)
    }

    /// Opens the device. If no device is named and one has the name `before`, opens that one.
    fn open_as(&self, before: Option<&str>) -> Result<Device> {
        let variable = std::env::var_os("WGPU_ADAPTER_NAME").filter(|name| !name.is_empty());
        let named = self.device != "auto" || variable.is_some();
        let found = before.filter(|_| !named).and_then(|before| {
            // The CPU's name contains the number of threads, which does not matter here.
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

/// The objective and its parameters.
#[derive(Args, Clone, Default)]
pub struct ObjectiveArgs {
    /// What training optimises [default: cir:sig-ms]
    ///
    /// A GOAL gradient is TRIPLET:PAIR. TRIPLET is con, nca or cir; PAIR is con, lin, lin-ms, sig or sig-ms.
    ///
    /// The losses are hinge, hinge-sum, infonce, infonce-masked, triplet, nt-xent, squared-pair, binomial-deviance,
    /// circle, circle-detached, contrastive, multi-similarity and lifted.
    ///
    /// `custom` reads the file of --weights. A weighted sum of these is written as in infonce+0.5*cir:sig-ms.
    #[arg(long, value_name = "NAME", help_heading = "Objective")]
    objective: Option<String>,
    /// Margin of the hinge, or of a GOAL gradient [default: 0.2 for the hinge, off for GOAL]
    ///
    /// A GOAL gradient with a margin drops the triplets that satisfy it.
    #[arg(long, allow_negative_numbers = true, help_heading = "Objective")]
    margin: Option<f32>,
    /// Scale of the triplet weights nca and cir, above 0 [default: 1]
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true, help_heading = "Objective")]
    tau: Option<f32>,
    /// Scale of the positive weight of sig and sig-ms, above 0 [default: 2]
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true, help_heading = "Objective")]
    alpha: Option<f32>,
    /// Scale of the negative weight of sig and sig-ms, above 0 [default: 10]
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true, help_heading = "Objective")]
    beta: Option<f32>,
    /// Centre of the weights of sig and sig-ms, a similarity [default: 0.5]
    #[arg(long, value_name = "CENTRE", allow_negative_numbers = true, help_heading = "Objective")]
    lambda: Option<f32>,
    /// Reach of the relative sets of lin-ms and sig-ms, 0 or more [default: 0.1]
    #[arg(long, value_name = "REACH", allow_negative_numbers = true, help_heading = "Objective")]
    threshold: Option<f32>,
    /// Margin inside the triplet weight cir [default: 0.5]
    #[arg(long, value_name = "MARGIN", allow_negative_numbers = true, help_heading = "Objective")]
    circle_margin: Option<f32>,
    /// Temperature of infonce, above 0 [default: 0.07]
    #[arg(long, value_name = "T", allow_negative_numbers = true, help_heading = "Objective")]
    temperature: Option<f32>,
    /// Learn the temperature of infonce, between 0.001 and 0.5 [default: off]
    #[arg(long, value_name = "on|off", num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    #[arg(help_heading = "Objective")]
    learn_temperature: Option<Switch>,
    /// WGSL file that defines the weights of `custom`
    ///
    /// It defines triplet_weight(p, n) -> f32 and pair_weights(p, n) -> vec2f, where p and n are the similarities of
    /// the positive and of the negative.
    #[arg(long, value_name = "FILE", help_heading = "Objective")]
    weights: Option<PathBuf>,
    /// Value for a parameter of the file of --weights; can be repeated [default: the value in the file]
    ///
    /// The file declares a parameter as `override name: f32 = value;`.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parameter, allow_hyphen_values = true)]
    #[arg(help_heading = "Objective")]
    param: Vec<(String, f32)>,
    /// Which negatives of an anchor form triplets [default: hardest]
    ///
    /// `hardest` is the most similar negative, `semi-hard` the most similar one below the positive, `top:K` the K most
    /// similar ones, `all` all of them.
    #[arg(long, value_name = "hardest|semi-hard|top:K|all", help_heading = "Negatives")]
    negatives: Option<String>,
}

/// Parses NAME=VALUE.
fn parameter(text: &str) -> std::result::Result<(String, f32), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    let value = value.parse().map_err(|e| format!("{e}: `{value}`"))?;
    Ok((name.to_string(), value))
}

impl ObjectiveArgs {
    /// The objective that results from `base` (used if none is named) and the given parameters. Warns of parameters
    /// that have no effect.
    fn apply(&self, base: Objective) -> Result<Objective> {
        let objective = self.resolve(base)?;
        options::warn(&self.unused(&objective));
        Ok(objective)
    }

    /// The objective that results from `base` (used if none is named) and the given parameters.
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

    /// Sets the given parameters in an objective, or in all terms of a sum.
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
