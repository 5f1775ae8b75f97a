//! `mpirun -n R wgoal ...`: the same bits on any number of processes, and jobs that end with one message.
//! Needs the feature `mpi` and an MPI library; `scripts/mpi` installs it and runs this.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
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
        "--objective hinge --memory-bank 384 --bank-warmup 1 --ema 0.9",
        "--objective con:sig-ms --gather f16",
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

/// Every process computes on the same software GPU.
#[cfg(target_os = "linux")]
#[test]
fn processes_on_lavapipe_train_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    for (case, objective) in ["hinge", "infonce"].into_iter().enumerate() {
        let options = format!("--objective {objective} --memory-bank 256 --bank-warmup 0 --epochs 1");
        let options = match objective {
            "hinge" => options,
            _ => options.replace(" --memory-bank 256 --bank-warmup 0", ""),
        };
        let options =
            train("").replace("--device cpu", "--device llvmpipe").replace("--epochs 2 ", "") + &options;
        let run = |name: &str| folder.path().join(format!("{case}-{name}"));
        let alone = run("alone");
        let mut command = Command::new(WGOAL);
        command.args(options.split(' ')).args(["--slices", "8", "--out"]).arg(&alone);
        let output = finished(command);
        let config = fs::read_to_string(alone.join("config.json")).unwrap();
        assert!(config.contains("llvmpipe"), "{config} {output:?}");
        let out = run("2");
        finished(mpirun(2, &options, &out));
        assert!(head(&out) == head(&alone), "{objective}: two processes differ from one");
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

/// wgoal in one process, without MPI.
fn alone(arguments: &str) -> Command {
    let mut command = Command::new(WGOAL);
    command.args(arguments.split(' ')).env("RAYON_NUM_THREADS", "1");
    command
}

/// The files of a folder and of those in it, by their names, with their bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => drop(found.insert(path.clone(), fs::read(&path).unwrap())),
        }
    }
    found
}

/// [`files`], with names within the folder.
fn left(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let within = |(path, bytes): (PathBuf, Vec<u8>)| (path.strip_prefix(folder).unwrap().into(), bytes);
    files(folder).into_iter().map(within).collect()
}

#[test]
fn a_run_from_a_closed_form_is_reported_as_in_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let options = "train data/clipart-mini --embed 8 --epochs 1 --init cca --objective con:con --device cpu";
    let one = folder.path().join("one");
    let mut command = alone(&format!("{options} --slices 8"));
    command.arg("--out").arg(&one);
    let output = finished(command);
    let printed = |output: &Output, out: &Path| {
        String::from_utf8_lossy(&output.stdout).replace(&out.display().to_string(), "OUT")
    };
    let out = folder.path().join("three");
    let found = finished(mpirun(3, options, &out));
    assert_eq!(printed(&found, &out), printed(&output, &one));
    for file in ["best.safetensors", "last.safetensors", "similarities.jsonl"] {
        assert!(fs::read(out.join(file)).unwrap() == fs::read(one.join(file)).unwrap(), "{file}");
    }
    assert!(out.join("report.html").is_file());
}

#[test]
fn evaluation_and_embedding_are_divided_without_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut command = alone(&train("--objective con:con"));
    command.arg("--out").arg(&run);
    finished(command);
    let run = run.display();
    let own = |name: &str| folder.path().join(name);
    let eval = |to: &Path| {
        let (ranks, top) = (to.join("ranks.jsonl"), to.join("top.safetensors"));
        let (ranks, top) = (ranks.display(), top.display());
        format!(
            "eval {run} data/clipart-mini --device cpu --json --write-ranks {ranks} --top 5 --write-candidates {top}"
        )
    };
    let embed = format!("embed {run} data/clipart-mini --device cpu");
    let to = own("alone");
    fs::create_dir(&to).unwrap();
    let output = finished(alone(&eval(&to)));
    let mut command = alone(&embed);
    command.arg("--out").arg(to.join("vectors"));
    finished(command);
    for size in [1, 2, 3] {
        let out = own(&size.to_string());
        fs::create_dir(&out).unwrap();
        assert!(finished(job(size, &eval(&out))).stdout == output.stdout, "{size} processes");
        finished(mpirun(size, &embed, &out.join("vectors")));
        assert!(left(&out) == left(&to), "{size} processes: {:?}", left(&out).keys());
    }
}

#[test]
fn evaluation_is_divided_without_a_change_on_every_device() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut command = alone(&train("--objective con:con"));
    command.arg("--out").arg(&run);
    finished(command);
    let devices = finished(alone("devices --json")).stdout;
    let devices: Vec<serde_json::Value> = serde_json::from_slice(&devices).unwrap();
    assert!(devices.iter().any(|device| device["kind"] == "cpu"));
    for device in &devices {
        let run = run.display();
        let eval = format!("eval {run} data/clipart-mini --json --device {}", device["index"]);
        assert!(finished(job(2, &eval)).stdout == finished(alone(&eval)).stdout, "{device}");
    }
}

