//! Checkpoints within an epoch: when they are due, and what of an epoch goes into them.

use super::slices::Sliced;
use super::{Pipeline, StepStats};
use crate::gradient::{Bank, SHARES_BANK};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt::{self, Display};
use std::str::FromStr;
use web_time::Duration;

/// How often a checkpoint within an epoch is due. Parsed from steps (`500`), or from seconds, minutes or hours (`30s`,
/// `10m`, `2h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Every {
    /// After so many steps, at least 1.
    Steps(u64),
    /// After the first step that ends so much later.
    Time(Duration),
}

impl Every {
    /// Whether a checkpoint is due so many steps, and so long, after the last one.
    pub(super) fn is_due(self, steps: u64, passed: Duration) -> bool {
        match self {
            Self::Steps(every) => steps >= every,
            Self::Time(every) => passed >= every,
        }
    }
}

impl FromStr for Every {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |digits: &str| digits.parse::<u64>().ok().filter(|&n| n > 0 && n <= u32::MAX.into());
        let units = [('s', 1), ('m', 60), ('h', 3600)];
        let timed = units.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(*unit)?, seconds)));
        let every = match timed {
            Some((digits, seconds)) => number(digits).map(|n| Self::Time(Duration::from_secs(n * seconds))),
            None => number(text).map(Self::Steps),
        };
        let expected = "a number of steps above 0, or of seconds, minutes or hours";
        every.ok_or_else(|| {
            Error::config(
                "--checkpoint-every",
                expected,
                format!("'{text}'"),
                "give for example 500, 30s, 10m or 2h",
            )
        })
    }
}

impl Display for Every {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(steps) => write!(f, "{steps}"),
            Self::Time(time) => write!(f, "{}s", time.as_secs()),
        }
    }
}

/// What is known of an epoch that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Within {
    /// Steps done of the epoch.
    pub step: usize,
    /// Rows of features that were read, and those that were all zero.
    pub rows_read: usize,
    pub zero_rows: usize,
}

impl Pipeline {
    /// Begins an epoch, counted from 0. The memory bank is emptied, so that an epoch depends only on the parameters.
    /// The bank is used from the configured epoch on. If this is never called, it is used from the first step.
    pub fn start_epoch(&mut self, epoch: usize) {
        self.banking = epoch >= self.bank_warmup;
        self.bank.iter_mut().for_each(Bank::clear);
        (self.pending_bank, self.kept_bank) = (None, None);
    }

    /// Continues an epoch after `steps` steps, with the rows of its memory bank. `ids` gives the image rows and the text
    /// rows of the pairs of these steps.
    ///
    /// # Errors
    /// Another number of rows than the bank has after so many steps.
    pub(crate) fn resume_epoch(
        &mut self,
        (epoch, steps): (usize, usize),
        rows: Option<&[Vec<f32>; 2]>,
        ids: impl FnOnce(std::ops::Range<usize>) -> Result<Vec<[Vec<u64>; 2]>>,
    ) -> Result<()> {
        self.start_epoch(epoch);
        if self.bank_capacity == 0 || !self.banking {
            return Ok(());
        }
        let batches = Bank::batches(self.bank_capacity, self.pairs, steps);
        let expected = batches.len() * self.pairs * self.layout.embed;
        let none = [const { Vec::new() }; 2];
        let rows = rows.unwrap_or(&none);
        if rows.iter().any(|rows| rows.len() != expected) {
            let expected = format!("{} pairs in the memory bank", batches.len() * self.pairs);
            let found = rows[0].len().min(rows[1].len()) / self.layout.embed;
            let advice = "resume from the run's last.safetensors";
            return Err(Error::checkpoint("checkpoint", expected, found, advice));
        }
        self.pending_bank = Some(PendingBank { steps, rows: rows.clone(), ids: ids(batches)? });
        Ok(())
    }

    /// Makes the memory bank, if there is to be one, with what a resumed epoch goes on with.
    ///
    /// # Errors
    /// A device without enough memory.
    pub(super) fn make_bank(&mut self) -> Result<()> {
        if self.bank_capacity == 0 {
            return Ok(());
        }
        let shard = self.sliced.as_ref().map(Sliced::shard).filter(|_| SHARES_BANK);
        let bank = match &mut self.bank {
            Some(bank) => bank,
            none => none.insert(Bank::new(
                &self.device,
                self.bank_capacity,
                [self.pairs, self.layout.embed],
                shard,
            )?),
        };
        match self.pending_bank.take() {
            Some(PendingBank { steps, rows: [images, texts], ids }) => {
                bank.restore(&self.device, steps, [&images, &texts], &ids)
            }
            None => Ok(()),
        }
    }

    /// The bank, if the next step uses it and there is something in it.
    fn filled_bank(&self) -> Option<&Bank> {
        self.bank.as_ref().filter(|_| self.banking).and_then(Bank::filled)
    }

    /// Keeps the rows of a bank that several processes share, so that the first process can make a checkpoint. All
    /// processes call this.
    pub(crate) async fn keep_bank(&mut self) -> Result<()> {
        self.kept_bank = match self.filled_bank() {
            Some(bank) if bank.is_divided() => bank.read(&self.device).await?,
            _ => None,
        };
        Ok(())
    }

