//! Every fault of a dataset gives one clear error.

use super::*;

/// The error message, with the path of the folder replaced.
pub fn message<T>(dir: &TempDir, result: wgoal::Result<T>) -> String {
    let error = result.err().expect("this should be refused");
    error.to_string().replace(&dir.path().display().to_string(), "DIR")
}

/// Opens the valid dataset with one file replaced or removed.
fn open_with(name: &'static str, bytes: Option<Vec<u8>>) -> String {
    let mut files = good("<f4", "<i8");
    match bytes {
        Some(bytes) => files.insert(name, bytes),
        None => files.remove(name),
    };
    let dir = write(&files);
    let names = |dataset: &Dataset| dataset.caption(0).and(dataset.image_name(0)).map(|_| ());
    message(&dir, Dataset::open(dir.path()).and_then(|dataset| names(&dataset)))
}

fn images(header: &str) -> Vec<u8> {
    npy_with(header, &[0; N * P * 4])
}

fn signed(values: &[i64]) -> Vec<u8> {
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    npy("<i8", &[values.len()], &bytes)
}

fn text_to_image(position: usize, value: i64) -> Vec<u8> {
    let mut values = TEXT_TO_IMAGE.map(i64::from);
    values[position] = value;
    signed(&values)
}

#[test]
fn every_malformed_folder_is_refused_with_its_own_message() {
    let whole = npy("<f4", &[N, P], &floats("<f4", &features(N, P)));
    let longer = [&whole[..], &[0]].concat();
    let nested = format!("{{'descr': '<f4', 'shape': {}1", "(".repeat(60));
    let long = [b"\x93NUMPY\x02\x00\xff\xff\xff\xff", &[b' '; 200][..]].concat();
    let mut version = whole.clone();
    version[6] = 9;
    let lines = |n: usize| "a caption\n".repeat(n).into_bytes();
    let cases: Vec<(&str, Option<Vec<u8>>)> = vec![
        ("images.npy", None),
        ("split_val.npy", None),
        ("images.npy", Some(b"PK\x03\x04 an archive".to_vec())),
        ("images.npy", Some(Vec::new())),
        ("images.npy", Some(whole[..7].to_vec())),
        ("images.npy", Some(whole[..50].to_vec())),
        ("images.npy", Some(whole[..whole.len() - 3].to_vec())),
        ("images.npy", Some(longer)),
        ("images.npy", Some(version)),
        ("images.npy", Some(long)),
        ("images.npy", Some(images(&nested))),
        ("images.npy", Some(images("{'descr': '<f4', 'shape': (7, 5), }"))),
        ("images.npy", Some(images("{'descr': '<f4', 'fortran_order': False, 'shape': (7, -5), }"))),
        ("images.npy", Some(images("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (35,), }"))),
        ("images.npy", Some(images("{'descr': '<f4', 'fortran_order': True, 'shape': (7, 6), }"))),
        ("images.npy", Some(npy("<c8", &[N, P], &[0; N * P * 8]))),
        ("images.npy", Some(npy("<f4", &[N * P], &[0; N * P * 4]))),
        ("images.npy", Some(npy("<f4", &[N, P, 1], &[0; N * P * 4]))),
        ("images.npy", Some(npy("<f4", &[], &[0; 4]))),
        ("images.npy", Some(npy("<f4", &[0, P], &[]))),
        ("images.npy", Some(npy("<f4", &[N, 0], &[]))),
        ("images.npy", Some(npy("<f4", &[1 << 33, 1 << 33], &[]))),
        ("images.npy", Some(npy("<f4", &[1, 1 << 40], &[]))),
        ("texts.npy", Some(npy("<f4", &[1 << 41, 3], &[]))),
        ("split_train.npy", Some(npy("<f4", &[4], &[0; 16]))),
        ("split_train.npy", Some(npy("<i8", &[2, 2], &[0; 32]))),
        ("split_test.npy", Some(ids("<i8", &[]))),
        ("split_test.npy", Some(ids("<i8", &[7]))),
        ("split_train.npy", Some(ids("<i8", &[6, 0, 3, 0]))),
        ("split_test.npy", Some(ids("<i8", &[1, 3]))),
        ("split_test.npy", Some(signed(&[-1]))),
        ("split_test.npy", Some(signed(&[1, 1 << 32]))),
        ("text_to_image.npy", Some(text_to_image(2, 7))),
        ("text_to_image.npy", Some(text_to_image(9, i64::MIN))),
        ("text_to_image.npy", Some(text_to_image(5, 4))),
        ("text_to_image.npy", Some(ids("<i4", &TEXT_TO_IMAGE[1..]))),
        ("captions.txt", Some(lines(M - 1))),
        ("captions.txt", Some(b"good\nb\xffd\n".to_vec())),
        ("image_names.txt", Some(lines(N + 1))),
    ];
    let found: Vec<_> = cases.into_iter().map(|(name, bytes)| open_with(name, bytes)).collect();
    compare(&found, include_str!("folder_faults.txt"));
}

