//! Runs that are repeated, and runs that are killed.

use super::place::*;
#[cfg(unix)]
use serde_json::Value;

const FILES: [&str; 2] = ["best.safetensors", "last.safetensors"];

#[track_caller]
fn assert_same_run(place: &Place, one: &str, other: &str) {
    for name in FILES {
        let same = place.read(&format!("{one}/{name}")) == place.read(&format!("{other}/{name}"));
        assert!(same, "{name} of {one} and {other} differ");
    }
}

#[test]
fn a_seed_repeats_on_every_device() {
    let place = Place::new();
    let devices = place.json("devices --json");
    for index in 0..devices.as_array().unwrap().len() {
        let train = |out: &str, seed: u32| {
            let options = "--recipe goal --batch 16 --embed 4 --epochs 2 --dropout 0.2";
            place.ok(&format!("train data {options} --device {index} --seed {seed} --out {index}{out}"));
        };
        train("a", 5);
        train("b", 5);
        train("c", 6);
        assert_same_run(&place, &format!("{index}a"), &format!("{index}b"));
        for name in FILES {
            let other = place.read(&format!("{index}c/{name}"));
            let weights = |bytes: &[u8]| read_tensors(bytes).0["image.weight"].2.clone();
            assert!(weights(&place.read(&format!("{index}a/{name}"))) != weights(&other), "{index} {name}");
        }
    }
}

#[test]
fn a_run_goes_on_in_parts() {
    let place = Place::new();
    let options =
        "--recipe goal --batch 16 --embed 4 --seed 3 --standardize --dropout 0.1 --lr 0.01 --device cpu";
    place.ok(&format!("train data {options} --epochs 7 --out whole"));
    place.ok(&format!("train data {options} --epochs 3 --out parts"));
    // A file is replaced, not overwritten: a hard link to the old file keeps the old bytes.
    let third = place.read("parts/last.safetensors");
    std::fs::hard_link(place.path("parts/last.safetensors"), place.path("third")).unwrap();
    place.ok("train data --resume --epochs 5 --device cpu --out parts");
    assert!(place.read("third") == third && place.read("parts/last.safetensors") != third);
    // Options may be repeated. Missing and half-written files are restored.
    std::fs::remove_file(place.path("parts/best.safetensors")).unwrap();
    std::fs::write(place.path("parts/.wgoal-partial-x1y2z3X1Y2Z3.tmp"), "half").unwrap();
    let mut metrics = place.read("parts/metrics.jsonl");
    metrics.extend(b"{\"epoch\":6,\"lo");
    std::fs::write(place.path("parts/metrics.jsonl"), metrics).unwrap();
    let summary = place.json(&format!("train data {options} --resume --epochs 7 --json --out parts"));
    assert_same_run(&place, "whole", "parts");
    assert_eq!(place.names("parts"), place.names("whole"));
    let epochs: Vec<_> = place.metrics("parts").iter().map(|line| line["epoch"].as_u64().unwrap()).collect();
    assert_eq!(epochs, [1, 2, 3, 4, 5, 6, 7]);

    // Resuming a finished run prints its summary.
    let again = place.json("train data --resume --device cpu --json --out parts");
    assert_eq!((&again["test"], &again["best_epoch"]), (&summary["test"], &summary["best_epoch"]));
    assert_same_run(&place, "whole", "parts");
}

#[test]
fn a_run_killed_before_its_first_checkpoint_keeps_its_options() {
    let place = Place::new();
    place.train("whole", "--seed 3 --objective infonce --temperature 0.1 --optimizer sgd");
    std::fs::create_dir(place.path("parts")).unwrap();
    std::fs::copy(place.path("whole/config.json"), place.path("parts/config.json")).unwrap();
    place.ok("train data --resume --device cpu --out parts");
    assert_same_run(&place, "whole", "parts");
}

/// A killed run may have written files of an epoch after its last checkpoint. They do not survive if the resumed run
/// takes another course.
#[test]
fn best_belongs_to_the_epochs_that_last_tells_of() {
    let place = Place::new();
    place.train("run", "--epochs 1 --lr 0.01");
    let [best, last] = ["best", "last"].map(|name| place.read(&format!("run/{name}.safetensors")));
    place.ok("train data --resume --epochs 6 --device cpu --out run");
    assert!(place.read("run/best.safetensors") != best);
    std::fs::write(place.path("run/last.safetensors"), last).unwrap();
    place.ok("train data --resume --epochs 1 --device cpu --out run");
    assert!(place.read("run/best.safetensors") == best);
}

