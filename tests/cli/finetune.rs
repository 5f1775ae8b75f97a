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

#[test]
fn the_pull_towards_the_start_is_resumed() {
    let place = Place::new();
    // A strong pull, so that another start would give other bits.
    let options =
        "--l2-sp 10 --lr 0.01 --weight-decay 0 --lr-linear 0.5 --lr-random-features 2 --random-features 6";
    resumes_to_the_same_bits(&place, options);
    let (pulled, _) = read_tensors(&place.read("whole/last.safetensors"));
    assert!(pulled.contains_key("optimizer.start.image.fourier.weight"));
    place.ok(&format!("train data {SMALL} {} --epochs 4 --out free", options.replace("--l2-sp 10 ", "")));
    let (free, _) = read_tensors(&place.read("free/last.safetensors"));
    assert!(free["image.weight"] != pulled["image.weight"]);
}

#[test]
fn training_on_the_centred_kernel_is_resumed_and_can_be_left_out() {
    let place = Place::new();
    let options = "--init kcca --landmarks 20 --ema 0.9 --lr 0.001";
    resumes_to_the_same_bits(&place, options);
    place.ok(&format!("train data {SMALL} {options} --centre-kernel off --epochs 4 --out off"));
    let [on, off] =
        ["whole", "off"].map(|run| read_tensors(&place.read(&format!("{run}/last.safetensors"))).0);
    assert!(on["text.landmarks.weight"] != off["text.landmarks.weight"]);
    assert_eq!(on["text.landmarks.rows"], off["text.landmarks.rows"]);
}

#[test]
fn a_factor_without_its_part_is_said_to_have_no_effect() {
    let place = Place::new();
    let output = place.run(&format!(
        "train data {SMALL} --epochs 1 --lr-mlp 2 --lr-random-features 0 --centre-kernel off --out r"
    ));
    assert_eq!(output.code, 0, "{}", output.stderr);
    for says in [
        "warning: --lr-mlp has no effect: the head has no perceptron",
        "warning: --centre-kernel has no effect: the head has no landmarks",
        "warning: --lr-random-features has no effect: the head has no random features or landmarks",
    ] {
        assert!(output.stderr.contains(says), "{}", output.stderr);
    }
}

/// Embeddings of the test split by the start of a run with these options: nothing of the head is trained.
fn start_vectors(place: &Place, options: &str, out: &str) -> [Vec<u8>; 2] {
    let fixed = "--lr-linear 0 --lr-random-features 0 --lr-mlp 0 --correction none --epochs 1";
    place.run(&format!("train data {SMALL} {options} {fixed} --out {out}"));
    place.ok(&format!("embed {out}/last.safetensors data --split test --device cpu --out {out}-vectors"));
    ["images", "texts"].map(|side| place.read(&format!("{out}-vectors/{side}.npy")))
}

/// A perceptron that is added to a start must not change it, and must be trained.
#[test]
fn perceptrons_on_both_sides_leave_a_start_as_it_is() {
    let place = Place::new();
    let train = |options: &str, out: &str| {
        place.ok(&format!("train data {SMALL} --lr 0.01 {options} --epochs 2 --out {out}"));
        place.metrics(out)[0]["val"]["rsum"].clone()
    };
    let both = "--image-encoder residual-mlp --text-encoder residual-mlp";
    for (k, start) in ["--init cca", "--init kcca --random-features 6 --standardize"].into_iter().enumerate()
    {
        let [plain, deep] = [format!("plain{k}"), format!("deep{k}")];
        assert_eq!(train(start, &plain), train(&format!("{start} {both}"), &deep), "{start}");
        let [of_plain, of_deep] = [("plain", start), ("deep", &format!("{start} {both}"))]
            .map(|(name, options)| start_vectors(&place, options, &format!("{name}-start{k}")));
        assert!(of_plain == of_deep, "{start}: other embeddings");
        let (tensors, _) = read_tensors(&place.read(&format!("{deep}/last.safetensors")));
        for side in ["image", "text"] {
            let second = &tensors[&format!("{side}.mlp.second.weight")];
            assert!(second.2.iter().any(|&byte| byte != 0), "{side} is not trained");
            assert!(tensors.contains_key(&format!("{side}.mlp.running")));
        }
    }
    // A head from a file gets perceptrons too. One that has them starts as it is.
    let plain = train("--init plain1", "again");
    assert_eq!(train(&format!("--init plain1 {both}"), "file"), plain);
    let found = place.json("eval deep1/best.safetensors data --split val --device cpu --json");
    assert_eq!(train("--init deep1", "deeper"), found["rsum"]);
    let output = place.run(&format!("train data {SMALL} --init deep1 --image-encoder linear --out no"));
    let expected = "expected --image-encoder residual-mlp, found --image-encoder linear; leave the option out, or start from \
                    another head";
    assert!(output.code == 1 && output.stderr.contains(expected), "{}", output.stderr);
    resumes_to_the_same_bits(&place, "--text-encoder residual-mlp --lr 0.01 --init kcca --random-features 6");
}

