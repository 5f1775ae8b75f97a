//! Training over a dataset: epochs of shuffled batches, validation after each, the best head kept.
//!
//! Owns the order of things; the step itself is [`Pipeline`]'s. Everything random is a function of seed, epoch and batch,
//! so a run resumed from any checkpoint, also one within an epoch, goes on to the same bits.
//! The file is long because it is one type, the training run, with the docs of all that a caller may ask of it.

#[cfg(feature = "native")]
use super::baseline::{start as fit_start, start_from};
use super::checkpoint::{Best, Checkpoint, Progress, State};
use super::epoch::{Epoch, Signs, Start, check_finite, collapse, spread};
use super::features::Part;
#[cfg(feature = "native")]
use super::memory::check_run;
use super::watch::Watch;
use super::within::{Every, Within};
use super::{Init, Pipeline, StepStats, TrainConfig};
#[cfg(feature = "native")]
use crate::cluster::Measured;
use crate::data::{
    Batches, BatchesOf, Dataset, Preprocess, Side, Split, SplitRows, check_order, rows_of_steps,
    steps_per_epoch,
};
use crate::device::Device;
use crate::eval::{Evaluation, LandmarkItems, Recall, Truth};
use crate::gradient::{Bank, SHARES_BANK};
use crate::model::{Encoder, Head, Pooling};
use crate::objective::Objective;
use crate::{Error, ErrorKind, Result};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use web_time::Instant;

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
            stop: None,
            on_event: None,
            every: None,
            watch: None,
        })
    }

    /// Calls `on_event` after every step and before every validation, on the thread that trains. If it returns
    /// [`ControlFlow::Break`], the epoch ends with an error of the kind [`ErrorKind::Stopped`].
    pub fn on_event(&mut self, on_event: impl FnMut(Event) -> ControlFlow<()> + Send + 'static) {
        self.on_event = Some(Box::new(on_event));
    }

    /// Lets another thread stop the run. Once `stop` is true, an epoch ends after its current step, with an error of the
    /// kind [`ErrorKind::Stopped`]. An epoch whose last step is done is still validated.
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

    /// The epochs still to come.
    #[cfg(feature = "native")]
    pub fn epochs(&mut self) -> impl Iterator<Item = Result<Epoch>> + '_ {
        let mut failed = false;
        std::iter::from_fn(move || {
            if failed || self.finished() {
                return None;
            }
            let epoch = self.run_epoch();
            failed = epoch.is_err();
            Some(epoch)
        })
    }

    /// Trains the remaining epochs. Calls `each` after each epoch with the trainer, for example to save a checkpoint.
    ///
    /// ```
    /// use wgoal::{Dataset, Device, TrainConfig, Trainer};
    /// let config = TrainConfig::default().with(|c| {
    ///     c.embed = 8;
    ///     c.epochs = 2;
    /// });
    /// let mut trainer = Trainer::new(&Device::cpu(), Dataset::open("data/clipart-mini")?, config)?;
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("last.safetensors");
    /// trainer.train(|trainer, epoch| {
    ///     println!("{epoch}");
    ///     trainer.checkpoint()?.save(&path)
    /// })?;
    /// # assert!(path.exists());
    /// # Ok::<(), wgoal::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Trainer::run_epoch`] and of `each`.
    #[cfg(feature = "native")]
    pub fn train(&mut self, mut each: impl FnMut(&Self, &Epoch) -> Result<()>) -> Result<()> {
        while !self.finished() {
            let epoch = self.run_epoch()?;
            each(self, &epoch)?;
        }
        Ok(())
    }

    /// Trains one epoch and validates.
    ///
    /// # Errors
    /// A bad value in a row, a loss that is no longer finite, a failing device, a request to stop; an epoch beyond the last,
    /// or after an error.
    #[cfg(feature = "native")]
    pub fn run_epoch(&mut self) -> Result<Epoch> {
        crate::device::wait(self.run_epoch_async())
    }

    /// Trains one epoch and validates. In a browser it does not block: while the device works, other tasks of the page run.
    /// Elsewhere it waits for the device on the calling thread, as `Trainer::run_epoch` does.
    ///
    /// # Errors
    /// Those of `Trainer::run_epoch`.
    pub async fn run_epoch_async(&mut self) -> Result<Epoch> {
        if self.progress.epoch >= self.progress.config.epochs || self.broken.is_some() {
            let found = self.broken.unwrap_or("one that has ended");
            let advice = "resume from its last checkpoint, with more epochs if it has ended";
            return Err(Error::config("another epoch", "a run that goes on", found, advice));
        }
        // Until the epoch has succeeded, the state on the device belongs to no epoch.
        self.broken = Some(FAILED);
        let epoch = self.train_and_validate().await;
        self.broken = match &epoch {
            Ok(_) => None,
            Err(error) if error.kind() == ErrorKind::Stopped => Some(STOPPED),
            Err(_) => Some(FAILED),
        };
        epoch
    }

    /// The error of an epoch that ends early, after `step` of its `steps`, counted from 1.
    fn stopped(&self, step: usize, steps: usize) -> Error {
        let thing = format!("epoch {}", self.progress.epoch + 1);
        let expected = if step < steps { format!("{steps} steps") } else { "a validation".into() };
        let found = format!("a request to stop after step {step}");
        let advice = "resume from the last checkpoint";
        Error::new(ErrorKind::Stopped, thing, expected, found, advice)
    }

    /// The steps of an epoch that are left. Returns the learning rate of the last step, and what is known of the epoch.
    async fn train_steps(&mut self) -> Result<(f64, Within)> {
        let (config, epoch) = (self.progress.config.clone(), self.progress.epoch);
        let steps = self.steps_per_epoch();
        let total = (steps * config.epochs) as u64;
        let objective = config.objective_of(epoch);
        let mut within = self.begin();
        if within.step == 0 {
            self.pipeline.start_epoch(epoch);
        }
        let mut batches = Batches::for_device(
            &self.device,
            self.dataset.clone(),
            self.preprocess.clone(),
            BatchesOf {
                batch: config.batch,
                window: config.shuffle.window(config.batch),
                slices: self.pipeline.slices(),
                seeds: [config.seed, epoch as u64],
                begin: within.step,
            },
        )?;
        let (mut saved, mut saved_at) = (within.step, Instant::now());
        while within.step < steps {
            let lr = config.learning_rate(epoch, self.progress.step, total);
            self.train_step(&mut batches, &objective, lr, &mut within).await?;
            let step = within.step;
            self.look(epoch + 1, step, steps).await?;
            let asked = self.tell(Event::Step { epoch: epoch + 1, step, steps });
            let stop = self.stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed));
            let since = (step - saved) as u64;
            let due = self.every.as_ref().is_some_and(|(every, _)| every.is_due(since, saved_at.elapsed()));
            let [asked, stop, due] = self.any_rank([asked, stop, due])?;
            // After the last step, the epoch is validated.
            if asked || stop && step < steps {
                self.keep(within).await?;
                return Err(self.stopped(step, steps));
            }
            if due && step < steps {
                self.keep(within).await?;
                self.save().await?;
                within = self.begin();
                (saved, saved_at) = (step, Instant::now());
            }
        }
        // A resumed run may have no step left.
        let lr = config.learning_rate(epoch, self.progress.step.saturating_sub(1), total);
        Ok((lr, within))
    }

    /// One step.
    async fn train_step(
        &mut self,
        batches: &mut Batches,
        objective: &Objective,
        lr: f64,
        within: &mut Within,
    ) -> Result<()> {
        let divided = self.pipeline.slices().is_some();
        let count = self.pipeline.slices().map_or(1, |(_, own)| own.len());
        let mut parts = batches.by_ref().take(count).collect::<Result<Vec<_>>>()?;
        for batch in &parts {
            within.zero_rows += batch.zero_rows;
            let rows = |own: &Vec<u32>| own.last().map_or(batch.rows, |&end| end as usize);
            within.rows_read += batch.offsets.iter().map(rows).sum::<usize>();
        }
        let batch = &mut parts[0];
        let ids = match divided {
            true => std::mem::take(&mut batch.whole),
            false => [&mut batch.ids, &mut batch.text_rows].map(std::mem::take),
        };
        let (own, [images, texts]) = (parts.iter_mut().map(Part::of).collect(), &ids);
        let device = self.device.clone();
        let work = self.pipeline.step_padded(own, [images, texts], objective, lr, None);
        device.done(work).await?;
        if !divided {
            // Their memory goes back to the worker.
            [parts[0].ids, parts[0].text_rows] = ids;
        }
        self.progress.step += 1;
        within.step += 1;
        Ok(())
    }

    /// What is known of the epoch so far. It is then no longer kept: the next step changes the state on the device. Counts
    /// of all processes are those of the first.
    fn begin(&mut self) -> Within {
        let within = self.progress.within.take().unwrap_or_default();
        match self.is_first() {
            true => within,
            false => Within { step: within.step, ..Default::default() },
        }
    }

    /// Keeps what is known of the epoch so far, of all processes, so that a checkpoint can follow.
    async fn keep(&mut self, within: Within) -> Result<()> {
        let [rows_read, zero_rows] = self.of_all_ranks([within.rows_read, within.zero_rows])?;
        let records = self.pipeline.records_async().await?;
        self.records.extend(records);
        check_finite(&self.records, self.progress.epoch + 1)?;
        self.progress.within = Some(Within { rows_read, zero_rows, ..within });
        self.pipeline.keep_bank().await
    }

    /// Calls the function of [`Trainer::checkpoint_every`] with a checkpoint.
    async fn save(&mut self) -> Result<()> {
        let Some((every, mut save)) = self.every.take() else { return Ok(()) };
        let saved = self.state().await.and_then(|checkpoint| save(&checkpoint));
        self.every = Some((every, save));
        saved
    }

    /// The function is long because it is one epoch from its first batch to its report.
    async fn train_and_validate(&mut self) -> Result<Epoch> {
        let start = Instant::now();
        let (config, epoch) = (self.progress.config.clone(), self.progress.epoch);
        let steps = self.steps_per_epoch();
        let objective = config.objective_of(epoch);
        #[cfg(feature = "native")]
        self.ranks.iter().for_each(|ranks| ranks.restart());
        let (lr, within) = self.train_steps().await?;
        self.keep(within).await?;
        #[cfg(feature = "native")]
        let waited = self.ranks.as_ref().map(|ranks| ranks.waited()).transpose()?;
        let asked = self.tell(Event::Validating { epoch: epoch + 1 });
        if self.any_rank([asked])? == [true] {
            return Err(self.stopped(steps, steps));
        }
        let head = self.pipeline.averaged_async().await?;
        let (val, spreads) = self.validate(&head).await?;
        // From here on, nothing fails.
        let records = std::mem::take(&mut self.records);
        let Within { zero_rows, rows_read, .. } = self.progress.within.take().unwrap_or_default();
        self.progress.epoch += 1;
        let best = self.progress.best.is_none_or(|best| val.rsum > best.recall.rsum);
        if best {
            self.progress.best = Some(Best { epoch: epoch + 1, recall: val });
            self.best = Some(head.clone());
        }
        let mean = |field: fn(&StepStats) -> f32| {
            records.iter().map(|record| f64::from(field(record))).sum::<f64>() / records.len() as f64
        };
        let mut result = Epoch {
            epoch: epoch + 1,
            loss: mean(|r| r.loss),
            positive: mean(|r| r.positive),
            hardest: mean(|r| r.hardest),
            gradient_norm: mean(|r| r.gradient_norm),
            clipped: mean(|r| f32::from(u8::from(r.clipped))),
            lr,
            temperature: objective.logits().map(|_| head.temperature()),
            logit_bias: objective.logits().filter(|logits| logits.has_bias).map(|_| head.logit_bias()),
            zero_rows,
            val,
            best,
            collapse: None,
            seconds: 0.0,
            #[cfg(feature = "native")]
            waited,
        };
        let chance = self.val.chance();
        // The number of local rows is unknown if the host pools them.
        let counted = config.pooling().iter().all(|pooling| matches!(pooling, Pooling::None | Pooling::Gpo));
        let zero = if counted { zero_rows as f64 / rows_read.max(1) as f64 } else { 0.0 };
        result.collapse = collapse(&val, Signs { config: &config, spreads, chance, zero });
        result.seconds = start.elapsed().as_secs_f64();
        Ok(result)
    }

    /// Recall on the validation split, and the spread of its images and of its texts.
    async fn validate(&self, head: &Head) -> Result<(Recall, [f64; 2])> {
        let (dataset, rows, dim) = (&self.dataset, self.dataset.split(Split::Val), head.dim());
        let images = head.embed_async(&self.device, dataset, Side::Image, &rows.images).await?;
        let texts = head.embed_async(&self.device, dataset, Side::Text, &rows.texts).await?;
        let found = Evaluation::folds_async(&self.device, &images, &texts, dim, &self.val, 1, &[]);
        let recall = self.device.done(found).await?.recall;
        Ok((recall, [spread(&images, dim), spread(&texts, dim)]))
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

/// The identity of a dataset: a hash of its row numbers, a hash of a sample of its features, and a hash of all those of
/// its splits.
pub(crate) fn fingerprint(dataset: &Dataset) -> Result<String> {
    let (rows, sample, all) = (dataset.fingerprint(), dataset.sample_hash()?, dataset.content_hash()?);
    Ok(format!("{rows:016x}-{sample:016x}-{all:016x}"))
}

/// The same on a device that processes share: the first of them reads the features for all.
fn shared_fingerprint(device: &Device, dataset: &Dataset) -> Result<String> {
    dataset.share_content_hash(device)?;
    fingerprint(dataset)
}

/// Whether a dataset has the identity that a file names. Files of older versions name no hash of all features.
pub(crate) fn is_same_dataset(named: &str, found: &str) -> bool {
    named == found || named.len() == 33 && found.strip_prefix(named).is_some_and(|rest| rest.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_beyond_the_last_or_after_an_error_is_refused() {
        let train = |lr: f64| {
            let config = TrainConfig { embed: 4, epochs: 1, lr, ..Default::default() };
            let dataset = Dataset::open("data/clipart-mini").unwrap();
            let mut trainer = Trainer::new(&Device::cpu(), dataset, config).unwrap();
            [trainer.run_epoch(), trainer.run_epoch()].map(|epoch| epoch.err().map(|e| e.to_string()))
        };
        let refused = |found: &str| {
            format!(
                "another epoch: expected a run that goes on, found one that has {found}; resume from its last checkpoint, \
                 with more epochs if it has ended"
            )
        };
        assert_eq!(train(1e-3), [None, Some(refused("ended"))]);
        let [first, second] = train(1e300);
        assert!(first.is_some() && second == Some(refused("failed")), "{first:?} {second:?}");
    }
    #[test]
    fn a_request_to_stop_ends_an_epoch_between_steps() {
        let config = TrainConfig { embed: 4, epochs: 2, batch: 512, ..Default::default() };
        let dataset = Dataset::open("data/clipart-mini").unwrap();
        let mut trainer = Trainer::new(&Device::cpu(), dataset, config).unwrap();
        let steps = trainer.steps_per_epoch();
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(std::sync::Mutex::new(Vec::new())));
        trainer.stop_when(stop.clone());
        let (set, told) = (stop, seen.clone());
        trainer.on_event(move |event| {
            told.lock().unwrap().push(event);
            // In the last step of the first epoch, and in the first step of the second.
            set.store(event == Event::Step { epoch: 1, step: steps, steps }, Ordering::Relaxed);
            if matches!(event, Event::Step { epoch: 2, .. }) {
                set.store(true, Ordering::Relaxed);
            }
            ControlFlow::Continue(())
        });
        // An epoch whose last step is done is validated.
        assert_eq!(trainer.run_epoch().unwrap().epoch, 1);
        let error = trainer.run_epoch().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Stopped);
        let expected = format!(
            "epoch 2: expected {steps} steps, found a request to stop after step 1; resume from the last checkpoint"
        );
        assert_eq!(error.to_string(), expected);
        assert_eq!(seen.lock().unwrap().last(), Some(&Event::Step { epoch: 2, step: 1, steps }));
        let after = trainer.run_epoch().unwrap_err().to_string();
        assert!(after.contains("found one that was stopped"), "{after}");
        let checkpoint = trainer.checkpoint().unwrap();
        assert_eq!((checkpoint.epoch(), checkpoint.step()), (1, 1));
    }

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

    #[test]
    fn a_callback_ends_an_epoch() {
        let config = TrainConfig { embed: 4, epochs: 2, batch: 512, ..Default::default() };
        let dataset = Arc::new(Dataset::open("data/clipart-mini").unwrap());
        let steps = Trainer::new(&Device::cpu(), dataset.clone(), config.clone()).unwrap().steps_per_epoch();
        let events = [
            (Event::Step { epoch: 1, step: 2, steps }, format!("{steps} steps"), 2),
            (Event::Step { epoch: 1, step: steps, steps }, "a validation".into(), steps),
            (Event::Validating { epoch: 1 }, "a validation".into(), steps),
        ];
        for (last, expected, step) in events {
            let mut trainer = Trainer::new(&Device::cpu(), dataset.clone(), config.clone()).unwrap();
            trainer.on_event(
                move |event| {
                    if event == last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                },
            );
            let error = trainer.run_epoch().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Stopped);
            let message =
                format!("epoch 1: expected {expected}, found a request to stop after step {step}; ");
            assert!(error.to_string().starts_with(&message), "{error}");
            assert!(trainer.run_epoch().unwrap_err().to_string().contains("found one that was stopped"));
        }
    }

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
