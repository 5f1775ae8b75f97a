//! The command-line tool; see `wgoal --help`.

/// A line on standard error. A reader that has gone (`2>&1 | head`) must not end a run, as `eprintln!` would.
macro_rules! note {
    ($($line:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "{}", $crate::cli::Safe(format!($($line)*)));
    }};
}

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::parse().run() {
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
