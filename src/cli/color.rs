//! Colours on standard error: of errors, warnings, and the star of the best epoch.

use anstream::ColorChoice;
use clap::ValueEnum;
use clap::builder::styling::{AnsiColor, Style};
use std::ffi::OsString;
use std::io::Write;

/// When to use colours.
#[derive(Clone, Copy, ValueEnum)]
pub enum Color {
    /// In a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// Applies the `--color` of these arguments. Errors in the arguments are shown as it says, so it is read first.
pub fn apply(arguments: &[OsString]) {
    let mut arguments =
        arguments.iter().skip(1).map_while(|argument| argument.to_str().filter(|text| *text != "--"));
    let mut choice = ColorChoice::Auto;
    while let Some(argument) = arguments.next() {
        let value = match argument.strip_prefix("--color") {
            Some("") => arguments.next(),
            Some(value) => value.strip_prefix('='),
            None => None,
        };
        choice = match value {
            Some("always") => ColorChoice::Always,
            Some("never") => ColorChoice::Never,
            Some("auto") => ColorChoice::Auto,
            _ => choice,
        };
    }
    choice.write_global();
}

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const BEST: Style = AnsiColor::Green.on_default().bold();

/// Prints a line on standard error. A reader that has closed the pipe is no error.
pub fn print(line: &str) {
    let mut out = anstream::stderr().lock();
    let start =
        [("error:", ERROR), ("warning:", WARNING)].into_iter().find(|(start, _)| line.starts_with(start));
    let _ = match (start, line.strip_suffix(" *")) {
        (Some((start, style)), _) => writeln!(out, "{style}{start}{style:#}{}", &line[start.len()..]),
        (None, Some(rest)) if line.starts_with("epoch ") => writeln!(out, "{rest} {BEST}*{BEST:#}"),
        _ => writeln!(out, "{line}"),
    };
}
