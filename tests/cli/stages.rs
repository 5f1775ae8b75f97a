//! Two-stage evaluation and sampled negatives, through files.

use super::place::*;
use safetensors::tensor::Dtype;
use std::collections::BTreeMap;

type Tensors = BTreeMap<String, Tensor>;

/// The candidates with scores: `right` for the right ones, the cosine for the others.
fn scored(candidates: &Tensors, right: f32) -> Tensors {
    let mut tensors = candidates.clone();
    for (name, queries) in [("image_to_text", "images"), ("text_to_image", "texts")] {
        let (index, k) = (rows(&candidates[name]), candidates[name].1[1]);
        let queries = rows(&candidates[queries]);
        let cosines = floats(&candidates[&format!("{name}_cosine")]);
        let score = |at: usize| {
            let (query, other) = (queries[at / k], index[at]);
            let (image, text) = if name == "image_to_text" { (query, other) } else { (other, query) };
            if text / 2 == image { right } else { cosines[at] }
        };
        let scores: Vec<f32> = (0..index.len()).map(score).collect();
        let bytes = bytemuck::cast_slice(&scores).to_vec();
        tensors.insert(format!("{name}_score"), (Dtype::F32, candidates[name].1.clone(), bytes));
    }
    tensors
}

#[test]
fn candidates_go_out_and_come_back_with_scores() {
    let place = Place::new();
    place.train("run", "");
    let eval = |args: &str| place.json(&format!("eval run/best.safetensors data --device cpu --json {args}"));
    let first = eval("--top 3 --write-candidates c.safetensors");
    assert_eq!(first, eval(""), "the recall is as ever");
    let (candidates, _) = read_tensors(&place.read("c.safetensors"));
    let shapes: Vec<_> = candidates.iter().map(|(name, t)| format!("{name}{:?}", t.1)).collect();
    let expected = "image_to_text[8, 3] image_to_text_cosine[8, 3] images[8] text_to_image[16, 3] \
                    text_to_image_cosine[16, 3] texts[16]";
    assert_eq!(shapes.join(" "), expected);
    assert_eq!(rows(&candidates["images"]), (32..40).collect::<Vec<_>>());
    assert!(rows(&candidates["image_to_text"]).iter().all(|row| (64..80).contains(row)));
    assert!(floats(&candidates["image_to_text_cosine"]).chunks(3).all(|row| row.is_sorted_by(|a, b| a >= b)));

    let rerank = |right: f32| {
        let bytes = write_tensors(&scored(&candidates, right), Default::default());
        std::fs::write(place.path("scored.safetensors"), bytes).unwrap();
        eval("--rerank scored.safetensors")
    };
    // Right candidates get the best score, so each one among the three is found first.
    let best = rerank(9.0);
    let hit = |name: &str, first: bool| {
        let index = rows(&candidates[name]);
        let hits: Vec<bool> = index
            .chunks(3)
            .zip(rows(&candidates[if first { "images" } else { "texts" }]))
            .map(|(row, query)| row.iter().any(|&c| if first { c / 2 == query } else { query / 2 == c }))
            .collect();
        100.0 * hits.iter().filter(|&&hit| hit).count() as f64 / hits.len() as f64
    };
    assert_eq!(best["i2t"]["r1"], hit("image_to_text", true));
    assert_eq!(best["t2i"]["r1"], hit("text_to_image", false));
    assert!(best["t2i"]["r1"].as_f64() > first["t2i"]["r1"].as_f64(), "{best} {first}");
    let mut stage = first.clone();
    stage.as_object_mut().unwrap().retain(|key, _| ["i2t", "t2i", "rsum"].contains(&&**key));
    assert_eq!(best["first_stage"], stage);
    // With scores below the −100 of all others, the right ones come last.
    assert_eq!(rerank(-101.0)["t2i"]["r1"], 0.0);
    let text = place.ok("eval run/best.safetensors data --device cpu --rerank scored.safetensors");
    assert_eq!(text.matches("rsum").count(), 2);

    // All candidates, scored by their cosine, keep their ranks.
    eval("--top 99 --write-candidates all.safetensors");
    let (all, _) = read_tensors(&place.read("all.safetensors"));
    assert_eq!((all["image_to_text"].1[1], all["text_to_image"].1[1]), (16, 8));
    let mut same = all.clone();
    for name in ["image_to_text", "text_to_image"] {
        same.insert(format!("{name}_score"), all[&format!("{name}_cosine")].clone());
    }
    std::fs::write(place.path("same.safetensors"), write_tensors(&same, Default::default())).unwrap();
    assert_eq!(eval("--rerank same.safetensors")["i2t"], first["i2t"]);
}

