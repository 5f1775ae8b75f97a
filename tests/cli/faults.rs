//! What the tool refuses: it prints one line with the fault, returns an exit code, and leaves nothing behind.
// The table is for Unix only.
#![cfg_attr(not(unix), allow(dead_code))]

use super::place::*;
use safetensors::tensor::Dtype;
use std::collections::BTreeMap;
use std::fs;

/// A backend that does not exist on this system.
const ABSENT: &str = if cfg!(target_os = "macos") { "dx12" } else { "metal" };

/// Copies a checkpoint of `run` and changes it.
fn checkpoint(place: &Place, name: &str, change: impl FnOnce(&mut BTreeMap<String, Tensor>, &mut String)) {
    let (mut tensors, mut metadata) = read_tensors(&place.read("run/best.safetensors"));
    change(&mut tensors, metadata.get_mut("wgoal").unwrap());
    metadata.retain(|_, value| !value.is_empty());
    fs::write(place.path(name), write_tensors(&tensors, metadata)).unwrap();
}

/// Makes a dataset called `name` and changes it.
fn dataset(place: &Place, name: &str, change: impl FnOnce(&dyn Fn(&str) -> std::path::PathBuf)) {
    write_dataset(&place.path(name));
    change(&|file| place.path(name).join(file));
}

fn cut(path: std::path::PathBuf) {
    let bytes = fs::read(&path).unwrap();
    fs::write(path, &bytes[..bytes.len() - 3]).unwrap();
}

