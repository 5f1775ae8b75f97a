//! The files of a run folder belong together: those of another run are refused, those that are lost are written again.

use super::place::*;
use std::fs;
#[cfg(unix)]
use std::{
    io::Read,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

const RESUME: &str = "train --resume --no-baselines --device cpu --epochs 4 --out run";

/// Two runs of other options, `run` and `other`.
fn two_runs() -> Place {
    let place = Place::new();
    place.train("run", "--epochs 3 --no-baselines");
    place.train("other", "--epochs 3 --no-baselines --lr 0.02");
    place
}

/// Takes the id out of a JSON text.
fn id(place: &Place, run: &str) -> String {
    let config: serde_json::Value =
        serde_json::from_slice(&place.read(&format!("{run}/config.json"))).unwrap();
    config["run"].as_str().unwrap().to_string()
}

#[test]
fn every_part_carries_the_id_of_the_run() {
    let place = two_runs();
    let run = id(&place, "run");
    assert_ne!(run, id(&place, "other"));
    assert!(place.metrics("run").iter().all(|line| line["run"] == run.as_str()));
    for name in ["best", "last"] {
        let head = wgoal::Checkpoint::load(place.path(&format!("run/{name}.safetensors"))).unwrap();
        assert_eq!(head.run(), run, "{name}");
    }
    // A longer run is the same run.
    place.ok(RESUME);
    assert_eq!(id(&place, "run"), run);
    assert!(
        place.metrics("run").len() == 4
            && place.metrics("run").iter().all(|line| line["run"] == run.as_str())
    );
}

#[test]
fn a_part_of_another_run_is_refused() {
    let place = two_runs();
    let [run, other] = ["run", "other"].map(|name| id(&place, name));
    let back = "put back the file of this run, or start a new run in another --out";
    for (name, message) in [
        (
            "last.safetensors",
            format!(
                "expected the checkpoint of the run in config.json ({run}), found that of run {other}; {back}"
            ),
        ),
        (
            "best.safetensors",
            format!(
                "expected the head of the run in config.json ({run}), found that of run {other}; move it elsewhere; the run then writes its own"
            ),
        ),
        ("metrics.jsonl line 1", format!("expected an epoch of run {run}, found one of run {other}; {back}")),
    ] {
        let file = name.split(' ').next().unwrap();
        let own = place.read(&format!("run/{file}"));
        fs::copy(place.path(&format!("other/{file}")), place.path(&format!("run/{file}"))).unwrap();
        let before = place.listing();
        let output = place.run(RESUME);
        assert_eq!(output.code, 1, "{name}");
        assert!(output.stderr.ends_with(&format!("error: run/{name}: {message}\n")), "{}", output.stderr);
        assert!(place.listing() == before, "{name}");
        fs::write(place.path(&format!("run/{file}")), own).unwrap();
    }
    place.ok(RESUME);
}

/// A folder of an older version has no ids. Its options and figures are compared.
#[test]
fn a_foreign_part_without_an_id_is_refused_too() {
    let place = two_runs();
    let without_id = |name: &str| {
        let text = String::from_utf8(place.read(name)).unwrap();
        let text: String = text
            .lines()
            .map(|line| {
                let at = line.find("\"run\":");
                let kept =
                    at.map_or(line.to_string(), |at| line[..at].trim_end_matches(',').to_string() + "}");
                kept + "\n"
            })
            .collect();
        fs::write(place.path(name), text).unwrap();
    };
    let own = place.read("run/metrics.jsonl");
    fs::copy(place.path("other/metrics.jsonl"), place.path("run/metrics.jsonl")).unwrap();
    without_id("run/metrics.jsonl");
    let output = place.run(RESUME);
    let expected = "expected the validation rsum of last.safetensors, ";
    assert!(output.code == 1 && output.stderr.contains(expected), "{}", output.stderr);
    fs::write(place.path("run/metrics.jsonl"), own).unwrap();
    without_id("run/metrics.jsonl");

    let without = |path: String| {
        let (tensors, mut metadata) = read_tensors(&place.read(&path));
        let mut fields: serde_json::Value = serde_json::from_str(&metadata["wgoal"]).unwrap();
        fields.as_object_mut().unwrap().remove("run");
        metadata.insert("wgoal".into(), fields.to_string());
        fs::write(place.path(&path), write_tensors(&tensors, metadata)).unwrap();
    };
    ["run", "other"].iter().for_each(|run| without(format!("{run}/last.safetensors")));
    let own = place.read("run/last.safetensors");
    fs::copy(place.path("other/last.safetensors"), place.path("run/last.safetensors")).unwrap();
    let output = place.run(RESUME);
    assert!(output.code == 1 && output.stderr.contains("found that of other options"), "{}", output.stderr);
    fs::write(place.path("run/last.safetensors"), own).unwrap();
    place.ok(RESUME);
}

#[test]
fn what_is_lost_is_written_again_with_a_warning() {
    let place = two_runs();
    let best = place.read("run/best.safetensors");
    let mut damaged = best.clone();
    *damaged.last_mut().unwrap() ^= 1;
    for (bytes, word) in [(None, "missing"), (Some(damaged), "damaged")] {
        let path = place.path("run/best.safetensors");
        fs::remove_file(&path).unwrap();
        bytes.iter().for_each(|bytes| fs::write(&path, bytes).unwrap());
        let output = place.run("train --resume --no-baselines --device cpu --out run");
        let warning =
            format!("warning: run/best.safetensors is {word}; it is written again from last.safetensors\n");
        assert!(output.code == 0 && output.stderr.contains(&warning), "{}", output.stderr);
        assert!(place.read("run/best.safetensors") == best);
    }
    // Lines that are lost cannot be written again.
    let text = String::from_utf8(place.read("run/metrics.jsonl")).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    for (kept, lost) in
        [(vec![lines[0], lines[2]], "the line of epoch 2"), (vec![], "3 lines of the epochs 1 to 3")]
    {
        fs::write(place.path("run/metrics.jsonl"), kept.concat()).unwrap();
        let output = place.run("train --resume --no-baselines --device cpu --out run");
        let warning = format!("warning: run/metrics.jsonl has lost {lost}; the run goes on\n");
        assert!(output.code == 0 && output.stderr.contains(&warning), "{}", output.stderr);
    }
    fs::write(place.path("run/metrics.jsonl"), &text).unwrap();
    let output = place.run("train --resume --no-baselines --device cpu --out run");
    assert!(output.code == 0 && !output.stderr.contains("warning"), "{}", output.stderr);
}

/// Changes a value of an image row, and nothing else.
fn change_row(place: &Place, row: usize) {
    let mut bytes = place.read("data/images.npy");
    let width = (bytes.len() - 128) / IMAGES as usize;
    bytes[128 + row * width] ^= 1;
    fs::write(place.path("data/images.npy"), bytes).unwrap();
}

/// A resumed run and a sweep notice any row that has changed.
#[test]
fn a_changed_row_is_noticed() {
    let place = Place::new();
    place.train("run", "--no-baselines");
    let sweep =
        "sweep data --objectives hinge --seeds 0 --epochs 1 --embed 4 --batch 16 --device cpu --out sweep";
    place.ok(sweep);
    for row in [1, 38] {
        change_row(&place, row);
        for (args, words) in
            [(RESUME, "the dataset that the run was started on"), (sweep, "expected dataset = ")]
        {
            let output = place.run(args);
            assert!(output.code == 1 && output.stderr.contains(words), "{row} {args}\n{}", output.stderr);
        }
        change_row(&place, row);
    }
    place.ok(RESUME);
    place.ok(sweep);
}

/// Files of an older version name a hash of 16 rows. Their runs and sweeps go on.
#[test]
fn a_fingerprint_of_an_older_version_is_enough() {
    let place = Place::new();
    place.train("run", "--no-baselines");
    let (tensors, mut metadata) = read_tensors(&place.read("run/last.safetensors"));
    let mut fields: serde_json::Value = serde_json::from_str(&metadata["wgoal"]).unwrap();
    let dataset = fields["dataset"].as_str().unwrap().to_string();
    assert_eq!(dataset.len(), 50);
    fields["dataset"] = dataset[..33].into();
    fields.as_object_mut().unwrap().remove("run");
    metadata.insert("wgoal".into(), fields.to_string());
    fs::write(place.path("run/last.safetensors"), write_tensors(&tensors, metadata)).unwrap();
    place.ok(RESUME);

    let sweep =
        "sweep data --objectives hinge --seeds 0 --epochs 1 --embed 4 --batch 16 --device cpu --out sweep";
    place.ok(sweep);
    let results = String::from_utf8(place.read("sweep/results.jsonl")).unwrap();
    assert!(results.contains(&dataset));
    fs::write(place.path("sweep/results.jsonl"), results.replace(&dataset, &dataset[..33])).unwrap();
    assert!(place.run(sweep).stderr.contains("1 of 1 runs are in sweep"));
    fs::write(place.path("sweep/results.jsonl"), results.replace(&dataset, &dataset[1..34])).unwrap();
    assert_eq!(place.run(sweep).code, 1);
}

/// The hash of large features is cached until the size or the time of a file changes.
#[cfg(unix)]
#[test]
fn the_hash_of_large_features_is_cached() {
    const WIDTH: usize = 440_000;
    let place = Place::new();
    let images: Vec<f32> = numbers(5).take(IMAGES as usize * WIDTH).collect();
    write_npy(&place.path("data/images.npy"), &[IMAGES.into(), WIDTH as u64], &images);
    let run = |args: &str| {
        let mut command = place.command();
        command.env("WGOAL_CACHE_DIR", place.path("cache")).args(args.split_whitespace());
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let train = "train data --recipe goal --epochs 1 --embed 2 --batch 48 --device cpu --no-baselines --no-report \
                 --correction none --out run";
    assert_eq!(run(train).0, 0);
    let cached: serde_json::Value = serde_json::from_slice(&place.read("cache/features.json")).unwrap();
    assert_eq!(cached.as_object().unwrap().len(), 1);
    let path = place.path("data/images.npy");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    change_row(&place, 1);
    let file = fs::File::options().write(true).open(&path).unwrap();
    let resume = "train --resume --no-baselines --no-report --out run";
    // The cache knows only the size and the time, so this shows that it is used.
    file.set_modified(time).unwrap();
    assert_eq!(run(resume).0, 0);
    file.set_modified(time + Duration::from_secs(1)).unwrap();
    let (code, stderr) = run(resume);
    assert!(code == 1 && stderr.contains("the dataset that the run was started on"), "{stderr}");
}

#[cfg(unix)]
fn until(child: &mut Child, reached: impl Fn() -> bool) {
    let began = Instant::now();
    while !reached() {
        if child.try_wait().unwrap().is_some() {
            let mut stderr = String::new();
            child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
            panic!("the run has ended\n{stderr}");
        }
        assert!(began.elapsed() < HANGS);
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Files are deleted one by one from a run that trains.
#[cfg(unix)]
#[test]
fn files_that_are_deleted_while_a_run_trains_come_back() {
    let place = Place::new();
    let args = "train data --recipe goal --device cpu --embed 4 --batch 16 --epochs 1000000 --lr 1e-9 --no-baselines --no-report --quiet --out run";
    let mut child = place.start(args, Stdio::piped);
    let exists = |name: &str| place.path(&format!("run/{name}")).exists();
    until(&mut child, || exists("last.safetensors"));
    let names = ["metrics.jsonl", "config.json", "run.toml", "best.safetensors", "last.safetensors"];
    for name in names {
        fs::remove_file(place.path(&format!("run/{name}"))).unwrap();
        until(&mut child, || exists(name));
    }
    fs::OpenOptions::new().write(true).open(place.path("run/metrics.jsonl")).unwrap().set_len(7).unwrap();
    until(&mut child, || fs::metadata(place.path("run/metrics.jsonl")).is_ok_and(|found| found.len() > 7));
    // Standard error is read only now. With --quiet it has the warnings alone, which fit into the pipe.
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(143), "{stderr}");
    // The last checkpoint may have been deleted while its successor was written.
    for name in &names[..4] {
        let warning = format!("warning: run/{name} was deleted while the run trained; it is written again\n");
        assert!(stderr.contains(&warning), "{name}\n{stderr}");
    }
    // The folder is whole: a run that goes on finds nothing to say.
    let done = place.metrics("run").len();
    let output = place.run(&format!(
        "train --resume --no-baselines --no-report --device cpu --epochs {} --out run",
        done + 1
    ));
    assert!(output.code == 0 && !output.stderr.contains("warning: run/"), "{}", output.stderr);
}

/// The folder of a run is moved while it trains, at whatever moment: the run writes a new one, says so, and goes on. With
/// checkpoints after each step, most moves come while a file is being written.
#[cfg(unix)]
#[test]
fn a_folder_that_is_moved_while_a_run_trains_is_written_again() {
    let names = ["metrics.jsonl", "config.json", "run.toml", "best.safetensors", "last.safetensors"];
    for every in ["1", "1000"] {
        let place = Place::new();
        let mut child = place.start(
            &format!(
                "train data --recipe goal --device cpu --embed 4 --batch 8 --epochs 1000000 --lr 1e-9 --no-baselines \
                 --no-report --quiet --checkpoint-every {every} --out run"
            ),
            Stdio::piped,
        );
        let is_whole = || names.iter().all(|name| place.path("run").join(name).exists());
        for k in 0..10 {
            until(&mut child, is_whole);
            fs::rename(place.path("run"), place.path(&format!("moved{k}"))).unwrap();
        }
        until(&mut child, is_whole);
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(143), "{stderr}");
        for name in &names[..4] {
            let warning =
                format!("warning: run/{name} was deleted while the run trained; it is written again\n");
            assert_eq!(stderr.matches(&warning).count(), 10, "{name}\n{stderr}");
        }
        let done = place.metrics("run").len();
        place.ok(&format!(
            "train --resume --no-baselines --no-report --device cpu --epochs {} --out run",
            done + 1
        ));
        let epochs: Vec<u64> =
            place.metrics("run").iter().map(|line| line["epoch"].as_u64().unwrap()).collect();
        assert!(epochs.iter().zip(1..).all(|(&epoch, expected)| epoch == expected), "{epochs:?}");
    }
}

/// A finished sweep trains a head again that is missing or damaged: the chosen ones, with their correction for hubs.
#[test]
fn a_sweep_trains_a_lost_head_again() {
    let place = Place::new();
    let sweep = "sweep data --objectives con:con,hinge --seeds 0,1 --epochs 2 --embed 4 --batch 16 --device cpu \
                 --correction csls --out sweep";
    place.ok(sweep);
    let whole = place.listing();
    let head = |name: &str| place.path(&format!("sweep/heads/{name}"));
    fs::remove_file(head("con-con-1-s1.safetensors")).unwrap();
    let mut damaged = place.read("sweep/heads/hinge-1-s0.safetensors");
    damaged[200] ^= 4;
    fs::write(head("hinge-1-s0.safetensors"), damaged).unwrap();
    let output = place.run(sweep);
    assert_eq!(output.code, 0, "{}", output.stderr);
    for (name, what) in [("con-con-1-s1", "missing"), ("hinge-1-s0", "damaged")] {
        let warning = format!("warning: sweep/heads/{name}.safetensors is {what}; it is trained again\n");
        assert!(output.stderr.contains(&warning), "{}", output.stderr);
    }
    assert!(place.listing() == whole);
    // The head of another run is not overwritten.
    fs::copy(head("hinge-1-s1.safetensors"), head("hinge-1-s0.safetensors")).unwrap();
    let output = place.run(sweep);
    let message = "error: sweep/heads/hinge-1-s0.safetensors: expected the head of this sweep, found that of another run; \
                   move it elsewhere; the same command then trains the head again\n";
    assert!(output.code == 1 && output.stderr.ends_with(message), "{}", output.stderr);
}

/// What a killed command leaves under a temporary name goes with the next command that writes into the folder.
#[cfg(unix)]
#[test]
fn temporary_files_of_killed_commands_go_with_the_next_command() {
    let place = Place::new();
    place.train("run", "--no-baselines");
    let small = "--epochs 1 --embed 4 --batch 16 --device cpu";
    for (args, folders) in [
        ("embed run data --device cpu --out vectors".to_string(), vec!["vectors"]),
        (
            format!("sweep data --objectives hinge --seeds 0 {small} --out sweep"),
            vec!["sweep", "sweep/heads"],
        ),
        ("baseline cca data --embed 4 --out cca --device cpu".to_string(), vec!["cca"]),
        ("report run".to_string(), vec!["run"]),
    ] {
        place.ok(&args);
        let before = place.listing();
        for folder in folders {
            fs::write(place.path(folder).join(".wgoal-partial-x1y2z3X1Y2Z3.tmp"), "half").unwrap();
        }
        place.ok(&args);
        assert!(place.listing().keys().eq(before.keys()), "{args}: {:?}", place.listing().keys());
    }
}

/// A lock that comes free within a second is no error.
#[cfg(unix)]
#[test]
fn a_lock_that_is_just_being_released_is_waited_for() {
    use rustix::fs::{FlockOperation, flock};
    let place = Place::new();
    place.train("run", "--no-baselines");
    let lock = fs::File::open(place.path("run")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let output = place.run(RESUME);
    assert!(output.code == 1 && output.stderr.contains("no other process"), "{}", output.stderr);
    let held = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(400));
        drop(lock);
    });
    place.ok(RESUME);
    held.join().unwrap();
}
