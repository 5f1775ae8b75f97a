//! `--checkpoint-every`, and what a run leaves that is killed or stopped within an epoch.

use super::place::*;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

/// A run of epochs of 48 steps, some of which carry a memory bank.
const RUN: &str = "train data --recipe goal --objective hinge --memory-bank 8 --bank-warmup 0 --ema 0.9 --batch 1 --lr 0.01 --embed 4 \
                   --epochs 3 --patience 0 --device cpu --no-baselines --no-report";

/// The run with another number of epochs.
fn with_epochs(epochs: usize) -> String {
    RUN.replace("--epochs 3", &format!("--epochs {epochs}"))
}

/// The files of a finished run that do not depend on the time.
fn files(place: &Place, run: &str) -> [Vec<u8>; 2] {
    ["best", "last"].map(|name| place.read(&format!("{run}/{name}.safetensors")))
}

/// The lines of a run without the times.
fn lines(place: &Place, run: &str) -> Vec<String> {
    let mut lines = place.metrics(run);
    lines.iter_mut().for_each(|line| drop(line.as_object_mut().unwrap().remove("seconds")));
    lines.iter().map(ToString::to_string).collect()
}

#[test]
fn a_run_that_is_killed_at_any_moment_goes_on_within_the_epoch() {
    let place = Place::new();
    place.ok(&format!("{RUN} --out whole"));
    let whole = (files(&place, "whole"), lines(&place, "whole"));
    let mut within = 0;
    for (k, first) in ["", "--checkpoint-every 7"].into_iter().enumerate() {
        // Killed again and again, a little later each time, until it ends.
        let (run, mut wait) = (format!("killed{k}"), Duration::from_millis(40));
        loop {
            let every = if first.is_empty() { "--checkpoint-every 1" } else { first };
            let command = match place.path(&run).join("config.json").exists() {
                true => format!("train --resume=auto {every} --no-baselines --no-report --out {run}"),
                false => format!("{RUN} --resume=auto {every} --out {run}"),
            };
            let mut child = place.start(&command, Stdio::null);
            let began = Instant::now();
            while began.elapsed() < wait && child.try_wait().unwrap().is_none() {
                thread::sleep(Duration::from_millis(2));
            }
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success());
                break;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            let last = place.path(&run).join("last.safetensors");
            if last.exists() {
                within += usize::from(wgoal::Checkpoint::load(last).unwrap().step() > 0);
            }
            wait += wait / 5;
        }
        assert!((files(&place, &run), lines(&place, &run)) == whole, "{run}");
    }
    assert!(within > 0, "some kills were within an epoch");
}

