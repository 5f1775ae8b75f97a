//! The command-line tool; see `wgoal --help`.

fn main() -> std::process::ExitCode {
    wgoal::cli::main(std::env::args_os().collect()).into()
}
