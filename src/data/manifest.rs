//! A manifest: a JSON file that lists the files of every array, so that a dataset can lie in many files and folders.
//!
//! Knows the form of the list. The files themselves are those of `super::shards` and `super::columns`.

use super::columns::{self, EXTENSIONS};
use super::file::ARRAYS;
use super::lines::Lines;
use super::positioned::{Header, PositionedFile};
use super::shards::{between, check_numbers, join_files};
use super::splits::TEXT_TO_IMAGE;
use crate::io::{Collected, RowList, SMALL};
use crate::{Error, Plain, Result};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The keys of the text files: the captions of texts and the names of images.
const LINES: [&str; 2] = ["captions", "image_names"];

/// A file of the list.
#[derive(Debug)]
struct Listed {
    path: PathBuf,
    /// The number of its rows, if the list tells it.
    rows: Option<u64>,
}

/// A list of files.
#[derive(Debug)]
pub(super) struct Manifest {
    label: String,
    files: BTreeMap<&'static str, Vec<Listed>>,
    /// Row numbers that the list itself has.
    rows: BTreeMap<&'static str, RowList>,
}

/// The keys that may have ranges of rows in place of files.
const RANGES: [&str; 4] = [TEXT_TO_IMAGE, "split_train", "split_val", "split_test"];

impl Manifest {
    /// Reads the list. `None` if the file holds something else.
    pub fn open(path: &Path, file: &PositionedFile) -> Result<Option<Self>> {
        if file.bytes > SMALL {
            return Ok(None);
        }
        let label = path.display().to_string();
        let mut bytes = vec![0; file.bytes as usize];
        file.read(|| label.clone(), &mut bytes, 0)?;
        let Some(entries) = list(&bytes) else { return Ok(None) };
        let folder = path.parent().unwrap_or(Path::new(""));
        let (mut files, mut rows) = (BTreeMap::new(), BTreeMap::new());
        for (key, value) in entries {
            let Some(name) = ARRAYS.into_iter().chain(LINES).find(|name| *name == key) else {
                let names: Vec<_> = ARRAYS.into_iter().chain(LINES).collect();
                let expected = format!("one of {}", names.join(", "));
                let found = format!("'{}'", Plain(&key));
                return Err(Error::data(format!("{label} key"), expected, found, "rename it, or remove it"));
            };
            let values = match value {
                Value::Array(values) => values,
                value => vec![value],
            };
            if RANGES.contains(&name) && values.iter().any(|value| value.get("first").is_some()) {
                rows.insert(name, ranges(&format!("{label} {name}"), &values)?);
                continue;
            }
            let mut listed = Vec::new();
            for value in values {
                listed.extend(entry(&format!("{label} {name}"), folder, value)?);
            }
            if listed.is_empty() {
                let advice = "name its files, or remove the key";
                return Err(Error::data(format!("{label} {name}"), "a file or more", "none", advice));
            }
            files.insert(name, listed);
        }
        Ok(Some(Self { label, files, rows }))
    }

    /// Every file of the list.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.files.values().flatten().map(|listed| listed.path.clone()).collect()
    }

    /// The name of the array in messages.
    pub fn label(&self, name: &str) -> String {
        match self.files.get(name).map(Vec::as_slice) {
            Some([one]) => one.path.display().to_string(),
            _ => format!("{} {name}", self.label),
        }
    }

    /// Whether the list has an array `name`.
    pub fn has(&self, name: &str) -> bool {
        self.files.contains_key(name) || self.rows.contains_key(name)
    }

    /// The row numbers `name`, if the list itself has them.
    pub fn rows(&self, name: &str) -> Option<&RowList> {
        self.rows.get(name)
    }

    /// The header of the array `name`.
    pub fn header(&self, name: &str) -> Result<Header> {
        let Some(listed) = self.files.get(name) else {
            let advice = format!("add \"{name}\" with its files");
            return Err(Error::data(self.label(name), "the files of this array", "none", advice));
        };
        let paths: Vec<_> = listed.iter().map(|listed| listed.path.clone()).collect();
        let ending = |path: &PathBuf, endings: &[&str]| {
            path.extension().and_then(|ending| ending.to_str()).is_some_and(|own| endings.contains(&own))
        };
        if columns::ENABLED && paths.iter().all(|path| ending(path, &EXTENSIONS)) {
            return columns::header(self.label(name), &paths, name);
        }
        if let Some(other) = paths.iter().find(|path| !ending(path, &["npy"])) {
            let mut expected = "an .npy file".to_string();
            if columns::ENABLED {
                expected += ", or Parquet or Arrow files alone";
            }
            let advice = "save the array with numpy.save";
            return Err(Error::data(other.display(), expected, "a file of another name", advice));
        }
        let (header, rows) = join_files(self.label(name), &paths)?;
        for (Listed { path, rows }, found) in listed.iter().zip(rows) {
            if let Some(rows) = rows.filter(|rows| *rows != found) {
                let expected = format!("{rows} rows, as {} says", self.label);
                let advice = "copy or write the file again, or correct the number";
                return Err(Error::data(path.display(), expected, found, advice));
            }
        }
        Ok(header)
    }

    /// Where the captions and the names of images are.
    pub fn lines(&self) -> [Lines; 2] {
        LINES.map(|name| match self.files.get(name) {
            None => Lines::None,
            Some(listed) => Lines::Listed(listed.iter().map(|listed| listed.path.clone()).collect()),
        })
    }
}

