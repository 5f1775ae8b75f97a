//! `wgoal embed`: one side or both, and the row numbers beside the embeddings.

use super::place::*;
use std::fs;

/// The shape and values of an .npy file of row numbers. torch takes int64 as an index.
pub fn ids(place: &Place, name: &str) -> Vec<i64> {
    let bytes = place.read(name);
    let npy = npyz::NpyFile::new(&bytes[..]).unwrap();
    assert_eq!(npy.dtype().descr(), "'<i8'", "{name}");
    npy.into_vec().unwrap()
}

/// The rows of an .npy file of embeddings.
pub fn vectors(place: &Place, name: &str) -> Vec<Vec<f32>> {
    let bytes = place.read(name);
    let npy = npyz::NpyFile::new(&bytes[..]).unwrap();
    let width = npy.shape()[1] as usize;
    npy.into_vec::<f32>().unwrap().chunks(width).map(<[f32]>::to_vec).collect()
}

/// A dataset whose captions and test images are in no order: the captions of an image are far apart.
pub fn shuffle(place: &Place) -> Vec<u32> {
    let truth: Vec<u32> = (0..2 * IMAGES).map(|text| (text * 7 + 3) % IMAGES).collect();
    let [_, texts] = features();
    let own = |image: u32, k: u32| (2 * image + k) as usize * DIMS[1];
    let mut seen = vec![0; IMAGES as usize];
    let rows = truth.iter().flat_map(|&image| {
        let at = own(image, seen[image as usize]);
        seen[image as usize] += 1;
        texts[at..at + DIMS[1]].to_vec()
    });
    let rows: Vec<f32> = rows.collect();
    write_npy(&place.path("data/texts.npy"), &[2 * u64::from(IMAGES), DIMS[1] as u64], &rows);
    write_npy(&place.path("data/text_to_image.npy"), &[truth.len() as u64], &truth);
    write_npy(&place.path("data/split_test.npy"), &[8], &[39u32, 33, 36, 32, 38, 34, 37, 35]);
    truth
}

