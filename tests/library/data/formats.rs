//! The same dataset in the formats that people have: it opens equal to the folder of plain arrays.

use super::*;
use faults::message;
use std::io::Write;
use zip::CompressionMethod::{Deflated, Stored};

/// The good dataset as a folder of plain arrays.
fn plain() -> Dataset {
    Dataset::open(write(&good("<f4", "<i8")).path()).unwrap()
}

fn assert_same(found: &Dataset, expected: &Dataset) {
    assert_eq!((found.images(), found.texts()), (expected.images(), expected.texts()));
    for (side, rows) in [(Side::Image, found.images()), (Side::Text, found.texts())] {
        assert_eq!(read_all(found, side, rows), read_all(expected, side, rows), "{side:?}");
    }
    for split in Split::ALL {
        assert_eq!(found.split(split), expected.split(split));
    }
    assert_eq!(found.fingerprint(), expected.fingerprint());
    assert_eq!(found.sample_hash().unwrap(), expected.sample_hash().unwrap());
}

/// `[rows, inner, cols]` in C order, rearranged into Fortran order.
fn fortran(dtype: &str, shape: [usize; 3], bytes: &[u8]) -> Vec<u8> {
    let size = bytes.len() / shape.iter().product::<usize>();
    let [rows, inner, cols] = shape;
    let mut out = Vec::new();
    for c in 0..cols {
        for b in 0..inner {
            for a in 0..rows {
                out.extend(&bytes[((a * inner + b) * cols + c) * size..][..size]);
            }
        }
    }
    let shape = if inner == 1 { format!("({rows}, {cols})") } else { format!("({rows}, {inner}, {cols})") };
    npy_with(&format!("{{'descr': '{dtype}', 'fortran_order': True, 'shape': {shape}, }}"), &out)
}

#[test]
fn fortran_order_is_read() {
    for dtype in ["<f2", "<f4", "<f8"] {
        let mut files = good(dtype, "<i8");
        let regions = floats(dtype, &features(N * 3, 2));
        files.insert("image_regions.npy", npy(dtype, &[N, 3, 2], &regions));
        let expected = Dataset::open(write(&files).path()).unwrap();
        files.insert("images.npy", fortran(dtype, [N, 1, P], &floats(dtype, &features(N, P))));
        files.insert("image_regions.npy", fortran(dtype, [N, 3, 2], &regions));
        let dataset = Dataset::open(write(&files).path()).unwrap();
        assert_same(&dataset, &expected);
        let (mut a, mut b) = ([0.0; 2], [0.0; 2]);
        for row in 0..3 * N {
            dataset.read_local_row(Side::Image, row, &mut Vec::new(), &mut a).unwrap();
            expected.read_local_row(Side::Image, row, &mut Vec::new(), &mut b).unwrap();
            assert_eq!(a, b);
        }
        // A big-endian array keeps its byte order while its values are rearranged.
        let mut swapped = floats(dtype, &features(N, P));
        swapped.chunks_mut(dtype[2..].parse().unwrap()).for_each(<[u8]>::reverse);
        files.insert("images.npy", fortran(&dtype.replace('<', ">"), [N, 1, P], &swapped));
        assert_same(&Dataset::open(write(&files).path()).unwrap(), &expected);
    }
}

