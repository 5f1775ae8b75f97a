//! The folder of a run: config.json, metrics.jsonl, best.safetensors, last.safetensors.
//!
//! An epoch writes best, then metrics, then last. Only last counts: a run that is killed in between repeats the epoch
//! and writes the same files again. A start that is not random, epoch 0, writes best and metrics. Checkpoints within an
//! epoch write last alone.
//!
//! All four carry the id of the run. A file of another run is refused. A file that is deleted while the run trains is
//! written again.

mod kept;
mod lock;
mod origin;
mod parts;

use super::checkpoint::read_checkpoint;
use super::{make_folder, shown};
use kept::Kept;
pub use lock::Lock;
use origin::Origin;
pub use origin::{Started, is_same_device};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};
use wgoal::io::{self as files, Obstacle};
use wgoal::train::{Epoch, Every, Init, Start};
use wgoal::{Checkpoint, Device, Error, ErrorKind, Result, TrainConfig, Trainer};

const CONFIG: &str = "config.json";
const METRICS: &str = "metrics.jsonl";
pub const BEST: &str = "best.safetensors";
const LAST: &str = "last.safetensors";
/// The folder of the members of an ensemble.
pub const MEMBERS: &str = "members";

/// How often a folder is written again that goes while it is written.
const TURNS: usize = 10;

/// An open run folder.
pub struct RunFolder {
    path: PathBuf,
    /// The id of the run.
    run: String,
    kept: Kept,
    /// The heads that are there.
    heads: Vec<&'static str>,
    _lock: Lock,
}

/// An earlier run to resume.
pub struct Earlier {
    pub config: TrainConfig,
    /// The recipe that the run was started with.
    pub recipe: String,
    /// The dataset and the device that the run was started on.
    pub dataset: PathBuf,
    pub device: String,
    /// `None` if the run was killed in its first epoch.
    pub checkpoint: Option<Checkpoint>,
}

pub fn fault(path: &Path, expected: &str, found: impl std::fmt::Display, advice: &str) -> Error {
    Error::new(ErrorKind::Checkpoint, path.display(), expected, found, advice)
}

fn unwritable(path: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    |e| obstructed(path)(e.into())
}

fn obstructed(path: &Path) -> impl Fn(Obstacle) -> Error + '_ {
    |obstacle| {
        let advice = "check the folder, its free space and its permissions";
        obstacle.error(ErrorKind::Checkpoint, path.display(), "a file that can be written", advice)
    }
}

/// The lines so far, or nothing if there is no file yet.
fn read_metrics(path: &Path) -> Result<String> {
    match files::read(path, files::LINES) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(obstacle) if obstacle.is_missing() => Ok(String::new()),
        Err(obstacle) => {
            let (expected, advice) = ("one line per epoch of a run", "restore the file, or remove it");
            Err(obstacle.error(ErrorKind::Checkpoint, path.display(), expected, advice))
        }
    }
}

/// The epoch of a line of metrics. `None` if the line is not whole.
fn epoch_of(line: &str) -> Option<u64> {
    serde_json::from_str::<serde_json::Value>(line).ok().and_then(|value| value["epoch"].as_u64())
}

impl RunFolder {
    /// Whether a folder holds a run that can be resumed.
    pub fn is_run(out: &Path) -> bool {
        out.join(CONFIG).exists()
    }

    /// What to resume.
    pub fn load(out: &Path) -> Result<Earlier> {
        let (last, config) = (out.join(LAST), out.join(CONFIG));
        if !config.exists() {
            return Err(fault(
                out,
                "the folder of a run",
                "no config.json in it",
                "give the --out of the run to resume",
            ));
        }
        let checkpoint = last.exists().then(|| read_checkpoint(&last)).transpose()?;
        let (Origin { run, dataset, recipe, device, .. }, config) = origin::read(&config)?;
        if config.ensemble == 1 {
            parts::check(out, &run, &config, checkpoint.as_ref())?;
        }
        // The members of an ensemble have their own checkpoints.
        if checkpoint.is_none() && config.ensemble == 1 {
            // A run that was killed in its first epoch has written at most the line of that epoch.
            let lines = read_metrics(&out.join(METRICS))?;
            let written = lines.lines().filter(|line| epoch_of(line) != Some(0)).count();
            if written > 1 {
                let advice = "restore the file, or start a new run in another --out";
                return Err(fault(&last, &format!("the checkpoint of {written} epochs"), "no file", advice));
            }
            note!("{} holds no checkpoint yet: starting from the beginning", shown(out));
        }
        // The options in the checkpoint count: a resumed run that was killed may have changed config.json already.
        let config = checkpoint.as_ref().map_or(config, |checkpoint| checkpoint.config().clone());
        // Runs without a recipe are plain training.
        let recipe = recipe.unwrap_or_else(|| "goal".into());
        Ok(Earlier { config, recipe, dataset, device, checkpoint })
    }

