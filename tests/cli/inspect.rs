//! `wgoal inspect`: one table of everything that is unusual in a dataset.

use super::place::*;
use std::fs;

/// A dataset called `name`, changed.
fn dataset(place: &Place, name: &str, change: impl FnOnce(&dyn Fn(&str) -> std::path::PathBuf)) {
    write_dataset(&place.path(name));
    change(&|file| place.path(name).join(file));
}

/// The row of the table that starts with `name`.
fn row(table: &str, name: &str) -> String {
    let line = table.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}\n{table}"));
    line[name.len()..]
        .split("  ")
        .map(str::trim)
        .filter(|cell| !cell.is_empty())
        .collect::<Vec<_>>()
        .join(" | ")
}

#[test]
fn a_good_dataset_is_described() {
    let place = Place::new();
    let table = place.ok("inspect data");
    let start = "data\nimages: 40, 6 wide\ncaptions: 80, 5 wide; 2 per image\n\
                 splits: train 24 images with 48 captions, val 8 images with 16 captions, test 8 images with 16 captions\n\n";
    assert!(table.starts_with(start) && table.ends_with("nothing is unusual\n"), "{table}");
    assert_eq!(row(&table, "rows x columns"), "40 x 6 | 80 x 5");
    assert_eq!(row(&table, "type"), "<f4 | <f4");
    assert_eq!(row(&table, "shared by splits"), "train and val | train and test | val and test");
    for name in ["zero rows", "rows equal to an earlier row", "constant columns", "nearly constant columns"] {
        assert_eq!(row(&table, name), "0 | 0", "{name}");
    }
    for name in ["images in both", "images with equal features", "captions with equal features"] {
        assert_eq!(row(&table, name), "0 | 0 | 0", "{name}");
    }
    // The lengths of rows, computed apart.
    let [images, _] = features();
    let mut lengths: Vec<f64> =
        images.chunks(6).map(|row| row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()).collect();
    lengths.sort_by(f64::total_cmp);
    let json = place.json("inspect data --json");
    for (k, at) in [0, 20, 39].into_iter().enumerate() {
        let found = json["arrays"][0]["row_lengths"][k].as_f64().unwrap();
        assert!((found - lengths[at]).abs() < 1e-6, "{found} {}", lengths[at]);
    }
    let expected = [
        "arrays",
        "captions_per_image",
        "divided",
        "faults",
        "images",
        "in_no_split",
        "leaks",
        "name",
        "paired",
        "remarks",
        "splits",
        "texts",
        "uncaptioned",
    ];
    assert_eq!(keys(&json), expected);
    let expected = [
        "constant_columns",
        "equal_captions",
        "largest_value",
        "name",
        "nearly_constant_columns",
        "repeated_rows",
        "row_lengths",
        "rows_not_finite",
        "rows_of_extreme_length",
        "shape",
        "type",
        "zero_rows",
    ];
    assert_eq!(keys(&json["arrays"][1]), expected);
}

#[test]
fn everything_unusual_is_counted() {
    let place = Place::new();
    let [images, texts] = features();
    dataset(&place, "odd", |file| {
        let (mut images, mut texts) = (images.clone(), texts.clone());
        // Image 30 (val) is image 3 (train), 33 (test) is 31 (val); 5 and 6 are zero; 7 is very long, 8 very short.
        for (to, from) in [(30, 3), (33, 31)] {
            images.copy_within(from * 6..from * 6 + 6, to * 6);
        }
        images[30..42].fill(0.0);
        images[42..48].iter_mut().for_each(|x| *x *= 1000.0);
        images[48..54].iter_mut().for_each(|x| *x /= 1000.0);
        // Column 4 is constant, column 5 nearly so, in all rows that are not zero.
        for (i, row) in images.chunks_mut(6).enumerate().filter(|(i, _)| ![5, 6].contains(i)) {
            row[4] = 0.0;
            row[5] = 0.0001 * (1.0 + if i % 2 == 0 { 0.0 } else { 1e-4 });
        }
        images[33 * 6 + 5] = images[31 * 6 + 5];
        images[30 * 6 + 5] = images[3 * 6 + 5];
        // The captions of image 39 are those of image 0; image 1 has the same caption twice.
        texts.copy_within(0..10, 78 * 5);
        texts.copy_within(10..15, 15);
        write_npy(&file("images.npy"), &[40, 6], &images);
        write_npy(&file("texts.npy"), &[80, 5], &texts);
    });
    let output = place.run("inspect odd");
    assert_eq!(output.code, 0, "{}", output.stderr);
    let table = output.stdout;
    assert_eq!(row(&table, "zero rows"), "2, first 5 | 0");
    assert_eq!(row(&table, "rows equal to an earlier row"), "2, first 30 | 3, first 3");
    assert_eq!(row(&table, "captions equal to one of another image"), "0 | 2, first 78");
    assert_eq!(row(&table, "rows of extreme length"), "2, first 7 | 0");
    assert_eq!(row(&table, "constant columns"), "1, first 4 | 0");
    assert_eq!(row(&table, "nearly constant columns"), "1, first 5 | 0");
    assert_eq!(row(&table, "images with equal features"), "1 | 0 | 1");
    assert_eq!(row(&table, "captions with equal features"), "0 | 2 | 0");
    let leak = "warning: odd/images.npy: 1 of 8 images of split_test has the same features as one of split_val (row 33 and \
                row 31), so results on split_test are too good; equal images belong in one split: `wgoal split odd --replace` \
                writes splits that keep them together";
    assert!(table.lines().any(|line| line == leak), "{table}");
    let said = |word: &str| table.lines().filter(|line| line.starts_with(word)).count();
    assert_eq!(
        (said("warning: odd/images.npy: "), said("note: odd/images.npy: "), said("note: odd/texts.npy: ")),
        (5, 1, 2)
    );
    // The advice, followed.
    place.ok("split odd --replace");
    assert_eq!(row(&place.ok("inspect odd"), "images with equal features"), "0 | 0 | 0");
}

