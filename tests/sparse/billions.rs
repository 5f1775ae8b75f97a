//! Datasets of more than 2^32 images and texts, in sparse files. Their rows above 2^32 are read, and give the same bits as
//! the same rows below. Each low half of such a row number is also the number of another row, with other features.

use super::taken;
use crate::place::{Place, write_npy};
use libtest_mimic::{Completion, Failed};
use npyz::WriterBuilder;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use wgoal::data::{Arrays, Side};
use wgoal::train::Shuffle;
use wgoal::{Dataset, Device, Head, Split, TrainConfig, Trainer};

const ROWS: u64 = 5_000_000_000;
const BEYOND: u64 = 1 << 32;
/// Rows of the first file of images. The border of the files is a little above 2^32.
const FIRST: u64 = BEYOND + 4;
const DIMS: [usize; 2] = [256, 192];

/// The features of a row.
fn features(side: Side, row: u64) -> Vec<f32> {
    let number = (row % 1_000_003 * 31 + row / 1_000_003) as f32;
    (0..DIMS[side as usize]).map(|k| (number * (k + 1 + side as usize) as f32 * 0.37).sin()).collect()
}

/// A sparse `.npy` file of f32, with the features of some of its rows, which `first` comes before. `None` if the file system
/// keeps no such file.
fn sparse(path: &Path, side: Side, first: u64, rows: u64, used: &BTreeSet<u64>) -> Option<()> {
    let file = File::create(path).unwrap();
    let (mut header, dim) = (Vec::new(), DIMS[side as usize] as u64);
    let npy = npyz::WriteOptions::<f32>::new().default_dtype().shape(&[rows, dim]).writer(&mut header);
    drop(npy.begin_nd().unwrap());
    file.write_all_at(&header, 0).unwrap();
    file.set_len(header.len() as u64 + rows * dim * 4).ok()?;
    for &row in used.range(first..first + rows) {
        let position = header.len() as u64 + (row - first) * dim * 4;
        file.write_all_at(bytemuck::cast_slice(&features(side, row)), position).unwrap();
    }
    (file.metadata().unwrap().blocks() * 512 < 1 << 28).then_some(())
}

/// The rows of the training split: around 2^32 and around the border of the files.
fn train() -> Vec<u64> {
    (BEYOND - 26..BEYOND + 34).collect()
}

const VAL: [u64; 12] =
    [ROWS - 1, 17, BEYOND + 40, 4_400_000_001, 3, 40, BEYOND + 99, 99, 8, ROWS - 2, 12, 4_999_000_000];
const TEST: [u64; 4] = [BEYOND + 1000, 1000, ROWS - 3, 0];

/// All rows with features.
fn used() -> BTreeSet<u64> {
    let low = train().into_iter().map(|row| row % BEYOND);
    low.chain(train()).chain(VAL).chain(TEST).collect()
}

/// Writes both files of images.
fn write_images(place: &Place) -> Option<()> {
    sparse(&place.path("images_a.npy"), Side::Image, 0, FIRST, &used())?;
    sparse(&place.path("images_b.npy"), Side::Image, FIRST, ROWS - FIRST, &used())
}

const NO_SPARSE: &str = "the file system keeps no sparse files of 5 TB";

/// The same images and texts in memory, those in use alone.
fn small(texts: &[u64], owners: Option<&[u64]>) -> Dataset {
    let rows: Vec<u64> = used().into_iter().collect();
    let places = |rows_of: &[u64]| -> Vec<u64> {
        rows_of.iter().map(|row| rows.binary_search(row).unwrap() as u64).collect()
    };
    let of = |side, rows: &[u64]| rows.iter().flat_map(|&row| features(side, row)).collect::<Vec<f32>>();
    let arrays = Arrays::new()
        .with_features("images", &[rows.len(), DIMS[0]], &of(Side::Image, &rows))
        .with_features("texts", &[texts.len(), DIMS[1]], &of(Side::Text, texts))
        .with_rows("text_to_image", &places(owners.unwrap_or(&rows)))
        .with_rows("split_train", &places(&train()))
        .with_rows("split_val", &places(&VAL))
        .with_rows("split_test", &places(&TEST));
    Dataset::from_arrays("small", arrays).unwrap()
}

