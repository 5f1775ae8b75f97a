//! The look of all help texts.

use super::Cli;
use super::train::DEFAULTS;
use clap::{Arg, Command, CommandFactory};

/// Help starts with a description and examples.
const TEMPLATE: &str = "{about-with-newline}\n{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}";

/// Help is never wider, so that lines stay easy to read on wide terminals.
const WIDEST: usize = 120;

/// The command line with the look of its help.
pub fn command() -> Command {
    let command = Cli::command().mut_subcommand("bench", bench).mut_subcommand("train", train);
    arrange(command)
}

fn arrange(command: Command) -> Command {
    // The name of such a value lists its choices already.
    let switches = |arg: Arg| {
        let hidden = arg.get_value_names().is_some_and(|names| names.iter().any(|name| name == "on|off"));
        arg.hide_possible_values(hidden)
    };
    command.help_template(TEMPLATE).max_term_width(WIDEST).mut_args(switches).mut_subcommands(arrange)
}

/// A run of `train` starts from a recipe. Its help shows the defaults of that recipe.
fn train(command: Command) -> Command {
    command.mut_args(|arg| {
        let own = DEFAULTS.iter().find(|(name, _)| arg.get_id() == name);
        let Some(((_, default), help)) = own.zip(arg.get_help()) else { return arg };
        let help = help.to_string();
        let (text, _) = help.split_once("[default: ").unwrap_or((&help, ""));
        let help = format!("{text}[default: {default}]");
        let long = arg.get_long_help().map(ToString::to_string);
        let rest = long.as_ref().and_then(|long| Some(long.split_once("\n\n")?.1.to_string()));
        let arg = arg.help(help.clone());
        match rest {
            Some(rest) => arg.long_help(format!("{help}\n\n{rest}")),
            None => arg,
        }
    })
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
        "ranks" => {
            "\
Examples:
  wgoal bench ranks  (after `mpirun -n 4`, on four processes)
  wgoal bench ranks --shape 16384:512:512:512 --objective infonce --profile"
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

#[cfg(test)]
mod tests {
    use super::super::options::RunOptions;
    use super::*;
    use clap::error::ErrorKind;
    use clap::{FromArgMatches, Parser};
    use wgoal::data::Arrays;
    use wgoal::{Dataset, TrainConfig};

    /// Options that do nothing unless they are given.
    const WITHOUT_DEFAULT: [&str; 17] = [
        "weights",
        "grid",
        "write_candidates",
        "rerank",
        "sample_negatives",
        "plot",
        "qrels",
        "text_row",
        "image_row",
        "caption",
        "query",
        "images",
        "top",
        "resume",
        "embeddings",
        "right_pairs",
        "write_ranks",
    ];

    /// Calls `look` with every command that has options or arguments, and its name.
    fn each(command: &Command, look: &mut dyn FnMut(&Command, &str)) {
        let name = command.get_bin_name().unwrap_or("wgoal").to_string();
        look(command, &name);
        for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
            each(command, look);
        }
    }

    fn built() -> Command {
        let mut command = command();
        command.build();
        command
    }

    /// The visible options of a command.
    fn options(command: &Command) -> Vec<&Arg> {
        command.get_arguments().filter(|arg| !arg.is_hide_set() && !arg.is_positional()).collect()
    }

    /// The default that the help of an option shows.
    fn default(arg: &Arg) -> Option<String> {
        let values = arg.get_default_values();
        if !values.is_empty() {
            return Some(values[0].to_str()?.to_string());
        }
        let help = arg.get_help()?.to_string();
        Some(help.split_once("[default: ")?.1.strip_suffix(']')?.to_string())
    }

    #[test]
    fn every_option_stands_in_a_group() {
        let mut count = 0;
        each(&built(), &mut |command, name| {
            for option in options(command) {
                assert!(option.get_help_heading().is_some(), "{name} --{}", option.get_id());
                let device = option.get_help_heading() == Some("Device");
                assert_eq!(
                    device,
                    ["device", "mixed"].contains(&option.get_id().as_str()),
                    "{name} --{}",
                    option.get_id()
                );
                assert!(option.get_help().is_some(), "{name} --{}", option.get_id());
                count += 1;
            }
        });
        assert!(count > 100);
    }

    #[test]
    fn every_option_with_a_default_shows_it() {
        each(&built(), &mut |command, name| {
            for option in options(command) {
                let id = option.get_id().as_str();
                if option.get_action().takes_values() && !option.is_required_set() {
                    // `top` of other commands has a default.
                    let expected = !WITHOUT_DEFAULT.contains(&id) || (id == "top" && !name.ends_with("eval"));
                    assert_eq!(default(option).is_some(), expected, "{name} --{id}: {:?}", option.get_help());
                }
            }
        });
    }

    /// The options of a run.
    #[derive(Parser)]
    struct Run {
        #[command(flatten)]
        options: RunOptions,
    }

    /// Giving an option the default that its help shows changes nothing.
    #[test]
    fn the_defaults_shown_are_those_of_training() {
        let apply = |arguments: &[String]| -> TrainConfig {
            let arguments = ["wgoal".to_string()].into_iter().chain(arguments.iter().cloned());
            Run::parse_from(arguments).options.apply(TrainConfig::default()).unwrap()
        };
        let command = Run::command();
        let mut checked = 0;
        for option in options(&command) {
            let Some(shown) = default(option) else { continue };
            let name = option.get_long().unwrap();
            // Objectives and optimisers that have the option.
            let bases: &[&str] = match name {
                "margin" => &["--objective=hinge"],
                "momentum" | "nesterov" => &["--optimizer=sgd"],
                "betas" | "epsilon" => &["--optimizer=adamw"],
                "temperature" | "learn-temperature" => &["--objective=infonce"],
                "logit-bias" => &["--objective=siglip"],
                "objective" => &["--margin=0.5"],
                _ => &["--objective=cir:sig-ms"],
            };
            let value = shown.split(" for ").next().unwrap();
            if value == "none" && option.get_possible_values().iter().all(|value| value.get_name() != "none")
                || value.contains("the file")
                || value.contains("wgoal baseline")
            {
                continue;
            }
            let base: Vec<String> = bases.iter().map(ToString::to_string).collect();
            let given: Vec<String> = base.iter().cloned().chain([format!("--{name}={value}")]).collect();
            assert_eq!(apply(&given), apply(&base), "--{name} {value}");
            checked += 1;
        }
        assert!(checked >= 35, "{checked}");
    }

    /// The help of `train` shows what its recipe sets, here for many pairs with tokens.
    #[test]
    fn the_defaults_of_train_are_those_of_its_recipe() {
        let numbers = |n: usize| -> Vec<f32> { (0..n).map(|k| (k as f32).sin().abs()).collect() };
        let rows: Vec<u64> = (0..4400).collect();
        let arrays = Arrays::new()
            .with_features("images", &[4400, 400], &numbers(4400 * 400))
            .with_features("texts", &[4400, 390], &numbers(4400 * 390))
            .with_features("text_tokens", &[4400, 1, 2], &numbers(4400 * 2))
            .with_rows("text_to_image", &rows)
            .with_rows("split_train", &rows[..4200])
            .with_rows("split_val", &rows[4200..4300])
            .with_rows("split_test", &rows[4300..]);
        let dataset = Dataset::from_arrays("many", arrays).unwrap();
        let run = |arguments: &[String]| -> TrainConfig {
            let arguments = ["wgoal".to_string()].into_iter().chain(arguments.iter().cloned());
            Run::parse_from(arguments).options.start(&dataset, "wgoal").unwrap().0
        };
        let command = built();
        let train = command.find_subcommand("train").unwrap();
        let mut checked = 0;
        for (id, _) in DEFAULTS {
            let option = options(train).into_iter().find(|option| option.get_id() == id).unwrap();
            let shown = default(option).unwrap();
            // What other data change follows the value.
            let value = shown.split([' ', ',']).next().unwrap();
            let given = [format!("--{}={value}", option.get_long().unwrap())];
            assert_eq!(run(&given), run(&[]), "{given:?}");
            let long = option.get_long_help().map(ToString::to_string);
            assert!(long.is_none_or(|long| long.contains(&shown)), "{id}");
            checked += 1;
        }
        assert_eq!(checked, DEFAULTS.len());
        // Where the recipe changes nothing, the default stays as it is.
        let of_runs = Run::command();
        let of_runs: Vec<_> = options(&of_runs).into_iter().map(|option| option.get_id().clone()).collect();
        let differs = |option: &&Arg| {
            let id = option.get_id();
            // InfoNCE takes no choice of negatives.
            let other =
                DEFAULTS.iter().any(|(own, _)| id == own) || id == "negatives" || !of_runs.contains(id);
            // A text with spaces names several defaults.
            let shown = default(option).filter(|shown| !other && !shown.contains(' ') && shown != "none");
            let long = option.get_long().unwrap();
            shown.is_some_and(|value| run(&[format!("--{long}={value}")]) != run(&[]))
        };
        let differing: Vec<_> = options(train).into_iter().filter(differs).map(Arg::get_id).collect();
        assert!(differing.is_empty(), "{differing:?}");
    }

    #[test]
    fn help_starts_with_examples_that_parse() {
        each(&built(), &mut |command, name| {
            let long = command.clone().render_long_help().to_string();
            let Some((start, rest)) = long.split_once("\nExamples:\n") else { panic!("{name}: {long}") };
            assert!(start.len() < 300 && !start.contains("Usage:") && rest.contains("\nUsage: "), "{long}");
            let examples = rest.split_once("\n\n").unwrap().0;
            for example in examples.lines() {
                // A description follows after two spaces.
                let call = example.trim_start().split("  ").next().unwrap();
                assert!(call.starts_with(name), "{name}: {example}");
                let parsed = super::command().try_get_matches_from(call.split(' '));
                match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
                    Ok(_) => {}
                    Err(error) => assert_eq!(error.kind(), ErrorKind::DisplayHelp, "{call}: {error}"),
                }
            }
            assert!(!command.clone().render_help().to_string().contains("Examples:"), "{name}");
        });
    }

    #[test]
    fn short_help_has_one_paragraph_per_option() {
        each(&built(), &mut |command, name| {
            let (short, long) = (command.clone().render_help(), command.clone().render_long_help());
            assert!(short.to_string().len() <= long.to_string().len(), "{name}");
            for option in options(command) {
                let help = option.get_help().unwrap().to_string();
                assert!(!help.contains('\n') && help.len() <= 110, "{name} --{}: {help}", option.get_id());
            }
        });
    }
}
