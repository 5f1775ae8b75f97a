//! Reads the file of `--config`, and adds its options to the arguments.

use super::super::misspelt;
use super::super::sweep::is_dataset;
use super::{is_switch, key};
use clap::error::{ContextKind, ContextValue, ErrorKind as ClapKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use std::error::Error as _;
use std::ffi::OsString;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};
use wgoal::io::{SMALL, read_text};
use wgoal::{Error, ErrorKind, Result};

/// The arguments with the options of the file of `--config`, which stand before the others. An option of the command
/// line replaces that of the file.
///
/// # Errors
/// A file that cannot be read or is not TOML; an unknown option, or a value that its option does not take. The message
/// names the line.
pub fn expand(root: &Command, arguments: Vec<OsString>) -> Result<Vec<OsString>> {
    let given = |argument: &OsString| argument.to_str().is_some_and(|text| text.starts_with("--config"));
    if !arguments.iter().any(given) {
        return Ok(arguments);
    }
    let mut root = root.clone();
    root.build();
    // What is wrong with the arguments themselves is reported when they are parsed as a whole.
    let Ok(matches) = root.clone().ignore_errors(true).try_get_matches_from(&arguments) else {
        return Ok(arguments);
    };
    let Some((name, matches)) = matches.subcommand() else { return Ok(arguments) };
    let path = matches.try_get_one::<PathBuf>("config").ok().flatten();
    let (Some(path), Some(command)) = (path, root.find_subcommand(name)) else { return Ok(arguments) };
    let text = read_text(path, SMALL).map_err(|obstacle| {
        let advice = format!("check the path; `wgoal config {name}` prints a file with all options");
        obstacle.error(ErrorKind::Config, path.display(), "a TOML file with options", advice)
    })?;
    let added = File { path, text: &text, command }.arguments(matches)?;
    let at =
        arguments.iter().skip(1).position(|argument| argument == name).map_or(arguments.len(), |at| at + 2);
    let (before, after) = arguments.split_at(at);
    Ok([before, &added, after].concat())
}

/// A configuration file of a command.
struct File<'a> {
    path: &'a Path,
    text: &'a str,
    command: &'a Command,
}