/// Trains a head, with captions of one image masked, and with a bank of earlier batches.
fn trained(dataset: Dataset, shuffle: Shuffle) -> (Head, [Vec<f32>; 2], Dataset) {
    let config = TrainConfig::default().with(|c| {
        (c.embed, c.batch, c.epochs, c.lr) = (8, 16, 2, 0.01);
        c.objective = "hinge".parse().unwrap();
        (c.memory_bank, c.bank_warmup, c.mask_same_image, c.shuffle) = (32, 0, true, shuffle);
    });
    let device = Device::cpu();
    let dataset = std::sync::Arc::new(dataset);
    let mut trainer = Trainer::new(&device, dataset.clone(), config).unwrap();
    trainer.train(|_, _| Ok(())).unwrap();
    let head = trainer.head().unwrap();
    drop(trainer);
    let of = |side| {
        let rows = [Split::Val, Split::Test].map(|split| dataset.split(split).of(side).to_vec()).concat();
        head.embed(&device, &dataset, side, &rows.into()).unwrap()
    };
    let embedded = [of(Side::Image), of(Side::Text)];
    (head, embedded, std::sync::Arc::into_inner(dataset).unwrap())
}

/// Trains on both datasets, and compares the bits of the heads and of the embeddings of far rows.
fn compare(large: Dataset, small: impl Fn() -> Dataset) {
    let mut large = Some(large);
    let plain = Shuffle::Full;
    for shuffle in [plain, "blocks".parse().unwrap()] {
        let (head, embedded, back) = trained(large.take().unwrap(), shuffle);
        let (expected, same, _) = trained(small(), shuffle);
        assert!(head == expected && embedded == same, "{shuffle:?}");
        assert!(embedded.iter().flatten().any(|x| *x != 0.0));
        large = Some(back);
    }
}

/// Pairs in files of several parts, with ranges and files of row numbers as splits.
pub fn pairs_beyond_32_bits_train_as_the_same_pairs_below() -> Result<Completion, Failed> {
    let place = Place::new();
    if write_images(&place)
        .and_then(|()| sparse(&place.path("texts.npy"), Side::Text, 0, ROWS, &used()))
        .is_none()
    {
        return Ok(Completion::ignored_with(NO_SPARSE));
    }
    write_npy(&place.path("val.npy"), &[VAL.len() as u64], &VAL.map(|row| row as i64));
    write_npy(&place.path("test.npy"), &[TEST.len() as u64], &TEST);
    let list = format!(
        r#"{{"images": ["images_a.npy", "images_b.npy"], "texts": "texts.npy", "split_val": "val.npy", "split_test": "test.npy",
            "split_train": [{{"first": {}, "rows": 26}}, {{"first": {BEYOND}, "rows": 34}}]}}"#,
        BEYOND - 26
    );
    std::fs::write(place.path("list.json"), list).unwrap();
    let open = || Dataset::open(place.path("list.json")).unwrap();
    let large = open();
    assert_eq!((large.images(), large.texts()), (ROWS as usize, ROWS as usize));
    assert_eq!(
        (large.split(Split::Train).images.to_vec(), large.split(Split::Val).images.to_vec()),
        (train(), VAL.to_vec())
    );
    // The texts ascend.
    let mut texts = VAL.to_vec();
    texts.sort();
    assert_eq!(large.split(Split::Val).texts, texts);
    assert_eq!(large.fingerprint(), open().fingerprint());
    let mut row = vec![0.0; DIMS[0]];
    for far in [FIRST - 1, FIRST, ROWS - 1] {
        large.read_row(Side::Image, far as usize, &mut Vec::new(), &mut row).unwrap();
        assert_eq!(row, features(Side::Image, far));
    }
    let rows: Vec<u64> = used().into_iter().collect();
    compare(large, || small(&rows, None));
    Ok(Completion::Completed)
}

