//! Training over a dataset: epochs of shuffled batches, validation after each, the best head kept.
//!
//! Owns the order of things; the step itself is [`Pipeline`]'s. Everything random is a function of seed, epoch and batch,
//! so a run resumed from any checkpoint, also one within an epoch, goes on to the same bits.

mod epochs;
mod start;

use super::checkpoint::{Best, Checkpoint, Progress, State};
use super::epoch::Start;
use super::watch::Watch;
use super::within::Every;
use super::{Pipeline, StepStats, TrainConfig};
#[cfg(feature = "native")]
use crate::cluster::Measured;
use crate::data::{Dataset, Preprocess, Split, steps_per_epoch};
use crate::device::Device;
#[cfg(feature = "native")]
use crate::eval::Recall;
use crate::eval::Truth;
use crate::model::Head;
use crate::{Error, Result};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// What a training run reports while it goes on.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A step was handed to the device.
    Step {
        /// Epoch, from 1.
        epoch: usize,
        /// Step of the epoch, from 1.
        step: usize,
        /// Steps of the epoch.
        steps: usize,
    },
    /// Validation begins.
    Validating {
        /// Epoch, from 1.
        epoch: usize,
    },
}

/// Trains a head on a dataset.
///
/// ```
/// use wgoal::{Dataset, Device, TrainConfig, Trainer};
/// let device = Device::cpu();
/// let data = Dataset::open("data/clipart-mini")?;
/// let mut trainer = Trainer::new(&device, data, TrainConfig::default().with(|c| {
/// c.embed = 32;
/// c.epochs = 2;
/// }))?;
/// for epoch in trainer.epochs() {
///     println!("{}", epoch?);
/// }
/// # Ok::<(), wgoal::Error>(())
/// ```
pub struct Trainer {
    device: Device,
    dataset: Arc<Dataset>,
    preprocess: Arc<Preprocess>,
    pub(super) pipeline: Pipeline,
    /// The other processes of the job, if there are any.
    #[cfg(feature = "native")]
    pub(super) ranks: Option<Arc<Measured>>,
    progress: Progress,
    /// The statistics of the steps of an epoch that has not ended, as far as they were fetched.
    pub(super) records: Vec<StepStats>,
    best: Option<Head>,
    /// What is right in validation.
    val: Truth,
    /// What this process started the run from, if that is not random.
    start: Option<(Start, Head)>,
    /// Why the state on the device belongs to no epoch, if it does not.
    broken: Option<&'static str>,
    stop: Option<Arc<AtomicBool>>,
    on_event: Option<Box<dyn FnMut(Event) -> ControlFlow<()> + Send>>,
    /// How often a checkpoint within an epoch is due, and who takes it.
    every: Option<(Every, Save)>,
    /// Who looks at the run within an epoch.
    pub(super) watch: Option<Watch>,
}

/// Takes a checkpoint.
type Save = Box<dyn FnMut(&Checkpoint) -> Result<()> + Send>;

const FAILED: &str = "one that has failed";
const STOPPED: &str = "one that was stopped";

impl Trainer {
    /// Calls `on_event` after every step and before every validation, on the thread that trains. If it returns
    /// [`ControlFlow::Break`], the epoch ends with an error of the kind [`ErrorKind::Stopped`](crate::ErrorKind::Stopped).
    pub fn on_event(&mut self, on_event: impl FnMut(Event) -> ControlFlow<()> + Send + 'static) {
        self.on_event = Some(Box::new(on_event));
    }

    /// Lets another thread stop the run. Once `stop` is true, an epoch ends after its current step, with an error of the
    /// kind [`ErrorKind::Stopped`](crate::ErrorKind::Stopped). An epoch whose last step is done is still validated.
    pub fn stop_when(&mut self, stop: Arc<AtomicBool>) {
        self.stop = Some(stop);
    }

