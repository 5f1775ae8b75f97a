//! The command-line tool; see `wgoal --help`.

/// Prints a line on standard error. Unlike `eprintln!`, it does not panic if the reader has closed the pipe
/// (`2>&1 | head`).
macro_rules! always {
    ($($line:tt)*) => {{
        $crate::cli::print_note(&$crate::cli::Safe(format!($($line)*)).to_string());
    }};
}

/// Prints a line on standard error, unless --quiet is given.
macro_rules! note {
    ($($line:tt)*) => {{
        if !$crate::cli::is_quiet() {
            always!($($line)*);
        }
    }};
}

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::parse().and_then(cli::Cli::run) {
        Ok(code) => code,
        Err(error) => {
            always!("error: {error}");
            if let Some(excerpt) = error.excerpt() {
                always!("{excerpt}");
            }
            ExitCode::FAILURE
        }
    }
}
