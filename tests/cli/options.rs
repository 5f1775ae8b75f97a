//! The effect of each option of `train` on the result.

use super::place::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

#[test]
fn every_objective_trains() {
    let place = Place::new();
    let pairs = ["con", "lin", "lin-ms", "sig", "sig-ms"];
    let goal = ["con", "nca", "cir"].into_iter().flat_map(|t| pairs.map(|p| format!("{t}:{p}")));
    let losses = wgoal::objective::Loss::ALL.into_iter().map(|loss| loss.name().to_string());
    // `triplet` equals con:con bit for bit.
    let losses = losses.filter(|name| name != "triplet");
    let others =
        ["hinge", "hinge-sum", "infonce", "infonce-masked", "infonce-log-sum", "siglip", "siglip-masked"]
            .map(String::from);
    let mut results = BTreeMap::new();
    for objective in goal.chain(others).chain(losses) {
        let out = objective.replace(':', "-");
        let summary = place.train(&out, &format!("--objective {objective}"));
        assert!(summary["test"]["rsum"].is_f64());
        let metrics = place.metrics(&out);
        assert_eq!(metrics.len(), 2);
        for key in ["loss", "positive", "hardest", "gradient_norm"] {
            assert!(metrics.iter().all(|line| line[key].is_f64()), "{objective} {key}");
        }
        let (tensors, _) = read_tensors(&place.read(&format!("{out}/last.safetensors")));
        // If every triplet violates its margin, the hinge has the gradient of con:con, but another loss.
        let result = (tensors["image.weight"].2.clone(), metrics[1]["loss"].to_string());
        if let Some(other) = results.insert(result, objective.clone()) {
            panic!("{objective} trained to the same as {other}");
        }
    }
    assert_eq!(results.len(), 32);
}

#[test]
fn options_change_the_result() {
    let place = Place::new();
    let mut results = BTreeMap::new();
    for (i, options) in [
        "",
        "--seed 1",
        "--optimizer sgd",
        "--optimizer sgd --momentum 0.5",
        "--optimizer sgd --nesterov",
        "--epsilon 0.01",
        "--schedule cosine",
        "--schedule linear",
        "--lr-warmup 5",
        "--lr-warmup 50%",
        "--lr-warmup 50% --schedule linear",
        "--lr-drop 1",
        "--lr 0.001",
        "--weight-decay 0.5",
        "--weight-decay 0.5 --decay-biases off",
        "--betas 0.8,0.9",
        "--clip 0.01",
        "--warmup-epochs 1",
        "--dropout 0.3",
        "--standardize",
        "--mask-same-image off",
        "--margin -0.5",
        "--tau 3",
        "--alpha 3",
        "--beta 3",
        "--lambda 0.2",
        "--threshold 0.4",
        "--circle-margin 0.1",
        "--batch 7",
        "--batch 2",
        "--batch 2 --shuffle blocks:32",
        "--objective infonce --temperature 0.1",
        "--objective infonce --temperature 0.1 --learn-temperature",
        "--objective siglip",
        "--objective infonce",
        "--objective infonce@image-to-text",
        "--objective infonce@text-to-image",
        "--objective multi-similarity-mined",
        "--objective multi-similarity-mined --threshold 0.01",
        "--objective circle-all",
        "--objective circle-all --tau 8",
        "--objective circle-all --circle-margin 0.2",
        "--objective siglip --temperature 0.2",
        "--objective siglip --logit-bias -2",
        "--objective siglip --learn-temperature=off",
    ]
    .into_iter()
    .enumerate()
    {
        let options =
            if options.contains("--batch") { options.into() } else { format!("--batch 16 {options}") };
        let args = format!("--embed 4 --epochs 2 --device cpu --out {i} {options}");
        place.ok(&format!("train data --recipe goal {args}"));
        let (tensors, _) = read_tensors(&place.read(&format!("{i}/last.safetensors")));
        let result = ["image.weight", "text.weight"].map(|name| tensors[name].2.clone());
        if let Some(other) = results.insert(result, options.clone()) {
            panic!("'{options}' gave the same as '{other}'");
        }
    }
}

