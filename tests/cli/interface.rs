//! Runs every command once and checks the files and lines that scripts depend on.

use super::place::*;
use safetensors::tensor::Dtype;
use serde_json::{Value, json};

const RECALL: [&str; 3] = ["i2t", "rsum", "t2i"];

#[track_caller]
fn assert_recall(recall: &Value) {
    assert_eq!(keys(recall), RECALL);
    let mut rsum = 0.0;
    for side in [&recall["i2t"], &recall["t2i"]] {
        assert_eq!(keys(side), ["meanr", "medr", "r1", "r10", "r5"]);
        rsum += ["r1", "r5", "r10"].map(|k| side[k].as_f64().unwrap()).iter().sum::<f64>();
    }
    assert!((recall["rsum"].as_f64().unwrap() - rsum).abs() < 1e-9, "{recall}");
}

#[test]
fn train_writes_a_run_and_a_summary() {
    let place = Place::new();
    let summary = place.train("run", "--epochs 5");
    let expected = "baselines best_epoch device head objective recipe seconds_training test val";
    assert_eq!(keys(&summary).join(" "), expected);
    assert_eq!((&summary["objective"], &summary["recipe"]), (&json!("cir:sig-ms"), &json!("goal")));
    assert_eq!(summary["head"], "run/best.safetensors");
    assert_eq!(keys(&summary["baselines"]).join(" "), "cca chance ridge split val");
    assert_recall(&summary["val"]);
    assert_recall(&summary["test"]);
    assert!(summary["device"].as_str().unwrap().starts_with("CPU, "), "{summary}");
    assert!(summary["seconds_training"].as_f64().unwrap() > 0.0);

    let names = "best.safetensors config.json last.safetensors metrics.jsonl report.html result.json run.toml similarities.jsonl";
    assert_eq!(place.names("run").join(" "), names);
    // `last.safetensors` is written after the others, so everything that it mentions exists.
    let written = |name: &str| place.path(name).metadata().unwrap().modified().unwrap();
    assert!(written("run/last.safetensors") >= written("run/metrics.jsonl"));
    assert!(written("run/last.safetensors") >= written("run/best.safetensors"));
    let metrics = place.metrics("run");
    let epochs: Vec<_> = metrics.iter().map(|line| line["epoch"].as_u64().unwrap()).collect();
    assert_eq!(epochs, [1, 2, 3, 4, 5]);
    for line in &metrics {
        let expected = "best clipped epoch gradient_norm hardest loss lr positive run seconds val zero_rows";
        assert_eq!(keys(line).join(" "), expected);
        assert_recall(&line["val"]);
    }
    // On ties, the first of the best epochs counts.
    let best = metrics.iter().rev().max_by(|a, b| {
        let rsum = |line: &Value| line["val"]["rsum"].as_f64().unwrap();
        rsum(a).total_cmp(&rsum(b))
    });
    assert_eq!(best.unwrap()["val"], summary["val"]);
    assert_eq!(best.unwrap()["epoch"], summary["best_epoch"]);
    assert_eq!(metrics.iter().rfind(|line| line["best"] == true).unwrap()["epoch"], summary["best_epoch"]);

    let config: Value = serde_json::from_slice(&place.read("run/config.json")).unwrap();
    let expected = "bandwidth bank_warmup batch centre_kernel clip command correction dataset decay_biases device dropout ema embed ensemble epochs equal_captions \
                    gated_width gather image_encoder image_pooling init l2_sp landmarks lr lr_drop lr_linear lr_mlp lr_random_features lr_warmup mask_same_image memory_bank objective optimizer \
                    patience random_features recipe regularization run schedule seed shuffle signed_root \
                    size_augment slices standardize structure structure_temperature \
                    text_encoder text_pooling token_dropout warmup_epochs weight_decay wgoal";
    assert_eq!(keys(&config).join(" "), expected);
    assert_eq!((&config["dataset"], &config["batch"]), (&json!(place.path("data")), &json!(16)));
}