#[test]
fn closed_forms_are_divided_without_a_change() {
    let folder = tempfile::tempdir().unwrap();
    for form in ["cca", "kcca --random-features 30 --standardize", "kcca --landmarks 600"] {
        let own = |name: &str| folder.path().join(format!("{}-{name}", form.replace(' ', "")));
        let mut arguments: Vec<_> = form.split(' ').collect();
        let name = arguments.remove(0);
        let options =
            format!("baseline {name} data/clipart-mini --embed 8 --device cpu {}", arguments.join(" "));
        let options = options.trim_end();
        let mut command = alone(&format!("{options} --slices 8"));
        command.arg("--out").arg(own("alone"));
        let output = finished(command);
        let sizes: &[usize] = if form == "cca" { &[1, 3] } else { &[2] };
        for &size in sizes {
            let found = finished(mpirun(size, options, &own(&size.to_string())));
            assert!(found.stdout == output.stdout, "{form}: {size} processes print something else");
            assert!(left(&own(&size.to_string())) == left(&own("alone")), "{form}: {size} processes");
        }
    }
}

/// The lines of a sweep's results without times.
fn results(out: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(out.join("results.jsonl")).unwrap();
    let line = |line: &str| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        if let Some(run) = line.get_mut("run") {
            run["seconds"] = 0.into();
            run["epochs"].as_array_mut().unwrap().iter_mut().for_each(|epoch| epoch["seconds"] = 0.into());
        }
        line
    };
    text.lines().map(line).collect()
}

#[cfg(target_os = "linux")]
#[test]
fn a_sweep_is_spread_over_processes_and_a_killed_one_is_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let own = |name: &str| folder.path().join(name);
    let sweep = |epochs: &str| {
        format!(
            "sweep data/clipart-mini --objectives hinge,con:con --seeds 0,1 --grid lr=1e-3,5e-4 --embed 8 --epochs \
             {epochs} --device cpu"
        )
    };
    let mut command = alone(&sweep("2"));
    command.arg("--out").arg(own("alone"));
    let output = finished(command);
    let found = finished(mpirun(3, &sweep("2"), &own("three")));
    assert!(found.stdout == output.stdout);
    let same = |out: &Path| {
        assert_eq!(results(out), results(&own("alone")));
        assert!(left(&out.join("heads")) == left(&own("alone/heads")));
        let tables = ["table.md", "table.csv", "table.json"];
        assert!(
            tables
                .iter()
                .all(|name| fs::read(out.join(name)).unwrap() == fs::read(own("alone").join(name)).unwrap())
        );
    };
    same(&own("three"));
    let killed = own("killed");
    let mut command = mpirun(2, &sweep("2"), &killed);
    let mut job = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    while fs::read_to_string(killed.join("results.jsonl")).map_or(0, |text| text.lines().count()) < 3 {
        assert!(job.try_wait().unwrap().is_none() && began.elapsed() < Duration::from_secs(120));
        thread::sleep(Duration::from_millis(2));
    }
    let child = processes(&job).pop().unwrap();
    assert!(Command::new("kill").args(["-KILL", &child]).status().unwrap().success());
    assert!(!job.wait().unwrap().success());
    let done = results(&killed).len();
    assert!(done < results(&own("alone")).len(), "killed too late: {done} lines");
    finished(mpirun(4, &sweep("2"), &killed));
    same(&killed);
}

#[test]
fn an_error_in_the_part_of_one_process_is_printed_once() {
    let folder = tempfile::tempdir().unwrap();
    let [run, data] = ["run", "data"].map(|name| folder.path().join(name));
    let mut command = alone(&train("--objective con:con"));
    command.arg("--out").arg(&run);
    finished(command);
    fs::create_dir(&data).unwrap();
    for (path, bytes) in left(Path::new("data/clipart-mini")) {
        fs::write(data.join(path), bytes).unwrap();
    }
    // A NaN in a row that the third process embeds: 384 columns of f16.
    let mut texts = fs::read(data.join("texts.npy")).unwrap();
    let first = texts.len() - 2 * 384 * (2719 - 2600);
    texts[first..first + 2].copy_from_slice(&0x7e00u16.to_le_bytes());
    fs::write(data.join("texts.npy"), texts).unwrap();
    let out = folder.path().join("vectors");
    let arguments = format!("embed {} {} --device cpu", run.display(), data.display());
    let output = mpirun(3, &arguments, &out).output().unwrap();
    assert!(!output.status.success());
    let found = errors(&output);
    assert!(found.len() == 1 && found[0].contains("2600"), "{output:?}");
    assert!(!out.exists(), "nothing is written");
}

#[test]
fn commands_that_are_not_divided_run_in_the_first_process() {
    let folder = tempfile::tempdir().unwrap();
    let output = finished(job(3, "inspect data/clipart-mini"));
    assert!(output.stdout == finished(alone("inspect data/clipart-mini")).stdout);
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    for file in ["images.npy", "texts.npy", "text_to_image.npy"] {
        fs::copy(Path::new("data/clipart-mini").join(file), data.join(file)).unwrap();
    }
    let output = finished(job(3, &format!("split {}", data.display())));
    assert!(errors(&output).is_empty() && data.join("split_train.npy").is_file(), "{output:?}");
    let output = job(2, "inspect nowhere").output().unwrap();
    assert!(!output.status.success() && errors(&output).len() == 1, "{output:?}");
}
