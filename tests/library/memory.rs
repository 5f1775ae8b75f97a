//! What a page in a browser uses: datasets from the contents of files, checkpoints as bytes, epochs without blocking.

use std::sync::Arc;
use wgoal::{Checkpoint, Dataset, Device, Head, Split, TrainConfig, Trainer};

const FOLDER: &str = "data/clipart-mini";

/// The files of the small dataset.
fn files() -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(FOLDER).unwrap().map(|entry| entry.unwrap());
    let read = |entry: std::fs::DirEntry| {
        (format!("clipart-mini/{}", entry.file_name().display()), std::fs::read(entry.path()).unwrap())
    };
    entries.map(read).collect()
}

fn without(name: &str) -> Vec<(String, Vec<u8>)> {
    files().into_iter().filter(|(path, _)| !path.ends_with(&format!("/{name}"))).collect()
}

fn message(files: Vec<(String, Vec<u8>)>) -> String {
    Dataset::from_files("mine", files).unwrap_err().to_string()
}

#[test]
fn a_dataset_of_file_contents_is_that_of_the_folder() {
    let (memory, folder) =
        (Dataset::from_files("clipart-mini", files()).unwrap(), Dataset::open(FOLDER).unwrap());
    assert_eq!(memory.name(), folder.name());
    assert_eq!(memory.fingerprint(), folder.fingerprint());
    assert_eq!(memory.sample_hash().unwrap(), folder.sample_hash().unwrap());
    for row in [0, 7, folder.texts() - 1] {
        assert_eq!(memory.caption(row).unwrap(), folder.caption(row).unwrap());
        assert!(memory.caption(row).unwrap().is_some());
    }
    assert_eq!(memory.image_name(3).unwrap(), folder.image_name(3).unwrap());
    // Without splits, the images are divided in the same way.
    let rows = |dataset: &Dataset| Split::ALL.map(|split| dataset.split(split).images.clone());
    let divided = files().into_iter().filter(|(path, _)| !path.contains("split_")).collect();
    let divided = Dataset::from_files("x", divided).unwrap();
    assert!(divided.is_divided() && rows(&divided) != rows(&folder));
}

#[test]
fn a_safetensors_file_in_memory_is_a_dataset() {
    let values: Vec<f32> = (0..40).map(|k| (k as f32).sin()).collect();
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let header = r#"{"images":{"dtype":"F32","shape":[10,4],"data_offsets":[0,160]},"texts":{"dtype":"F32","shape":[10,4],"data_offsets":[160,320]}}"#;
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes, &bytes].concat();
    let dataset = Dataset::from_files("one", vec![("one.safetensors".into(), file.clone())]).unwrap();
    assert_eq!((dataset.images(), dataset.image_dim(), dataset.is_paired()), (10, 4, true));
    let cut = vec![("one.safetensors".to_string(), file[..file.len() - 4].to_vec())];
    let expected = format!(
        "one.safetensors: expected {} bytes, found {} bytes; the file is cut short: copy or write it again",
        file.len(),
        file.len() - 4
    );
    assert_eq!(message(cut), expected);
}

#[test]
fn faults_of_file_contents_have_the_words_of_files() {
    let missing = message(without("texts.npy"));
    let expected = "texts.npy: expected an .npy file, found no such file; check the path and that the dataset is complete";
    assert_eq!(missing, expected);
    let mut cut = without("images.npy");
    let images = std::fs::read(format!("{FOLDER}/images.npy")).unwrap();
    cut.push(("images.npy".into(), images[..images.len() - 1].to_vec()));
    let error = message(cut);
    assert!(error.starts_with("images.npy: expected ") && error.contains("the file is cut short"), "{error}");
    let mut twice = files();
    twice.push(("other/images.npy".into(), images));
    assert!(message(twice).starts_with("images.npy: expected one file of this kind, found two"));
    let other = message(vec![("notes.md".into(), Vec::new())]);
    let expected =
        "notes.md: expected files of a dataset: .npy files, or one .safetensors file, found another file";
    assert!(other.starts_with(expected), "{other}");
    assert!(message(Vec::new()).starts_with("dataset: expected files of a dataset"));
    let mut captions = without("captions.txt");
    captions.push(("captions.txt".into(), b"one\ntwo\n".to_vec()));
    let dataset = Dataset::from_files("mine", captions).unwrap();
    let error = dataset.caption(0).unwrap_err().to_string();
    let expected = "captions.txt: expected 2719 lines, one for each row of texts.npy, found 2 lines";
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn checkpoints_and_heads_are_the_same_as_bytes_and_as_files() {
    let config = TrainConfig::default().with(|c| (c.embed, c.batch, c.epochs) = (8, 128, 2));
    let dataset = Arc::new(Dataset::open(FOLDER).unwrap());
    let mut trainer = Trainer::new(&Device::cpu(), dataset.clone(), config).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("last.safetensors");
    trainer.run_epoch().unwrap();
    let checkpoint = trainer.checkpoint().unwrap();
    checkpoint.save(&path).unwrap();
    let bytes = checkpoint.to_bytes().unwrap();
    assert_eq!(bytes, std::fs::read(&path).unwrap());
    let read = Checkpoint::from_bytes("last.safetensors", &bytes).unwrap();
    assert_eq!(read, Checkpoint::load(&path).unwrap());
    let head = checkpoint.head();
    head.save(&path).unwrap();
    assert_eq!(head.to_bytes().unwrap(), std::fs::read(&path).unwrap());
    assert_eq!(Head::load(&path).unwrap(), *head);
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 2] ^= 1;
    let error = Checkpoint::from_bytes("last.safetensors", &damaged).unwrap_err().to_string();
    assert!(error.starts_with("last.safetensors: expected checksum "), "{error}");
    // A run resumed from the bytes ends with the bits of the run.
    let mut resumed = Trainer::resume(&Device::cpu(), dataset, read).unwrap();
    let ends = [&mut trainer, &mut resumed].map(|run| {
        run.run_epoch().unwrap();
        run.checkpoint().unwrap().to_bytes().unwrap()
    });
    assert!(ends[0] == ends[1]);
}