#[test]
fn the_learning_rate_follows_its_options() {
    let place = Place::new();
    // 48 captions in batches of 16 give three steps per epoch.
    let rates = |out: &str, options: &str| {
        place.train(out, &format!("--epochs 4 --lr 1 {options}"));
        place.metrics(out).iter().map(|line| (line["lr"].as_f64().unwrap() * 1e6).round()).collect::<Vec<_>>()
    };
    assert_eq!(rates("drop", "--lr-drop 1,3"), [1e6, 1e5, 1e5, 1e4]);
    assert_eq!(rates("warmup", "--lr-warmup 6"), [5e5, 1e6, 1e6, 1e6]);
    assert_eq!(rates("share", "--lr-warmup 50%"), [5e5, 1e6, 1e6, 1e6]);
    // The schedule starts after the warm-up. Of the six steps left, 2 and 5 are done.
    assert_eq!(rates("both", "--lr-warmup 50% --schedule linear"), [5e5, 1e6, 666_667.0, 166_667.0]);
    // The rate is that of the last step of an epoch, so 2, 5, 8 and 11 of 12 steps are done.
    assert_eq!(rates("linear", "--schedule linear"), [833_333.0, 583_333.0, 333_333.0, 83_333.0]);
    assert_eq!(rates("cosine", "--schedule cosine"), [933_013.0, 629_410.0, 250_000.0, 17_037.0]);
}

#[test]
fn patience_stops_early() {
    let place = Place::new();
    // The learning rate is so small that nothing changes, so the first epoch stays the best.
    let summary = place.train("run", "--epochs 9 --patience 2 --lr 1e-30 --weight-decay 0");
    assert_eq!((summary["best_epoch"].as_u64(), place.metrics("run").len()), (Some(1), 3));
}

#[test]
fn a_learned_temperature_stays_in_bounds() {
    let place = Place::new();
    let temperature = |out: &str, options: &str| {
        place.train(out, &format!("--objective infonce {options}"));
        let (tensors, _) = read_tensors(&place.read(&format!("{out}/last.safetensors")));
        floats(&tensors["temperature"])[0]
    };
    assert_eq!(temperature("fixed", "--lr 0.1"), 0.07);
    let learned = temperature("learned", "--learn-temperature");
    assert!(learned != 0.07 && (0.001..=0.5).contains(&learned), "{learned}");
    assert_eq!(temperature("high", "--learn-temperature --lr 0.002 --temperature 0.499 --epochs 1"), 0.5);
}

/// Only a head trained with SigLIP has a bias in its files, and training goes on with it.
#[test]
fn a_learned_bias_is_in_the_head() {
    let place = Place::new();
    let bias = |out: &str, options: &str| {
        place.train(out, &format!("--objective {options}"));
        let (tensors, _) = read_tensors(&place.read(&format!("{out}/last.safetensors")));
        tensors.get("logit_bias").map(|tensor| floats(tensor)[0])
    };
    assert_eq!(bias("infonce", "infonce --learn-temperature"), None);
    assert_eq!(bias("fixed", "siglip --learn-temperature=off --logit-bias -3"), Some(-3.0));
    let learned = bias("learned", "siglip --logit-bias -3 --lr 0.01").unwrap();
    assert!(learned != -3.0 && (-3.5..-2.5).contains(&learned), "{learned}");
    let metrics = place.metrics("learned");
    assert_eq!(metrics.last().unwrap()["logit_bias"].as_f64().unwrap() as f32, learned);
    assert!(place.metrics("infonce")[0].get("logit_bias").is_none());
    place.train("whole", "--objective siglip --logit-bias -3 --lr 0.01 --epochs 4");
    place.ok("train --resume --out learned --epochs 4");
    assert_eq!(place.read("learned/last.safetensors"), place.read("whole/last.safetensors"));
}

