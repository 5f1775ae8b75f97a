//! Training on regions and tokens, and the recipes.

use super::place::*;
use serde_json::{Value, json};

/// The widths of a region and of a token.
const LOCAL: [usize; 2] = [7, 3];

/// Adds regions and tokens to `data`: three regions per image and one to four tokens per caption, derived from the
/// features.
fn add_local(place: &Place, name: &str) {
    let [images, texts] = features();
    let mut noise = numbers(9);
    let mut around = |features: &[f32], dim: usize| -> Vec<f32> {
        (0..dim).map(|i| features[i % features.len()] + 0.3 * noise.next().unwrap()).collect()
    };
    let regions: Vec<f32> = images
        .chunks(DIMS[0])
        .flat_map(|row| (0..3).flat_map(|_| around(row, LOCAL[0])).collect::<Vec<_>>())
        .collect();
    write_npy(&place.path(name).join("image_regions.npy"), &[IMAGES.into(), 3, LOCAL[0] as u64], &regions);
    let (mut tokens, mut offsets) = (Vec::new(), vec![0u32]);
    for (i, row) in texts.chunks(DIMS[1]).enumerate() {
        (0..1 + i % 4).for_each(|_| tokens.extend(around(row, LOCAL[1])));
        offsets.push((tokens.len() / LOCAL[1]) as u32);
    }
    write_npy(
        &place.path(name).join("text_tokens.npy"),
        &[offsets[offsets.len() - 1].into(), LOCAL[1] as u64],
        &tokens,
    );
    write_npy(&place.path(name).join("text_offsets.npy"), &[offsets.len() as u64], &offsets);
}

fn config(place: &Place, out: &str) -> Value {
    serde_json::from_slice(&place.read(&format!("{out}/config.json"))).unwrap()
}

#[test]
fn every_pooling_trains_resumes_and_evaluates() {
    let place = Place::new();
    add_local(&place, "data");
    let mut results = std::collections::BTreeMap::new();
    for (i, options) in [
        "",
        "--image-pooling mean",
        "--image-pooling max",
        "--image-pooling gpo",
        "--text-pooling mean",
        "--image-pooling max --text-pooling max",
        "--image-pooling gpo --text-pooling gpo",
        "--image-pooling gpo --image-encoder residual-mlp",
        "--image-pooling gpo --text-pooling gpo --size-augment",
        "--image-pooling gpo --text-pooling gpo --size-augment --token-dropout 0.5",
        "--image-pooling mean --size-augment",
        "--image-pooling mean --standardize --dropout 0.2",
        "--image-pooling gpo --standardize --dropout 0.2",
    ]
    .into_iter()
    .enumerate()
    {
        let (whole, parts) = (format!("{i}"), format!("{i}parts"));
        let summary = place.train(&whole, &format!("--epochs 4 {options}"));
        let (tensors, _) = read_tensors(&place.read(&format!("{whole}/last.safetensors")));
        let local = [options.contains("--image-pooling"), options.contains("--text-pooling")];
        let dim = |side: usize| if local[side] { LOCAL[side] } else { DIMS[side] };
        assert_eq!(
            (&tensors["image.weight"].1[..], &tensors["text.weight"].1[..]),
            (&[4, dim(0)][..], &[4, dim(1)][..])
        );
        let result = ["image.weight", "text.weight"].map(|name| tensors[name].2.clone());
        if let Some(other) = results.insert(result, options) {
            panic!("'{options}' trained to the same as '{other}'");
        }
        // A run continues from its checkpoint with every bit, including the augmentation.
        place.train(&parts, &format!("--epochs 2 {options}"));
        place.ok(&format!("train data --resume --epochs 4 --device cpu --out {parts}"));
        for name in ["best.safetensors", "last.safetensors"] {
            let same = place.read(&format!("{whole}/{name}")) == place.read(&format!("{parts}/{name}"));
            assert!(same, "{options}: {name}");
        }
        let eval = place.json(&format!("eval {whole}/best.safetensors data --device cpu --json"));
        assert_eq!(eval["rsum"], summary["test"]["rsum"], "{options}");
    }
}

#[test]
fn local_features_alone_train() {
    let place = Place::new();
    add_local(&place, "data");
    place.train("both", "--image-pooling mean --text-pooling max");
    std::fs::remove_file(place.path("data/images.npy")).unwrap();
    std::fs::remove_file(place.path("data/texts.npy")).unwrap();
    let with = "--image-pooling mean --text-pooling max";
    let weights =
        |out: &str| read_tensors(&place.read(&format!("{out}/last.safetensors"))).0["text.weight"].clone();
    place.train("alone", with);
    assert_eq!(weights("alone"), weights("both"));
    let refused = place.run("train data --recipe goal --device cpu --out new");
    let expected = "error: data: expected images, found image_regions alone; add images, or choose --image-pooling mean, \
                    max or gpo";
    assert_eq!((refused.code, refused.stderr.lines().last().unwrap()), (1, expected));
    // A run on one kind of features cannot continue on another kind, even if their widths agree.
    let resumed = place.run("train data --resume --epochs 9 --device cpu --out both");
    assert!(
        resumed.stderr.contains("expected the dataset that the run was started on"),
        "{}",
        resumed.stderr
    );
}

