//! Where the arrays of a dataset are.
//!
//! Finds an array by its name, and reports its type, its shape and its place in a file. It does not judge whether type
//! and shape fit their use, and it reads no values.

use super::arrays::Arrays;
use super::columns::{self, Table};
use super::folder::Folder;
use super::foreign;
use super::lines::Lines;
use super::manifest::Manifest;
use super::npz::Archive;
use super::positioned::{Header, PositionedFile};
use super::tensors::Tensors;
use crate::Result;
use std::path::{Path, PathBuf};

/// All arrays that a dataset may hold.
pub(super) const ARRAYS: [&str; 13] = [
    "images",
    "texts",
    "image_regions",
    "region_offsets",
    "region_lengths",
    "text_tokens",
    "text_offsets",
    "text_lengths",
    "text_to_image",
    "pairs",
    "split_train",
    "split_val",
    "split_test",
];
/// All text files that a folder may also hold: the captions of texts and the names of images.
pub(super) const TEXTS: [&str; 2] = ["captions.txt", "image_names.txt"];

/// The place of a dataset's arrays.
pub(super) enum Source {
    Folder(Folder),
    Safetensors(Tensors),
    Npz(Archive),
    Table(Table),
    Manifest(Manifest),
    Memory(Arrays),
}

impl Source {
    /// Opens a folder, or opens a file and reads its header.
    pub fn open(path: &Path) -> Result<Self> {
        const EXPECTED: &str =
            "a dataset: a folder, or a .safetensors, .npz, .parquet, .arrow, .feather or .json file";
        if path.is_dir() {
            return Folder::open(path).map(Self::Folder);
        }
        let file = PositionedFile::open(path, EXPECTED)?;
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("safetensors") => Tensors::open(path, file).map(Self::Safetensors),
            Some("npz") => Archive::open(path, file).map(Self::Npz),
            Some(extension) if columns::ENABLED && columns::EXTENSIONS.contains(&extension) => {
                Table::open(path).map(Self::Table)
            }
            Some("json") => match Manifest::open(path, &file)? {
                Some(manifest) => Ok(Self::Manifest(manifest)),
                None => foreign::dataset(path, EXPECTED),
            },
            _ => foreign::dataset(path, EXPECTED),
        }
    }

    /// The name of the array in messages: its file, and its tensor if the file holds several.
    pub fn label(&self, name: &str) -> String {
        match self {
            Self::Folder(folder) => folder.label(name),
            Self::Safetensors(tensors) => format!("{} tensor {name}", tensors.label),
            Self::Npz(archive) => archive.label(name),
            Self::Table(table) => table.label(name),
            Self::Manifest(manifest) => manifest.label(name),
            Self::Memory(_) => format!("array {name}"),
        }
    }

    /// Every file that a dataset at `path` may consist of, whether it exists or not.
    pub fn paths(path: &Path) -> Vec<PathBuf> {
        match path.is_dir() {
            true => Folder::paths(path),
            false => {
                let listed =
                    PositionedFile::open(path, "").ok().and_then(|file| Manifest::open(path, &file).ok()?);
                let listed = listed.filter(|_| path.extension().is_some_and(|ending| ending == "json"));
                let listed = listed.map_or(Vec::new(), |manifest| manifest.paths());
                std::iter::once(path.to_path_buf()).chain(listed).collect()
            }
        }
    }

    /// The folder, if it is one.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::Folder(folder) => Some(folder.path()),
            _ => None,
        }
    }

    /// Whether there is an array `name`, valid or not.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::Folder(folder) => folder.has(name),
            Self::Safetensors(tensors) => tensors.metadata.info(name).is_some(),
            Self::Npz(archive) => archive.has(name),
            Self::Table(table) => table.has(name),
            Self::Manifest(manifest) => manifest.has(name),
            Self::Memory(arrays) => arrays.has(name),
        }
    }

    /// The header of the array `name`.
    pub fn header(&self, name: &str) -> Result<Header> {
        match self {
            Self::Folder(folder) => folder.header(name),
            Self::Safetensors(tensors) => tensors.header(name, self.label(name)),
            Self::Npz(archive) => archive.header(name),
            Self::Table(table) => table.header(name),
            Self::Manifest(manifest) => manifest.header(name),
            Self::Memory(arrays) => arrays.header(name, self.label(name)),
        }
    }

    /// Where the captions of texts and the names of images are.
    pub fn lines(&self) -> [Lines; 2] {
        match self {
            Self::Folder(folder) => folder.lines(),
            Self::Table(table) => table.lines(),
            Self::Manifest(manifest) => manifest.lines(),
            _ => [Lines::None, Lines::None],
        }
    }

    /// What the user should know about how the dataset is read.
    pub fn notes(&self) -> &[String] {
        match self {
            Self::Folder(folder) => folder.notes(),
            _ => &[],
        }
    }
}
