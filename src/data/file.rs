//! Where the arrays of a dataset are.
//!
//! Finds an array by its name, and reports its type, its shape and its place in a file. It does not judge whether type
//! and shape fit their use, and it reads no values.

use super::arrays::Arrays;
use super::files::Files;
use super::lines::Lines;
use super::positioned::Header;
#[cfg(feature = "native")]
use super::{
    columns::{self, Table},
    folder::Folder,
    foreign,
    manifest::Manifest,
    npz::Archive,
    positioned::PositionedFile,
    tensors::Tensors,
};
use crate::Result;
use crate::io::RowList;
use std::path::Path;
#[cfg(feature = "native")]
use std::path::PathBuf;

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
    #[cfg(feature = "native")]
    Folder(Folder),
    #[cfg(feature = "native")]
    Safetensors(Tensors),
    #[cfg(feature = "native")]
    Npz(Archive),
    #[cfg(feature = "native")]
    Table(Table),
    #[cfg(feature = "native")]
    Manifest(Manifest),
    Memory(Arrays),
    /// The contents of files.
    Files(Files),
}

impl Source {
    /// The name of the array in messages: its file, and its tensor if the file holds several.
    pub fn label(&self, name: &str) -> String {
        match self {
            #[cfg(feature = "native")]
            Self::Folder(folder) => folder.label(name),
            #[cfg(feature = "native")]
            Self::Safetensors(tensors) => format!("{} tensor {name}", tensors.label),
            #[cfg(feature = "native")]
            Self::Npz(archive) => archive.label(name),
            #[cfg(feature = "native")]
            Self::Table(table) => table.label(name),
            #[cfg(feature = "native")]
            Self::Manifest(manifest) => manifest.label(name),
            Self::Memory(_) => format!("array {name}"),
            Self::Files(files) => files.label(name),
        }
    }

    /// The folder, if it is one.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            #[cfg(feature = "native")]
            Self::Folder(folder) => Some(folder.path()),
            _ => None,
        }
    }

    /// Whether there is an array `name`, valid or not.
    pub fn has(&self, name: &str) -> bool {
        match self {
            #[cfg(feature = "native")]
            Self::Folder(folder) => folder.has(name),
            #[cfg(feature = "native")]
            Self::Safetensors(tensors) => tensors.metadata.info(name).is_some(),
            #[cfg(feature = "native")]
            Self::Npz(archive) => archive.has(name),
            #[cfg(feature = "native")]
            Self::Table(table) => table.has(name),
            #[cfg(feature = "native")]
            Self::Manifest(manifest) => manifest.has(name),
            Self::Memory(arrays) => arrays.has(name),
            Self::Files(files) => files.has(name),
        }
    }

    /// The row numbers `name`, where they follow from how the dataset is laid out.
    pub fn rows(&self, name: &str) -> Option<&RowList> {
        match self {
            #[cfg(feature = "native")]
            Self::Folder(folder) => folder.rows(name),
            #[cfg(feature = "native")]
            Self::Table(table) => table.rows(name),
            #[cfg(feature = "native")]
            Self::Manifest(manifest) => manifest.rows(name),
            Self::Memory(arrays) => arrays.rows(name),
            _ => None,
        }
    }

    /// The header of the array `name`.
    pub fn header(&self, name: &str) -> Result<Header> {
        match self {
            #[cfg(feature = "native")]
            Self::Folder(folder) => folder.header(name),
            #[cfg(feature = "native")]
            Self::Safetensors(tensors) => tensors.header(name, self.label(name)),
            #[cfg(feature = "native")]
            Self::Npz(archive) => archive.header(name),
            #[cfg(feature = "native")]
            Self::Table(table) => table.header(name),
            #[cfg(feature = "native")]
            Self::Manifest(manifest) => manifest.header(name),
            Self::Memory(arrays) => arrays.header(name, self.label(name)),
            Self::Files(files) => files.header(name),
        }
    }

    /// Where the captions of texts and the names of images are.
    pub fn lines(&self) -> [Lines; 2] {
        match self {
            #[cfg(feature = "native")]
            Self::Folder(folder) => folder.lines(),
            #[cfg(feature = "native")]
            Self::Table(table) => table.lines(),
            #[cfg(feature = "native")]
            Self::Manifest(manifest) => manifest.lines(),
            Self::Files(files) => files.lines(),
            _ => [const { Lines::None }; 2],
        }
    }

    /// What the user should know about how the dataset is read.
    pub fn notes(&self) -> &[String] {
        match self {
            #[cfg(feature = "native")]
            Self::Folder(folder) => folder.notes(),
            _ => &[],
        }
    }
}

#[cfg(feature = "native")]
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
}
