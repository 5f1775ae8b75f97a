//! `wgoal rank`: run files and lists, and the right results beside them.

use super::embed::shuffle;
use super::place::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// A place with shuffled captions, and a test image without any.
fn place() -> (Place, Vec<u32>) {
    let place = Place::new();
    let mut truth = shuffle(&place);
    // The captions of image 36 become captions of image 33.
    truth.iter_mut().filter(|image| **image == 36).for_each(|image| *image = 33);
    write_npy(&place.path("data/text_to_image.npy"), &[truth.len() as u64], &truth);
    // Two texts of the test split are equal, and so are their similarities.
    let [_, mut texts] = features();
    let of_test: Vec<usize> = (0..truth.len()).filter(|&text| truth[text] >= 32).take(2).collect();
    texts.copy_within(of_test[0] * DIMS[1]..(of_test[0] + 1) * DIMS[1], of_test[1] * DIMS[1]);
    write_npy(&place.path("data/texts.npy"), &[2 * u64::from(IMAGES), DIMS[1] as u64], &texts);
    place.train("run", "");
    (place, truth)
}

/// The lines of a file, by words.
fn lines(place: &Place, name: &str) -> Vec<Vec<String>> {
    let text = String::from_utf8(place.read(name)).unwrap();
    text.lines().map(|line| line.split(' ').map(str::to_string).collect()).collect()
}

/// The results of every query, best first.
type Lists = BTreeMap<u32, Vec<u32>>;

fn trec(place: &Place, name: &str) -> Lists {
    let mut lists = Lists::new();
    let mut before = f32::INFINITY;
    for words in lines(place, name) {
        let [query, q0, result, rank, score, tag] = &words[..] else { panic!("{words:?}") };
        let list = lists.entry(query.parse().unwrap()).or_default();
        list.push(result.parse().unwrap());
        assert_eq!((q0.as_str(), tag.as_str(), rank.parse().unwrap()), ("Q0", "wgoal", list.len()));
        let score: f32 = score.parse().unwrap();
        // Strictly, so that no tool orders results of equal similarity in another way.
        assert!(list.len() == 1 || score < before, "{words:?}");
        before = score;
    }
    lists
}

fn json(place: &Place, name: &str) -> Lists {
    serde_json::from_slice(&place.read(name)).unwrap()
}

/// Percentage of the queries with a right result among the first k.
fn recall(ranked: &Lists, right: &BTreeMap<u32, BTreeSet<u32>>, k: usize) -> f64 {
    let hit =
        |(query, list): &(&u32, &Vec<u32>)| list.iter().take(k).any(|result| right[query].contains(result));
    100.0 * ranked.iter().filter(hit).count() as f64 / ranked.len() as f64
}

#[test]
fn rankings_give_the_recall_of_eval() {
    let (place, truth) = place();
    let eval = place.json("eval run data --device cpu --json");
    for direction in ["t2i", "i2t"] {
        let rank = format!("rank run data --device cpu --direction {direction}");
        place.ok(&format!("{rank} --out a.trec --qrels a.qrels"));
        place.ok(&format!("{rank} --out a.json --format json --qrels q.json"));
        let (ranked, mut right) = (trec(&place, "a.trec"), BTreeMap::<u32, BTreeSet<u32>>::new());
        assert_eq!(json(&place, "a.json"), ranked);
        for words in lines(&place, "a.qrels") {
            let [query, zero, result, one] = &words[..] else { panic!("{words:?}") };
            let [query, result]: [u32; 2] = [query, result].map(|id| id.parse().unwrap());
            assert_eq!((zero.as_str(), one.as_str()), ("0", "1"));
            let [text, image] = if direction == "t2i" { [query, result] } else { [result, query] };
            assert_eq!(truth[text as usize], image);
            right.entry(query).or_default().insert(result);
        }
        let listed: BTreeMap<u32, BTreeSet<u32>> = json(&place, "q.json")
            .into_iter()
            .map(|(query, list)| (query, list.into_iter().collect()))
            .collect();
        assert_eq!(listed, right);
        assert!(ranked.keys().eq(right.keys()));
        // An image without a caption is a result, and no query.
        let (queries, results) = if direction == "t2i" { (16, 8) } else { (7, 16) };
        assert_eq!((ranked.len(), ranked.values().next().unwrap().len()), (queries, results));
        for k in [1, 5, 10] {
            assert_eq!(
                recall(&ranked, &right, k),
                eval[direction][format!("r{k}")].as_f64().unwrap(),
                "{direction} {k}"
            );
        }
        // Fewer results are the start of the lists.
        place.ok(&format!("{rank} --top 3 --out b.trec"));
        assert!(trec(&place, "b.trec").iter().all(|(query, list)| *list == ranked[query][..3]));
    }
    // All rows of the dataset.
    place.ok("rank run data --device cpu --split all --top 1 --out all.json --format json");
    assert!(json(&place, "all.json").into_keys().eq(0..2 * IMAGES));
}

#[test]
fn ids_stand_for_rows() {
    let (place, _) = place();
    let rank = "rank run data --device cpu --format json";
    place.ok(&format!("{rank} --out rows.json --qrels right.json"));
    let [image, text] = [|row: u32| 581_000 - 7 * row, |row: u32| 900_000 + 3 * row];
    write_npy(
        &place.path("image-ids.npy"),
        &[40],
        &(0..40).map(|row| i64::from(image(row))).collect::<Vec<_>>(),
    );
    write_npy(
        &place.path("text-ids.npy"),
        &[80],
        &(0..80).map(|row| i64::from(text(row))).collect::<Vec<_>>(),
    );
    place.ok(&format!(
        "{rank} --image-ids image-ids.npy --text-ids text-ids.npy --out ids.json --qrels right-ids.json"
    ));
    for (rows, ids) in [("rows.json", "ids.json"), ("right.json", "right-ids.json")] {
        let expected: Lists = json(&place, rows)
            .into_iter()
            .map(|(query, list)| (text(query), list.into_iter().map(image).collect()))
            .collect();
        assert_eq!(json(&place, ids), expected);
    }
    let fault = |values: &[i64], expected: &str| {
        write_npy(&place.path("bad.npy"), &[values.len() as u64], values);
        let output = place.run(&format!("{rank} --image-ids bad.npy --out bad.json"));
        assert_eq!((output.code, output.stderr.lines().last().unwrap()), (1, expected));
        assert!(!place.path("bad.json").exists());
    };
    fault(
        &[1, 2],
        "error: bad.npy: expected 40 ids, one for each image of data, found 2; write an id for every row",
    );
    let mut twice: Vec<i64> = (0..40).collect();
    twice[9] = 4;
    fault(
        &twice,
        "error: bad.npy position 9: expected an id not listed before, found 4; give every image its own id",
    );
}

#[test]
fn rankings_replace_nothing_that_is_read() {
    let (place, _) = place();
    fs::copy(place.path("data/split_test.npy"), place.path("ids.npy")).unwrap();
    let before = place.listing();
    for outputs in [
        "--out data/images.npy",
        "--out run/best.safetensors",
        "--out a --qrels data/../data/texts.npy",
        "--out a --qrels a",
        "--out ids.npy --image-ids ids.npy",
    ] {
        let output = place.run(&format!("rank run data --device cpu {outputs}"));
        assert_eq!(output.code, 1, "{outputs}\n{}", output.stderr);
        assert!(place.listing() == before, "{outputs}");
    }
}
