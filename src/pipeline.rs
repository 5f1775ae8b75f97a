//! The training step: from a batch of features to updated parameters, as a list of dispatches.
//!
//! ```text
//! features -> encoder -> objective -> encoder, backward -> sum_squares -> record -> adamw | sgd
//! ```
//!
//! Owns the parameters on the device, the optimiser's state and, through the encoders, every buffer of a step. Nothing is read back inside a
//! step: each leaves one row in the records, which [`Pipeline::records`] collects. The file is long because a step is one list, to
//! be read in its order.

use crate::bank::Bank;
use crate::config::{Optimizer, TrainConfig};
use crate::device::{Buffer, Commands, Device, Matrix, Upload, pad_rows};
use crate::encoder::Encoder;
use crate::head::{Head, Layout, Side};
use crate::kernels::{
    AdamwParams, PARTS, RECORD, SgdParams, StepRecord, accumulate, adamw, column_sum, record, sgd,
    sum_squares,
};
use crate::objective::{InfonceParams, Inputs, Objective, Workspace, check_pairs};
use crate::{Error, Result};

/// Steps whose records the device keeps before they are fetched.
const RECORDS: usize = 1024;

/// What one step did.
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
    /// Whether it was clipped.
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

/// A gradient from elsewhere: takes the unit embeddings of a batch's images and texts, `[pairs, embed]` row-major, and
/// gives the gradients of its loss at both, to be added to the objective's. [`Send`], since a step may be made on another thread.
pub type External<'a> = &'a mut (dyn FnMut(&[f32], &[f32]) -> Result<[Vec<f32>; 2]> + Send);

/// Trains a [`Head`] on batches of features, one step at a time.
///
/// For people who stream their own features; [`crate::Trainer`] drives it over a dataset.
pub struct Pipeline {
    device: Device,
    layout: Layout,
    head: Head,
    optimizer: Optimizer,
    /// Parts of the parameters and the weight decay of each; the temperature has none.
    decays: Vec<(std::ops::Range<usize>, f64)>,
    clip: f32,
    mask: bool,
    pairs: usize,
    values: Buffer<f32>,
    gradients: Buffer<f32>,
    /// The optimiser's first and second moment (AdamW) or momentum and nothing (SGD).
    moments: [Buffer<f32>; 2],
    encoders: [Encoder; 2],
    ids: Buffer<u32>,
    bank: Option<Bank>,
    /// Epochs before the bank is filled, and whether it is.
    bank_warmup: usize,
    banking: bool,
    /// Gradients from elsewhere at the unit rows, once there have been any.
    external: Option<[Matrix; 2]>,
    workspace: Workspace,
    parts: Buffer<f32>,
    factor: Buffer<f32>,
    records: Buffer<f32>,
    /// Steps recorded on the device since the last fetch.
    recorded: usize,
    fetched: Vec<StepStats>,
    step: u64,
    /// The temperature that was last set; a learned one is set once.
    temperature: Option<InfonceParams>,
    /// The temperature that the gradient reads: one that a step brings with it, or a copy of the parameter.
    read_temperature: Buffer<f32>,
    /// Whether it is what the next step reads, if that brings none.
    temperature_ready: bool,
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
            moments: [Buffer::new(device, "optimizer.m", len)?, Buffer::new(device, "optimizer.v", len)?],
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
    #[cfg(not(target_arch = "wasm32"))]
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
    pub async fn step_async(&mut self, batch: Features<'_>, objective: &Objective, rate: f64) -> Result<()> {
        self.step_local_async(batch, [&[], &[]], objective, rate, None).await
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
        rate: f64,
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
        let rows = [Upload::Lent(&images), Upload::Lent(&texts)];
        self.step_padded(rows, offsets, batch.ids, objective, rate, external).await
    }

