//! Writes a TOML file with every option of a command.

use super::{is_switch, key};
use clap::{Arg, Command};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Characters in a line of help.
const WIDTH: usize = 100;

/// A file with every option of the command `name`. Options in `values` are set; the others stand behind a `#`, with their
/// defaults.
pub fn render(root: &Command, name: &str, head: &str, values: &BTreeMap<String, Vec<String>>) -> String {
    let mut root = root.clone();
    root.build();
    let Some(command) = root.find_subcommand(name) else { return head.to_string() };
    let arguments = || command.get_arguments().filter(|arg| !arg.is_hide_set() && key(arg).is_some());
    let mut headings: Vec<&str> = Vec::new();
    for heading in arguments().filter_map(Arg::get_help_heading) {
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    let mut text = head.to_string();
    for heading in std::iter::once(None).chain(headings.into_iter().map(Some)) {
        if let Some(heading) = heading {
            let _ = write!(text, "\n# ---- {heading} ----\n");
        }
        for arg in arguments().filter(|arg| arg.get_help_heading() == heading) {
            text.push('\n');
            let help =
                arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default();
            wrap(&help).for_each(|line| text += &(format!("# {line}").trim_end().to_string() + "\n"));
            let choices = choices(arg);
            wrap(&choices).filter(|line| !line.is_empty()).for_each(|line| text += &format!("# {line}\n"));
            let name = key(arg).unwrap_or_default();
            text += &match values.get(&name) {
                Some(values) => format!("{name} = {}\n", value(arg, values)),
                None => format!("#{name} = {}\n", by_default(command, arg)),
            };
        }
    }
    text
}

/// The possible values of an option with their help, if it lists them.
fn choices(arg: &Arg) -> String {
    if is_switch(arg) || !arg.get_action().takes_values() {
        return String::new();
    }
    let values = arg.get_possible_values();
    let each = values.iter().filter(|value| !value.is_hide_set()).map(|value| match value.get_help() {
        Some(help) => format!("- {}: {help}", value.get_name()),
        None => format!("- {}", value.get_name()),
    });
    each.collect::<Vec<_>>().join("\n")
}

/// The default of an option as a value in the file, or what stands for a value if it has none.
fn by_default(command: &Command, arg: &Arg) -> String {
    if !arg.get_action().takes_values() {
        return "false".into();
    }
    let shown = match arg.get_default_values() {
        [] => arg
            .get_help()
            .map(ToString::to_string)
            .and_then(|help| Some(help.split_once("[default: ")?.1.split_once(']')?.0.to_string())),
        values => Some(values.iter().map(|value| value.to_string_lossy()).collect::<Vec<_>>().join(",")),
    };
    let several = |text: &str| match arg.get_value_delimiter() {
        Some(delimiter) => text.split(delimiter).map(String::from).collect(),
        None => vec![text.to_string()],
    };
    // A default may belong to some objectives or optimisers, as in `0.9 for sgd`.
    let shown = shown.map(|shown| shown.split(" for ").next().unwrap_or_default().to_string());
    match shown.filter(|shown| takes(command, arg, shown)) {
        Some(shown) => value(arg, &several(&shown)),
        None => {
            let names = arg.get_value_names().and_then(|names| names.first());
            value(arg, &[names.map_or("VALUE", |name| name.as_str()).to_string()])
        }
    }
}

/// Whether what the help shows as the default is a value that the option takes, and not words about it.
fn takes(command: &Command, arg: &Arg, shown: &str) -> bool {
    let listed = arg.get_possible_values().iter().any(|value| value.get_name() == shown);
    if shown.contains(char::is_whitespace) || (shown == "none" && !listed) {
        return false;
    }
    let token = match arg.get_long() {
        Some(long) => format!("--{long}={shown}"),
        None => shown.to_string(),
    };
    let parsed = command.clone().no_binary_name(true).ignore_errors(false).try_get_matches_from([token]);
    parsed.err().is_none_or(|error| error.kind() == clap::error::ErrorKind::MissingRequiredArgument)
}

/// Values as TOML: a list if the option takes several.
fn value(arg: &Arg, values: &[String]) -> String {
    let one = |text: &String| match text.as_str() {
        "on" if is_switch(arg) => "true".to_string(),
        "off" if is_switch(arg) => "false".to_string(),
        "true" | "false" if !arg.get_action().takes_values() => text.clone(),
        number if is_number(number) => number.to_string(),
        other => string(other),
    };
    let several = arg.get_value_delimiter().is_some() || matches!(arg.get_action(), clap::ArgAction::Append);
    match several {
        true => format!("[{}]", values.iter().map(one).collect::<Vec<_>>().join(", ")),
        false => values.first().map(one).unwrap_or_default(),
    }
}

/// Whether a text is a decimal number in TOML as well.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    digits.starts_with(|c: char| c.is_ascii_digit())
        && text.parse::<f64>().is_ok()
        && toml::de::DeValue::parse(text).is_ok_and(|value| match value.get_ref() {
            toml::de::DeValue::Integer(number) => text.parse::<i64>().is_ok() && number.radix() == 10,
            other => other.is_float(),
        })
}

/// A text as a TOML string.
fn string(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if wgoal::is_unsafe(c) => {
                let _ = write!(quoted, "\\U{:08x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

/// The lines of a text, broken at spaces.
fn wrap(text: &str) -> impl Iterator<Item = String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > WIDTH {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line += word;
        }
        lines.push(line);
    }
    lines.into_iter()
}