    /// Calls `save` with a checkpoint within an epoch, after a step, as often as `every` says. A run that is resumed from
    /// it ends with the same bits as without the interruption. Of several processes of a job, call this in one.
    ///
    /// ```
    /// use wgoal::{Checkpoint, Dataset, Device, TrainConfig, Trainer, train::Every};
    /// let config = TrainConfig::default().with(|c| {
    ///     c.embed = 8;
    ///     c.batch = 64;
    ///     c.epochs = 1;
    /// });
    /// let (device, data) = (Device::cpu(), Dataset::open("data/clipart-mini")?);
    /// let mut trainer = Trainer::new(&device, data, config)?;
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("last.safetensors");
    /// let to = path.clone();
    /// trainer.checkpoint_every(Every::Steps(3), move |checkpoint| checkpoint.save(&to));
    /// trainer.run_epoch()?;
    /// let resumed = Trainer::resume(&device, Dataset::open("data/clipart-mini")?, Checkpoint::load(&path)?)?;
    /// assert!(resumed.epoch() == 0 && resumed.step() % 3 == 0);
    /// # Ok::<(), wgoal::Error>(())
    /// ```
    pub fn checkpoint_every(
        &mut self,
        every: Every,
        save: impl FnMut(&Checkpoint) -> Result<()> + Send + 'static,
    ) {
        self.every = Some((every, Box::new(save)));
    }

    /// Reports an event. Returns whether the answer is to stop.
    fn tell(&mut self, event: Event) -> bool {
        self.on_event.as_mut().map(|on_event| on_event(event)) == Some(ControlFlow::Break(()))
    }

    /// What the run started from, as validated: epoch 0. `None` if the start was random, or if the run was resumed.
    pub fn start(&self) -> Option<&Start> {
        self.start.as_ref().map(|(start, _)| start)
    }

    /// The head of [`Trainer::start`].
    pub fn start_head(&self) -> Option<&Head> {
        self.start.as_ref().map(|(_, head)| head)
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The dataset.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// The run's configuration.
    pub fn config(&self) -> &TrainConfig {
        &self.progress.config
    }

    /// Epochs done.
    pub fn epoch(&self) -> usize {
        self.progress.epoch
    }

    /// Steps done of the epoch after these: 0 between epochs.
    pub fn step(&self) -> usize {
        self.progress.within.map_or(0, |within| within.step)
    }

    /// Steps of an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        steps_per_epoch(self.dataset.split(Split::Train).texts.len(), self.progress.config.batch)
    }

    /// Whether all epochs are done, or patience has run out.
    pub fn finished(&self) -> bool {
        let Progress { config, epoch, best, .. } = &self.progress;
        let stale = epoch - best.map_or(0, |best| best.epoch);
        *epoch >= config.epochs || (config.patience > 0 && stale >= config.patience)
    }

    /// The head as it is now. With [`TrainConfig::ema`], its weights are the moving average, here and wherever the run
    /// evaluates or saves a head.
    ///
    /// # Errors
    /// A failing device.
    #[cfg(feature = "native")]
    pub fn head(&self) -> Result<Head> {
        self.pipeline.averaged()
    }

    /// The head as it is now, as `Trainer::head`. In a browser it does not block.
    ///
    /// # Errors
    /// A failing device.
    pub async fn head_async(&self) -> Result<Head> {
        self.pipeline.averaged_async().await
    }

    /// Recall of the head as it is now.
    ///
    /// # Errors
    /// A bad value in a row, a failing device.
    #[cfg(feature = "native")]
    pub fn recall(&self, split: Split) -> Result<Recall> {
        self.recall_of(&self.pipeline.averaged()?, split)
    }

    /// Recall of another head, such as the best, on this run's device.
    ///
    /// # Errors
    /// A bad value in a row, a failing device.
    #[cfg(feature = "native")]
    pub fn recall_of(&self, head: &Head, split: Split) -> Result<Recall> {
        head.recall(&self.device, &self.dataset, split, 1, self.progress.config.equal_captions)
    }

    /// What is right in a split, as this run trains and evaluates.
    ///
    /// # Errors
    /// Those of [`Truth::of_split`].
    pub fn truth(&self, split: Split) -> Result<Truth> {
        Truth::of_split(&self.dataset, split, self.progress.config.equal_captions)
    }

    /// The best epoch so far. It is 0 if no epoch was better than what the run started from.
    pub fn best_epoch(&self) -> Option<Best> {
        self.progress.best
    }

    /// The id of the run ([`TrainConfig::run_id`]); empty if an older version has started it.
    pub fn run_id(&self) -> &str {
        &self.progress.run
    }

