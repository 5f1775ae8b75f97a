//! Arguments and commands. Results go to standard output. Everything else goes to standard error.
//!
//! It is a part of the library so that other programs can have the same commands and options: [`main`] is the whole tool.
//! It uses the public interface of the library alone.

#![allow(rustdoc::broken_intra_doc_links, reason = "the comments of options are texts for a terminal")]

/// Prints a line on standard error. Unlike `eprintln!`, it does not panic if the reader has closed the pipe
/// (`2>&1 | head`).
macro_rules! always {
    ($($line:tt)*) => {{
        if !$crate::cli::is_silent() {
            $crate::cli::print_note(&$crate::cli::Safe(format!($($line)*)).to_string());
        }
    }};
}

/// Prints a line on standard error, unless --quiet is given.
macro_rules! note {
    ($($line:tt)*) => {{
        if !$crate::cli::is_quiet() {
            always!($($line)*);
        }
    }};
}

mod analyze;
mod baseline;
mod bench;
mod checkpoint;
mod color;
mod compare;
mod config;
mod corrected;
mod data;
mod doctor;
mod embed;
mod eval;
mod gradient;
mod help;
mod inspect;
mod interrupt;
mod job;
pub mod library;
mod misspelt;
mod notes;
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
use std::sync::{Mutex, PoisonError};
use wgoal::device::DeviceInfo;
use wgoal::{Device, Error, Plain, Result, is_unsafe};

pub use color::print as print_note;
use job::Job;
use options::ObjectiveArgs;
pub use output::{Safe, is_quiet, is_silent};
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

/// The arguments of [`main`], for commands that say how to repeat them.
static GIVEN: Mutex<Vec<OsString>> = Mutex::new(Vec::new());

/// The arguments that the command line runs with, the name of the program first.
fn given() -> Vec<OsString> {
    GIVEN.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Runs the command line with these arguments, the name of the program first. Returns the exit code.
pub fn main(arguments: Vec<OsString>) -> u8 {
    interrupt::keep_going_at_the_limit_of_files();
    GIVEN.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&arguments);
    let run = parse(arguments).and_then(|parsed| match parsed {
        Parsed::Command(command) => command.run(),
        Parsed::Answered(code) => Ok(code),
    });
    run.unwrap_or_else(|error| print_error(&error))
}

/// Prints an error. Returns the exit code.
fn print_error(error: &Error) -> u8 {
    always!("error: {error}");
    if let Some(excerpt) = error.excerpt() {
        always!("{excerpt}");
    }
    1
}

/// What the arguments ask for.
enum Parsed {
    Command(Box<Cli>),
    /// The help or an error, which is printed; and the exit code.
    Answered(u8),
}

/// Parses arguments and the file of `--config`.
///
/// # Errors
/// What is wrong with the file of `--config`.
fn parse(arguments: Vec<OsString>) -> Result<Parsed> {
    let command = help::command();
    let parse = |arguments: &[OsString]| {
        let matches = command.clone().try_get_matches_from(arguments)?;
        Cli::from_arg_matches(&matches)
    };
    color::apply(&arguments);
    let arguments = config::expand(&command, arguments)?;
    let error = match parse(&arguments) {
        Ok(cli) => return Ok(Parsed::Command(Box::new(cli))),
        Err(error) => error,
    };
    // The message repeats arguments. Parse them again without characters that could control a terminal.
    let safe = |argument: OsString| match argument.to_str() {
        Some(text) if text.len() <= 200 && !text.contains(is_unsafe) => argument,
        _ => Plain(argument.to_string_lossy()).to_string().into(),
    };
    let safe: Vec<OsString> = arguments.into_iter().map(safe).collect();
    let error = parse(&safe).err().unwrap_or(error);
    match misspelt::explain(&command, &safe, &error) {
        Some(explained) => always!("error: {explained}"),
        // A reader that has closed the pipe is no error.
        None => drop(error.print()),
    }
    Ok(Parsed::Answered(error.exit_code() as u8))
}

impl Cli {
    /// The exit code is not 0 if a signal stopped the command.
    fn run(self) -> Result<u8> {
        if self.quiet {
            output::set_quiet();
        }
        let job = Job::find(self.command.is_divided())?;
        match self.command {
            Command::Train(args) => job.run(|job| args.run(job)),
            Command::Baseline(args) => job.run(|job| args.run(job)),
            Command::Sweep(args) => job.run(|job| args.run(job)),
            Command::Compare(args) => job.run_first(|| args.run()),
            Command::Report(args) => job.run_first(|| args.run()),
            Command::Eval(args) => job.run(|job| args.run(job)),
            Command::Embed(args) => job.run(|job| args.run(job)),
            Command::Rank(args) => job.run_first(|| args.run()),
            Command::Search(args) => job.run_first(|| args.run()),
            Command::Inspect(args) => job.run_first(|| args.run()),
            Command::Split(args) => job.run_first(|| args.run()),
            Command::Gradient(args) => job.run_first(|| args.run()),
            Command::Analyze(args) => job.run_first(|| args.run()),
            Command::Bench { what } => what.run(job),
            Command::Doctor(args) => job.run_first(|| args.run()),
            Command::Config(args) => job.run_first(|| args.run()),
            Command::Completions(args) => job.run_first(|| args.run()),
            Command::Man(args) => job.run_first(|| args.run()),
            Command::Devices { json } => job.run_first(|| devices(json)),
        }
    }
}

impl Command {
    /// Whether the processes of a job divide its work. The other commands run in the first process alone.
    fn is_divided(&self) -> bool {
        match self {
            Self::Train(_) | Self::Baseline(_) | Self::Sweep(_) | Self::Eval(_) | Self::Embed(_) => true,
            Self::Bench { what } => matches!(what, bench::BenchCommand::Ranks(_)),
            _ => false,
        }
    }
}

/// Starts the threads that compute, and says if there are fewer than wanted.
///
/// # Errors
/// The system allows none.
fn start_threads() -> Result<()> {
    match wgoal::start_threads()? {
        0 => {}
        missing => note!("note: the system refused {missing} of the threads, so this takes longer"),
    }
    Ok(())
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
        self.open_in(&Job::alone(), before)
    }

    /// Opens the device for work that the processes of a job divide.
    fn open_shared(&self, job: &Job) -> Result<Device> {
        job.share_work(&self.open_in(job, None)?, None)
    }

    /// [`DeviceArg::open_as`] for a process of a job, which takes the device of its number on its machine.
    fn open_in(&self, job: &Job, before: Option<&str>) -> Result<Device> {
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
        let device = job.open(found.as_deref().unwrap_or(&self.device))?;
        let reason = if found.is_some() { "as before" } else { &device.info().reason };
        note!("device: {device}, {reason}");
        Ok(device)
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
