//! The epochs of a run: the steps over shuffled batches, the checkpoints within an epoch, the validation after it.

use super::{Event, FAILED, STOPPED, Trainer};
use crate::data::{Batches, BatchesOf, Side, Split};
use crate::eval::{Evaluation, Recall};
use crate::model::{Head, Pooling};
use crate::objective::Objective;
use crate::train::StepStats;
use crate::train::checkpoint::Best;
use crate::train::epoch::{Epoch, Signs, check_finite, collapse, spread};
use crate::train::features::Part;
use crate::train::within::Within;
use crate::{Error, ErrorKind, Result};
use std::sync::atomic::Ordering;
use web_time::Instant;

impl Trainer {
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
    pub(super) async fn validate(&self, head: &Head) -> Result<(Recall, [f64; 2])> {
        let (dataset, rows, dim) = (&self.dataset, self.dataset.split(Split::Val), head.dim());
        let images = head.embed_async(&self.device, dataset, Side::Image, &rows.images).await?;
        let texts = head.embed_async(&self.device, dataset, Side::Text, &rows.texts).await?;
        let found = Evaluation::folds_async(&self.device, &images, &texts, dim, &self.val, 1, &[]);
        let recall = self.device.done(found).await?.recall;
        Ok((recall, [spread(&images, dim), spread(&texts, dim)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Dataset;
    use crate::device::Device;
    use crate::train::TrainConfig;
    use std::ops::ControlFlow;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

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
}
