//! Datasets without text_to_image, without splits, or without some of the splits.

use super::faults::message;
use super::*;
use wgoal::data::{Arrays, Division, RowList};

/// A folder of `images` and `texts`, and nothing else.
fn two_files(images: usize, texts: usize) -> Files {
    Files::from([
        ("images.npy", npy("<f4", &[images, P], &floats("<f4", &distinct(images)))),
        ("texts.npy", npy("<f4", &[texts, P], &floats("<f4", &distinct(texts)))),
    ])
}

/// Rows that all differ, none of them zero.
fn distinct(rows: usize) -> Vec<f32> {
    (0..rows * P).map(|k| (k + 1) as f32).collect()
}

fn arrays(images: &[f32], owners: &[u64]) -> Arrays {
    let texts = distinct(owners.len());
    Arrays::new()
        .with_features("images", &[images.len() / P, P], images)
        .with_features("texts", &[owners.len(), P], &texts)
        .with_rows("text_to_image", owners)
}

fn splits(dataset: &Dataset) -> [Vec<u64>; 3] {
    Split::ALL.map(|split| dataset.split(split).images.to_vec())
}

#[test]
fn as_many_texts_as_images_are_pairs() {
    let mut files = good("<f4", "<i8");
    files.insert("texts.npy", npy("<f4", &[N, Q], &floats("<f4", &features(N, Q))));
    files.insert("text_to_image.npy", ids("<i8", &[0, 1, 2, 3, 4, 5, 6]));
    let (with, dir) = (write(&files), write(&files));
    fs::remove_file(dir.path().join("text_to_image.npy")).unwrap();
    let [with, without] = [&with, &dir].map(|dir| Dataset::open(dir.path()).unwrap());
    assert_eq!((with.is_paired(), without.is_paired()), (false, true));
    assert_eq!(with.fingerprint(), without.fingerprint());
    assert_eq!(without.split(Split::Train).texts, [0, 2, 3, 6]);
}

#[test]
fn other_numbers_need_the_image_of_every_text() {
    let refused = |images, texts| {
        let dir = write(&two_files(images, texts));
        message(&dir, Dataset::open(dir.path()))
    };
    assert_eq!(
        refused(20, 100),
        "DIR/text_to_image.npy: expected the image row of every text, because 20 images and 100 texts are no pairs, \
         found none; save numpy.repeat(numpy.arange(20), 5) where the 5 captions of an image follow each other, \
         numpy.tile(numpy.arange(20), 5) where text 20 is of image 0 again"
    );
    let general =
        "found none; save an array with a whole number for every text: the row of its image, counted from 0";
    for (images, texts) in [(20, 99), (20, 10)] {
        assert!(refused(images, texts).ends_with(general), "{}", refused(images, texts));
    }
    // The advice for captions that follow each other.
    let mut files = two_files(20, 100);
    files.insert("text_to_image.npy", ids("<i8", &(0..100).map(|text| text / 5).collect::<Vec<_>>()));
    assert_eq!(Dataset::open(write(&files).path()).unwrap().texts(), 100);
}