/// Makes all files and folders that the rows of the table name.
fn fixtures() -> Place {
    let place = Place::new();
    place.train("run", "");
    fs::write(place.path("file"), "text").unwrap();
    fs::create_dir(place.path("empty")).unwrap();

    let whole = place.read("run/best.safetensors");
    fs::write(place.path("empty.st"), "").unwrap();
    fs::write(place.path("cut.st"), &whole[..whole.len() - 1]).unwrap();
    fs::write(place.path("header.st"), &whole[..100]).unwrap();
    fs::write(place.path("text.st"), "this is no safetensors file at all").unwrap();
    checkpoint(&place, "bare.st", |_, metadata| metadata.clear());
    checkpoint(&place, "prose.st", |_, metadata| *metadata = "prose".into());
    checkpoint(&place, "format.st", |_, metadata| {
        *metadata = metadata.replace("\"format\":2", "\"format\":3")
    });
    checkpoint(&place, "option.st", |_, metadata| {
        *metadata = metadata.replace("\"clip\":2.0", "\"clip\":-1")
    });
    checkpoint(&place, "unknown.st", |_, metadata| *metadata = metadata.replace("\"clip\"", "\"snip\""));
    checkpoint(&place, "wide.st", |_, metadata| *metadata = metadata.replace("[6,5]", "[6,0]"));
    // The best epoch is later than the last one. Both numbers are set, so this does not depend on which epoch was the
    // best.
    let ahead = |metadata: &str| {
        let mut progress: serde_json::Value = serde_json::from_str(metadata).unwrap();
        (progress["epoch"], progress["best"]["epoch"]) = (1.into(), 9.into());
        progress.to_string()
    };
    checkpoint(&place, "ahead.st", |_, metadata| *metadata = ahead(metadata));
    checkpoint(&place, "unstandardised.st", |_, metadata| {
        *metadata = metadata.replace("\"standardize\":false", "\"standardize\":true")
    });
    // A correction for hubs without its bank, and one of no neighbours.
    let corrected = |metadata: &str, k: usize| {
        let correction = format!("{{\"kind\":\"csls\",\"k\":{k},\"weights\":[0.1,0.2]}}");
        metadata.replacen("\"format\":2", &format!("\"correction\":{correction},\"format\":2"), 1)
    };
    checkpoint(&place, "unbanked.st", |_, metadata| *metadata = corrected(metadata, 10));
    checkpoint(&place, "neighbours.st", |tensors, metadata| {
        *metadata = corrected(metadata, 0);
        for name in ["correction.images", "correction.texts"] {
            tensors.insert(name.into(), (Dtype::F16, vec![1, 4], vec![0; 8]));
        }
    });
    checkpoint(&place, "missing.st", |tensors, _| drop(tensors.remove("text.bias")));
    checkpoint(&place, "shape.st", |tensors, _| tensors.get_mut("image.weight").unwrap().1 = vec![6, 4]);
    checkpoint(&place, "nan.st", |tensors, _| {
        tensors.get_mut("text.weight").unwrap().2[20..24].copy_from_slice(&f32::NAN.to_le_bytes())
    });

    for run in ["headonly", "ahead", "broken", "early", "badconfig"] {
        fs::create_dir(place.path(run)).unwrap();
        fs::copy(place.path("run/config.json"), place.path(run).join("config.json")).unwrap();
    }
    fs::write(place.path("headonly/last.safetensors"), &whole).unwrap();
    fs::write(place.path("broken/last.safetensors"), &whole[..50]).unwrap();
    fs::write(
        place.path("badconfig/config.json"),
        "{\"wgoal\": \"0\", \"dataset\": \"data\", \"device\": \"d\", \"batches\": 3}",
    )
    .unwrap();
    let (tensors, mut metadata) = read_tensors(&place.read("run/last.safetensors"));
    let text = metadata.get_mut("wgoal").unwrap();
    *text = ahead(text);
    fs::write(place.path("ahead/last.safetensors"), write_tensors(&tensors, metadata)).unwrap();

    dataset(&place, "missing", |file| fs::remove_file(file("texts.npy")).unwrap());
    dataset(&place, "cut", |file| cut(file("images.npy")));
    dataset(&place, "noval", |file| fs::remove_file(file("split_val.npy")).unwrap());
    dataset(&place, "unpaired", |file| fs::remove_file(file("text_to_image.npy")).unwrap());
    dataset(&place, "nosplit", |file| write_npy::<u32>(&file("split_test.npy"), &[0], &[]));
    dataset(&place, "leak", |file| write_npy(&file("split_test.npy"), &[2], &[32u32, 3]));
    dataset(&place, "beyond", |file| write_npy(&file("split_val.npy"), &[2], &[24u32, 40]));
    dataset(&place, "complex", |file| retype(&file("images.npy"), "<c8"));
    dataset(&place, "wider", |file| write_npy(&file("images.npy"), &[40, 7], &[0.5f32; 280]));
    dataset(&place, "huge", |file| {
        let images: Vec<f32> = features()[0].iter().map(|x| x * 1e19).collect();
        write_npy(&file("images.npy"), &[40, 6], &images)
    });
    dataset(&place, "tiny", |file| {
        let texts: Vec<f32> = features()[1].iter().map(|x| x * 1e-8).collect();
        write_npy(&file("texts.npy"), &[80, 5], &texts)
    });
    dataset(&place, "othersplit", |file| write_npy(&file("split_val.npy"), &[1], &[24u32]));
    fs::write(place.path("data.safetensors"), &whole).unwrap();

    let matrix = |name: &str, shape: &[u64], values: &[f32]| write_npy(&place.path(name), shape, values);
    matrix("x.npy", &[2, 2], &[1.0, 0.0, 0.0, 1.0]);
    matrix("y.npy", &[2, 2], &[0.6, 0.8, 0.8, 0.6]);
    matrix("three.npy", &[3, 2], &[0.5; 6]);
    matrix("flat.npy", &[4], &[0.5; 4]);
    matrix("nan.npy", &[2, 2], &[1.0, 0.0, 0.0, f32::NAN]);
    write_npy(&place.path("complex.npy"), &[2, 2], &[1f32, 0.0, 0.0, 1.0]);
    retype(&place.path("complex.npy"), "<c8");
    write_npy(&place.path("ids3.npy"), &[3], &[0u32, 1, 2]);
    matrix("narrow.npy", &[2, 1], &[1.0, -1.0]);
    write_npy(&place.path("pairs.npy"), &[2, 2], &[0i64, 1, 1, 2]);
    dataset(&place, "swapped", |file| write_npy(&file("pairs.npy"), &[2, 2], &[70i64, 3, 1, 1]));
    dataset(&place, "onebased", |file| write_npy(&file("pairs.npy"), &[2, 2], &[1i64, 1, 40, 80]));
    dataset(&place, "turned", |file| write_npy(&file("pairs.npy"), &[2, 3], &[1i64, 1, 2, 1, 2, 3]));
    write_npy(&place.path("minus.npy"), &[2], &[0i64, -1]);
    place
}

/// Gives an array of f32 another type of the same name's length.
fn retype(path: &std::path::Path, dtype: &str) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.windows(3).position(|word| word == b"<f4").unwrap();
    bytes[at..at + 3].copy_from_slice(dtype.as_bytes());
    fs::write(path, bytes).unwrap();
}

