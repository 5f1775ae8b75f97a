//! The options of `wgoal train` and `wgoal baseline` by name and value, for programs without a command line.
//!
//! The definition of the command line is the only list of options: names, values, defaults and errors come from there.

use super::data::checkpoint_path;
use super::train::RECIPE;
use super::{Cli, Command, help, misspelt};
use clap::FromArgMatches;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use wgoal::train::Baseline;
use wgoal::{Checkpoint, Dataset, Device, Error, ErrorKind, Result, TrainConfig};

/// An option's name without dashes, and its value as the command line takes it.
pub type Given = (String, String);

/// Options that say where a command reads, computes and prints, so they are not among those of a library.
const LEFT_OUT: [&str; 13] = [
    "checkpoint-every",
    "color",
    "config",
    "device",
    "help",
    "json",
    "mixed",
    "no-baselines",
    "no-report",
    "out",
    "quiet",
    "resume",
    "version",
];

/// What options of `wgoal train` mean for a dataset.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// The configuration of the run.
    pub config: TrainConfig,
    /// A line about its recipe.
    pub recipe: String,
    /// Options that do not do what their names say, one line for each.
    pub warnings: Vec<String>,
}

/// The options of `command` (`train` or `baseline`) that this file accepts: the name of each without dashes, and the
/// first line of its help.
pub fn options(command: &str) -> Vec<(String, String)> {
    let root = help::command();
    let arguments = root.find_subcommand(command).into_iter().flat_map(clap::Command::get_arguments);
    let named = arguments.filter_map(|arg| Some((arg.get_long()?.to_string(), arg.get_help()?.to_string())));
    named.filter(|(name, _)| !LEFT_OUT.contains(&name.as_str())).collect()
}

/// The configuration that `wgoal train` would use for a dataset with these options.
///
/// # Errors
/// An unknown option, a value that its option does not take, and the errors of `wgoal train`.
pub fn train_config(dataset: &Dataset, given: &[Given]) -> Result<Options> {
    let Command::Train(arguments) = parse("train", &[], given)? else {
        return Err(unexpected("train"));
    };
    let (config, recipe) = arguments.options.start(dataset, RECIPE)?;
    let unused = arguments.options.unused(&config, dataset);
    Ok(Options { config, recipe, warnings: unused.iter().map(ToString::to_string).collect() })
}

/// The head that `wgoal baseline` would fit to a dataset with these options, with its correction for hubs. `form` is
/// `cca`, `ridge` or `kcca`.
///
/// # Errors
/// An unknown option, a value that its option does not take, and the errors of `wgoal baseline`.
pub fn baseline(
    form: &str,
    device: &Device,
    dataset: &Dataset,
    given: &[Given],
) -> Result<(Baseline, Checkpoint, Vec<String>)> {
    // The dataset is open: its path is not read.
    let Command::Baseline(arguments) = parse("baseline", &[form, "."], given)? else {
        return Err(unexpected("baseline"));
    };
    let (form, config) = arguments.config()?;
    let warnings = arguments.unused(form).iter().map(ToString::to_string).collect();
    let baseline = arguments.fit(form, device, dataset, &config)?;
    let mut checkpoint = Checkpoint::of(baseline.head.clone(), dataset, config)?;
    fit_correction(&mut checkpoint, device, dataset)?;
    Ok((baseline, checkpoint, warnings))
}

/// Fits the correction for hubs that the configuration of a head asks for, as `wgoal train` does at the end of a run.
///
/// # Errors
/// Those of [`Checkpoint::fit_correction`].
pub fn fit_correction(checkpoint: &mut Checkpoint, device: &Device, dataset: &Dataset) -> Result<()> {
    if checkpoint.config().correction == wgoal::eval::Correction::None {
        return Ok(());
    }
    checkpoint.fit_correction(device, dataset).map(drop)
}

/// The file of a head: the given file, or the best head in the given folder of a run.
///
/// # Errors
/// A folder without a head.
pub fn head_file(path: &Path) -> Result<PathBuf> {
    checkpoint_path(path)
}

/// The command with its options.
fn parse(command: &str, positional: &[&str], given: &[Given]) -> Result<Command> {
    let root = help::command();
    let mut arguments: Vec<OsString> = ["wgoal", command].map(OsString::from).to_vec();
    arguments.extend(positional.iter().map(OsString::from));
    for (name, value) in given {
        if LEFT_OUT.contains(&name.as_str()) {
            let expected = format!("an option of `wgoal {command}` that changes the result");
            let (found, advice) = ("another option", "leave it out");
            return Err(Error::new(ErrorKind::Config, format!("--{name}"), expected, found, advice));
        }
        arguments.push(format!("--{name}={value}").into());
    }
    let matches = root.clone().try_get_matches_from(&arguments);
    match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => Ok(cli.command),
        Err(error) => Err(fault(&root, command, &arguments, &error)),
    }
}

/// An error of clap as one of wgoal.
fn fault(root: &clap::Command, command: &str, arguments: &[OsString], error: &clap::Error) -> Error {
    let text = misspelt::explain(root, arguments, error).unwrap_or_else(|| error.to_string());
    let line = text.lines().next().unwrap_or_default();
    let found = line.strip_prefix("error: ").unwrap_or(line);
    let expected = format!("options and values of `wgoal {command}`");
    let advice = format!("see `wgoal {command} --help`");
    Error::new(ErrorKind::Config, format!("options of {command}"), expected, found, advice)
}

fn unexpected(command: &str) -> Error {
    let advice = "report this as a bug";
    Error::new(ErrorKind::Config, "command", command, "another one", advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(options: &[(&str, &str)]) -> Vec<Given> {
        options.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn options_mean_what_they_mean_on_the_command_line() {
        let dataset = Dataset::open("data/clipart-mini").unwrap();
        let options = given(&[
            ("recipe", "goal"),
            ("objective", "hinge"),
            ("margin", "-0.1"),
            ("standardize", "on"),
            ("lr-drop", "3,5"),
            ("epochs", "4"),
        ]);
        let Options { config, warnings, .. } = train_config(&dataset, &options).unwrap();
        assert_eq!(config.objective.margin(), Some(-0.1));
        assert_eq!((config.standardize, config.lr_drop, config.epochs), (true, vec![3, 5], 4));
        assert_eq!(warnings, ["--lr-drop 5 has no effect: the run has 4 epochs"]);
        let Options { config, .. } = train_config(&dataset, &[]).unwrap();
        assert_eq!(config, TrainConfig::recipe("wgoal", &dataset).unwrap());
    }

    #[test]
    fn an_option_that_does_not_exist_is_explained() {
        let dataset = Dataset::open("data/clipart-mini").unwrap();
        let fails = |options| train_config(&dataset, &given(options)).unwrap_err().to_string();
        let error = fails(&[("learning-rate", "1")]);
        assert!(error.starts_with("options of train: expected ") && error.contains("use --lr"), "{error}");
        let error = fails(&[("epochs", "many")]);
        assert!(error.contains("invalid value 'many' for '--epochs"), "{error}");
        let error = fails(&[("out", "x")]);
        assert!(
            error.starts_with("--out: expected an option of `wgoal train` that changes the result"),
            "{error}"
        );
        let error = fails(&[("lr", "0")]);
        assert!(error.starts_with("--lr: expected a finite number above 0, found 0"), "{error}");
        assert!(options("train").iter().any(|(name, _)| name == "objective"));
        assert!(options("baseline").iter().all(|(name, _)| name != "device"));
    }
}