/// The rows were computed apart from this code, by SplitMix64 in Python.
#[test]
fn images_are_divided_by_a_hash_that_is_the_same_everywhere() {
    let open = |n| Dataset::open(write(&two_files(n, n)).path()).unwrap();
    let twenty = open(20);
    let train = [0, 1, 3, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 19];
    assert!(twenty.is_divided());
    assert_eq!(splits(&twenty), [&train[..], &[6, 18], &[2, 4]]);
    assert_eq!(twenty.split(Split::Val).texts, [6, 18]);
    assert_eq!(splits(&open(5)), [&[0, 1, 3][..], &[4], &[2]]);
    let other = Division::default().with(|division| division.seed = 1);
    let all: RowList = (0..20).rev().collect();
    assert_eq!(twenty.divide(&all, &other).unwrap()[1..], [vec![10, 14], vec![8, 15]]);
    // A split alone is the same split, and the same numbers in files and in memory are the same dataset.
    let dir = write(&two_files(20, 20));
    let test = Dataset::open_for(dir.path(), &[Split::Test]).unwrap();
    assert_eq!(splits(&test), [&[][..], &[], &[2, 4]]);
    let mut files = two_files(20, 20);
    files.insert("split_train.npy", ids("<i8", &train.map(|row| row as u32)));
    files.insert("split_val.npy", ids("<i8", &[6, 18]));
    files.insert("split_test.npy", ids("<i8", &[2, 4]));
    let stored = Dataset::open(write(&files).path()).unwrap();
    assert!(!stored.is_divided() && stored.stores(Split::Test));
    assert_eq!(stored.fingerprint(), twenty.fingerprint());
    let owners: Vec<u64> = (0..20).collect();
    let memory = Dataset::from_arrays("memory", arrays(&distinct(20), &owners)).unwrap();
    assert_eq!(memory.fingerprint(), twenty.fingerprint());
    let path = dir.path().join("d.safetensors");
    let row = |name| (name, "F32", vec![20, P], floats("<f4", &distinct(20)));
    fs::write(&path, tensors(&[row("images"), row("texts")])).unwrap();
    assert_eq!(Dataset::open(&path).unwrap().fingerprint(), twenty.fingerprint());
}

/// Random datasets: equal images stay together, nothing is lost, and every split has a caption and about its share.
#[test]
fn equal_images_stay_together() {
    let mut state = 1u32;
    let mut below = |n: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % n
    };
    for n in 3..120u32 {
        let kinds = (n / (1 + below(3))).max(3);
        let kind: Vec<u32> = (0..n).map(|i| if i < kinds { i } else { below(kinds) }).collect();
        let images: Vec<f32> =
            kind.iter().flat_map(|&k| (0..P).map(move |c| (k * 7 + c as u32 + 1) as f32)).collect();
        // The first kinds have captions, some of the others do not.
        let owners: Vec<u64> = (0..n).filter(|&i| i < 3 || below(4) > 0).map(u64::from).collect();
        let captioned = |rows: &[u64]| rows.iter().filter(|row| owners.contains(row)).count();
        let dataset = Dataset::from_arrays("random", arrays(&images, &owners)).unwrap();
        let splits = splits(&dataset);
        let mut all = splits.concat();
        all.sort();
        assert_eq!(all, (0..n.into()).collect::<Vec<_>>());
        for (s, rows) in splits.iter().enumerate() {
            assert!(rows.is_sorted() && captioned(rows) > 0, "{n} images: {splits:?}");
            for (t, others) in splits.iter().enumerate().filter(|(t, _)| *t != s) {
                let shared = rows
                    .iter()
                    .find(|&&row| others.iter().any(|&other| kind[row as usize] == kind[other as usize]));
                assert_eq!(shared, None, "{n} images, splits {s} and {t}");
            }
        }
        if kinds == n {
            let share = owners.len() as f64 / 10.0;
            assert_eq!(captioned(&splits[2]), (share.round() as usize).max(1), "{n} images: {splits:?}");
        }
    }
}

#[test]
fn zero_rows_are_not_equal_and_regions_are() {
    let owners: Vec<u64> = (0..40).collect();
    let zero = Dataset::from_arrays("zero", arrays(&vec![0.0; 40 * P], &owners)).unwrap();
    assert_eq!(splits(&zero).map(|rows| rows.len()), [32, 4, 4]);
    // Images of two regions: the first region is that of all images, the second one that of every other image.
    let regions: Vec<f32> = (0..40).flat_map(|i| [[1.0; P], [2.0 + (i / 2) as f32; P]].concat()).collect();
    let pairs = Arrays::new().with_features("image_regions", &[40, 2, P], &regions).with_features(
        "texts",
        &[40, P],
        &distinct(40),
    );
    let pairs = Dataset::from_arrays("pairs", pairs).unwrap();
    let splits = splits(&pairs);
    assert_eq!(splits.each_ref().map(Vec::len), [32, 4, 4]);
    for rows in &splits {
        assert!(rows.chunks(2).all(|pair| pair[0] % 2 == 0 && pair[1] == pair[0] + 1), "{splits:?}");
    }
    // More copies than a split's share: the smallest group is taken.
    let images: Vec<f32> = [[1.0; 6 * P].as_slice(), &[2.0; 2 * P], &[3.0; 2 * P]].concat();
    let few = Dataset::from_arrays("few", arrays(&images, &(0..10).collect::<Vec<_>>())).unwrap();
    assert_eq!(Split::ALL.map(|split| few.split(split).images.len()), [6, 2, 2]);
}

