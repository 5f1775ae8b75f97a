//! What must not be lost: features, runs, results, and the run itself if nobody reads its messages.

use super::place::*;
#[cfg(unix)]
use std::process::{Command, Stdio};

/// New features of the same shapes.
fn compute_anew(place: &Place) {
    let images: Vec<f32> = numbers(77).take(IMAGES as usize * DIMS[0]).collect();
    write_npy(&place.path("data/images.npy"), &[IMAGES.into(), DIMS[0] as u64], &images);
}

#[test]
fn features_computed_anew_are_another_dataset() {
    let place = Place::new();
    place.train("run", "");
    let sweep =
        "sweep data --objectives hinge --seeds 0 --epochs 1 --embed 4 --batch 16 --device cpu --out sweep";
    place.ok(sweep);
    compute_anew(&place);
    for (args, word) in [("train data --resume --device cpu --out run", "another one"), (sweep, "another")] {
        let output = place.run(args);
        assert!(output.code == 1 && output.stderr.contains(word), "{args}\n{}", output.stderr);
    }
}

#[test]
fn embeddings_do_not_take_the_place_of_features() {
    let place = Place::new();
    place.train("run", "");
    let before = place.listing();
    for out in ["data", "./run/../data"] {
        let output =
            place.run(&format!("embed run/best.safetensors data --split test --out {out} --device cpu"));
        assert!(output.code == 1 && output.stderr.contains("overwritten"), "{}", output.stderr);
    }
    assert!(place.listing() == before);
}

#[test]
fn one_split_is_enough_to_evaluate_and_none_to_embed_all() {
    let place = Place::new();
    place.train("run", "");
    let whole = place.json("eval run/best.safetensors data --device cpu --json");
    for split in ["train", "val"] {
        std::fs::remove_file(place.path(&format!("data/split_{split}.npy"))).unwrap();
    }
    assert_eq!(place.json("eval run/best.safetensors data --device cpu --json"), whole);
    let lacking = place.run("eval run/best.safetensors data --split val --device cpu");
    assert!(lacking.code == 1 && lacking.stderr.contains("split_val.npy"), "{}", lacking.stderr);
    let lacking = place.run("train data --device cpu --out new");
    assert!(lacking.code == 1 && lacking.stderr.contains("split_train.npy"), "{}", lacking.stderr);

    place.ok("embed run/best.safetensors data --split test --out test --device cpu");
    std::fs::remove_file(place.path("data/split_test.npy")).unwrap();
    place.ok("embed run/best.safetensors data --split all --out all --device cpu");
    let rows = |name: &str| {
        let bytes = place.read(name);
        let npy = npyz::NpyFile::new(&bytes[..]).unwrap();
        assert_eq!(npy.shape()[1], 4);
        npy.into_vec::<f32>().unwrap()
    };
    let (all, test) = (rows("all/images.npy"), rows("test/images.npy"));
    assert_eq!(all.len(), IMAGES as usize * 4);
    // The test images are the last ones, whichever batch they are embedded in.
    for (a, b) in all[all.len() - test.len()..].iter().zip(&test) {
        assert!((a - b).abs() <= 1e-6, "{a} {b}");
    }
}

#[test]
fn a_folder_of_a_run_that_came_to_nothing_can_be_used_again() {
    let place = Place::new();
    assert_eq!(
        place
            .run("train data --recipe goal --lr 1e30 --batch 8 --epochs 5 --device cpu --embed 4 --out run")
            .code,
        1
    );
    assert_eq!(place.names("run"), ["config.json", "metrics.jsonl", "run.toml", "similarities.jsonl"]);
    place.train("run", "--lr 0.01 --no-report");
    assert!(!place.path("run/similarities.jsonl").exists(), "similarities of the run before");
    let output = place.run("train data --device cpu --embed 4 --out run");
    assert!(output.code == 1 && output.stderr.contains("an earlier run"), "{}", output.stderr);
    // The metrics list epochs, but their checkpoint is missing.
    std::fs::remove_file(place.path("run/last.safetensors")).unwrap();
    let output = place.run("train --resume --device cpu --out run");
    assert!(output.code == 1 && output.stderr.contains("the checkpoint of 2 epochs"), "{}", output.stderr);
}

#[test]
fn a_run_goes_on_where_it_was() {
    let place = Place::new();
    let devices = place.json("devices --json");
    let native = devices.as_array().unwrap().len() - 1;
    for index in 0..=native {
        let train = "train data --embed 4 --batch 16 --epochs 1";
        place.ok(&format!("{train} --device {index} --out {index}"));
        let output = place.run(&format!("train --resume --epochs 2 --out {index}"));
        assert!(output.code == 0 && output.stderr.contains("as before"), "{}", output.stderr);
        assert!(!output.stderr.contains("another device"), "{}", output.stderr);
        place.ok(&format!("train --resume --epochs 3 --device {native} --out {index}"));
        let config: serde_json::Value =
            serde_json::from_slice(&place.read(&format!("{index}/config.json"))).unwrap();
        let earlier = config["earlier_devices"].as_array().map_or(0, Vec::len);
        assert_eq!(earlier, usize::from(index != native), "{config}");
    }
}

