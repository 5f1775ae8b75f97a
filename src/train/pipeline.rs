//! The pipeline: a head, an optimiser and the memory of a training step on one device.
//!
//! Owns the parameters on the device, the optimiser's state and, through the encoders, every buffer of a step. What a step does
//! stands in `step.rs`.

use super::TrainConfig;
use super::reduce::{Alone, Reduce};
use crate::device::{Buffer, Device, Matrix, Upload, pad_rows};
use crate::gradient::{Bank, Workspace, check_pairs};
use crate::kernels::{PARTS, RECORD};
use crate::model::{Encoder, Head, Layout, Side};
use crate::objective::{InfonceParams, Objective};
use crate::optim::Optimizer;
use crate::{Error, Result};

/// Number of steps whose records stay on the device before they are fetched.
pub(super) const RECORDS: usize = 1024;

/// Statistics of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct StepStats {
    /// The objective's value: a sum over the batch for GOAL and hinge, a mean for InfoNCE.
    pub loss: f32,
    /// Mean positive similarity.
    pub positive: f32,
    /// Mean similarity of the hardest negatives, over both directions.
    pub hardest: f32,
    /// Norm of the gradient over all parameters, before clipping.
    pub gradient_norm: f32,
    /// Whether the gradient was clipped.
    pub clipped: bool,
}

/// The features of a batch of pairs, row-major.
#[derive(Debug, Clone, Copy)]
pub struct Features<'a> {
    /// `[pairs, image_dim]`
    pub images: &'a [f32],
    /// `[pairs, text_dim]`
    pub texts: &'a [f32],
    /// Image of each pair; read only if the configuration masks same-image pairs or has a memory bank.
    pub ids: &'a [u32],
}

/// A gradient from elsewhere: takes the unit embeddings of a batch's images and texts, `[pairs, embed]` row-major, and returns the
/// gradients of its loss at both. They are added to the objective's. It is [`Send`] because a step may run on another thread.
pub type External<'a> = &'a mut (dyn FnMut(&[f32], &[f32]) -> Result<[Vec<f32>; 2]> + Send);

/// Trains a [`Head`] on batches of features, one step at a time.
///
/// For people who stream their own features; [`crate::Trainer`] drives it over a dataset.
pub struct Pipeline {
    pub(super) device: Device,
    pub(super) layout: Layout,
    pub(super) head: Head,
    pub(super) optimizer: Optimizer,
    /// Ranges of the parameters and their weight decay. The temperature does not decay.
    pub(super) decays: Vec<(std::ops::Range<usize>, f64)>,
    pub(super) clip: f32,
    pub(super) mask: bool,
    pub(super) pairs: usize,
    pub(super) values: Buffer<f32>,
    pub(super) gradients: Buffer<f32>,
    /// The optimiser's state: the arrays that [`Optimizer::state`] names.
    pub(super) state: Vec<Buffer<f32>>,
    pub(super) reduce: Box<dyn Reduce>,
    pub(super) encoders: [Encoder; 2],
    pub(super) ids: Buffer<u32>,
    pub(super) bank: Option<Bank>,
    /// Epochs before the bank is filled, and whether it is.
    pub(super) bank_warmup: usize,
    pub(super) banking: bool,
    /// Gradients from elsewhere at the unit rows, once there have been any.
    pub(super) external: Option<[Matrix; 2]>,
    pub(super) workspace: Workspace,
    pub(super) parts: Buffer<f32>,
    pub(super) factor: Buffer<f32>,
    pub(super) records: Buffer<f32>,
    /// Steps recorded on the device since the last fetch.
    pub(super) recorded: usize,
    pub(super) fetched: Vec<StepStats>,
    pub(super) step: u64,
    /// The temperature that was set last. A learned temperature is set once.
    pub(super) temperature: Option<InfonceParams>,
    /// The temperature that the gradient reads: one that a step brings with it, or a copy of the parameter.
    pub(super) read_temperature: Buffer<f32>,
    /// Whether it is what the next step reads, if that brings none.
    pub(super) temperature_ready: bool,
}

impl Pipeline {
    /// A pipeline that trains `head` on batches of exactly `pairs` pairs.
    ///
    /// Of `config` it uses the optimiser, weight decay, clip, mask and memory bank.
    ///
    /// # Errors
    /// An option out of range, or a device without the memory.
    pub fn new(device: &Device, head: Head, config: &TrainConfig, pairs: usize) -> Result<Self> {
        config.validate()?;
        check_pairs(pairs)?;
        let layout = head.layout;
        let len = layout.len();
        let values = Buffer::from_slice(device, "head", &head.values)?;
        let encoder = |side| Encoder::new(device, &head, side, pairs);
        let names = config.optimizer.state().iter();
        let state = names.map(|name| Buffer::new(device, &format!("optimizer.{name}"), len));
        let bank =
            (config.memory_bank > 0).then(|| Bank::new(device, config.memory_bank, pairs, layout.embed));
        Ok(Self {
            device: device.clone(),
            layout,
            optimizer: config.optimizer,
            decays: decays(&layout, config),
            clip: config.clip,
            mask: config.mask_same_image,
            pairs,
            values,
            gradients: Buffer::new(device, "d.head", len)?,
            state: state.collect::<Result<_>>()?,
            reduce: Box::new(Alone),
            encoders: [encoder(Side::Image)?, encoder(Side::Text)?],
            ids: Buffer::new(device, "ids", pairs)?,
            bank: bank.transpose()?,
            bank_warmup: config.bank_warmup,
            banking: true,
            external: None,
            workspace: Workspace::new(device, pairs, layout.embed, config.memory_bank / pairs * pairs)?,
            parts: Buffer::new(device, "gradient.parts", PARTS)?,
            factor: Buffer::new(device, "gradient.factor", 1)?,
            records: Buffer::new(device, "records", RECORDS * RECORD)?,
            recorded: 0,
            fetched: Vec::new(),
            step: 0,
            temperature: None,
            read_temperature: Buffer::new(device, "temperature", 1)?,
            temperature_ready: false,
            head,
        })
    }

