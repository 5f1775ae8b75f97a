//! Weight files of one's own through the command line.

use super::place::*;
use serde_json::json;

const FILE: &str = "override gamma: f32 = 2.0;
fn triplet_weight(p: f32, n: f32) -> f32 { return exp(gamma * (n - p)); }
fn pair_weights(p: f32, n: f32) -> vec2f { return vec2f(1.0 - p, max(n, 0.0)); }
";

#[test]
fn a_run_keeps_its_weights_and_needs_no_file_to_go_on() {
    let place = Place::new();
    std::fs::write(place.path("mine.wgsl"), FILE).unwrap();
    let options = "--objective custom --weights mine.wgsl --param gamma=3 --margin 0.5";
    place.train("whole", &format!("{options} --epochs 3"));
    place.train("parts", &format!("{options} --epochs 1"));
    place.train("default", "--objective custom --weights mine.wgsl --margin 0.5 --epochs 3");
    std::fs::remove_file(place.path("mine.wgsl")).unwrap();
    place.ok("train data --resume --device cpu --out parts --epochs 3");
    let weights = |out: &str| read_tensors(&place.read(&format!("{out}/last.safetensors"))).0;
    assert_eq!(weights("whole")["image.weight"].2, weights("parts")["image.weight"].2);
    assert_ne!(weights("whole")["image.weight"].2, weights("default")["image.weight"].2);
    let config: serde_json::Value = serde_json::from_slice(&place.read("whole/config.json")).unwrap();
    let custom = &config["objective"]["custom"];
    assert_eq!(custom["margin"], json!(0.5));
    assert_eq!(custom["weights"], json!({"file": "mine.wgsl", "source": FILE, "parameters": {"gamma": 3.0}}));
    let other = place.run("train data --resume --device cpu --out parts --epochs 4 --param gamma=4");
    assert!(other.code == 1 && other.stderr.contains("--resume: expected objective ="), "{}", other.stderr);
}

#[test]
fn faults_are_told_by_place() {
    let place = Place::new();
    std::fs::write(place.path("mine.wgsl"), FILE.replace("exp(", "expo(")).unwrap();
    let cases = [
        ("--objective custom", "objective `custom`: expected a file that defines its weights, found none"),
        ("--weights mine.wgsl", "mine.wgsl, line 2, column 51: expected WGSL, found no definition in scope"),
        ("--weights none.wgsl", "none.wgsl: expected a text file that can be read"),
    ];
    for (options, expected) in cases {
        let output = place.run(&format!("train data --device cpu {options}"));
        assert!(output.code == 1 && output.stderr.contains(expected), "{options}: {}", output.stderr);
    }
}

#[test]
fn analyze_tells_and_draws() {
    let place = Place::new();
    let text = place.ok("analyze cir:lin --tau 3 --plot plane.svg");
    assert!(text.starts_with("cir:lin: the gradient of a loss\n"), "{text}");
    assert!(String::from_utf8(place.read("plane.svg")).unwrap().contains("cir:lin: T P⁺"));
    let json = place.json("analyze infonce --json");
    assert_eq!(keys(&json).join(" "), "asymmetry integrable objective plane wrong_in_batches");
    assert_eq!((&json["integrable"], &json["plane"]), (&json!(true), &json!(null)));
    std::fs::write(place.path("mine.wgsl"), FILE).unwrap();
    let json = place.json("analyze custom --weights mine.wgsl --param gamma=1 --json");
    assert_eq!((&json["integrable"], &json["plane"]["positive"]), (&json!(false), &json!([0.0, 2.0])));
}
