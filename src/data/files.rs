//! A dataset in the contents of files, as a page in a browser has them.

use super::file::TEXTS;
use super::lines::Lines;
use super::npy::npy_in;
use super::positioned::{Header, PositionedFile};
use super::tensors::Tensors;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// The arrays and the texts in files.
pub(super) struct Files {
    /// The headers of the `.npy` files, by the names of the arrays.
    arrays: BTreeMap<String, Header>,
    tensors: Option<Tensors>,
    lines: [Lines; 2],
}

impl Files {
    /// Reads the headers. Of the name of a file, only what follows the last slash counts.
    pub fn open(files: Vec<(String, Vec<u8>)>) -> Result<Self> {
        const EXPECTED: &str = "files of a dataset: .npy files, or one .safetensors file";
        let (mut arrays, mut tensors, mut lines) =
            (BTreeMap::new(), None::<Tensors>, [const { Lines::None }; 2]);
        let mut other = None;
        for (path, bytes) in files {
            let name = path.rsplit('/').next().unwrap_or_default().to_string();
            let is_twice = |there: bool| match there {
                true => Err(Error::data(&name, "one file of this kind", "two", "give one dataset at a time")),
                false => Ok(()),
            };
            if let Some(at) = TEXTS.iter().position(|text| *text == name) {
                is_twice(!matches!(lines[at], Lines::None))?;
                lines[at] = Lines::Bytes(name, bytes);
            } else if let Some(array) = name.strip_suffix(".npy") {
                is_twice(arrays.contains_key(array))?;
                arrays.insert(array.to_string(), npy_in(PositionedFile::memory(bytes), name.clone())?);
            } else if name.ends_with(".safetensors") {
                is_twice(tensors.is_some())?;
                tensors = Some(Tensors::open(Path::new(&name), PositionedFile::memory(bytes))?);
            } else {
                other = Some(name);
            }
        }
        if arrays.is_empty() && tensors.is_none() {
            let advice = "give images.npy, texts.npy and what else the dataset has, or a .safetensors file";
            let thing = other.clone().unwrap_or_else(|| "dataset".into());
            let found = if other.is_some() { "another file" } else { "no file" };
            return Err(Error::data(thing, EXPECTED, found, advice));
        }
        Ok(Self { arrays, tensors, lines })
    }

    /// The safetensors file with this array.
    fn tensors(&self, name: &str) -> Option<&Tensors> {
        let alone = self.arrays.is_empty();
        self.tensors.as_ref().filter(|tensors| alone || tensors.metadata.info(name).is_some())
    }

    pub fn label(&self, name: &str) -> String {
        match (self.arrays.contains_key(name), self.tensors(name)) {
            (false, Some(tensors)) => format!("{} tensor {name}", tensors.label),
            _ => format!("{name}.npy"),
        }
    }

    pub fn has(&self, name: &str) -> bool {
        let in_tensors = |tensors: &Tensors| tensors.metadata.info(name).is_some();
        self.arrays.contains_key(name) || self.tensors.as_ref().is_some_and(in_tensors)
    }

    pub fn header(&self, name: &str) -> Result<Header> {
        match (self.arrays.get(name), self.tensors(name)) {
            (Some(header), _) => Ok(header.clone()),
            (None, Some(tensors)) => tensors.header(name, self.label(name)),
            (None, None) => {
                let advice = "check the path and that the dataset is complete";
                Err(Error::data(self.label(name), "an .npy file", "no such file", advice))
            }
        }
    }

    pub fn lines(&self) -> [Lines; 2] {
        self.lines.clone()
    }
}