#[test]
fn checkpoints_hold_these_tensors() {
    let place = Place::new();
    place.train("run", "--standardize");
    let shapes = |name: &str, prefix: &str| {
        let (tensors, metadata) = read_tensors(&place.read(name));
        assert_eq!(metadata.keys().collect::<Vec<_>>(), ["wgoal"]);
        assert!(tensors.values().all(|(dtype, ..)| *dtype == Dtype::F32));
        let named =
            tensors.into_iter().filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_string(), t.1)));
        named.map(|(name, shape)| format!("{name}{shape:?}")).collect::<Vec<_>>().join(" ")
    };
    let head = "image.bias[4] image.weight[4, 6] temperature[1] text.bias[4] text.weight[4, 5]";
    let whole = "image.bias[4] image.inverse_std[6] image.mean[6] image.weight[4, 6] temperature[1] text.bias[4] \
                 text.inverse_std[5] text.mean[5] text.weight[4, 5]";
    assert_eq!(shapes("run/best.safetensors", ""), whole);
    for prefix in ["optimizer.m.", "optimizer.v.", "best."] {
        assert_eq!(shapes("run/last.safetensors", prefix), head);
    }
    assert_eq!(read_tensors(&place.read("run/last.safetensors")).0.len(), 9 + 3 * 5);
}

#[test]
fn eval_repeats_the_summary() {
    let place = Place::new();
    let summary = place.train("run", "");
    let eval = |args: &str| place.json(&format!("eval run/best.safetensors data --device cpu --json {args}"));
    for split in ["val", "test"] {
        let recall = eval(&format!("--split {split}"));
        assert_eq!(
            keys(&recall),
            ["device", "equal_captions", "folds", "i2t", "measures", "rsum", "split", "t2i"]
        );
        assert!(RECALL.iter().all(|key| recall[key] == summary[split][key]), "{recall} {summary}");
        assert_eq!((&recall["split"], &recall["folds"]), (&json!(split), &json!(1)));
    }
    assert_eq!(eval("")["split"], "test");
    let folds = eval("--folds 4");
    assert_eq!(
        (&folds["folds"], &folds["i2t"]["r5"]),
        (&json!(4), &json!(100.0)),
        "2 images and 4 texts a fold"
    );

    let text = place.ok("eval run/best.safetensors data --device cpu");
    let first: Vec<_> = text.lines().map(|line| line.split("  ").next().unwrap()).collect();
    assert_eq!(first[1..3], ["image to text", "text to image"]);
}

#[test]
fn embed_writes_unit_rows() {
    let place = Place::new();
    place.train("run", "");
    place.ok("embed run/best.safetensors data --split val --out new/z --device cpu");
    let names = ["image_rows.npy", "images.npy", "text_rows.npy", "text_to_image.npy", "texts.npy"];
    assert_eq!(place.names("new/z"), names);
    for (name, rows) in [("images", 8), ("texts", 16)] {
        let bytes = place.read(&format!("new/z/{name}.npy"));
        let npy = npyz::NpyFile::new(&bytes[..]).unwrap();
        assert_eq!((npy.shape(), npy.dtype().descr().as_str()), (&[rows, 4][..], "'<f4'"));
        for row in npy.into_vec::<f32>().unwrap().chunks(4) {
            let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            assert!((length - 1.0).abs() < 1e-6, "{row:?}");
        }
    }
}

#[test]
fn embed_writes_what_indexes_read() {
    let place = Place::new();
    place.train("run", "");
    for format in ["npy", "fvecs", "fbin", "safetensors"] {
        place.ok(&format!(
            "embed run/best.safetensors data --split val --out z --device cpu --format {format}"
        ));
    }
    let numbers = |bytes: &[u8]| bytes.chunks(4).map(|b| b.try_into().unwrap()).collect::<Vec<[u8; 4]>>();
    let (tensors, _) = read_tensors(&place.read("z/embeddings.safetensors"));
    for (name, rows, from) in [("images", 8, 24), ("texts", 16, 48)] {
        let bytes = place.read(&format!("z/{name}.npy"));
        let expected = npyz::NpyFile::new(&bytes[..]).unwrap().into_vec::<f32>().unwrap();
        assert_eq!((floats(&tensors[name]), &tensors[name].1[..]), (expected.clone(), &[rows, 4][..]));
        let ids = super::place::rows(&tensors[&format!("{}_rows", &name[..name.len() - 1])]);
        assert_eq!(ids, (from..from + rows as u32).collect::<Vec<_>>());

        let fvecs = numbers(&place.read(&format!("z/{name}.fvecs")));
        assert_eq!(fvecs.len(), rows * 5);
        assert!(fvecs.iter().step_by(5).all(|&n| i32::from_le_bytes(n) == 4));
        let values: Vec<f32> =
            fvecs.chunks(5).flat_map(|row| &row[1..]).map(|&x| f32::from_le_bytes(x)).collect();
        assert_eq!(values, expected);

        let fbin = numbers(&place.read(&format!("z/{name}.fbin")));
        assert_eq!([fbin[0], fbin[1]].map(i32::from_le_bytes), [rows as i32, 4]);
        assert_eq!(fbin[2..].iter().map(|&x| f32::from_le_bytes(x)).collect::<Vec<_>>(), expected);
    }
}

