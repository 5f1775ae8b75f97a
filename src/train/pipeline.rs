//! The pipeline: a head, an optimiser and the memory of a training step, on one device.
//!
//! It owns the parameters, the optimiser's state and, through the encoders, the buffers of a step, which is in `step.rs`.

use super::TrainConfig;
use super::average::Average;
use super::checkpoint::State;
use super::features::{External, Features, Part};
use super::gather::Gather;
use super::groups::{Group, Pull, groups};
use super::slices::Sliced;
use super::stats::StepStats;
use super::within::PendingBank;
use crate::cluster::Alone;
use crate::device::{Buffer, Device, Matrix, Upload, pad_rows};
use crate::gradient::{Bank, LeftOut, Relation, Structure, Workspace, check_pairs};
use crate::kernels::{PARTS, RECORD};
use crate::model::{Encoder, Head, Layout, Side};
use crate::objective::{Logits, Objective};
use crate::optim::Optimizer;
use crate::{Error, Result};
use std::sync::Arc;

/// The number of steps whose records stay on the device before they are fetched.
pub(super) const RECORDS: usize = 1024;

/// Trains a [`Head`] on batches of features, one step at a time.
///
/// Use it to stream your own features. [`crate::Trainer`] runs it over a dataset.
pub struct Pipeline {
    pub(super) device: Device,
    pub(super) layout: Layout,
    pub(super) head: Head,
    pub(super) optimizer: Optimizer,
    /// The trained parameters except temperature and bias of the logits, which do not decay.
    pub(super) groups: Vec<Group>,
    pub(super) pull: Option<Pull>,
    pub(super) clip: f32,
    pub(super) mask: bool,
    pub(super) pairs: usize,
    pub(super) values: Buffer<f32>,
    pub(super) gradients: Buffer<f32>,
    /// One array for each name in [`Optimizer::state`].
    pub(super) state: Vec<Buffer<f32>>,
    /// The moving average of the parameters, if there is one.
    pub(super) average: Option<Average>,
    /// The slices of a batch, if it is divided.
    pub(super) sliced: Option<Sliced>,
    /// Of the own slices; one of each side if a batch is not divided.
    pub(super) encoders: Vec<[Encoder; 2]>,
    /// The most slices of a batch; 0 if it is not divided.
    pub(super) slices: usize,
    pub(super) gather: Gather,
    pub(super) centre_kernel: bool,
    pub(super) ids: Buffer<u32>,
    /// Which texts are right for which images, where it is more than each text for its own image.
    pub(super) relation: Option<Arc<Relation>>,
    /// What it leaves out of the batch, by image and, where a batch is divided, by text.
    pub(super) left_out: [LeftOut; 2],
    /// The memory bank, once it is made, and the pairs that it has room for; 0 for no bank. A bank that processes share is
    /// made after the job is known.
    pub(super) bank: Option<Bank>,
    pub(super) bank_capacity: usize,
    /// What a resumed epoch goes on with, until the bank is made.
    pub(super) pending_bank: Option<PendingBank>,
    /// The rows of a shared bank, for a checkpoint.
    pub(super) kept_bank: Option<[Vec<f32>; 2]>,
    /// The number of epochs before the bank is used, and whether it is used now.
    pub(super) bank_warmup: usize,
    pub(super) banking: bool,
    /// The gradients at the unit rows from outside, once there have been any.
    pub(super) external: Option<[Matrix; 2]>,
    /// The regularisation of both sides, if there is one.
    pub(super) structure: Option<[Structure; 2]>,
    pub(super) workspace: Workspace,
    pub(super) parts: Buffer<f32>,
    pub(super) factor: Buffer<f32>,
    pub(super) records: Buffer<f32>,
    /// The number of steps recorded on the device since the last fetch.
    pub(super) recorded: usize,
    pub(super) fetched: Vec<StepStats>,
    pub(super) step: u64,
    /// Temperature and bias that an objective set last. Learned ones are set only once.
    pub(super) logits: Option<Logits>,
    /// Temperature and bias that the gradient reads: those of the objective, or copies of the parameters.
    pub(super) read_logits: Buffer<f32>,
    /// Whether these are right for a next step that sets none.
    pub(super) logits_ready: bool,
}

