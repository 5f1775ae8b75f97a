//! `mpirun -n R wgoal train`: the same bits on any number of processes, and jobs that end with one message.
//! Needs the feature `mpi` and an MPI library; `scripts/mpi` installs it and runs this.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

const WGOAL: &str = env!("CARGO_BIN_EXE_wgoal");

/// `mpirun` with so many processes, on any number of cores and as any user.
fn job(size: usize, arguments: &str) -> Command {
    let mut command = Command::new("mpirun");
    command.args(["--oversubscribe", "--bind-to", "none", "-n"]).arg(size.to_string()).arg(WGOAL);
    command.args(arguments.split(' '));
    for name in ["OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] {
        command.env(name, "1");
    }
    // One thread each: the processes share few cores, and threads change no bits.
    command.env("RAYON_NUM_THREADS", "1");
    command
}

/// [`job`] of a command that writes into a folder.
fn mpirun(size: usize, arguments: &str, out: &Path) -> Command {
    let mut command = job(size, arguments);
    command.arg("--out").arg(out);
    command
}

fn finished(mut command: Command) -> Output {
    let output = command.output().expect("mpirun, which scripts/mpi installs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    output
}

/// Training on the example without what is of no use here.
fn train(more: &str) -> String {
    format!(
        "train data/clipart-mini --recipe goal --embed 8 --epochs 2 --no-baselines --no-report --device cpu {more}"
    )
}

fn head(run: &Path) -> Vec<u8> {
    fs::read(run.join("last.safetensors")).unwrap()
}

/// The lines that say what went wrong.
fn errors(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    text.lines().filter(|line| line.starts_with("error:")).map(String::from).collect()
}

#[test]
fn any_number_of_processes_trains_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    for (case, options) in [
        "--objective con:con",
        "--objective cir:sig-ms --dropout 0.2",
        "--objective infonce --temperature 0.1",
        "--objective siglip",
        "--objective hinge --memory-bank 384 --ema 0.9",
    ]
    .into_iter()
    .enumerate()
    {
        let run = |name: &str| folder.path().join(format!("{case}-{name}"));
        let alone = run("alone");
        let mut command = Command::new(WGOAL);
        command.args(train(options).split(' ')).args(["--slices", "8", "--out"]).arg(&alone);
        finished(command);
        let sizes: &[usize] = if case == 0 { &[1, 2, 3, 4, 8] } else { &[2, 3] };
        for &size in sizes {
            let out = run(&size.to_string());
            let output = finished(mpirun(size, &train(options), &out));
            assert!(head(&out) == head(&alone), "{options}: {size} processes differ from one");
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(text.matches("head: images").count(), 1, "one process prints: {text}");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(text.matches("head: ").count(), 1, "one process prints: {text}");
        }
    }
}

#[test]
fn a_run_continues_on_another_number_of_processes() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, parts] = ["whole", "parts"].map(|name| folder.path().join(name));
    finished(mpirun(2, &train("--objective con:con"), &whole));
    finished(mpirun(3, &train("--objective con:con").replace("--epochs 2", "--epochs 1"), &parts));
    finished(mpirun(4, "train --resume --epochs 2 --no-baselines --no-report", &parts));
    assert!(head(&whole) == head(&parts));
}

#[test]
fn an_error_is_printed_once() {
    let folder = tempfile::tempdir().unwrap();
    for (size, options, expected) in [
        (3, "--lr 0", "error: --lr: expected a finite number above 0, found 0; "),
        (
            3,
            "--batch 20",
            "error: number of processes: expected at most 2, since a batch of 20 pairs has 2 slices ",
        ),
        (2, "--device cpu,nonesuch", "error: --device nonesuch: "),
    ] {
        let options = match options.starts_with("--device") {
            true => train(options).replace("--device cpu ", ""),
            false => train(options),
        };
        let output = mpirun(size, &options, &folder.path().join("run")).output().unwrap();
        assert!(!output.status.success());
        let found = errors(&output);
        assert!(found.len() == 1 && found[0].starts_with(expected), "{options}: {output:?}");
    }
}