/// Kills at random moments, during start-up or any phase of an epoch, do not change the result.
#[cfg(unix)]
#[test]
fn kills_do_not_show() {
    use std::process::Stdio;
    const KILLS: u32 = 10;
    const EPOCHS: usize = 40;

    let place = Place::new();
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/data/clipart-mini");
    let options = format!(
        "--recipe goal --batch 256 --embed 8 --epochs {EPOCHS} --lr 0.002 --dropout 0.1 --device cpu"
    );
    place.ok(&format!("train {data} {options} --out whole"));
    let untimed = |out: &str| -> Vec<Value> {
        let mut lines = place.metrics(out);
        lines.iter_mut().for_each(|line| line["seconds"] = Value::Null);
        lines
    };

    // Moments are counted: a number of further epochs in the file of metrics, then a number of checks. On a busy
    // machine a run may end before enough kills hit. Then another run is started.
    let (seed, mut kills, mut runs) = (20_240, 0, 0);
    let mut numbers = numbers(seed);
    let mut below = |n: usize| ((0.5 + 0.5 * numbers.next().unwrap()) * n as f32) as usize;
    while kills < KILLS && runs < 20 {
        runs += 1;
        let out = format!("killed{runs}");
        let (config, metrics) =
            (place.path(&out).join("config.json"), place.path(&out).join("metrics.jsonl"));
        let epochs = || std::fs::read_to_string(&metrics).unwrap_or_default().lines().count();
        // There is no run to resume before config.json exists.
        let args = || match config.exists() {
            true => format!("train {data} --resume --device cpu --out {out}"),
            false => format!("train {data} {options} --out {out}"),
        };
        let mut reached = Vec::new();
        while kills < KILLS && epochs() < EPOCHS {
            let (goal, mut looks) = (epochs() + below(5), below(300));
            let mut child = place.start(&args(), Stdio::null);
            while looks > 0 && child.try_wait().unwrap().is_none() {
                looks -= usize::from(epochs() >= goal);
            }
            kills += u32::from(kill(child));
            reached.push(epochs());
        }
        println!("seed {seed}, run {runs}: {kills} kills so far, epochs reached {reached:?}");
        place.ok(&args());
        assert_same_run(&place, "whole", &out);
        assert_eq!(place.names(&out), place.names("whole"), "no temporary file is left");
        assert_eq!(untimed(&out).len(), EPOCHS);
        assert_eq!(untimed(&out), untimed("whole"));
    }
    assert!(kills >= KILLS, "{kills} kills hit in {runs} runs");
}

/// A warning names once that a head has collapsed, and what to change. A head that learns gives no warning.
#[test]
fn a_collapse_is_named() {
    let place = Place::new();
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/data/clipart-mini");
    let train = |options: &str, out: &str| {
        let output = place.run(&format!(
            "train {data} --recipe goal --device cpu {options} --json --no-baselines --out {out}"
        ));
        assert_eq!(output.code, 0, "{}", output.stderr);
        let lines = output.stderr.lines().filter(|line| line.starts_with("warning: training has collapsed"));
        let epochs: Vec<_> = place.metrics(out).iter().map(|line| line.get("collapse").is_some()).collect();
        (lines.map(String::from).collect::<Vec<_>>(), epochs)
    };
    let (lines, epochs) = train("--objective hinge --embed 2 --lr 0.05 --epochs 6", "collapsed");
    assert!(lines.len() == 1 && epochs[1..].iter().filter(|&&epoch| epoch).count() >= 3, "{epochs:?}");
    let (says, advice) = lines[0].split_once("; ").unwrap();
    assert_eq!(
        advice,
        "check that text_to_image names the image of every caption; if it does, start again with --warmup-epochs 1, a \
         lower --lr, a smaller --margin, or --objective infonce"
    );
    for part in
        ["are each nearly all the same (mean squared distance 0.0", "validation is at chance", "chance 2"]
    {
        assert!(says.contains(part), "{part} in {says}");
    }
    let line = place.metrics("collapsed").into_iter().find_map(|line| line.get("collapse").cloned());
    assert_eq!(format!("warning: {}", line.unwrap().as_str().unwrap()), lines[0]);

    // These runs have similarities near 1 and a loss near its plateau, but the pairs can still be told apart.
    for (i, options) in
        ["--objective hinge --lr 0.05 --embed 64", "--objective hinge", "--objective con:con --lr 0.01", ""]
            .into_iter()
            .chain([
                "--objective cir:lin",
                "--objective nca:sig",
                "--objective infonce",
                "--objective hinge-sum",
            ])
            .enumerate()
    {
        let (lines, epochs) = train(&format!("{options} --epochs 4"), &format!("healthy{i}"));
        assert!(lines.is_empty() && epochs == [false; 4], "{options}: {lines:?}");
    }
}