    /// Refuses to overwrite the head of a run with a baseline.
    pub fn refuse_if_of_run(out: &Path) -> Result<()> {
        let (expected, advice) = ("a folder without a run", "choose another --out");
        if let Some(name) = [CONFIG, LAST, METRICS].into_iter().find(|name| out.join(name).exists()) {
            return Err(fault(out, expected, format!("{name} of a run"), advice));
        }
        // The head of a baseline has no epochs, and the same command makes it again.
        let best = out.join(BEST);
        let of_baseline = |best: &Path| Checkpoint::load(best).is_ok_and(|head| head.epoch() == 0);
        match best.exists() && !of_baseline(&best) {
            false => Ok(()),
            true => Err(fault(out, expected, format!("a {BEST} that is not from a baseline"), advice)),
        }
    }

    /// Refuses to overwrite an earlier run, unless that run has finished no epoch: its head is then the start.
    pub fn refuse_if_used(out: &Path) -> Result<()> {
        let metrics = read_metrics(&out.join(METRICS)).ok().filter(|_| out.join(METRICS).exists());
        let none = metrics.is_some_and(|lines| lines.lines().all(|line| epoch_of(line) == Some(0)));
        let untrained =
            |best: &Path| !best.exists() || Checkpoint::load(best).is_ok_and(|head| head.epoch() == 0);
        let in_vain = none && origin::read(&out.join(CONFIG)).is_ok() && untrained(&out.join(BEST));
        let names: &[&str] = if in_vain { &[LAST] } else { &[CONFIG, LAST, BEST, METRICS] };
        for name in names {
            if out.join(name).exists() {
                let advice = "add --resume to continue it, or choose another --out";
                return Err(fault(
                    out,
                    "a folder without a run",
                    format!("{name} of an earlier run"),
                    advice,
                ));
            }
        }
        if in_vain { Ok(()) } else { super::report::refuse_foreign_page(out) }
    }

    /// Makes the folder and its files. Without `out`, the folder is `runs/NAME`, with a number appended if that exists.
    /// Removes what a killed run wrote after its last checkpoint. `lock` is the lock of a folder that exists. `changes` are options
    /// of this run that differ from the arguments of the process.
    pub fn open(
        out: Option<PathBuf>,
        lock: Option<Lock>,
        name: &str,
        trainer: &Trainer,
        device: &Device,
        dataset: &Path,
        recipe: &str,
        changes: &[(&str, String)],
    ) -> Result<Self> {
        let path = match out {
            Some(path) => make_folder(&path)?,
            None => new_run(name)?,
        };
        let lock = lock.map_or_else(|| Lock::of(&path), Ok)?;
        let resumed = trainer.epoch() > 0 || trainer.step() > 0;
        if !resumed && path.join(LAST).exists() {
            // Another process has used the folder in the meantime.
            Self::refuse_if_used(&path)?;
        }
        files::remove_partial(&path).map_err(obstructed(&path))?;
        let start = Started { dataset, device, recipe, resumed, changes };
        origin::write(&path, trainer.run_id(), start, trainer.config())?;

        let metrics_path = path.join(METRICS);
        // A run from the start records its start again.
        let from = u64::from(!resumed);
        let kept: String = read_metrics(&metrics_path)?
            .lines()
            .filter(|line| {
                epoch_of(line).is_some_and(|epoch| (from..=trainer.epoch() as u64).contains(&epoch))
            })
            .map(|line| format!("{line}\n"))
            .collect();
        if resumed {
            // A start that is not random has a line of its own, and so has its best head.
            let first = u64::from(trainer.config().init == Init::Xavier);
            parts::note_lost(&path, &kept, first, trainer.epoch() as u64);
        }
        files::write_regular(&metrics_path, kept.as_bytes())?;
        let mut kept = Kept::open(&path, kept)?;
        kept.keep(&path, CONFIG);
        let heads = if resumed { vec![LAST] } else { Vec::new() };
        let mut folder = Self { path, run: trainer.run_id().into(), kept, heads, _lock: lock };
        folder.restore_best(trainer, resumed)?;
        Ok(folder)
    }