impl File<'_> {
    /// An error about a place in the file.
    fn fault(&self, at: usize, expected: impl Display, found: impl Display, advice: impl Display) -> Error {
        let line = self.text[..at.min(self.text.len())].matches('\n').count() + 1;
        let thing = format!("{} line {line}", self.path.display());
        Error::new(ErrorKind::Config, thing, expected, found, advice)
    }

    /// The options as arguments, without those that `given` has from the command line.
    fn arguments(&self, given: &ArgMatches) -> Result<Vec<OsString>> {
        let table = DeTable::parse(self.text).map_err(|e| {
            let at = e.span().map_or(0, |span| span.start);
            self.fault(at, "TOML, one NAME = VALUE per line", e.message(), "correct the line")
        })?;
        let mut entries: Vec<_> = table.get_ref().iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        let mut arguments = Vec::new();
        for (name, value) in entries {
            let (at, value_at) = (name.span().start, value.span().start);
            let arg = self.arg(name.get_ref(), at)?;
            let own = self.tokens(arg, value.get_ref(), value_at)?;
            self.check(arg, &own, value_at)?;
            // The list of --grid also takes a dataset that follows it.
            let grid = given.try_get_many::<String>("grid").ok().flatten();
            let swallowed = || grid.is_some_and(|mut grid| grid.any(|text| is_dataset(text)));
            if given.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine)
                || (arg.is_positional() && swallowed())
            {
                continue;
            }
            match arg.is_positional() {
                // An option that takes several values would take it as well.
                true => arguments.splice(0..0, own).for_each(drop),
                false => arguments.extend(own),
            }
        }
        Ok(arguments)
    }

    /// The argument that a name in the file means.
    fn arg(&self, name: &str, at: usize) -> Result<&Arg> {
        let written = name.replace('_', "-");
        let found = self.command.get_arguments().find(|arg| key(arg).is_some_and(|key| key == written));
        found.ok_or_else(|| {
            let command = self.command.get_bin_name().unwrap_or_default();
            let advice = match misspelt::option(self.command, name, None) {
                _ if super::LEFT_OUT.contains(&name) => "leave it out".to_string(),
                Some(suggestion) if DATASET.contains(&name) => {
                    drop(suggestion);
                    "use dataset".into()
                }
                Some(suggestion) => suggestion.advice.replace("use --", "use "),
                None => {
                    format!("leave it out; `{}` lists all options", command.replace("wgoal", "wgoal config"))
                }
            };
            self.fault(at, format!("an option of `{command}`"), name, advice)
        })
    }

    /// A value of the file as arguments.
    fn tokens(&self, arg: &Arg, value: &DeValue, at: usize) -> Result<Vec<OsString>> {
        let name = key(arg).unwrap_or_default();
        let takes_values = arg.get_action().takes_values();
        let scalar = |value: &DeValue| match value {
            DeValue::String(text) => Some(text.to_string()),
            DeValue::Integer(_) | DeValue::Float(_) if is_switch(arg) => None,
            DeValue::Integer(number) if number.radix() == 10 => {
                Some(number.as_str().trim_start_matches('+').into())
            }
            DeValue::Float(number) => Some(number.as_str().trim_start_matches('+').into()),
            DeValue::Boolean(on) if is_switch(arg) => Some(if *on { "on" } else { "off" }.into()),
            _ => None,
        };
        let token = |text: String| match arg.is_positional() {
            // A leading dash would make it an option.
            true if text.starts_with('-') => format!("./{text}").into(),
            true => text.into(),
            false => OsString::from(format!("--{name}={text}")),
        };
        let refuse = |expected: String, found: &DeValue| {
            let found = match found {
                DeValue::Table(_) => "a table".into(),
                other => format!("{} {}", article(other.type_str()), other.type_str()),
            };
            self.fault(at, expected, found, format!("write {}", example(arg)))
        };
        match value {
            DeValue::Boolean(on) if !takes_values => {
                Ok(if *on { vec![format!("--{name}").into()] } else { Vec::new() })
            }
            _ if !takes_values => Err(refuse(format!("true or false for {name}"), value)),
            DeValue::Array(values) => {
                if !takes_several(arg) {
                    return Err(refuse(format!("one value for {name}"), value));
                }
                let each = values.iter().map(|value| {
                    let value = value.get_ref();
                    scalar(value).ok_or_else(|| refuse(format!("a list of values for {name}"), value))
                });
                let each = each.collect::<Result<Vec<_>>>()?;
                match arg.get_value_delimiter() {
                    _ if each.is_empty() => Ok(Vec::new()),
                    Some(delimiter) => Ok(vec![token(each.join(&delimiter.to_string()))]),
                    None => Ok(each.into_iter().map(token).collect()),
                }
            }
            value => match scalar(value) {
                Some(text) => Ok(vec![token(text)]),
                None => Err(refuse(format!("a value of --{name}"), value)),
            },
        }
    }

    /// Checks that an option takes its value.
    fn check(&self, arg: &Arg, own: &[OsString], at: usize) -> Result<()> {
        let command = self.command.clone().no_binary_name(true);
        let Err(error) = command.try_get_matches_from(own) else { return Ok(()) };
        let wrong = [ClapKind::InvalidValue, ClapKind::ValueValidation, ClapKind::WrongNumberOfValues];
        if !wrong.contains(&error.kind()) && error.kind() != ClapKind::TooManyValues {
            return Ok(());
        }
        let name = key(arg).unwrap_or_default();
        let text = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => Some(text.clone()),
            Some(ContextValue::Strings(texts)) => Some(texts.join(", ")),
            _ => None,
        };
        let found = text(ContextKind::InvalidValue).unwrap_or_default();
        let expected = match text(ContextKind::ValidValue).filter(|valid| !valid.is_empty()) {
            Some(valid) => format!("one of {valid} for {name}"),
            None => format!("a value of --{name}"),
        };
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        Err(self.fault(at, expected, format!("'{found}'{cause}"), format!("change {name}, or leave it out")))
    }
}

/// Names of the dataset in files for other tools.
const DATASET: [&str; 4] = ["data", "data-dir", "data_dir", "features"];

/// Whether an argument takes more than one value.
fn takes_several(arg: &Arg) -> bool {
    arg.get_value_delimiter().is_some() || matches!(arg.get_action(), clap::ArgAction::Append)
}

/// An example of a line for an argument.
fn example(arg: &Arg) -> String {
    let name = key(arg).unwrap_or_default();
    if !arg.get_action().takes_values() || is_switch(arg) {
        return format!("{name} = true");
    }
    let value = arg.get_value_names().and_then(|names| names.first()).map_or("VALUE", |name| name.as_str());
    if takes_several(arg) { format!("{name} = [\"{value}\"]") } else { format!("{name} = \"{value}\"") }
}

fn article(noun: &str) -> &'static str {
    if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}
