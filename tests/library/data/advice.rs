//! Arrays as numpy and torch save them: which are read, and that the advice for the others works if it is followed.

use super::*;
use faults::message;

/// Opens the valid dataset with one file replaced.
fn with(name: &'static str, bytes: Vec<u8>) -> wgoal::Result<Dataset> {
    let dir = write(&Files::from_iter(good("<f4", "<i8").into_iter().chain([(name, bytes)])));
    let opened = Dataset::open(dir.path());
    opened.map_err(|error| {
        let text = error.to_string().replace(&format!("{}/", dir.path().display()), "");
        wgoal::Error::new(error.kind(), text, "", "", "")
    })
}

/// The bytes of some values, big-endian if the type says so.
fn cast(dtype: &str, values: &[i64]) -> Vec<u8> {
    let little = values.iter().flat_map(|&x| match dtype.trim_start_matches(['<', '>', '=', '|']) {
        "i1" | "u1" | "b1" => vec![x as u8],
        "i2" | "u2" => (x as i16).to_le_bytes().to_vec(),
        "i4" | "u4" | "int32" => (x as i32).to_le_bytes().to_vec(),
        "i8" | "u8" | "int64" => x.to_le_bytes().to_vec(),
        "f2" => f16::from_f32(x as f32).to_le_bytes().to_vec(),
        "f4" => (x as f32).to_le_bytes().to_vec(),
        "f8" => (x as f64).to_le_bytes().to_vec(),
        _ => unreachable!("{dtype}"),
    });
    let mut bytes: Vec<u8> = little.collect();
    if dtype.starts_with('>') {
        let width = bytes.len() / values.len();
        bytes.chunks_mut(width).for_each(<[u8]>::reverse);
    }
    bytes
}

fn rows(dtype: &str, values: &[i64]) -> Vec<u8> {
    npy(dtype, &[values.len()], &cast(dtype, values))
}

#[test]
fn arrays_are_read_as_numpy_reads_them() {
    let expected = with("images.npy", npy("<f4", &[N, P], &floats("<f4", &features(N, P)))).unwrap();
    let swapped = |dtype: &str| {
        let mut bytes = floats(&dtype.replace('>', "<"), &features(N, P));
        let width = bytes.len() / (N * P);
        bytes.chunks_mut(width).for_each(<[u8]>::reverse);
        npy(dtype, &[N, P], &bytes)
    };
    let plain = |descr: &str, shape: &str| {
        let header = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}");
        npy_with(&header, &floats("<f4", &features(N, P)))
    };
    let mut second = plain("'<f4'", "(7, 5)");
    // The length field of version 2 has four bytes.
    second.splice(6..10, [2, 0, second[8], second[9], 0, 0]);
    for bytes in [
        swapped(">f2"),
        swapped(">f4"),
        swapped(">f8"),
        plain("'f4'", "(7, 5)"),
        plain("'=f4'", "(7L, 5L)"),
        plain("\"float32\"", "( 7 , 5 , )"),
        second,
    ] {
        let dataset = with("images.npy", bytes).unwrap();
        assert_eq!(read_all(&dataset, Side::Image, N), read_all(&expected, Side::Image, N));
    }
    let train = [6, 0, 3, 2];
    for dtype in ["|i1", "|u1", "<i2", ">u2", ">i4", "<u4", "int64", ">i8", "<u8"] {
        let dataset = with("split_train.npy", rows(dtype, &train)).unwrap();
        assert_eq!(dataset.split(Split::Train), expected.split(Split::Train), "{dtype}");
        assert_eq!(dataset.fingerprint(), expected.fingerprint(), "{dtype}");
        let owners = TEXT_TO_IMAGE.map(i64::from);
        assert_eq!(
            with("text_to_image.npy", rows(dtype, &owners)).unwrap().fingerprint(),
            expected.fingerprint()
        );
    }
    // A mask selects rows. It may have any type of whole numbers.
    for dtype in ["|b1", "|u1", "<i8"] {
        let dataset = with("split_train.npy", rows(dtype, &[1, 0, 1, 1, 0, 0, 1])).unwrap();
        assert_eq!(dataset.split(Split::Train).images, [0, 2, 3, 6], "{dtype}");
    }
    // With one axis, both orders are the same.
    let fortran = "{'descr': '<i8', 'fortran_order': True, 'shape': (4,), }";
    let dataset = with("split_train.npy", npy_with(fortran, &cast("<i8", &train))).unwrap();
    assert_eq!(dataset.split(Split::Train).images, [6, 0, 3, 2]);
    // bfloat16 is the upper half of an f32. Eighths are exact in it.
    let mut list = good_tensors();
    let halves = features(N, P).iter().flat_map(|x| x.to_le_bytes()[2..].to_vec()).collect::<Vec<_>>();
    list[0] = ("images", "BF16", vec![N, P], halves);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.safetensors");
    fs::write(&path, tensors(&list)).unwrap();
    let found = read_all(&Dataset::open(&path).unwrap(), Side::Image, N);
    let near = found.iter().zip(features(N, P)).all(|(a, b)| (a - b).abs() <= b.abs() / 128.0);
    assert!(near, "{found:?}");
}

