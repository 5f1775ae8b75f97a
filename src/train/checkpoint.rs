//! Checkpoints: one safetensors file with the parameters by name, and everything else as JSON in its metadata.
//!
//! A file for use holds the head; one to resume from holds the optimiser's state and the best head so far as well. All
//! of it is a pure function of the run, so equal runs write equal bytes.

use super::TrainConfig;
use crate::data::Standardizer;
use crate::eval::Recall;
use crate::io::{Streams, read_safetensors, write_whole};
use crate::model::{Head, Layout};
use crate::{Error, ErrorKind, Result};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::Path;

/// Version of the file's layout.
const FORMAT: u32 = 1;

/// What to do about a file that is no checkpoint.
const CHECKPOINT: &str = "give a best.safetensors or last.safetensors that wgoal wrote";

/// What a resumed run goes on from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct State {
    /// The optimiser's arrays, in the order of their names.
    pub optimizer: Vec<Vec<f32>>,
    pub best: Vec<f32>,
}

/// The best epoch so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Counted from 1.
    pub epoch: usize,
    /// On the validation split.
    pub recall: Recall,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Version of the file's layout.
    pub format: u32,
    pub config: TrainConfig,
    /// The dataset's shapes, captions and splits, hashed.
    pub dataset: String,
    /// Widths of the image and the text features.
    pub dims: [usize; 2],
    /// Epochs done.
    pub epoch: usize,
    /// Steps done.
    pub step: u64,
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
        let path = path.as_ref();
        let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
        let mut add = |prefix: &str, head: &Head| {
            for segment in head.layout.segments() {
                let name = format!("{prefix}{}", segment.name);
                tensors.push((name, segment.shape(), segment.get(&head.values)));
            }
        };
        add("", &self.head);
        if let Some(state) = &self.state {
            let names = self.progress.config.optimizer.state().iter();
            let arrays = names.map(|name| format!("optimizer.{name}.")).zip(&state.optimizer);
            for (prefix, values) in arrays.chain([("best.".to_string(), &state.best)]) {
                add(&prefix, &Head { values: values.clone(), ..self.head.clone() });
            }
        }
        for (name, standardizer) in ["image", "text"].iter().zip(self.head.standardize.iter().flatten()) {
            let Standardizer { mean, inverse_std } = standardizer;
            tensors.push((format!("{name}.mean"), vec![mean.len()], mean.clone()));
            tensors.push((format!("{name}.inverse_std"), vec![inverse_std.len()], inverse_std.clone()));
        }
        let unwritable = |e: &dyn std::fmt::Display| {
            Error::checkpoint(path.display(), "a checkpoint that can be written", e, "report this as a bug")
        };
        let progress = serde_json::to_string(&self.progress).map_err(|e| unwritable(&e))?;
        let mut views = Vec::new();
        for (name, shape, values) in &tensors {
            let bytes = bytemuck::cast_slice(values);
            views
                .push((name, TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(|e| unwritable(&e))?));
        }
        // One key only: the order of several would change from run to run.
        let metadata = HashMap::from([("wgoal".to_string(), progress)]);
        let bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| unwritable(&e))?;
        write_whole(path, Streams::Refused, |out| out.write_all(&bytes))
    }

    /// Reads a checkpoint that [`Checkpoint::save`] wrote.
    ///
    /// # Errors
    /// A missing, damaged or foreign file; the message says what is wrong with it.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let fault = |expected: &str, found: &dyn std::fmt::Display| {
            Error::checkpoint(path.display(), expected, found, CHECKPOINT)
        };
        let whole = "a whole safetensors file";
        let bytes = read_safetensors(path)
            .map_err(|obstacle| obstacle.error(ErrorKind::Checkpoint, path.display(), whole, CHECKPOINT))?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| fault(whole, &e))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| fault(whole, &e))?;
        let progress = metadata.metadata().as_ref().and_then(|metadata| metadata.get("wgoal"));
        let progress = progress.ok_or_else(|| fault("metadata `wgoal`", &"none"))?;
        let format: serde_json::Value =
            serde_json::from_str(progress).map_err(|e| fault("metadata in JSON", &e))?;
        if format["format"] != FORMAT {
            return Err(fault(&format!("format {FORMAT}"), &format!("format {}", format["format"])));
        }
        let progress: Progress =
            serde_json::from_str(progress).map_err(|e| fault("metadata of a run", &e))?;
        let layout = Layout::of(progress.dims, &progress.config.head());
        let too_large = progress.dims.contains(&0) || layout.largest() >= 1 << 31;
        if too_large || progress.config.embed == 0 {
            let found = format!("{:?} to {}", progress.dims, progress.config.embed);
            return Err(fault("widths of a head", &found));
        }
        progress.config.validate().map_err(|e| fault("options that training can use", &e))?;
        if let Some(best) = progress.best.filter(|best| best.epoch > progress.epoch) {
            return Err(fault(&format!("a best epoch of at most {}", progress.epoch), &best.epoch));
        }

        let read = |name: &str, shape: &[usize]| -> Result<Vec<f32>> {
            let tensor = tensors.tensor(name).map_err(|_| fault(&format!("tensor {name}"), &"none"))?;
            if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
                let found = format!("{:?} {:?}", tensor.dtype(), tensor.shape());
                return Err(fault(&format!("tensor {name} of F32 {shape:?}"), &found));
            }
            let values = bytemuck::pod_collect_to_vec::<u8, f32>(tensor.data());
            match values.iter().position(|x| !x.is_finite()) {
                None => Ok(values),
                Some(at) => Err(fault(
                    &format!("finite numbers in tensor {name}"),
                    &format!("{} at {at}", values[at]),
                )),
            }
        };
        let parameters = |prefix: &str| -> Result<Head> {
            let mut head = Head { layout, values: vec![0.0; layout.len()], standardize: None };
            for segment in layout.segments() {
                let values = read(&format!("{prefix}{}", segment.name), &segment.shape())?;
                segment.set(&mut head.values, &values)?;
            }
            Ok(head)
        };
        let mut head = parameters("")?;
        if progress.config.standardize {
            let side = |name: &str, dim: usize| -> Result<Standardizer> {
                let (mean, inverse_std) = (format!("{name}.mean"), format!("{name}.inverse_std"));
                Ok(Standardizer { mean: read(&mean, &[dim])?, inverse_std: read(&inverse_std, &[dim])? })
            };
            head.standardize = Some([side("image", layout.dims[0])?, side("text", layout.dims[1])?]);
        }
        let state = match tensors.tensor("best.image.weight") {
            Ok(_) => {
                let names = progress.config.optimizer.state().iter();
                let arrays = names.map(|name| Ok(parameters(&format!("optimizer.{name}."))?.values));
                Some(State { optimizer: arrays.collect::<Result<_>>()?, best: parameters("best.")?.values })
            }
            Err(_) => None,
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
