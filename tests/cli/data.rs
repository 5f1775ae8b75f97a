//! Data that is allowed but rarely intended. Every command warns of it once, with the first row, and computes the same
//! results.

use super::place::*;
use std::fs;

/// Makes a dataset called `name` and changes it.
fn dataset(place: &Place, name: &str, change: impl FnOnce(&dyn Fn(&str) -> std::path::PathBuf)) {
    write_dataset(&place.path(name));
    change(&|file| place.path(name).join(file));
}

/// The warnings and notes of a command that must succeed, except those on its device and its progress.
fn said(place: &Place, args: &str) -> Vec<String> {
    let output = place.run(args);
    assert_eq!(output.code, 0, "wgoal {args}\n{}", output.stderr);
    let told = |line: &&str| line.starts_with("warning: ") || line.starts_with("note: ");
    let of_data =
        |line: &&str| line.contains(".npy") || line.contains("captions") || line.contains("caption:");
    output.stderr.lines().filter(told).filter(of_data).map(String::from).collect()
}

/// All commands that read features, with a small head in `run`.
fn commands(data: &str, out: &str) -> [String; 5] {
    [
        format!(
            "train {data} --recipe goal --device cpu --embed 4 --batch 16 --epochs 1 --no-baselines --out {out}1"
        ),
        format!("eval run {data} --device cpu"),
        format!("embed run {data} --split test --device cpu --out {out}2"),
        format!("baseline cca {data} --embed 4 --device cpu"),
        format!(
            "sweep {data} --objectives hinge --seeds 0,1 --grid lr=1e-3,1e-2 --embed 4 --batch 16 --epochs 1 --device cpu \
             --out {out}3"
        ),
    ]
}