#[test]
fn row_numbers_say_what_each_embedding_is() {
    let place = Place::new();
    let truth = shuffle(&place);
    place.train("run", "");
    let recall = place.json("eval run data --device cpu --json");
    for format in ["npy", "fvecs", "fbin"] {
        let out = format!("v-{format}");
        place.ok(&format!("embed run data --split test --device cpu --format {format} --out {out}"));
        let id = |name: &str| ids(&place, &format!("{out}/{name}.npy"));
        let (images, texts, owner) = (id("image_rows"), id("text_rows"), id("text_to_image"));
        assert_eq!(images, [39, 33, 36, 32, 38, 34, 37, 35], "the order of the split");
        assert!(texts.is_sorted() && texts.len() == 16, "{texts:?}");
        for (text, &owner) in texts.iter().zip(&owner) {
            assert_eq!(images[owner as usize], i64::from(truth[*text as usize]));
        }
    }
    // Recall computed from the files is that of eval.
    let [images, texts] = ["images", "texts"].map(|name| vectors(&place, &format!("v-npy/{name}.npy")));
    let owner = ids(&place, "v-npy/text_to_image.npy");
    let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let best = |text: &Vec<f32>| {
        let scores: Vec<f32> = images.iter().map(|image| cosine(text, image)).collect();
        (0..images.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap() as i64
    };
    let right = texts.iter().zip(&owner).filter(|(text, owner)| best(text) == **owner).count();
    assert_eq!(100.0 * right as f64 / texts.len() as f64, recall["t2i"]["r1"].as_f64().unwrap());

    place.ok("embed run data --split test --device cpu --format safetensors --out s");
    let (tensors, _) = read_tensors(&place.read("s/embeddings.safetensors"));
    let names: Vec<&str> = tensors.keys().map(String::as_str).collect();
    assert_eq!(names, ["image_rows", "images", "text_rows", "text_to_image", "texts"]);
    let owner: Vec<u32> = owner.iter().map(|&row| row as u32).collect();
    assert_eq!(rows(&tensors["text_to_image"]), owner);

    // All rows, in the order of the dataset, without a word about splits.
    place.ok("embed run data --device cpu --out all");
    assert_eq!(ids(&place, "all/image_rows.npy"), (0..i64::from(IMAGES)).collect::<Vec<_>>());
    assert_eq!(
        ids(&place, "all/text_to_image.npy"),
        truth.iter().map(|&row| row.into()).collect::<Vec<i64>>()
    );
    assert_eq!(vectors(&place, "all/images.npy")[39], images[0]);
}

#[test]
fn one_side_is_enough() {
    let place = Place::new();
    place.train("run", "");
    place.ok("embed run data --device cpu --out both");
    for (side, other) in [("image", "text"), ("text", "image")] {
        let folder = place.path(&format!("{side}s-alone"));
        fs::create_dir(&folder).unwrap();
        fs::copy(place.path(&format!("data/{side}s.npy")), folder.join(format!("{side}s.npy"))).unwrap();
        let alone = format!("{side}s-alone");
        for (dataset, options) in
            [(alone.as_str(), ""), ("data", "--side SIDE"), (&alone, "--side SIDE --split all")]
        {
            let out = format!("{side}-{}", options.len() + dataset.len());
            let options = options.replace("SIDE", side);
            place.ok(&format!("embed run {dataset} {options} --device cpu --out {out}"));
            assert_eq!(place.names(&out), [format!("{side}_rows.npy"), format!("{side}s.npy")]);
            assert!(place.read(&format!("{out}/{side}s.npy")) == place.read(&format!("both/{side}s.npy")));
        }
        // What is missing is named if it is asked for.
        let output = place.run(&format!("embed run {alone} --side {other} --device cpu --out new"));
        assert!(
            output.code == 1 && output.stderr.contains(&format!("{alone}/{other}s.npy")),
            "{}",
            output.stderr
        );
    }
    // Without split files, images alone are not divided. Images with captions are, whichever side is embedded.
    let output = place.run("embed run images-alone --split test --device cpu --out test");
    let message = "error: images-alone/split_test.npy: expected the image rows of this split, because images alone are \
                   not divided, found none; give --split all, or write split_test\n";
    assert_eq!((output.code, output.stderr.as_str()), (1, message));
    write_dataset(&place.path("divided"));
    for name in ["train", "val", "test"] {
        fs::remove_file(place.path(&format!("divided/split_{name}.npy"))).unwrap();
    }
    place.ok("split divided --out parts");
    place.ok("embed run divided --side image --split test --device cpu --out one-side");
    assert_eq!(place.names("one-side"), ["image_rows.npy", "images.npy"]);
    assert_eq!(ids(&place, "one-side/image_rows.npy"), ids(&place, "parts/split_test.npy"));
    // Images have splits without captions, texts alone have none.
    fs::copy(place.path("data/split_test.npy"), place.path("images-alone/split_test.npy")).unwrap();
    let output = place.run("embed run images-alone --split test --device cpu --out test");
    assert_eq!((output.code, output.stderr.contains("caption")), (0, false), "{}", output.stderr);
    assert_eq!(ids(&place, "test/image_rows.npy"), (32..40).collect::<Vec<_>>());
    place.ok("embed run data --side text --split test --device cpu --out texts");
    assert_eq!(ids(&place, "texts/text_rows.npy"), (64..80).collect::<Vec<_>>());
    // A safetensors file, and both sides without a word on which text is of which image.
    place.ok("embed run images-alone --device cpu --format safetensors --out f");
    let (tensors, _) = read_tensors(&place.read("f/embeddings.safetensors"));
    assert_eq!(tensors.keys().collect::<Vec<_>>(), ["image_rows", "images"]);
    fs::remove_file(place.path("data/text_to_image.npy")).unwrap();
    place.ok("embed run data --device cpu --out unpaired");
    assert_eq!(place.names("unpaired"), ["image_rows.npy", "images.npy", "text_rows.npy", "texts.npy"]);
}

#[test]
fn row_numbers_stay_with_their_embeddings() {
    let place = Place::new();
    place.train("run", "");
    let embed = |options: &str| place.run(&format!("embed run data --device cpu {options}"));
    assert_eq!(embed("--split test --out v").code, 0);
    let before = place.listing();
    // The row numbers of other rows would not fit the files that stay.
    let output = embed("--split val --format fbin --out v");
    let message = "error: --out: expected the same rows as in its image_rows.npy, because other embeddings are there, \
                   found v/images.npy of other rows; choose another --out\n";
    assert!(output.code == 1 && output.stderr.ends_with(message), "{}", output.stderr);
    assert!(place.listing() == before);
    // The same rows, in other formats or again, and other rows that replace all files.
    for options in
        ["--split test --format fbin --out v", "--split test --out v", "--split test --side text --out v"]
    {
        assert_eq!(embed(options).code, 0, "{options}");
    }
    assert_eq!(embed("--split test --out w").code, 0);
    assert_eq!(embed("--split val --out w").code, 0);
    // A folder that has features, of any dataset, is no place for embeddings of any format.
    fs::create_dir(place.path("features")).unwrap();
    fs::copy(place.path("data/text_to_image.npy"), place.path("features/text_to_image.npy")).unwrap();
    let output = embed("--split test --format fvecs --out features");
    assert!(output.code == 1 && output.stderr.contains("overwritten"), "{}", output.stderr);
}

/// Embeddings as a column of fixed-size lists, beside their rows and texts. wgoal reads the files as a dataset.
#[cfg(feature = "parquet")]
#[test]
fn parquet_and_arrow_files_hold_rows_embeddings_and_texts() {
    use arrow_array::RecordBatch;
    use arrow_array::cast::AsArray;
    use arrow_array::types::{Float32Type, Int64Type};
    use wgoal::data::Side;
    let place = Place::new();
    shuffle(&place);
    let captions: Vec<String> = (0..2 * IMAGES).map(|text| format!("caption {text}, ü")).collect();
    fs::write(place.path("data/captions.txt"), captions.join("\n")).unwrap();
    place.train("run", "");
    place.ok("embed run data --split test --device cpu --out v");
    let batches = |format: &str, name: &str| -> Vec<RecordBatch> {
        let file = fs::File::open(place.path(&format!("{format}/{name}.{format}"))).unwrap();
        match format {
            "arrow" => {
                let reader = arrow_ipc::reader::FileReader::try_new(file, None).unwrap();
                reader.map(|batch| batch.unwrap()).collect()
            }
            _ => {
                let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(file, 1 << 20);
                reader.unwrap().map(|batch| batch.unwrap()).collect()
            }
        }
    };
    for format in ["parquet", "arrow"] {
        let output =
            place.run(&format!("embed run data --split test --device cpu --format {format} --out {format}"));
        assert_eq!(output.code, 0, "{}", output.stderr);
        let names = ["image_rows.npy", "images", "text_rows.npy", "text_to_image.npy", "texts"];
        let names =
            names.map(|name| if name.contains('.') { name.into() } else { format!("{name}.{format}") });
        assert_eq!(place.names(format), names);
        let dataset = wgoal::Dataset::open_sides(place.path(format), None, &[]).unwrap();
        for (side, columns) in [(Side::Image, 2), (Side::Text, 4)] {
            let name = if side == Side::Image { "image" } else { "text" };
            let batches = batches(format, &format!("{name}s"));
            assert_eq!((batches.len(), batches[0].num_columns()), (1, columns), "{format}");
            let column = |name: &str| batches[0].column_by_name(name).unwrap();
            let numbers = |name: &str| column(name).as_primitive::<Int64Type>().values().to_vec();
            assert_eq!(numbers(&format!("{name}_row")), ids(&place, &format!("v/{name}_rows.npy")));
            let lists = column("embedding").as_fixed_size_list();
            let values = lists.values().as_primitive::<Float32Type>().values().to_vec();
            assert_eq!(lists.value_length(), 4);
            let expected = vectors(&place, &format!("v/{name}s.npy"));
            assert_eq!(values, expected.concat(), "{format}");
            let mut row = [0.0; 4];
            for (position, expected) in expected.iter().enumerate() {
                dataset.read_row(side, position, &mut Vec::new(), &mut row).unwrap();
                assert_eq!(row, expected[..], "{format}");
            }
            if side == Side::Text {
                assert_eq!(numbers("text_to_image"), ids(&place, "v/text_to_image.npy"));
                let found: Vec<_> = column("caption").as_string::<i32>().iter().map(Option::unwrap).collect();
                let expected: Vec<_> =
                    numbers("text_row").iter().map(|&row| captions[row as usize].clone()).collect();
                assert_eq!(found, expected);
            }
        }
    }
    // The same rows again are fine. Other rows would not fit the files of another format that stay.
    place.ok("embed run data --split test --device cpu --format arrow --out arrow");
    for (folder, format) in [("arrow", "npy"), ("parquet", "arrow"), ("v", "arrow")] {
        let output =
            place.run(&format!("embed run data --split val --device cpu --format {format} --out {folder}"));
        assert_eq!(output.code, 1, "{folder} {format}");
        assert!(output.stderr.contains("of other rows; choose another --out"), "{}", output.stderr);
    }
    // Features of a dataset stay as they are.
    fs::create_dir(place.path("features")).unwrap();
    fs::copy(place.path("arrow/images.arrow"), place.path("features/images.arrow")).unwrap();
    let output = place.run("embed run data --device cpu --format arrow --out features");
    assert!(output.code == 1 && output.stderr.contains("overwritten"), "{}", output.stderr);
}

#[cfg(not(feature = "parquet"))]
#[test]
fn parquet_and_arrow_files_need_their_feature() {
    let place = Place::new();
    place.train("run", "");
    for format in ["parquet", "arrow"] {
        let output = place.run(&format!("embed run data --device cpu --format {format} --out p"));
        let message = format!(
            "error: --format {format}: expected a wgoal with the cargo feature parquet, found one without; \
             install it with `cargo install --locked --path . --features parquet`\n"
        );
        assert_eq!((output.code, output.stderr), (1, message));
        assert!(!place.path("p").exists());
    }
}
