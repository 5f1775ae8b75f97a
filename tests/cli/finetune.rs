//! Options that keep a head near its start.

use super::place::*;

const SMALL: &str = "--recipe goal --objective infonce --batch 16 --embed 4 --device cpu --no-baselines";

/// Runs four epochs at once, and again as two and two. The files must be the same.
#[track_caller]
fn resumes_to_the_same_bits(place: &Place, options: &str) {
    place.ok(&format!("train data {SMALL} {options} --epochs 4 --out whole"));
    place.ok(&format!("train data {SMALL} {options} --epochs 2 --out parts"));
    place.ok("train data --resume --epochs 4 --device cpu --no-baselines --out parts");
    for file in ["best.safetensors", "last.safetensors", "metrics.jsonl"] {
        let [whole, parts] = ["whole", "parts"].map(|run| place.read(&format!("{run}/{file}")));
        if file != "metrics.jsonl" {
            assert!(whole == parts, "{options}: {file} differs");
        }
    }
}

#[test]
fn the_average_of_the_weights_is_validated_saved_and_resumed() {
    let place = Place::new();
    resumes_to_the_same_bits(&place, "--ema 0.9 --lr 0.01 --image-encoder residual-mlp");
    let (tensors, _) = read_tensors(&place.read("whole/last.safetensors"));
    let weights = &tensors["optimizer.weights.image.weight"];
    let average = &tensors["image.weight"];
    assert!(weights.2 != average.2 && weights.1 == average.1);
    // The last line of the metrics is about the head in the file.
    let found = place.json("eval whole/last.safetensors data --split val --device cpu --json");
    assert_eq!(place.metrics("whole")[3]["val"]["rsum"], found["rsum"]);
    // Without an average, training takes the same steps, and the file has no second set of weights.
    place.ok(&format!("train data {SMALL} --lr 0.01 --image-encoder residual-mlp --epochs 4 --out plain"));
    let (plain, _) = read_tensors(&place.read("plain/last.safetensors"));
    assert_eq!(plain["image.weight"], *weights);
    assert!(!plain.contains_key("optimizer.weights.image.weight"));
}
