//! The members of an ensemble, and the head that they make (docs/math.md, "Ensembles").

use super::checkpoint::{Best, Checkpoint, Progress};
use super::{Init, TrainConfig, is_same_dataset};
use crate::data::{Dataset, Split};
use crate::device::Device;
use crate::model::Head;
use crate::{Error, Result};

/// The bandwidths of the members of an ensemble that starts from kernel CCA, unless others are given.
pub const ENSEMBLE_BANDWIDTHS: [f64; 3] = [0.5, 0.7, 0.4];

/// The seeds of two members differ by this. So the members of ensembles with the seeds 0, 1 and 2 differ.
const SEEDS: u64 = 1000;

impl TrainConfig {
    /// The configurations of the members of an ensemble. Member k, counted from 0, has the seed [`TrainConfig::seed`] +
    /// 1000 k. If it starts from kernel CCA with landmarks, it has the k-th of the bandwidths, and after the last one the
    /// first again: those given, or [`ENSEMBLE_BANDWIDTHS`].
    pub fn members(&self) -> Vec<Self> {
        let bandwidths = if self.bandwidth.is_empty() { &ENSEMBLE_BANDWIDTHS[..] } else { &self.bandwidth };
        let member = |k: usize| {
            let differs = self.ensemble > 1 && self.init == Init::KernelCca && self.landmarks > 0;
            let own = vec![bandwidths[k % bandwidths.len()]];
            Self {
                ensemble: 1,
                seed: self.seed.wrapping_add(SEEDS * k as u64),
                bandwidth: if differs { own } else { self.bandwidth.clone() },
                ..self.clone()
            }
        };
        (0..self.ensemble).map(member).collect()
    }
}

impl Checkpoint {
    /// The ensemble of heads that were trained by the configurations of [`TrainConfig::members`] of `config`. Its best
    /// epoch is the latest one of its members, with the recall of the ensemble on the validation split.
    ///
    /// # Errors
    /// No members, or members that do not fit together ([`Head::ensemble`]); another dataset than that of the members;
    /// a bad value in a row, a failing device.
    pub fn ensemble(
        device: &Device,
        dataset: &Dataset,
        members: Vec<Self>,
        config: TrainConfig,
    ) -> Result<Self> {
        let found = super::fingerprint(dataset)?;
        if let Some(at) = members.iter().position(|member| !is_same_dataset(&member.progress.dataset, &found))
        {
            let expected = format!("the dataset that member {} was trained on", at + 1);
            let advice = "give the features, captions and splits of the members";
            return Err(Error::checkpoint(dataset.name(), expected, "another one", advice));
        }
        let epoch = members.iter().map(Self::epoch).max().unwrap_or(0);
        let head = Head::ensemble(members.into_iter().map(|member| member.head).collect())?;
        let config = TrainConfig { ensemble: head.config().ensemble, embed: head.config().embed, ..config };
        let recall = head.recall(device, dataset, Split::Val, 1, config.equal_captions)?;
        let progress = Progress {
            epoch,
            best: Some(Best { epoch, recall }),
            ..Progress::new(config, found, head.layout.dims)
        };
        Ok(Self { head, progress, state: None, correction: None, has_checksum: true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_differ_in_seed_and_bandwidth() {
        let config = TrainConfig::default().with(|c| {
            (c.ensemble, c.seed, c.init, c.landmarks) = (4, 7, Init::KernelCca, 5);
            c.bandwidth = vec![0.3, 0.6];
        });
        let of = |config: &TrainConfig| -> Vec<(u64, Vec<f64>)> {
            config.members().into_iter().map(|member| (member.seed, member.bandwidth)).collect()
        };
        let own = |seed: u64, bandwidth: f64| (seed, vec![bandwidth]);
        assert_eq!(of(&config), [own(7, 0.3), own(1007, 0.6), own(2007, 0.3), own(3007, 0.6)]);
        let default = config.clone().with(|c| (c.ensemble, c.bandwidth) = (2, Vec::new()));
        assert_eq!(of(&default), [own(7, ENSEMBLE_BANDWIDTHS[0]), own(1007, ENSEMBLE_BANDWIDTHS[1])]);
        // Elsewhere all members try all bandwidths.
        let random = config.with(|c| (c.ensemble, c.landmarks, c.random_features) = (2, 0, 5));
        assert_eq!(of(&random), [(7, vec![0.3, 0.6]), (1007, vec![0.3, 0.6])]);
        assert!(random.members().iter().all(|member| member.ensemble == 1));
    }
}
