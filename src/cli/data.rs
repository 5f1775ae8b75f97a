//! What commands on a trained head and its data share: finding the head, and warnings of the data.

use std::path::{Path, PathBuf};
use wgoal::{Dataset, Error, ErrorKind, Plain, Result, Split, TrainConfig};

use super::run_folder::BEST;

/// The file of a head: the one given, or the best of the run's folder given.
pub fn checkpoint_path(path: &Path) -> Result<PathBuf> {
    let best = path.join(BEST);
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    if best.exists() {
        return Ok(best);
    }
    let advice = match path.join("heads").is_dir() {
        true => "give one of the files in its folder heads",
        false => "give the folder of a run, or its best.safetensors",
    };
    let (expected, found) = ("a head, or the folder of a run with best.safetensors", "a folder without that");
    Err(Error::new(ErrorKind::Checkpoint, path.display(), expected, found, advice))
}

/// Warns, once of each thing, of what is allowed in the data of `splits` (all items, where none is named) but seldom
/// meant.
pub fn warn_of_data(dataset: &Dataset, configs: &[&TrainConfig], splits: &[Split]) {
    let (mut looked_at, mut told) = (Vec::new(), Vec::new());
    for config in configs {
        let input = (config.pooling(), config.standardize);
        if looked_at.contains(&input) {
            continue;
        }
        looked_at.push(input);
        for suspicion in dataset.suspicions(&config.head(), splits) {
            if !told.contains(&suspicion) {
                let kind = if suspicion.grave { "warning" } else { "note" };
                note!("{kind}: {}", Plain(&suspicion));
                told.push(suspicion);
            }
        }
    }
    for &split in splits {
        let rows = dataset.split(split);
        let (lacking, images) = (rows.uncaptioned(), rows.images.len());
        if lacking > 0 {
            let what = match split {
                Split::Train => "they are not trained on",
                Split::Val | Split::Test => "they are candidates for every text, and no queries",
            };
            note!("note: {lacking} of {images} images of split_{split} have no caption: {what}");
        }
    }
}
