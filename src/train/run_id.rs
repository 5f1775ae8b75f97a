//! What makes two files parts of one run, and two datasets the same.

use super::TrainConfig;
use crate::Result;
use crate::data::Dataset;
use crate::device::Device;
use xxhash_rust::xxh3::xxh3_64;

impl TrainConfig {
    /// The id of the run with these options on the dataset of this fingerprint: 16 hexadecimal digits. The files of a run
    /// carry it. The number of epochs and the patience do not count, because a resumed run may change them. Without a
    /// fingerprint there is no run, and the id is empty.
    ///
    /// The id is a hash, not a random number. So equal runs write equal files.
    pub fn run_id(&self, dataset: &str) -> String {
        if dataset.is_empty() {
            return String::new();
        }
        // Options are plain numbers and names. They always become JSON.
        let options = serde_json::to_string(&self.endless()).unwrap_or_default();
        format!("{:016x}", xxh3_64(format!("{dataset}\n{options}").as_bytes()))
    }

    /// Whether a run with the other options can be a continuation of one with these.
    pub fn is_same_run(&self, other: &Self) -> bool {
        self.endless() == other.endless()
    }

    /// The options without those that a resumed run may change.
    fn endless(&self) -> Self {
        Self { epochs: 0, patience: 0, ..self.clone() }
    }
}

/// The identity of a dataset: a hash of its row numbers, a hash of a sample of its features, and a hash of all those of
/// its splits.
pub(crate) fn fingerprint(dataset: &Dataset) -> Result<String> {
    let (rows, sample, all) = (dataset.fingerprint(), dataset.sample_hash()?, dataset.content_hash()?);
    Ok(format!("{rows:016x}-{sample:016x}-{all:016x}"))
}

/// The same on a device that processes share: the first of them reads the features for all.
pub(super) fn shared_fingerprint(device: &Device, dataset: &Dataset) -> Result<String> {
    dataset.share_content_hash(device)?;
    fingerprint(dataset)
}

/// Whether a dataset has the identity that a file names. Files of older versions name no hash of all features.
pub(crate) fn is_same_dataset(named: &str, found: &str) -> bool {
    named == found || named.len() == 33 && found.strip_prefix(named).is_some_and(|rest| rest.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_keeps_its_id_when_it_becomes_longer() {
        let config = TrainConfig::default();
        let id = config.run_id("data");
        assert_eq!(id.len(), 16);
        assert_eq!(config.clone().with(|c| (c.epochs, c.patience) = (77, 3)).run_id("data"), id);
        assert_ne!(config.clone().with(|c| c.seed = 9).run_id("data"), id);
        assert_ne!(config.run_id("other"), id);
        assert_eq!(config.run_id(""), "");
        assert!(config.is_same_run(&config.clone().with(|c| c.epochs = 77)));
        assert!(!config.is_same_run(&config.clone().with(|c| c.lr = 7.0)));
    }
}