impl Pipeline {
    /// Makes a pipeline that trains `head` on batches of exactly `pairs` pairs. The function is long because it makes all
    /// memory of a step.
    ///
    /// From `config` it uses the optimiser, the factors of the learning rate, weight decay, the pull towards the start
    /// (`head`), clipping, the average of the weights, STRUCTURE, the mask and the memory bank.
    ///
    /// # Errors
    /// An option is out of range, or the device has too little memory.
    pub fn new(device: &Device, head: Head, config: &TrainConfig, pairs: usize) -> Result<Self> {
        config.validate()?;
        check_pairs(pairs)?;
        head.refuse_ensemble("training")?;
        let layout = head.layout;
        let len = layout.len();
        let values = Buffer::from_slice(device, "head", &head.values)?;
        let strength = [config.structure, config.structure_temperature];
        let centred = config.centre_kernel.then_some(&values);
        let encoder = |side| Encoder::new(device, &head, side, pairs)?.centred(device, centred);
        let names = config.optimizer.state().iter();
        let state = names.map(|name| Buffer::new(device, &format!("optimizer.{name}"), len));
        let bank_capacity = match config.memory_bank {
            0 => 0,
            size => Bank::capacity(size, pairs)?,
        };
        let sliced = (config.slices > 0)
            .then(|| Sliced::new(device, Arc::new(Alone), [pairs, config.slices], &layout, config.gather))
            .transpose()?;
        let mut workspace = Workspace::new(device, pairs, layout.embed, bank_capacity)?;
        if let Some(sliced) = &sliced {
            workspace.share(sliced.shard())?;
        }
        let encoders = match &sliced {
            Some(sliced) => sliced.encoders(device, &head, centred)?,
            None => vec![[encoder(Side::Image)?, encoder(Side::Text)?]],
        };
        let mut pipeline = Self {
            device: device.clone(),
            layout,
            optimizer: config.optimizer,
            groups: groups(&layout, config),
            pull: Pull::new(device, config.l2_sp, &head.values)?,
            clip: config.clip,
            mask: config.mask_same_image,
            pairs,
            values,
            gradients: Buffer::new(device, "d.head", len)?,
            state: state.collect::<Result<_>>()?,
            average: Average::new(device, config.ema, &head.values)?,
            sliced,
            encoders,
            slices: config.slices,
            gather: config.gather,
            centre_kernel: config.centre_kernel,
            ids: Buffer::new(device, "ids", pairs)?,
            relation: None,
            left_out: [LeftOut::new(device, "left_out")?, LeftOut::new(device, "left_out_of_texts")?],
            bank: None,
            bank_capacity,
            pending_bank: None,
            kept_bank: None,
            bank_warmup: config.bank_warmup,
            banking: true,
            external: None,
            structure: Structure::both(device, strength, pairs, layout.dims, layout.embed)?,
            workspace,
            parts: Buffer::new(device, "gradient.parts", PARTS)?,
            factor: Buffer::new(device, "gradient.factor", 1)?,
            records: Buffer::new(device, "records", RECORDS * RECORD)?,
            recorded: 0,
            fetched: Vec::new(),
            step: 0,
            logits: None,
            read_logits: Buffer::new(device, "logits", Logits::LEN)?,
            logits_ready: false,
            head,
        };
        if pipeline.sliced.is_none() {
            pipeline.make_bank()?;
        }
        Ok(pipeline)
    }

    /// The device on which it trains.
    #[cfg(feature = "native")]
    pub(crate) fn device(&self) -> Device {
        self.device.clone()
    }

    /// [`Pipeline::step`] without waiting.
    ///
    /// # Errors
    /// The same as those of [`Pipeline::step`].
    pub async fn step_async(
        &mut self,
        batch: Features<'_>,
        objective: &Objective,
        learning_rate: f64,
    ) -> Result<()> {
        self.step_local_async(batch, [&[], &[]], objective, learning_rate, None).await
    }

