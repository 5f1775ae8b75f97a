//! The correction for hubs on the command line.

use super::place::*;
use safetensors::tensor::Dtype;
use serde_json::Value;
use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// The example dataset, as `data`, and CCA on it with a correction, as `run`. Returns what `baseline` printed.
fn place() -> (Place, Value) {
    let place = Place::new();
    fs::remove_dir_all(place.path("data")).unwrap();
    copy(&place, "data");
    let found = place.json("baseline cca data --embed 24 --regularization 0.3 --device cpu --json --out run");
    (place, found)
}

fn copy(place: &Place, name: &str) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/clipart-mini");
    fs::create_dir(place.path(name)).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), place.path(name).join(entry.file_name())).unwrap();
    }
}

/// The matrix and the width of an .npy file of F32.
fn matrix(place: &Place, name: &str) -> (Vec<f32>, usize) {
    let bytes = place.read(name);
    let file = npyz::NpyFile::new(&bytes[..]).unwrap();
    let width = file.shape()[1] as usize;
    (file.into_vec().unwrap(), width)
}

#[test]
fn eval_shows_recall_without_and_with_the_correction() {
    let (place, baseline) = place();
    let eval = |args: &str| place.json(&format!("eval run data --device cpu --json {args}"));
    let (found, plain) = (eval(""), eval("--correction none"));
    for key in ["i2t", "t2i", "rsum"] {
        assert_eq!(found["plain"][key], plain[key], "{key}");
        assert_eq!(baseline["test"][key], plain[key], "{key}");
        assert_eq!(baseline["corrected"]["test"][key], found[key], "{key}");
    }
    assert!(plain.get("plain").is_none());
    assert!(found["rsum"].as_f64() > plain["rsum"].as_f64(), "{found}");
    let val = eval("--split val");
    assert_eq!(baseline["corrected"]["val"]["rsum"], val["rsum"]);
    assert!(val["rsum"].as_f64() > val["plain"]["rsum"].as_f64(), "{val}");
    let table = place.ok("eval run data --device cpu");
    let (above, below) = table.split_once("\ncorrected for hubs\n").unwrap();
    let rsum = |value: &Value| format!("rsum {:.1} of 600", value["rsum"].as_f64().unwrap());
    assert!(above.ends_with(&rsum(&plain)) && below.trim_end().ends_with(&rsum(&found)), "{table}");
    assert_eq!(table.matches("image to text").count(), 2);
    let without = place.ok("eval run data --device cpu --correction none");
    assert!(!without.contains("hubs") && table.starts_with(without.trim_end()), "{without}");
}

