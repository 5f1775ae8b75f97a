//! Files of the user: no result replaces them, under any name or link.
#![cfg(unix)]

use super::files::{assert_one_error, place_of_kinds, run};
use super::place::*;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

/// A result never replaces one of its inputs, whatever its name.
#[test]
fn nothing_that_is_read_is_written_over() {
    let (place, _socket) = place_of_kinds();
    let rows = [
        ("x.npy", "gradient --images x.npy --texts x.npy --device cpu --out FILE"),
        ("ids.npy", "gradient --images x.npy --texts x.npy --ids ids.npy --device cpu --out FILE"),
        (
            "w.wgsl",
            "gradient --images x.npy --texts x.npy --objective custom --weights w.wgsl --device cpu --out FILE",
        ),
        ("w.wgsl", "analyze custom --weights w.wgsl --plot FILE"),
        ("w.wgsl", "bench pairs --pairs 4 --embed 4 --weights w.wgsl --device cpu --plot FILE"),
        (
            "run/best.safetensors",
            "eval run/best.safetensors data --top 2 --device cpu --write-candidates FILE",
        ),
        ("run/best.safetensors", "eval run data --top 2 --device cpu --write-candidates FILE"),
        ("data/images.npy", "eval run/best.safetensors data --top 2 --device cpu --write-candidates FILE"),
        (
            "data/split_test.npy",
            "eval run/best.safetensors data --top 2 --device cpu --write-candidates FILE",
        ),
    ];
    let before = contents(&place);
    for (input, command) in rows {
        let real = place.path(input);
        let soft = place.path("soft");
        let hard = place.path("hard");
        symlink(&real, &soft).unwrap();
        fs::hard_link(&real, &hard).unwrap();
        let dots = format!("./special/../{input}");
        for out in [input, &dots, real.to_str().unwrap(), "soft", "hard"] {
            let command = command.replace("FILE", out);
            let output = run(&place, &command);
            assert_one_error(&output, &command);
            assert!(output.stderr.contains("would be overwritten"), "{command}\n{}", output.stderr);
        }
        fs::remove_file(soft).unwrap();
        fs::remove_file(hard).unwrap();
        assert!(contents(&place) == before, "{command}");
    }
}

