//! Tests datasets: which open and what is read. The modules test what is refused and what batches hold.

mod advice;
mod batches;
#[cfg(feature = "parquet")]
mod columns;
mod divide;
mod faults;
mod formats;
mod local;
mod shards;
mod summary;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use half::f16;
use tempfile::TempDir;
use wgoal::data::{Dataset, Side, Split, read_ids_npy, read_matrix_npy, write_matrix_npy};

const N: usize = 7;
const P: usize = 5;
const M: usize = 13;
const Q: usize = 3;
const TEXT_TO_IMAGE: [u32; M] = [3, 0, 6, 1, 2, 5, 4, 3, 0, 0, 6, 2, 1];
const SPLITS: [(&str, &[u32]); 3] =
    [("split_train.npy", &[6, 0, 3, 2]), ("split_val.npy", &[5]), ("split_test.npy", &[1])];

/// The files of a folder by name.
type Files = BTreeMap<&'static str, Vec<u8>>;

fn npy_with(header: &str, data: &[u8]) -> Vec<u8> {
    let text = format!("{header:<117}\n");
    let length = (text.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\x00", &length[..], text.as_bytes(), data].concat()
}

fn npy(dtype: &str, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let shape: String = shape.iter().map(|n| format!("{n}, ")).collect();
    npy_with(&format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({shape}), }}"), data)
}

/// Eighths, which are exact in every float type. No row is all zero.
fn features(rows: usize, cols: usize) -> Vec<f32> {
    (0..rows * cols).map(|i| ((i * 37 + 11) % 101) as f32 / 8.0 - 3.0).collect()
}

fn floats(dtype: &str, values: &[f32]) -> Vec<u8> {
    match dtype {
        "<f2" => values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        "<f4" => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        "<f8" => values.iter().flat_map(|&x| f64::from(x).to_le_bytes()).collect(),
        _ => unreachable!("{dtype}"),
    }
}

fn integers(dtype: &str, values: &[u32]) -> Vec<u8> {
    match dtype {
        "<i8" => values.iter().flat_map(|&x| i64::from(x).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

fn ids(dtype: &str, values: &[u32]) -> Vec<u8> {
    npy(dtype, &[values.len()], &integers(dtype, values))
}

fn good(float: &str, integer: &str) -> Files {
    let mut files: Files = SPLITS.iter().map(|(name, rows)| (*name, ids(integer, rows))).collect();
    files.insert("images.npy", npy(float, &[N, P], &floats(float, &features(N, P))));
    files.insert("texts.npy", npy(float, &[M, Q], &floats(float, &features(M, Q))));
    files.insert("text_to_image.npy", ids(integer, &TEXT_TO_IMAGE));
    files
}

fn write(files: &Files) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, bytes)| fs::write(dir.path().join(name), bytes).unwrap());
    dir
}

