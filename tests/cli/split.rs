//! Datasets of two files: pairs, the splits that commands use, and `wgoal split`, which writes them.

use super::place::*;
use std::fs;

/// A dataset of pairs without any other file: image i and its first caption.
fn two_files(place: &Place, name: &str) {
    let [images, texts] = features();
    let first = texts.chunks(2 * DIMS[1]).flat_map(|pair| pair[..DIMS[1]].to_vec()).collect::<Vec<f32>>();
    fs::create_dir_all(place.path(name)).unwrap();
    write_npy(&place.path(name).join("images.npy"), &[IMAGES.into(), DIMS[0] as u64], &images);
    write_npy(&place.path(name).join("texts.npy"), &[IMAGES.into(), DIMS[1] as u64], &first);
}

/// A short run that must succeed.
fn train(place: &Place, out: &str, data: &str, args: &str) -> Output {
    let output = place
        .run(&format!("train {data} --device cpu --embed 4 --batch 16 --no-baselines --out {out} {args}"));
    assert_eq!(output.code, 0, "{}", output.stderr);
    output
}

fn notes(stderr: &str) -> Vec<&str> {
    stderr.lines().filter(|line| line.starts_with("note: no ")).collect()
}

fn rows(place: &Place, file: &str) -> Vec<u64> {
    wgoal::data::read_ids_npy(&place.path(file)).unwrap().to_vec()
}

fn failure(place: &Place, args: &str) -> String {
    let output = place.run(args);
    assert_eq!((output.code, output.stdout.as_str()), (1, ""), "wgoal {args}\n{}", output.stderr);
    output.stderr.lines().last().unwrap().strip_prefix("error: ").unwrap().to_string()
}

const PAIRS: &str = "note: no text_to_image: text i is the caption of image i";
const DIVIDED: &str = "note: no split files: 80 % of the images are for training, 10 % for validation, 10 % for the test, \
                       by a hash of their row; `wgoal split two` writes them";

#[test]
fn two_files_and_one_command_are_enough() {
    let place = Place::new();
    two_files(&place, "two");
    let output = train(&place, "run", "two", "--epochs 2");
    assert_eq!(notes(&output.stderr), [PAIRS, DIVIDED]);
    assert_eq!(place.run("embed run two --split all --device cpu --out all").code, 0);
    let eval = place.json("eval run two --device cpu --json");
    // The files that `wgoal split` writes are the splits that were used: results are the same, and the run goes on.
    let table = place.ok("split two");
    let expected =
        ["train.npy: 32", "val.npy: 4", "test.npy: 4"].map(|rest| format!("two/split_{rest} of 40 images"));
    assert_eq!(table.lines().collect::<Vec<_>>(), expected);
    assert_eq!(place.json("eval run two --device cpu --json"), eval);
    let output = place.run("train --resume --epochs 3 --no-baselines --device cpu --out run");
    assert_eq!((output.code, notes(&output.stderr)), (0, vec![PAIRS]), "{}", output.stderr);
    train(&place, "whole", "two", "--epochs 3");
    two_files(&place, "again");
    train(&place, "hashed", "again", "--epochs 3");
    let head = |run: &str| read_tensors(&place.read(&format!("{run}/best.safetensors"))).0;
    assert!(head("whole") == head("run") && head("whole") == head("hashed"));
}

