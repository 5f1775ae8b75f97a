//! A run, read from its folder.

use super::{Outcome, Sample};
use crate::io::{LINES, read, read_text, shell_word};
use crate::model::MAX_MEMBERS;
use crate::objective::Objective;
use crate::train::{Point, TrainConfig};
use crate::{Error, Plain, Result, is_unsafe};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// The file of a run folder with one [`Sample`] per line.
pub const SAMPLES: &str = "similarities.jsonl";
/// The file of a run folder with the [`Outcome`].
pub const OUTCOME: &str = "result.json";
/// The report of a run or of a sweep.
pub const PAGE: &str = "report.html";

/// A run, read from its folder.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Run {
    /// The folder.
    pub folder: PathBuf,
    /// Version of wgoal that wrote the folder.
    pub version: String,
    /// The dataset, if its path is text.
    pub dataset: Option<PathBuf>,
    /// The recipe, if the run was started with one.
    pub recipe: Option<String>,
    /// What the run ran on. The last one came last.
    pub devices: Vec<String>,
    /// The arguments that repeat the run, without the name of the program; empty if the folder does not name them.
    pub command: Vec<String>,
    /// The options.
    pub config: TrainConfig,
    /// The epochs.
    pub epochs: Vec<Point>,
    /// Similarities at some epochs, in order.
    pub samples: Vec<Sample>,
    /// What the run is worth; `None` if it has not ended.
    pub outcome: Option<Outcome>,
}

impl Run {
    /// Reads the folder of a run. The run may still go on.
    ///
    /// # Errors
    /// A folder without a run, a file that cannot be read.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self> {
        let folder = folder.into();
        let path = folder.join("config.json");
        let (expected, advice) = ("the folder of a run", "give a folder that `wgoal train` has written");
        let text = read_text(&path, LINES).map_err(|obstacle| match obstacle.is_missing() {
            true => Error::checkpoint(folder.display(), expected, "no config.json in it", advice),
            false => obstacle.error(crate::ErrorKind::Checkpoint, path.display(), expected, advice),
        })?;
        let unreadable = |e: serde_json::Error| Error::checkpoint(path.display(), expected, e, advice);
        let mut all: Map<String, Value> = serde_json::from_str(&text).map_err(unreadable)?;
        // The file holds the options, and beside them how the run was started.
        let options = serde_json::to_value(TrainConfig::default()).map_err(unreadable)?;
        let options = options.as_object().cloned().unwrap_or_default();
        let config: Map<String, Value> =
            options.keys().filter_map(|key| Some((key.clone(), all.remove(key)?))).collect();
        let config: TrainConfig = serde_json::from_value(Value::Object(config)).map_err(unreadable)?;
        // The page has a line per member.
        if config.ensemble > MAX_MEMBERS {
            let found = format!("an ensemble of {} heads; the most are {MAX_MEMBERS}", config.ensemble);
            return Err(Error::checkpoint(path.display(), expected, found, advice));
        }
        let text = |key: &str| all.get(key).and_then(Value::as_str).map(String::from);
        let texts = |key: &str| -> Vec<String> {
            let values = all.get(key).and_then(Value::as_array).into_iter().flatten();
            values.filter_map(|value| value.as_str().map(String::from)).collect()
        };
        let mut devices = texts("earlier_devices");
        devices.extend(text("device"));
        let outcome = folder.join(OUTCOME);
        Ok(Self {
            version: text("wgoal").unwrap_or_default(),
            dataset: text("dataset").map(PathBuf::from),
            recipe: text("recipe"),
            command: texts("command"),
            devices,
            config,
            epochs: lines(&folder.join("metrics.jsonl"))?,
            samples: lines(&folder.join(SAMPLES))?,
            outcome: lines(&outcome)?.pop(),
            folder,
        })
    }

    /// The name of the folder.
    pub fn name(&self) -> String {
        let whole = std::path::absolute(&self.folder).unwrap_or_else(|_| self.folder.clone());
        let name = whole.file_name().map(|name| name.to_string_lossy().into_owned());
        Plain(name.unwrap_or_else(|| self.folder.display().to_string())).to_string()
    }

    /// The command that repeats the run, to be copied into a shell; `None` if the folder does not name it.
    pub fn command_line(&self) -> Option<String> {
        let words = self.command.iter().map(|word| shell_word(word));
        let line = std::iter::once("wgoal".to_string()).chain(words).collect::<Vec<_>>().join(" ");
        // Such a character would change how the page reads.
        let escape = |c: char| if is_unsafe(c) { c.escape_unicode().to_string() } else { c.into() };
        (!self.command.is_empty()).then(|| line.chars().map(escape).collect())
    }

    /// The options as JSON. Numbers have as few digits as they were given with: JSON's own numbers would show those of
    /// f32 in f64.
    pub(super) fn options(&self) -> Value {
        let text = serde_json::to_string(&self.config).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// The objective.
    pub fn objective(&self) -> &Objective {
        &self.config.objective
    }

    /// The epoch with the best validation rsum so far, the first among equals.
    pub fn best(&self) -> Option<&Point> {
        self.epochs.iter().fold(None, |best: Option<&Point>, point| match best {
            Some(best) if best.val.rsum >= point.val.rsum => Some(best),
            _ => Some(point),
        })
    }
}

/// The values of a file with one JSON value per line, or none if there is no file. A last line that a killed run left
/// without its end is dropped.
fn lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let (expected, advice) = ("one line of JSON per entry", "restore the file, or remove it");
    let bytes = match read(path, LINES) {
        Ok(bytes) => bytes,
        Err(obstacle) if obstacle.is_missing() => return Ok(Vec::new()),
        Err(obstacle) => {
            return Err(obstacle.error(crate::ErrorKind::Checkpoint, path.display(), expected, advice));
        }
    };
    let text = String::from_utf8_lossy(&bytes);
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let parse = |(number, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| {
            Error::checkpoint(format!("{} line {}", path.display(), number + 1), expected, e, advice)
        })
    };
    whole.lines().enumerate().map(parse).collect()
}
