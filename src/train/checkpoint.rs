//! Checkpoints: one safetensors file with the parameters by name, and everything else as JSON in its metadata.
//!
//! A file for use holds the head; one to resume from holds the optimiser's state and the best head so far as well. All
//! of it is a pure function of the run, so equal runs write equal bytes.

mod untrained;

use super::within::{RECORDS, Within, records_of, values_of};
use super::{StepStats, TrainConfig};
use crate::eval::{Hubness, HubnessCorrection, Recall};
use crate::model::{FORMAT, Head, HeadFile, Side, encode};
use crate::{Error, Result};
#[cfg(feature = "native")]
use crate::{
    data::{Dataset, RowList, Split},
    device::Device,
    eval::{BANK, Evaluation, Fitted, Truth},
};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Before the names of the weights that the optimiser changes.
const WEIGHTS: &str = "optimizer.weights.";

/// Before the names of the weights that the run started from.
const START: &str = "optimizer.start.";

/// What a resumed run goes on from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct State {
    /// The optimiser's arrays, in the order of their names.
    pub optimizer: Vec<Vec<f32>>,
    /// The weights that the optimiser changes, if the head has their average.
    pub weights: Option<Vec<f32>>,
    /// What the weights are pulled to, if they are.
    pub start: Option<Vec<f32>>,
    pub best: Vec<f32>,
    /// The statistics of the steps of an epoch that has not ended.
    pub records: Vec<StepStats>,
    /// The rows of the memory bank, within an epoch.
    pub bank: Option<[Vec<f32>; 2]>,
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
    /// The run that the file is a part of; empty in files of older versions.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub run: String,
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
    /// Where within the next epoch the run is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Within>,
    #[serde(default)]
    pub best: Option<Best>,
    /// The correction for hubs, except for its bank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correction: Option<Penalties>,
}

/// How a correction for hubs uses its bank.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Penalties {
    #[serde(flatten)]
    hubness: Hubness,
    /// Of images and of texts.
    weights: [f32; 2],
}

/// The tensors of the bank.
const IMAGES: &str = "correction.images";
const TEXTS: &str = "correction.texts";

/// The tensors of the memory bank within an epoch.
const BANK_ROWS: [&str; 2] = ["bank.images", "bank.texts"];

/// A head with the run that it comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    pub(crate) head: Head,
    pub(crate) progress: Progress,
    pub(crate) state: Option<State>,
    pub(crate) correction: Option<HubnessCorrection>,
    pub(crate) has_checksum: bool,
}

impl Checkpoint {
    /// Whether the file that the checkpoint was read from has a checksum. Files of older versions have none; the next
    /// [`Checkpoint::save`] adds it.
    pub fn has_checksum(&self) -> bool {
        self.has_checksum
    }

    /// The head.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The run's configuration.
    pub fn config(&self) -> &TrainConfig {
        &self.progress.config
    }

    /// The id of the run that the checkpoint comes from ([`TrainConfig::run_id`]); empty in a file of an older version.
    pub fn run(&self) -> &str {
        &self.progress.run
    }

    /// Whether the checkpoint can be of the run with this id and these options. Files of older versions have no id.
    pub fn is_of(&self, run: &str, config: &TrainConfig) -> bool {
        let same_id = run.is_empty() || self.run().is_empty() || run == self.run();
        same_id && self.config().is_same_run(config)
    }

    /// Epochs that the head was trained for.
    pub fn epoch(&self) -> usize {
        self.progress.epoch
    }

    /// Steps of the epoch after [`Checkpoint::epoch`] that the head was trained for: 0 between epochs.
    pub fn step(&self) -> usize {
        self.progress.within.map_or(0, |within| within.step)
    }

    /// The best epoch so far.
    pub fn best(&self) -> Option<Best> {
        self.progress.best
    }

    /// The head's correction for hubs, if it has one.
    pub fn correction(&self) -> Option<&HubnessCorrection> {
        self.correction.as_ref()
    }

