//! How a run begins: from the start, or from a checkpoint.

use super::Trainer;
use crate::data::{Dataset, Side, Split, SplitRows, check_order, rows_of_steps, steps_per_epoch};
use crate::device::Device;
use crate::eval::{LandmarkItems, Truth};
use crate::gradient::{Bank, SHARES_BANK};
use crate::model::{Encoder, Head};
use crate::train::checkpoint::{Checkpoint, Progress};
#[cfg(not(feature = "native"))]
use crate::train::run_id::fingerprint;
use crate::train::run_id::{is_same_dataset, shared_fingerprint};
use crate::train::{Init, Pipeline, TrainConfig};
#[cfg(feature = "native")]
use crate::train::{
    baseline::{start as fit_start, start_from},
    checkpoint::Best,
    epoch::Start,
    memory::check_run,
};
use crate::{Error, Result};
use std::sync::Arc;
#[cfg(feature = "native")]
use web_time::Instant;

impl Trainer {
    /// A run from the start. A start that is not random is validated here: it is epoch 0, and the best so far
    /// ([`Trainer::start`]).
    ///
    /// # Errors
    /// An option out of range, a dataset that cannot be read, a device without the memory.
    #[cfg(feature = "native")]
    pub fn new(device: &Device, dataset: impl Into<Arc<Dataset>>, config: TrainConfig) -> Result<Self> {
        Self::with_fit(device, dataset.into(), config, |dataset, config| fit_start(device, dataset, config))
    }

    /// A run from random weights, in a browser.
    ///
    /// # Errors
    /// An option out of range, a dataset that cannot be read, a device without the memory, a start that is not random.
    #[cfg(not(feature = "native"))]
    pub fn new(device: &Device, dataset: impl Into<Arc<Dataset>>, config: TrainConfig) -> Result<Self> {
        let dataset = dataset.into();
        if config.init != Init::Xavier {
            let advice = "leave it out, or train with the command line";
            return Err(Error::config("--init", "xavier, in a browser", "another start", advice));
        }
        Self::check_start(device, &dataset, &config)?;
        let head = Head::for_dataset_on(device, &dataset, &config.head(), (config.seed, config.slices))?;
        let progress = Progress::new(config, fingerprint(&dataset)?, head.layout.dims);
        Self::assemble(device, dataset, head, progress)
    }

    /// [`Trainer::new`], but `fit` computes the closed form that the run starts from, if the configuration asks for one.
    #[cfg(feature = "native")]
    pub(crate) fn with_fit(
        device: &Device,
        dataset: Arc<Dataset>,
        config: TrainConfig,
        fit: impl FnOnce(&Dataset, &TrainConfig) -> Result<Head>,
    ) -> Result<Self> {
        Self::check_start(device, &dataset, &config)?;
        let began = Instant::now();
        let fresh = || Head::for_dataset_on(device, &dataset, &config.head(), (config.seed, config.slices));
        let head = match &config.init {
            Init::Xavier => fresh()?,
            Init::Cca | Init::KernelCca => {
                let mut head = fresh()?;
                start_from(&mut head, &fit(&dataset, &config)?)?;
                head
            }
            Init::File(file) => file.head(device, &dataset, &config)?,
        };
        let dims = head.layout.dims;
        let init = config.init.clone();
        let progress = Progress::new(config, shared_fingerprint(device, &dataset)?, dims);
        let mut trainer = Self::assemble(device, dataset, head.clone(), progress)?;
        if init != Init::Xavier {
            let (val, _) = crate::device::wait(trainer.validate(&head))?;
            let start = Start { epoch: 0, init, val, best: true, seconds: began.elapsed().as_secs_f64() };
            trainer.progress.best = Some(Best { epoch: 0, recall: val });
            trainer.best = Some(head.clone());
            trainer.start = Some((start, head));
        }
        Ok(trainer)
    }

    /// Checks that a run can start, without reading features. A sweep calls this for all runs before the first one.
    ///
    /// # Errors
    /// Those of [`Trainer::check`], and a file that the run cannot start from.
    pub(crate) fn check_start(device: &Device, dataset: &Dataset, config: &TrainConfig) -> Result<()> {
        config.validate()?;
        #[cfg(feature = "native")]
        if let Init::File(file) = &config.init {
            file.fitting(dataset, config)?;
        }
        Self::check(device, dataset, config)
    }

    /// Checks that a run can start or continue, without reading features.
    ///
    /// # Errors
    /// An option out of range, or one that the dataset or the device cannot follow.
    fn check(device: &Device, dataset: &Dataset, config: &TrainConfig) -> Result<()> {
        config.validate()?;
        if config.ensemble > 1 {
            let advice =
                "leave it out, or train each of TrainConfig::members and join them with Checkpoint::ensemble";
            return Err(Error::config("--ensemble", "1 in one run", config.ensemble, advice));
        }
        for split in [Split::Train, Split::Val] {
            dataset.need(split)?;
        }
        let captions = dataset.split(Split::Train).texts.len();
        let pairs = config.batch.min(captions);
        if config.memory_bank > 0 {
            let is_shared = SHARES_BANK && config.slices > 0;
            Bank::check(device, config.memory_bank.min(captions), [pairs, config.embed], is_shared)?;
        }
        check_order(captions, config.shuffle.window(config.batch))?;
        #[cfg(feature = "native")]
        check_run(dataset, config)?;
        let landmarks = LandmarkItems::of(dataset, config.landmarks, config.seed);
        for (side, pooling) in [Side::Image, Side::Text].into_iter().zip(config.pooling()) {
            let derived = config.random_features.max(landmarks.items(side).len());
            let width = dataset.width(side, pooling)?;
            let widths = [width, config.embed, derived.max(config.head().hidden_width(side, width))];
            Encoder::check(device, side, widths, pairs)?;
        }
        Ok(())
    }

