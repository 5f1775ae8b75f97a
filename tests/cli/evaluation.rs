//! `wgoal eval` beyond recall of a head: raw features, embeddings from files, other measures, ranks of every query,
//! several right images, equal captions.

use super::place::*;
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use std::fs;

const CPU: &str = "--device cpu --json";

/// A dataset called `name`, changed.
fn dataset(place: &Place, name: &str, change: impl FnOnce(&dyn Fn(&str) -> std::path::PathBuf)) {
    write_dataset(&place.path(name));
    change(&|file| place.path(name).join(file));
}

fn same_recall(a: &Value, b: &Value) {
    for key in ["i2t", "t2i", "rsum", "measures"] {
        assert_eq!(a[key], b[key], "{key}");
    }
}

/// The rows of a matrix that a list names.
fn rows(values: &[f32], dim: usize, rows: impl IntoIterator<Item = u32>) -> Vec<f32> {
    rows.into_iter().flat_map(|row| values[row as usize * dim..][..dim].to_vec()).collect()
}

/// Texts as wide as the images: their image's features, and some noise.
fn wide_texts() -> Vec<f32> {
    let (images, mut noise) = (features()[0].clone(), numbers(5));
    let texts = text_to_image().into_iter().flat_map(|image| rows(&images, 6, [image]));
    texts.map(|x| x + 0.9 * noise.next().unwrap()).collect()
}

