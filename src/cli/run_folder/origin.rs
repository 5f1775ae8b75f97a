//! config.json of a run: how the run was started, and its options.

use super::{CONFIG, fault};
use crate::cli::report;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use wgoal::io as files;
use wgoal::{Device, ErrorKind, Result, TrainConfig};

/// config.json: where and how the run was started.
#[derive(Serialize, Deserialize)]
pub(super) struct Origin {
    wgoal: String,
    /// The id of the run, which its other files carry too; empty if an older version wrote the folder, and of an ensemble.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub run: String,
    #[serde(with = "any_path")]
    pub dataset: PathBuf,
    /// The recipe that the run was started with, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<String>,
    pub device: String,
    /// The arguments that repeat the run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    command: Vec<String>,
    /// Other devices, which computed earlier epochs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier_devices: Vec<String>,
}

/// A path in JSON: a string, or the bytes of the path if they are not UTF-8 (on Windows, its UTF-16 units).
mod any_path {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::ffi::OsString;
    #[cfg(unix)]
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    #[cfg(windows)]
    use std::os::windows::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Parts {
        Text(String),
        #[cfg(unix)]
        Units(Vec<u8>),
        #[cfg(windows)]
        Units(Vec<u16>),
    }

    pub fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        let path = path.as_os_str();
        let parts = match path.to_str() {
            Some(text) => Parts::Text(text.into()),
            #[cfg(unix)]
            None => Parts::Units(path.as_bytes().into()),
            #[cfg(windows)]
            None => Parts::Units(path.encode_wide().collect()),
            #[cfg(not(any(unix, windows)))]
            None => Parts::Text(path.to_string_lossy().into()),
        };
        parts.serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        let path = match Parts::deserialize(from)? {
            Parts::Text(text) => OsString::from(text),
            #[cfg(unix)]
            Parts::Units(units) => OsString::from_vec(units),
            #[cfg(windows)]
            Parts::Units(units) => OsString::from_wide(&units),
        };
        Ok(path.into())
    }
}

/// How a run starts or goes on.
pub struct Started<'a> {
    pub dataset: &'a Path,
    pub device: &'a Device,
    pub recipe: &'a str,
    pub resumed: bool,
    /// Options of the run that differ from the arguments of the process.
    pub changes: &'a [(&'a str, String)],
}

/// Writes config.json.
pub(super) fn write(folder: &Path, run: &str, start: Started, config: &TrainConfig) -> Result<()> {
    #[derive(Serialize)]
    struct Config<'a> {
        #[serde(flatten)]
        origin: Origin,
        #[serde(flatten)]
        config: &'a TrainConfig,
    }
    let origin = Origin {
        wgoal: env!("CARGO_PKG_VERSION").into(),
        run: run.into(),
        dataset: std::path::absolute(start.dataset).unwrap_or_else(|_| start.dataset.into()),
        recipe: Some(start.recipe.into()),
        earlier_devices: devices(folder, &start),
        command: arguments(folder, &start, config),
        device: start.device.to_string(),
    };
    let text = serde_json::to_string_pretty(&Config { origin, config })
        .map_err(|e| fault(&folder.join(CONFIG), "JSON", e, "report this as a bug"))?;
    files::write_regular(&folder.join(CONFIG), (text + "\n").as_bytes())
}

/// Reads config.json: how the run was started, and its options.
pub(super) fn read(path: &Path) -> Result<(Origin, TrainConfig)> {
    let (expected, advice) = ("the configuration of a run", "start a new run in another --out");
    let unreadable = |e: &dyn std::fmt::Display| fault(path, expected, e, advice);
    let text = files::read_text(path, files::SMALL)
        .map_err(|obstacle| obstacle.error(ErrorKind::Checkpoint, path.display(), expected, advice))?;
    let mut config: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&text).map_err(|e| unreadable(&e))?;
    let origin = ["wgoal", "run", "dataset", "recipe", "device", "command", "earlier_devices"]
        .iter()
        .filter_map(|key| config.remove_entry(*key))
        .collect();
    let origin = serde_json::from_value(serde_json::Value::Object(origin)).map_err(|e| unreadable(&e))?;
    let config = serde_json::from_value(config.into()).map_err(|e| unreadable(&e))?;
    Ok((origin, config))
}

/// Whether two names are of the same device. The name of the CPU has its number of threads, which changes no bit.
pub fn is_same_device(one: &str, other: &str) -> bool {
    one == other || [one, other].iter().all(|name| name.ends_with("(native)"))
}

/// The other devices of a resumed run. Empty for a new run.
fn devices(folder: &Path, start: &Started) -> Vec<String> {
    let before = read(&folder.join(CONFIG)).ok().filter(|_| start.resumed);
    let Some((Origin { device: last, mut earlier_devices, .. }, _)) = before else { return Vec::new() };
    if !is_same_device(&last, &start.device.to_string()) && !earlier_devices.contains(&last) {
        earlier_devices.push(last);
    }
    earlier_devices
}

/// The arguments that repeat a run: those given now, or those of a run that is resumed, with what has changed.
fn arguments(folder: &Path, start: &Started, config: &TrainConfig) -> Vec<String> {
    let before = read(&folder.join(CONFIG)).ok().filter(|_| start.resumed);
    let Some((Origin { command, .. }, before)) = before else {
        return report::changed(report::arguments(), start.changes);
    };
    let mut changes = Vec::new();
    if config.epochs != before.epochs {
        changes.push(("--epochs", config.epochs.to_string()));
    }
    if config.patience != before.patience {
        changes.push(("--patience", config.patience.to_string()));
    }
    // A folder of an older version names no arguments.
    if command.is_empty() { command } else { report::changed(command, &changes) }
}
