//! What every run consists of: its trainer, its epochs and its correction for hubs.

use super::{Interrupt, Job, Plan, RunFolder, TrainArgs, reported_recall, resume};
use crate::cli::corrected::{self, Corrected};
use crate::cli::notes::saved;
use crate::cli::progress::{Progress, Spinner};
use crate::cli::report::Recorder;
use std::path::Path;
use std::sync::Arc;
use wgoal::train::{Epoch, Every, Init};
use wgoal::{Checkpoint, Dataset, Device, ErrorKind, Plain, Result, TrainConfig, Trainer};

impl TrainArgs {
    /// How often checkpoints within an epoch are due.
    pub(super) fn every(&self) -> Result<Option<Every>> {
        self.checkpoint_every.as_deref().map(str::parse).transpose()
    }
}

/// The trainer of a run that starts, or that goes on from a checkpoint.
pub(super) fn trainer(
    device: &Device,
    dataset: &Arc<Dataset>,
    config: &TrainConfig,
    checkpoint: Option<Checkpoint>,
) -> Result<Trainer> {
    if let Some(checkpoint) = checkpoint {
        return Trainer::resume(device, dataset.clone(), resume::checkpoint(checkpoint, config)?);
    }
    let fitted = match config.init {
        Init::Cca => Some("fitting CCA, the start"),
        Init::KernelCca => Some("fitting kernel CCA, the start"),
        _ => None,
    };
    let _spinner = fitted.map(Spinner::new);
    Trainer::new(device, dataset.clone(), config.clone())
}

/// The name of the folder of a run without --out.
pub(super) fn name(dataset: &Dataset, config: &TrainConfig) -> String {
    format!("{}-{}-s{}", dataset.name(), config.objective, config.seed)
        .replace([':', '.', '@', '+', '*', '/', '\\'], "-")
}

/// Fits the correction for hubs. The run has succeeded even if this fails.
pub(super) fn fit_correction(checkpoint: &mut Checkpoint, trainer: &Trainer) -> Option<Corrected> {
    corrected::fit(checkpoint, trainer.device(), trainer.dataset()).unwrap_or_else(|error| {
        note!("note: the correction for hubs failed: {error}");
        None
    })
}

/// Trains the epochs that are left, until a signal comes. Returns whether training has collapsed. `top` is the folder that
/// `--resume` takes.
pub(super) fn epochs(
    trainer: &mut Trainer,
    folder: &mut RunFolder,
    recorder: &mut Recorder,
    (interrupt, job): (&Interrupt, &Job),
    top: &Path,
) -> Result<bool> {
    let progress = Progress::of(trainer);
    trainer.stop_when(interrupt.flag());
    let mut collapsed = false;
    while !trainer.finished() && job.signal(interrupt)?.is_none() {
        let epoch = match trainer.run_epoch() {
            Ok(epoch) => epoch,
            Err(error) if error.kind() == ErrorKind::Stopped => break,
            // Add to the error of a failed device how to continue the run.
            Err(error) if error.kind() == ErrorKind::Device => {
                let saved = saved(trainer, [folder.path(), top]);
                return Err(
                    error.with_advice(format!("{saved}, or with another --device if it happens again"))
                );
            }
            Err(error) => return Err(error),
        };
        folder.record(trainer, &epoch)?;
        recorder.epoch(trainer);
        progress.epoch_ended();
        progress.above(|| note!("{epoch}"));
        if let Some(wait) = long_wait(&epoch) {
            progress.above(|| note!("{wait}"));
        }
        if let Some(collapse) = epoch.collapse.filter(|_| !collapsed) {
            collapsed = true;
            progress.above(|| note!("warning: {collapse}"));
        }
    }
    Ok(collapsed)
}

/// Names the process that the others waited for, if that took a second and a tenth of the epoch.
fn long_wait(epoch: &Epoch) -> Option<String> {
    let is_long = |seconds: f64| seconds >= 1.0 && seconds > 0.1 * epoch.seconds;
    let waited = epoch.waited.as_ref().filter(|waited| is_long(waited.seconds))?;
    let machine = match waited.machine.as_str() {
        "" => String::new(),
        machine => format!(" on {}", Plain(machine)),
    };
    let (process, seconds) = (waited.process, waited.seconds);
    let share = 100.0 * seconds / epoch.seconds;
    let wait = format!("the others waited {seconds:.1} s for it ({share:.0} % of the epoch)");
    Some(format!("note: process {process}{machine} was slow: {wait}"))
}

impl TrainArgs {
    /// Does the part of a process that is not the first of its job. It writes and prints nothing. It makes the calls that
    /// all processes make together, in the order of [`TrainArgs::run`].
    pub(super) fn follow(&self, plan: &Plan, job: &Job) -> Result<u8> {
        let Plan { earlier, dataset, config, device, .. } = plan;
        let checkpoint = earlier.as_ref().and_then(|earlier| earlier.checkpoint.clone());
        let mut trainer = trainer(device, dataset, config, checkpoint)?;
        job.share(&mut trainer)?;
        let interrupt = Interrupt::watch()?;
        trainer.stop_when(interrupt.flag());
        while !trainer.finished() && job.signal(&interrupt)?.is_none() {
            match trainer.run_epoch() {
                Err(error) if error.kind() == ErrorKind::Stopped => break,
                epoch => drop(epoch?),
            }
        }
        if let Some(signal) = job.signal(&interrupt)? {
            return Ok(signal.exit_code());
        }
        drop(interrupt);
        if let (Some(best), Some(mut checkpoint)) = (trainer.best_epoch(), trainer.best()) {
            fit_correction(&mut checkpoint, &trainer);
            reported_recall(&trainer, &checkpoint, best)?;
            self.closed_forms(&trainer, None);
        }
        Ok(0)
    }
}