#[test]
fn recipes_are_bases_that_options_override() {
    let place = Place::new();
    add_local(&place, "data");
    write_dataset(&place.path("plain"));
    let train = |data: &str, out: &str, options: &str| {
        place.ok(&format!("train {data} --epochs 1 --embed 4 --batch 16 --device cpu --out {out} {options}"));
        config(&place, out)
    };
    let vsepp = train("data", "a", "--recipe vsepp");
    let field =
        |config: &Value, names: &str| names.split(' ').map(|name| config[name].clone()).collect::<Vec<_>>();
    let published =
        "lr lr_drop weight_decay clip warmup_epochs image_pooling text_pooling image_encoder size_augment";
    let expected = json!([2e-4, [15], 0.0, 2.0, 0, "mean", "mean", "linear", false]);
    assert_eq!(json!(field(&vsepp, published)), expected);
    assert_eq!(vsepp["objective"], json!({"hinge": {"margin": vsepp["objective"]["hinge"]["margin"]}}));
    assert_eq!(vsepp["mask_same_image"], false);
    let plain = train("plain", "b", "--recipe vsepp");
    assert_eq!(json!(field(&plain, "image_pooling text_pooling")), json!(["none", "none"]));

    let inf = train("data", "c", "--recipe vse-inf");
    assert_eq!(
        json!(field(&inf, published)),
        json!([5e-4, [15], 1e-4, 2.0, 1, "gpo", "gpo", "residual-mlp", true])
    );
    // The only value that is not published.
    assert_eq!(inf["dropout"], 0.5);
    let other = train(
        "data",
        "d",
        "--recipe vse-inf --text-pooling none --size-augment=off --lr 1e-3 --image-encoder linear",
    );
    let changed = json!([1e-3, [15], 1e-4, 2.0, 1, "gpo", "none", "linear", false]);
    assert_eq!(json!(field(&other, published)), changed);

    let xvlm = train("plain", "e", "--recipe xvlm");
    assert_eq!(xvlm["objective"]["infonce"]["learn_temperature"], true);
    assert_eq!(
        json!(field(&xvlm, "lr_warmup schedule clip weight_decay decay_biases")),
        json!([{"percent": 10.0}, "linear", 0.0, 0.01, false])
    );
    assert_eq!(json!(field(&xvlm["optimizer"]["adamw"], "beta1 beta2")), json!([0.9, 0.98]));
    assert_eq!(
        train("plain", "f", "--recipe xvlm --learn-temperature=off")["objective"]["infonce"]["learn_temperature"],
        false
    );
    let sail = train("plain", "g", "--recipe sail --gated-width 2");
    let parts = "image_encoder text_encoder standardize schedule clip weight_decay lr";
    let expected = json!(["gated-mlp", "gated-mlp", true, "cosine", 0.0, 1e-4, 5e-4]);
    assert_eq!(json!(field(&sail, parts)), expected);
    assert_eq!(
        json!(field(&sail["objective"]["siglip"], "logit_bias learn_temperature")),
        json!([-10.0, true])
    );
    assert!(sail["optimizer"]["lion"].is_object(), "{sail}");
    // The published numbers, unless an option overrides them.
    let defaults = |recipe: &str| {
        place.ok(&format!("train plain --recipe {recipe} --device cpu --out {recipe} --text-pooling none --image-pooling none"));
        json!(field(&config(&place, recipe), "epochs batch embed"))
    };
    assert_eq!(
        ["vsepp", "vse-inf", "xvlm", "sail"].map(defaults),
        [json!([30, 128, 1024]), json!([25, 128, 1024]), json!([10, 128, 256]), json!([10, 2048, 1024])]
    );

    // A run may be resumed with its recipe. Another recipe needs another run.
    place.ok("train --resume --recipe xvlm --epochs 2 --embed 4 --batch 16 --device cpu --out e");
    let refused = place.run("train --resume --recipe vsepp --embed 4 --batch 16 --device cpu --out e");
    assert!(refused.code == 1 && refused.stderr.contains("--resume: expected"), "{}", refused.stderr);
    let help = place.ok("train --help");
    assert!(
        ["vsepp", "vse-inf", "xvlm", "sail"].iter().all(|name| help.contains(&format!("- {name}:"))),
        "{help}"
    );
}