#[test]
fn whole_numbers_are_features() {
    let values: Vec<i64> = (0..(N * P) as i64).map(|k| k % 100 + 1).collect();
    let bytes =
        |size: usize| -> Vec<u8> { values.iter().flat_map(|x| x.to_le_bytes()[..size].to_vec()).collect() };
    for (dtype, size) in
        [("|i1", 1), ("<i2", 2), ("<i4", 4), ("<i8", 8), ("|u1", 1), ("<u2", 2), ("<u4", 4), ("<u8", 8)]
    {
        let mut files = good("<f4", "<i8");
        files.insert("images.npy", npy(dtype, &[N, P], &bytes(size)));
        let dataset = Dataset::open(write(&files).path()).unwrap();
        let expected: Vec<f32> = values.iter().map(|&x| x as f32).collect();
        assert_eq!(read_all(&dataset, Side::Image, N), expected, "{dtype}");
    }
    let mut files = good("<f4", "<i8");
    files.insert("images.npy", npy("|i1", &[N, P], &[0xff; N * P]));
    let dataset = Dataset::open(write(&files).path()).unwrap();
    assert_eq!(read_all(&dataset, Side::Image, N), [-1.0; N * P]);
    files.insert("images.npy", npy(">u2", &[N, P], &[1; 2 * N * P]));
    let dataset = Dataset::open(write(&files).path()).unwrap();
    assert_eq!(read_all(&dataset, Side::Image, N), [257.0; N * P]);
    files.insert("images.npy", npy("|b1", &[N, P], &[1; N * P]));
    assert_eq!(read_all(&Dataset::open(write(&files).path()).unwrap(), Side::Image, N), [1.0; N * P]);
}

/// An archive of the files.
fn archive(files: &Files, method: zip::CompressionMethod) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in files {
        zip.start_file(*name, zip::write::SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

#[test]
fn an_archive_equals_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.npz");
    for method in [Stored, Deflated] {
        let mut files = good("<f4", "<i8");
        files.insert("images.npy", fortran("<f4", [N, 1, P], &floats("<f4", &features(N, P))));
        fs::write(&path, archive(&files, method)).unwrap();
        assert_same(&Dataset::open(&path).unwrap(), &plain());
    }
    let open = |files: &Files, method| {
        fs::write(&path, archive(files, method)).unwrap();
        message(&dir, Dataset::open(&path))
    };
    let mut files = good("<f4", "<i8");
    let images = files.remove("images.npy").unwrap();
    files.insert("arr_0.npy", images.clone());
    assert_eq!(
        open(&files, Stored),
        "DIR/d.npz array images: expected this array, found only arr_0, split_test, split_train, split_val, text_to_image, \
         texts; save it under this name: numpy.savez(FILE, images=..., texts=..., text_to_image=..., split_train=...)"
    );
    for method in [Stored, Deflated] {
        files.insert("images.npy", images[..images.len() - 3].to_vec());
        assert_eq!(
            open(&files, method),
            "DIR/d.npz array images: expected 268 bytes, found 265 bytes; the file is cut short: copy or write it again"
        );
    }
    fs::write(&path, b"no archive").unwrap();
    let text = message(&dir, Dataset::open(&path));
    assert!(text.starts_with("DIR/d.npz: expected an .npz archive, found another file ("), "{text}");
    let bad = archive(&Files::from([("images.npy", bad_row(2))]), Stored);
    fs::write(&path, bad).unwrap();
    assert!(message(&dir, Dataset::open(&path)).contains("texts"), "only the header is read");
}

/// Images with a NaN in one row.
fn bad_row(row: usize) -> Vec<u8> {
    let mut values = features(N, P);
    values[row * P + 1] = f32::NAN;
    npy("<f4", &[N, P], &floats("<f4", &values))
}

/// Damaged archives are errors or read as something, but never a panic.
#[test]
fn damaged_archives_do_not_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.npz");
    for method in [Stored, Deflated] {
        let whole = archive(&good("<f4", "<i8"), method);
        for at in (0..whole.len()).step_by(13) {
            fs::write(&path, &whole[..at]).unwrap();
            assert!(Dataset::open(&path).is_err());
            for bits in [0xff, 0x80, 0x01] {
                let mut bytes = whole.clone();
                bytes[at] ^= bits;
                fs::write(&path, bytes).unwrap();
                if let Ok(dataset) = Dataset::open(&path) {
                    let mut row = vec![0.0; dataset.image_dim()];
                    let _ = dataset.read_row(Side::Image, 0, &mut Vec::new(), &mut row);
                }
            }
        }
    }
}