fn lengths(values: &mut [f32]) {
    for row in values.chunks_exact_mut(6) {
        let length = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
        row.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
}

#[test]
fn features_of_one_width_are_evaluated_without_a_head() {
    let place = Place::new();
    dataset(&place, "raw", |file| write_npy(&file("texts.npy"), &[80, 6], &wide_texts()));
    let whole = place.json(&format!("eval raw {CPU}"));
    assert!(whole["rsum"].as_f64().unwrap() > 400.0, "{whole}");
    // The same rows as files, of length 1 already.
    let (mut images, mut texts) = (rows(&features()[0], 6, 32..40), rows(&wide_texts(), 6, 64..80));
    lengths(&mut images);
    lengths(&mut texts);
    write_npy(&place.path("x.npy"), &[8, 6], &images);
    write_npy(&place.path("y.npy"), &[16, 6], &texts);
    write_npy(&place.path("own.npy"), &[16], &(0..16).map(|text| text / 2).collect::<Vec<i64>>());
    let output = place.run(&format!("eval --embeddings x.npy y.npy own.npy {CPU}"));
    assert!(!output.stderr.contains("another length"), "{}", output.stderr);
    same_recall(&whole, &serde_json::from_str(&output.stdout).unwrap());
    // Of another length, they are compared by direction.
    let longer: Vec<f32> = images.iter().map(|x| 8.0 * x).collect();
    write_npy(&place.path("x.npy"), &[8, 6], &longer);
    let output = place.run(&format!("eval --embeddings x.npy y.npy own.npy {CPU}"));
    assert!(
        output
            .stderr
            .contains("note: 8 image embeddings had another length than 1: they are compared by direction")
    );
    same_recall(&whole, &serde_json::from_str(&output.stdout).unwrap());
    // Other splits, folds and candidates work as with a head.
    assert_eq!(place.json(&format!("eval raw --split val --folds 2 {CPU}"))["folds"], 2);
    place.ok(&format!("eval raw --top 2 --write-candidates c.safetensors {CPU}"));
    assert_eq!(read_tensors(&place.read("c.safetensors")).0["image_to_text"].1, [8, 2]);
}

#[test]
fn embeddings_of_a_head_give_the_recall_of_the_head() {
    let place = Place::new();
    place.train("run", "");
    let head = place.json(&format!("eval run data {CPU}"));
    place.ok("embed run data --split test --out npy --device cpu");
    place.ok("embed run data --split test --out st --format safetensors --device cpu");
    let own: Vec<i64> = (0..16).map(|text| text / 2).collect();
    write_npy(&place.path("own.npy"), &[16], &own);
    let files = place.json(&format!("eval --embeddings npy/images.npy npy/texts.npy own.npy {CPU}"));
    same_recall(&head, &files);
    assert!(files.get("split").is_none());
    // A folder, and one file.
    fs::copy(place.path("own.npy"), place.path("npy/text_to_image.npy")).unwrap();
    same_recall(&head, &place.json(&format!("eval --embeddings npy {CPU}")));
    let (mut tensors, metadata) = read_tensors(&place.read("st/embeddings.safetensors"));
    let bytes = own.iter().flat_map(|row| row.to_le_bytes()).collect();
    tensors.insert("text_to_image".into(), (Dtype::I64, vec![16], bytes));
    fs::write(place.path("one.safetensors"), write_tensors(&tensors, metadata)).unwrap();
    same_recall(&head, &place.json(&format!("eval --embeddings one.safetensors {CPU}")));
    // Equal numbers of rows are pairs.
    let texts = rows(&floats(&tensors["texts"]), 4, (0..16).step_by(2));
    write_npy(&place.path("first.npy"), &[8, 4], &texts);
    let pairs = place.json(&format!("eval --embeddings npy/images.npy first.npy {CPU}"));
    write_npy(&place.path("own.npy"), &[8], &(0..8).collect::<Vec<i64>>());
    same_recall(&pairs, &place.json(&format!("eval --embeddings npy/images.npy first.npy own.npy {CPU}")));
}

#[test]
fn the_table_and_the_line_have_the_measures_asked_for() {
    let place = Place::new();
    place.train("run", "");
    let plain = place.json(&format!("eval run data {CPU}"));
    let recall = |value: &Value| keys(&value["measures"]["i2t"]["recall"]).join(" ");
    assert_eq!(recall(&plain), "1 10 5");
    assert_eq!(keys(&plain["measures"]["t2i"]), ["map_at_r", "mrr", "ndcg", "r_precision", "recall"]);
    for (k, name) in [("1", "r1"), ("5", "r5"), ("10", "r10")] {
        assert_eq!(plain["measures"]["i2t"]["recall"][k], plain["i2t"][name]);
    }
    // One right image per text: R is 1, so both measures at R are recall at 1.
    let t2i = &plain["measures"]["t2i"];
    assert_eq!((&t2i["map_at_r"], &t2i["r_precision"]), (&plain["t2i"]["r1"], &plain["t2i"]["r1"]));
    let other = place.json(&format!("eval run data --k 2,99 {CPU}"));
    assert_eq!((recall(&other).as_str(), &other["rsum"]), ("2 99", &plain["rsum"]));
    assert_eq!(other["measures"]["t2i"]["recall"]["99"], 100.0, "more than there are");
    let text = place.ok("eval run data --device cpu --k 2,99 --metrics all");
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["R@2", "R@99", "medr", "meanr", "mAP@R", "R-prec", "MRR", "nDCG"]);
    let t2i = &other["measures"]["t2i"];
    let expected = [&t2i["recall"]["2"], &t2i["map_at_r"], &t2i["r_precision"], &t2i["mrr"], &t2i["ndcg"]];
    let expected = expected.map(|value| format!("{:.1}", value.as_f64().unwrap()));
    assert_eq!(
        [lines[2][3], lines[2][7], lines[2][8], lines[2][9], lines[2][10]],
        expected.each_ref().map(String::as_str)
    );
    let text = place.ok("eval run data --device cpu");
    let plain: Vec<_> = text.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(plain, ["R@1", "R@5", "R@10", "medr", "meanr"]);
}

