//! One training step, phase by phase, as a list of dispatches.
//!
//! ```text
//! upload -> forward (-> join slices) -> objective -> backward (-> add slices) -> update
//! ```
//!
//! Nothing is read back inside a step. Each step writes one row of the records, which [`Pipeline::records`] collects.

use super::Pipeline;
use super::features::{External, Part};
use super::groups::Group;
use super::pipeline::RECORDS;
use super::slices::Sliced;
use crate::device::{Commands, Matrix, pad_rows};
use crate::gradient::{Bank, Inputs, numbers};
use crate::kernels::{PARTS, StepRecord, accumulate, column_sum, record, sum_squares};
use crate::objective::{Logits, Objective};
use crate::optim::Step;
use crate::{Error, Result};
use std::ops::Range;

/// Elements of a single number, padded.
const VALUE: usize = 4;

/// The bounds of parameters without bounds.
const UNBOUNDED: (f32, f32) = (f32::MIN, f32::MAX);

impl Pipeline {
    /// [`Pipeline::step_local_async`] on rows that are already padded: the whole batch, or a part for each own slice.
    ///
    /// `ids` are the image row and the text row of every pair. Text rows are needed only where a relation is followed.
    ///
    /// A step that fails must change nothing. So all phases except the last write only memory that the next step
    /// overwrites. Only [`Pipeline::update`] changes parameters, optimiser, bank and records. The host updates its own
    /// copy of this state after that.
    pub(super) async fn step_padded(
        &mut self,
        parts: Vec<Part<'_>>,
        ids: [&[u64]; 2],
        objective: &Objective,
        learning_rate: f64,
        external: Option<External<'_>>,
    ) -> Result<()> {
        if self.recorded == RECORDS {
            self.fetch_records().await?;
        }
        self.upload(parts)?;
        let mut commands = self.device.commands();
        self.forward(&mut commands)?;
        if let Some(sliced) = &mut self.sliced {
            commands.submit()?;
            sliced.join(&self.device, &self.encoders).await?;
        }
        let added = external.is_some();
        if let Some(external) = external {
            commands.submit()?;
            self.take_external(external).await?;
        }
        self.upload_ids(ids)?;
        let given = self.upload_logits(&mut commands, objective)?;
        self.objective(&mut commands, objective, added)?;
        let trained = self.backward(&mut commands, objective).await?;
        sum_squares(
            &mut commands,
            self.gradients.part(trained.clone()),
            trained.len(),
            self.parts.view_mut(),
        )?;
        self.update(&mut commands, objective, given.is_some(), learning_rate)?;
        commands.submit()?;
        self.finish(objective, given, ids)?;
        self.device.keep_up().await
    }

    /// Passes the features to the encoders.
    fn upload(&mut self, parts: Vec<Part<'_>>) -> Result<()> {
        let first = self.sliced.as_ref().map_or(0, |sliced| sliced.own.start);
        for ((encoders, Part { rows, offsets }), slice) in self.encoders.iter_mut().zip(parts).zip(first..) {
            let pairs = self.sliced.as_ref().map_or(self.pairs, |sliced| sliced.slices.pairs(slice).len());
            for ((encoder, rows), offsets) in encoders.iter_mut().zip(rows).zip(offsets) {
                encoder.upload(&self.device, rows, offsets)?;
                if encoder.unit.rows != pairs {
                    let advice = "give batches of the size that the pipeline was made for";
                    return Err(Error::config("batch", format!("{pairs} pairs"), encoder.unit.rows, advice));
                }
            }
        }
        Ok(())
    }

    /// Uploads the images of the pairs, for the mask and the bank, and what the relation leaves out.
    fn upload_ids(&mut self, ids: [&[u64]; 2]) -> Result<()> {
        let [images, _] = ids;
        if self.mask {
            self.ids.write(&self.device, 0, &numbers(images))?;
        }
        let relation = self.relation.as_deref();
        if let Some(relation) = relation {
            let [by_image, by_text] = &mut self.left_out;
            let left_out = relation.left_out(ids, !self.mask);
            if self.sliced.is_some() {
                let mut turned: Vec<_> = left_out.iter().map(|&[image, text]| [text, image]).collect();
                turned.sort_unstable();
                by_text.write(&self.device, turned)?;
            }
            by_image.write(&self.device, left_out)?;
        }
        if !self.banking {
            return Ok(());
        }
        self.make_bank()?;
        let (Some(bank), relation) = (&mut self.bank, self.relation.as_deref()) else { return Ok(()) };
        bank.begin(&self.device, images)?;
        relation.map_or(Ok(()), |relation| bank.leave_out(&self.device, relation, ids))
    }

