//! `results.jsonl`: the plan of a sweep, then one line per run and per evaluation on the test split.

use super::{Sweep, Variant};
use crate::data::Dataset;
use crate::device::Device;
use crate::eval::Recall;
use crate::io as files;
use crate::io::{Obstacle, write_regular};
use crate::train::{Best, Point, TrainConfig, is_same_dataset};
use crate::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A finished run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Run {
    /// Name of the objective.
    pub objective: String,
    /// Point of the grid.
    pub point: String,
    /// Seed.
    pub seed: u64,
    /// The best epoch by validation rsum; `None` if the run diverged.
    pub best: Option<Best>,
    /// Why the run did not finish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diverged: Option<String>,
    /// Whether an epoch of it collapsed; see [`Epoch::collapse`](crate::train::Epoch::collapse).
    pub collapsed: bool,
    /// What it ran on.
    pub device: String,
    /// Time it took.
    pub seconds: f64,
    /// Its learning curve.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub epochs: Vec<Point>,
}

/// A chosen head on the test split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Test {
    pub objective: String,
    pub point: String,
    pub seed: u64,
    pub recall: Recall,
    /// With the correction for hubs. The same as `recall` if no correction raises validation; `None` if none was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrected: Option<Recall>,
}

/// What decides the results; the first line of their file.
#[derive(Serialize)]
pub(super) struct Plan<'a> {
    dataset: String,
    objectives: Vec<String>,
    seeds: &'a [u64],
    settings: Vec<&'a TrainConfig>,
}