#[test]
fn ranks_of_every_query_agree_with_the_measures() {
    let place = Place::new();
    place.train("run", "");
    // The order of the rows is not theirs in the dataset.
    dataset(&place, "turned", |file| {
        write_npy(&file("split_test.npy"), &[8], &(32..40).rev().collect::<Vec<u32>>());
        write_npy(&file("pairs.npy"), &[2, 2], &[39i64, 64, 33, 3]);
    });
    let eval = place.json(&format!("eval run turned --write-ranks r.safetensors --k 3 {CPU}"));
    let (tensors, _) = read_tensors(&place.read("r.safetensors"));
    let numbers = |name: &str| -> Vec<i64> {
        assert_eq!(tensors[name].0, Dtype::I64, "{name}");
        bytemuck::pod_collect_to_vec(&tensors[name].2)
    };
    assert_eq!(numbers("images"), (32..40).rev().collect::<Vec<_>>());
    let share = |ranks: &[i64], k: i64| {
        100.0 * ranks.iter().filter(|&&rank| rank <= k).count() as f64 / ranks.len() as f64
    };
    for (direction, name) in [("i2t", "image_rank"), ("t2i", "text_rank")] {
        let ranks = numbers(name);
        let mean = ranks.iter().sum::<i64>() as f64 / ranks.len() as f64;
        assert_eq!(
            (json!(share(&ranks, 1)), json!(mean)),
            (eval[direction]["r1"].clone(), eval[direction]["meanr"].clone())
        );
        assert_eq!(json!(share(&ranks, 3)), eval["measures"][direction]["recall"]["3"]);
    }
    // 16 texts, and one pair of the two: the text of the other is not in the split.
    let pairs = numbers("pairs");
    assert_eq!((pairs.len(), tensors["pairs"].1.clone()), (34, vec![17, 2]));
    assert!(pairs.chunks(2).any(|pair| pair == [39, 64]));
    place.ok(&format!("eval run turned --write-ranks r.jsonl {CPU}"));
    let text = String::from_utf8(place.read("r.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |query: &str| -> Vec<&Value> { lines.iter().filter(|line| line["query"] == query).collect() };
    let listed = |query, key| of(query).iter().map(|line| line[key].as_i64().unwrap()).collect::<Vec<_>>();
    assert_eq!((listed("image", "row"), listed("image", "rank")), (numbers("images"), numbers("image_rank")));
    assert_eq!((listed("text", "row"), listed("text", "rank")), (numbers("texts"), numbers("text_rank")));
    for (pair, rank) in pairs.chunks(2).zip(numbers("image_to_text_rank")) {
        let right = json!({"row": pair[1], "rank": rank});
        let line = of("image").into_iter().find(|line| line["row"] == pair[0]).unwrap();
        assert!(line["right"].as_array().unwrap().contains(&right), "{line} {right}");
    }
    for (pair, rank) in pairs.chunks(2).zip(numbers("text_to_image_rank")) {
        let right = json!({"row": pair[0], "rank": rank});
        let line = of("text").into_iter().find(|line| line["row"] == pair[1]).unwrap();
        assert!(line["right"].as_array().unwrap().contains(&right), "{line} {right}");
    }
    // The features are not overwritten.
    assert_eq!(place.run("eval run data --device cpu --write-ranks run/best.safetensors").code, 1);
}

#[test]
fn a_text_may_be_right_for_several_images() {
    let place = Place::new();
    place.train("run", "");
    let alone = place.json(&format!("eval run data {CPU}"));
    place.ok("embed run data --split test --out v --device cpu");
    // Every text is also right for the next image of the test split.
    let more: Vec<i64> = (0..16).flat_map(|text| [32 + (text / 2 + 1) % 8, 64 + text]).collect();
    dataset(&place, "several", |file| write_npy(&file("pairs.npy"), &[16, 2], &more));
    let output = place.run(&format!("eval run several {CPU}"));
    assert!(
        output.stderr.contains("note: 16 texts are also right for images other than their own"),
        "{}",
        output.stderr
    );
    let several: Value = serde_json::from_str(&output.stdout).unwrap();
    assert!(several["rsum"].as_f64().unwrap() > alone["rsum"].as_f64().unwrap());
    assert_eq!(several["measures"]["t2i"]["recall"]["1"], several["t2i"]["r1"]);
    // The same for embeddings, with and without the image of every text.
    let local = |value: &i64, at: usize| value - if at.is_multiple_of(2) { 32 } else { 64 };
    let pairs: Vec<i64> = more.iter().enumerate().map(|(at, value)| local(value, at)).collect();
    let own: Vec<i64> = (0..16).flat_map(|text| [text / 2, text]).collect();
    write_npy(&place.path("own.npy"), &[16], &(0..16).map(|text| text / 2).collect::<Vec<i64>>());
    write_npy(&place.path("pairs.npy"), &[16, 2], &pairs);
    write_npy(&place.path("all.npy"), &[32, 2], &[own, pairs].concat());
    let files = "eval --embeddings v/images.npy v/texts.npy";
    same_recall(&several, &place.json(&format!("{files} own.npy --pairs pairs.npy {CPU}")));
    same_recall(&several, &place.json(&format!("{files} --pairs all.npy {CPU}")));
}

/// 40 images of which each pair shares its captions: those of the odd ones are the captions of the even ones before.
fn equal_captions(place: &Place, name: &str) {
    dataset(place, name, |file| {
        let mut texts = features()[1].clone();
        for row in (0..80).filter(|text| text / 2 % 2 == 1) {
            texts.copy_within((row - 2) * 5..(row - 1) * 5, row * 5);
        }
        write_npy(&file("texts.npy"), &[80, 5], &texts)
    });
}

#[test]
fn equal_captions_are_right_answers_where_asked_for() {
    let place = Place::new();
    equal_captions(&place, "equal");
    let train = "train equal --recipe goal --device cpu --batch 16 --epochs 3 --embed 4 --no-baselines --json --lr 0.01 \
                 --correction none";
    let off = place.run(&format!("{train} --out off"));
    let warning = "equal captions count as negatives in training and as wrong answers in retrieval; with --equal-captions \
                   mask, train, sweep, baseline and eval count them as right";
    assert!(off.stderr.contains(warning), "{}", off.stderr);
    let mask = place.run(&format!("{train} --equal-captions mask --out mask"));
    assert!(!mask.stderr.contains("equal captions"), "{}", mask.stderr);
    let mask: Value = serde_json::from_str(&mask.stdout).unwrap();
    // Training differs, not only what counts.
    let hardest = |run: &str| place.metrics(run)[0]["hardest"].as_f64().unwrap();
    assert!(hardest("mask") < hardest("off"), "{} {}", hardest("mask"), hardest("off"));
    // The report counts the same.
    let report: Value = serde_json::from_slice(&place.read("mask/result.json")).unwrap();
    let ranks: Vec<f64> =
        report["ranked"]["captions"].as_array().unwrap().iter().map(|rank| rank.as_f64().unwrap()).collect();
    assert_eq!(json!(ranks.iter().sum::<f64>() / ranks.len() as f64), mask["test"]["t2i"]["meanr"]);
    // Evaluation does as the run did, unless it is told otherwise.
    let eval = |run: &str, more: &str| place.json(&format!("eval {run} equal {CPU} {more}"));
    let kept = eval("mask", "");
    assert_eq!(
        (&kept["i2t"], &kept["t2i"], &kept["equal_captions"]),
        (&mask["test"]["i2t"], &mask["test"]["t2i"], &json!("mask"))
    );
    let strict = eval("mask", "--equal-captions off");
    assert_eq!(strict["equal_captions"], "off");
    assert!(kept["rsum"].as_f64().unwrap() > strict["rsum"].as_f64().unwrap() + 20.0, "{kept} {strict}");
    assert!(strict["t2i"]["r1"].as_f64().unwrap() <= 50.0, "{strict}");
    same_recall(&eval("off", "--equal-captions mask"), &{
        // The same as pairs: every text is right for the other image.
        dataset(&place, "paired", |file| {
            fs::copy(place.path("equal/texts.npy"), file("texts.npy")).unwrap();
            let pairs: Vec<i64> = (0..80).flat_map(|text: i64| [(text / 2) ^ 1, text]).collect();
            write_npy(&file("pairs.npy"), &[80, 2], &pairs)
        });
        place.json(&format!("eval off paired {CPU}"))
    });
    // A run that is resumed goes on in the same way.
    let again = format!("{} --equal-captions mask --out twice", train.replace("--epochs 3", "--epochs 1"));
    place.ok(&again);
    place.ok("train --resume --out twice --epochs 3 --no-baselines --json");
    assert_eq!(place.read("twice/best.safetensors"), place.read("mask/best.safetensors"));
}

#[test]
fn captions_are_equal_whatever_their_case_and_spaces() {
    let place = Place::new();
    place.train("run", "");
    let captions = |place: &Place, name: &str, line: &dyn Fn(usize) -> String| {
        dataset(place, name, |file| {
            let lines: Vec<_> = (0..80).map(line).collect();
            fs::write(file("captions.txt"), lines.join("\n") + "\n").unwrap();
        });
        place.json(&format!("eval run {name} --equal-captions mask {CPU}"))
    };
    let strict = place.json(&format!("eval run data {CPU}"));
    same_recall(&strict, &captions(&place, "different", &|text| format!("caption {text}")));
    // The first captions of images 34 and 35, and those of 36 and 37, are equal.
    let line = |text: usize| match text {
        68 => "A Dog  runs".into(),
        70 => " a dog runs ".into(),
        72 => "Ärger".into(),
        74 => "ärger".into(),
        _ => format!("caption {text}"),
    };
    let equal = captions(&place, "equal", &line);
    let pairs = [35i64, 68, 34, 70, 37, 72, 36, 74];
    dataset(&place, "paired", |file| write_npy(&file("pairs.npy"), &[4, 2], &pairs));
    same_recall(&equal, &place.json(&format!("eval run paired {CPU}")));
    assert_ne!(equal["measures"], strict["measures"]);
}

#[test]
fn training_with_pairs_and_a_bank_gives_the_same_bits_again() {
    let place = Place::new();
    equal_captions(&place, "equal");
    let pairs: Vec<i64> = (0..80).flat_map(|text: i64| [(text / 2) ^ 1, text]).collect();
    dataset(&place, "paired", |file| {
        fs::copy(place.path("equal/texts.npy"), file("texts.npy")).unwrap();
        write_npy(&file("pairs.npy"), &[80, 2], &pairs)
    });
    // Pairs that say the same as equal captions train the same head, and not that of a training without them.
    let train = "--recipe goal --device cpu --batch 16 --epochs 3 --embed 4 --no-baselines --no-report";
    let bank = "--memory-bank 32 --bank-warmup 0";
    for (objective, bank) in
        [("hinge", bank), ("cir:sig-ms", bank), ("nca:lin@top:2", bank), ("infonce", ""), ("hinge-sum", "")]
    {
        let weights = |data: &str, more: &str| {
            let folder = format!("{data}-{objective}-{}", more.len());
            place.ok(&format!("train {data} {train} {bank} --objective {objective} {more} --out {folder}"));
            read_tensors(&place.read(&format!("{folder}/last.safetensors"))).0["image.weight"].clone()
        };
        let masked = weights("equal", "--equal-captions mask");
        assert!(masked == weights("paired", ""), "{objective}");
        assert!(masked != weights("equal", ""), "{objective}");
    }
}

#[test]
fn heads_of_runs_before_the_option_are_read() {
    let place = Place::new();
    place.train("run", "");
    let (tensors, mut metadata) = read_tensors(&place.read("run/best.safetensors"));
    let text = metadata.get_mut("wgoal").unwrap();
    assert!(text.contains(",\"equal_captions\":\"off\""), "{text}");
    *text = text.replace(",\"equal_captions\":\"off\"", "");
    fs::write(place.path("old.safetensors"), write_tensors(&tensors, metadata)).unwrap();
    assert_eq!(
        place.json(&format!("eval old.safetensors data {CPU}")),
        place.json(&format!("eval run data {CPU}"))
    );
}