fn gradient(place: &Place, args: &str) -> std::collections::BTreeMap<String, Tensor> {
    place.ok(&format!("gradient --images x.npy --texts y.npy --device cpu --out g.safetensors {args}"));
    read_tensors(&place.read("g.safetensors")).0
}

#[track_caller]
fn assert_near(tensor: &Tensor, shape: &[usize], expected: &[f32]) {
    let found = floats(tensor);
    let near = found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6);
    assert!(near && tensor.1 == shape, "{found:?} {:?}, expected {expected:?} {shape:?}", tensor.1);
}

#[test]
fn gradient_is_the_one_known_by_hand() {
    let place = Place::new();
    write_npy(&place.path("x.npy"), &[2, 2], &[1.0f32, 0.0, 0.0, 1.0]);
    write_npy(&place.path("y.npy"), &[2, 2], &[0.6f32, 0.8, 0.8, 0.6]);
    // Both pairs have similarity 0.6, both negatives 0.8. So each of the four triplets costs 0.2 + 0.8 − 0.6.
    let g = gradient(&place, "--objective hinge --margin 0.2");
    let names: Vec<_> = g.keys().map(String::as_str).collect();
    let expected = "grad_images grad_logit_bias grad_temperature grad_texts hardest_image hardest_image_index hardest_text \
                    hardest_text_index loss positive";
    assert_eq!(names.join(" "), expected);
    assert_near(&g["loss"], &[], &[1.6]);
    assert_near(&g["positive"], &[2], &[0.6, 0.6]);
    // Image 1 is in four similarities: −y1 twice and +y2 twice.
    assert_near(&g["grad_images"], &[2, 2], &[0.4, -0.4, -0.4, 0.4]);
    assert_near(&g["grad_texts"], &[2, 2], &[-2.0, 2.0, 2.0, -2.0]);
    for name in ["hardest_text", "hardest_image"] {
        assert_near(&g[name], &[2], &[0.8, 0.8]);
        assert_eq!(
            (rows(&g[&format!("{name}_index")]), &g[&format!("{name}_index")].1[..]),
            (vec![1, 0], &[2][..])
        );
    }
    let scaled = gradient(&place, "--objective hinge --margin 0.2 --scale -2");
    assert_near(&scaled["grad_images"], &[2, 2], &[-0.8, 0.8, 0.8, -0.8]);

    // Two captions of one image are not negatives of each other.
    write_npy(&place.path("ids.npy"), &[2], &[7i64, 7]);
    let g = gradient(&place, "--objective hinge --ids ids.npy");
    assert_near(&g["loss"], &[], &[0.0]);
    assert_near(&g["grad_images"], &[2, 2], &[0.0; 4]);

    // Text 0 belongs to image 1, the others to image 0, whose positive is their mean, 0.9. The other differences of
    // negative and positive are 0.6 − 0.8 three times, and 0 − 1.
    write_npy(&place.path("y.npy"), &[3, 2], &[0.6f32, 0.8, 0.8, 0.6, 1.0, 0.0]);
    write_npy(&place.path("image.npy"), &[3], &[1i64, 0, 0]);
    let g = gradient(&place, "--objective con:con --text-image image.npy");
    assert_near(&g["loss"], &[], &[-1.9]);
    assert_near(&g["positive"], &[3], &[0.8, 0.8, 1.0]);
    assert_near(&g["hardest_image"], &[3], &[0.6, 0.6, 0.0]);
    assert_eq!(rows(&g["hardest_text_index"]), [0, 1]);
    assert_eq!(rows(&g["hardest_image_index"]), [0, 1, 1]);
    // Image 0 as an anchor: y0 − (y1 + y2) / 2. As a candidate: y0 − y1 − y2. Image 1: y1 − y0, and y1 + y2 − y0.
    assert_near(&g["grad_images"], &[2, 2], &[-1.5, 0.7, 1.4, -0.4]);
    assert_eq!(g["grad_texts"].1, [3, 2]);
    write_npy(&place.path("y.npy"), &[2, 2], &[0.6f32, 0.8, 0.8, 0.6]);

    // For rows of another length, the gradient loses its radial part and is divided by the length.
    write_npy(&place.path("x.npy"), &[2, 2], &[2.0f32, 0.0, 0.0, 4.0]);
    let g = gradient(&place, "--objective hinge --normalize");
    assert_near(&g["loss"], &[], &[1.6]);
    assert_near(&g["grad_images"], &[2, 2], &[0.0, -0.2, -0.1, 0.0]);

    // With a single pair, the softmax over one similarity is 1, so the gradient is 0.
    write_npy(&place.path("x.npy"), &[1, 2], &[1.0f32, 0.0]);
    write_npy(&place.path("y.npy"), &[1, 2], &[0.6f32, 0.8]);
    let g = gradient(&place, "--objective infonce");
    assert_near(&g["loss"], &[], &[0.0]);
    assert_near(&g["positive"], &[1], &[0.6]);
    assert_near(&g["grad_texts"], &[1, 2], &[0.0; 2]);
}