    /// [`Pipeline::step_local`] without waiting.
    ///
    /// # Errors
    /// The same as those of [`Pipeline::step_local`].
    pub async fn step_local_async(
        &mut self,
        batch: Features<'_>,
        offsets: [&[u32]; 2],
        objective: &Objective,
        learning_rate: f64,
        external: Option<External<'_>>,
    ) -> Result<()> {
        let [p, q] = self.layout.dims;
        let shapes = [batch.images.len(), batch.texts.len(), batch.ids.len()];
        let ids = if self.mask || self.bank.is_some() { self.pairs } else { shapes[2] };
        let rows = offsets.map(|offsets| offsets.last().map_or(self.pairs, |&rows| rows as usize));
        if shapes != [rows[0] * p, rows[1] * q, ids] {
            return Err(Error::config(
                "batch",
                format!("{} x {p} image, {} x {q} text values and {ids} ids", rows[0], rows[1]),
                format!("{}, {} and {}", shapes[0], shapes[1], shapes[2]),
                "give batches of the size that the pipeline was made for",
            ));
        }
        objective.validate()?;
        let (images, texts) = (pad_rows(batch.images, p), pad_rows(batch.texts, q));
        let rows = [Upload::Borrowed(&images), Upload::Borrowed(&texts)];
        if self.sliced.is_some() {
            let advice = "set TrainConfig::slices to 0, or train with Trainer";
            return Err(Error::config(
                "a step on a whole batch",
                "a pipeline without slices",
                "slices",
                advice,
            ));
        }
        let parts = [Part { rows, offsets }];
        let ids: Vec<u64> = batch.ids.iter().map(|&id| id.into()).collect();
        self.step_padded(parts.into(), [&ids, &[]], objective, learning_rate, external).await
    }

    /// [`Pipeline::head`] without waiting.
    ///
    /// # Errors
    /// The same as those of [`Pipeline::head`].
    pub async fn head_async(&self) -> Result<Head> {
        let mut values = self.values.read(&self.device, 0..self.layout.len()).await?;
        for encoder in self.encoders.iter().take(1).flatten() {
            encoder.running(&self.device, &mut values).await?;
        }
        Ok(Head { values, ..self.head.clone() })
    }

    /// [`Pipeline::averaged`] without waiting.
    ///
    /// # Errors
    /// The device fails.
    pub async fn averaged_async(&self) -> Result<Head> {
        let Some(average) = &self.average else { return self.head_async().await };
        let mut values = average.read(&self.device, self.layout.len()).await?;
        let logits = self.layout.logits();
        values[logits.clone()].copy_from_slice(&self.values.read(&self.device, logits).await?);
        Ok(Head { values, ..self.head.clone() })
    }

    /// The number of steps so far.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// The optimiser's state. Each array has the layout of the parameters.
    pub(crate) async fn state(&self) -> Result<Vec<Vec<f32>>> {
        let mut state = Vec::new();
        for array in &self.state {
            state.push(array.read(&self.device, 0..self.layout.len()).await?);
        }
        Ok(state)
    }

    /// What the parameters are pulled to, if they are.
    pub(crate) async fn start(&self) -> Result<Option<Vec<f32>>> {
        let Some(pull) = &self.pull else { return Ok(None) };
        Ok(Some(pull.start.read(&self.device, 0..self.layout.len()).await?))
    }

    /// Continues with the state of an earlier training.
    pub(crate) fn restore(
        &mut self,
        state: &State,
        averaged: &[f32],
        step: u64,
        objective: &Objective,
    ) -> Result<()> {
        for (buffer, values) in self.state.iter_mut().zip(&state.optimizer) {
            buffer.write(&self.device, 0, values)?;
        }
        if let Some(average) = &mut self.average {
            average.write(&self.device, averaged)?;
        }
        if let Some((pull, values)) = self.pull.as_mut().zip(state.start.as_ref()) {
            pull.start.write(&self.device, 0, values)?;
        }
        self.step = step;
        self.logits_ready = false;
        self.logits = objective.logits().or(self.logits);
        Ok(())
    }
}

