//! A checkpoint for a head that was not trained in a run: a closed form, or a head from elsewhere.

use super::{Checkpoint, Progress};
use crate::Result;
use crate::data::Dataset;
use crate::model::Head;
use crate::train::TrainConfig;
use crate::train::run_id::fingerprint;

impl Checkpoint {
    /// A checkpoint of no epochs, for a head that was not trained in a run. Of `config`, only the options of the input count.
    ///
    /// # Errors
    /// Features that can no longer be read.
    pub fn of(head: Head, dataset: &Dataset, config: TrainConfig) -> Result<Self> {
        let config = TrainConfig { embed: head.dim(), ..config };
        let progress = Progress::new(config, fingerprint(dataset)?, head.layout.dims);
        Ok(Self { head, progress, state: None, correction: None, has_checksum: true })
    }
}

impl From<Head> for Checkpoint {
    /// A checkpoint of no epochs and of no dataset, as [`Checkpoint::load`] reads what [`Head::save`] wrote.
    fn from(head: Head) -> Self {
        let config = TrainConfig::of_head(&head.config());
        let progress = Progress::new(config, String::new(), head.layout.dims);
        Self { head, progress, state: None, correction: None, has_checksum: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_alone_is_a_checkpoint_as_its_file_reads() {
        let config =
            crate::model::HeadConfig { signed_root: crate::model::SignedRoot::Images, ..Default::default() };
        let head = Head::for_config(5, 3, &config, 7).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("head.safetensors");
        head.save(&path).unwrap();
        assert_eq!(Checkpoint::from(head), Checkpoint::load(&path).unwrap());
    }
}