/// The processes that `mpirun` has started.
#[cfg(target_os = "linux")]
fn processes(job: &Child) -> Vec<String> {
    // Any thread of mpirun may have started them.
    let threads = fs::read_dir(format!("/proc/{}/task", job.id())).unwrap();
    let children = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("children")).unwrap());
    let children = children.collect::<Vec<_>>().join(" ");
    children.split_whitespace().map(String::from).collect()
}

/// Waits until a file is there.
fn wait_for(path: &Path, job: &mut Child) {
    let began = Instant::now();
    while !path.exists() {
        assert!(job.try_wait().unwrap().is_none(), "the job has ended");
        assert!(began.elapsed() < Duration::from_secs(120), "no {}", path.display());
        thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_job_ends_if_one_of_its_processes_is_killed_and_can_be_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, killed] = ["whole", "killed"].map(|name| folder.path().join(name));
    let options =
        |epochs: usize| train("--objective con:con").replace("--epochs 2", &format!("--epochs {epochs}"));
    let mut command = mpirun(3, &options(10_000), &killed);
    let mut job = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for(&killed.join("last.safetensors"), &mut job);
    let child = processes(&job).pop().unwrap();
    assert!(Command::new("kill").args(["-KILL", &child]).status().unwrap().success());
    let output = job.wait_with_output().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("signal 9"), "mpirun says what happened: {text}");
    assert!(errors(&output).is_empty(), "{text}");
    let done = fs::read_to_string(killed.join("metrics.jsonl")).unwrap().lines().count();
    let more = done + 2;
    let resume = format!("train --resume --epochs {more} --no-baselines --no-report");
    finished(mpirun(2, &options(more), &whole));
    finished(mpirun(4, &resume, &killed));
    let weights = |run: &Path| {
        let head = wgoal::Checkpoint::load(run.join("last.safetensors")).unwrap();
        head.head()
            .parameters()
            .into_iter()
            .map(|(name, _)| head.head().parameter(&name).unwrap())
            .collect::<Vec<_>>()
    };
    assert!(weights(&whole) == weights(&killed));
}

/// The steps of the epoch under way in the checkpoint of a run.
#[cfg(target_os = "linux")]
fn step(run: &Path) -> usize {
    wgoal::Checkpoint::load(run.join("last.safetensors")).map_or(0, |checkpoint| checkpoint.step())
}

#[cfg(target_os = "linux")]
#[test]
fn a_job_killed_within_an_epoch_continues_on_another_number_of_processes() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, killed] = ["whole", "killed"].map(|name| folder.path().join(name));
    let options = "--objective hinge --memory-bank 128 --bank-warmup 0 --batch 64 --checkpoint-every 1";
    let mut command = mpirun(3, &train(options).replace("--epochs 2", "--epochs 10000"), &killed);
    let (mut sizes, mut before) = ([2, 4, 3, 2, 4].into_iter(), Vec::new());
    loop {
        let mut job = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_for(&killed.join("last.safetensors"), &mut job);
        // A resumed job has begun when it has written another checkpoint.
        while fs::read(killed.join("last.safetensors")).unwrap() == before {
            assert!(job.try_wait().unwrap().is_none(), "the job has ended");
            thread::sleep(Duration::from_millis(20));
        }
        thread::sleep(Duration::from_millis(100));
        let child = processes(&job).swap_remove(0);
        assert!(Command::new("kill").args(["-KILL", &child]).status().unwrap().success());
        assert!(!job.wait().unwrap().success());
        if step(&killed) > 0 {
            break;
        }
        before = fs::read(killed.join("last.safetensors")).unwrap();
        let size = sizes.next().expect("a kill within an epoch");
        command = mpirun(size, "train --resume --checkpoint-every 1 --no-baselines --no-report", &killed);
    }
    let checkpoint = wgoal::Checkpoint::load(killed.join("last.safetensors")).unwrap();
    let epochs = checkpoint.epoch() + 1;
    finished(mpirun(2, &train(options).replace("--epochs 2", &format!("--epochs {epochs}")), &whole));
    let resume = format!("train --resume --epochs {epochs} --no-baselines --no-report");
    finished(mpirun(4, &resume, &killed));
    let weights = |run: &Path| {
        let checkpoint = wgoal::Checkpoint::load(run.join("last.safetensors")).unwrap();
        let head = checkpoint.head();
        head.parameters().into_iter().map(|(name, _)| head.parameter(&name).unwrap()).collect::<Vec<_>>()
    };
    assert!(weights(&whole) == weights(&killed), "killed after step {} of epoch {epochs}", checkpoint.step());
}