#[test]
fn split_files_are_written_once() {
    let place = Place::new();
    two_files(&place, "two");
    place.ok("split two --val 5 --test 20 --seed 3 --out parts");
    assert_eq!(
        [rows(&place, "parts/split_train.npy").len(), rows(&place, "parts/split_val.npy").len()],
        [30, 2]
    );
    place.ok("split two --train 50 --val 10 --test 0 --out half");
    assert_eq!(
        (place.names("half"), rows(&place, "half/split_train.npy").len()),
        (vec!["split_train.npy".to_string(), "split_val.npy".into()], 20)
    );
    place.ok("split two");
    let before = place.listing();
    assert_eq!(
        failure(&place, "split two"),
        "two/split_train.npy: expected no file of this name, found one; add --replace to replace it, or --out DIR to write \
         the splits elsewhere"
    );
    assert_eq!(
        failure(&place, "split two --out parts"),
        "parts/split_train.npy: expected no file of this name, found one; choose another --out, or add --replace to replace \
         the file"
    );
    assert_eq!(
        failure(&place, "split two --missing"),
        "two: expected a split that is missing, found all three splits; leave --missing out to make new splits"
    );
    assert_eq!(
        failure(&place, "split two --replace --val 0"),
        "two/split_val.npy: expected no such split, for its percentage is 0, found its file; remove it, or give --val a \
         percentage above 0"
    );
    assert_eq!(
        failure(&place, "split two --val 60 --test 50 --out no"),
        "--train, --val and --test: expected percentages that sum to at most 100, found 110; lower one of them"
    );
    assert!(place.listing() == before);
    // Advice, followed.
    place.ok("split two --replace --seed 1");
    assert_ne!(rows(&place, "two/split_test.npy"), rows(&place, "parts/split_test.npy")[..4]);
    // A split may have another file.
    write_dataset(&place.path("shards"));
    fs::rename(place.path("shards/split_val.npy"), place.path("shards/split_val_0.npy")).unwrap();
    fs::remove_file(place.path("shards/split_train.npy")).unwrap();
    fs::remove_file(place.path("shards/split_test.npy")).unwrap();
    let elsewhere = failure(&place, "split shards");
    assert!(
        elsewhere.starts_with(
            "shards/split_val.npy: expected no such split, found one in other files of the dataset; add --missing --replace"
        ),
        "{elsewhere}"
    );
    place.ok("split shards --replace");
    assert_eq!(rows(&place, "shards/split_val.npy").len(), 4);
    #[cfg(unix)]
    {
        // A link must not lead to features.
        fs::create_dir(place.path("links")).unwrap();
        std::os::unix::fs::symlink(place.path("two/images.npy"), place.path("links/split_val.npy")).unwrap();
        let images = place.read("two/images.npy");
        assert!(
            failure(&place, "split two --replace --out links")
                .contains("a file that this command does not read")
        );
        assert!(place.read("two/images.npy") == images);
    }
}

