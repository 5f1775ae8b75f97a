//! `wgoal baseline kcca` and `--init kcca`.

use super::place::*;

#[test]
fn a_kernel_head_is_saved_evaluated_and_trained_from() {
    let place = Place::new();
    let kcca = "--random-features 40 --embed 4 --device cpu";
    let fitted = place
        .json(&format!("baseline kcca data {kcca} --bandwidth 0.7,1 --regularization 0.3,1 --out k --json"));
    assert!([0.7, 1.0].contains(&fitted["bandwidth"].as_f64().unwrap()), "{fitted}");
    let again = place.json("eval k data --split val --device cpu --json");
    assert_eq!(again["rsum"], fitted["val"]["rsum"], "{again}");
    // Another seed has other random features.
    let phases = [0, 1].map(|seed| {
        let options = format!("--seed {seed} --bandwidth 0.7 --regularization 1 --out seed{seed}");
        place.ok(&format!("baseline kcca data {kcca} {options}"));
        read_tensors(&place.read(&format!("seed{seed}/best.safetensors"))).0["image.fourier.phase"].clone()
    });
    assert!(phases[0] != phases[1]);
    // A run starts from the same head, and another run from its file.
    let train = format!("train data --recipe goal {kcca} --batch 16 --epochs 1 --no-baselines");
    let started = place.run(&format!("{train} --init kcca --out r"));
    let fresh = place.json(&format!("baseline kcca data {kcca} --json"));
    let rsum = format!("rsum {:6.1}", fresh["val"]["rsum"].as_f64().unwrap());
    let epoch =
        started.stderr.lines().chain(started.stdout.lines()).find(|line| line.starts_with("epoch   0"));
    let epoch = epoch.unwrap_or_default();
    assert!(
        epoch.contains("the start: kernel CCA, without training") && epoch.contains(&rsum),
        "{epoch} {rsum}"
    );
    place.ok("train data --recipe goal --init k --batch 16 --epochs 1 --device cpu --no-baselines --out w");
    let plain = place.run("baseline cca data --embed 4 --device cpu --random-features 40 --seed 3");
    for option in ["random-features", "seed"] {
        assert!(plain.stderr.contains(&format!("warning: --{option} has no effect: cca has no kernel")));
    }
}