#[cfg(target_os = "linux")]
#[test]
fn the_log_names_a_process_that_the_others_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    // A wide head, so that steps take most of an epoch.
    let options = train("--objective con:con --batch 32 --slices 2").replace("--epochs 2", "--epochs 2000");
    let options = options.replace("--embed 8", "--embed 512");
    let mut command = mpirun(2, &options, &run);
    let mut job = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for(&run.join("last.safetensors"), &mut job);
    let is_second = |process: &String| {
        let variables = fs::read(format!("/proc/{process}/environ")).unwrap();
        variables.split(|&byte| byte == 0).any(|variable| variable == b"OMPI_COMM_WORLD_RANK=1")
    };
    let second = processes(&job).into_iter().find(is_second).unwrap();
    let send =
        |signal: &str| assert!(Command::new("kill").args([signal, &second]).status().unwrap().success());
    let lines = |run: &Path| fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let waited = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["waited"]["process"] == 1 && line["waited"]["seconds"].as_f64().unwrap() > 2.0
    };
    // Between two epochs, a wait is not measured.
    for _ in 0..12 {
        send("-STOP");
        thread::sleep(Duration::from_secs(3));
        send("-CONT");
        let done = lines(&run).lines().count();
        while lines(&run).lines().count() < done + 2 {
            assert!(job.try_wait().unwrap().is_none(), "the job has ended");
            thread::sleep(Duration::from_millis(50));
        }
        if lines(&run).lines().take(done + 1).any(waited) {
            break;
        }
        thread::sleep(Duration::from_millis(70));
    }
    // All ranks stop at a signal that one of them gets.
    send("-TERM");
    let output = job.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let slow = text.lines().find(|line| {
        line.starts_with("note: process 1 on ") && line.contains(" was slow: the others waited ")
    });
    assert!(slow.is_some(), "{text}");
    assert!(text.contains("stopped by SIGTERM"), "{text}");
    assert!(lines(&run).lines().any(waited), "{}", lines(&run));
}

/// The measurements of `wgoal bench ranks` on so many processes.
fn measured(size: usize, shape: &str) -> serde_json::Value {
    let output = finished(job(size, &format!("bench ranks --json --device cpu --shape {shape}")));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn what_a_step_exchanges_is_what_the_documentation_says() {
    let [pairs, d] = [256, 16];
    let alone = measured(1, "256:24:20:16");
    assert_eq!(alone["received"], 0);
    for size in [2, 4] {
        let found = measured(size, "256:24:20:16");
        for what in ["gradient", "head", "parameters"] {
            assert_eq!(found[what], alone[what], "{what} on {size} processes");
        }
        // Unit rows of both sides; the roots of one rank, in parts, and the parts of the sum; numbers per pair.
        let others = (pairs - pairs / size) * 4;
        let parameters = 4 * (24 + 20) * d;
        let part = parameters / size;
        let sums = 2 * (size - 1) * part;
        let received = found["received"].as_u64().unwrap() as usize;
        let per_pair = received - 2 * d * others - sums;
        assert!(per_pair.is_multiple_of(others) && per_pair / others < 32, "{per_pair} of {others}");
    }
}