#[test]
fn every_command_warns_of_suspicious_features_once() {
    let place = Place::new();
    place.train("run", "");
    for command in commands("data", "good") {
        assert_eq!(said(&place, &command), [""; 0], "wgoal {command}");
    }
    let zero = |images: &mut [f32], rows: &[usize]| {
        rows.iter().for_each(|&row| images[row * DIMS[0]..(row + 1) * DIMS[0]].fill(0.0))
    };
    let shape = [IMAGES.into(), DIMS[0] as u64];
    dataset(&place, "zero", |file| {
        let mut images = features()[0].clone();
        zero(&mut images, &[33, 36]);
        write_npy(&file("images.npy"), &shape, &images)
    });
    // Every image is there twice, once per caption.
    dataset(&place, "twice", |file| {
        let images = features()[0].clone();
        let rows = images.chunks(DIMS[0]).flat_map(|row| [row, row].concat());
        write_npy(&file("images.npy"), &[80, 6], &rows.collect::<Vec<f32>>());
        write_npy(&file("text_to_image.npy"), &[80], &(0..80).collect::<Vec<u32>>());
        for (name, rows) in SPLITS {
            let rows: Vec<u32> = (2 * rows.start..2 * rows.end).collect();
            write_npy(&file(&format!("split_{name}.npy")), &[rows.len() as u64], &rows);
        }
    });
    // The captions of the images from row 20 on are those of the first images.
    dataset(&place, "equal", |file| {
        let mut texts = features()[1].clone();
        texts.copy_within(..200, 200);
        write_npy(&file("texts.npy"), &[80, 5], &texts)
    });
    dataset(&place, "flat", |file| {
        let mut texts = features()[1].clone();
        texts.iter_mut().skip(2).step_by(5).enumerate().for_each(|(i, x)| *x = 300.0 + i as f32 / 1000.0);
        write_npy(&file("texts.npy"), &[80, 5], &texts)
    });
    let zero_advice =
        "compute these features again, or leave these images out: a zero row tells nothing of its image";
    let cases = [
        (
            "zero",
            format!("zero/images.npy: 2 of 40 image rows are zero, the first at row 33 (rows 33, 36); {zero_advice}"),
            format!("zero/images.npy: 2 of 8 image rows are zero, the first at row 33 (rows 33, 36); {zero_advice}"),
        ),
        (
            "twice",
            "twice/images.npy: 80 image rows, 40 different ones (row 1 is the same as row 0); if images are repeated for their \
             captions, keep each once and let text_to_image and the splits point at it, with numpy: _, first, at = \
             numpy.unique(images, axis=0, return_index=True, return_inverse=True), then images[first], at[text_to_image] and \
             numpy.unique(at[split])"
                .into(),
            String::new(),
        ),
        (
            "equal",
            "equal/texts.npy: 40 of 80 text rows are the same as an earlier one of another image (row 40 and row 0): equal \
             captions count as negatives in training and as wrong answers in retrieval; with --equal-captions mask, train, \
             sweep, baseline and eval count them as right; or leave such captions out, or make one image of theirs"
                .into(),
            String::new(),
        ),
        (
            "flat",
            "flat/texts.npy: 1 of 5 columns hardly vary among the 80 text rows, the first column 2 (always about 300.079); \
             check how the features were made, or leave the columns out"
                .into(),
            // The 16 texts of the test split are too few for this warning.
            "none".into(),
        ),
    ];
    for (data, whole, of_test) in cases {
        for (i, command) in commands(data, data).into_iter().enumerate() {
            let expected = if [1, 2].contains(&i) && !of_test.is_empty() { &of_test } else { &whole };
            let expected = if expected == "none" { vec![] } else { vec![format!("warning: {expected}")] };
            assert_eq!(said(&place, &command), expected, "wgoal {command}");
        }
    }
    dataset(&place, "small", |file| {
        let texts: Vec<f32> = features()[1].iter().map(|x| x * 1e-5).collect();
        write_npy(&file("texts.npy"), &[80, 5], &texts)
    });
    for command in commands("small", "small") {
        let found = said(&place, &command);
        assert!(
            found.len() == 1 && found[0].ends_with("multiply all of them by 1e5, or add --standardize"),
            "{found:?}"
        );
    }
    let standardized =
        "train small --standardize --device cpu --embed 4 --batch 16 --epochs 1 --no-baselines --out s";
    assert_eq!(said(&place, standardized), [""; 0]);
    // A sweep prints once what all of its inputs share.
    let sweep =
        "sweep zero --objectives hinge --seeds 0 --grid standardize=on,off --embed 4 --batch 16 --epochs 1";
    assert_eq!(said(&place, &format!("{sweep} --device cpu --out inputs")).len(), 1);
    // One repeated row in many is no warning: large collections have some. `wgoal inspect` notes it.
    dataset(&place, "few", |file| {
        let rows: Vec<f32> = numbers(5).take(300 * 6).collect();
        let images = [&rows[..], &rows[6..18]].concat();
        write_npy(&file("images.npy"), &[302, 6], &images)
    });
    assert_eq!(said(&place, "eval run few --device cpu"), [""; 0]);
    assert!(place.ok("inspect few").contains("\nnote: few/images.npy: 302 image rows, 300 different ones"));
}

#[test]
fn a_warning_changes_no_result() {
    let place = Place::new();
    place.train("run", "");
    let images = features()[0].clone();
    let shape = [IMAGES.into(), DIMS[0] as u64];
    // A row of the training split does not affect the test split.
    let mut zero = images.clone();
    zero[..DIMS[0]].fill(0.0);
    dataset(&place, "zero", |file| write_npy(&file("images.npy"), &shape, &zero));
    let eval = |data: &str| place.json(&format!("eval run/best.safetensors {data} --device cpu --json"));
    assert_eq!(eval("zero"), eval("data"));
    assert_eq!(said(&place, "eval run zero --device cpu"), [""; 0]);
    assert_eq!(said(&place, "eval run zero --split train --device cpu").len(), 1);
}

#[test]
fn embeddings_without_a_direction_are_not_written() {
    let place = Place::new();
    place.train("run", "--epochs 1 --lr 1e-9");
    // A head without biases maps zero rows to zero rows.
    let (mut tensors, metadata) = read_tensors(&place.read("run/best.safetensors"));
    tensors.get_mut("image.bias").unwrap().2.fill(0);
    fs::write(place.path("bare.safetensors"), write_tensors(&tensors, metadata)).unwrap();
    let mut images = features()[0].clone();
    images[36 * DIMS[0]..37 * DIMS[0]].fill(0.0);
    dataset(&place, "zero", |file| write_npy(&file("images.npy"), &[40, 6], &images));
    let output = place.run("embed bare.safetensors zero --split test --device cpu --out new");
    assert_eq!(
        (output.code, output.stderr.lines().last().unwrap()),
        (
            1,
            "error: zero/images.npy row 36: expected features with an embedding of length 1, found length 0; compute the \
             features of this row again, or leave the row out; if they are not zero, the head maps them to zero: train another head"
        )
    );
    assert!(!place.path("new").exists());
    let warned = said(&place, "eval bare.safetensors zero --device cpu");
    let expected = "warning: 1 of 8 embeddings have length 0, so their rank is arbitrary; the first is that of zero/images.npy row 36";
    assert_eq!(warned[1..], [expected]);
}