impl<'a> Plan<'a> {
    pub fn new(sweep: &'a Sweep, dataset: &Dataset) -> Result<Self> {
        let name = |variant: &Variant| format!("{} {}", variant.objective(), variant.point).trim_end().into();
        Ok(Self {
            dataset: format!("{} {}", dataset.name(), crate::train::fingerprint(dataset)?),
            objectives: sweep.variants.iter().map(name).collect(),
            seeds: &sweep.seeds,
            settings: sweep.variants.iter().map(|variant| &variant.config).collect(),
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Run(Run),
    Test(Test),
}

/// The results so far, and the file that they are appended to.
pub(super) struct Results {
    pub runs: Vec<Run>,
    pub tests: Vec<Test>,
    path: PathBuf,
    /// Missing in a process of a job that does not write.
    file: Option<File>,
}

impl Results {
    /// Opens the results of `plan` in the folder `out`, which is made where it is missing; what a killed sweep left of a
    /// last line is dropped. A sweep that begins must not find any of the `heads` that it will write.
    pub fn open(out: &Path, plan: &Plan, heads: Vec<PathBuf>) -> Result<Self> {
        let path = out.join("results.jsonl");
        let folder = out.join("heads");
        std::fs::create_dir_all(&folder).map_err(|e| unwritable(&folder)(e.into()))?;
        let mut written = match files::read(&path, files::LINES) {
            Err(obstacle) if obstacle.is_missing() => None,
            Ok(written) => Some(written),
            Err(obstacle) => {
                let (expected, advice) = ("the results of a sweep", "choose another --out");
                return Err(obstacle.error(ErrorKind::Checkpoint, path.display(), expected, advice));
            }
        };
        if written.is_none() {
            refuse_foreign(heads)?;
        }
        let written = written.get_or_insert_default();
        let plan = to_line(plan)?;
        // A last line that only lacks its end is one that an editor has left so.
        let start = written.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        let (mut whole, last) = (start, &written[start..]);
        if start > 0 && serde_json::from_slice::<Line>(last).is_ok() {
            written.push(b'\n');
            whole = written.len();
        }
        let text = String::from_utf8_lossy(&written[..whole]);
        let mut lines = text.split_inclusive('\n');
        match lines.next() {
            None if plan.as_bytes().starts_with(written) => write_regular(&path, plan.as_bytes())?,
            None => return Err(other_plan(&path, &String::from_utf8_lossy(written), &plan)),
            Some(earlier) if is_same_plan(earlier, &plan) => {
                if whole > start || whole < written.len() {
                    write_regular(&path, &written[..whole])?;
                }
            }
            Some(earlier) => return Err(other_plan(&path, earlier, &plan)),
        }
        files::remove_partial(&folder).map_err(unwritable(&folder))?;
        let (mut runs, mut tests) = (Vec::new(), Vec::new());
        for (number, line) in lines.enumerate() {
            match serde_json::from_str(line) {
                Ok(Line::Run(run)) => runs.push(run),
                Ok(Line::Test(test)) => tests.push(test),
                Err(e) => {
                    let thing = format!("{} line {}", path.display(), number + 2);
                    let advice = "take the line out, or choose another --out";
                    return Err(Error::checkpoint(thing, "a result of a sweep", e, advice));
                }
            }
        }
        let file = OpenOptions::new().append(true).open(&path).map_err(|e| unwritable(&path)(e.into()))?;
        Ok(Self { runs, tests, path, file: Some(file) })
    }

    /// [`Results::open`] in the first of the processes that share the device. The others get what it has read, and write
    /// nothing.
    pub fn shared(device: &Device, out: &Path, plan: &Plan, heads: Vec<PathBuf>) -> Result<Self> {
        let first = device.place()[0] == 0;
        let own = if first { Self::open(out, plan, heads).map(Some) } else { Ok(None) };
        let said = own.as_ref().map_err(Clone::clone).and_then(|own| match own {
            Some(Self { runs, tests, .. }) => serde_json::to_string(&(runs, tests)).map_err(unwritten),
            None => Ok(String::new()),
        });
        let said = device.texts("results of the sweep", said)?;
        if let Some(own) = own? {
            return Ok(own);
        }
        let (runs, tests) = serde_json::from_str(&said[0]).map_err(unwritten)?;
        Ok(Self { runs, tests, path: out.join("results.jsonl"), file: None })
    }

    pub fn run(&self, objective: &str, point: &str, seed: u64) -> Option<&Run> {
        self.runs.iter().find(|run| run.objective == objective && run.point == point && run.seed == seed)
    }

    pub fn test(&self, objective: &str, point: &str, seed: u64) -> Option<&Test> {
        self.tests.iter().find(|test| test.objective == objective && test.point == point && test.seed == seed)
    }

    pub fn add_run(&mut self, run: Run) -> Result<()> {
        self.append(&Line::Run(run.clone()))?;
        self.runs.push(run);
        Ok(())
    }

    pub fn add_test(&mut self, test: Test) -> Result<()> {
        self.append(&Line::Test(test.clone()))?;
        self.tests.push(test);
        Ok(())
    }

    fn append(&mut self, line: &Line) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let line = to_line(line)?;
        let written = file.write_all(line.as_bytes()).and_then(|()| file.sync_data());
        written.map_err(|e| unwritable(&self.path)(e.into()))
    }
}

fn to_line(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string(value);
    text.map(|text| text + "\n").map_err(unwritten)
}

fn unwritten(error: serde_json::Error) -> Error {
    Error::checkpoint("results.jsonl", "numbers", error, "report this as a bug")
}

fn unwritable(path: &Path) -> impl Fn(Obstacle) -> Error + '_ {
    |obstacle| {
        let advice = "check the folder, its space and its rights";
        obstacle.error(ErrorKind::Checkpoint, path.display(), "a file that can be written", advice)
    }
}

/// Of a file that is there where a sweep that begins is to write one.
fn refuse_foreign(files: Vec<PathBuf>) -> Result<()> {
    let there = files.into_iter().find(|path| path.symlink_metadata().is_ok());
    there.map_or(Ok(()), |path| {
        let advice = "move it elsewhere, or choose another --out";
        Err(Error::checkpoint(path.display(), "no file yet: this sweep begins", "a file", advice))
    })
}

/// Whether two plans are the same. A plan of an older version names no hash of all features.
fn is_same_plan(earlier: &str, plan: &str) -> bool {
    let parse = |text: &str| serde_json::from_str::<Value>(text).ok();
    let older = || {
        let (mut earlier, plan) = (parse(earlier)?, parse(plan)?);
        let dataset = |plan: &Value| {
            let (name, fingerprint) = plan["dataset"].as_str()?.rsplit_once(' ')?;
            Some((name.to_string(), fingerprint.to_string()))
        };
        let (old, new) = (dataset(&earlier)?, dataset(&plan)?);
        earlier["dataset"] = plan["dataset"].clone();
        Some(old.0 == new.0 && is_same_dataset(&old.1, &new.1) && earlier == plan)
    };
    earlier == plan || older() == Some(true)
}

/// Names the first thing in which two plans differ.
fn other_plan(path: &Path, earlier: &str, plan: &str) -> Error {
    let advice = "give the options that the sweep was started with, or another --out";
    let (old, new) = (serde_json::from_str::<Value>(earlier), serde_json::from_str::<Value>(plan));
    match (old, new) {
        (Ok(old), Ok(new)) if old.get("settings").is_some() => {
            let (place, old, new) = difference(String::new(), &old, &new).unwrap_or_default();
            Error::checkpoint(path.display(), format!("{place} = {old}"), format!("{place} = {new}"), advice)
        }
        _ => Error::checkpoint(
            path.display(),
            "the results of a sweep",
            "another file",
            "choose another --out",
        ),
    }
}

fn difference(place: String, old: &Value, new: &Value) -> Option<(String, String, String)> {
    let within = |key: &str| if place.is_empty() { key.to_string() } else { format!("{place}.{key}") };
    match (old, new) {
        (Value::Object(a), Value::Object(b)) if a.keys().eq(b.keys()) => {
            a.iter().find_map(|(key, old)| difference(within(key), old, &b[key]))
        }
        // Options of all runs: their names have been compared, so the number of the first that differs says nothing.
        (Value::Array(a), Value::Array(b)) if place == "settings" && a.len() == b.len() => {
            a.iter().zip(b).find_map(|(old, new)| difference(String::new(), old, new))
        }
        _ => (old != new).then(|| (place, old.to_string(), new.to_string())),
    }
}
