//! Printing, and checks of where results are written.

use serde::Serialize;
use std::fmt::{self, Display, Write as _};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
pub use wgoal::io::quoted;
use wgoal::io::{Obstacle, is_standard_output, same_file};
use wgoal::{Error, ErrorKind, Plain, Result, is_unsafe};

/// Whether a file of results is written to standard output. Then nothing else is.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Whether only results and errors are printed.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Whether nothing is printed.
static SILENT: AtomicBool = AtomicBool::new(false);

/// From now on, prints nothing, or again everything.
pub fn set_silent(silent: bool) {
    SILENT.store(silent, Ordering::Relaxed);
}

/// Whether nothing is printed.
pub fn is_silent() -> bool {
    SILENT.load(Ordering::Relaxed)
}

/// From now on, prints only results and errors.
pub fn set_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Whether only results and errors are printed.
pub fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Escapes characters that could control a terminal. Names of files and devices may contain them.
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

/// A path as part of a line.
pub fn shown(path: &Path) -> Plain<std::path::Display<'_>> {
    Plain(path.display())
}

/// Prints a line on standard output.
pub fn say(line: impl Display) -> Result<()> {
    print(&Safe(line))
}

/// Prints one line of JSON on standard output.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    let mut line = String::new();
    for c in to_json(value)?.chars() {
        match is_unsafe(c) {
            // Such a character only occurs in strings, where JSON can escape it.
            true => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                let _ = write!(line, "\\u{unit:04x}");
            }),
            false => line.push(c),
        }
    }
    print(&line)
}

/// Prints a text as it is on standard output. It must be one of wgoal's own.
pub fn say_bytes(text: &[u8]) -> Result<()> {
    written(std::io::stdout().write_all(text))
}

/// Ignores a closed pipe (`| head`), but not a full disk.
fn print(line: &impl Display) -> Result<()> {
    if is_silent() {
        return Ok(());
    }
    if TAKEN.load(Ordering::Relaxed) {
        always!("{line}");
        return Ok(());
    }
    written(writeln!(std::io::stdout(), "{line}"))
}

/// Flushes standard output after something was written there.
fn written(result: std::io::Result<()>) -> Result<()> {
    match result.and_then(|()| std::io::stdout().flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            let advice = "free space there, or redirect it elsewhere";
            Err(Obstacle::from(e).error(ErrorKind::Config, "standard output", "to be written", advice))
        }
        _ => Ok(()),
    }
}

pub fn to_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|e| Error::new(ErrorKind::Config, "JSON output", "numbers", e, "report this as a bug"))
}

/// A duration, rounded for reading.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// Makes a folder for results, and its parent folders.
pub fn make_folder(path: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(path).map_err(|e| {
        let advice = "choose another --out, or check its permissions";
        Obstacle::from(e).error(ErrorKind::Config, path.display(), "a folder that can be made", advice)
    })?;
    Ok(path.to_path_buf())
}

/// Refuses, before anything is computed, to overwrite a file that the command reads.
pub fn refuse_overwriting(option: &str, out: &Path, inputs: impl IntoIterator<Item = PathBuf>) -> Result<()> {
    if let Some(input) = inputs.into_iter().find(|input| same_file(out, input)) {
        let found = match input == out {
            true => out.display().to_string(),
            false => format!("{}, which is {}", out.display(), input.display()),
        };
        let expected = "a file that this command does not read, because it would be overwritten";
        return Err(Error::new(ErrorKind::Config, option, expected, found, "give another file"));
    }
    if is_standard_output(out) {
        TAKEN.store(true, Ordering::Relaxed);
    }
    Ok(())
}