/// A safetensors file of (name, type, shape, data).
fn tensors(list: &[(&str, &str, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for (name, dtype, shape, bytes) in list {
        let offsets = [data.len(), data.len() + bytes.len()];
        entries
            .push(format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":{offsets:?}}}"#));
        data.extend(bytes);
    }
    let header = format!("{{{}}}", entries.join(","));
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

fn good_tensors() -> Vec<(&'static str, &'static str, Vec<usize>, Vec<u8>)> {
    let mut list = vec![
        ("images", "F16", vec![N, P], floats("<f2", &features(N, P))),
        ("texts", "F16", vec![M, Q], floats("<f2", &features(M, Q))),
        ("text_to_image", "I64", vec![M], integers("<i8", &TEXT_TO_IMAGE)),
    ];
    for (name, rows) in SPLITS {
        list.push((name.trim_end_matches(".npy"), "I64", vec![rows.len()], integers("<i8", rows)));
    }
    list
}

fn read_all(dataset: &Dataset, side: Side, rows: usize) -> Vec<f32> {
    let (mut scratch, mut row, mut all) = (Vec::new(), vec![0.0; dataset.dim(side)], Vec::new());
    for i in 0..rows {
        assert!(!dataset.read_row(side, i, &mut scratch, &mut row).unwrap());
        all.extend_from_slice(&row);
    }
    all
}

#[test]
fn every_type_opens_and_reads_the_same_values() {
    let mut fingerprints = Vec::new();
    for float in ["<f2", "<f4", "<f8"] {
        for integer in ["<i4", "<i8", "<u4"] {
            let dir = write(&good(float, integer));
            let dataset = Dataset::open(dir.path()).unwrap();
            assert_eq!((dataset.images(), dataset.image_dim()), (N, P));
            assert_eq!((dataset.texts(), dataset.text_dim()), (M, Q));
            assert_eq!(read_all(&dataset, Side::Image, N), features(N, P), "{float}");
            assert_eq!(read_all(&dataset, Side::Text, M), features(M, Q), "{float}");
            let train = dataset.split(Split::Train);
            assert_eq!(train.images, [6, 0, 3, 2]);
            assert_eq!(train.texts, [0, 1, 2, 4, 7, 8, 9, 10, 11]);
            assert_eq!(train.text_image, [2, 1, 0, 3, 2, 1, 1, 0, 3]);
            assert_eq!(
                [Split::Val, Split::Test].map(|split| dataset.split(split).texts.to_vec()),
                [vec![5], vec![3, 12]]
            );
            assert_eq!((dataset.caption(0).unwrap(), dataset.image_name(0).unwrap()), (None, None));
            fingerprints.push(dataset.fingerprint());
        }
    }
    assert!(fingerprints.chunks(3).all(|same| same == [same[0]; 3]), "integer types do not matter");
    fingerprints.dedup();
    assert_eq!(fingerprints.len(), 3, "float types do");
}

#[test]
fn the_fingerprint_is_pinned_and_follows_rows_but_not_values() {
    let fingerprint = |files: &Files| Dataset::open(write(files).path()).unwrap().fingerprint();
    let base = good("<f2", "<i8");
    let original = fingerprint(&base);
    assert_eq!(original, 7319809038187490626, "resumed runs rely on this number");
    let with = |name, bytes| fingerprint(&Files::from_iter(base.clone().into_iter().chain([(name, bytes)])));
    assert_eq!(with("images.npy", npy("<f2", &[N, P], &[0; N * P * 2])), original);
    assert_ne!(with("images.npy", npy("<f2", &[N, P + 1], &[0; N * (P + 1) * 2])), original);
    assert_ne!(with("split_train.npy", ids("<i8", &[0, 6, 3, 2])), original);
    let mut other = TEXT_TO_IMAGE;
    other.swap(0, 1);
    assert_ne!(with("text_to_image.npy", ids("<i8", &other)), original);
}

#[test]
fn a_safetensors_file_equals_the_folder() {
    let dir = write(&good("<f2", "<i8"));
    let file = dir.path().join("all.safetensors");
    let mut list = good_tensors();
    list.insert(2, ("something_else", "U8", vec![3], vec![1, 2, 3]));
    fs::write(&file, tensors(&list)).unwrap();
    let (folder, file) = (Dataset::open(dir.path()).unwrap(), Dataset::open(&file).unwrap());
    assert_eq!(file.name(), "all.safetensors");
    assert_eq!(file.fingerprint(), folder.fingerprint());
    for split in Split::ALL {
        assert_eq!(file.split(split), folder.split(split));
    }
    assert_eq!(read_all(&file, Side::Image, N), read_all(&folder, Side::Image, N));
    assert_eq!(read_all(&file, Side::Text, M), read_all(&folder, Side::Text, M));
}

#[test]
fn clipart_mini_opens_as_its_readme_states() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/clipart-mini");
    let dataset = Dataset::open(&path).unwrap();
    assert_eq!(dataset.name(), "clipart-mini");
    assert_eq!((dataset.images(), dataset.image_dim()), (1400, 1280));
    assert_eq!((dataset.texts(), dataset.text_dim()), (2719, 384));
    assert_eq!(Split::ALL.map(|split| dataset.split(split).images.len()), [950, 150, 300]);
    assert_eq!(Split::ALL.map(|split| dataset.split(split).texts.len()).iter().sum::<usize>(), 2719);
    assert_eq!(dataset.split(Split::Test).texts.len(), 552);
    let lines =
        |name| fs::read_to_string(path.join(name)).unwrap().lines().map(String::from).collect::<Vec<_>>();
    assert_eq!(dataset.caption(2718).unwrap(), Some(&lines("captions.txt")[2718][..]));
    assert_eq!(dataset.image_name(7).unwrap(), Some(&lines("image_names.txt")[7][..]));
    assert_eq!((dataset.caption(2719).unwrap(), dataset.image_name(1400).unwrap()), (None, None));
    for text in read_all(&dataset, Side::Text, 2719).chunks(384) {
        let length: f32 = text.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!((length - 1.0).abs() < 2e-3, "{length}");
    }
}

#[test]
fn matrices_are_written_whole_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("z.npy");
    write_matrix_npy(&path, 1, 2, &[1.0, 2.0]).unwrap();
    write_matrix_npy(&path, N, P, &features(N, P)).unwrap();
    assert_eq!(read_matrix_npy(&path).unwrap(), (N, P, features(N, P)));
    let bytes = fs::read(&path).unwrap();
    assert_eq!(
        bytes,
        npy_with(
            "{'descr': '<f4', 'fortran_order': False, 'shape': (7, 5), }",
            &floats("<f4", &features(N, P))
        )
    );
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "no temporary file is left");
    #[cfg(unix)]
    {
        let mode =
            |path: &Path| std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions());
        fs::write(dir.path().join("plain"), "").unwrap();
        assert_eq!(mode(&path), mode(&dir.path().join("plain")));
    }

    let message = write_matrix_npy(&path, 2, 2, &[1.0]).unwrap_err().to_string();
    assert!(
        message.ends_with("z.npy: expected 2 x 2 values, found 1; give the shape of the values"),
        "{message}"
    );
    assert!(write_matrix_npy(&dir.path().join("no/z.npy"), 1, 1, &[1.0]).is_err());
    fs::write(dir.path().join("ids.npy"), ids("<i4", &[4, 0, 9])).unwrap();
    assert_eq!(read_ids_npy(&dir.path().join("ids.npy")).unwrap(), [4, 0, 9]);
    assert_eq!(fs::read(&path).unwrap(), bytes, "a failed write leaves the file as it was");
}

#[test]
fn splits_have_names() {
    for split in Split::ALL {
        assert_eq!(split.to_string().parse::<Split>().unwrap(), split);
    }
    let message = "tset".parse::<Split>().unwrap_err().to_string();
    assert_eq!(message, "split: expected train, val or test, found 'tset'; name one of the three");
}