/// Each row of the table has two lines: a command, and its exit code with its message. Options that a row leaves out
/// are added. Messages of the operating system are those of Unix.
#[cfg(unix)]
#[test]
fn every_bad_call_is_refused_with_its_own_message() {
    let place = fixtures();
    let before = place.listing();
    let table = include_str!("faults.txt");
    let rows: Vec<_> = table.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let mut wrong = 0;
    for row in rows.chunks(2) {
        let (args, expected) = (row[0].strip_prefix("wgoal ").unwrap(), row.get(1).copied().unwrap_or(""));
        let mut all = args.to_string();
        let has = |option: &str| args.split(' ').any(|arg| arg == option);
        if !args.contains("--device") && !has("split") && !has("inspect") {
            all += " --device cpu";
        }
        if has("train") && !has("--out") {
            all += " --out new";
        }
        if has("train") && !has("--resume") && !has("--recipe") {
            all += " --recipe goal";
        }
        let mut command = place.command();
        let output = command
            .env("WGPU_BACKEND", ABSENT)
            .env("RAYON_NUM_THREADS", "2")
            .args(all.split_whitespace())
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let message = stderr.lines().find(|line| line.starts_with("error: ")).unwrap_or(&stderr);
        let message = message.replace(ABSENT, "ABSENT");
        let line = format!("{} {message}", output.status.code().unwrap_or(-1));
        if line != expected {
            wrong += 1;
            println!("wgoal {args}\n  expected {expected}\n  found    {line}");
        }
        assert!(!stderr.contains("panicked"), "wgoal {args}\n{stderr}");
        assert!(output.stdout.is_empty(), "wgoal {args} wrote to standard output");
        let after = place.listing();
        let changed: Vec<_> = after.iter().filter(|(path, bytes)| before.get(*path) != Some(bytes)).collect();
        assert!(changed.is_empty() && after.len() == before.len(), "wgoal {args} left {changed:?}");
    }
    assert!(rows.len() >= 2 * 45);
    assert_eq!(wrong, 0, "messages that differ are printed above");
}

/// A fault that training finds ends the run. Its folder then holds only complete files.
#[test]
fn a_fault_met_while_training_names_file_and_row() {
    let place = Place::new();
    let mut images = features()[0].clone();
    images[17 * DIMS[0] + 3] = f32::NAN;
    dataset(&place, "nan", |file| write_npy(&file("images.npy"), &[40, 6], &images));
    images = features()[0].clone();
    images[27 * DIMS[0]] = f32::INFINITY;
    dataset(&place, "inf", |file| write_npy(&file("images.npy"), &[40, 6], &images));
    let replace = "replace the value, or leave the row out of the dataset";
    let lower = "expected a finite loss and gradient, found loss NaN, gradient norm NaN; lower --lr, set --clip, or use \
                 milder --tau, --alpha, --beta";
    let never = ["config.json", "metrics.jsonl", "run.toml", "similarities.jsonl"];
    let rows: [(&str, String, &[&str]); 5] = [
        (
            "nan",
            format!("nan/images.npy row 17 column 3: expected a finite f32 value, found NaN; {replace}"),
            &never,
        ),
        // Standardisation reads the training rows before the folder is made. Every training does so with the rows of
        // validation and test.
        (
            "nan --standardize",
            format!("nan/images.npy row 17 column 3: expected a finite f32 value, found NaN; {replace}"),
            &[],
        ),
        (
            "inf",
            format!("inf/images.npy row 27 column 0: expected a finite f32 value, found inf; {replace}"),
            &[],
        ),
        ("data --lr 1e30 --batch 8 --epochs 5", format!("epoch 1, step 3: {lower}"), &never),
        // The head diverges in the last step of the epoch. No loss shows this, and a NaN must not win the validation.
        (
            "data --lr 1e300",
            "recall: expected finite embeddings, found NaN; the head has diverged: train with a lower --lr"
                .into(),
            &never,
        ),
    ];
    for (i, (args, message, left)) in rows.into_iter().enumerate() {
        let output = place.run(&format!("train {args} --recipe goal --device cpu --embed 4 --out {i}"));
        let last = output.stderr.lines().last().unwrap();
        assert_eq!((output.code, last), (1, &*format!("error: {message}")), "train {args}");
        assert!(output.stdout.is_empty());
        let names =
            if place.path(&i.to_string()).exists() { place.names(&i.to_string()) } else { Vec::new() };
        assert_eq!(names, left, "train {args}");
    }
    // The checkpoint of the epoch before is still valid.
    place.train("run", "--epochs 3");
    fs::write(place.path("data/images.npy"), place.read("nan/images.npy")).unwrap();
    let last = place.read("run/last.safetensors");
    assert_eq!(place.run("train data --resume --epochs 4 --device cpu --out run").code, 1);
    assert!(place.read("run/last.safetensors") == last);
    // The changed row is noticed before the outcome is removed.
    assert_eq!(place.names("run").len(), 8, "the outcome is there: {:?}", place.names("run"));
}
