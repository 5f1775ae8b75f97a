//! The processes of a job that share a training run.

use super::Trainer;
use crate::Result;
#[cfg(feature = "native")]
use crate::cluster::{Communicator, Measured, gather};
#[cfg(feature = "native")]
use std::sync::Arc;

#[cfg(feature = "native")]
impl Trainer {
    /// For each question whether a process of the job says yes. Without other processes, what this one says.
    pub(super) fn any_rank<const N: usize>(&self, yes: [bool; N]) -> Result<[bool; N]> {
        let Some(ranks) = &self.ranks else { return Ok(yes) };
        let all = gather(&**ranks, &yes.map(u8::from), &vec![N; ranks.size()])?;
        Ok(std::array::from_fn(|k| all.iter().skip(k).step_by(N).any(|&yes| yes > 0)))
    }

    /// The sums over the processes of the job.
    pub(super) fn of_all_ranks(&self, own: [usize; 2]) -> Result<[usize; 2]> {
        let Some(ranks) = &self.ranks else { return Ok(own) };
        let all = gather(&**ranks, &own.map(|n| n as u64), &vec![2; ranks.size()])?;
        Ok([0, 1].map(|k| all.iter().skip(k).step_by(2).sum::<u64>() as usize))
    }

    /// Shares the run with the other processes of a job. Every process has the same dataset and configuration, and calls
    /// this before its first epoch, and then the same methods in the same order. Each computes its slices of every batch
    /// ([`crate::TrainConfig::slices`]). All of them end with the same head, the same bits as those of one process with these
    /// slices on the same kind of device. Validation is divided too if the device of the run is that of
    /// [`crate::Device::with_ranks`].
    ///
    /// # Errors
    /// A configuration without slices, or more processes than a batch has slices.
    pub fn share(&mut self, ranks: Arc<dyn Communicator>) -> Result<()> {
        let ranks = Arc::new(Measured::new(ranks));
        self.pipeline.share(ranks.clone())?;
        self.ranks = (ranks.size() > 1).then_some(ranks);
        Ok(())
    }

    /// Whether this is the first process of the job.
    pub(super) fn is_first(&self) -> bool {
        self.ranks.as_ref().is_none_or(|ranks| ranks.rank() == 0)
    }
}

/// In a browser there is one process.
#[cfg(not(feature = "native"))]
impl Trainer {
    /// What this process says.
    pub(super) fn any_rank<const N: usize>(&self, yes: [bool; N]) -> Result<[bool; N]> {
        Ok(yes)
    }

    /// What this process has.
    pub(super) fn of_all_ranks(&self, own: [usize; 2]) -> Result<[usize; 2]> {
        Ok(own)
    }

    /// Whether this is the first process of the job.
    pub(super) fn is_first(&self) -> bool {
        true
    }
}