#[test]
fn what_commands_refuse_is_a_fault() {
    let place = Place::new();
    let mut images = features()[0].clone();
    images[17 * 6 + 3] = f32::NAN;
    images[19 * 6] = f32::INFINITY;
    dataset(&place, "bad", |file| {
        write_npy(&file("images.npy"), &[40, 6], &images);
        write_npy(&file("split_test.npy"), &[3], &[32u32, 3, 2]);
        write_npy(&file("split_val.npy"), &[2], &[24u32, 99]);
        fs::write(file("captions.txt"), "one line\n").unwrap();
    });
    let output = place.run("inspect bad");
    assert_eq!(
        (output.code, output.stderr.as_str()),
        (1, "error: bad: expected a dataset without faults, found 4 faults; mend what is listed above\n")
    );
    assert_eq!(row(&output.stdout, "rows with NaN or infinity"), "2, first 17 | 0");
    assert_eq!(row(&output.stdout, "shared by splits"), "train and test");
    assert_eq!(row(&output.stdout, "images in both"), "2");
    let faults: Vec<_> = output.stdout.lines().filter_map(|line| line.strip_prefix("fault: ")).collect();
    assert_eq!(faults.len(), 4, "{}", output.stdout);
    assert!(
        faults[0].starts_with("bad/split_val.npy position 1: expected an image row from 0 to 39, found 99"),
        "{faults:?}"
    );
    assert!(
        faults[1]
            .starts_with("bad/split_test.npy position 1: expected an image of no other split, found row 3"),
        "{faults:?}"
    );
    assert!(
        faults[2].ends_with("replace the value, or leave the row out of the dataset (2 such rows)"),
        "{faults:?}"
    );
    assert!(faults[3].starts_with("bad/captions.txt: expected 80 lines"), "{faults:?}");
    // JSON is complete all the same.
    let output = place.run("inspect bad --json");
    assert_eq!((output.code, output.stdout.lines().count()), (1, 1));
    let json: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!((&json["leaks"][0]["same_images"], json["faults"].as_array().unwrap().len()), (&2.into(), 4));
    // What is missing altogether is an error.
    dataset(&place, "none", |file| fs::remove_file(file("images.npy")).unwrap());
    let output = place.run("inspect none");
    assert!(
        output.code == 1 && output.stderr.starts_with("error: none/images.npy: expected an .npy file"),
        "{}",
        output.stderr
    );
}

#[test]
fn one_side_alone_is_described() {
    let place = Place::new();
    for (folder, name, shown) in [
        ("gallery", "images", "gallery\nimages: 40, 6 wide\ncaptions: none\n\n"),
        ("queries", "texts", "queries\nimages: none\ncaptions: 40, 6 wide\n\n"),
    ] {
        fs::create_dir(place.path(folder)).unwrap();
        write_npy(&place.path(&format!("{folder}/{name}.npy")), &[40, 6], &features()[0]);
        let table = place.ok(&format!("inspect {folder}"));
        assert!(table.starts_with(shown) && table.ends_with("\nnothing is unusual\n"), "{table}");
        assert_eq!(
            (row(&table, "rows x columns"), table.contains("shared by splits")),
            ("40 x 6".into(), false)
        );
    }
}

#[test]
fn two_files_are_described_as_commands_take_them() {
    let place = Place::new();
    fs::create_dir(place.path("two")).unwrap();
    for name in ["images", "texts"] {
        write_npy(&place.path(&format!("two/{name}.npy")), &[40, 6], &features()[0]);
    }
    let table = place.ok("inspect two");
    assert!(table.contains("\nsplits: train 32 images with 32 captions, val 4 images"), "{table}");
    assert!(
        table.contains("\npairs: text i is the caption of image i, because there is no text_to_image\n"),
        "{table}"
    );
    assert!(table.contains("\nno split files: commands divide the images in this way\n"), "{table}");
    fs::remove_file(place.path("two/texts.npy")).unwrap();
    write_npy(&place.path("two/texts.npy"), &[2, 6], &features()[0][..12]);
    write_npy(&place.path("two/text_to_image.npy"), &[2], &[0u32, 1]);
    // Too few images with captions to divide: a fault, and the rest is described.
    let output = place.run("inspect two");
    assert_eq!(output.code, 1);
    assert!(
        output.stdout.contains("\nfault: two: expected at least 3 images with captions"),
        "{}",
        output.stdout
    );
}