    /// Keeps a file that was written after the folder was opened, to write it again if it is deleted.
    pub fn keep(&mut self, name: &'static str) {
        self.kept.keep(&self.path, name);
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of an ensemble: config.json alone. Each member has its own folder in [`MEMBERS`].
    pub fn of_ensemble(
        out: Option<PathBuf>,
        lock: Option<Lock>,
        name: &str,
        start: Started,
        config: &TrainConfig,
    ) -> Result<(PathBuf, Lock)> {
        let path = match out {
            Some(path) => make_folder(&path)?,
            None => new_run(name)?,
        };
        let lock = lock.map_or_else(|| Lock::of(&path), Ok)?;
        let members = path.join(MEMBERS);
        if !start.resumed && members.exists() {
            let advice = "move it elsewhere, or choose another --out";
            return Err(fault(&members, "no folder, because the run will make one", "a folder", advice));
        }
        files::remove_partial(&path).map_err(obstructed(&path))?;
        origin::write(&path, "", start, config)?;
        Ok((path, lock))
    }

    /// Writes the best head again. The file may be missing, or come from an epoch after the last checkpoint, which this
    /// run may not repeat exactly.
    fn restore_best(&mut self, trainer: &Trainer, resumed: bool) -> Result<()> {
        if resumed && trainer.best().is_some() {
            parts::note_restored(&self.path.join(BEST));
        }
        self.save_best(trainer)
    }

    fn save_best(&mut self, trainer: &Trainer) -> Result<()> {
        trainer.best().map_or(Ok(()), |best| self.save(&best, BEST))
    }

    fn save(&mut self, checkpoint: &Checkpoint, name: &'static str) -> Result<()> {
        checkpoint.save(self.path.join(name))?;
        if !self.heads.contains(&name) {
            self.heads.push(name);
        }
        Ok(())
    }

    /// Writes the results of the start: epoch 0. Its head is there since the folder was opened.
    pub fn record_start(&mut self, start: &Start) -> Result<()> {
        self.add_line(start)
    }

    /// Writes the results of an epoch.
    pub fn record(&mut self, trainer: &Trainer, epoch: &Epoch) -> Result<()> {
        self.restore_deleted(trainer)?;
        if epoch.best {
            self.unless_gone(trainer, |folder| folder.save_best(trainer))?;
        }
        self.add_line(epoch)?;
        self.unless_gone(trainer, |folder| folder.save(&trainer.checkpoint()?, LAST))
    }

    /// Writes again what was deleted from the folder, or the whole folder, and says so.
    ///
    /// # Errors
    /// Another text in the place of the metrics, or a file that cannot be written.
    pub fn restore_deleted(&mut self, trainer: &Trainer) -> Result<()> {
        // The folder may go while its files are looked at.
        let mut result = self.restore(trainer);
        for _ in 0..TURNS {
            if result.is_ok() || self.path.is_dir() {
                break;
            }
            result = self.restore(trainer);
        }
        result
    }

    /// Writes into the folder. If that fails because the folder has just been moved or deleted, writes the folder again first.
    fn unless_gone(&mut self, trainer: &Trainer, write: impl Fn(&mut Self) -> Result<()>) -> Result<()> {
        let mut result = write(self);
        for _ in 0..TURNS {
            if result.is_ok() || self.path.is_dir() {
                break;
            }
            self.restore_deleted(trainer)?;
            result = write(self);
        }
        result
    }

    fn restore(&mut self, trainer: &Trainer) -> Result<()> {
        if !self.path.is_dir() {
            make_folder(&self.path)?;
            self._lock = Lock::of(&self.path)?;
        }
        let mut restored = self.kept.restore(&self.path)?;
        for name in self.heads.clone() {
            if self.path.join(name).symlink_metadata().is_ok() {
                continue;
            }
            match name {
                BEST => self.save_best(trainer)?,
                _ => self.save(&trainer.checkpoint()?, LAST)?,
            }
            restored.push(name);
        }
        for name in restored {
            let path = self.path.join(name);
            always!("warning: {} was deleted while the run trained; it is written again", shown(&path));
        }
        Ok(())
    }

    /// Writes checkpoints within an epoch too.
    pub fn checkpoint_every(&self, trainer: &mut Trainer, every: Option<Every>) {
        let (folder, last) = (self.path.clone(), self.path.join(LAST));
        if let Some(every) = every {
            trainer.checkpoint_every(every, move |checkpoint| match checkpoint.save(&last) {
                // The folder has been moved or deleted. It comes again with the other files when the epoch ends.
                Err(_) if !folder.is_dir() => Ok(()),
                result => result,
            });
        }
    }

    /// Writes the checkpoint of a run that was stopped within an epoch.
    pub fn save_within(&mut self, trainer: &Trainer) -> Result<()> {
        if trainer.step() == 0 {
            return Ok(());
        }
        self.unless_gone(trainer, |folder| folder.save(&trainer.checkpoint()?, LAST))
    }

    fn add_line(&mut self, result: &impl Serialize) -> Result<()> {
        #[derive(Serialize)]
        struct Line<'a, T> {
            #[serde(flatten)]
            result: &'a T,
            #[serde(skip_serializing_if = "str::is_empty")]
            run: &'a str,
        }
        let line = super::to_json(&Line { result, run: &self.run })? + "\n";
        self.kept.add_line(&self.path, &line)
    }
}

/// Makes `runs/NAME`, with a number appended if that exists. Several processes can do this at once.
fn new_run(name: &str) -> Result<PathBuf> {
    let runs = make_folder(Path::new("runs"))?;
    let numbered = (2..u32::MAX).map(|k| format!("{name}-{k}"));
    for name in std::iter::once(name.to_string()).chain(numbered) {
        let path = runs.join(name);
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(unwritable(&path)(e)),
        }
    }
    Err(fault(&runs, "a free name for a new run", "none", "give --out"))
}
