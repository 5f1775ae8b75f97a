//! The command-line tool; see `wgoal --help`.

/// A line on standard error. A reader that has gone (`2>&1 | head`) must not end a run, as `eprintln!` would.
macro_rules! note {
    ($($line:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($line)*);
    }};
}

mod cli;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    // The GL interface asks for a display, and libwayland says aloud that this is not set. Nothing here shows anything.
    #[cfg(target_os = "linux")]
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // SAFETY: there is one thread yet.
        unsafe { std::env::set_var("XDG_RUNTIME_DIR", "/nonexistent") };
    }
    match cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note!("error: {error}");
            if let Some(excerpt) = error.excerpt() {
                note!("{excerpt}");
            }
            ExitCode::FAILURE
        }
    }
}