#[test]
fn standardisation_is_in_the_checkpoint_and_used() {
    let place = Place::new();
    let summary = place.train("run", "--standardize --epochs 6 --lr 0.01");
    let (mut tensors, metadata) = read_tensors(&place.read("run/best.safetensors"));
    let (rows, dim) = (SPLITS[0].1.len(), DIMS[0]);
    let mean: Vec<f32> = (0..dim)
        .map(|column| features()[0].chunks(dim).take(rows).map(|row| row[column]).sum::<f32>() / rows as f32)
        .collect();
    let found = floats(&tensors["image.mean"]);
    assert!(found.iter().zip(&mean).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?} {mean:?}");

    let eval = |checkpoint: &str| place.json(&format!("eval {checkpoint} data --device cpu --json"));
    assert_eq!(eval("run/best.safetensors")["t2i"], summary["test"]["t2i"]);
    for (_, tensor) in tensors.iter_mut().filter(|(name, _)| name.ends_with(".mean")) {
        tensor.2.fill(0);
    }
    std::fs::write(place.path("plain.safetensors"), write_tensors(&tensors, metadata)).unwrap();
    assert_ne!(eval("plain.safetensors")["t2i"], summary["test"]["t2i"]);
}

/// The arrays of `data` in one safetensors file.
fn write_file(path: &Path) {
    use safetensors::tensor::Dtype;
    let [images, texts] = features();
    let bytes = |ids: Vec<u32>| bytemuck::cast_slice(&ids).to_vec();
    let rows = IMAGES as usize;
    let mut tensors: BTreeMap<String, Tensor> = BTreeMap::from([
        ("images".into(), (Dtype::F32, vec![rows, DIMS[0]], bytemuck::cast_slice(&images).to_vec())),
        ("texts".into(), (Dtype::F32, vec![2 * rows, DIMS[1]], bytemuck::cast_slice(&texts).to_vec())),
        ("text_to_image".into(), (Dtype::U32, vec![2 * rows], bytes(text_to_image()))),
    ]);
    for (name, rows) in SPLITS {
        tensors.insert(format!("split_{name}"), (Dtype::U32, vec![rows.len()], bytes(rows.collect())));
    }
    std::fs::write(path, write_tensors(&tensors, Default::default())).unwrap();
}

#[test]
fn a_safetensors_dataset_trains_to_the_same_bits() {
    let place = Place::new();
    write_file(&place.path("data.safetensors"));
    place.train("folder", "");
    let options = "--recipe goal --device cpu --batch 16 --epochs 2 --embed 4 --correction none";
    place.ok(&format!("train data.safetensors {options} --out file"));
    for name in ["best.safetensors", "last.safetensors"] {
        assert!(place.read(&format!("folder/{name}")) == place.read(&format!("file/{name}")), "{name}");
    }
}

#[test]
fn the_example_dataset_is_the_default() {
    let place = Place::new();
    let train = "train --recipe goal --device cpu --epochs 1 --embed 4 --no-baselines --json";
    let project = env!("CARGO_MANIFEST_DIR");
    let mut command = place.command();
    let args = train.split(' ').chain(["--out", "x"]);
    let output = command.args(args).env("CARGO_MANIFEST_DIR", project).output().unwrap();
    let by_default: Value = serde_json::from_slice(&output.stdout).unwrap();
    let named = place.json(
        &train
            .replace("train", &format!("train {project}/data/clipart-mini"))
            .replace("--json", "--json --out y"),
    );
    assert_eq!(by_default["test"], named["test"]);
    let config: Value = serde_json::from_slice(&place.read("x/config.json")).unwrap();
    assert!(config["dataset"].as_str().unwrap().ends_with("clipart-mini"));
    // Without --out, each run gets its own folder.
    (0..2).for_each(|_| drop(place.ok("train data --device cpu --epochs 1 --embed 4")));
    assert_eq!(place.names("runs"), ["data-infonce-masked-s0", "data-infonce-masked-s0-2"]);
}
