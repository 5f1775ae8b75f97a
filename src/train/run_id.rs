//! What makes two files parts of one run.

use super::TrainConfig;
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
