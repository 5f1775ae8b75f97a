//! Paths that are not valid text. Files may have any name.
#![cfg(target_os = "linux")]

use super::place::*;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;

/// A word of a command. `#` stands for a byte that is not valid in text.
fn word(text: &str) -> OsString {
    OsStr::from_bytes(&text.bytes().map(|b| if b == b'#' { 0xff } else { b }).collect::<Vec<_>>()).to_owned()
}

#[test]
fn every_command_takes_paths_that_are_no_text() {
    let place = Place::new();
    let path = |name: &str| place.path("").join(word(name));
    write_dataset(&path("da#ta"));
    write_npy(&path("x#.npy"), &[2, 2], &[1.0f32, 0.0, 0.0, 1.0]);
    let weights = "fn triplet_weight(p: f32, n: f32) -> f32 { return 1.0; }\n\
         fn pair_weights(p: f32, n: f32) -> vec2f { return vec2f(1.0, 1.0); }\n";
    fs::write(path("w#.wgsl"), weights).unwrap();
    for command in [
        "train da#ta --epochs 1 --embed 4 --batch 16 --device cpu --out ru#n",
        // The dataset is that of the command before.
        "train --resume --epochs 2 --device cpu --out ru#n",
        "train da#ta --epochs 1 --embed 4 --batch 16 --device cpu --objective custom --weights w#.wgsl",
        "eval ru#n/best.safetensors da#ta --device cpu --top 2 --write-candidates c#.safetensors",
        "embed ru#n/best.safetensors da#ta --split test --device cpu --out v#",
        "embed ru#n/best.safetensors da#ta --split test --device cpu --format safetensors --out v#",
        "baseline ridge da#ta --device cpu --out b#",
        "sweep da#ta --objectives hinge --seeds 0 --epochs 1 --embed 4 --device cpu --out s#",
        "gradient --images x#.npy --texts x#.npy --device cpu --out g#.safetensors",
        "analyze custom --weights w#.wgsl --plot p#.svg",
        "bench pairs --pairs 4 --embed 4 --device cpu --plot q#.svg",
    ] {
        let output = place.command().args(command.split(' ').map(word)).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "wgoal {command}\n{stderr}");
    }
    for name in ["c#.safetensors", "v#/texts.npy", "b#/best.safetensors", "s#/table.md", "g#.safetensors"] {
        assert!(path(name).is_file(), "{name}");
    }
    // A path that is valid text is written as text, so configurations do not change.
    place.train("run", "");
    let config: serde_json::Value = serde_json::from_slice(&place.read("run/config.json")).unwrap();
    assert!(config["dataset"].as_str().unwrap().ends_with("/data"), "{config}");
    // A fault of such a path is one clear error.
    let output =
        place.command().args(["eval", "run/best.safetensors"]).arg(word("no#where")).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("error: no\u{fffd}where: expected a dataset"), "{stderr}");
}
