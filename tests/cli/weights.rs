//! Weight files of the user on the command line.

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
fn a_sweep_takes_a_file_and_the_values_of_its_parameters() {
    let place = Place::new();
    std::fs::write(place.path("mine.wgsl"), FILE).unwrap();
    let options = "--weights mine.wgsl --seeds 0 --epochs 1 --batch 16 --embed 8 --device cpu --out sweep";
    place.ok(&format!("sweep data --objectives con:con,custom@top:2 --grid param=gamma=1,gamma=3 {options}"));
    let csv = String::from_utf8(place.read("sweep/table.csv")).unwrap();
    let row = csv.lines().find(|line| line.starts_with("custom@top:2")).unwrap_or_default();
    assert!(row.contains("gamma="), "{csv}");
}

#[test]
fn a_run_with_a_bank_and_several_negatives_goes_on_to_the_same_bits() {
    let place = Place::new();
    let options = "--objective infonce+0.5*cir:con --negatives top:2 --bank-warmup 1 --memory-bank";
    place.train("whole", &format!("{options} 64 --epochs 3"));
    place.train("parts", &format!("{options} 64 --epochs 2"));
    place.train("small", &format!("{options} 16 --epochs 3"));
    place.ok("train data --resume --device cpu --out parts --epochs 3");
    let weights = |out: &str| read_tensors(&place.read(&format!("{out}/last.safetensors"))).0;
    assert_eq!(weights("whole")["image.weight"].2, weights("parts")["image.weight"].2);
    assert_ne!(weights("whole")["image.weight"].2, weights("small")["image.weight"].2);
    let config: serde_json::Value = serde_json::from_slice(&place.read("whole/config.json")).unwrap();
    assert_eq!(config["objective"]["sum"][1][1]["over"][0], json!("top:2"));
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
    assert!(String::from_utf8(place.read("plane.svg")).unwrap().contains(">cir:lin<"));
    let json = place.json("analyze infonce --json");
    assert_eq!(keys(&json).join(" "), "asymmetry integrable objective plane wrong_in_batches");
    assert_eq!((&json["integrable"], &json["plane"]), (&json!(true), &json!(null)));
    std::fs::write(place.path("mine.wgsl"), FILE).unwrap();
    let json = place.json("analyze custom --weights mine.wgsl --param gamma=1 --json");
    assert_eq!((&json["integrable"], &json["plane"]["positive"]), (&json!(false), &json!([0.0, 2.0])));
}