#[test]
fn too_few_images_to_divide_are_refused() {
    for (n, owners) in [(1, vec![0]), (2, vec![0, 1]), (10, vec![4, 4, 7])] {
        let different = owners.iter().collect::<std::collections::BTreeSet<_>>().len();
        let error = Dataset::from_arrays("small", arrays(&distinct(n), &owners)).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "small: expected at least 3 images with captions and different features, one for every split, found \
                 {different}; add images with captions, or write the split files yourself (docs/your-features.md)"
            )
        );
    }
    // What needs no split opens.
    assert_eq!(Dataset::open_for(write(&two_files(2, 2)).path(), &[]).unwrap().images(), 2);
}

#[test]
fn a_test_split_is_optional_and_the_others_are_not() {
    let open = |without: &[&str], needed: Option<Split>| {
        let mut files = good("<f4", "<i8");
        files.retain(|name, _| !without.contains(name));
        let dir = write(&files);
        let opened = match needed {
            None => Dataset::open(dir.path()),
            Some(split) => Dataset::open_for(dir.path(), &[split]),
        };
        match opened {
            Ok(dataset) => Ok(splits(&dataset)),
            Err(error) => Err(message::<()>(&dir, Err(error))),
        }
    };
    assert_eq!(open(&["split_test.npy"], None).unwrap(), [&[6, 0, 3, 2][..], &[5], &[]]);
    assert_eq!(
        open(&["split_test.npy"], Some(Split::Test)).unwrap_err(),
        "DIR/split_test.npy: expected the test split: the rows of images that the result is measured on, and are not trained \
         on, found none; write split_test, or name another split with --split"
    );
    let lacking = open(&["split_val.npy", "split_test.npy"], None).unwrap_err();
    assert!(lacking.starts_with("DIR/split_val.npy: expected the validation split"), "{lacking}");
    assert_eq!(
        open(&["split_train.npy"], None).unwrap_err(),
        "DIR/split_train.npy: expected the training split: the rows of the images that are trained on, found none; `wgoal \
         split DIR --missing` writes it: the images that are in no other split"
    );
}

#[test]
fn a_division_has_sensible_shares() {
    let dataset = Dataset::from_arrays("d", arrays(&distinct(50), &(0..50).collect::<Vec<_>>())).unwrap();
    let all = RowList::from(0..50);
    let divide =
        |shares| dataset.divide(&all, &Division::default().with(|division| division.shares = shares));
    assert_eq!(divide([50.0, 20.0, 10.0]).unwrap().map(|rows| rows.len()), [25, 10, 5]);
    assert_eq!(divide([90.0, 0.0, 10.0]).unwrap().map(|rows| rows.len()), [45, 0, 5]);
    assert_eq!(divide([98.0, 1.0, 1.0]).unwrap().map(|rows| rows.len()), [48, 1, 1]);
    assert_eq!(divide([1.0, 59.0, 40.0]).unwrap().map(|rows| rows.len()), [1, 29, 20]);
    let refused = |shares| divide(shares).unwrap_err().to_string();
    assert_eq!(
        refused([80.0, 30.0, 10.0]),
        "--train, --val and --test: expected percentages that sum to at most 100, found 120; lower one of them"
    );
    assert_eq!(
        refused([110.0, -10.0, 0.0]),
        "--train: expected a number from 0 to 100, found 110; give the percentage of the images for this split"
    );
    assert!(refused([0.0, 10.0, 10.0]).starts_with("--train: expected a number above 0"));
    assert!(
        refused([f64::NAN, 10.0, 10.0]).starts_with("--train: expected a number from 0 to 100, found NaN")
    );
    assert!(dataset.divide(&[50].into(), &Division::default()).is_err());
}