    /// The rows of the memory bank, if there are any.
    pub(crate) async fn bank_rows(&self) -> Result<Option<[Vec<f32>; 2]>> {
        if let Some(pending) = &self.pending_bank {
            return Ok(Some(pending.rows.clone()).filter(|_| pending.steps > 0));
        }
        match self.filled_bank() {
            None => Ok(None),
            Some(bank) if bank.is_divided() => match &self.kept_bank {
                Some(rows) => Ok(Some(rows.clone())),
                None => {
                    let (expected, advice) = ("the first process of the job", "make the checkpoint there");
                    Err(Error::config("checkpoint within an epoch", expected, "another process", advice))
                }
            },
            Some(bank) => bank.read(&self.device).await,
        }
    }
}

/// The content of a memory bank that is not made yet.
pub(super) struct PendingBank {
    /// Steps of the epoch.
    steps: usize,
    /// Images and texts, in the order of their places.
    rows: [Vec<f32>; 2],
    /// The image rows and the text rows of its batches.
    ids: Vec<[Vec<u64>; 2]>,
}

/// The tensor with the statistics of the steps of the epoch, and its width.
pub(super) const RECORDS: (&str, usize) = ("epoch.records", 5);

/// The statistics as the values of this tensor; none between epochs.
pub(super) fn values_of(records: &[StepStats]) -> Option<(String, Vec<usize>, Vec<f32>)> {
    let values =
        |r: &StepStats| [r.loss, r.positive, r.hardest, r.gradient_norm, f32::from(u8::from(r.clipped))];
    let shape = vec![records.len(), RECORDS.1];
    (!records.is_empty()).then(|| (RECORDS.0.into(), shape, records.iter().flat_map(values).collect()))
}

/// The statistics in the values of this tensor.
pub(super) fn records_of(values: &[f32]) -> Vec<StepStats> {
    let record = |row: &[f32]| StepStats {
        loss: row[0],
        positive: row[1],
        hardest: row[2],
        gradient_norm: row[3],
        clipped: row[4] > 0.0,
    };
    values.chunks_exact(RECORDS.1).map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Dataset;
    use crate::device::Device;
    use crate::train::{Checkpoint, TrainConfig, Trainer};
    use std::sync::{Arc, Mutex};

    #[test]
    fn a_checkpoint_that_does_not_fit_its_epoch_is_refused() {
        let config = TrainConfig::default().with(|c| {
            (c.embed, c.batch, c.memory_bank, c.bank_warmup) = (4, 128, 256, 0);
            c.objective = "hinge".parse().unwrap();
        });
        let dataset = Arc::new(Dataset::open("data/clipart-mini").unwrap());
        let mut trainer = Trainer::new(&Device::cpu(), dataset.clone(), config).unwrap();
        let (steps, taken) = (trainer.steps_per_epoch(), Arc::new(Mutex::new(None)));
        let to = taken.clone();
        trainer.checkpoint_every(Every::Steps(2), move |checkpoint| {
            to.lock().unwrap().get_or_insert_with(|| checkpoint.clone());
            Ok(())
        });
        trainer.run_epoch().unwrap();
        let checkpoint = taken.lock().unwrap().take().unwrap();
        let refused = |change: &dyn Fn(&mut Checkpoint)| {
            let mut changed = checkpoint.clone();
            change(&mut changed);
            let resumed = Trainer::resume(&Device::cpu(), dataset.clone(), changed);
            resumed.map(|trainer| trainer.step()).map_err(|error| error.to_string())
        };
        assert_eq!(refused(&|_| ()), Ok(2));
        let advice = "resume from the run's last.safetensors";
        let step = |step| refused(&|c: &mut Checkpoint| c.progress.within.as_mut().unwrap().step = step);
        let of = |found: &str| format!("checkpoint: expected {found}; {advice}");
        assert_eq!(step(1), Err(of(&format!("1 steps in 0 epochs of {steps} steps and 1 more, found 2"))));
        let beyond = steps + 1;
        let expected = format!("{beyond} steps in 0 epochs of {steps} steps and {beyond} more, found 2");
        assert_eq!(step(beyond), Err(of(&expected)));
        let bank = refused(&|c: &mut Checkpoint| c.state.as_mut().unwrap().bank = None);
        assert_eq!(bank, Err(of("256 pairs in the memory bank, found 0")));
    }

    #[test]
    fn steps_and_times_are_told_by_their_unit() {
        let every = |text: &str| text.parse::<Every>().unwrap();
        assert_eq!(every("500"), Every::Steps(500));
        for (text, seconds) in [("30s", 30), ("10m", 600), ("2h", 7200)] {
            assert_eq!(every(text), Every::Time(Duration::from_secs(seconds)));
            assert_eq!(every(&every(text).to_string()), every(text));
        }
        for wrong in ["", "0", "m", "0h", "-1", "1.5m", "10 m", "10d", "99999999999"] {
            let error = wrong.parse::<Every>().unwrap_err().to_string();
            let expected = "--checkpoint-every: expected a number of steps above 0, or of seconds, minutes or hours, found '";
            assert!(error.starts_with(expected), "{error}");
        }
        assert!(every("3").is_due(3, Duration::ZERO) && !every("3").is_due(2, Duration::MAX));
        assert!(
            every("3s").is_due(0, Duration::from_secs(3)) && !every("3s").is_due(9, Duration::from_secs(2))
        );
    }
}
