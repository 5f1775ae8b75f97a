//! Columns of Parquet and Arrow files: they open equal to plain arrays.

use super::*;
use arrow_array::types::{Float16Type, Float32Type, Float64Type};
use arrow_array::{
    ArrayRef, ArrowPrimitiveType, FixedSizeListArray, Int64Array, LargeListArray, ListArray, RecordBatch,
    StringArray,
};
use arrow_ipc::writer::{FileWriter, StreamWriter};
use faults::message;
use parquet::arrow::ArrowWriter;
use std::sync::Arc;

/// Lists of `width` values.
fn rows<T: ArrowPrimitiveType>(values: &[T::Native], width: usize) -> Vec<Option<Vec<Option<T::Native>>>> {
    values.chunks(width).map(|row| Some(row.iter().copied().map(Some).collect())).collect()
}

fn fixed<T: ArrowPrimitiveType>(values: &[T::Native], width: usize) -> ArrayRef {
    Arc::new(FixedSizeListArray::from_iter_primitive::<T, _, _>(rows::<T>(values, width), width as i32))
}

fn batch(columns: &[(&str, ArrayRef)]) -> RecordBatch {
    RecordBatch::try_from_iter(columns.iter().cloned()).unwrap()
}

fn parquet(columns: &[(&str, ArrayRef)]) -> Vec<u8> {
    let batch = batch(columns);
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

/// An Arrow file, or a stream, with one batch for every two rows.
fn arrow(columns: &[(&str, ArrayRef)], stream: bool) -> Vec<u8> {
    let batch = batch(columns);
    let mut bytes = Vec::new();
    let parts = (0..batch.num_rows()).step_by(2).map(|at| batch.slice(at, 2.min(batch.num_rows() - at)));
    if stream {
        let mut writer = StreamWriter::try_new(&mut bytes, &batch.schema()).unwrap();
        parts.for_each(|part| writer.write(&part).unwrap());
        writer.finish().unwrap();
    } else {
        let mut writer = FileWriter::try_new(&mut bytes, &batch.schema()).unwrap();
        parts.for_each(|part| writer.write(&part).unwrap());
        writer.finish().unwrap();
    }
    bytes
}

fn texts() -> (&'static str, ArrayRef) {
    ("caption", Arc::new(StringArray::from_iter_values((0..M).map(|k| format!("caption {k}")))))
}

/// The good dataset with `images.EXTENSION` in the place of `images.npy`.
fn with_images(extension: &str, bytes: Vec<u8>) -> (wgoal::Result<Dataset>, TempDir) {
    let mut files = good("<f4", "<i8");
    files.remove("images.npy");
    let dir = write(&files);
    fs::write(dir.path().join(format!("images.{extension}")), bytes).unwrap();
    (Dataset::open(dir.path()), dir)
}

#[test]
fn a_column_of_lists_is_an_array() {
    let images = features(N, P);
    let expected = Dataset::open(write(&good("<f4", "<i8")).path()).unwrap();
    let list = |large: bool| -> ArrayRef {
        match large {
            true => Arc::new(LargeListArray::from_iter_primitive::<Float32Type, _, _>(rows::<Float32Type>(
                &images, P,
            ))),
            false => {
                Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(rows::<Float32Type>(&images, P)))
            }
        }
    };
    let id: ArrayRef = Arc::new(Int64Array::from_iter_values(0..N as i64));
    for column in [fixed::<Float32Type>(&images, P), list(false), list(true)] {
        for name in ["images", "embedding", "any"] {
            let columns = [("id", id.clone()), (name, column.clone())];
            for (extension, bytes) in [
                ("parquet", parquet(&columns)),
                ("arrow", arrow(&columns, false)),
                ("arrow", arrow(&columns, true)),
                ("feather", arrow(&columns, false)),
            ] {
                let dataset = with_images(extension, bytes).0.unwrap();
                assert_eq!(read_all(&dataset, Side::Image, N), images, "{name} in {extension}");
                assert_eq!(dataset.fingerprint(), expected.fingerprint());
                assert_eq!(dataset.sample_hash().unwrap(), expected.sample_hash().unwrap());
            }
        }
    }
    let halves: Vec<f16> = images.iter().map(|&x| f16::from_f32(x)).collect();
    let doubles: Vec<f64> = images.iter().map(|&x| x.into()).collect();
    for (column, dtype) in
        [(fixed::<Float16Type>(&halves, P), "<f2"), (fixed::<Float64Type>(&doubles, P), "<f8")]
    {
        let mut files = good("<f4", "<i8");
        files.insert("images.npy", npy(dtype, &[N, P], &floats(dtype, &images)));
        let expected = Dataset::open(write(&files).path()).unwrap();
        let dataset = with_images("parquet", parquet(&[("images", column)])).0.unwrap();
        assert_eq!(dataset.fingerprint(), expected.fingerprint(), "{dtype}");
        assert_eq!(dataset.sample_hash().unwrap(), expected.sample_hash().unwrap(), "{dtype}");
    }
}

