//! A device whose work the processes of a job divide.

use super::Device;
use crate::Result;
use crate::cluster::{Communicator, Team};
use bytemuck::Pod;
use std::ops::Range;
use std::sync::Arc;

impl Device {
    /// The same device, but work on it is divided among the processes of a job: embedding, evaluation, the closed forms and
    /// the correction for hubs. Every process has the same data, and calls the same functions with the same arguments in
    /// the same order. Each computes a part, and all of them get the whole result. It has the same bits as that of one
    /// process on the same kind of device. If one process fails, all get its error.
    ///
    /// A function that one process calls alone on such a device waits for the others. Give it the device of
    /// [`Device::alone`].
    #[must_use]
    pub fn with_ranks(&self, ranks: Arc<dyn Communicator>) -> Self {
        let team = (ranks.size() > 1).then(|| Arc::new(Team::new(ranks)));
        Self(self.0.clone(), self.1.clone(), team)
    }

    /// The same device for work of this process alone.
    #[must_use]
    pub fn alone(&self) -> Self {
        Self(self.0.clone(), self.1.clone(), None)
    }

    /// Those of `parts` parts of a work that this process computes: all, if it shares no work.
    pub(crate) fn share(&self, parts: usize) -> Range<usize> {
        self.2.as_ref().map_or(0..parts, |team| team.share(parts))
    }

    /// Joins what the processes have computed of the parts of [`Device::share`], in the order of the parts. `what` names the
    /// work.
    ///
    /// # Errors
    /// Those of the work of any process; processes that do different work.
    pub(crate) fn join<T: Pod>(&self, what: &str, own: Result<Vec<T>>) -> Result<Vec<T>> {
        match &self.2 {
            Some(team) => team.join(what, own),
            None => own,
        }
    }

    /// The error of any process, if one has failed.
    ///
    /// # Errors
    /// Those of [`Device::join`].
    #[cfg(feature = "native")]
    pub(crate) fn agree(&self, what: &str, own: Result<()>) -> Result<()> {
        self.join::<u8>(what, own.map(|()| Vec::new())).map(|_| ())
    }

    /// The sum of `parts` parts, added in the order of their tree: `len` numbers. `of` computes a part. Processes divide the
    /// parts.
    ///
    /// # Errors
    /// Those of `of`, and those of [`Device::join`].
    #[cfg(feature = "native")]
    pub(crate) fn sum(
        &self,
        what: &str,
        (parts, len): (usize, usize),
        of: impl FnMut(usize) -> Result<Vec<f64>>,
    ) -> Result<Vec<f64>> {
        crate::cluster::sum(self.2.as_deref(), what, (parts, len), of)
    }

    /// What each process says, in the order of the processes.
    ///
    /// # Errors
    /// Those of [`Device::join`].
    #[cfg(feature = "native")]
    pub(crate) fn texts(&self, what: &str, own: Result<String>) -> Result<Vec<String>> {
        match &self.2 {
            Some(team) => team.texts(what, own),
            None => own.map(|own| vec![own]),
        }
    }

    /// The number of this process among those that share the work, and their number.
    pub(crate) fn place(&self) -> [usize; 2] {
        self.2.as_ref().map_or([0, 1], |team| [team.ranks().rank(), team.ranks().size()])
    }
}
