//! Too little memory is an error before anything is allocated, and never the loss of what a run has done.
#![cfg(target_os = "linux")]

use super::place::*;
use std::fs;

/// Runs `wgoal` in a process that may address so many kilobytes.
fn within(place: &Place, kilobytes: u32, args: &str) -> Output {
    let script = format!("ulimit -v {kilobytes}; exec {} {args}", env!("CARGO_BIN_EXE_wgoal"));
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .current_dir(place.path(""))
        .env("RUST_BACKTRACE", "1")
        .env("RAYON_NUM_THREADS", "2")
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert!(!stderr.contains("panicked"), "{args}\n{stderr}");
    Output { code: output.status.code().unwrap_or(-1), stdout, stderr }
}

#[test]
fn a_head_larger_than_the_memory_is_refused() {
    let place = Place::new();
    let train =
        "train data --recipe goal --device cpu --image-encoder residual-mlp --epochs 1 --no-baselines";
    let output = within(&place, 3_000_000, &format!("{train} --embed 30000 --out large"));
    let last = output.stderr.lines().last().unwrap();
    let expected = "error: training: expected 39.7 GB of memory for the 22 copies of 450765232 parameters that a run holds, found ";
    assert!(output.code == 1 && last.starts_with(expected), "{}", output.stderr);
    assert!(last.ends_with(" GB available; lower --embed, or free memory"), "{last}");
    assert!(!place.path("large").exists());
    let output = within(&place, 3_000_000, &format!("{train} --embed 64 --out small"));
    assert_eq!(output.code, 0, "{}", output.stderr);
}

/// A file whose metadata claim large matrices has to have them.
#[test]
fn a_head_that_claims_large_matrices_allocates_nothing() {
    let place = Place::new();
    place.train("run", "--no-baselines");
    let (tensors, mut metadata) = read_tensors(&place.read("run/best.safetensors"));
    let text = metadata.get_mut("wgoal").unwrap();
    *text = text.replace("[6,5]", "[268435456,268435456]");
    fs::write(place.path("claims.safetensors"), write_tensors(&tensors, metadata)).unwrap();
    let output = within(&place, 2_000_000, "eval claims.safetensors data --device cpu");
    let expected =
        "error: claims.safetensors: expected tensor image.weight of F32 [4, 268435456], found F32 [4, 6]; ";
    assert!(output.code == 1 && output.stderr.contains(expected), "{}", output.stderr);
}

/// The closed forms, for comparison, do not fit into the memory. The run has its result all the same.
#[test]
fn a_closed_form_that_does_not_fit_loses_no_result() {
    const WIDTH: usize = 2048;
    let place = Place::new();
    let images: Vec<f32> = numbers(5).take(IMAGES as usize * WIDTH).collect();
    write_npy(&place.path("data/images.npy"), &[IMAGES.into(), WIDTH as u64], &images);
    let train = "train data --recipe goal --device cpu --embed 4 --epochs 1 --batch 16 --json --out run";
    let output = within(&place, 260_000, train);
    let note = "note: the closed forms failed: closed form: expected 0.2 GB of memory for the covariances of 2048 and 5 \
                features, found ";
    assert!(output.code == 0 && output.stderr.contains(note), "{}", output.stderr);
    let summary: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert!(summary["test"]["rsum"].is_number() && summary.get("baselines").is_none(), "{summary}");
    assert!(place.names("run").contains(&"result.json".to_string()));
}