#[cfg(feature = "native")]
impl Pipeline {
    /// Runs one step on a batch, with a learning rate. On a GPU the step is queued; on the CPU it is done on return. A
    /// step that fails changes nothing: later steps give the same bits as without it.
    ///
    /// # Errors
    /// The shapes differ from those of the pipeline, or the device fails.
    pub fn step(&mut self, batch: Features, objective: &Objective, learning_rate: f64) -> Result<()> {
        let device = self.device();
        device.wait(self.step_async(batch, objective, learning_rate))
    }

    /// [`Pipeline::step`] on local features, if the head pools them (image side, text side). Item i of a side with
    /// `offsets` owns the rows `offsets[i]..offsets[i + 1]` of its features `[rows, dim]`, at least one row per item. A
    /// side without offsets (an empty slice) is already pooled and has one row per item.
    ///
    /// # Errors
    /// The same as those of [`Pipeline::step`]; also offsets that are wrong or do not suit the head.
    pub fn step_local(
        &mut self,
        batch: Features,
        offsets: [&[u32]; 2],
        objective: &Objective,
        learning_rate: f64,
    ) -> Result<()> {
        let device = self.device();
        device.wait(self.step_local_async(batch, offsets, objective, learning_rate, None))
    }

    /// [`Pipeline::step_local`] with a gradient from outside, which is added to the objective's gradient at the unit
    /// embeddings. It may be that of a matching loss (X-VLM) that another program computes on the same batch. Waits for
    /// the embeddings and calls `external` on this thread.
    ///
    /// ```
    /// use wgoal::{Device, Head, Pipeline, TrainConfig};
    /// use wgoal::train::Features;
    /// let config = TrainConfig::default().with(|c| { c.embed = 4; c.mask_same_image = false; });
    /// let mut pipeline = Pipeline::new(&Device::cpu(), Head::new(3, 3, 4, 0)?, &config, 2)?;
    /// let batch = Features { images: &[1.0, 0.0, 2.0, 0.5, 1.0, 0.0], texts: &[0.0, 1.0, 1.0, 2.0, 0.0, 1.0], ids: &[] };
    /// // The gradient of the sum of squared distances of the pairs.
    /// let mut distance = |x: &[f32], y: &[f32]| {
    ///     let difference: Vec<f32> = x.iter().zip(y).map(|(x, y)| 2.0 * (x - y)).collect();
    ///     Ok([difference.clone(), difference.iter().map(|d| -d).collect()])
    /// };
    /// pipeline.step_with(batch, [&[], &[]], &config.objective, 1e-3, &mut distance)?;
    /// # Ok::<(), wgoal::Error>(())
    /// ```
    ///
    /// # Errors
    /// The same as those of [`Pipeline::step_local`] and of `external`; also gradients of another shape, or not finite.
    pub fn step_with(
        &mut self,
        batch: Features,
        offsets: [&[u32]; 2],
        objective: &Objective,
        learning_rate: f64,
        external: External<'_>,
    ) -> Result<()> {
        crate::device::wait(self.step_local_async(batch, offsets, objective, learning_rate, Some(external)))
    }

    /// The statistics of the steps since the last call. Waits for the device.
    ///
    /// # Errors
    /// The device fails.
    pub fn records(&mut self) -> Result<Vec<StepStats>> {
        crate::device::wait(self.records_async())
    }

    /// The current head. Waits for the device.
    ///
    /// # Errors
    /// The device fails.
    pub fn head(&self) -> Result<Head> {
        crate::device::wait(self.head_async())
    }

    /// The head with the moving average of the weights ([`TrainConfig::ema`]); without one, the current head. Waits for
    /// the device.
    ///
    /// # Errors
    /// The device fails.
    pub fn averaged(&self) -> Result<Head> {
        crate::device::wait(self.averaged_async())
    }
}