    /// Uploads temperature and bias that the gradient reads. If the objective sets new ones, these are used and returned.
    /// Otherwise the parameters are used.
    fn upload_logits(&mut self, commands: &mut Commands, objective: &Objective) -> Result<Option<Logits>> {
        let given = objective.logits().filter(|logits| self.logits != Some(*logits));
        if let Some(logits) = &given {
            self.logits_ready = false;
            self.read_logits.write(&self.device, 0, &logits.values())?;
        } else if objective.logits().is_some() && !self.logits_ready {
            let from = self.values.part(self.layout.logits());
            accumulate(commands, (from, Logits::LEN), 1.0, (self.read_logits.view_mut(), 0), false)?;
        }
        Ok(given)
    }

    /// From features to unit rows. The sides alternate, because a GPU runs neighbouring dispatches in parallel if they
    /// are independent.
    fn forward(&mut self, commands: &mut Commands) -> Result<()> {
        for encoders in &mut self.encoders {
            for encoder in &mut *encoders {
                encoder.project(commands, &self.values, true)?;
            }
            for encoder in encoders {
                encoder.normalise(commands, &self.values)?;
            }
        }
        Ok(())
    }

    /// The gradient at the unit rows. `added` says whether a gradient from outside is added.
    fn objective(&mut self, commands: &mut Commands, objective: &Objective, added: bool) -> Result<()> {
        let bank = self.bank.as_ref().filter(|_| self.banking);
        let ([images, texts], [d_images, d_texts]) = match &mut self.sliced {
            Some(Sliced { unit: [images, texts], d_unit: [d_images, d_texts], .. }) => {
                ([images, texts], [d_images, d_texts])
            }
            None => {
                let [image, text] = &mut self.encoders[0];
                ([&mut image.unit, &mut text.unit], [&mut image.d_unit, &mut text.d_unit])
            }
        };
        let inputs = Inputs {
            images: images.view(),
            texts: texts.view(),
            ids: self.mask.then(|| self.ids.view()),
            logits: self.read_logits.view(),
            left_out: self.relation.as_ref().map(|_| self.left_out.each_ref()),
            scale: 1.0,
            bank: bank.and_then(Bank::filled),
        };
        let into = [&mut d_images.view_mut(), &mut d_texts.view_mut()];
        self.workspace.gradient(commands, objective, inputs, into)?;
        for (external, d_unit) in self.external.iter().flatten().zip([d_images, d_texts]).filter(|_| added) {
            let (from, to) = (external.buffer.view(), d_unit.buffer.view_mut());
            accumulate(commands, (from, external.buffer.len()), 1.0, (to, 0), true)?;
        }
        for (structure, encoder) in self.structure.iter_mut().flatten().zip(&mut self.encoders[0]) {
            let (features, unit, d_unit) = encoder.before_and_after();
            structure.add(commands, features, unit, d_unit)?;
        }
        Ok(())
    }

    /// From the gradient at the unit rows to the gradient of the parameters, over all slices. Returns the range of the
    /// trained parameters.
    async fn backward(&mut self, commands: &mut Commands, objective: &Objective) -> Result<Range<usize>> {
        if let Some(sliced) = &mut self.sliced {
            let into = (&mut self.gradients, self.layout.logits().start);
            let device = (&self.device, &mut *commands);
            sliced.backward(device, &mut self.encoders, &self.values, into).await?;
        } else {
            for encoder in self.encoders.iter_mut().flatten() {
                encoder.backward((&self.device, commands), &self.values, &mut self.gradients)?;
            }
        }
        let learned = self.learned(objective);
        let Some((last, _)) = learned.last() else { return Ok(0..self.layout.logits().start) };
        let end = last.end;
        for ((range, _), parts) in learned.into_iter().zip(self.workspace.logit_gradients()) {
            column_sum(commands, parts, self.gradients.part_mut(range))?;
        }
        Ok(0..end)
    }

