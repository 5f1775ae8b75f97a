//! Commands under every limit that a system sets for a process: memory, open files, threads, the size of files, the
//! stack. None ends by a signal, panics or hangs. An error has one line, and nothing is lost by it.
//!
//! `WGOAL_LIMITS` is the number of values that are tried per limit; `scripts/faults` sets it. The short form tries three.

use crate::faults::{differences, files, untimed};
use crate::place::*;
use libtest_mimic::{Completion, Failed, Trial};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The option of `ulimit`, and the values between which it is tried. Below the first a program cannot be loaded.
const LIMITS: [(&str, f64, f64); 6] = [
    // Kilobytes of addresses.
    ("-v", 68_000.0, 300_000.0),
    // Kilobytes of data.
    ("-d", 9_400.0, 200_000.0),
    // Open files.
    ("-n", 4.0, 24.0),
    // Processes and threads of the user.
    ("-u", 1.0, 6.0),
    // Blocks of a file.
    ("-f", 1.0, 64.0),
    // Kilobytes of the stack.
    ("-s", 64.0, 1024.0),
];

/// A user who has no other processes. The limit of processes does not hold for root.
const USER: u32 = 54_321;

/// The values of a limit, from the smallest to the largest.
fn values(from: f64, to: f64) -> Vec<u64> {
    let tried =
        std::env::var("WGOAL_LIMITS").map_or(3, |text| text.parse().expect("WGOAL_LIMITS is a number"));
    let steps = (tried - 1).max(1) as f64;
    let mut values: Vec<u64> =
        (0..tried).map(|k| (from * (to / from).powf(f64::from(k) / steps)).round() as u64).collect();
    values.dedup();
    values
}

/// A folder with a dataset, and the program, in which another user may write.
struct Limited {
    place: Place,
    program: PathBuf,
    is_root: bool,
}

impl Limited {
    fn new() -> Self {
        let place = Place::new();
        let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
        let mut program = PathBuf::from(env!("CARGO_BIN_EXE_wgoal"));
        if is_root {
            let own = place.path("wgoal");
            fs::copy(&program, &own).unwrap();
            program = own;
            give(&place.path(""));
        }
        Self { place, program, is_root }
    }

    /// Runs a command under a limit, or without one.
    fn run(&self, limit: &str, args: &str) -> Output {
        let script = format!("{limit}exec {} {args}", self.program.display());
        let mut command = Command::new("sh");
        command.args(["-c", &script]).current_dir(self.place.path(""));
        command.env("RAYON_NUM_THREADS", "2").env("RUST_BACKTRACE", "1").env("HOME", self.place.path(""));
        if self.is_root {
            command.uid(USER).gid(USER);
        }
        let output = assert_cmd::Command::from_std(command).timeout(HANGS).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        Output { code: output.status.code().unwrap_or(-1), stdout, stderr }
    }
}

/// Gives a folder and all in it to the user.
fn give(path: &Path) {
    chown(path, Some(USER), Some(USER)).unwrap();
    if path.is_dir() {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        fs::read_dir(path).unwrap().for_each(|entry| give(&entry.unwrap().path()));
    }
}

/// Numbers that a command prints as JSON, without times and devices.
fn printed(output: &Output) -> Option<String> {
    let mut value = serde_json::from_str(&output.stdout).ok()?;
    untimed(&mut value);
    Some(value.to_string())
}

/// Whether the program itself was refused by the system, before its first line: nothing of wgoal has run.
fn is_not_loaded(output: &Output) -> bool {
    let loader = output.code == 127 && output.stderr.contains("error while loading shared libraries");
    loader
        || (output.code == 126)
        || (output.code == -1 && output.stdout.is_empty() && output.stderr.is_empty())
}