/// The rows `rows` of the features `[.., cols]`.
fn part(values: &[f32], cols: usize, rows: std::ops::Range<usize>) -> Vec<u8> {
    npy("<f4", &[rows.len(), cols], &floats("<f4", &values[rows.start * cols..rows.end * cols]))
}

/// Writes files with any names.
fn write_more(dir: &TempDir, files: &[(&str, Vec<u8>)]) {
    for (name, bytes) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn numbered_files_are_one_array_in_numeric_order() {
    let texts = features(M, Q);
    for name in ["texts_K.npy", "texts-K.npy", "texts-000K-of-00013.npy", "texts.K.npy"] {
        let mut files = good("<f4", "<i8");
        files.remove("texts.npy");
        let dir = write(&files);
        for k in 0..M {
            write_more(&dir, &[(&name.replace('K', &k.to_string()), part(&texts, Q, k..k + 1))]);
        }
        let dataset = Dataset::open(dir.path()).unwrap();
        assert_same(&dataset, &plain());
        assert_eq!(
            dataset.place(Side::Text, 11),
            dir.path().join(name.replace('K', "11")).display().to_string() + " row 0"
        );
        let paths = Dataset::paths(dir.path());
        assert!(paths.contains(&dir.path().join(name.replace('K', "12"))), "{paths:?}");
    }
    // Files of different lengths, also without rows; and more of them than stay open.
    let mut files = good("<f4", "<i8");
    files.remove("texts.npy");
    let dir = write(&files);
    write_more(
        &dir,
        &[
            ("texts_1.npy", part(&texts, Q, 0..4)),
            ("texts_2.npy", part(&texts, Q, 4..4)),
            ("texts_3.npy", part(&texts, Q, 4..M)),
        ],
    );
    let dataset = Dataset::open(dir.path()).unwrap();
    assert_same(&dataset, &plain());
    assert!(dataset.place(Side::Text, 4).ends_with("texts_3.npy row 0"), "{}", dataset.place(Side::Text, 4));

    let refused = |name: &str, bytes: Vec<u8>| {
        write_more(&dir, &[(name, bytes)]);
        message(&dir, Dataset::open(dir.path()))
    };
    assert_eq!(
        refused("texts_5.npy", part(&texts, Q, 0..1)),
        "DIR/texts_5.npy: expected the file number 4 before it, because texts_3.npy is there, found none; copy the missing \
         file; or, if nothing is missing, number the files 0, 1, 2 and so on"
    );
    assert_eq!(
        refused("texts-5.npy", part(&texts, Q, 0..1)),
        "DIR/texts_5.npy: expected the file number 4 before it, because texts_3.npy is there, found none; copy the missing \
         file; or, if nothing is missing, number the files 0, 1, 2 and so on"
            .replace("texts_5", "texts-5")
    );
    write_more(&dir, &[("texts_4.npy", part(&texts, Q, 0..1))]);
    assert_eq!(
        message(&dir, Dataset::open(dir.path())),
        "DIR/texts_5.npy: expected a number that no other file has, found that of texts-5.npy; remove one of the two, or \
         rename it"
    );
    for name in ["texts-5.npy", "texts_5.npy"] {
        fs::remove_file(dir.path().join(name)).unwrap();
    }
    assert_eq!(
        refused("texts_4.npy", part(&features(M, P), P, 0..1)),
        "DIR/texts_4.npy: expected shape [rows, 3], as DIR/texts_1.npy has it, found shape [1, 5]; write all files in the \
         same way"
    );
    assert_eq!(
        refused("texts_4.npy", npy("<f2", &[1, Q], &[0; 6])),
        "DIR/texts_4.npy: expected values of type '<f4', as in DIR/texts_1.npy, found '<f2'; write all files in the same way"
    );
    assert_eq!(
        refused("texts_4.npy", npy("<f4", &[2, Q], &[0; 12])),
        "DIR/texts_4.npy: expected 152 bytes, found 140 bytes; the file is cut short: copy or write it again"
    );
    // A value that is not finite is named with its file.
    fs::remove_file(dir.path().join("texts_4.npy")).unwrap();
    let mut values = texts.clone();
    values[6 * Q + 2] = f32::INFINITY;
    write_more(&dir, &[("texts_3.npy", part(&values, Q, 4..M))]);
    let dataset = Dataset::open(dir.path()).unwrap();
    let error = message(&dir, dataset.read_row(Side::Text, 6, &mut Vec::new(), &mut [0.0; Q]));
    assert!(error.starts_with("DIR/texts_3.npy row 2 column 2: expected a finite f32"), "{error}");
}

#[test]
fn thousands_of_files_stay_within_the_limit_of_open_files() {
    const FILES: usize = 1500;
    let dir = write(&good("<f4", "<i8"));
    fs::remove_file(dir.path().join("texts.npy")).unwrap();
    let values = features(FILES, Q);
    for k in 0..FILES {
        write_more(&dir, &[(&format!("texts_{k}.npy"), part(&values, Q, k..k + 1))]);
    }
    let owners: Vec<u32> = (0..FILES as u32).map(|k| k % N as u32).collect();
    write_more(&dir, &[("text_to_image.npy", ids("<u4", &owners))]);
    let dataset = Dataset::open(dir.path()).unwrap();
    assert_eq!(read_all(&dataset, Side::Text, FILES), values);
    #[cfg(target_os = "linux")]
    {
        let open = fs::read_dir("/proc/self/fd").unwrap().count();
        assert!(open < 500, "{open} open files");
    }
}

/// The splits of seven pairs.
fn pair_splits(dir: &TempDir) {
    for (name, rows) in SPLITS {
        write_more(dir, &[(name, ids("<i8", rows))]);
    }
}

#[test]
fn the_folders_of_clip_retrieval_are_pairs() {
    let (images, texts) = (features(N, P), features(N, Q));
    let dir = tempfile::tempdir().unwrap();
    pair_splits(&dir);
    for (k, rows) in [(0, 0..2), (2, 2..5), (10, 5..7)] {
        write_more(
            &dir,
            &[
                (&format!("img_emb/img_emb_{k}.npy"), part(&images, P, rows.clone())),
                (&format!("text_emb/text_emb_{k}.npy"), part(&texts, Q, rows)),
            ],
        );
    }
    let dataset = Dataset::open(dir.path()).unwrap();
    assert_eq!((dataset.images(), dataset.texts()), (N, N));
    assert_eq!(read_all(&dataset, Side::Image, N), images);
    assert_eq!(read_all(&dataset, Side::Text, N), texts);
    assert_eq!(dataset.split(Split::Train).texts, [0, 2, 3, 6], "row i and row i are a pair");
    assert_eq!(dataset.split(Split::Test).text_image, [0]);
    assert!(Dataset::paths(dir.path()).contains(&dir.path().join("text_emb/text_emb_10.npy")));

    write_more(&dir, &[("text_emb/text_emb_2.npy", part(&texts, Q, 2..4))]);
    let advice = "write both again in one run of clip-retrieval, or remove the files without a partner";
    assert_eq!(
        message(&dir, Dataset::open(dir.path())),
        format!(
            "DIR/text_emb/text_emb_2.npy: expected 3 rows, as in DIR/img_emb/img_emb_2.npy, found 2; {advice}"
        )
    );
    write_more(&dir, &[("text_emb/text_emb_3.npy", part(&texts, Q, 4..5))]);
    fs::remove_file(dir.path().join("text_emb/text_emb_2.npy")).unwrap();
    assert_eq!(
        message(&dir, Dataset::open(dir.path())),
        format!(
            "DIR/text_emb/text_emb_3.npy: expected a file with the same number in img_emb, found none; {advice}"
        )
    );
    fs::remove_file(dir.path().join("text_emb/text_emb_3.npy")).unwrap();
    assert_eq!(
        message(&dir, Dataset::open(dir.path())),
        format!(
            "DIR/img_emb/img_emb_2.npy: expected a file with the same number in text_emb, found none; {advice}"
        )
    );
}

/// Two images per split with five captions each, in SCAN's layout; `repeat` writes each image five times.
fn scan(repeat: bool) -> TempDir {
    let (images, texts) = (features(6, P), features(30, Q));
    let dir = tempfile::tempdir().unwrap();
    for (k, split) in ["train", "dev", "test"].into_iter().enumerate() {
        let own = &images[2 * k * P..(2 * k + 2) * P];
        let rows: Vec<f32> = match repeat {
            true => own.chunks(P).flat_map(|row| row.repeat(5)).collect(),
            false => own.to_vec(),
        };
        let captions: String = (10 * k..10 * k + 10).map(|text| format!("caption {text}\n")).collect();
        write_more(
            &dir,
            &[
                (&format!("{split}_ims.npy"), part(&rows, P, 0..rows.len() / P)),
                (&format!("{split}_texts.npy"), part(&texts, Q, 10 * k..10 * k + 10)),
                (&format!("{split}_caps.txt"), captions.into_bytes()),
            ],
        );
    }
    dir
}

#[test]
fn the_layout_of_scan_is_read() {
    for repeat in [false, true] {
        let dir = scan(repeat);
        let dataset = Dataset::open(dir.path()).unwrap();
        assert_eq!((dataset.images(), dataset.texts()), (6, 30), "{repeat}");
        assert_eq!(read_all(&dataset, Side::Image, 6), features(6, P));
        assert_eq!(read_all(&dataset, Side::Text, 30), features(30, Q));
        assert_eq!(Split::ALL.map(|split| dataset.split(split).images.clone()), [[0, 1], [2, 3], [4, 5]]);
        let test = dataset.split(Split::Test);
        assert_eq!(test.texts, (20..30).collect::<Vec<_>>());
        assert_eq!(test.text_image, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]);
        assert_eq!(dataset.caption(29).unwrap(), Some("caption 29"));
        let row = if repeat { 5 } else { 1 };
        assert!(dataset.place(Side::Image, 3).ends_with(&format!("dev_ims.npy row {row}")));
        let paths = Dataset::paths(dir.path());
        for name in ["train_ims.npy", "dev_texts.npy", "test_caps.txt"] {
            assert!(paths.contains(&dir.path().join(name)), "{name}");
        }
    }
}