/// The entries of a list of files; `None` if the text is not such a list. A JSON file may also hold numbers.
fn list(bytes: &[u8]) -> Option<Map<String, Value>> {
    let Ok(Value::Object(entries)) = serde_json::from_slice(bytes) else { return None };
    let names_a_file = |value: &Value| match value {
        Value::String(_) => true,
        Value::Object(value) => value.contains_key("file"),
        _ => false,
    };
    let is_list = entries.values().any(|value| match value {
        Value::Array(values) => values.first().is_some_and(names_a_file),
        value => names_a_file(value),
    });
    is_list.then_some(entries)
}

/// The rows of ranges, one after the other.
fn ranges(label: &str, values: &[Value]) -> Result<RowList> {
    let range = |value: &Value| {
        let (first, rows) = (value.get("first")?.as_u64()?, value.get("rows")?.as_u64()?);
        let fits = rows > 0 && value.as_object()?.len() == 2 && first.checked_add(rows)? <= i64::MAX as u64;
        Some((first, usize::try_from(rows).ok().filter(|_| fits)?))
    };
    let mut found = Collected::default();
    for value in values {
        let Some((first, rows)) = range(value) else {
            let expected = "ranges such as {\"first\": 0, \"rows\": 1000}";
            let advice = "give the first row and the number of rows of each range";
            return Err(Error::data(label, expected, Plain(&value.to_string()), advice));
        };
        found.push_run(first, rows);
    }
    Ok(found.finish())
}

/// The files of an entry: a path, or a path and its number of rows. A `*` in the name stands for a number.
fn entry(label: &str, folder: &Path, value: Value) -> Result<Vec<Listed>> {
    const FORM: &str = "\"FILE\", or {\"file\": \"FILE\", \"rows\": ROWS}";
    let wrong = |found: &Value| {
        Err(Error::data(label, FORM, Plain(&found.to_string()), "give each file in one of these forms"))
    };
    let (name, rows) = match &value {
        Value::String(name) => (name, None),
        Value::Object(entry) => match (entry.get("file"), entry.get("rows"), entry.len()) {
            (Some(Value::String(name)), None, 1) => (name, None),
            (Some(Value::String(name)), Some(Value::Number(rows)), 2) if rows.is_u64() => {
                (name, rows.as_u64())
            }
            _ => return wrong(&value),
        },
        _ => return wrong(&value),
    };
    let path = folder.join(name);
    let file = path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
    let Some((start, end)) = file.split_once('*').filter(|_| rows.is_none()) else {
        return Ok(vec![Listed { path, rows }]);
    };
    let inside = path.parent().unwrap_or(Path::new(""));
    let found = between(&super::folder::entries(inside), start, end);
    if found.is_empty() {
        let (expected, advice) = ("files with a number in place of *", "check the folder and the name");
        return Err(Error::data(path.display(), expected, "none", advice));
    }
    check_numbers(inside, &found)?;
    Ok(found.into_iter().map(|(_, file)| Listed { path: inside.join(file), rows: None }).collect())
}