/// One expected message per line.
pub fn compare(found: &[String], expected: &str) {
    for (found, expected) in found.iter().zip(expected.lines()) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.lines().count(), "{}", found.join("\n"));
}

#[test]
fn every_malformed_safetensors_file_is_refused_with_its_own_message() {
    let whole = tensors(&good_tensors());
    let change = |i: usize, tensor| {
        let mut list = good_tensors();
        list[i] = tensor;
        tensors(&list)
    };
    let mut missing = good_tensors();
    // The validation split.
    missing.remove(4);
    let mut overlong = whole.clone();
    overlong[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let overlap = r#"{"images":{"dtype":"F16","shape":[7,5],"data_offsets":[8,78]}}"#;
    let overlap = [&(overlap.len() as u64).to_le_bytes(), overlap.as_bytes(), &[0; 78]].concat();
    let cases = [
        whole[..5].to_vec(),
        whole[..100].to_vec(),
        overlong,
        [&4u64.to_le_bytes()[..], b"json"].concat(),
        overlap,
        whole[..whole.len() - 1].to_vec(),
        [&whole[..], &[0]].concat(),
        tensors(&missing),
        change(0, ("images", "C64", vec![N, P], vec![0; N * P * 8])),
        change(1, ("texts", "F16", vec![M, 1, Q], vec![0; M * Q * 2])),
        change(1, ("texts", "F16", vec![M, 0], vec![])),
        change(2, ("text_to_image", "I64", vec![M - 1], vec![0; (M - 1) * 8])),
        change(3, ("split_train", "U32", vec![1], vec![255; 4])),
        change(4, ("split_val", "I32", vec![2], integers("<i4", &[5, 6]))),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.safetensors");
    let found = cases.map(|bytes| {
        fs::write(&path, bytes).unwrap();
        message(&dir, Dataset::open(&path))
    });
    compare(&found, include_str!("safetensors_faults.txt"));
}

#[test]
fn a_path_that_is_no_dataset_is_refused() {
    let dir = write(&Files::from([("notes.txt", vec![])]));
    fs::create_dir(dir.path().join("images.npy")).unwrap();
    let open = |name| message(&dir, Dataset::open(dir.path().join(name)));
    let expected = "expected a dataset: a folder, or a .safetensors, .npz, .parquet, .arrow, .feather or .json file, found";
    assert_eq!(
        open("nowhere"),
        format!("DIR/nowhere: {expected} no such file; check the path and that the dataset is complete")
    );
    assert_eq!(
        open("notes.txt"),
        format!(
            "DIR/notes.txt: {expected} a file of another name; give the folder that holds images.npy, or a file \
             whose name ends in .safetensors or .npz"
        )
    );
    assert_eq!(
        open(""),
        "DIR/images.npy: expected an .npy file, found a folder; check the path and that the dataset is complete"
    );
}

#[test]
fn a_bad_value_is_named_when_its_row_is_read_and_not_before() {
    let replace = "replace the value, or leave the row out of the dataset";
    let widen = "the value was above 65504, the largest of float16, when it was saved: save the encoder's features as float32";
    let divide = "divide the features by a power of ten, all by the same, so that the largest is below 1e6";
    for (float, value, found, advice) in [
        ("<f2", f64::NAN, "NaN", replace),
        ("<f2", f64::INFINITY, "inf", widen),
        ("<f4", f64::NEG_INFINITY, "-inf", replace),
        ("<f8", f64::INFINITY, "inf", replace),
        ("<f8", -1e39, "-1e39", divide),
    ] {
        let mut files = good(float, "<i8");
        let mut bytes = match float {
            "<f8" => value.to_le_bytes().to_vec(),
            _ => floats(float, &[value as f32]),
        };
        let images = files.get_mut("images.npy").unwrap();
        let at = 128 + (4 * P + 3) * bytes.len();
        images[at..at + bytes.len()].swap_with_slice(&mut bytes);
        let dir = write(&files);
        let dataset = Dataset::open(dir.path()).unwrap();
        let (mut scratch, mut row) = (Vec::new(), [0.0; P]);
        for i in [0, 1, 2, 3, 5, 6] {
            assert!(!dataset.read_row(Side::Image, i, &mut scratch, &mut row).unwrap());
        }
        assert_eq!(
            message(&dir, dataset.read_row(Side::Image, 4, &mut scratch, &mut row)),
            format!("DIR/images.npy row 4 column 3: expected a finite f32 value, found {found}; {advice}")
        );
        let message = message(&dir, read_matrix_npy(&dir.path().join("images.npy")));
        assert!(message.starts_with("DIR/images.npy row 4 column 3"), "{message}");
    }
}

#[test]
fn a_file_cut_while_open_and_a_row_out_of_range_are_errors() {
    let dir = write(&good("<f4", "<i8"));
    let dataset = Dataset::open(dir.path()).unwrap();
    let (mut scratch, mut row) = (Vec::new(), [0.0; Q]);
    assert_eq!(
        message(&dir, dataset.read_row(Side::Text, M, &mut scratch, &mut row)),
        "DIR/texts.npy: expected a row below 13 for 3 values, found row 13 for 3 values; ask for a row of this array"
    );
    assert!(dataset.read_row(Side::Text, 0, &mut scratch, &mut row[1..]).is_err());
    fs::OpenOptions::new()
        .write(true)
        .open(dir.path().join("texts.npy"))
        .unwrap()
        .set_len(128 + 5 * 12)
        .unwrap();
    assert!(dataset.read_row(Side::Text, 4, &mut scratch, &mut row).is_ok());
    assert_eq!(
        message(&dir, dataset.read_row(Side::Text, 5, &mut scratch, &mut row)),
        "DIR/texts.npy row 5: expected 12 bytes at byte 188, found the end of the file; leave the file unchanged \
         while it is in use"
    );
}

#[cfg(unix)]
#[test]
fn captions_and_names_are_read_from_regular_files_alone() {
    for (name, kind) in [("captions.txt", "pipe"), ("image_names.txt", "pipe"), ("image_names.txt", "device")]
    {
        let dir = write(&good("<f4", "<i8"));
        let path = dir.path().join(name);
        match kind {
            "pipe" => {
                let fifo = rustix::fs::FileType::Fifo;
                rustix::fs::mknodat(rustix::fs::CWD, &path, fifo, 0o600.into(), 0).unwrap();
            }
            _ => std::os::unix::fs::symlink("/dev/zero", &path).unwrap(),
        }
        let dataset = Dataset::open(dir.path()).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let captions = name == "captions.txt";
            let read = if captions { dataset.caption(0) } else { dataset.image_name(0) };
            sender.send(read.map(|text| text.map(str::to_string)))
        });
        let result = receiver.recv_timeout(std::time::Duration::from_secs(120)).expect("a reader that ends");
        let expected = format!(
            "DIR/{name}: expected UTF-8 text, found a {kind}; save what it gives as a file first, and give that file"
        );
        assert_eq!(message(&dir, result), expected);
    }
}
