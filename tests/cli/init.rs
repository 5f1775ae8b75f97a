//! `--init FILE`: a run that starts from a head, or from two linear layers of another project.

use super::place::*;
use safetensors::tensor::Dtype;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;

/// Options with which training changes nothing.
const STILL: &str = "--lr 1e-30 --weight-decay 0 --epochs 1 --no-baselines";

fn config(place: &Place, run: &str) -> Value {
    serde_json::from_slice(&place.read(&format!("{run}/config.json"))).unwrap()
}

#[test]
fn a_run_starts_from_a_head_with_the_options_of_that_head() {
    let place = Place::new();
    let input = "--standardize --signed-root texts --embed 3 --correction none";
    place.ok(&format!("baseline cca data {input} --device cpu --out head"));
    // The standardisation comes with the head: other training rows do not change it.
    write_dataset(&place.path("other"));
    let shifted: Vec<f32> = features()[0].iter().map(|x| x + 3.0).collect();
    write_npy(&place.path("other/images.npy"), &[IMAGES.into(), DIMS[0] as u64], &shifted);
    for (given, data, out) in [("head/best.safetensors", "data", "a"), ("head", "other", "b")] {
        place.ok(&format!("train {data} --init {given} {STILL} --device cpu --out {out}"));
        let eval = place.json(&format!("eval head {data} --split val --device cpu --json"));
        assert_eq!(place.metrics(out)[0]["val"]["rsum"], eval["rsum"], "{data}");
        let of_run = config(&place, out);
        for (option, value) in [("embed", Value::from(3)), ("standardize", true.into())] {
            assert_eq!(of_run[option], value);
        }
        assert_eq!(of_run["signed_root"], "texts");
        assert_eq!(of_run["init"]["file"]["path"], "head/best.safetensors");
        let [start, end] =
            ["head", out].map(|run| read_tensors(&place.read(&format!("{run}/best.safetensors"))).0);
        for name in ["image.weight", "text.weight", "image.mean", "text.inverse_std"] {
            assert!(start[name] == end[name], "{name}");
        }
    }
    // Training goes on from there, and a learning rate that changes something changes it.
    place.ok("train data --init head --epochs 2 --no-baselines --device cpu --out c");
    let weights =
        |run: &str| read_tensors(&place.read(&format!("{run}/last.safetensors"))).0["image.weight"].2.clone();
    assert_ne!(weights("a"), weights("c"));
}

#[test]
fn a_resumed_run_does_not_need_the_file() {
    let place = Place::new();
    place.train("head", "");
    let start = "train data --init head/best.safetensors --batch 16 --device cpu --no-baselines";
    place.ok(&format!("{start} --epochs 4 --out whole"));
    place.ok(&format!("{start} --epochs 2 --out parts"));
    place.ok("baseline cca data --embed 4 --device cpu --out other");
    let refused = place.run("train --resume --init other --out parts");
    assert!(refused.code == 1 && refused.stderr.contains("--resume: expected init = "), "{}", refused.stderr);
    fs::remove_dir_all(place.path("head")).unwrap();
    place.ok("train --resume --init head/best.safetensors --no-baselines --out parts");
    place.ok("train --resume --init head --epochs 4 --no-baselines --out parts");
    assert!(place.read("whole/best.safetensors") == place.read("parts/best.safetensors"));
    // A new run does need it.
    let output = place.run(&format!("{start} --out new"));
    assert!(
        output.code == 1 && output.stderr.contains("found head/best.safetensors, no such file"),
        "{}",
        output.stderr
    );
}

/// A state dict with the weights of a run under other names, in another type.
fn write_state_dict(place: &Place, name: &str, run: &str, names: [&str; 4]) {
    let (tensors, _) = read_tensors(&place.read(&format!("{run}/best.safetensors")));
    let own = ["image.weight", "image.bias", "text.weight", "text.bias"];
    let mut state: BTreeMap<String, Tensor> =
        own.iter().zip(names).map(|(own, name)| (name.to_string(), tensors[*own].clone())).collect();
    state.insert("img_enc.mlp.0.weight".into(), (Dtype::F32, vec![1], vec![0; 4]));
    fs::write(place.path(name), write_tensors(&state, Default::default())).unwrap();
}

#[test]
fn a_run_starts_from_two_linear_layers_of_pytorch() {
    let place = Place::new();
    place.train("run", "");
    let names = ["img_enc.fc.weight", "img_enc.fc.bias", "txt_enc.fc.weight", "txt_enc.fc.bias"];
    write_state_dict(&place, "vse.safetensors", "run", names);
    let output = place.run(&format!("train data --init vse.safetensors {STILL} --device cpu --out from"));
    let note = "note: vse.safetensors: 1 other tensors are not used: img_enc.mlp.0.weight";
    assert!(output.code == 0 && output.stderr.lines().any(|line| line == note), "{}", output.stderr);
    let eval = place.json("eval run data --split val --device cpu --json");
    assert_eq!(place.metrics("from")[0]["val"]["rsum"], eval["rsum"]);
    // A sweep starts from it as well, and a recipe only brings what the file does not say.
    let sweep = "--objectives hinge --seeds 0 --epochs 1 --batch 16 --device cpu";
    place.ok(&format!("sweep data --init vse.safetensors {sweep} --out sweep"));
    place.ok(&format!(
        "train data --recipe wgoal --init vse.safetensors {STILL} --batch 16 --device cpu --out recipe"
    ));
    let of_run = config(&place, "recipe");
    assert_eq!((&of_run["embed"], &of_run["standardize"]), (&4.into(), &false.into()));
    assert_eq!(place.metrics("recipe")[0]["val"]["rsum"], eval["rsum"]);

    let refused = |args: &str| {
        let output = place.run(&format!("train data {args} --device cpu --out refused"));
        assert_eq!(output.code, 1, "{}", output.stderr);
        output.stderr.lines().last().unwrap().to_string()
    };
    let message = refused("--init vse.safetensors --embed 5");
    assert!(message.contains("expected --embed 4, found --embed 5; leave --embed out"), "{message}");
    let message = refused("--recipe goal --init vse.safetensors --text-pooling gpo");
    assert!(message.contains("found pooling gpo; use poolings other than gpo"), "{message}");
    write_state_dict(&place, "other.safetensors", "run", ["a.weight", "a.bias", "b.weight", "b.bias"]);
    let message = refused("--init other.safetensors");
    assert!(
        message.contains("found a.bias [4], a.weight [4, 6], b.bias [4], b.weight [4, 5], img_enc"),
        "{message}"
    );
    fs::write(place.path("head.pt"), b"PK\x03\x04 and more bytes of an archive").unwrap();
    let message = refused("--init head.pt");
    assert!(message.contains("safetensors.torch.save_file(torch.load('head.pt'"), "{message}");
}