#[test]
fn bench_and_devices_report() {
    let place = Place::new();
    let bench = place.json("bench step --shape 8:6:5:4 --objective nca:lin-ms --device cpu --json");
    let expected = ["device", "first_step_ms", "losses", "median_ms", "objective", "shape", "steps"];
    assert_eq!(keys(&bench), expected);
    assert!(bench["median_ms"].as_f64().unwrap() > 0.0 && bench["steps"].as_u64().unwrap() > 0);
    assert_eq!((&bench["shape"], &bench["objective"]), (&json!("8:6:5:4"), &json!("nca:lin-ms")));

    let shape = "--shape 8:6:5:4 --objective hinge --device cpu";
    let profiled = place.json(&format!("bench step {shape} --profile --json"));
    let roofline = place.json(&format!("bench roofline {shape} --json"));
    for report in [&profiled["profile"], &roofline] {
        assert_eq!(keys(&report["ceiling"]), ["bytes", "dispatch", "flops", "readback", "submission"]);
        let kernels = report["kernels"].as_array().unwrap();
        let products = kernels.iter().filter(|kernel| kernel["name"].as_str().unwrap().starts_with("matmul"));
        // Forward and backward of both sides, and the similarities.
        assert_eq!(products.map(|kernel| kernel["dispatches"].as_u64().unwrap()).sum::<u64>(), 5, "{report}");
        let share: f64 = kernels.iter().map(|kernel| kernel["share"].as_f64().unwrap()).sum();
        assert!((share - 1.0).abs() < 1e-9, "{report}");
    }
    assert!(place.ok(&format!("bench roofline {shape}")).contains("GFLOP/s"));

    let eval = place.json("bench eval --shape 20:60:16 --device cpu --json");
    let epoch = place.json("bench epoch --shape 40:120:12:8:4 --batch 16 --scratch made --device cpu --json");
    for times in [&eval, &epoch] {
        let [seconds, products, ratio] =
            ["seconds", "products", "ratio"].map(|key| times[key].as_f64().unwrap());
        assert!(products > 0.0 && (ratio - seconds / products).abs() <= 1e-9 * ratio, "{times}");
    }
    // Of 40 images, one is for validation and one for test.
    assert_eq!(epoch["steps"], json!(114 / 16));
    assert!(std::fs::read_dir(place.path("made")).unwrap().next().is_none(), "the features are left");
    let pairs = place.json("bench pairs --pairs 5,16 --embed 6 --device cpu --plot pairs.svg --json");
    assert_eq!((&pairs[0]["pairs"], &pairs[1]["pairs"]), (&json!(5), &json!(16)));
    assert!(String::from_utf8(place.read("pairs.svg")).unwrap().contains("<polyline"));

    let devices = place.json("devices --json");
    let devices = devices.as_array().unwrap();
    for (index, device) in devices.iter().enumerate() {
        let mut expected = vec!["backend", "driver", "index", "kind", "limits", "max_binding", "name"];
        // The CPU has no limits to report.
        expected.retain(|&key| key != "limits" || device["kind"] != "cpu");
        assert_eq!(keys(device), expected);
        assert_eq!(device["index"], index);
    }
    assert_eq!(devices.last().unwrap()["kind"], "cpu");
    assert_eq!(place.ok("devices").lines().count(), devices.len() + 1);
}