#[test]
fn scan_has_regions_and_a_large_test_split() {
    let dir = scan(false);
    for split in ["train", "dev", "testall"] {
        write_more(
            &dir,
            &[(&format!("{split}_ims.npy"), npy("<f4", &[2, 3, 4], &floats("<f4", &features(6, 4))))],
        );
    }
    write_more(&dir, &[("testall_texts.npy", part(&features(10, Q), Q, 0..10))]);
    let dataset = Dataset::open(dir.path()).unwrap();
    assert_eq!(
        (dataset.images(), dataset.local_dim(Side::Image), dataset.local_len(Side::Image)),
        (6, Some(4), Some(3))
    );
    let mut row = [0.0; 4];
    dataset.read_local_row(Side::Image, 3 * 3 + 2, &mut Vec::new(), &mut row).unwrap();
    assert_eq!(row, features(6, 4)[5 * 4..]);
    let test = dataset.split(Split::Test).texts.get(3).unwrap() as usize;
    let mut row = [0.0; Q];
    dataset.read_row(Side::Text, test, &mut Vec::new(), &mut row).unwrap();
    assert_eq!(row, features(10, Q)[3 * Q..4 * Q], "testall comes before test");
    // Its captions are missing, so none are used.
    assert_eq!(dataset.caption(0).unwrap(), None);
}