    /// Continues a run from a checkpoint with the optimiser's state (`last.safetensors`). The result has the same bits as without
    /// the interruption.
    ///
    /// # Errors
    /// A checkpoint without that state or of another dataset, and those of [`Trainer::new`].
    pub fn resume(device: &Device, dataset: impl Into<Arc<Dataset>>, checkpoint: Checkpoint) -> Result<Self> {
        let dataset = dataset.into();
        let Checkpoint { head, progress, state, has_checksum, .. } = checkpoint;
        let Some(mut state) = state else {
            return Err(Error::checkpoint(
                "checkpoint",
                "the optimiser's state",
                "a head alone",
                "resume from the run's last.safetensors",
            ));
        };
        head.check_dataset(&dataset)?;
        Self::check(device, &dataset, &progress.config)?;
        let found = shared_fingerprint(device, &dataset)?;
        if !is_same_dataset(&progress.dataset, &found) {
            return Err(Error::checkpoint(
                dataset.name(),
                format!("the dataset that the run was started on ({})", progress.dataset),
                format!("another one ({found})"),
                "resume with the same features, captions and splits",
            ));
        }
        let steps = steps_per_epoch(dataset.split(Split::Train).texts.len(), progress.config.batch);
        let within = progress.within.map_or(0, |within| within.step);
        // A file may hold any numbers.
        let expected = progress.epoch.saturating_mul(steps).saturating_add(within) as u64;
        if within > steps || has_checksum && progress.step != expected {
            return Err(Error::checkpoint(
                "checkpoint",
                match within {
                    0 => format!("{expected} steps in {} epochs", progress.epoch),
                    _ => format!(
                        "{expected} steps in {} epochs of {steps} steps and {within} more",
                        progress.epoch
                    ),
                },
                progress.step,
                "resume from the run's last.safetensors",
            ));
        }
        let best = std::mem::take(&mut state.best);
        let best = progress.best.map(|_| Head { values: best, ..head.clone() });
        let step = progress.step;
        let averaged = head.values.clone();
        let head = Head { values: state.weights.take().unwrap_or(head.values), ..head };
        let mut trainer = Self::assemble(device, dataset, head, progress)?;
        let objective = trainer.progress.config.objective.clone();
        trainer.pipeline.restore(&state, &averaged, step, &objective)?;
        trainer.best = best;
        if within > 0 {
            let Progress { config, epoch, .. } = &trainer.progress;
            let (batch, seeds) = (config.batch, [config.seed, *epoch as u64]);
            let windows = (batch, config.shuffle.window(batch));
            let dataset = &trainer.dataset;
            let ids = |steps| rows_of_steps(dataset, windows, seeds, steps);
            trainer.pipeline.resume_epoch((*epoch, within), state.bank.as_ref(), ids)?;
            trainer.records = state.records;
        }
        Ok(trainer)
    }

    fn assemble(device: &Device, dataset: Arc<Dataset>, head: Head, progress: Progress) -> Result<Self> {
        let config = &progress.config;
        let captions = dataset.split(Split::Train).texts.len();
        let pairs = config.batch.min(captions);
        // A bank holds pairs of one epoch.
        let pipeline = TrainConfig { memory_bank: config.memory_bank.min(captions), ..config.clone() };
        let preprocess = head.preprocess(config.dropout)?.with_row_dropout(config.row_dropout())?;
        // A bad value there would otherwise end the run after all its epochs.
        for split in [Split::Val, Split::Test] {
            let SplitRows { images, texts, .. } = dataset.split(split);
            preprocess.check(&dataset, Side::Image, images)?;
            preprocess.check(&dataset, Side::Text, texts)?;
        }
        // A few training rows show whether the features have a usable magnitude.
        let SplitRows { images, texts, .. } = dataset.split(Split::Train);
        for (side, rows) in [(Side::Image, images), (Side::Text, texts)] {
            let some = rows.iter().step_by(rows.len().div_ceil(8).max(1)).collect();
            preprocess.check(&dataset, side, &some)?;
        }
        let val = Truth::of_split(&dataset, Split::Val, config.equal_captions)?;
        let mut pipeline = Pipeline::new(device, head, &pipeline, pairs)?;
        pipeline.relation = dataset.relation(config.equal_captions)?;
        Ok(Self {
            val,
            device: device.clone(),
            preprocess: Arc::new(preprocess),
            pipeline,
            #[cfg(feature = "native")]
            ranks: None,
            dataset,
            progress,
            records: Vec::new(),
            best: None,
            start: None,
            broken: None,
            stop: device.1.clone(),
            on_event: None,
            every: None,
            watch: None,
        })
    }
}