    /// [`Pipeline::step_local_async`] on rows that are padded already.
    ///
    /// A step that fails must change nothing. So everything is computed in memory that the next step overwrites; parameters,
    /// optimiser, bank and records change by the last dispatches alone, and what the host knows of them after those.
    pub(crate) async fn step_padded(
        &mut self,
        rows: [Upload<'_, f32>; 2],
        offsets: [&[u32]; 2],
        ids: &[u32],
        objective: &Objective,
        rate: f64,
        external: Option<External<'_>>,
    ) -> Result<()> {
        if self.recorded == RECORDS {
            self.fetch_records().await?;
        }
        for ((encoder, rows), offsets) in self.encoders.iter_mut().zip(rows).zip(offsets) {
            encoder.upload(&self.device, rows, offsets)?;
            if encoder.unit.rows != self.pairs {
                let advice = "give batches of the size that the pipeline was made for";
                return Err(Error::config(
                    "batch",
                    format!("{} pairs", self.pairs),
                    encoder.unit.rows,
                    advice,
                ));
            }
        }
        let mut commands = self.device.commands();
        let temperature = self.layout.temperature();
        // Side by side: a GPU runs neighbours at once that do not wait for each other.
        for encoder in &mut self.encoders {
            encoder.project(&mut commands, &self.values, true)?;
        }
        for encoder in &mut self.encoders {
            encoder.normalise(&mut commands, &self.values)?;
        }
        let added = external.is_some();
        if let Some(external) = external {
            commands.submit()?;
            self.take_external(external).await?;
        }
        if self.mask {
            self.ids.write(&self.device, 0, ids)?;
        }
        let mut bank = self.bank.as_mut().filter(|_| self.banking);
        if let Some(bank) = &mut bank {
            bank.begin(&self.device, ids)?;
        }
        let given = objective.infonce().filter(|params| self.temperature != Some(**params)).copied();
        if let Some(params) = &given {
            self.temperature_ready = false;
            self.read_temperature.write(&self.device, 0, &[params.temperature])?;
        } else if objective.infonce().is_some() && !self.temperature_ready {
            let from = self.values.part(temperature.clone());
            accumulate(&mut commands, (from, 1), 1.0, (self.read_temperature.view_mut(), 0), false)?;
        }
        let [image, text] = &mut self.encoders;
        let inputs = Inputs {
            images: image.unit.view(),
            texts: text.unit.view(),
            ids: self.mask.then(|| self.ids.view()),
            temperature: self.read_temperature.view(),
            scale: 1.0,
            bank: bank.as_ref().and_then(|bank| bank.rows()),
        };
        self.workspace.gradient(&mut commands, objective, inputs, [&mut image.d_unit, &mut text.d_unit])?;
        for (external, encoder) in self.external.iter().flatten().zip([image, text]).filter(|_| added) {
            let (from, to) = (external.buffer.view(), encoder.d_unit.buffer.view_mut());
            accumulate(&mut commands, (from, external.buffer.len()), 1.0, (to, 0), true)?;
        }
        for encoder in &mut self.encoders {
            encoder.backward((&self.device, &mut commands), &self.values, &mut self.gradients)?;
        }
        let learned = objective.infonce().is_some_and(|params| params.learn_temperature);
        if learned {
            let dt = self.gradients.part_mut(temperature.clone());
            column_sum(&mut commands, self.workspace.temperature_gradient(), dt)?;
        }
        let trained = if learned { 0..temperature.end } else { 0..temperature.start };
        let len = trained.len();
        sum_squares(&mut commands, self.gradients.part(trained), len, self.parts.view_mut())?;
        // From here on the state changes.
        if given.is_some() {
            let to = self.values.part_mut(temperature.clone());
            accumulate(&mut commands, (self.read_temperature.view(), 1), 1.0, (to, 0), false)?;
        }
        if let Some(bank) = self.bank.as_mut().filter(|_| self.banking) {
            let [image, text] = &self.encoders;
            bank.push(&mut commands, [&image.unit, &text.unit])?;
        }
        let from = StepRecord {
            positive: self.workspace.positive(),
            value: self.workspace.hardest(),
            loss: self.workspace.losses(),
            parts: self.parts.view(),
            pairs: self.pairs,
            count: PARTS,
            step: self.recorded,
            max_norm: self.clip,
        };
        record(&mut commands, from, self.records.view_mut(), self.factor.view_mut())?;
        let unbounded = (f32::MIN, f32::MAX);
        for k in 0..self.decays.len() {
            let (range, decay) = self.decays[k].clone();
            self.update(&mut commands, range, rate, decay, unbounded)?;
        }
        if learned {
            self.update(&mut commands, temperature, rate, 0.0, InfonceParams::BOUNDS)?;
        }
        commands.submit()?;
        self.encoders.iter_mut().for_each(Encoder::keep_statistics);
        self.temperature = given.or(self.temperature);
        if objective.infonce().is_some() {
            self.temperature_ready = !learned;
        }
        self.recorded += 1;
        self.step += 1;
        match &mut self.bank {
            Some(bank) if self.banking => bank.end(&self.device, ids),
            _ => Ok(()),
        }
    }

    /// Hands the batch's embeddings out, and takes the gradients back to the device.
    async fn take_external(&mut self, external: External<'_>) -> Result<()> {
        let (device, pairs, embed) = (&self.device, self.pairs, self.layout.embed);
        let [image, text] = &self.encoders;
        let unit = [image.unit.to_rows(device).await?, text.unit.to_rows(device).await?];
        let gradients = external(&unit[0], &unit[1])?;
        for (name, gradient) in ["images", "texts"].into_iter().zip(&gradients) {
            let fault = |found: String| {
                let expected = format!("{pairs} x {embed} finite numbers");
                let advice = "give the gradient at the embeddings that were handed out";
                Error::config(format!("external gradient at {name}"), expected, found, advice)
            };
            if gradient.len() != pairs * embed {
                return Err(fault(format!("{} numbers", gradient.len())));
            }
            if let Some(at) = gradient.iter().position(|x| !x.is_finite()) {
                return Err(fault(format!("{} in row {}", gradient[at], at / embed)));
            }
        }
        let matrices = match &mut self.external {
            Some(matrices) => matrices,
            none => none.insert([
                Matrix::new(device, "external.images", pairs, embed)?,
                Matrix::new(device, "external.texts", pairs, embed)?,
            ]),
        };
        for (matrix, gradient) in matrices.iter_mut().zip(&gradients) {
            matrix.buffer.write(device, 0, &pad_rows(gradient, embed))?;
        }
        Ok(())
    }

    /// One optimiser step of some of the parameters.
    fn update(
        &mut self,
        commands: &mut Commands,
        range: std::ops::Range<usize>,
        rate: f64,
        decay: f64,
        bounds: (f32, f32),
    ) -> Result<()> {
        let gradient = (self.gradients.part(range.clone()), self.factor.view());
        let [m, v] = &mut self.moments;
        let (w, m) = (self.values.part_mut(range.clone()), m.part_mut(range.clone()));
        let len = range.len();
        match self.optimizer {
            Optimizer::AdamW { beta1, beta2, epsilon } => {
                let betas = (beta1, beta2);
                let params = AdamwParams { rate, betas, epsilon, decay, step: self.step + 1, bounds };
                adamw(commands, &params, gradient, [w, m, v.part_mut(range)], len)
            }
            Optimizer::Sgd { momentum } => {
                let (rate, momentum, decay) = (rate as f32, momentum as f32, decay as f32);
                sgd(commands, &SgdParams { rate, momentum, decay, bounds }, gradient, [w, m], len)
            }
        }
    }

    async fn fetch_records(&mut self) -> Result<()> {
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

    /// The optimiser's state, laid out as the parameters.
    pub(crate) async fn moments(&self) -> Result<[Vec<f32>; 2]> {
        let [m, v] = &self.moments;
        let all = 0..self.layout.len();
        Ok([m.read(&self.device, all.clone()).await?, v.read(&self.device, all).await?])
    }

    /// Goes on from the state that training the head so far has left.
    pub(crate) fn restore(
        &mut self,
        moments: &[Vec<f32>; 2],
        step: u64,
        objective: &Objective,
    ) -> Result<()> {
        for (buffer, values) in self.moments.iter_mut().zip(moments) {
            buffer.write(&self.device, 0, values)?;
        }
        self.step = step;
        self.temperature_ready = false;
        self.temperature = objective.infonce().copied().or(self.temperature);
        Ok(())
    }
}

/// All trained parameters but the temperature at once, or one by one where some do not decay.
fn decays(layout: &Layout, config: &TrainConfig) -> Vec<(std::ops::Range<usize>, f64)> {
    let end = layout.temperature().start;
    if config.decay_biases {
        return vec![(0..end, config.weight_decay)];
    }
    let segments = layout.segments().into_iter().filter(|segment| segment.range.end <= end);
    let decay = |bias: bool| if bias { 0.0 } else { config.weight_decay };
    segments.map(|segment| (segment.range.clone(), decay(segment.is_bias()))).collect()
}