#[test]
fn numbered_files_of_columns_and_row_numbers_are_read() {
    let mut files = good("<f4", "<i8");
    let expected = Dataset::open(write(&files).path()).unwrap();
    files.remove("images.npy");
    files.remove("text_to_image.npy");
    let dir = write(&files);
    let images = features(N, P);
    for (k, rows) in [(0, 0..3), (1, 3..N)] {
        let column = fixed::<Float32Type>(&images[rows.start * P..rows.end * P], P);
        fs::write(dir.path().join(format!("images_{k}.parquet")), parquet(&[("emb", column)])).unwrap();
    }
    let owners: ArrayRef = Arc::new(Int64Array::from_iter_values(TEXT_TO_IMAGE.map(i64::from)));
    fs::write(dir.path().join("text_to_image.parquet"), parquet(&[("row", owners)])).unwrap();
    let dataset = Dataset::open(dir.path()).unwrap();
    assert_eq!(read_all(&dataset, Side::Image, N), images);
    assert_eq!(dataset.fingerprint(), expected.fingerprint());
    let paths = Dataset::paths(dir.path());
    for name in ["images_1.parquet", "text_to_image.parquet"] {
        assert!(paths.contains(&dir.path().join(name)));
    }
}

#[test]
fn one_file_holds_pairs_with_captions_names_and_splits() {
    let (images, captions) = (features(M, P), texts());
    let names: ArrayRef = Arc::new(StringArray::from_iter_values((0..M).map(|k| format!("{k}.jpg"))));
    let splits: ArrayRef =
        Arc::new(StringArray::from_iter_values((0..M).map(|k| ["train", "validation", "test"][k.min(2)])));
    let dir = tempfile::tempdir().unwrap();
    for extension in ["parquet", "arrow", "feather"] {
        let columns = [
            ("image_path", names.clone()),
            captions.clone(),
            ("split", splits.clone()),
            ("image_embedding", fixed::<Float32Type>(&images, P)),
            ("text_embedding", fixed::<Float32Type>(&features(M, Q), Q)),
        ];
        let path = dir.path().join(format!("d.{extension}"));
        let bytes =
            if extension == "parquet" { parquet(&columns) } else { arrow(&columns, extension == "arrow") };
        fs::write(&path, bytes).unwrap();
        let dataset = Dataset::open(&path).unwrap();
        assert_eq!(read_all(&dataset, Side::Image, M), images);
        assert_eq!(read_all(&dataset, Side::Text, M), features(M, Q));
        assert_eq!(dataset.split(Split::Val).texts, [1]);
        assert_eq!(dataset.split(Split::Test).text_image, (0..M as u64 - 2).collect::<Vec<_>>());
        assert_eq!(dataset.caption(12).unwrap(), Some("caption 12"));
        assert_eq!(dataset.image_name(3).unwrap(), Some("3.jpg"));
    }
}