#[test]
fn scan_without_features_of_texts_says_what_to_do() {
    let dir = scan(false);
    for split in ["train", "dev", "test"] {
        fs::remove_file(dir.path().join(format!("{split}_texts.npy"))).unwrap();
    }
    assert_eq!(
        message(&dir, Dataset::open(dir.path())),
        "DIR/train_texts.npy: expected the features of the captions, an .npy file [captions, Q], found no such file; wgoal \
         trains on features of texts: encode every line of DIR/train_caps.txt and save the rows in the same order"
    );
    let dir = scan(false);
    write_more(&dir, &[("dev_texts.npy", part(&features(9, Q), Q, 0..9))]);
    assert_eq!(
        message(&dir, Dataset::open(dir.path())),
        "DIR/dev_texts.npy: expected equally many captions for each of the 2 images of DIR/dev_ims.npy, found 9 rows; write \
         a row for every line of the captions' file, in the same order"
    );
}

#[test]
fn lengths_take_the_place_of_offsets() {
    let lengths = [1, 3, 2, 1, 1, 2, 3];
    let mut end = 0;
    let ends = lengths.map(|length: u32| {
        end += length;
        end
    });
    let offsets: Vec<u32> = std::iter::once(0).chain(ends).collect();
    let total = end as usize;
    let padded = npy("<f4", &[N, 3, 2], &floats("<f4", &features(N * 3, 2)));
    let ragged = npy("<f4", &[total, 2], &floats("<f4", &features(total, 2)));
    let open = |arrays: &[(&'static str, Vec<u8>)]| {
        let mut files = good("<f4", "<i8");
        files.extend(arrays.iter().cloned());
        let dir = write(&files);
        (Dataset::open(dir.path()), dir)
    };
    for regions in [&padded, &ragged] {
        let regions = ("image_regions.npy", regions.clone());
        let by = |counts: (&'static str, Vec<u8>)| open(&[regions.clone(), counts]).0.unwrap();
        let expected = by(("region_offsets.npy", ids("<i8", &offsets)));
        let found = by(("region_lengths.npy", ids("<i8", &lengths)));
        assert_eq!(found.fingerprint(), expected.fingerprint());
        for item in 0..N {
            assert_eq!(found.local_rows(Side::Image, item), expected.local_rows(Side::Image, item));
        }
    }
    let fault = |regions: &Vec<u8>, lengths: &[u32]| {
        let counts = ("region_lengths.npy", ids("<i8", lengths));
        let (result, dir) = open(&[("image_regions.npy", regions.clone()), counts]);
        message(&dir, result)
    };
    let advice = "write the number of rows of every item, without padding";
    let place = "DIR/region_lengths.npy";
    assert_eq!(
        fault(&padded, &lengths[1..]),
        format!("{place}: expected 7 values, one for each item of DIR/image_regions.npy, found 6; {advice}")
    );
    assert_eq!(
        fault(&padded, &[1, 3, 2, 4, 1, 2, 3]),
        format!("{place} position 3: expected a number of rows from 1 to 3, found 4; {advice}")
    );
    assert_eq!(
        fault(&padded, &[1, 3, 0, 1, 1, 2, 3]),
        format!(
            "{place} position 2: expected a number of rows from 1 to 3, found 0; give item 2 a row, or leave it out of the \
             dataset"
        )
    );
    assert_eq!(
        fault(&ragged, &[1, 3, 2, 1, 1, 2, 2]),
        format!(
            "{place}: expected lengths that add up to 13, the rows of DIR/image_regions.npy, found 12; {advice}"
        )
    );
    assert_eq!(
        fault(&ragged, &[1, 3, 2, 1, 1, 5]),
        format!(
            "{place}: expected 7 values, one for each row of DIR/images.npy, found 6; write the features of every item, in \
                 the same order"
        )
    );
    let both = [
        ("image_regions.npy", padded.clone()),
        ("region_offsets.npy", ids("<i8", &offsets)),
        ("region_lengths.npy", ids("<i8", &lengths)),
    ];
    let (result, dir) = open(&both);
    assert_eq!(
        message(&dir, result),
        "DIR/region_lengths.npy: expected region_offsets or region_lengths, found both; remove one of the two"
    );
}

#[test]
fn other_formats_are_refused_with_a_command_that_converts_them() {
    let mut files = good("<f4", "<i8");
    files.remove("images.npy");
    let python = "python3 -c \"import numpy, sys; a = sys.argv;";
    for (name, what, code) in [
        (
            "images.pt",
            "a PyTorch file",
            "import torch; x = torch.load(a[1], map_location='cpu'); numpy.save(a[2], (x.float() if x.is_floating_point() else x).numpy())",
        ),
        (
            "images.pkl",
            "a pickle",
            "import pickle; x = pickle.load(open(a[1], 'rb')); numpy.save(a[2], numpy.asarray(x))",
        ),
        ("images.npz", "an archive of arrays", "x = numpy.load(a[1]); numpy.save(a[2], x[x.files[0]])"),
        (
            "images.fvecs",
            "vectors of faiss",
            "x = numpy.fromfile(a[1], '<i4'); numpy.save(a[2], x.reshape(-1, x[0] + 1)[:, 1:].view('<f4'))",
        ),
    ] {
        let dir = write(&files);
        write_more(&dir, &[(name, vec![1])]);
        assert_eq!(
            message(&dir, Dataset::open(dir.path())),
            format!(
                "DIR/images.npy: expected an .npy file, found {name}, {what}; to convert it, run {python} {code}\" DIR/{name} DIR/images.npy"
            )
        );
    }
    // An array that is not always needed counts too.
    let dir = write(&good("<f4", "<i8"));
    fs::rename(dir.path().join("split_val.npy"), dir.path().join("split_val.pt")).unwrap();
    let error = message(&dir, Dataset::open(dir.path()));
    assert!(
        error.starts_with("DIR/split_val.npy: expected an .npy file, found split_val.pt, a PyTorch file;"),
        "{error}"
    );

    let dir = write(&files);
    let open = |name: &str| {
        write_more(&dir, &[(name, vec![1])]);
        message(&dir, Dataset::open(dir.path().join(name)))
    };
    let expected = "expected a dataset: a folder, or a .safetensors, .npz, .parquet, .arrow, .feather or .json file, found";
    assert_eq!(
        open("it's.h5"),
        format!(
            "DIR/it's.h5: {expected} an HDF5 file; to convert it, run {python} import h5py; x = {{k: v[:] for k, v in \
                 h5py.File(a[1]).items()}}; numpy.savez(a[2], **{{k: numpy.asarray(v) for k, v in x.items()}})\" \
                 'DIR/it'\\''s.h5' 'DIR/it'\\''s.npz'"
        )
    );
    assert_eq!(
        open("x.npy"),
        format!(
            "DIR/x.npy: {expected} one array; give the folder that holds it, with images.npy and texts.npy"
        )
    );
    assert_eq!(
        open("x.tfrecord"),
        format!(
            "DIR/x.tfrecord: {expected} a TFRecord file; give the folder that holds images.npy, or a file whose name \
                 ends in .safetensors or .npz"
        )
    );
    let loadtxt = "x = numpy.loadtxt(a[1], delimiter=',', ndmin=2); numpy.save(a[2], x[:, 0] if x.shape[1] == 1 else x)";
    assert_eq!(
        open("x.csv"),
        format!(
            "DIR/x.csv: {expected} a table as text; make a folder with images.npy and texts.npy, and give that folder; if \
             it holds numbers, to convert it, run {python} {loadtxt}\" DIR/x.csv images.npy"
        )
    );
    write_more(&dir, &[("images.tfrecord", vec![1])]);
    assert_eq!(
        message(&dir, Dataset::open(dir.path())),
        "DIR/images.npy: expected an .npy file, found images.tfrecord, a TFRecord file; read it with the program that wrote \
         it, and save a numpy array with numpy.save"
    );
}
