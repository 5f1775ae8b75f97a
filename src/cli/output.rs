//! What is printed, and where files of results may go.

use serde::Serialize;
use std::fmt::{self, Display, Write as _};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use wgoal::io::{Obstacle, is_standard_output, same_file};
use wgoal::{Error, ErrorKind, Plain, Result, is_unsafe};

/// Whether standard output holds a file of results: then it holds nothing else.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Lines without what would do something to a terminal: names of files and devices come from outside.
pub struct Safe<T>(pub T);

impl<T: Display> Display for Safe<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.to_string().chars().try_for_each(|c| match c {
            '\n' => f.write_char(c),
            c if is_unsafe(c) => write!(f, "{}", c.escape_unicode()),
            c => f.write_char(c),
        })
    }
}

/// A path as a part of a line.
pub fn shown(path: &Path) -> Plain<std::path::Display<'_>> {
    Plain(path.display())
}

/// A line on standard output.
pub fn say(line: impl Display) -> Result<()> {
    print(&Safe(line))
}

/// One line of JSON on standard output.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    let mut line = String::new();
    for c in to_json(value)?.chars() {
        match is_unsafe(c) {
            // Such a character can only be in a string, where it has this form too.
            true => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                let _ = write!(line, "\\u{unit:04x}");
            }),
            false => line.push(c),
        }
    }
    print(&line)
}

/// That the reader has gone (`| head`) is no concern of ours; that the disk is full is.
fn print(line: &impl Display) -> Result<()> {
    if TAKEN.load(Ordering::Relaxed) {
        note!("{line}");
        return Ok(());
    }
    let mut out = std::io::stdout();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            let advice = "free space where it goes, or send it elsewhere";
            Err(Obstacle::from(e).error(ErrorKind::Config, "standard output", "to be written", advice))
        }
        _ => Ok(()),
    }
}

pub fn to_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|e| Error::new(ErrorKind::Config, "JSON output", "numbers", e, "report this as a bug"))
}

/// Makes a folder for results, with those above it.
pub fn make_folder(path: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(path).map_err(|e| {
        let advice = "choose another --out, or check its rights";
        Obstacle::from(e).error(ErrorKind::Config, path.display(), "a folder that can be made", advice)
    })?;
    Ok(path.to_path_buf())
}

/// Looks, before anything is computed, whether a file of results would take the place of one that is read.
pub fn refuse_overwriting(option: &str, out: &Path, inputs: impl IntoIterator<Item = PathBuf>) -> Result<()> {
    if let Some(input) = inputs.into_iter().find(|input| same_file(out, input)) {
        let found = match input == out {
            true => out.display().to_string(),
            false => format!("{}, which is {}", out.display(), input.display()),
        };
        let expected = "another file than those that are read, which would be overwritten";
        return Err(Error::new(ErrorKind::Config, option, expected, found, "give another file"));
    }
    if is_standard_output(out) {
        TAKEN.store(true, Ordering::Relaxed);
    }
    Ok(())
}