#[test]
fn images_without_a_caption_are_candidates_and_no_queries() {
    let place = Place::new();
    place.train("run", "");
    // Image 33 loses its captions. So does image 5, which is in the training split.
    dataset(&place, "gallery", |file| {
        let texts = features()[1].clone();
        let kept: Vec<usize> = (0..80).filter(|text| ![5, 33].contains(&(text / 2))).collect();
        let rows = kept.iter().flat_map(|&text| texts[5 * text..5 * text + 5].to_vec());
        write_npy(&file("texts.npy"), &[76, 5], &rows.collect::<Vec<f32>>());
        let owners: Vec<u32> = kept.iter().map(|&text| text as u32 / 2).collect();
        write_npy(&file("text_to_image.npy"), &[76], &owners);
    });
    let lacking = "of 8 images of split_test have no caption: they are candidates for texts, but not queries";
    let trained = "note: 1 of 24 images of split_train have no caption: training leaves them out";
    for (i, command) in commands("gallery", "g").into_iter().enumerate() {
        let expected = match i {
            1 | 2 => vec![format!("note: 1 {lacking}")],
            _ => vec![trained.to_string(), format!("note: 1 {lacking}")],
        };
        assert_eq!(said(&place, &command), expected, "wgoal {command}");
    }
    let eval = |more: &str| place.json(&format!("eval run gallery --device cpu --json {more}"));
    // All captions of 7 images are among the first 14 of 14.
    assert!(eval("")["i2t"]["meanr"].as_f64().unwrap() < 14.0);
    eval("--top 14 --write-candidates c.safetensors");
    let (mut tensors, _) = read_tensors(&place.read("c.safetensors"));
    assert_eq!(
        (tensors["image_to_text"].1.clone(), tensors["text_to_image"].1.clone()),
        (vec![8, 14], vec![14, 8])
    );
    // Row numbers of several types, and the cosines as scores in f16.
    use safetensors::tensor::Dtype;
    for (name, narrow) in [("images", Dtype::U32), ("texts", Dtype::I32), ("image_to_text", Dtype::U32)] {
        let ids = rows(&tensors[name]);
        let (dtype, _, bytes) = tensors.get_mut(name).unwrap();
        (*dtype, *bytes) = (narrow, bytemuck::cast_slice(&ids).to_vec());
    }
    assert_eq!(tensors["text_to_image"].0, Dtype::I64, "the type that torch takes as an index");
    for name in ["image_to_text", "text_to_image"] {
        let (_, shape, _) = tensors[name].clone();
        let scores = floats(&tensors[&format!("{name}_cosine")]);
        let halves = scores.into_iter().flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect();
        tensors.insert(format!("{name}_score"), (safetensors::tensor::Dtype::F16, shape, halves));
    }
    fs::write(place.path("s.safetensors"), write_tensors(&tensors, Default::default())).unwrap();
    let again = eval("--rerank s.safetensors");
    assert_eq!(again["first_stage"]["i2t"], eval("")["i2t"]);
    assert!((again["rsum"].as_f64().unwrap() - eval("")["rsum"].as_f64().unwrap()).abs() < 30.0);
}

