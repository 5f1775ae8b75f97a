//! The command-line tool; see `wgoal --help`.

use std::process::ExitCode;

/// A failed allocation is an error of one line, not an abort.
#[global_allocator]
static ALLOCATOR: wgoal::io::Allocator = wgoal::io::Allocator;

/// The stack of the thread that runs the command, in bytes. It is that of the first thread where nothing limits it.
const STACK: usize = 8 << 20;

fn main() -> ExitCode {
    let run = || ExitCode::from(wgoal::cli::main(std::env::args_os().collect()));
    // `ulimit -s` limits the stack of the first thread alone. A system that allows no thread may allow that one.
    match std::thread::Builder::new().name("main".into()).stack_size(STACK).spawn(run) {
        Ok(thread) => thread.join().unwrap_or(ExitCode::from(101)),
        Err(_) => run(),
    }
}