#[test]
fn embeddings_search_rank_and_candidates_use_corrected_scores() {
    let (place, _) = place();
    let output = place.run("embed run data --split test --device cpu --out vectors");
    assert!(output.stderr.contains("use the inner product, not the cosine"), "{}", output.stderr);
    place.ok("embed run data --split test --device cpu --correction none --out plain");
    let [(images, width), (texts, _)] =
        ["images", "texts"].map(|side| matrix(&place, &format!("vectors/{side}.npy")));
    assert_eq!(width, 26);
    for (side, vectors, ones) in [("images", &images, 25), ("texts", &texts, 24)] {
        let (plain, dim) = matrix(&place, &format!("plain/{side}.npy"));
        assert_eq!(dim, 24);
        for (row, plain) in vectors.chunks_exact(width).zip(plain.chunks_exact(dim)) {
            assert_eq!((&row[..dim], row[ones]), (plain, 1.0), "{side}");
        }
    }
    let (image_rows, text_rows) =
        (ids(&place, "vectors/image_rows.npy"), ids(&place, "vectors/text_rows.npy"));
    // The score of an image and a text, both by their row in the dataset.
    let score = |image: u64, text: u64| -> f32 {
        let at = |rows: &[u64], row| rows.iter().position(|&own| own == row).unwrap() * width;
        let (x, y) = (&images[at(&image_rows, image)..][..width], &texts[at(&text_rows, text)..][..width]);
        x.iter().zip(y).map(|(x, y)| x * y).sum()
    };
    let close = |found: f32, image, text| {
        let expected = score(image, text);
        assert!((found - expected).abs() < 1e-6, "image {image}, text {text}: {found} {expected}");
    };
    // The first images by the corrected score, and the first by the cosine alone.
    let first = |text: u64, count: usize| -> Vec<u64> {
        let mut order = image_rows.clone();
        order.sort_by(|&a, &b| score(b, text).total_cmp(&score(a, text)).then(a.cmp(&b)));
        order.truncate(count);
        order
    };
    let query = text_rows[5];
    let found = place.json(&format!("search run data --text-row {query} --split test --device cpu --json"));
    let hits = found["results"].as_array().unwrap();
    for hit in hits {
        close(hit["score"].as_f64().unwrap() as f32, hit["image"].as_u64().unwrap(), query);
    }
    let images_found: Vec<u64> = hits.iter().map(|hit| hit["image"].as_u64().unwrap()).collect();
    assert_eq!(images_found, first(query, hits.len()), "search finds other images");
    place.ok("rank run data --device cpu --top 3 --out t2i.trec");
    let trec = String::from_utf8(place.read("t2i.trec")).unwrap();
    let lines: Vec<Vec<&str>> = trec.lines().map(|line| line.split(' ').collect()).collect();
    for ranked in lines.chunks(3) {
        let text: u64 = ranked[0][0].parse().unwrap();
        for line in ranked {
            close(line[4].parse().unwrap(), line[2].parse().unwrap(), text);
        }
        let images_ranked: Vec<u64> = ranked.iter().map(|line| line[2].parse().unwrap()).collect();
        assert_eq!(images_ranked, first(text, 3), "rank finds other images for text {text}");
    }
    place.ok("rank run data --device cpu --top 3 --direction i2t --out i2t.trec");
    for line in String::from_utf8(place.read("i2t.trec")).unwrap().lines() {
        let parts: Vec<&str> = line.split(' ').collect();
        close(parts[4].parse().unwrap(), parts[0].parse().unwrap(), parts[2].parse().unwrap());
    }
    place.ok("eval run data --device cpu --top 4 --write-candidates c.safetensors");
    let (tensors, _) = read_tensors(&place.read("c.safetensors"));
    let [queries, found] = ["texts", "text_to_image"].map(|name| wide_rows(&tensors[name]));
    let scores = floats(&tensors["text_to_image_corrected"]);
    for (at, (&image, found)) in found.iter().zip(scores).enumerate() {
        close(found, image, queries[at / 4]);
    }
    for (&text, candidates) in queries.iter().zip(found.chunks(4)) {
        assert_eq!(candidates, first(text, 4), "other candidates for text {text}");
    }
    assert!(!tensors.contains_key("text_to_image_cosine"));
    // Without the correction, these are cosines.
    place.ok("eval run data --device cpu --top 4 --write-candidates p.safetensors --correction none");
    assert!(read_tensors(&place.read("p.safetensors")).0.contains_key("text_to_image_cosine"));
    let search = |more: &str| {
        place.json(&format!("search run data --text-row {query} --split test --device cpu --json {more}"))
    };
    let ranks = |value: &Value| value["right_ranks"].clone();
    place.ok("eval run data --device cpu --write-ranks r.jsonl");
    let text = String::from_utf8(place.read("r.jsonl")).unwrap();
    let of = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let of =
        of.filter(|line| line["query"] == "text" && line["row"] == query).map(|line| line["rank"].clone());
    assert_eq!(ranks(&search("")), Value::Array(of.collect()), "ranks of eval are those of search");
    assert_ne!(search(""), search("--correction none"));
}

/// The corrected scores of all pairs, by the rows of image and text.
fn scores(place: &Place, dataset: &str) -> HashMap<(u64, u64), u32> {
    place.ok(&format!("eval run {dataset} --device cpu --top 9999 --write-candidates {dataset}.st"));
    let (tensors, _) = read_tensors(&place.read(&format!("{dataset}.st")));
    let (images, index) = (wide_rows(&tensors["images"]), wide_rows(&tensors["image_to_text"]));
    let k = tensors["image_to_text"].1[1];
    let scores = floats(&tensors["image_to_text_corrected"]);
    let pairs = index.iter().enumerate().map(|(at, &text)| (images[at / k], text));
    pairs.zip(scores.into_iter().map(f32::to_bits)).collect()
}

