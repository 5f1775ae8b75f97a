//! `wgoal report`, and what `wgoal train` records for the report of a run.

use super::run_folder::fault;
use super::{print_json, refuse_overwriting, say, shown, to_json};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};
use wgoal::io::write_regular;
use wgoal::report::{Corrected, OUTCOME, Outcome, PAGE, Ranked, Reference, Run, SAMPLES, Sample};
use wgoal::{Checkpoint, Recall, Result, Split, Trainer};

const EXAMPLES: &str = "\
Examples:
  wgoal report run                  writes run/report.html
  wgoal report run --html page.html";

/// The option is `--html`, as in `wgoal compare`.
#[derive(Args)]
#[command(before_long_help = EXAMPLES)]
pub struct ReportArgs {
    /// Folder of a run, which may still be training
    run: PathBuf,
    /// File for the report [default: report.html in the folder of the run]
    #[arg(long, value_name = "FILE.html", help_heading = "Output")]
    html: Option<PathBuf>,
    /// Print the result as one line of JSON
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// The output of `--json`.
#[derive(Serialize)]
struct Written {
    report: String,
}

impl ReportArgs {
    pub fn run(self) -> Result<()> {
        let out = match &self.html {
            Some(path) => {
                let names = [
                    "config.json",
                    "metrics.jsonl",
                    "best.safetensors",
                    "last.safetensors",
                    SAMPLES,
                    OUTCOME,
                ];
                refuse_overwriting("--html", path, names.map(|name| self.run.join(name)))?;
                path.clone()
            }
            None => self.run.join(PAGE),
        };
        let run = Run::open(&self.run)?;
        write_page(&run, &out)?;
        if self.json {
            return print_json(&Written { report: out.display().to_string() });
        }
        say(format!("report: {}", shown(&out)))
    }
}

fn write_page(run: &Run, out: &Path) -> Result<()> {
    wgoal::data::write_file(out, run.to_html()?.as_bytes())
}

/// Records what the report of a run needs while it trains. A failure here ends the report, but not the run.
pub struct Recorder {
    folder: PathBuf,
    /// `None` if the run writes no report.
    samples: Option<Vec<Sample>>,
    /// Whether the folder is that of an ensemble, whose members have the samples.
    of_ensemble: bool,
}

impl Recorder {
    /// For a run that starts or goes on in a folder. Without `report`, it records the outcome alone.
    pub fn start(trainer: &Trainer, folder: &Path, report: bool) -> Self {
        let mut recorder = Self { folder: folder.into(), samples: None, of_ensemble: false };
        // Until the run ends, nothing is known of its outcome.
        if !trainer.finished() {
            let _ = std::fs::remove_file(folder.join(OUTCOME));
        }
        // If the run begins, samples in its folder are of a run that saved no checkpoint.
        if trainer.epoch() == 0 && trainer.step() == 0 {
            let _ = std::fs::remove_file(folder.join(SAMPLES));
        }
        if report {
            let kept = match Run::open(folder) {
                Ok(run) => run.samples,
                Err(error) => {
                    note!("note: no report: {error}");
                    return recorder;
                }
            };
            let of_this = |sample: &Sample| sample.epoch <= trainer.epoch() && Sample::is_due(sample.epoch);
            recorder.samples = Some(kept.into_iter().filter(of_this).collect());
            // Within an epoch, the head is that of no epoch.
            if trainer.step() == 0 {
                recorder.epoch(trainer);
            }
        }
        recorder
    }

    /// For an ensemble whose members are trained. Its page has no samples.
    pub fn of_ensemble(folder: &Path, report: bool) -> Self {
        Self { folder: folder.into(), samples: report.then(Vec::new), of_ensemble: true }
    }

    /// Takes the sample of the epoch that the run has finished, if one is due.
    pub fn epoch(&mut self, trainer: &Trainer) {
        if Sample::is_due(trainer.epoch()) {
            self.guarded(|recorder| recorder.take(trainer));
        }
    }

    /// Runs work for the report. If it fails, says so once and ends the report.
    fn guarded(&mut self, work: impl FnOnce(&mut Self) -> Result<()>) {
        if self.samples.is_some()
            && let Err(error) = work(self)
        {
            note!("note: no report: {error}");
            self.samples = None;
        }
    }

