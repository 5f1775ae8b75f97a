//! Local features: several rows per item, which are pooled here or returned with offsets, and dropped at random in
//! training.

use super::*;
use std::sync::Arc;
use wgoal::data::{Batch, Batches, Preprocess, Standardizer};
use wgoal::model::Pooling;

/// The regions per image, their width, and the width of a token.
const R: usize = 3;
const P2: usize = 6;
const Q2: usize = 2;
const TOKENS: [u32; M] = [2, 1, 5, 1, 3, 2, 1, 4, 1, 1, 6, 2, 1];
const SIDES: [Side; 2] = [Side::Image, Side::Text];

fn offsets() -> Vec<u32> {
    let ends = TOKENS.iter().scan(0, |end, n| {
        *end += n;
        Some(*end)
    });
    std::iter::once(0).chain(ends).collect()
}

fn total() -> usize {
    TOKENS.iter().sum::<u32>() as usize
}

/// The valid dataset with regions and tokens.
fn local_files(float: &str, integer: &str) -> Files {
    let mut files = good(float, integer);
    files.insert("image_regions.npy", npy(float, &[N, R, P2], &floats(float, &features(N * R, P2))));
    files.insert("text_tokens.npy", npy(float, &[total(), Q2], &floats(float, &features(total(), Q2))));
    files.insert("text_offsets.npy", ids(integer, &offsets()));
    files
}

fn open(files: &Files) -> Arc<Dataset> {
    let dir = write(files);
    // A dataset keeps its files open, so the folder may be deleted.
    Arc::new(Dataset::open(dir.path()).unwrap())
}

/// The local rows of an item, read one by one.
fn rows_of(dataset: &Dataset, side: Side, item: usize) -> Vec<Vec<f32>> {
    let mut row = vec![0.0; dataset.local_dim(side).unwrap()];
    let read = |i| {
        dataset.read_local_row(side, i, &mut Vec::new(), &mut row).unwrap();
        row.clone()
    };
    dataset.local_rows(side, item).map(read).collect()
}

#[test]
fn regions_and_tokens_open_and_read() {
    for (float, integer) in [("<f2", "<i8"), ("<f4", "<i4"), ("<f8", "<u4")] {
        let dataset = open(&local_files(float, integer));
        assert_eq!(SIDES.map(|side| dataset.local_dim(side)), [Some(P2), Some(Q2)]);
        assert_eq!(SIDES.map(|side| dataset.local_len(side)), [Some(R), Some(6)]);
        assert_eq!((dataset.image_dim(), dataset.text_dim()), (P, Q));
        let (regions, tokens) = (features(N * R, P2), features(total(), Q2));
        assert_eq!(rows_of(&dataset, Side::Image, 4).concat(), regions[4 * R * P2..5 * R * P2]);
        let (first, end) = (offsets()[10] as usize, offsets()[11] as usize);
        assert_eq!(dataset.local_rows(Side::Text, 10), first..end);
        assert_eq!(rows_of(&dataset, Side::Text, 10).concat(), tokens[first * Q2..end * Q2]);
        assert_eq!((dataset.local_rows(Side::Image, N), dataset.local_rows(Side::Text, M)), (0..0, 0..0));
    }
    let plain = open(&good("<f4", "<i8"));
    assert_eq!((plain.local_dim(Side::Image), plain.local_len(Side::Text)), (None, None));
    assert_eq!(plain.local_rows(Side::Image, 0), 0..0);
}

#[test]
fn local_features_alone_make_a_dataset() {
    let mut files = local_files("<f4", "<i8");
    files.remove("images.npy");
    files.remove("texts.npy");
    // Regions may be ragged as well. Here they are, with the same rows.
    files.insert("image_regions.npy", npy("<f4", &[N * R, P2], &floats("<f4", &features(N * R, P2))));
    files.insert("region_offsets.npy", ids("<i8", &(0..=N as u32).map(|i| i * R as u32).collect::<Vec<_>>()));
    files.insert("captions.txt", "a caption\n".repeat(M).into_bytes());
    let dir = write(&files);
    let dataset = Dataset::open(dir.path()).unwrap();
    assert_eq!((dataset.images(), dataset.texts()), (N, M));
    assert_eq!(dataset.caption(M - 1).unwrap(), Some("a caption"));
    assert_eq!((dataset.image_dim(), dataset.text_dim()), (P2, Q2));
    let even = open(&local_files("<f4", "<i8"));
    for item in 0..N {
        assert_eq!(rows_of(&dataset, Side::Image, item), rows_of(&even, Side::Image, item));
    }
    let message = dataset.read_row(Side::Text, 0, &mut Vec::new(), &mut [0.0; Q]).unwrap_err().to_string();
    let advice = "add texts, or choose --text-pooling mean, max or gpo";
    assert!(message.ends_with(&format!(": expected texts, found text_tokens alone; {advice}")), "{message}");
    assert!(dataset.width(Side::Image, Pooling::None).is_err());
    let plain = open(&good("<f4", "<i8"));
    let message = plain.width(Side::Image, Pooling::Max).unwrap_err().to_string();
    let advice = "add image_regions, or choose --image-pooling none";
    assert!(
        message.ends_with(&format!(": expected image_regions, found images alone; {advice}")),
        "{message}"
    );
}