    /// The best head so far with the run it comes from, without the optimiser's state; `None` before the first epoch
    /// of a run with a random start.
    pub fn best(&self) -> Option<Checkpoint> {
        let (head, best) = (self.best.clone()?, self.progress.best?);
        // As it stood after that epoch, so that the file does not depend on when it is written.
        let step = (best.epoch * self.steps_per_epoch()) as u64;
        let progress = Progress { epoch: best.epoch, step, within: None, ..self.progress.clone() };
        Some(Checkpoint { head, progress, state: None, correction: None, has_checksum: true })
    }

    /// Everything needed to go on from here. After [`Trainer::stop_when`] or [`Trainer::on_event`] has stopped an epoch, this
    /// is a checkpoint within the epoch.
    ///
    /// # Errors
    /// A failing device, or an epoch that has failed: the device then holds only a part of a step.
    #[cfg(feature = "native")]
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        crate::device::wait(self.checkpoint_async())
    }

    /// Everything needed to go on from here, as `Trainer::checkpoint`. In a browser it does not block.
    ///
    /// # Errors
    /// Those of `Trainer::checkpoint`.
    pub async fn checkpoint_async(&self) -> Result<Checkpoint> {
        match self.broken {
            Some(found) if found == FAILED || self.progress.within.is_none() => {
                let advice = "resume from the last checkpoint";
                Err(Error::config("checkpoint", "a run of whole steps", found, advice))
            }
            _ => self.state().await,
        }
    }

    async fn state(&self) -> Result<Checkpoint> {
        let head = self.pipeline.averaged_async().await?;
        let weights = match self.progress.config.ema > 0.0 {
            true => Some(self.pipeline.head_async().await?.values),
            false => None,
        };
        let best = self.best.as_ref().map_or_else(|| head.values.clone(), |best| best.values.clone());
        let (optimizer, start) = (self.pipeline.state(), self.pipeline.start());
        let (optimizer, start) = (self.device.done(optimizer).await?, self.device.done(start).await?);
        let bank = match self.progress.within {
            Some(_) => self.device.done(self.pipeline.bank_rows()).await?,
            None => None,
        };
        let state = State { optimizer, weights, start, best, records: self.records.clone(), bank };
        Ok(Checkpoint {
            head,
            progress: self.progress.clone(),
            state: Some(state),
            correction: None,
            has_checksum: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::data::Side;
    use std::sync::atomic::Ordering;

    #[test]
    fn long_work_on_a_device_ends_when_it_is_asked_to() {
        let stop = Arc::new(AtomicBool::new(false));
        let (device, free) = (Device::cpu().stop_when(stop.clone()), Device::cpu());
        let dataset = Arc::new(Dataset::open("data/clipart-mini").unwrap());
        let config = TrainConfig { embed: 4, epochs: 1, landmarks: 50, ..Default::default() };
        let mut trainer = Trainer::new(&device, dataset.clone(), config.clone()).unwrap();
        let head = trainer.head().unwrap();
        let rows = dataset.split(Split::Val);
        let images = head.embed(&free, &dataset, Side::Image, &rows.images).unwrap();
        let objective = config.objective.clone();
        stop.store(true, Ordering::Relaxed);
        let refused = [
            head.embed(&device, &dataset, Side::Image, &rows.images).map(drop),
            crate::similarity::TopK::of(&device, (&images, 4), (&images, 4), 1).map(drop),
            Recall::of(&device, &images[..8], &images[..8], 4, &[0, 1]).map(drop),
            objective.gradients(&device, (&images, 4), (&images, 4), Default::default()).map(drop),
            super::super::Baseline::fit(
                super::super::ClosedForm::KernelCca,
                &device,
                &dataset,
                &config,
                &[0.1],
            )
            .map(drop),
            trainer.run_epoch().map(drop),
        ];
        for (i, result) in refused.into_iter().enumerate() {
            assert_eq!(result.map_err(|error| error.kind()), Err(ErrorKind::Stopped), "{i}");
        }
        stop.store(false, Ordering::Relaxed);
        assert_eq!(head.embed(&device, &dataset, Side::Image, &rows.images).unwrap(), images);
    }
}