#[test]
fn a_corrected_score_is_the_same_when_other_test_items_are_removed() {
    let (place, _) = place();
    let all = scores(&place, "data");
    let test: Vec<u64> = ids(&place, "data/split_test.npy");
    for (name, step) in [("third", 3), ("few", 40)] {
        copy(&place, name);
        let some: Vec<u64> = test.iter().step_by(step).copied().collect();
        write_npy(&place.path(name).join("split_test.npy"), &[some.len() as u64], &some);
        let found = scores(&place, name);
        assert!(!found.is_empty() && found.len() * step < all.len());
        for (pair, score) in &found {
            assert_eq!(score, &all[pair], "{name}, {pair:?}");
        }
    }
}

/// Row numbers of a tensor.
fn wide_rows(tensor: &Tensor) -> Vec<u64> {
    rows(tensor).into_iter().map(u64::from).collect()
}

/// The whole numbers of an .npy file of any type.
fn ids(place: &Place, name: &str) -> Vec<u64> {
    wgoal::data::read_ids_npy(&place.path(name)).unwrap().to_vec()
}

#[test]
fn training_fits_the_correction_to_its_best_head() {
    let place = Place::new();
    fs::remove_dir_all(place.path("data")).unwrap();
    copy(&place, "data");
    let options = "--objective infonce --epochs 1 --embed 24 --no-baselines";
    let train = |out: &str, more: &str| place.train(out, &format!("{options} {more}"));
    let plain = train("plain", "");
    assert!(plain.get("corrected").is_none(), "{plain}");
    let softmax = train("softmax", "--correction inverted-softmax");
    assert_eq!(softmax["corrected"]["hubness"]["kind"], "inverted-softmax");
    let auto = train("auto", "--correction auto");
    for key in ["val", "test"] {
        assert_eq!(auto[key], plain[key], "the head is the same");
        let eval = place.json(&format!("eval auto data --split {key} --device cpu --json"));
        assert_eq!(auto["corrected"][key]["rsum"], eval["rsum"]);
    }
    assert!(auto["corrected"]["val"]["rsum"].as_f64() > auto["val"]["rsum"].as_f64(), "{auto}");
    // The report shows both.
    let result: Value = serde_json::from_slice(&place.read("auto/result.json")).unwrap();
    let page = String::from_utf8(place.read("auto/report.html")).unwrap();
    for key in ["val", "test"] {
        assert_eq!(result["corrected"][key], auto["corrected"][key]);
        let rsum = format!("{:.1}", auto["corrected"][key]["rsum"].as_f64().unwrap());
        assert!(page.contains(&format!(">{rsum}<")), "{rsum}");
    }
    assert!(page.contains("test, corrected for hubs") && page.contains("this run, corrected for hubs"));
    let without = String::from_utf8(place.read("plain/report.html")).unwrap();
    assert!(!without.contains("hubs"));
    let (tensors, _) = read_tensors(&place.read("auto/best.safetensors"));
    let (without, _) = read_tensors(&place.read("plain/best.safetensors"));
    let more: Vec<_> = tensors.iter().filter(|(name, _)| !without.contains_key(*name)).collect();
    assert_eq!(more.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), BANK);
    assert!(more.iter().all(|(_, tensor)| tensor.0 == Dtype::F16 && tensor.1[1] == 24));
    let shapes: Vec<usize> = more.iter().map(|(_, tensor)| tensor.1[0]).collect();
    let bank: Vec<usize> = serde_json::from_value(auto["corrected"]["bank"].clone()).unwrap();
    assert_eq!(shapes, bank);
    // What a run is resumed from has none, and resuming a run that has ended fits it again.
    let best = place.read("auto/best.safetensors");
    assert!(!read_tensors(&place.read("auto/last.safetensors")).0.contains_key(BANK[0]));
    place.ok("train --resume --out auto --no-baselines");
    assert!(place.read("auto/best.safetensors") == best, "another head after resuming");
    let said = place.ok("train --resume --out auto --no-baselines");
    assert!(
        said.contains("corrected for hubs: R@1 ") && said.contains("MB in the file of the head"),
        "{said}"
    );
}

const BANK: [&str; 2] = ["correction.images", "correction.texts"];