/// What is wrong with the end of a command under a limit.
fn fault(output: &Output) -> Option<&'static str> {
    let errors = output.stderr.lines().filter(|line| line.starts_with("error: ")).count();
    let last = output.stderr.lines().last().unwrap_or_default();
    // Rust itself panics where a thread gets a stack and no other memory. The caller of the thread then has an error.
    let is_rust = output.stderr.contains("failed to allocate an alternative stack");
    match output.code {
        1 if is_rust => None,
        _ if output.stderr.contains("panicked") => Some("a panic"),
        0 if errors == 0 => None,
        1 if errors == 1 && last.starts_with("error: ") => None,
        1 => Some("an error that is not one line at the end"),
        _ => Some("neither a result nor an error"),
    }
}

/// Tries all limits on a command that writes into `out`, or prints numbers. Given again without a limit, its files and its
/// numbers are those of a command that had none.
fn try_all(prepare: &str, args: &str, out: &str) -> Result<Completion, Failed> {
    let limited = Limited::new();
    if !prepare.is_empty() {
        assert_eq!(limited.run("", prepare).code, 0);
    }
    let whole = limited.run("", args);
    assert_eq!(whole.code, 0, "{args}\n{}", whole.stderr);
    let expected = (files(&limited.place, out), printed(&whole));
    let (mut wrong, mut errors, mut results, mut unloaded) = (Vec::new(), 0, 0, 0);
    for (option, from, to) in LIMITS {
        for value in values(from, to) {
            // Some shells name the limit of processes otherwise.
            let other = if option == "-u" { format!("|| ulimit -p {value}; ") } else { String::new() };
            let limit = format!("ulimit {option} {value} 2>/dev/null {other} && ").replace(";  &&", ";");
            let _ = fs::remove_dir_all(limited.place.path(out));
            let output = limited.run(&limit, args);
            if is_not_loaded(&output) && is_not_loaded(&limited.run(&limit, "--version")) {
                unloaded += 1;
                continue;
            }
            if let Some(fault) = fault(&output) {
                wrong.push(format!("{limit}{fault}, exit code {}\n{}", output.code, output.stderr));
            }
            *if output.code == 0 { &mut results } else { &mut errors } += 1;
            let again = limited.run("", args);
            let found = (files(&limited.place, out), printed(&again));
            if again.code != 0 || found != expected {
                let differ = differences(&expected.0, &found.0);
                wrong.push(format!("{limit}again {}, differ {differ:?}\n{}", again.code, again.stderr));
            }
        }
    }
    println!(
        "{errors} errors and {results} results under limits, {unloaded} times not loaded, in wgoal {args}"
    );
    assert!(wrong.is_empty(), "wgoal {args}\n{}", wrong.join("\n"));
    assert!(
        errors > 2 && results > 2 && unloaded < errors + results,
        "the limits are not those of this program"
    );
    Ok(Completion::Completed)
}

fn train() -> Result<Completion, Failed> {
    let args = "train data --recipe goal --epochs 2 --batch 16 --embed 4 --device cpu --checkpoint-every 1 --resume=auto \
                --out run";
    try_all("", args, "run")
}

fn sweep() -> Result<Completion, Failed> {
    let args = "sweep data --objectives con:con,hinge --seeds 0 --epochs 1 --batch 16 --embed 4 --device cpu \
                --out sweep";
    try_all("", args, "sweep")
}

const RUN: &str =
    "train data --recipe goal --epochs 2 --batch 16 --embed 4 --device cpu --no-baselines --out run";

fn embed() -> Result<Completion, Failed> {
    try_all(RUN, "embed run data --device cpu --out vectors", "vectors")
}

fn eval() -> Result<Completion, Failed> {
    try_all(RUN, "eval run data --device cpu --json", "none")
}

fn baseline() -> Result<Completion, Failed> {
    try_all("", "baseline cca data --embed 4 --device cpu --out cca", "cca")
}

pub fn tests() -> Vec<Trial> {
    vec![
        Trial::ignorable_test("train_survives_limits", train),
        Trial::ignorable_test("sweep_survives_limits", sweep),
        Trial::ignorable_test("embed_survives_limits", embed),
        Trial::ignorable_test("eval_survives_limits", eval),
        Trial::ignorable_test("baseline_survives_limits", baseline),
    ]
}