    /// The same with another correction for hubs.
    ///
    /// # Errors
    /// A correction of another width.
    pub fn with_correction(self, correction: HubnessCorrection) -> Result<Self> {
        let (expected, found) = (self.head.dim() + 2, correction.width());
        if expected != found {
            let advice = "fit it to this head";
            return Err(Error::config("correction", format!("width {expected}"), found, advice));
        }
        Ok(Self { correction: Some(correction), ..self })
    }

    /// The same without a correction for hubs.
    #[must_use]
    pub fn without_correction(self) -> Self {
        Self { correction: None, ..self }
    }

    /// Fits the correction for hubs that the configuration asks for, and keeps it. See [`HubnessCorrection::fit`].
    ///
    /// # Errors
    /// Those of [`HubnessCorrection::fit`].
    #[cfg(feature = "native")]
    pub fn fit_correction(&mut self, device: &Device, dataset: &Dataset) -> Result<Fitted> {
        let TrainConfig { equal_captions: equal, correction: choice, seed, .. } = self.progress.config;
        let fitted = HubnessCorrection::fit(device, &self.head, dataset, equal, choice, BANK, seed)?;
        self.correction.clone_from(&fitted.correction);
        Ok(fitted)
    }

    /// Embeds rows of one side of a dataset, as they are compared by inner product: [`HubnessCorrection::vectors`] of
    /// [`Head::embed`], or without a correction the embeddings. Rows have the width [`Checkpoint::width`].
    ///
    /// # Errors
    /// Those of [`Head::embed`].
    #[cfg(feature = "native")]
    pub fn embed(&self, device: &Device, dataset: &Dataset, side: Side, rows: &RowList) -> Result<Vec<f32>> {
        let embeddings = self.head.embed(device, dataset, side, rows)?;
        match &self.correction {
            Some(correction) => correction.vectors(device, side, &embeddings),
            None => Ok(embeddings),
        }
    }

    /// [`Head::recall`] with the head's correction for hubs, if it has one.
    ///
    /// # Errors
    /// Those of [`Head::recall`].
    #[cfg(feature = "native")]
    pub fn recall(&self, device: &Device, dataset: &Dataset, split: Split, folds: usize) -> Result<Recall> {
        dataset.need(split)?;
        let rows = dataset.split(split);
        let images = self.embed(device, dataset, Side::Image, &rows.images)?;
        let texts = self.embed(device, dataset, Side::Text, &rows.texts)?;
        let truth = Truth::of_split(dataset, split, self.progress.config.equal_captions)?;
        Ok(Evaluation::folds(device, &images, &texts, self.width(), &truth, folds, &[])?.recall)
    }

    /// The width of [`Checkpoint::embed`].
    pub fn width(&self) -> usize {
        self.correction.as_ref().map_or(self.head.dim(), HubnessCorrection::width)
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
    #[cfg(feature = "native")]
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        crate::model::write(path.as_ref(), &self.to_bytes()?)
    }