#[test]
fn metadata_of_clip_retrieval_gives_captions_and_names() {
    let dir = tempfile::tempdir().unwrap();
    for (name, rows) in SPLITS {
        fs::write(dir.path().join(name), ids("<i8", rows)).unwrap();
    }
    for inner in ["img_emb", "text_emb", "metadata"] {
        fs::create_dir(dir.path().join(inner)).unwrap();
    }
    for (k, rows) in [(2, 0..3), (10, 3..N)] {
        let part = |cols: usize| {
            let values = features(N, cols);
            npy("<f4", &[rows.len(), cols], &floats("<f4", &values[rows.start * cols..rows.end * cols]))
        };
        fs::write(dir.path().join(format!("img_emb/img_emb_{k}.npy")), part(P)).unwrap();
        fs::write(dir.path().join(format!("text_emb/text_emb_{k}.npy")), part(Q)).unwrap();
        let words = |ending: &str| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(rows.clone().map(|row| format!("{row}{ending}"))))
        };
        let metadata = parquet(&[("image_path", words(".jpg")), ("caption", words(" words"))]);
        fs::write(dir.path().join(format!("metadata/metadata_{k}.parquet")), metadata).unwrap();
    }
    let dataset = Dataset::open(dir.path()).unwrap();
    assert_eq!(
        (0..N).map(|k| dataset.caption(k).unwrap().unwrap().to_string()).collect::<Vec<_>>()[6],
        "6 words"
    );
    assert_eq!(dataset.image_name(2).unwrap(), Some("2.jpg"));
    assert!(Dataset::paths(dir.path()).contains(&dir.path().join("metadata/metadata_10.parquet")));
}

#[test]
fn unfit_columns_are_refused_with_their_own_messages() {
    let images = features(N, P);
    let refused = |columns: &[(&str, ArrayRef)]| {
        let (result, dir) = with_images("parquet", parquet(columns));
        message(&dir, result)
    };
    let place = "DIR/images.parquet";
    let two = [("a", fixed::<Float32Type>(&images, P)), ("b", fixed::<Float32Type>(&images, P))];
    let keep = "name the column of image features images, that of text features texts; in a file of one array, keep one of \
                them";
    assert_eq!(
        refused(&two),
        format!("{place}: expected a column of features named images, found columns a, b; {keep}")
    );
    let words: ArrayRef = Arc::new(StringArray::from_iter_values(["w"; N]));
    assert_eq!(
        refused(&[("words", words.clone()), ("more", words)]),
        format!(
            "{place}: expected a column of features named images, found no column of lists of numbers, only words, more; \
             {keep}"
        )
    );
    let list = |change: &dyn Fn(&mut Vec<Option<Vec<Option<f32>>>>)| -> ArrayRef {
        let mut rows = rows::<Float32Type>(&images, P);
        change(&mut rows);
        Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(rows))
    };
    let null = "leave the row out of the dataset, or give it a value";
    let row = |row: usize| format!("{place} column images row {row}");
    assert_eq!(
        refused(&[("images", list(&|rows| rows[4] = None))]),
        format!("{}: expected a value, found null; {null}", row(4))
    );
    assert_eq!(
        refused(&[("images", list(&|rows| rows[5].as_mut().unwrap()[2] = None))]),
        format!("{}: expected a value, found null; {null}", row(5))
    );
    assert_eq!(
        refused(&[("images", list(&|rows| rows[3].as_mut().unwrap().truncate(4)))]),
        format!(
            "{}: expected 5 values, as in the rows before, found 4 values; write rows with equally many values of the same \
             type",
            row(3)
        )
    );
    let (result, dir) = with_images("feather", b"FEA1 and more".to_vec());
    assert_eq!(
        message(&dir, result),
        "DIR/images.feather: expected an Arrow file, found Feather version 1; write it again as version 2, for example with \
         pandas.DataFrame.to_feather"
    );
}

/// Damaged files are errors or read as something, but never end the process.
#[test]
fn damaged_files_are_errors() {
    let columns = [("images", fixed::<Float32Type>(&features(N, P), P))];
    let (mut refused, mut tried) = (0, 0);
    for (extension, whole) in
        [("parquet", parquet(&columns)), ("arrow", arrow(&columns, false)), ("arrow", arrow(&columns, true))]
    {
        for at in (0..whole.len()).step_by(11) {
            let cut = whole[..at].to_vec();
            let mut changed = whole.clone();
            changed[at] ^= 0xff;
            for bytes in [cut, changed] {
                tried += 1;
                let (result, dir) = with_images(extension, bytes);
                if let Err(error) = result {
                    refused += 1;
                    let text = error.to_string();
                    assert!(text.starts_with(&dir.path().display().to_string()), "{text}");
                    assert!(!text.contains('\n'), "{text}");
                }
            }
        }
    }
    assert!(refused > tried / 2, "{refused} of {tried}");
}
