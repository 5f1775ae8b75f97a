//! Options in a TOML file: `--config FILE`, `wgoal config`, and the file that a run or a sweep leaves in its folder.
//!
//! The definition of the command line is the only list of options: names, help and defaults come from there.

mod read;
mod resolved;
mod sweep;
mod write;

pub use read::expand;
pub use resolved::save;
pub use sweep::{Resolved, save_sweep};

use super::help;
use super::output::say;
use clap::{Args, ValueEnum};
use std::collections::BTreeMap;
use wgoal::Result;

/// The name of the file in the folder of a run.
pub const RUN: &str = "run.toml";
/// The name of the file in the folder of a sweep.
const SWEEP: &str = "sweep.toml";

/// Commands with `--config`.
#[derive(Clone, Copy, ValueEnum)]
enum Of {
    Train,
    Sweep,
}

const EXAMPLES: &str = "\
Examples:
  wgoal config        all options of train, with help and defaults
  wgoal config sweep  all options of sweep";

#[derive(Args)]
#[command(before_long_help = EXAMPLES)]
pub struct ConfigArgs {
    /// Command whose options are printed
    #[arg(value_name = "COMMAND", default_value = "train")]
    of: Of,
}

impl ConfigArgs {
    pub fn run(self) -> Result<()> {
        let name = match self.of {
            Of::Train => "train",
            Of::Sweep => "sweep",
        };
        let head = format!(
            "# All options of `wgoal {name}`, with their defaults. To set an option, remove the # in front of it.\n\
             # Use this file with `wgoal {name} --config FILE`. Options on the command line win over the file.\n\
             # Paths are relative to the folder in which wgoal is called.\n"
        );
        say(write::render(&help::command(), name, &head, &BTreeMap::new()).trim_end())
    }
}

/// Options that are not in a configuration file, because they say how to use one or print something.
const LEFT_OUT: [&str; 4] = ["config", "help", "version", "color"];

/// The name of an argument in a file: its long option, or the name of a positional argument.
fn key(arg: &clap::Arg) -> Option<String> {
    let name = match arg.get_long() {
        Some(long) => long.to_string(),
        None if arg.is_positional() => arg.get_id().to_string(),
        None => return None,
    };
    (!LEFT_OUT.contains(&name.as_str())).then_some(name)
}

/// Whether an option is on or off, written as true or false in a file.
fn is_switch(arg: &clap::Arg) -> bool {
    arg.get_value_names().is_some_and(|names| names.iter().any(|name| name == "on|off"))
}
