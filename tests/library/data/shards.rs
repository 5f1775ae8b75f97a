//! Datasets in many files: the values of one file, within a low limit of open files, and errors that name the file.

use super::*;
use std::ops::Range;
use std::sync::Arc;
use wgoal::model::Pooling;
use wgoal::train::Shuffle;
use wgoal::{Device, TrainConfig, Trainer};

const PAIRS: usize = 400;
const FILES: usize = 100;
const REGIONS: usize = 2;

/// Values without a pattern that a shuffle would keep.
fn values(rows: usize, cols: usize, seed: u32) -> Vec<f32> {
    (0..(rows * cols) as u32)
        .map(|i| ((i.wrapping_mul(2_654_435_761) ^ seed) >> 8) as f32 / 1e7 - 0.8)
        .collect()
}

/// The rows `rows` of an array, as a file.
fn part(values: &[f32], axes: &[usize], rows: Range<usize>) -> Vec<u8> {
    let width: usize = axes.iter().product();
    let shape: Vec<_> = std::iter::once(rows.len()).chain(axes.iter().copied()).collect();
    npy("<f4", &shape, &floats("<f4", &values[rows.start * width..rows.end * width]))
}

/// The bounds of files of different lengths.
fn bounds(file: usize) -> Range<usize> {
    let at = |file: usize| file * PAIRS / FILES + if file < FILES { file % 3 } else { 0 };
    at(file)..at(file + 1)
}

/// A name for an array in one file, and in many.
type Name<'a> = &'a dyn Fn(&str, Option<usize>) -> String;

/// Writes pairs with regions and tokens, in one file per array or in many.
fn write_pairs(folder: &Path, files: Option<usize>, name: Name) {
    let arrays = [
        ("images", values(PAIRS, 6, 1), vec![6]),
        ("texts", values(PAIRS, 5, 2), vec![5]),
        ("image_regions", values(PAIRS, REGIONS * 4, 3), vec![REGIONS, 4]),
        ("text_tokens", values(PAIRS, 3 * 2, 4), vec![3, 2]),
    ];
    let put = |name: String, bytes: Vec<u8>| {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    for (array, values, axes) in &arrays {
        for file in 0..files.unwrap_or(1) {
            let rows = files.map_or(0..PAIRS, |_| bounds(file));
            put(name(array, files.map(|_| file)), part(values, axes, rows));
        }
    }
    let lengths: Vec<u32> = (0..PAIRS as u32).map(|text| 1 + text % 3).collect();
    for file in 0..files.unwrap_or(1) {
        let rows = files.map_or(0..PAIRS, |_| bounds(file));
        put(name("text_lengths", files.map(|_| file)), ids("<i4", &lengths[rows]));
    }
}

fn numbered(array: &str, file: Option<usize>) -> String {
    match file {
        None => format!("{array}.npy"),
        Some(file) => format!("{array}-{file:05}-of-{FILES:05}.npy"),
    }
}

/// The head that a dataset trains to.
fn trained(path: &Path, change: impl FnOnce(&mut TrainConfig)) -> Vec<f32> {
    let config = TrainConfig::default().with(|c| {
        (c.embed, c.epochs, c.batch) = (4, 2, 8);
        c.shuffle = Shuffle::Blocks { window: Some(128) };
        change(c);
    });
    let mut trainer = Trainer::new(&Device::cpu(), Dataset::open(path).unwrap(), config).unwrap();
    trainer.train(|_, _| Ok(())).unwrap();
    let head = trainer.head().unwrap();
    head.parameters().into_iter().flat_map(|(name, _)| head.parameter(&name).unwrap()).collect()
}

#[test]
fn a_hundred_files_train_the_bits_of_one() {
    let folder = tempfile::tempdir().unwrap();
    let [one, many, listed] = ["one", "many", "listed"].map(|name| folder.path().join(name));
    write_pairs(&one, None, &numbered);
    write_pairs(&many, Some(FILES), &numbered);
    // In several folders, as a list of files gives them.
    let named = |array: &str, file: Option<usize>| {
        let file = file.unwrap();
        if file < 50 { format!("a/{array}.{file}.npy") } else { format!("b/{file}/{array}.npy") }
    };
    write_pairs(&listed, Some(FILES), &named);
    let entry = |array: &str| {
        let rest = (50..FILES).map(|file| {
            let path = named(array, Some(file));
            match file % 2 {
                0 => format!("\"{path}\""),
                _ => format!("{{\"file\": \"{path}\", \"rows\": {}}}", bounds(file).len()),
            }
        });
        let files: Vec<_> = std::iter::once(format!("\"a/{array}.*.npy\"")).chain(rest).collect();
        format!("\"{array}\": [{}]", files.join(", "))
    };
    let arrays = ["images", "texts", "image_regions", "text_tokens", "text_lengths"].map(entry);
    let list = listed.join("pairs.json");
    fs::write(&list, format!("{{{}}}", arrays.join(", "))).unwrap();

    let datasets = [&one, &many, &list].map(|path| Dataset::open(path).unwrap());
    let [whole, others @ ..] = &datasets;
    for other in others {
        assert_eq!((other.images(), other.texts(), other.fingerprint()), (PAIRS, PAIRS, whole.fingerprint()));
        for side in [Side::Image, Side::Text] {
            assert_eq!(read_all(other, side, PAIRS), read_all(whole, side, PAIRS));
        }
    }
    let pooled: fn(&mut TrainConfig) = |_| ();
    let local: fn(&mut TrainConfig) = |c| {
        (c.image_pooling, c.text_pooling) = (Pooling::Gpo, Pooling::Mean);
    };
    for change in [pooled, local] {
        let head = trained(&one, change);
        assert!(head == trained(&many, change) && head == trained(&list, change));
    }
    // A tool may not write over a file of the dataset.
    let paths = Dataset::paths(&list);
    assert!(paths.contains(&list) && paths.contains(&listed.join("b/73/images.npy")));
}

/// The error of opening a folder or a list in it, without the name of the folder.
fn refused(dir: &TempDir, name: &str) -> String {
    let error = Dataset::open(dir.path().join(name)).unwrap_err().to_string();
    error.replace(&dir.path().display().to_string(), "DIR")
}

#[test]
fn a_file_that_is_missing_or_damaged_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    write_pairs(&folder.join("data"), Some(FILES), &numbered);
    let file = |file: usize| folder.join("data").join(numbered("images", Some(file)));
    let kept = |n: usize| fs::read(file(n)).unwrap();

    let last = kept(99);
    fs::remove_file(file(99)).unwrap();
    assert_eq!(
        refused(&dir, "data"),
        "DIR/data/images-00098-of-00100.npy: expected 100 files, as its name says, found 99; copy the missing files, or \
         write all files again"
    );
    fs::write(file(99), last).unwrap();
    let first = kept(0);
    for missing in [0, 1] {
        fs::rename(file(missing), folder.join(missing.to_string())).unwrap();
    }
    assert_eq!(
        refused(&dir, "data"),
        "DIR/data/images-00002-of-00100.npy: expected the file number 1 before it, because numbers start at 0 or 1, found \
         none; copy the missing file; or, if nothing is missing, number the files 0, 1, 2 and so on"
    );
    fs::write(file(0), first).unwrap();
    fs::rename(folder.join("1"), file(1)).unwrap();
    fs::rename(file(7), folder.join("data/images-00007-of-00099.npy")).unwrap();
    assert_eq!(
        refused(&dir, "data"),
        "DIR/data/images-00007-of-00099.npy: expected a count as in images-00099-of-00100.npy, found another one; remove \
         the files of the other set, or rename them"
    );
    fs::rename(folder.join("data/images-00007-of-00099.npy"), file(7)).unwrap();
    let whole = kept(42);
    fs::write(file(42), &whole[..whole.len() - 1]).unwrap();
    let bytes = [whole.len(), whole.len() - 1];
    assert_eq!(
        refused(&dir, "data"),
        format!(
            "DIR/data/images-00042-of-00100.npy: expected {} bytes, found {} bytes; the file is cut short: copy or write it \
             again",
            bytes[0], bytes[1]
        )
    );
    fs::write(file(42), b"garbage").unwrap();
    let error = refused(&dir, "data");
    assert!(
        error.starts_with("DIR/data/images-00042-of-00100.npy: expected an .npy file, which starts"),
        "{error}"
    );
    fs::write(file(42), whole).unwrap();
    Dataset::open(folder.join("data")).unwrap();
}

