//! What a run shows within an epoch: the triplets of its current batch, and the statistics of its last steps.

use super::{Every, Pipeline, StepStats, Trainer};
use crate::Result;
use web_time::Instant;

/// A look at a run within an epoch; see [`Trainer::watch`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Watched {
    /// Epoch, from 1.
    pub epoch: usize,
    /// Step of the epoch, from 1.
    pub step: usize,
    /// Steps of the epoch.
    pub steps: usize,
    /// The statistics of the steps since the last look. The last is that of the current batch.
    pub stats: Vec<StepStats>,
    /// The similarity p of every pair of the current batch.
    pub positive: Vec<f32>,
    /// The similarity n of the hardest negative: for the image of every pair that of a text, then for the text of every pair
    /// that of an image.
    pub hardest: [Vec<f32>; 2],
}

/// Who looks at a run, and when.
pub(super) struct Watch {
    every: Every,
    show: Box<dyn FnMut(&Watched) + Send>,
    /// Steps since the last look, and when it was.
    since: u64,
    at: Instant,
}

impl Trainer {
    /// Calls `show` with a look at the run as often as `every` says, and after the last step of every epoch. Each look
    /// copies four small arrays from the device and waits for them; it changes nothing.
    ///
    /// ```
    /// use wgoal::{Dataset, Device, TrainConfig, Trainer, train::Every};
    /// let config = TrainConfig::default().with(|c| {
    ///     c.embed = 8;
    ///     c.epochs = 1;
    /// });
    /// let mut trainer = Trainer::new(&Device::cpu(), Dataset::open("data/clipart-mini")?, config)?;
    /// trainer.watch(Every::Steps(5), |seen| {
    ///     println!("step {}: p of the first pair {:.2}", seen.step, seen.positive[0]);
    /// });
    /// trainer.run_epoch()?;
    /// # Ok::<(), wgoal::Error>(())
    /// ```
    pub fn watch(&mut self, every: Every, show: impl FnMut(&Watched) + Send + 'static) {
        self.watch = Some(Watch { every, show: Box::new(show), since: 0, at: Instant::now() });
    }

    /// Looks at the run after a step, if that is due.
    pub(super) async fn look(&mut self, epoch: usize, step: usize, steps: usize) -> Result<()> {
        let Some(watch) = &mut self.watch else { return Ok(()) };
        watch.since += 1;
        if step < steps && !watch.every.is_due(watch.since, watch.at.elapsed()) {
            return Ok(());
        }
        let stats = self.pipeline.records_async().await?;
        self.records.extend(&stats);
        let [positive, of_images, of_texts] = self.pipeline.triplets_async().await?;
        (watch.show)(&Watched { epoch, step, steps, stats, positive, hardest: [of_images, of_texts] });
        (watch.since, watch.at) = (0, Instant::now());
        Ok(())
    }
}

impl Pipeline {
    /// p of every pair of the last batch, then n of its image, then n of its text.
    async fn triplets_async(&self) -> Result<[Vec<f32>; 3]> {
        let mut found = <[Vec<f32>; 3]>::default();
        for (found, buffer) in found.iter_mut().zip(self.workspace.triplets()) {
            *found = buffer.read(&self.device, 0..self.pairs).await?;
        }
        Ok(found)
    }
}

#[cfg(all(test, feature = "native"))]
mod tests {
    use super::*;
    use crate::data::Dataset;
    use crate::device::Device;
    use crate::train::TrainConfig;
    use std::sync::{Arc, Mutex};

    #[test]
    fn looks_show_the_batch_of_the_step_and_change_nothing() {
        let dataset = Arc::new(Dataset::open("data/clipart-mini").unwrap());
        let train = |objective: &str, every: Option<Every>| {
            let objective = objective.parse().unwrap();
            let config = TrainConfig { embed: 8, batch: 100, epochs: 2, objective, ..Default::default() };
            let mut trainer = Trainer::new(&Device::cpu(), dataset.clone(), config).unwrap();
            let seen = Arc::new(Mutex::new(Vec::new()));
            if let Some(every) = every {
                let to = seen.clone();
                trainer.watch(every, move |look| to.lock().unwrap().push(look.clone()));
            }
            let epochs: Vec<_> = trainer.epochs().map(|epoch| epoch.unwrap().loss).collect();
            let seen = std::mem::take(&mut *seen.lock().unwrap());
            (epochs, trainer.head().unwrap(), seen, trainer.steps_per_epoch())
        };
        for objective in ["cir:sig-ms", "infonce", "hinge-sum"] {
            let (losses, head, _, steps) = train(objective, None);
            let (watched_losses, watched_head, seen, _) = train(objective, Some(Every::Steps(4)));
            assert_eq!((&losses, &head), (&watched_losses, &watched_head), "{objective}");
            let places: Vec<_> = seen.iter().map(|look| (look.epoch, look.step)).collect();
            let whole = (1..=steps).filter(|step| step % 4 == 0 || *step == steps);
            let expected: Vec<_> =
                [1, 2].iter().flat_map(|&k| whole.clone().map(move |step| (k, step))).collect();
            assert_eq!(places, expected, "{objective}");
            let mean = |values: &[f32]| values.iter().sum::<f32>() / values.len() as f32;
            for look in &seen {
                let last = look.stats.last().unwrap();
                let hardest = 0.5 * (mean(&look.hardest[0]) + mean(&look.hardest[1]));
                assert!((mean(&look.positive) - last.positive).abs() < 1e-5, "{objective}: {look:?}");
                assert!((hardest - last.hardest).abs() < 1e-5, "{objective}: {look:?}");
            }
            // Each step is in one look.
            for (epoch, loss) in (1..).zip(losses) {
                let of_epoch = seen.iter().filter(|look| look.epoch == epoch).flat_map(|look| &look.stats);
                let stats: Vec<_> = of_epoch.map(|stats| f64::from(stats.loss)).collect();
                assert_eq!(stats.len(), steps);
                assert!((stats.iter().sum::<f64>() / steps as f64 - loss).abs() <= 1e-9 * loss.abs());
            }
        }
    }
}
