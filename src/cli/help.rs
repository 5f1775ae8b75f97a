//! The look of all help texts.

use super::Cli;
use clap::{Command, CommandFactory};

/// Help starts with a description and examples.
const TEMPLATE: &str = "{about-with-newline}\n{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}";

/// Help is never wider, so that lines stay easy to read on wide terminals.
const WIDEST: usize = 120;

/// The command line with the look of its help.
pub fn command() -> Command {
    let command = Cli::command().mut_subcommand("bench", bench);
    arrange(command)
}

fn arrange(command: Command) -> Command {
    command.help_template(TEMPLATE).max_term_width(WIDEST).mut_subcommands(arrange)
}

const BENCH: &str = "\
Examples:
  wgoal bench step --shape 128:1280:384:256 --objective hinge
  wgoal bench roofline --device gpu
  wgoal bench pairs --plot pairs.svg";

/// The examples of a benchmark.
fn bench_examples(name: &str) -> &'static str {
    match name {
        "step" => {
            "\
Examples:
  wgoal bench step
  wgoal bench step --shape 128:1280:384:256 --objective hinge --profile"
        }
        "roofline" => {
            "\
Examples:
  wgoal bench roofline --device gpu"
        }
        "pairs" => {
            "\
Examples:
  wgoal bench pairs --plot pairs.svg
  wgoal bench pairs --pairs 1024,4096 --embed 512 --device gpu"
        }
        "epoch" => {
            "\
Examples:
  wgoal bench epoch
  wgoal bench epoch --shape 29000:145000:2048:768:1024 --shuffle blocks --cold"
        }
        _ => {
            "\
Examples:
  wgoal bench eval
  wgoal bench eval --shape 5000:25000:1024 --device gpu"
        }
    }
}

/// Groups the options of the benchmarks and adds examples.
fn bench(command: Command) -> Command {
    let one = |command: Command| {
        let examples = bench_examples(command.get_name());
        command.before_long_help(examples).mut_args(|arg| {
            let heading = match arg.get_id().as_str() {
                _ if arg.get_help_heading().is_some() => return arg,
                "json" | "plot" => "Output",
                _ => "Measurement",
            };
            arg.help_heading(heading)
        })
    };
    command.before_long_help(BENCH).mut_subcommands(one)
}
