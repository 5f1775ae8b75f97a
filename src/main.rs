//! The command-line tool; see `wgoal --help`.

/// Prints a line on standard error. Unlike `eprintln!`, it does not panic if the reader has closed the pipe
/// (`2>&1 | head`).
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
