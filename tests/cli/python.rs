//! What wgoal exports, in Python: tests/python compares it with published packages, and runs the code in the documents.
//! `scripts/test` installs the packages. Where they cannot be installed, these tests say so and check nothing.

use super::place::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The interpreter with the packages of tests/python/requirements.txt.
fn python() -> Option<PathBuf> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/bin/python");
    if python.exists() {
        return Some(python);
    }
    assert!(std::env::var_os("WGOAL_REQUIRE_PYTHON").is_none(), "{} is missing", python.display());
    eprintln!("not tested: no {}, which scripts/test installs", python.display());
    None
}

/// Runs a script of tests/python, which must succeed.
fn run(python: &Path, place: &Place, script: &str, args: &[String]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(script);
    let folder = Path::new(env!("CARGO_BIN_EXE_wgoal")).parent().unwrap();
    let before = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(folder.into()).chain(std::env::split_paths(&before)));
    let mut command = Command::new(python);
    command.arg(&script).args(args).env("PATH", path.unwrap()).current_dir(place.path(""));
    let output = command.output().unwrap();
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{} {args:?}\n{stdout}{stderr}", script.display());
    println!("{stdout}");
}

#[test]
#[ignore = "needs Python packages; scripts/test installs them and runs this"]
fn published_packages_find_the_recall_of_eval() {
    let Some(python) = python() else { return };
    let place = Place::new();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/clipart-mini").display().to_string();
    place.ok(&format!("baseline cca {data} --embed 64 --device cpu --out run"));
    fs::write(place.path("eval.json"), place.ok(&format!("eval run {data} --device cpu --json"))).unwrap();
    for format in ["npy", "fvecs", "fbin"] {
        place.ok(&format!("embed run {data} --split test --device cpu --format {format} --out {format}"));
    }
    // The correction for hubs is in the vectors, and it changes recall.
    let eval: serde_json::Value = serde_json::from_slice(&place.read("eval.json")).unwrap();
    assert!(eval["plain"]["rsum"].as_f64().unwrap() < eval["rsum"].as_f64().unwrap(), "{eval}");
    let plain = place.ok(&format!("eval run {data} --device cpu --json --correction none"));
    fs::write(place.path("plain.json"), plain).unwrap();
    place.ok(&format!("embed run {data} --split test --device cpu --correction none --out plain"));
    for direction in ["i2t", "t2i"] {
        let rank = format!("rank run {data} --device cpu --direction {direction}");
        place.ok(&format!("{rank} --out {direction}.trec --qrels {direction}.qrels"));
        place.ok(&format!("{rank} --format json --out {direction}.json --qrels {direction}-right.json"));
    }
    run(&python, &place, "recall.py", &[place.path("").display().to_string()]);
}

#[test]
#[ignore = "needs Python packages; scripts/test installs them and runs this"]
fn the_code_in_the_documents_applies_heads() {
    let Some(python) = python() else { return };
    let place = Place::new();
    let mut args = Vec::new();
    for (out, options) in [
        ("plain", ""),
        ("root", "--signed-root images --standardize"),
        ("both", "--signed-root both"),
        ("texts", "--signed-root texts"),
        ("random", "--standardize --init kcca --random-features 30"),
        ("landmarks", "--standardize --init kcca --landmarks 30"),
        ("ensemble", "--standardize --ensemble 3 --random-features 7"),
        (
            "gated",
            "--standardize --lr 0.1 --image-encoder gated-mlp --text-encoder gated-mlp --gated-width 2",
        ),
    ] {
        place.train(out, options);
        place.ok(&format!("embed {out} data --split test --device cpu --out {out}-vectors"));
        args.extend([format!("{out}/best.safetensors"), format!("{out}-vectors")]);
        args.extend(["data/images.npy".to_string(), "data/texts.npy".to_string()]);
    }
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/clipart-mini").display().to_string();
    for kind in ["csls", "inverted-softmax"] {
        let baseline = format!("baseline cca {data} --embed 64 --regularization 0.3 --device cpu");
        place.ok(&format!("{baseline} --correction {kind} --out {kind}"));
        place.ok(&format!("embed {kind} {data} --split test --device cpu --out {kind}-vectors"));
        args.extend([format!("{kind}/best.safetensors"), format!("{kind}-vectors")]);
        args.extend([format!("{data}/images.npy"), format!("{data}/texts.npy")]);
    }
    for library in ["numpy", "torch"] {
        let there = Command::new(&python).args(["-c", &format!("import {library}")]).output().unwrap();
        if !there.status.success() {
            let required = std::env::var("WGOAL_REQUIRE_PYTHON").unwrap_or_default();
            assert!(!required.contains(library), "{}", String::from_utf8_lossy(&there.stderr));
            eprintln!("not tested: the code with {library}, which is not installed");
            continue;
        }
        let args: Vec<String> = std::iter::once(library.to_string()).chain(args.iter().cloned()).collect();
        run(&python, &place, "head_file.py", &args);
    }
}

#[cfg(unix)]
#[test]
#[ignore = "needs Python packages; scripts/test installs them and runs this"]
fn the_transcript_leads_from_two_files_to_an_index() {
    let Some(python) = python() else { return };
    let place = Place::new();
    fs::remove_dir_all(place.path("data")).unwrap();
    std::os::unix::fs::symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("data"), place.path("data"))
        .unwrap();
    run(&python, &place, "transcript.py", &[]);
}