#[test]
fn a_list_of_files_says_what_is_wrong_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let files = good("<f4", "<i8");
    files.iter().for_each(|(name, bytes)| fs::write(dir.path().join(name), bytes).unwrap());
    let open = |text: &str| {
        fs::write(dir.path().join("list.json"), text).unwrap();
        let error = Dataset::open(dir.path().join("list.json")).unwrap_err().to_string();
        error.replace(&dir.path().display().to_string(), "DIR")
    };
    let form = "\"FILE\", or {\"file\": \"FILE\", \"rows\": ROWS}";
    let forms = "give each file in one of these forms";
    let starts = [
        (
            r#"{"images": "images.npy", "text": "texts.npy"}"#,
            "DIR/list.json key: expected one of images, texts, ".to_string(),
        ),
        (
            r#"{"images": "images.npy", "texts": [3]}"#,
            format!("DIR/list.json texts: expected {form}, found 3; {forms}"),
        ),
        (
            r#"{"images": {"file": "images.npy", "rows": -1}, "texts": "texts.npy"}"#,
            format!("DIR/list.json images: expected {form}, found {{\"file\":\"images.npy\",\"rows\":-1}}; {forms}"),
        ),
        (
            r#"{"images": {"file": "images.npy", "rows": 8}, "texts": "texts.npy"}"#,
            "DIR/images.npy: expected 8 rows, as DIR/list.json says, found 7; copy or write the file again, or correct the \
             number"
                .into(),
        ),
        (
            r#"{"images": "images.npy", "texts": []}"#,
            "DIR/list.json texts: expected a file or more, found none; name its files, or remove the key".into(),
        ),
        (
            r#"{"images": "images.npy"}"#,
            "DIR/list.json texts: expected the files of this array, found none; add \"texts\" with its files".into(),
        ),
        (
            r#"{"images": "images.npy", "texts": "texts-*.npy"}"#,
            "DIR/texts-*.npy: expected files with a number in place of *, found none; check the folder and the name".into(),
        ),
        (
            r#"{"images": "images.npy", "texts": "b/texts.npy"}"#,
            "DIR/b/texts.npy: expected an .npy file, found no such file; check the path".into(),
        ),
        (
            r#"{"images": "images.npy", "texts": "texts.npz"}"#,
            "DIR/texts.npz: expected an .npy file".into(),
        ),
        (r#"{"images": [[1, 2]], "texts": [[1]]}"#, "DIR/list.json: expected a dataset: ".into()),
        ("[1, 2", "DIR/list.json: expected a dataset: ".into()),
    ];
    for (text, start) in starts {
        let error = open(text);
        assert!(error.starts_with(&start), "{text}: {error}");
    }
    // The same files by their names, with captions and splits.
    let lines: String = (0..M).map(|text| format!("caption {text}\n")).collect();
    fs::write(dir.path().join("words.txt"), lines).unwrap();
    let entries: Vec<_> = files
        .keys()
        .map(|name| format!("\"{}\": \"{name}\"", name.trim_end_matches(".npy")))
        .chain([r#""captions": ["words.txt"]"#.to_string()])
        .collect();
    let list = dir.path().join("list.json");
    fs::write(&list, format!("{{{}}}", entries.join(", "))).unwrap();
    let (found, folder) = (Dataset::open(&list).unwrap(), Dataset::open(dir.path()).unwrap());
    assert_eq!(found.fingerprint(), folder.fingerprint());
    assert_eq!(found.caption(M - 1).unwrap(), Some("caption 12"));
    assert_eq!(found.name(), "list.json");
    fs::remove_file(dir.path().join("words.txt")).unwrap();
    let missing = Arc::new(Dataset::open(&list).unwrap()).caption(0).unwrap_err().to_string();
    assert!(missing.contains("words.txt: expected lines of text, found no such file"), "{missing}");
}

#[test]
fn splits_may_be_ranges_in_a_list_of_files() {
    let dir = tempfile::tempdir().unwrap();
    let texts = npy("<f4", &[N, Q], &floats("<f4", &features(N, Q)));
    fs::write(dir.path().join("images.npy"), &good("<f4", "<i8")["images.npy"]).unwrap();
    fs::write(dir.path().join("texts.npy"), &texts).unwrap();
    let open = |train: &str| {
        let files = r#""images": "images.npy", "texts": "texts.npy", "split_val": {"first": 2, "rows": 1}"#;
        fs::write(dir.path().join("list.json"), format!("{{{files}, \"split_train\": {train}}}")).unwrap();
        Dataset::open(dir.path().join("list.json"))
    };
    let dataset = open(r#"[{"first": 4, "rows": 2}, {"rows": 2, "first": 0}]"#).unwrap();
    let train = dataset.split(Split::Train);
    assert_eq!((train.images.to_vec(), train.texts.to_vec()), (vec![4, 5, 0, 1], vec![0, 1, 4, 5]));
    assert_eq!(
        (train.text_image.to_vec(), dataset.split(Split::Val).images.to_vec()),
        (vec![2, 3, 0, 1], vec![2])
    );
    fs::write(dir.path().join("split_train.npy"), ids("<i8", &[4, 5, 0, 1])).unwrap();
    fs::write(dir.path().join("split_val.npy"), ids("<i8", &[2])).unwrap();
    assert_eq!(dataset.fingerprint(), Dataset::open(dir.path()).unwrap().fingerprint());
    let refused = |train: &str| {
        let error = open(train).unwrap_err().to_string();
        error.replace(&dir.path().display().to_string(), "DIR")
    };
    for wrong in [
        r#"{"first":5,"rows":0}"#,
        r#"{"first":-1,"rows":1}"#,
        r#"{"first":1}"#,
        r#"{"first":0,"rows":1,"step":2}"#,
        r#"{"first":9223372036854775807,"rows":1}"#,
    ] {
        let expected = "DIR/list.json split_train: expected ranges such as {\"first\": 0, \"rows\": 1000}";
        let advice = "give the first row and the number of rows of each range";
        assert_eq!(refused(wrong), format!("{expected}, found {wrong}; {advice}"));
    }
    assert!(refused(r#"[{"first": 0, "rows": 1}, "a.npy"]"#).contains("found \"a.npy\"; give the first row"));
    assert_eq!(
        refused(r#"{"first": 6, "rows": 3000000000}"#),
        "DIR/list.json split_train position 1: expected an image row from 0 to 6, found 7; number the images by their row in \
         images, from 0"
    );
    assert!(
        refused(r#"{"first": 1, "rows": 3}"#).contains("expected an image of no other split, found row 2")
    );
}