    /// Where it trains.
    #[cfg(feature = "native")]
    pub(crate) fn device(&self) -> Device {
        self.device.clone()
    }

    /// Begins an epoch, counted from 0: the memory bank is emptied, so that an epoch depends on nothing but the parameters,
    /// and from the configured epoch on it is filled and mined. Without a call it is from the first step.
    pub fn start_epoch(&mut self, epoch: usize) {
        self.banking = epoch >= self.bank_warmup;
        self.bank.iter_mut().for_each(Bank::clear);
    }

    /// [`Pipeline::step`] without waiting.
    ///
    /// # Errors
    /// Those of [`Pipeline::step`].
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
    /// Those of [`Pipeline::step_local`].
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
        self.step_padded(rows, offsets, batch.ids, objective, learning_rate, external).await
    }

    pub(super) async fn fetch_records(&mut self) -> Result<()> {
        let rows = self.records.read(&self.device, 0..self.recorded * RECORD).await?;
        self.fetched.extend(rows.chunks_exact(RECORD).map(|row| StepStats {
            loss: row[0],
            positive: row[1],
            hardest: row[2],
            gradient_norm: row[3],
            clipped: row[4] > 0.0,
        }));
        self.recorded = 0;
        Ok(())
    }

    /// [`Pipeline::records`] without waiting.
    ///
    /// # Errors
    /// Those of [`Pipeline::records`].
    pub async fn records_async(&mut self) -> Result<Vec<StepStats>> {
        self.fetch_records().await?;
        Ok(std::mem::take(&mut self.fetched))
    }

    /// [`Pipeline::head`] without waiting.
    ///
    /// # Errors
    /// Those of [`Pipeline::head`].
    pub async fn head_async(&self) -> Result<Head> {
        let mut values = self.values.read(&self.device, 0..self.layout.len()).await?;
        for encoder in &self.encoders {
            encoder.running(&self.device, &mut values).await?;
        }
        Ok(Head { values, ..self.head.clone() })
    }

    /// Steps made so far.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// The optimiser's state, each array laid out as the parameters.
    #[cfg(feature = "native")]
    pub(crate) async fn state(&self) -> Result<Vec<Vec<f32>>> {
        let mut state = Vec::new();
        for array in &self.state {
            state.push(array.read(&self.device, 0..self.layout.len()).await?);
        }
        Ok(state)
    }

    /// Continues from the state of earlier training.
    #[cfg(feature = "native")]
    pub(crate) fn restore(&mut self, state: &[Vec<f32>], step: u64, objective: &Objective) -> Result<()> {
        for (buffer, values) in self.state.iter_mut().zip(state) {
            buffer.write(&self.device, 0, values)?;
        }
        self.step = step;
        self.temperature_ready = false;
        self.temperature = objective.infonce().copied().or(self.temperature);
        Ok(())
    }
}

/// All trained parameters except the temperature: in one range, or one by one if some do not decay.
fn decays(layout: &Layout, config: &TrainConfig) -> Vec<(std::ops::Range<usize>, f64)> {
    let end = layout.temperature().start;
    if config.decay_biases {
        return vec![(0..end, config.weight_decay)];
    }
    let segments = layout.segments().into_iter().filter(|segment| segment.range.end <= end);
    let decay = |bias: bool| if bias { 0.0 } else { config.weight_decay };
    segments.map(|segment| (segment.range.clone(), decay(segment.is_bias()))).collect()
}

#[cfg(feature = "native")]
impl Pipeline {
    /// One step on a batch, with a learning rate. Queued on a GPU, done on return on the CPU. A step that fails changes nothing:
    /// the steps after it give the bits that they would give without it.
    ///
    /// # Errors
    /// Shapes other than the pipeline's, or a failing device.
    pub fn step(&mut self, batch: Features, objective: &Objective, learning_rate: f64) -> Result<()> {
        let device = self.device();
        device.wait(self.step_async(batch, objective, learning_rate))
    }

    /// [`Pipeline::step`] on local features, if the head pools them (image side, text side): the items of a side with
    /// `offsets` own the rows `offsets[i]..offsets[i + 1]` of its features `[rows, dim]`, of which there are at least one
    /// each; a side without offsets (an empty slice) is pooled already, one row per item.
    ///
    /// # Errors
    /// Those of [`Pipeline::step`]; offsets that are wrong, or that the head does not go with.
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

    /// [`Pipeline::step_local`] with a gradient from elsewhere added to the objective's at the unit embeddings, such as
    /// that of a matching loss (X-VLM) that another program computes on the same batch. Waits for the embeddings; `external` is
    /// called on this thread.
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
    /// Those of [`Pipeline::step_local`] and of `external`; gradients of another shape, or not finite.
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

    /// Statistics of the steps since the last call. Waits for the device.
    ///
    /// # Errors
    /// A failing device.
    pub fn records(&mut self) -> Result<Vec<StepStats>> {
        crate::device::wait(self.records_async())
    }

    /// The head as it is now. Waits for the device.
    ///
    /// # Errors
    /// A failing device.
    pub fn head(&self) -> Result<Head> {
        crate::device::wait(self.head_async())
    }
}