/// Every regular file, with its content.
fn contents(place: &Place) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for folder in ["", "data", "run"] {
        for entry in fs::read_dir(place.path(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                found.push((path.clone(), fs::read(path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn embeddings_and_heads_take_the_place_of_nothing_that_is_read() {
    let (place, _socket) = place_of_kinds();
    let refused = |command: &str| {
        let before = contents(&place);
        let output = run(&place, command);
        assert_one_error(&output, command);
        assert!(contents(&place) == before, "{command}");
    };
    let embed = "embed run/best.safetensors data --split test --device cpu --out";
    // A folder with features only, to which the dataset links.
    fs::create_dir(place.path("features")).unwrap();
    fs::rename(place.path("data/texts.npy"), place.path("features/texts.npy")).unwrap();
    symlink("../features/texts.npy", place.path("data/texts.npy")).unwrap();
    let features = place.read("features/texts.npy");
    refused(&format!("{embed} features"));
    assert!(place.read("features/texts.npy") == features);
    refused(&format!("{embed} data"));
    symlink("data", place.path("also-data")).unwrap();
    refused(&format!("{embed} also-data"));
    // A head that has the name of the result.
    fs::create_dir(place.path("heads")).unwrap();
    fs::copy(place.path("run/best.safetensors"), place.path("heads/embeddings.safetensors")).unwrap();
    let head = place.read("heads/embeddings.safetensors");
    refused(
        "embed heads/embeddings.safetensors data --split test --device cpu --format safetensors --out heads",
    );
    assert!(place.read("heads/embeddings.safetensors") == head);
    // A baseline replaces a baseline, and nothing else.
    fs::copy(place.path("run/best.safetensors"), place.path("heads/best.safetensors")).unwrap();
    refused("baseline ridge data --device cpu --out heads");
    assert!(place.read("heads/best.safetensors") == head);
    fs::write(place.path("heads/best.safetensors"), "mine").unwrap();
    refused("baseline ridge data --device cpu --out heads");
    assert!(place.read("heads/best.safetensors") == b"mine");
    for _ in 0..2 {
        place.ok("baseline ridge data --device cpu --out ridge");
        place.ok(&format!("{embed} vectors"));
    }
}

#[test]
fn a_sweep_writes_over_nothing_of_another_origin() {
    let place = Place::new();
    let sweep = "sweep data --objectives hinge --seeds 0 --epochs 1 --embed 4 --batch 16 --device cpu --out";
    place.ok(&format!("{sweep} good"));
    place.ok(&format!("{sweep} good"));
    let head = place.names("good/heads").remove(0);
    let results = place.read("good/results.jsonl");
    let plan = results.split_inclusive(|&b| b == b'\n').next().unwrap();
    let head = format!("heads/{head}");
    // The contents of the folder, and the file that must stay.
    let cases: [(&str, &[(&str, &[u8])]); 8] = [
        ("results.jsonl", &[("results.jsonl", b"mine, without an end")]),
        ("results.jsonl", &[("results.jsonl", b"mine\n")]),
        ("table.md", &[("table.md", b"# my notes\n")]),
        ("table.csv", &[("table.csv", b"a,b\n1,2\n"), ("results.jsonl", plan)]),
        ("table.json", &[("table.json", b"{}"), ("results.jsonl", plan)]),
        ("table.csv", &[("table.csv", &place.read("good/table.csv"))]),
        (&head, &[(&head, b"mine")]),
        ("heads/.wgoal-mine", &[("heads/.wgoal-mine", b"mine"), ("results.jsonl", plan)]),
    ];
    for (number, (kept, files)) in cases.into_iter().enumerate() {
        let folder = format!("sweep{number}");
        fs::create_dir_all(place.path(&folder).join("heads")).unwrap();
        for (name, bytes) in files {
            fs::write(place.path(&folder).join(name), bytes).unwrap();
        }
        let output = run(&place, &format!("{sweep} {folder}"));
        if !kept.starts_with("heads/.") {
            assert_one_error(&output, kept);
            assert!(output.stderr.contains("choose another --out"), "{}", output.stderr);
            assert!(!output.stderr.contains("val rsum"), "after a run\n{}", output.stderr);
        }
        for (name, bytes) in files {
            let same = place.read(&format!("{folder}/{name}")) == *bytes;
            assert!(same || *name == "results.jsonl" && *bytes == plan, "{name}");
        }
    }
    // A last line that lacks only its line end is complete.
    fs::write(place.path("good/results.jsonl"), results.strip_suffix(b"\n").unwrap()).unwrap();
    let output = run(&place, &format!("{sweep} good"));
    assert!(output.code == 0 && place.read("good/results.jsonl") == results, "{}", output.stderr);
}

/// Files that a killed process left half written are removed. Files with similar names are kept.
#[test]
fn names_that_begin_as_ours_are_the_users() {
    let place = Place::new();
    place.train("run", "");
    let mine = [".wgoal-x1y2z3", ".wgoal-notes.txt", ".wgoal-partial-notes.tmp", ".wgoal-partial-é.tmp"];
    for name in mine {
        fs::write(place.path("run").join(name), "mine").unwrap();
    }
    fs::write(place.path("run/.wgoal-partial-0aZ9bY8cX7dW.tmp"), "half").unwrap();
    fs::create_dir(place.path("run/.wgoal-partial-0aZ9bY8cX7dV.tmp")).unwrap();
    place.ok("train --resume --epochs 3 --device cpu --out run");
    let names = place.names("run");
    assert!(mine.iter().all(|name| names.iter().any(|other| other == name)), "{names:?}");
    assert!(!names.iter().any(|name| name.ends_with("W.tmp")), "{names:?}");
    assert!(names.iter().any(|name| name.ends_with("V.tmp")), "a folder is nothing of ours: {names:?}");
}