#[test]
fn every_fault_of_a_scores_file_has_its_own_message() {
    let place = Place::new();
    place.train("run", "");
    place.ok("eval run/best.safetensors data --device cpu --top 3 --write-candidates c.safetensors");
    let (candidates, _) = read_tensors(&place.read("c.safetensors"));
    let good = scored(&candidates, 1.0);
    fn set<const N: usize>(tensors: &mut Tensors, name: &str, at: usize, bytes: [u8; N]) {
        tensors.get_mut(name).unwrap().2[N * at..N * (at + 1)].copy_from_slice(&bytes)
    }
    let cases: Vec<(&str, Box<dyn Fn(&mut Tensors)>)> = vec![
        (
            "image_to_text_score: expected F16, BF16, F32 or F64 [8, 3], found none of this name",
            Box::new(|t| drop(t.remove("image_to_text_score"))),
        ),
        (
            "images: expected whole numbers [8], found none of this name",
            Box::new(|t| drop(t.remove("images"))),
        ),
        (
            "image_to_text: expected whole numbers [8, K], found I64 [3, 8]",
            Box::new(|t| t.get_mut("image_to_text").unwrap().1 = vec![3, 8]),
        ),
        (
            "text_to_image_score: expected F16, BF16, F32 or F64 [16, 3], found F32 [48]",
            Box::new(|t| t.get_mut("text_to_image_score").unwrap().1 = vec![48]),
        ),
        (
            "text_to_image: expected whole numbers [16, K], found F64 [16, 3]",
            Box::new(|t| t.get_mut("text_to_image").unwrap().0 = Dtype::F64),
        ),
        (
            "texts position 5: expected row 69 of the dataset, as in the split, found 7",
            Box::new(move |t| set(t, "texts", 5, 7i64.to_le_bytes())),
        ),
        (
            "text_to_image row 2 column 1: expected a row of the dataset in the split, found 3",
            Box::new(move |t| set(t, "text_to_image", 7, 3i64.to_le_bytes())),
        ),
        (
            "text_to_image_score row 2 column 1: expected a finite number, found NaN",
            Box::new(move |t| set(t, "text_to_image_score", 7, f32::NAN.to_le_bytes())),
        ),
        (
            "image_to_text row 1 column 2: expected a candidate not listed before, found 64",
            Box::new(move |t| {
                set(t, "image_to_text", 4, 64i64.to_le_bytes());
                set(t, "image_to_text", 5, 64i64.to_le_bytes());
                set(t, "image_to_text", 3, 65i64.to_le_bytes());
            }),
        ),
    ];
    for (expected, change) in cases {
        let mut tensors = good.clone();
        change(&mut tensors);
        std::fs::write(place.path("s.safetensors"), write_tensors(&tensors, Default::default())).unwrap();
        let output = place.run("eval run/best.safetensors data --device cpu --rerank s.safetensors");
        let advice = "add the scores to the file of --write-candidates, and change nothing else in it";
        let expected = format!("error: s.safetensors tensor {expected}; {advice}");
        assert_eq!((output.code, output.stderr.lines().last().unwrap()), (1, &*expected));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn gradient_samples_negatives() {
    let place = Place::new();
    let values: Vec<f32> = numbers(3).take(24).collect();
    write_npy(&place.path("x.npy"), &[6, 2], &values[..12]);
    write_npy(&place.path("y.npy"), &[6, 2], &values[12..]);
    write_npy(&place.path("ids.npy"), &[6], &[1u32, 2, 1, 3, 3, 3]);
    let sample = |args: &str| {
        place.ok(&format!(
            "gradient --images x.npy --texts y.npy --ids ids.npy --device cpu --out g.safetensors {args}"
        ));
        let (tensors, _) = read_tensors(&place.read("g.safetensors"));
        ["sampled_text_index", "sampled_image_index"].map(|name| tensors.get(name).map(rows))
    };
    assert_eq!(sample(""), [None, None]);
    let drawn: Vec<_> =
        (0..40).map(|seed| sample(&format!("--sample-negatives {seed} --sample-temperature 5"))).collect();
    let image = [1, 2, 1, 3, 3, 3];
    for indices in drawn.iter().flatten().flatten() {
        assert!(
            indices.len() == 6
                && indices.iter().enumerate().all(|(i, &other)| image[i] != image[other as usize])
        );
    }
    assert_eq!(sample("--sample-negatives 7 --sample-temperature 5"), drawn[7]);
    assert!(drawn.iter().any(|other| *other != drawn[0]));
    // At a temperature near zero only the most similar of the others is drawn, apart from the small constant in the
    // probability.
    let hard = sample("--sample-negatives 1 --sample-temperature 0.001 --normalize");
    assert_ne!(Some(&hard), drawn.get(1));
}
