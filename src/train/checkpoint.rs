//! Checkpoints: one safetensors file with the parameters by name, and everything else as JSON in its metadata.
//!
//! A file for use holds the head; one to resume from holds the optimiser's state and the best head so far as well. All
//! of it is a pure function of the run, so equal runs write equal bytes.

use super::TrainConfig;
use crate::Result;
use crate::eval::Recall;
use crate::model::{FORMAT, Head, HeadFile, read_bytes, write};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Before the names of the weights that the optimiser changes.
const WEIGHTS: &str = "optimizer.weights.";

/// What a resumed run goes on from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct State {
    /// The optimiser's arrays, in the order of their names.
    pub optimizer: Vec<Vec<f32>>,
    /// The weights that the optimiser changes, if the head has their average.
    pub weights: Option<Vec<f32>>,
    pub best: Vec<f32>,
}

/// The best epoch so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Counted from 1; 0 is what the run started from.
    pub epoch: usize,
    /// On the validation split.
    pub recall: Recall,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Version of the file's layout.
    pub format: u32,
    pub config: TrainConfig,
    /// The dataset's shapes, captions and splits, hashed; empty where a head was saved alone.
    #[serde(default)]
    pub dataset: String,
    /// Widths of the image and the text features.
    pub dims: [usize; 2],
    /// Epochs done.
    #[serde(default)]
    pub epoch: usize,
    /// Steps done.
    #[serde(default)]
    pub step: u64,
    #[serde(default)]
    pub best: Option<Best>,
}

/// A head with the run that it comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    pub(crate) head: Head,
    pub(crate) progress: Progress,
    pub(crate) state: Option<State>,
}

impl Checkpoint {
    /// The head.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The run's configuration.
    pub fn config(&self) -> &TrainConfig {
        &self.progress.config
    }

    /// Epochs that the head was trained for.
    pub fn epoch(&self) -> usize {
        self.progress.epoch
    }

    /// The best epoch so far.
    pub fn best(&self) -> Option<Best> {
        self.progress.best
    }

    /// The same run, to be trained for another number of epochs in all. A `cosine` or `linear` learning rate follows the
    /// new number.
    #[must_use]
    pub fn with_epochs(mut self, epochs: usize) -> Self {
        self.progress.config.epochs = epochs;
        self
    }

    /// The same run, to end after another number of epochs without a better validation rsum; 0 never ends it early.
    #[must_use]
    pub fn with_patience(mut self, patience: usize) -> Self {
        self.progress.config.patience = patience;
        self
    }

    /// Writes the file whole, under a temporary name, synced and renamed into place. A link stays: what it leads to is
    /// written.
    ///
    /// # Errors
    /// Any failure to write, also to a pipe or a device; an older file is then still there.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let mut tensors = self.head.tensors("");
        if let Some(state) = &self.state {
            let names = self.progress.config.optimizer.state().iter();
            let arrays = names.map(|name| format!("optimizer.{name}.")).zip(&state.optimizer);
            let weights = state.weights.iter().map(|weights| (WEIGHTS.to_string(), weights));
            for (prefix, values) in arrays.chain(weights).chain([("best.".to_string(), &state.best)]) {
                tensors.extend(Head { values: values.clone(), ..self.head.clone() }.tensors(&prefix));
            }
        }
        tensors.extend(self.head.standardizers());
        write(path.as_ref(), &tensors, &self.progress)
    }

    /// Reads a checkpoint that [`Checkpoint::save`] wrote, or a head that [`Head::save`] wrote, as one of no epochs.
    ///
    /// # Errors
    /// A missing, damaged or foreign file; the message says what is wrong with it.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let bytes = read_bytes(path.as_ref())?;
        let file = HeadFile::open(path.as_ref(), &bytes)?;
        let progress: Progress = file.metadata()?;
        let config = progress.config.head();
        let layout = file.layout(progress.dims, &config)?;
        progress.config.validate().map_err(|e| file.fault("options that training can use", e))?;
        if let Some(best) = progress.best.filter(|best| best.epoch > progress.epoch) {
            let expected = format!("a best epoch of at most {}", progress.epoch);
            return Err(file.fault(expected, best.epoch));
        }
        let head = file.head(progress.dims, &config)?;
        let state = match file.has("best.image.weight") {
            true => {
                let names = progress.config.optimizer.state().iter();
                let arrays = names.map(|name| file.values(&layout, &format!("optimizer.{name}.")));
                let optimizer = arrays.collect::<Result<_>>()?;
                let weights = progress.config.ema > 0.0;
                let weights = weights.then(|| file.values(&layout, WEIGHTS)).transpose()?;
                Some(State { optimizer, weights, best: file.values(&layout, "best.")? })
            }
            false => None,
        };
        Ok(Self { head, progress, state })
    }
}

impl Progress {
    pub fn new(config: TrainConfig, dataset: String, dims: [usize; 2]) -> Self {
        Self { format: FORMAT, config, dataset, dims, epoch: 0, step: 0, best: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A resumed run writes its best recall again, and it must come out as the same bytes.
    #[test]
    fn recalls_survive_the_metadata_bit_for_bit() {
        for hits in 0..1000 {
            let rsum = 100.0 * f64::from(hits) / 150.0 + 100.0 * f64::from(hits * 7 % 277) / 277.0;
            let best = Best { epoch: 1, recall: Recall { rsum, ..Default::default() } };
            let text = serde_json::to_string(&best).unwrap();
            assert_eq!(serde_json::from_str::<Best>(&text).unwrap(), best, "{text}");
        }
    }
}