    fn take(&mut self, trainer: &Trainer) -> Result<()> {
        let Some(samples) = &mut self.samples else { return Ok(()) };
        if samples.last().is_some_and(|sample| sample.epoch == trainer.epoch()) {
            return Ok(());
        }
        let head = trainer.head()?;
        samples.push(Sample::of(&trainer.device().alone(), trainer.dataset(), &head, trainer.epoch())?);
        let mut text = String::new();
        for sample in samples {
            text += &(to_json(sample)? + "\n");
        }
        write_regular(&self.folder.join(SAMPLES), text.as_bytes())
    }

    /// Writes what is known of the outcome before the closed forms are computed, which may fail.
    pub fn outcome(&self, best: &Checkpoint, test: Option<Recall>, corrected: Option<Corrected>) {
        if let Some(of) = best.best() {
            let mut outcome = Outcome::new(of, test);
            outcome.corrected = corrected;
            self.write(&outcome);
        }
    }

    fn write(&self, outcome: &Outcome) {
        let path = self.folder.join(OUTCOME);
        let written = to_json(outcome).and_then(|text| write_regular(&path, (text + "\n").as_bytes()));
        if let Err(error) = written {
            note!("note: the outcome is not saved: {error}");
        }
    }

    /// Writes the outcome and the report of a run that has ended. Returns where the report is.
    pub fn finish(
        mut self,
        trainer: &Trainer,
        best: &Checkpoint,
        test: Option<Recall>,
        corrected: Option<Corrected>,
        references: Vec<Reference>,
    ) -> Option<PathBuf> {
        let of = best.best()?;
        let mut outcome = Outcome::new(of, test);
        (outcome.corrected, outcome.references) = (corrected, references);
        if !self.of_ensemble {
            self.guarded(|recorder| recorder.take(trainer));
        }
        self.guarded(|_| {
            let split = if test.is_some() { Split::Test } else { Split::Val };
            let truth = trainer.truth(split)?;
            // The other processes of a job do not report.
            let (device, dataset) = (trainer.device().alone(), trainer.dataset());
            outcome.ranked = Some(Ranked::of(&device, dataset, best.head(), split, &truth)?);
            Ok(())
        });
        let folder = self.folder.clone();
        self.write(&outcome);
        let page = folder.join(PAGE);
        self.guarded(|_| write_regular(&page, Run::open(&folder)?.to_html()?.as_bytes()));
        self.samples.map(|_| page)
    }
}

/// The arguments that repeat this process in another folder: those given, without `--out` and `--resume`.
pub fn arguments() -> Vec<String> {
    let given = super::given().into_iter().skip(1).map(|argument| argument.to_string_lossy().into_owned());
    without(given.collect(), &["--out"], &["--resume"])
}

/// Arguments without some options. The `valued` ones have a value, the `bare` ones have none, or one after `=`.
fn without(arguments: Vec<String>, valued: &[&str], bare: &[&str]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let name = argument.split('=').next().unwrap_or_default();
        if valued.contains(&name) {
            // The value stands after `=`, or is the next argument.
            if !argument.contains('=') {
                arguments.next();
            }
        } else if !bare.contains(&name) {
            kept.push(argument);
        }
    }
    kept
}

/// The arguments of a run that was resumed with other numbers of epochs or another patience.
pub fn changed(arguments: Vec<String>, changes: &[(&str, String)]) -> Vec<String> {
    let names: Vec<_> = changes.iter().map(|(name, _)| *name).collect();
    let mut arguments = without(arguments, &names, &[]);
    for (name, value) in changes {
        arguments.extend([(*name).to_string(), value.clone()]);
    }
    arguments
}

/// Refuses to overwrite a report that is not of this run: one in a folder without a run.
pub fn refuse_foreign_page(out: &Path) -> Result<()> {
    for name in [PAGE, SAMPLES, OUTCOME] {
        let path = out.join(name);
        if path.symlink_metadata().is_ok() {
            let advice = "move it elsewhere, or choose another --out";
            return Err(fault(&path, "no file, because the run will write one", "a file", advice));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(String::from).collect()
    }

    #[test]
    fn the_repeated_command_is_the_one_given_without_its_folder() {
        let given = words("train data --lr 0.1 --out a --resume --epochs=4");
        assert_eq!(without(given, &["--out"], &["--resume"]), words("train data --lr 0.1 --epochs=4"));
        assert_eq!(without(words("train --out=a --resume=auto"), &["--out"], &["--resume"]), ["train"]);
        let longer = changed(words("train --epochs=4 data"), &[("--epochs", "8".into())]);
        assert_eq!(longer, words("train data --epochs 8"));
    }
}