#[test]
fn a_command_checks_what_it_needs() {
    let place = Place::new();
    place.train("run", "");
    let whole = place.json("eval run data --device cpu --json");
    dataset(&place, "broken", |file| {
        fs::write(file("split_train.npy"), "no array").unwrap();
        write_npy(&file("split_val.npy"), &[2], &[99u32, 99]);
        fs::write(file("captions.txt"), "one line\n").unwrap();
        fs::write(file("image_names.txt"), [255, 254]).unwrap();
    });
    assert_eq!(place.json("eval run broken --device cpu --json"), whole);
    place.ok("embed run broken --split test --device cpu --out a");
    place.ok("embed run broken --split all --device cpu --out b");
    for command in ["eval run broken --split val --device cpu", "baseline cca broken --device cpu"] {
        assert_eq!(place.run(command).code, 1, "wgoal {command}");
    }
    // Captions are not printed here, but training warns that they do not fit.
    dataset(&place, "captions", |file| fs::write(file("captions.txt"), "one line\n").unwrap());
    let expected = "warning: captions/captions.txt: expected 80 lines, one for each row of captions/texts.npy, found 1 lines; \
                    correct the file, or remove it";
    let train = "train captions --device cpu --embed 4 --epochs 1 --batch 16 --no-baselines --out r";
    assert_eq!(said(&place, train), [expected]);
}

#[test]
fn the_folder_of_a_run_stands_for_its_best_head() {
    let place = Place::new();
    place.train("run", "");
    let eval = |head: &str| place.json(&format!("eval {head} data --device cpu --json"));
    assert_eq!(eval("run"), eval("run/best.safetensors"));
    place.ok("embed run data --split test --device cpu --out a");
    place.ok("embed run/best.safetensors data --split test --device cpu --out b");
    assert!(place.read("a/images.npy") == place.read("b/images.npy"));
}

#[test]
fn a_dataset_after_the_grid_is_the_dataset() {
    let place = Place::new();
    let sweep = |tail: &str| {
        let options = "--objectives hinge --seeds 0 --epochs 1 --embed 4 --batch 16 --device cpu";
        place.run(&format!("sweep {options} {tail}"))
    };
    let ok = |tail: &str| {
        let output = sweep(tail);
        assert_eq!(output.code, 0, "{tail}\n{}", output.stderr);
        output.stdout.split_once(", on ").unwrap().1.to_string()
    };
    let before = ok("--out a data --grid lr=1e-3,1e-2 batch=8");
    assert_eq!(ok("--out b --grid lr=1e-3,1e-2 batch=8 data"), before);
    assert_eq!(ok("--out c --grid lr=1e-3,1e-2 --grid batch=8 -- data"), before);
    // Also if its name looks like an option with values.
    dataset(&place, "lr=1", |_| ());
    ok("--out e --grid lr=1e-3,1e-2 batch=8 lr=1");
    assert!(place.read("e/results.jsonl").starts_with(b"{\"dataset\":\"lr=1 "));
    let output = sweep("--out d --grid lr=1e-3 nowhere");
    assert!(
        output.code == 1 && output.stderr.contains("nowhere: expected a dataset: a folder"),
        "{}",
        output.stderr
    );
    // The help lists no option that `sweep` refuses.
    let help = place.ok("sweep --help");
    for option in ["--objective <", "--seed <"] {
        assert!(!help.contains(option), "{help}");
    }
    assert!(
        help.contains("--objectives <") && help.contains("--seeds <") && help.contains("--margin <"),
        "{help}"
    );
}

/// A side whose features are all zero is reported as such for every objective. The warning does not advise a warm-up.
#[test]
fn a_collapse_of_zero_features_is_told_as_such() {
    let place = Place::new();
    dataset(&place, "zero", |file| write_npy(&file("images.npy"), &[40, 6], &[0f32; 240]));
    for objective in
        ["cir:sig-ms", "hinge", "hinge-sum", "infonce", "binomial-deviance", "con:sig@all", "infonce+hinge"]
    {
        let args = "--device cpu --embed 4 --batch 16 --epochs 2 --lr 0.01 --no-baselines";
        let output =
            place.run(&format!("train zero --recipe goal --objective {objective} {args} --out {objective}"));
        assert_eq!(output.code, 0, "{objective}\n{}", output.stderr);
        let warnings: Vec<_> = output.stderr.lines().filter(|line| line.starts_with("warning: ")).collect();
        let zero = "warning: zero/images.npy: all 40 image rows are zero and tell nothing apart; compute the features again";
        assert_eq!((warnings.len(), warnings[0]), (2, zero), "{objective}: {warnings:?}");
        let (facts, advice) = warnings[1].split_once("; ").unwrap();
        assert!(
            facts.starts_with("warning: training has collapsed: the embeddings of validation images"),
            "{facts}"
        );
        assert_eq!(
            advice,
            "check that text_to_image names the image of every caption, and compute the features again: 50 % of the rows read \
             are zero"
        );
    }
}