/// The file and its faulty content, the whole message, and the file that results from its advice.
#[test]
fn advice_works_when_it_is_followed() {
    let images = || npy("<f4", &[N, P], &floats("<f4", &features(N, P)));
    let raw = |descr: &str, shape: &[usize], width: usize| npy(descr, shape, &vec![0; N * P * width]);
    let fields = npy_with("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (7,), }", &[0; 28]);
    let row_fields =
        npy_with("{'descr': [('row', '<i8')], 'fortran_order': False, 'shape': (4,), }", &[0; 32]);
    let train = || rows("<i8", &[6, 0, 3, 2]);
    let types = "expected floats or whole numbers, found";
    let to_float = "save the array converted, with numpy array.astype('<f4')";
    let train_type = "split_train.npy: expected whole numbers, found";
    let to_int = "save the array converted, with numpy array.astype('int64')";
    let wrong = "write the array again with row numbers, as int64";
    let cases: Vec<(&'static str, Vec<u8>, String, Vec<u8>)> = vec![
        ("images.npy", raw("<f16", &[N, P], 16), format!("images.npy: {types} '<f16'; {to_float}"), images()),
        (
            "images.npy",
            raw("<c8", &[N, P], 8),
            format!(
                "images.npy: {types} '<c8'; save numpy.abs(array), or the real part, converted with numpy's astype('<f4')"
            ),
            images(),
        ),
        (
            "images.npy",
            raw("|O", &[N], 1),
            format!(
                "images.npy: {types} '|O'; read the array with numpy.load(file, allow_pickle=True) and save \
                 numpy.stack(list(array)).astype('<f4')"
            ),
            images(),
        ),
        (
            "images.npy",
            raw("<U3", &[N, P], 12),
            format!("images.npy: {types} '<U3'; save numbers: array.astype('<f4') where the texts are numbers"),
            images(),
        ),
        (
            "images.npy",
            raw("|V2", &[N, P], 2),
            format!(
                "images.npy: {types} '|V2'; convert the features before they are saved; where these are bfloat16 values, \
                 save array.view(ml_dtypes.bfloat16).astype('<f4')"
            ),
            images(),
        ),
        (
            "images.npy",
            fields,
            format!(
                "images.npy: {types} named fields; save numpy.lib.recfunctions.structured_to_unstructured(array) converted \
                 with numpy's astype('<f4')"
            ),
            npy("<f4", &[N, 1], &[0; 28]),
        ),
        (
            "images.npy",
            raw("<f4", &[N, 1, P], 4),
            "images.npy: expected shape [rows, columns], found shape [7, 1, 5]; save array.reshape(7, 5)".into(),
            images(),
        ),
        (
            "images.npy",
            npy("<f4", &[N, 2, P], &[0; N * 2 * P * 4]),
            "images.npy: expected shape [rows, columns], found shape [7, 2, 5]; save array.mean(axis=1), or name the array \
             image_regions and add --image-pooling mean"
                .into(),
            images(),
        ),
        (
            "images.npy",
            npy("<f4", &[N, 2, 2, P], &[0; N * 4 * P * 4]),
            "images.npy: expected shape [rows, columns], found shape [7, 2, 2, 5]; save array.reshape(len(array), -1)".into(),
            npy("<f4", &[N, 4 * P], &[0; N * 4 * P * 4]),
        ),
        (
            "images.npy",
            npy("<f4", &[N], &[0; 4 * N]),
            "images.npy: expected shape [rows, columns], found shape [7]; save array.reshape(-1, 1) where each item has one \
             value, array.reshape(1, -1) where there is one item"
                .into(),
            npy("<f4", &[N, 1], &[0; 4 * N]),
        ),
        (
            "images.npy",
            b"PK\x03\x04".to_vec(),
            "images.npy: expected an .npy file, which starts with \\x93NUMPY, found \"PK\\x03\\x04\"; this is an archive, as of \
             numpy.savez or torch.save: load it and save one array with numpy.save"
                .into(),
            images(),
        ),
        ("split_train.npy", rows("<f4", &[6, 0, 3, 2]), format!("{train_type} '<f4'; {to_int}"), train()),
        ("split_train.npy", rows(">f8", &[6, 0, 3, 2]), format!("{train_type} '>f8'; {to_int}"), train()),
        (
            "split_train.npy",
            npy("<f4", &[2], &floats("<f4", &[0.0, 1.5])),
            format!("split_train.npy position 1: expected whole numbers, found 1.5 in an array of '<f4'; {wrong}"),
            train(),
        ),
        (
            "split_train.npy",
            rows("<f2", &[6, 2048]),
            format!("split_train.npy position 1: expected whole numbers, found 2048 in an array of '<f2'; {wrong}"),
            train(),
        ),
        // A mask of floats becomes one of whole numbers, which is read.
        (
            "split_train.npy",
            rows("<f4", &[1, 0, 1, 1, 0, 0, 1]),
            format!("{train_type} '<f4'; {to_int}"),
            rows("<i8", &[1, 0, 1, 1, 0, 0, 1]),
        ),
        (
            "split_train.npy",
            npy("|O", &[4], &[0; 4]),
            format!(
                "{train_type} '|O'; read the array with numpy.load(file, allow_pickle=True) and save \
                 numpy.stack(list(array)).astype('int64')"
            ),
            train(),
        ),
        (
            "split_train.npy",
            npy("<U9", &[4], &[0; 144]),
            format!("{train_type} '<U9'; write the row of every image, counted from 0, in the place of its name"),
            train(),
        ),
        (
            "split_train.npy",
            row_fields,
            format!("{train_type} named fields; save one field of it, array['row'] converted with numpy's astype('int64')"),
            train(),
        ),
        (
            "split_test.npy",
            npy("<i8", &[], &cast("<i8", &[1])),
            "split_test.npy: expected shape [rows], found shape []; save numpy.atleast_1d(array)".into(),
            rows("<i8", &[1]),
        ),
        (
            "split_train.npy",
            npy("<i8", &[4, 1], &cast("<i8", &[6, 0, 3, 2])),
            "split_train.npy: expected shape [rows], found shape [4, 1]; save array.ravel()".into(),
            train(),
        ),
        (
            "split_train.npy",
            rows("<i8", &[-1, 0, 3, 2]),
            "split_train.npy position 0: expected a value from 0 to 9223372036854775807, found -1; rows are counted from 0; if those \
             below 0 are counted from the end, save array % 7"
                .into(),
            train(),
        ),
        (
            "split_train.npy",
            rows("<i8", &[7, 1, 4, 3]),
            "split_train.npy position 0: expected an image row from 0 to 6, found 7; if the rows are counted from 1, save array \
             - 1; they must be counted from 0"
                .into(),
            train(),
        ),
        (
            "split_train.npy",
            rows("<i8", &[0, 2, 12]),
            "split_train.npy position 2: expected an image row from 0 to 6, found 12; if these are rows of texts, save \
             numpy.unique(text_to_image[array]); a split lists rows of images, counted from 0"
                .into(),
            // These texts belong to the images 3, 6 and 1. Image 1 is in the test split.
            rows("<i8", &[3, 6]),
        ),
        (
            "split_train.npy",
            rows("<i8", &[6, 0, 6]),
            "split_train.npy position 2: expected an image row not listed before, found row 6, which is at position 0 of \
             split_train.npy; list every image once: save numpy.unique(array)"
                .into(),
            rows("<i8", &[0, 6]),
        ),
        (
            "split_train.npy",
            rows("<i8", &[6, 0, 5]),
            "split_val.npy position 0: expected an image of no other split, found row 5, which is at position 2 of \
             split_train.npy; keep the splits apart, or results are worthless: for example, save \
             numpy.setdiff1d(split_train, split_val) as split_train"
                .into(),
            rows("<i8", &[0, 6]),
        ),
        (
            "split_train.npy",
            rows("|b1", &[1, 0, 1]),
            "split_train.npy: expected a mask of 7 values, one for each image, found 3 values; write a value for every image, \
             or the rows of the split's images"
                .into(),
            rows("|b1", &[1, 0, 1, 0, 0, 0, 0]),
        ),
        (
            "split_test.npy",
            rows("|b1", &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
            "split_test.npy: expected a mask of 7 values, one for each image, found 13 values; if this is a mask over the \
             texts, save numpy.unique(text_to_image[array])"
                .into(),
            rows("<i8", &[1]),
        ),
        (
            "split_test.npy",
            rows("|b1", &[0; N]),
            "split_test.npy: expected a mask that marks an image, found none marked; mark the images of the split".into(),
            rows("|b1", &[0, 1, 0, 0, 0, 0, 0]),
        ),
        (
            "text_to_image.npy",
            rows("<f8", &TEXT_TO_IMAGE.map(i64::from)),
            format!("text_to_image.npy: expected whole numbers, found '<f8'; {to_int}"),
            rows("<i8", &TEXT_TO_IMAGE.map(i64::from)),
        ),
        (
            "text_to_image.npy",
            rows("<i8", &TEXT_TO_IMAGE.map(|row| i64::from(row) + 1)),
            "text_to_image.npy position 2: expected an image row from 0 to 6, found 7; if the rows are counted from 1, save \
             array - 1; they must be counted from 0"
                .into(),
            rows("<i8", &TEXT_TO_IMAGE.map(i64::from)),
        ),
    ];
    for (name, bad, expected, good) in cases {
        let text = with(name, bad).err().unwrap_or_else(|| panic!("accepted, not {expected}")).to_string();
        assert_eq!(text.strip_suffix(": expected , found ; "), Some(&*expected));
        if let Err(error) = with(name, good) {
            panic!("followed: {expected}\n{error}");
        }
    }
}

#[test]
fn regions_may_be_padded_and_numbers_of_rows_are_told_from_offsets() {
    let (r, width) = (3, 2);
    let regions = npy("<f4", &[N, r, width], &floats("<f4", &features(N * r, width)));
    let lengths = [1, 3, 2, 1, 1, 2, 3];
    let cumulated = |lengths: &[i64]| {
        let mut end = 0;
        let ends = lengths.iter().map(|n| {
            end += n;
            end
        });
        std::iter::once(0).chain(ends).collect::<Vec<i64>>()
    };
    let open = |offsets: &[i64], regions: &[u8]| {
        let mut files = good("<f4", "<i8");
        files.insert("image_regions.npy", regions.to_vec());
        files.insert("region_offsets.npy", rows("<i8", offsets));
        let dir = write(&files);
        (Dataset::open(dir.path()), dir)
    };
    let dataset = open(&cumulated(&lengths), &regions).0.unwrap();
    for (item, &length) in lengths.iter().enumerate() {
        assert_eq!(dataset.local_rows(Side::Image, item), item * r..item * r + length as usize);
    }
    assert_eq!(dataset.local_len(Side::Image), Some(3));
    let other = open(&cumulated(&[1, 3, 2, 1, 2, 1, 3]), &regions).0.unwrap();
    assert_ne!(dataset.fingerprint(), other.fingerprint());

    let fault = |offsets: &[i64], regions: &[u8]| {
        let (result, dir) = open(offsets, regions);
        message(&dir, result)
    };
    let cumulate = "if these are the numbers of rows of the items, save numpy.r_[0, numpy.cumsum(array)]";
    let items = "DIR/region_offsets.npy: expected 8 values, one for each item of DIR/image_regions.npy and one more, found";
    assert_eq!(fault(&lengths, &regions), format!("{items} 7; {cumulate}"));
    let write = "write where the rows of every item start, and after the last item their number";
    assert_eq!(fault(&[0, 1, 2], &regions), format!("{items} 3; {write}"));
    assert_eq!(
        fault(&cumulated(&[1, 4, 1, 1, 1, 1, 1]), &regions),
        format!(
            "DIR/region_offsets.npy position 2: expected at most 4, the 3 rows of item 1, found 5; {write}"
        )
    );
    assert_eq!(
        fault(&cumulated(&[1, 0, 1, 1, 1, 1, 1]), &regions),
        "DIR/region_offsets.npy position 2: expected more than 1, a row at least for item 1, found 1; give item 1 a row, or \
         leave it out of the dataset; offsets must rise"
    );
    // The rows are concatenated, and the file of offsets holds the numbers of rows.
    let total = lengths.iter().sum::<i64>() as usize;
    let ragged = npy("<f4", &[total, width], &floats("<f4", &features(total, width)));
    assert_eq!(
        fault(&lengths, &ragged),
        format!(
            "DIR/region_offsets.npy position 0: expected 0, where the first item starts, found 1; {cumulate}"
        )
    );
    assert!(open(&cumulated(&lengths), &ragged).0.is_ok());
}

/// A command does not read what it does not need.
#[test]
fn only_the_splits_named_are_read() {
    let mut files = good("<f4", "<i8");
    files.insert("split_train.npy", b"no array".to_vec());
    files.insert("captions.txt", b"one line\n".to_vec());
    let dir = write(&files);
    let dataset = Dataset::open_for(dir.path(), &[Split::Test]).unwrap();
    assert_eq!((dataset.split(Split::Test).images.len(), dataset.split(Split::Train).images.len()), (1, 0));
    assert!(message(&dir, dataset.caption(0)).starts_with("DIR/captions.txt: expected 13 lines"));
    assert!(message(&dir, Dataset::open(dir.path())).starts_with("DIR/split_train.npy"));
}
