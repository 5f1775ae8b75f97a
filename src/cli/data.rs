//! Finding the file of a head, and warnings about the data.

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use wgoal::data::{EqualCaptions, SplitRows};
use wgoal::model::Side;
use wgoal::{Dataset, Error, ErrorKind, Plain, Result, Split, TrainConfig};

use super::run_folder::BEST;

/// The file of a head: the given file, or the best head in the given folder of a run.
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
        false if path.join("images.npy").exists() => {
            "it is a dataset: give the head first, and the dataset after it"
        }
        false => "give the folder of a run, or a head such as its best.safetensors",
    };
    let (expected, found) =
        ("a head, or the folder of a run with best.safetensors", "a folder without best.safetensors");
    Err(Error::new(ErrorKind::Checkpoint, path.display(), expected, found, advice))
}

/// Rows that an option `--split` names: those of a split, or all rows of the dataset.
pub struct Rows(Option<Split>);

impl FromStr for Rows {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        if name == "all" {
            return Ok(Self(None));
        }
        name.parse().map(|split| Self(Some(split))).map_err(|_| {
            let expected = "train, val, test or all";
            Error::new(ErrorKind::Config, "--split", expected, format!("'{name}'"), "name one of the four")
        })
    }
}

impl Rows {
    /// The split that a dataset must have.
    pub fn needed(&self) -> &[Split] {
        self.0.as_slice()
    }

    /// The rows in an open dataset.
    pub fn of(&self, dataset: &Dataset) -> SplitRows {
        self.0.map_or_else(|| dataset.all_rows(), |split| dataset.split(split).clone())
    }
}

impl Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("all"),
            Some(split) => split.fmt(f),
        }
    }
}

/// Warns of data in `splits` (or in all items, if no split is named) that is allowed but probably a mistake. Prints
/// each warning once.
pub fn warn_of_data(dataset: &Dataset, configs: &[&TrainConfig], splits: &[Split]) {
    let (mut checked, mut printed) = (Vec::new(), Vec::new());
    for config in configs {
        let input = (config.pooling(), config.standardize);
        if checked.contains(&input) {
            continue;
        }
        checked.push(input);
        for suspicion in dataset.suspicions(&config.head(), splits) {
            let right = |config: &&TrainConfig| config.equal_captions != EqualCaptions::Off;
            if suspicion.equal_captions && configs.iter().all(right) {
                continue;
            }
            if !printed.contains(&suspicion) {
                let kind = if suspicion.grave { "warning" } else { "note" };
                note!("{kind}: {}", Plain(&suspicion));
                printed.push(suspicion);
            }
        }
    }
    for &split in splits {
        let rows = dataset.split(split);
        let (lacking, images) = (rows.uncaptioned(), rows.images.len());
        // Images alone are no dataset for training, and have no captions on purpose.
        if lacking > 0 && dataset.has(Side::Text) {
            let what = match split {
                Split::Train => "training leaves them out",
                Split::Val | Split::Test => "they are candidates for texts, but not queries",
            };
            note!("note: {lacking} of {images} images of split_{split} have no caption: {what}");
        }
    }
}