#[test]
fn a_missing_validation_split_comes_with_a_command() {
    let place = Place::new();
    write_dataset(&place.path("no val"));
    fs::remove_file(place.path("no val/split_val.npy")).unwrap();
    let output = place.command().args(["train", "no val", "--device", "cpu", "--out", "r"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let quoted = if cfg!(windows) { "\"no val\"" } else { "'no val'" };
    assert_eq!(
        stderr.lines().last().unwrap().replace('\\', "/"),
        format!(
            "error: no val/split_val.npy: expected the validation split: the rows of images that choose the best epoch, and are \
             not trained on, found none; `wgoal split {quoted} --missing --replace` moves a tenth of split_train there"
        )
    );
    // Without --replace, nothing of the user's changes.
    fs::rename(place.path("no val"), place.path("noval")).unwrap();
    let before = place.listing();
    assert_eq!(
        failure(&place, "split noval --missing"),
        "noval/split_train.npy: expected no file of this name, found one; add --replace to take images out of it, or --out \
         DIR to write the new splits elsewhere"
    );
    assert!(failure(&place, "split noval").contains("add --missing --replace to keep the splits that exist"));
    assert!(place.listing() == before);
    place.ok("split noval --missing --out elsewhere");
    assert_eq!(place.names("elsewhere"), ["split_train.npy", "split_val.npy"]);
    let test = rows(&place, "noval/split_test.npy");
    place.ok("split noval --missing --replace");
    let [rest, val] = ["noval/split_train.npy", "noval/split_val.npy"].map(|file| rows(&place, file));
    assert_eq!((rest.len(), val.len(), rows(&place, "noval/split_test.npy")), (22, 2, test));
    assert!(val.iter().all(|row| *row < 24 && !rest.contains(row)));
    train(&place, "r", "noval", "--epochs 1");
}

#[test]
fn missing_splits_come_from_the_training_split() {
    let place = Place::new();
    // Only a test split: the others are made of the images that it leaves.
    write_dataset(&place.path("tested"));
    ["train", "val"]
        .iter()
        .for_each(|name| fs::remove_file(place.path(&format!("tested/split_{name}.npy"))).unwrap());
    assert!(failure(&place, "train tested --out r").contains("`wgoal split tested --missing` writes it"));
    place.ok("split tested --missing");
    let [train, val, test] =
        ["train", "val", "test"].map(|name| rows(&place, &format!("tested/split_{name}.npy")));
    assert_eq!((train.len(), val.len(), test), (29, 3, (32..40).collect::<Vec<u64>>()));
    assert!(train.iter().chain(&val).all(|row| *row < 32));
    // Only a training split, in an order of its own: what is left keeps it.
    write_dataset(&place.path("trained"));
    ["val", "test"]
        .iter()
        .for_each(|name| fs::remove_file(place.path(&format!("trained/split_{name}.npy"))).unwrap());
    write_npy(&place.path("trained/split_train.npy"), &[30], &(0..30).rev().collect::<Vec<u32>>());
    place.ok("split trained --missing --test 20 --replace");
    let [train, val, test] =
        ["train", "val", "test"].map(|name| rows(&place, &format!("trained/split_{name}.npy")));
    assert_eq!((train.len(), val.len(), test.len()), (21, 3, 6));
    assert!(train.windows(2).all(|pair| pair[0] > pair[1]));
    assert!(failure(&place, "split trained --missing --val 0").contains("found all three splits"));
}

#[test]
fn a_file_has_no_place_for_split_files() {
    let place = Place::new();
    let rows = |values: &[f32], width: usize| {
        (
            safetensors::tensor::Dtype::F32,
            vec![40, width],
            values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>(),
        )
    };
    let [images, texts] = features();
    let first: Vec<f32> = texts.chunks(10).flat_map(|pair| pair[..5].to_vec()).collect();
    let tensors = [("images".to_string(), rows(&images, 6)), ("texts".into(), rows(&first, 5))].into();
    fs::write(place.path("d.safetensors"), write_tensors(&tensors, Default::default())).unwrap();
    assert_eq!(
        failure(&place, "split d.safetensors"),
        "d.safetensors: expected a folder to write to, found a file; give --out DIR, and add the arrays written there to the \
         file"
    );
    let output = place.run("split d.safetensors --out parts");
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert_eq!(output.stderr, "note: add these arrays to d.safetensors, where wgoal looks for them\n");
    assert_eq!(place.names("parts").len(), 3);
    let output = train(&place, "r", "d.safetensors", "--epochs 1");
    assert!(notes(&output.stderr)[1].ends_with("by a hash of their row"), "{}", output.stderr);
}

#[test]
fn a_dataset_without_a_test_split_trains() {
    let place = Place::new();
    write_dataset(&place.path("untested"));
    fs::remove_file(place.path("untested/split_test.npy")).unwrap();
    let cca = place.json("baseline cca untested --embed 4 --device cpu --out cca --json");
    assert!(cca["val"].is_object() && cca.get("test").is_none(), "{cca}");
    assert_eq!(
        failure(&place, "eval cca untested --device cpu"),
        "untested/split_test.npy: expected the test split: the rows of images that the result is measured on, and are not \
         trained on, found none; write split_test, or name another split with --split"
    );
    let val = place.json("eval cca untested --split val --device cpu --json");
    assert_eq!(val["rsum"], cca["val"]["rsum"]);
    let refused =
        failure(&place, "sweep untested --objectives hinge --seeds 0 --epochs 1 --device cpu --out s");
    assert_eq!(
        refused,
        "untested: expected the test split: the rows of images that the result is measured on, and are not trained on, found \
         none; write split_test, or use another split"
    );
}