#[test]
fn the_fingerprint_follows_local_features() {
    let fingerprint = |files: &Files| open(files).fingerprint();
    let base = local_files("<f2", "<i8");
    let original = fingerprint(&base);
    assert_ne!(original, fingerprint(&good("<f2", "<i8")));
    let with = |name, bytes| fingerprint(&Files::from_iter(base.clone().into_iter().chain([(name, bytes)])));
    assert_eq!(with("image_regions.npy", npy("<f2", &[N, R, P2], &[0; N * R * P2 * 2])), original);
    assert_ne!(with("image_regions.npy", npy("<f2", &[N, P2, R], &[0; N * R * P2 * 2])), original);
    assert_ne!(with("image_regions.npy", npy("<f4", &[N, R, P2], &[0; N * R * P2 * 4])), original);
    let mut moved = offsets();
    moved[1] -= 1;
    assert_ne!(with("text_offsets.npy", ids("<i8", &moved)), original);
}

#[test]
fn a_safetensors_file_holds_local_features_as_well() {
    let mut list = good_tensors();
    let data = |rows, cols| floats("<f2", &features(rows, cols));
    list.push(("image_regions", "F16", vec![N, R, P2], data(N * R, P2)));
    list.push(("text_tokens", "F16", vec![total(), Q2], data(total(), Q2)));
    list.push(("text_offsets", "I64", vec![M + 1], integers("<i8", &offsets())));
    let folder = open(&local_files("<f2", "<i8"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("all.safetensors");
    fs::write(&path, tensors(&list)).unwrap();
    let file = Dataset::open(&path).unwrap();
    assert_eq!(file.fingerprint(), folder.fingerprint());
    for (side, items) in [(Side::Image, N), (Side::Text, M)] {
        for item in 0..items {
            assert_eq!(rows_of(&file, side, item), rows_of(&folder, side, item));
        }
    }
}

/// The rows of one width as `Preprocess` lays them out.
fn padded(rows: &[Vec<f32>]) -> Vec<f32> {
    let pad = |row: &Vec<f32>| [&row[..], &vec![0.0; row.len().next_multiple_of(4) - row.len()]].concat();
    rows.iter().flat_map(pad).collect()
}

fn fold(rows: &[Vec<f32>], combine: fn(f32, f32) -> f32) -> Vec<f32> {
    let columns = 0..rows[0].len();
    columns.map(|column| rows.iter().map(|row| row[column]).reduce(combine).unwrap()).collect()
}

/// The pooled rows of one item.
fn pooled(pooling: Pooling, rows: &[Vec<f32>]) -> Vec<Vec<f32>> {
    match pooling {
        Pooling::Mean => {
            vec![fold(rows, |a, b| a + b).into_iter().map(|sum| sum / rows.len() as f32).collect()]
        }
        Pooling::Max => vec![fold(rows, |a, b| if a > b { a } else { b })],
        _ => rows.to_vec(),
    }
}

#[test]
fn items_are_pooled_or_come_with_offsets() {
    let dataset = open(&local_files("<f4", "<i8"));
    let items = [5, 0, 6, 5];
    for side in SIDES {
        for pooling in [Pooling::Mean, Pooling::Max, Pooling::Gpo] {
            let preprocess = Preprocess::default().with_pooling([pooling; 2]);
            let (mut out, mut starts) = (vec![9.0; 999], vec![7]);
            assert_eq!(preprocess.items(&dataset, side, &items, &mut out, &mut starts).unwrap(), 0);
            let expected: Vec<_> =
                items.iter().map(|&item| pooled(pooling, &rows_of(&dataset, side, item as usize))).collect();
            assert_eq!(out, padded(&expected.concat()), "{side:?} {pooling:?}");
            let ends = expected.iter().scan(0, |end, rows| {
                *end += rows.len() as u32;
                Some(*end)
            });
            let expected: Vec<u32> = std::iter::once(0).chain(ends).collect();
            assert_eq!(starts, if pooling == Pooling::Gpo { expected } else { vec![] });
            let by_rows = preprocess.rows(&dataset, side, &items, &mut out);
            assert_eq!(
                by_rows.is_err(),
                pooling == Pooling::Gpo,
                "only rows with offsets tell whose they are"
            );
            assert!(preprocess.items(&dataset, side, &[99], &mut out, &mut starts).is_err());
        }
    }
    // Rows of zeros are counted each time they are read.
    let mut files = local_files("<f4", "<i8");
    files.insert("image_regions.npy", npy("<f4", &[N, R, P2], &[0; N * R * P2 * 4]));
    let preprocess = Preprocess::default().with_pooling([Pooling::Max; 2]);
    assert_eq!(
        preprocess.rows(&open(&files), Side::Image, &items, &mut Vec::new()).unwrap(),
        items.len() * R
    );
}

#[test]
fn standardisation_is_over_the_rows_that_the_head_sees() {
    let dataset = open(&local_files("<f4", "<i8"));
    let items = [1, 4, 7, 10];
    for pooling in [Pooling::Mean, Pooling::Max, Pooling::Gpo] {
        let fitted = Standardizer::fit(
            &dataset,
            Side::Text,
            &Preprocess::default().with_pooling([pooling; 2]),
            &items.into(),
        )
        .unwrap();
        let rows: Vec<_> = items
            .iter()
            .flat_map(|&item| pooled(pooling, &rows_of(&dataset, Side::Text, item as usize)))
            .collect();
        assert_eq!(rows.len(), if pooling == Pooling::Gpo { 14 } else { 4 });
        let preprocess =
            Preprocess::new(Some([fitted.clone(), fitted.clone()]), 0.0).unwrap().with_pooling([pooling; 2]);
        let mut out = Vec::new();
        preprocess.items(&dataset, Side::Text, &items, &mut out, &mut Vec::new()).unwrap();
        for column in 0..Q2 {
            let values = || rows.iter().map(|row| f64::from(row[column]));
            let mean = values().sum::<f64>() / rows.len() as f64;
            let variance = values().map(|x| (x - mean).powi(2)).sum::<f64>() / rows.len() as f64;
            assert!((f64::from(fitted.mean[column]) - mean).abs() < 1e-5, "{pooling:?}");
            assert!(
                (f64::from(fitted.inverse_std[column]) * variance.sqrt() - 1.0).abs() < 1e-5,
                "{pooling:?}"
            );
            let first = (rows[0][column] - fitted.mean[column]) * fitted.inverse_std[column];
            assert_eq!(out[column], first);
        }
    }
}

/// The batches of one epoch.
fn batches(dataset: &Arc<Dataset>, preprocess: &Arc<Preprocess>, size: usize, epoch: u64) -> Vec<Batch> {
    Batches::new(dataset.clone(), preprocess.clone(), size, 3, epoch).unwrap().map(Result::unwrap).collect()
}

#[test]
fn augmentation_keeps_its_rate_and_a_row_of_every_item() {
    // The single column holds the row number. Items have one to six rows.
    let mut files = local_files("<f4", "<i8");
    let rows: Vec<f32> = (0..total()).map(|row| row as f32).collect();
    files.insert("text_tokens.npy", npy("<f4", &[total(), 1], &floats("<f4", &rows)));
    let dataset = open(&files);
    let train = &dataset.split(Split::Train).texts;
    for rate in [0.08, 0.5, 0.95] {
        let preprocess =
            Preprocess::default().with_pooling([Pooling::Gpo; 2]).with_row_dropout([0.0, rate]).unwrap();
        let preprocess = Arc::new(preprocess);
        let (mut dropped, mut guarded, mut drawn) = (0.0, [0u32; 2], 0.0);
        let mut seen = std::collections::BTreeSet::new();
        for epoch in 0..400 {
            let batch = batches(&dataset, &preprocess, train.len(), epoch).remove(0);
            let order = wgoal::data::pair_order(train.len(), 3, epoch);
            assert_eq!(batch.offsets[0], (0..=train.len() as u32).map(|i| i * R as u32).collect::<Vec<_>>());
            assert_eq!((batch.offsets[1].len(), batch.offsets[1][0]), (train.len() + 1, 0));
            assert_eq!(batch.offsets[1].last().copied(), Some(batch.texts.len() as u32 / 4));
            seen.insert(batch.texts.iter().map(|x| *x as u32).collect::<Vec<_>>());
            for (own, &pair) in batch.offsets[1].windows(2).zip(&order) {
                let all = dataset.local_rows(Side::Text, train.get(pair as usize).unwrap() as usize);
                let kept: Vec<usize> =
                    (own[0]..own[1]).map(|i| batch.texts[4 * i as usize] as usize).collect();
                assert!(!kept.is_empty() && kept.is_sorted() && kept.iter().all(|row| all.contains(row)));
                // Items with two rows show the guard: it keeps either row equally often.
                if all.len() == 2 && kept.len() == 1 {
                    guarded[kept[0] - all.start] += 1;
                }
                if all.len() == 6 {
                    dropped += (6 - kept.len()) as f64;
                    drawn += 6.0;
                }
            }
        }
        // One row of six fewer is dropped if the guard kept it.
        let expected = rate - f64::powi(rate, 6) / 6.0;
        let sigma = f64::sqrt(drawn * rate * (1.0 - rate));
        assert!((dropped - drawn * expected).abs() < 4.0 * sigma, "{dropped} of {drawn} at {rate}");
        let [first, second] = guarded.map(f64::from);
        assert!((first - second).abs() < 4.0 * (first + second).sqrt().max(3.0), "{guarded:?} at {rate}");
        assert!(seen.len() > 300, "epochs differ: {}", seen.len());
    }
    for rates in [[-0.1, 0.0], [0.0, 1.0], [f64::NAN, 0.0]] {
        assert!(Preprocess::default().with_row_dropout(rates).is_err());
    }
}

#[test]
fn augmentation_repeats_by_seed_comes_before_pooling_and_ends_with_training() {
    let dataset = open(&local_files("<f4", "<i8"));
    let preprocess = |pooling| {
        let preprocess =
            Preprocess::default().with_pooling([pooling; 2]).with_row_dropout([0.4, 0.4]).unwrap();
        Arc::new(preprocess)
    };
    let content = |batch: &Batch| (batch.images.clone(), batch.texts.clone(), batch.offsets.clone());
    for epoch in 0..20 {
        let local = batches(&dataset, &preprocess(Pooling::Gpo), 3, epoch);
        let again = batches(&dataset, &preprocess(Pooling::Gpo), 3, epoch);
        assert!(local.iter().zip(&again).all(|(a, b)| content(a) == content(b)));
        let means = batches(&dataset, &preprocess(Pooling::Mean), 3, epoch);
        for (local, mean) in local.iter().zip(&means) {
            assert!(mean.offsets.iter().all(Vec::is_empty));
            let whole = local.images.chunks(8).map(|row| row[..P2].to_vec()).collect::<Vec<_>>();
            let items = local.offsets[0].windows(2).map(|own| &whole[own[0] as usize..own[1] as usize]);
            let expected: Vec<_> = items.flat_map(|rows| pooled(Pooling::Mean, rows)).collect();
            assert_eq!(mean.images, padded(&expected), "the same regions are left out");
        }
    }
    // Sides of the same shape drop different rows.
    let mut files = local_files("<f4", "<i8");
    files.insert("text_tokens.npy", npy("<f4", &[M, R, Q2], &floats("<f4", &features(M * R, Q2))));
    files.remove("text_offsets.npy");
    let even = open(&files);
    let differ = batches(&even, &preprocess(Pooling::Gpo), 9, 0).iter().all(|b| b.offsets[0] != b.offsets[1]);
    assert!(differ);

    let (mut out, mut starts) = (Vec::new(), Vec::new());
    preprocess(Pooling::Gpo).items(&dataset, Side::Text, &[10, 2], &mut out, &mut starts).unwrap();
    assert_eq!(starts, [0, 6, 11]);
}

#[test]
fn local_values_are_named_by_item_and_row() {
    let mut files = local_files("<f4", "<i8");
    let mut regions = features(N * R, P2);
    regions[(4 * R + 2) * P2 + 5] = f32::NAN;
    files.insert("image_regions.npy", npy("<f4", &[N, R, P2], &floats("<f4", &regions)));
    let mut tokens = features(total(), Q2);
    tokens[7 * Q2] = f32::INFINITY;
    files.insert("text_tokens.npy", npy("<f4", &[total(), Q2], &floats("<f4", &tokens)));
    let dataset = open(&files);
    let message = |side, item| {
        let preprocess = Preprocess::default().with_pooling([Pooling::Mean; 2]);
        let message = preprocess.rows(&dataset, side, &[item], &mut Vec::new()).unwrap_err().to_string();
        message.split(": ").next().unwrap().rsplit('/').next().unwrap().to_string()
    };
    assert_eq!(message(Side::Image, 4), "image_regions.npy item 4 row 2 column 5");
    assert_eq!(message(Side::Text, 2), "text_tokens.npy row 7 column 0");
}

#[test]
fn every_fault_of_local_features_has_its_own_message() {
    let tokens = |shape: &[usize]| npy("<f4", shape, &vec![0; shape.iter().product::<usize>() * 4]);
    let changed = |position: usize, value: u32| {
        let mut offsets = offsets();
        offsets[position] = value;
        ids("<i8", &offsets)
    };
    let (regions, t) = ("image_regions.npy", total());
    let even = ids("<i8", &(0..N as u32).map(|i| i * R as u32).collect::<Vec<_>>());
    // Each case changes, adds or removes files of the valid dataset.
    let cases: Vec<Vec<(&'static str, Option<Vec<u8>>)>> = vec![
        vec![(regions, Some(tokens(&[N - 1, R, P2])))],
        vec![(regions, Some(tokens(&[N * R, P2])))],
        vec![(regions, Some(tokens(&[N, R, P2, 1])))],
        vec![(regions, Some(tokens(&[N, 0, P2])))],
        vec![(regions, Some(tokens(&[N, R, 0])))],
        vec![(regions, Some(npy("<f4", &[1 << 21, 1 << 20, 1], &[])))],
        vec![(regions, Some(npy("<c8", &[N, R, P2], &[0; N * R * P2 * 8])))],
        vec![(regions, Some(npy("<f4", &[N, R, P2], &[0; N * R * P2 * 4 - 1])))],
        vec![("region_offsets.npy", Some(even.clone()))],
        vec![(regions, Some(tokens(&[N * R, P2]))), ("region_offsets.npy", Some(even))],
        vec![("text_tokens.npy", None)],
        vec![("text_offsets.npy", None)],
        vec![("text_offsets.npy", Some(changed(0, 1)))],
        vec![("text_offsets.npy", Some(changed(3, 2)))],
        vec![("text_offsets.npy", Some(changed(2, 2)))],
        vec![("text_offsets.npy", Some(changed(M, t as u32 + 1)))],
        vec![("text_offsets.npy", Some(changed(5, t as u32 + 1)))],
        vec![("text_offsets.npy", Some(ids("<i8", &offsets()[..M])))],
        vec![("text_offsets.npy", Some(ids("<i8", &[0])))],
        vec![("text_offsets.npy", Some(npy("<f4", &[M + 1], &[0; 4 * M + 4])))],
        vec![("text_offsets.npy", Some(npy("<i8", &[M + 1], &[255; 8 * M + 8])))],
        vec![("text_tokens.npy", Some(tokens(&[t - 1, Q2])))],
        vec![("text_tokens.npy", Some(tokens(&[M, 2, Q2])))],
        vec![("texts.npy", None), ("text_offsets.npy", Some(ids("<i8", &[0, 1, t as u32])))],
        vec![("images.npy", None), (regions, Some(tokens(&[N - 1, R, P2])))],
        vec![
            ("images.npy", None),
            (regions, Some(tokens(&[N - 1, R, P2]))),
            ("text_to_image.npy", Some(ids("<i8", &[0; M]))),
        ],
        vec![("texts.npy", None), ("captions.txt", Some(b"one\n".to_vec()))],
    ];
    let found: Vec<_> = cases
        .into_iter()
        .map(|changes| {
            let mut files = local_files("<f4", "<i8");
            for (name, bytes) in changes {
                match bytes {
                    Some(bytes) => files.insert(name, bytes),
                    None => files.remove(name),
                };
            }
            let dir = write(&files);
            faults::message(
                &dir,
                Dataset::open(dir.path()).and_then(|dataset| dataset.caption(0).map(|_| ())),
            )
        })
        .collect();
    faults::compare(&found, include_str!("local_faults.txt"));
}