#[test]
fn switches_of_a_recipe_can_be_turned_off() {
    let place = Place::new();
    place.train("on", "--standardize");
    place.train("off", "--standardize=off");
    let standardize = |run: &str| {
        let config: serde_json::Value =
            serde_json::from_slice(&place.read(&format!("{run}/config.json"))).unwrap();
        config["standardize"].as_bool()
    };
    assert_eq!((standardize("on"), standardize("off")), (Some(true), Some(false)));
}

/// Messages on standard error are for a reader. A command succeeds even if there is none.
#[cfg(unix)]
#[test]
fn nobody_need_read() {
    let place = Place::new();
    let args = "train data --recipe goal --device cpu --embed 4 --batch 16 --epochs 30 --out run";
    let mut child = place.start(args, Stdio::piped);
    drop((child.stdout.take(), child.stderr.take()));
    assert!(child.wait().unwrap().success());
    assert_eq!(place.metrics("run").len(), 30);
}

/// A result that cannot be written is an error.
#[cfg(target_os = "linux")]
#[test]
fn results_that_cannot_be_written_are_an_error() {
    let place = Place::new();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_wgoal"))
        .args(["devices", "--json"])
        .current_dir(place.path(""))
        .stdout(full)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && stderr.contains("standard output"), "{stderr}");
}

#[cfg(unix)]
#[test]
fn two_processes_do_not_write_into_one_folder() {
    use std::time::{Duration, Instant};
    let place = Place::new();
    let args = "train data --device cpu --embed 4 --batch 16 --epochs 1000000 --out run";
    let mut child = place.start(args, Stdio::null);
    let start = Instant::now();
    while !place.path("run/last.safetensors").exists() {
        assert!(start.elapsed() < HANGS && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = place.run("train --resume --device cpu --out run");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(output.code == 1 && output.stderr.contains("no other process"), "{}", output.stderr);
    // The lock ends with its process.
    let done = place.metrics("run").len();
    let output = place.run("train --resume --device cpu --epochs 1 --out run");
    assert!(!output.stderr.contains("no other process"), "{done} epochs, {}", output.stderr);
}

/// One flipped bit anywhere in the file of a head is refused, by every command that reads it.
#[test]
fn a_flipped_bit_is_refused() {
    let place = Place::new();
    place.train("run", "--epochs 2");
    for (name, args) in [
        ("best", "eval run/best.safetensors data --device cpu"),
        ("last", "train --resume --no-baselines --device cpu --epochs 3 --out run"),
    ] {
        let name = format!("run/{name}.safetensors");
        let whole = place.read(&name);
        let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        // The sixth byte of a tensor, a byte of the metadata, and a digit of the checksum.
        let digit = whole.windows(10).position(|window| window == br#"checksum\""#).unwrap() + 14;
        for at in [whole.len() - 2, header + 5, header / 2, digit] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(place.path(&name), bytes).unwrap();
            let output = place.run(args);
            let line = output.stderr.lines().last().unwrap_or_default();
            assert!(output.code == 1 && line.contains(&name), "{at}: {}", output.stderr);
            assert!(line.contains("expected checksum ") || at == header / 2, "{at}: {line}");
        }
        std::fs::write(place.path(&name), whole).unwrap();
    }
}

#[test]
fn a_head_without_a_checksum_loads_with_a_note() {
    let place = Place::new();
    place.train("run", "--epochs 2");
    let eval = "eval run/best.safetensors data --device cpu";
    let before = place.run(eval);
    std::fs::write(place.path("run/best.safetensors"), older(&place.read("run/best.safetensors"))).unwrap();
    let output = place.run(eval);
    let note =
        "note: run/best.safetensors has no checksum, so damage may go unnoticed: an older version wrote it\n";
    assert_eq!((output.code, &output.stdout), (0, &before.stdout));
    assert!(output.stderr.contains(note) && !before.stderr.contains(note), "{}", output.stderr);
    // The next epoch writes it anew, with a checksum.
    std::fs::write(place.path("run/last.safetensors"), older(&place.read("run/last.safetensors"))).unwrap();
    let resume = "train --resume --no-baselines --device cpu --epochs 3 --out run";
    assert!(place.run(resume).stderr.contains("note: run/last.safetensors has no checksum"));
    assert!(!place.run(resume).stderr.contains("no checksum"));
}

/// The number of steps in a checkpoint belongs to the number of its epochs.
#[test]
fn steps_that_do_not_fit_the_epochs_are_refused() {
    let place = Place::new();
    place.train("run", "--epochs 2");
    let (tensors, mut metadata) = read_tensors(&place.read("run/last.safetensors"));
    let mut fields: serde_json::Value = serde_json::from_str(&metadata["wgoal"]).unwrap();
    let steps = fields["step"].as_u64().unwrap();
    fields["step"] = (steps + 1).into();
    metadata.insert("wgoal".into(), fields.to_string());
    std::fs::write(place.path("run/last.safetensors"), write_tensors(&tensors, metadata)).unwrap();
    let output = place.run("train --resume --no-baselines --device cpu --epochs 3 --out run");
    let expected = format!(
        "error: checkpoint: expected {steps} steps in 2 epochs, found {}; resume from the run's last.safetensors\n",
        steps + 1
    );
    assert!(output.code == 1 && output.stderr.ends_with(&expected), "{}", output.stderr);
}