    /// The bytes of the file that [`Checkpoint::save`] writes.
    ///
    /// # Errors
    /// None that is expected.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut tensors = self.head.tensors("");
        if let Some(state) = &self.state {
            let names = self.progress.config.optimizer.state().iter();
            let arrays = names.map(|name| format!("optimizer.{name}.")).zip(&state.optimizer);
            let weights = state.weights.iter().map(|weights| (WEIGHTS.to_string(), weights));
            let start = state.start.iter().map(|start| (START.to_string(), start));
            let best = [("best.".to_string(), &state.best)];
            for (prefix, values) in arrays.chain(weights).chain(start).chain(best) {
                tensors.extend(self.head.changing_tensors(values, &prefix));
            }
            tensors.extend(values_of(&state.records));
            for (name, rows) in BANK_ROWS.into_iter().zip(state.bank.iter().flatten()) {
                tensors.push((
                    name.into(),
                    vec![rows.len() / self.head.dim(), self.head.dim()],
                    rows.clone(),
                ));
            }
        }
        tensors.extend(self.head.standardizers());
        let mut halves = Vec::new();
        let correction = self.correction.as_ref().map(|correction| {
            for (name, side) in [(IMAGES, Side::Image), (TEXTS, Side::Text)] {
                let shape = vec![correction.items(side), self.head.dim()];
                halves.push((name.to_string(), shape, correction.bank(side).to_vec()));
            }
            Penalties { hubness: correction.hubness(), weights: correction.weights() }
        });
        encode(&tensors, &halves, &Progress { format: FORMAT, correction, ..self.progress.clone() })
    }

    /// Reads a checkpoint that [`Checkpoint::save`] wrote, or a head that [`Head::save`] wrote, as one of no epochs.
    ///
    /// # Errors
    /// A missing, damaged or foreign file; the message says what is wrong with it.
    #[cfg(feature = "native")]
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        Self::of_file(path.as_ref(), &crate::model::read_bytes(path.as_ref())?)
    }

    /// Reads the bytes of a file that [`Checkpoint::save`] or [`Head::save`] wrote. `name` is for messages.
    ///
    /// # Errors
    /// Those of [`Checkpoint::load`].
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Self> {
        Self::of_file(Path::new(name), bytes)
    }

    fn of_file(path: &Path, bytes: &[u8]) -> Result<Self> {
        let file = HeadFile::open(path, bytes)?;
        let progress: Progress = file.metadata()?;
        let config = progress.config.head();
        let layout = file.layout(progress.dims, &config, "")?;
        progress.config.validate().map_err(|e| file.fault("options that training can use", e))?;
        if let Some(best) = progress.best.filter(|best| best.epoch > progress.epoch) {
            let expected = format!("a best epoch of at most {}", progress.epoch);
            return Err(file.fault(expected, best.epoch));
        }
        let head = file.head(progress.dims, &config)?;
        let state = match file.has("best.image.weight") {
            true => {
                let names = progress.config.optimizer.state().iter();
                // What never changes has no state, and is the same in every head of the run.
                let zeros = vec![0.0; layout.len()];
                let state = |name| file.values(&layout, &format!("optimizer.{name}."), Some(&zeros));
                let optimizer = names.map(state).collect::<Result<_>>()?;
                let values = |prefix| file.values(&layout, prefix, Some(&head.values));
                let of = |there: bool, prefix| there.then(|| values(prefix)).transpose();
                let weights = of(progress.config.ema > 0.0, WEIGHTS)?;
                let start = of(progress.config.l2_sp > 0.0, START)?;
                let best = values("best.")?;
                let records = match progress.within {
                    Some(within) => records_of(&file.read(RECORDS.0, &[within.step, RECORDS.1])?),
                    None => Vec::new(),
                };
                let rows = |name: &str| {
                    let rows = file.shape(name).and_then(|shape| shape.first().copied()).unwrap_or(0);
                    file.read(name, &[rows, head.dim()])
                };
                let has_bank = progress.within.is_some() && file.has(BANK_ROWS[0]);
                let bank = has_bank.then(|| Ok([rows(BANK_ROWS[0])?, rows(BANK_ROWS[1])?])).transpose()?;
                Some(State { optimizer, weights, start, best, records, bank })
            }
            false => None,
        };
        let correction = progress.correction.map(|Penalties { hubness, weights }| {
            let (images, texts) = (file.rows(IMAGES, head.dim())?, file.rows(TEXTS, head.dim())?);
            HubnessCorrection::new(hubness, weights, [&images, &texts], head.dim())
                .map_err(|e| file.fault("a correction that can be used", e))
        });
        let correction = correction.transpose()?;
        let progress = Progress { correction: None, ..progress };
        Ok(Self { head, progress, state, correction, has_checksum: file.has_checksum() })
    }
}

impl Progress {
    pub fn new(config: TrainConfig, dataset: String, dims: [usize; 2]) -> Self {
        Self {
            format: FORMAT,
            run: config.run_id(&dataset),
            config,
            dataset,
            dims,
            epoch: 0,
            step: 0,
            within: None,
            best: None,
            correction: None,
        }
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