#[test]
fn a_checkpoint_within_an_epoch_asks_for_that_epoch() {
    let place = Place::new();
    // The process ends at its second epoch: its metrics cannot be written any more.
    let mut child =
        place.start(&format!("{} --checkpoint-every 5 --out run", with_epochs(100_000)), Stdio::null);
    let (last, began) = (place.path("run/last.safetensors"), Instant::now());
    let within = || wgoal::Checkpoint::load(&last).is_ok_and(|checkpoint| checkpoint.step() > 0);
    while !within() {
        assert!(began.elapsed() < HANGS && child.try_wait().unwrap().is_none());
        thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let checkpoint = wgoal::Checkpoint::load(&last).unwrap();
    // The kill may have come after the epoch.
    if checkpoint.step() > 0 {
        let (epochs, step) = (checkpoint.epoch(), checkpoint.step());
        assert!(step % 5 == 0, "{step}");
        let output = place.run(&format!("train --resume --epochs {epochs} --no-baselines --out run"));
        let next = epochs + 1;
        let expected = match epochs {
            0 => "error: --epochs: expected ".to_string(),
            _ => format!(
                "error: --epochs: expected at least {next}, because the run is within this epoch, found {epochs}; give this \
                 number, or more to continue"
            ),
        };
        assert_eq!(output.code, 1);
        assert!(output.stderr.lines().last().unwrap().starts_with(&expected), "{}", output.stderr);
        let output = place.run(&format!("train --resume --epochs {next} --no-baselines --out run"));
        assert_eq!(output.code, 0, "{}", output.stderr);
        let said = format!("resuming after step {step} in epoch {next} of {next}");
        assert!(output.stderr.lines().any(|line| line == said), "{}", output.stderr);
        place.ok(&format!("{} --out whole", with_epochs(next)));
        assert!(files(&place, "run") == files(&place, "whole"));
    }
}

/// Two hundred files per array, in a process that may open 64 files.
#[cfg(target_os = "linux")]
#[test]
fn two_hundred_files_are_read_within_a_low_limit_of_open_files() {
    const FILES: usize = 200;
    let place = Place::new();
    for name in ["one", "many"] {
        std::fs::create_dir(place.path(name)).unwrap();
    }
    for (array, width) in [("images", 6), ("texts", 5)] {
        let values: Vec<f32> =
            (0..3 * FILES * width).map(|i| ((i * i * 7 + width * i) % 1009) as f32 / 100.0 - 4.0).collect();
        let write = |path: String, values: &[f32]| {
            wgoal::data::write_matrix_npy(&place.path(&path), values.len() / width, width, values).unwrap();
        };
        write(format!("one/{array}.npy"), &values);
        for (k, part) in values.chunks(3 * width).enumerate() {
            write(format!("many/{array}-{k:03}.npy"), part);
        }
    }
    let options =
        "--recipe goal --embed 4 --epochs 2 --batch 32 --shuffle blocks --device cpu --no-baselines";
    place.ok(&format!("train one {options} --out whole"));
    let limited =
        format!("ulimit -n 64; exec {} train many {options} --out run", env!("CARGO_BIN_EXE_wgoal"));
    let mut shell = assert_cmd::Command::new("sh");
    let output = shell.args(["-c", &limited]).current_dir(place.path("")).timeout(HANGS).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let weights = |run: &str| {
        let checkpoint = wgoal::Checkpoint::load(place.path(run).join("last.safetensors")).unwrap();
        let head = checkpoint.head();
        head.parameters().into_iter().map(|(name, _)| head.parameter(&name).unwrap()).collect::<Vec<_>>()
    };
    assert!(weights("run") == weights("whole"));
}

/// The example for Slurm, with stand-ins for its commands: a run that SIGTERM stops goes into the queue again, and goes on.
#[cfg(target_os = "linux")]
#[test]
fn the_example_for_slurm_puts_a_stopped_run_into_the_queue_again() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    std::fs::create_dir(place.path("bin")).unwrap();
    let script = |name: &str, text: &str| {
        let path = place.path("bin").join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    script("srun", "while [ \"${1#--}\" != \"$1\" ]; do shift; done; echo $$ > pid; exec \"$@\"");
    script("scontrol", "echo \"$@\" >> queue");
    let job = |more: &str| {
        let mut command = std::process::Command::new("bash");
        let sbatch = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/slurm/train.sbatch");
        let path = format!("{}:{}", place.path("bin").display(), std::env::var("PATH").unwrap());
        command.arg(sbatch).args(["data", "run"]).args(more.split_whitespace()).current_dir(place.path(""));
        command.env("PATH", path).env("WGOAL", env!("CARGO_BIN_EXE_wgoal")).env("SLURM_JOB_ID", "417");
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let options = with_epochs(5000);
    let mut first = job(options.strip_prefix("train data ").unwrap()).spawn().unwrap();
    let began = Instant::now();
    while !place.path("run/last.safetensors").exists() {
        assert!(began.elapsed() < HANGS && first.try_wait().unwrap().is_none());
        thread::sleep(Duration::from_millis(5));
    }
    let process = String::from_utf8(place.read("pid")).unwrap();
    let kill = std::process::Command::new("kill").args(["-TERM", process.trim()]).status();
    assert!(kill.unwrap().success());
    assert!(first.wait().unwrap().success());
    assert_eq!(place.read("queue"), b"requeue 417\n");
    let checkpoint = wgoal::Checkpoint::load(place.path("run/last.safetensors")).unwrap();
    // The next time, the run goes on with its own options. It has reached its last epoch when these are fewer.
    let next = checkpoint.epoch() + 1;
    place.ok(&format!("train --resume --epochs {next} --no-baselines --no-report --out run"));
    place.ok(&format!("{} --out whole", with_epochs(next)));
    assert!(files(&place, "run") == files(&place, "whole"));
    assert!(job("").status().unwrap().success(), "a run that has ended prints its result");
    assert_eq!(place.read("queue"), b"requeue 417\n");
    std::fs::remove_dir_all(place.path("data")).unwrap();
    assert_eq!(job("").status().unwrap().code(), Some(1), "an error ends the job");
}