    /// The parameters of the logits that are learned, with their bounds.
    fn learned(&self, objective: &Objective) -> Vec<(Range<usize>, (f32, f32))> {
        match objective.logits() {
            Some(Logits { learned: true, has_bias, .. }) => {
                let both = self.layout.logits();
                let temperature = (both.start..both.start + VALUE, Logits::BOUNDS);
                let bias = has_bias.then_some((both.start + Logits::BIAS..both.end, UNBOUNDED));
                std::iter::once(temperature).chain(bias).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Changes the state: new temperature and bias, the bank, the records, and the parameters with the optimiser's state.
    fn update(
        &mut self,
        commands: &mut Commands,
        objective: &Objective,
        given: bool,
        learning_rate: f64,
    ) -> Result<()> {
        if given {
            let to = self.values.part_mut(self.layout.logits());
            accumulate(commands, (self.read_logits.view(), Logits::LEN), 1.0, (to, 0), false)?;
        }
        if let Some(bank) = self.bank.as_mut().filter(|_| self.banking) {
            let unit = match &self.sliced {
                Some(sliced) => sliced.unit.each_ref(),
                None => self.encoders[0].each_ref().map(|encoder| &encoder.unit),
            };
            bank.push(commands, unit)?;
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
        record(commands, from, self.records.view_mut(), self.factor.view_mut())?;
        let step = Step { learning_rate, decay: 0.0, step: self.step + 1, bounds: UNBOUNDED };
        // The encoders of all slices share the parameters.
        for encoder in self.encoders.iter_mut().take(1).flatten() {
            encoder.begin_update(commands, &self.values)?;
        }
        for k in 0..self.groups.len() {
            let Group { range, decay, factor } = self.groups[k].clone();
            // A group that does not move keeps its bits.
            if factor == 0.0 {
                continue;
            }
            let learning_rate = factor * learning_rate;
            if let Some(pull) = &self.pull {
                pull.apply(commands, &range, self.values.part_mut(range.clone()), learning_rate)?;
            }
            self.optimize(commands, range, &Step { learning_rate, decay, ..step })?;
        }
        for encoder in self.encoders.iter_mut().take(1).flatten() {
            encoder.end_update(commands, &mut self.values)?;
        }
        for (range, bounds) in self.learned(objective) {
            self.optimize(commands, range, &Step { bounds, ..step })?;
        }
        self.average(commands, 0..self.layout.logits().start)
    }

    /// Moves the average of the weights towards those after this step. The statistics of a batch norm are averaged as
    /// well, since they belong to the weights before it.
    fn average(&mut self, commands: &mut Commands, trained: Range<usize>) -> Result<()> {
        let Some(average) = &mut self.average else { return Ok(()) };
        let step = self.step + 1;
        average.update(commands, self.values.part(trained.clone()), trained, step)?;
        for (range, statistics) in self.encoders.iter().flatten().filter_map(crate::model::Encoder::moved) {
            average.update(commands, statistics, range, step)?;
        }
        Ok(())
    }

    /// One optimiser step for a range of parameters.
    fn optimize(&mut self, commands: &mut Commands, range: Range<usize>, step: &Step) -> Result<()> {
        let gradient = (self.gradients.part(range.clone()), self.factor.view());
        let state = self.state.iter_mut().map(|array| array.part_mut(range.clone())).collect();
        let (len, w) = (range.len(), self.values.part_mut(range));
        self.optimizer.update(commands, step, gradient, w, state, len)
    }

    /// Updates the host's state after a step was submitted completely.
    fn finish(&mut self, objective: &Objective, given: Option<Logits>, ids: [&[u64]; 2]) -> Result<()> {
        self.encoders.iter_mut().flatten().for_each(crate::model::Encoder::keep_statistics);
        self.logits = given.or(self.logits);
        if let Some(logits) = objective.logits() {
            self.logits_ready = !logits.learned;
        }
        self.recorded += 1;
        self.step += 1;
        self.kept_bank = None;
        match &mut self.bank {
            Some(bank) if self.banking => {
                let own = self
                    .sliced
                    .as_ref()
                    .map_or([&[][..]; 2], |sliced| sliced.own_unit.each_ref().map(|own| &own[..]));
                bank.end(&self.device, ids, own)
            }
            _ => Ok(()),
        }
    }

    /// Passes the batch's embeddings to `external` and uploads the gradients that it returns.
    async fn take_external(&mut self, external: External<'_>) -> Result<()> {
        let (device, pairs, embed) = (&self.device, self.pairs, self.layout.embed);
        let [image, text] = &self.encoders[0];
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
}