/// A gated perceptron that is added to a start must not change it, and must be trained.
#[test]
fn gated_perceptrons_leave_a_start_as_it_is() {
    let place = Place::new();
    let train = |options: &str, out: &str| {
        place.ok(&format!("train data {SMALL} --lr 0.01 {options} --epochs 2 --out {out}"));
        place.metrics(out)[0]["val"]["rsum"].clone()
    };
    let both = "--image-encoder gated-mlp --text-encoder gated-mlp --gated-width 2";
    let start = "--init kcca --random-features 6 --standardize";
    assert_eq!(train(start, "plain"), train(&format!("{start} {both}"), "gated"));
    let gated = start_vectors(&place, &format!("{start} {both}"), "gated-start");
    assert!(start_vectors(&place, start, "plain-start") == gated, "other embeddings");
    assert_eq!(train("--init plain", "again"), train(&format!("--init plain {both}"), "file"));
    let (tensors, _) = read_tensors(&place.read("gated/last.safetensors"));
    for (side, dim) in [("image", DIMS[0]), ("text", DIMS[1])] {
        let second = &tensors[&format!("{side}.mlp.second.weight")];
        assert!(second.2.iter().any(|&byte| byte != 0), "{side} is not trained");
        assert_eq!(tensors[&format!("{side}.mlp.gate.weight")].1, [2 * dim, dim]);
    }
    // A head that has one brings its width with it.
    let found = place.json("eval gated/best.safetensors data --split val --device cpu --json");
    assert_eq!(train("--init gated", "more"), found["rsum"]);
    for (options, expected) in [
        ("--gated-width 3", "expected --gated-width 2, found --gated-width 3; leave the option out"),
        (
            "--text-encoder residual-mlp",
            "expected --text-encoder gated-mlp, found --text-encoder residual-mlp;",
        ),
    ] {
        let output = place.run(&format!("train data {SMALL} --init gated {options} --out no"));
        assert!(output.code == 1 && output.stderr.contains(expected), "{}", output.stderr);
    }
    let output = place.run(&format!("train data {SMALL} --epochs 1 --gated-width 3 --out without"));
    let says = "warning: --gated-width has no effect: the head has no gated perceptron";
    assert!(output.code == 0 && output.stderr.contains(says), "{}", output.stderr);
    resumes_to_the_same_bits(&place, &format!("{both} --lr 0.01 --lr-mlp 0.5 --ema 0.9"));
}

#[test]
fn structure_keeps_the_neighbourhoods_of_the_features() {
    let place = Place::new();
    let options = "--lr 0.01 --weight-decay 0";
    resumes_to_the_same_bits(&place, &format!("{options} --structure 10 --structure-temperature 0.1"));
    // The mean distance between the similarities within a side, before and after the head.
    let distance = |run: &str| {
        place
            .ok(&format!("embed {run}/last.safetensors data --split train --device cpu --out {run}/vectors"));
        let rows = |file: &str, dim: usize| -> Vec<Vec<f32>> {
            let values = npyz::NpyFile::new(&place.read(file)[..]).unwrap().into_vec::<f32>().unwrap();
            let unit = |row: &[f32]| {
                let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
                row.iter().map(|x| x / norm).collect()
            };
            values.chunks(dim).map(unit).collect()
        };
        let (before, after) =
            (rows("data/images.npy", DIMS[0]), rows(&format!("{run}/vectors/images.npy"), 4));
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let mut sum = 0.0;
        for i in 0..24 {
            for j in 0..24 {
                sum += (dot(&before[i], &before[j]) - dot(&after[i], &after[j])).abs();
            }
        }
        sum
    };
    place.ok(&format!("train data {SMALL} {options} --epochs 4 --out free"));
    place.ok(&format!("train data {SMALL} {options} --structure 1000 --epochs 4 --out strong"));
    let (free, strong) = (distance("free"), distance("strong"));
    assert!(strong < free, "{strong} {free}");
    let output = place.run(&format!("train data {SMALL} --structure 1 --text-pooling gpo --out no"));
    let expected = "--structure: expected poolings without learned weights, found pooling gpo; leave it out, or use poolings \
                    other than gpo";
    assert!(output.code == 1 && output.stderr.contains(expected), "{}", output.stderr);
}
