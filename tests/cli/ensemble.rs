//! `wgoal train --ensemble`.

use super::place::*;
use serde_json::{Value, json};
use std::fs;

/// The rows and the width of vectors that `wgoal embed` wrote.
fn vectors(place: &Place, name: &str) -> (Vec<f32>, usize) {
    let bytes = place.read(name);
    let file = npyz::NpyFile::new(&bytes[..]).unwrap();
    let width = file.shape()[1] as usize;
    (file.into_vec().unwrap(), width)
}

#[test]
fn an_ensemble_is_its_members_side_by_side() {
    let place = Place::new();
    let found = place.train("run", "--ensemble 3 --seed 7 --standardize");
    let members = found["members"].as_array().unwrap();
    assert_eq!(
        members.iter().map(|m| m["seed"].clone()).collect::<Vec<_>>(),
        [7, 1007, 2007].map(Value::from)
    );
    assert_eq!(place.names("run/members"), ["1", "2", "3"]);
    for file in ["config.json", "run.toml", "best.safetensors", "result.json", "report.html"] {
        assert!(place.path(&format!("run/{file}")).exists(), "{file}");
    }
    // A member is what a run with its seed gives.
    let alone = place.train("alone", "--seed 1007 --standardize");
    let same = ["alone", "run/members/2"].map(|run| place.read(&format!("{run}/best.safetensors")));
    assert!(same[0] == same[1], "another member");
    assert_eq!((&members[1]["val"], &members[1]["test"]), (&alone["val"]["rsum"], &alone["test"]["rsum"]));
    let embed = |head: &str, out: &str| {
        place.ok(&format!("embed {head} data --split test --device cpu --out {out}"));
    };
    embed("run", "all");
    (1..=3).for_each(|k| embed(&format!("run/members/{k}"), &format!("own{k}")));
    for side in ["images", "texts"] {
        let (all, width) = vectors(&place, &format!("all/{side}.npy"));
        let own = [1, 2, 3].map(|k| vectors(&place, &format!("own{k}/{side}.npy")).0);
        assert!(width == 12 && own[0] != own[1]);
        let scale = (1.0 / 3f64.sqrt()) as f32;
        for (at, x) in all.iter().enumerate() {
            let (row, column) = (at / 12, at % 12);
            assert_eq!(*x, own[column / 4][row * 4 + column % 4] * scale, "{side} {at}");
        }
    }
    // Every command takes the head.
    let eval = place.json("eval run data --device cpu --json");
    assert_eq!((&eval["rsum"], &eval["i2t"]), (&found["test"]["rsum"], &found["test"]["i2t"]));
    let val = place.json("eval run data --split val --device cpu --json");
    assert_eq!(val["rsum"], found["val"]["rsum"]);
    place.ok("rank run data --device cpu --top 3 --out t2i.trec");
    place.ok("search run data --text-row 39 --split test --device cpu");
    let compared = place.json("compare run alone --json");
    assert_eq!(compared["runs"][0]["val"], found["val"]);
    let page = String::from_utf8(place.read("run/report.html")).unwrap();
    assert!(page.contains("members/3/report.html") && !page.contains("not finished an epoch"));
}

#[test]
fn members_from_kernel_cca_have_other_bandwidths_and_a_correction_for_all() {
    let place = Place::new();
    fs::remove_dir_all(place.path("data")).unwrap();
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/data/clipart-mini");
    let found = place.json(&format!(
        "train {data} --recipe wgoal-fast --embed 32 --ensemble 2 --no-baselines --no-report --device cpu --json --out run"
    ));
    let members = found["members"].as_array().unwrap();
    assert_eq!(
        members.iter().map(|m| m["bandwidth"].clone()).collect::<Vec<_>>(),
        [json!([0.5]), json!([0.7])]
    );
    let eval = place.json(&format!("eval run {data} --device cpu --json"));
    assert_eq!(found["corrected"]["test"]["rsum"], eval["rsum"]);
    assert_eq!(found["test"]["rsum"], eval["plain"]["rsum"]);
    let (tensors, _) = read_tensors(&place.read("run/best.safetensors"));
    assert_eq!(tensors["correction.images"].1[1], 64);
    assert!(tensors["image.landmarks.shift"].2 != tensors["members.2.image.landmarks.shift"].2);
}

/// A run that ends in its second member goes on there, and longer runs train every member for longer.
#[test]
fn an_ensemble_is_resumed_to_the_same_bytes() {
    let place = Place::new();
    let whole = place.train("whole", "--ensemble 2 --epochs 4 --correction auto");
    let best = || place.read("whole/best.safetensors");
    let before = best();
    // As if it had been killed in the second member, before its first epoch ended.
    fs::remove_file(place.path("whole/best.safetensors")).unwrap();
    fs::remove_file(place.path("whole/members/2/last.safetensors")).unwrap();
    fs::write(place.path("whole/members/2/metrics.jsonl"), "").unwrap();
    let stamp = || fs::metadata(place.path("whole/members/2/last.safetensors")).is_ok();
    let again = place.json("train --resume --out whole --json");
    assert!(before == best() && stamp(), "another head after resuming");
    assert_eq!(again["members"], whole["members"]);
    place.train("parts", "--ensemble 2 --epochs 2 --correction auto");
    let longer = place.json("train --resume --epochs 4 --out parts --json");
    assert!(before == place.read("parts/best.safetensors"), "another head after more epochs");
    assert_eq!(longer["val"], whole["val"]);
    let refused = place.run("train --resume --out whole --ensemble 3");
    let expected = "--resume: expected ensemble = 2, found ensemble = 3";
    assert!(refused.code == 1 && refused.stderr.contains(expected), "{}", refused.stderr);
}

#[test]
fn an_ensemble_is_no_start_and_needs_a_folder_of_its_own() {
    let place = Place::new();
    place.train("run", "--ensemble 2");
    let fault = |args: &str, expected: &str| {
        let output = place.run(args);
        assert!(output.code == 1 && output.stderr.contains(expected), "{}", output.stderr);
    };
    fault(
        "train data --recipe goal --init run --device cpu --out no",
        "expected one head, found an ensemble of 2; give the head of one of its members, in the folder members of its run",
    );
    place.ok("train data --recipe goal --epochs 1 --batch 16 --init run/members/2 --device cpu --out yes");
    fault(
        "train data --device cpu --out run",
        "expected a folder without a run, found config.json of an earlier run",
    );
    fs::create_dir_all(place.path("other/members")).unwrap();
    fault(
        "train data --recipe goal --ensemble 2 --device cpu --out other",
        "expected no folder, because the run will make one, found a folder; move it elsewhere",
    );
    // The member of another ensemble.
    fs::remove_dir_all(place.path("run/members/2")).unwrap();
    place.train("third", "--ensemble 2 --seed 3");
    fs::rename(place.path("third/members/2"), place.path("run/members/2")).unwrap();
    fault(
        "train --resume --out run",
        "expected the member of this ensemble, found a run with other options; remove the",
    );
}