/// Two captions for each of a few images, which a file of row numbers names.
pub fn captions_of_images_beyond_32_bits_are_masked_as_those_below() -> Result<Completion, Failed> {
    let place = Place::new();
    if write_images(&place).is_none() {
        return Ok(Completion::ignored_with(NO_SPARSE));
    }
    let owners: Vec<u64> = used().into_iter().flat_map(|row| [row, row]).collect();
    let texts: Vec<u64> = (0..owners.len() as u64).collect();
    let values: Vec<f32> = texts.iter().flat_map(|&row| features(Side::Text, row)).collect();
    write_npy(&place.path("texts.npy"), &[texts.len() as u64, DIMS[1] as u64], &values);
    write_npy(&place.path("owners.npy"), &[owners.len() as u64], &owners);
    for (name, rows) in [("train", &train()[..]), ("val", &VAL), ("test", &TEST)] {
        write_npy(&place.path(&format!("{name}.npy")), &[rows.len() as u64], rows);
    }
    let list = r#"{"images": "images_*.npy", "texts": "texts.npy", "text_to_image": "owners.npy", "split_train": "train.npy",
                  "split_val": "val.npy", "split_test": "test.npy"}"#;
    for (k, name) in ["images_a", "images_b"].into_iter().enumerate() {
        std::fs::rename(place.path(&format!("{name}.npy")), place.path(&format!("images_{k}.npy"))).unwrap();
    }
    std::fs::write(place.path("list.json"), list).unwrap();
    let large = Dataset::open(place.path("list.json")).unwrap();
    let summary = large.summary();
    assert_eq!((summary.captions_per_image.min, summary.captions_per_image.max), (0, 2));
    assert_eq!(summary.uncaptioned, ROWS as usize - used().len());
    compare(large, || small(&texts, Some(&owners)));
    Ok(Completion::Completed)
}

/// Nearly all of five billion pairs are for training. What needs a list of all of them is refused.
pub fn billions_of_pairs_train_by_blocks() -> Result<Completion, Failed> {
    let place = Place::new();
    if write_images(&place)
        .and_then(|()| sparse(&place.path("texts.npy"), Side::Text, 0, ROWS, &used()))
        .is_none()
    {
        return Ok(Completion::ignored_with(NO_SPARSE));
    }
    let train = ROWS - 96;
    let files = r#""images": ["images_a.npy", "images_b.npy"], "texts": "texts.npy""#;
    let all = format!(
        r#"{{{files}, "split_train": {{"first": 0, "rows": {train}}}, "split_val": {{"first": {train}, "rows": 96}}}}"#
    );
    std::fs::write(place.path("all.json"), all).unwrap();
    std::fs::write(place.path("bare.json"), format!("{{{files}}}")).unwrap();
    let args = "--recipe goal --device cpu --embed 8 --batch 64 --no-baselines --correction none --out run";
    let refused = |args: &str, expected: &str| {
        let output = place.run(args);
        let line = output.stderr.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
        assert_eq!((output.code, line), (1, expected), "wgoal {args}\n{}", output.stderr);
    };
    refused(
        &format!("train all.json {args}"),
        "error: --shuffle: expected at most 4294967295 training captions, because the order of all is held in memory, found \
         4999999904; give --shuffle blocks",
    );
    refused(
        &format!("train all.json {args} --shuffle blocks --equal-captions mask"),
        "error: all.json: expected at most 4294967295 images and texts, because memory holds equal captions of all, found \
         5000000000 and 5000000000; give --equal-captions off",
    );
    let divided = "error: bare.json: expected splits, or at most 4294967295 images to divide, because memory holds a hash of each, \
                   found 5000000000 images; write the splits; a .json list of files can have ranges of rows \
                   (docs/your-features.md)";
    refused(&format!("train bare.json {args} --shuffle blocks"), divided);
    refused("split bare.json --out splits", divided);
    let inspected = place.run("inspect all.json");
    assert!(inspected.code == 0 && inspected.stdout.contains("5000000000"), "{}", inspected.stderr);
    assert!(!inspected.stderr.contains("reading"), "{}", inspected.stderr);

    let start = Instant::now();
    let args = format!("train all.json {args} --shuffle blocks --checkpoint-every 3");
    let mut child = place.start(&args, Stdio::null);
    let mut most = 0;
    let last = place.path("run/last.safetensors");
    while !last.exists() {
        assert!(child.try_wait().unwrap().is_none() && start.elapsed() < Duration::from_secs(240));
        most = taken(child.id()).map_or(most, |[memory, _]| memory.max(most));
        std::thread::sleep(Duration::from_millis(2));
    }
    let seconds = start.elapsed().as_secs_f64();
    child.kill().unwrap();
    child.wait().unwrap();
    println!("{most} MB at most, {seconds:.1} s to three steps");
    assert!((200..500).contains(&most), "{most} MB of memory");
    Ok(Completion::Completed)
}
