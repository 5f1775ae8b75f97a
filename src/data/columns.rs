//! Parquet and Arrow files: which column is which array, and its values.
//!
//! The values are decoded when the dataset is opened. The cargo feature `parquet` compiles the readers of these formats;
//! without it, the error says how to get them.

use super::header::Type;
use super::held::Held;
use super::lines::Lines;
use super::positioned::Header;
use super::splits::{Split, TEXT_TO_IMAGE};
use crate::io::RowList;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(feature = "parquet")]
use super::tables::open;

/// Endings of names of these files.
pub(super) const EXTENSIONS: [&str; 3] = ["parquet", "arrow", "feather"];
/// Whether this build reads them.
pub(super) const ENABLED: bool = cfg!(feature = "parquet");
/// The command that installs wgoal with the readers.
pub(super) const INSTALL: &str = "cargo install --locked --path . --features parquet";
/// Names of a column with the captions of texts.
pub(super) const CAPTIONS: &[&str] = &["caption", "captions", "text", "sentence"];
/// Names of a column with the names of images.
pub(super) const NAMES: &[&str] =
    &["image_path", "image_name", "image_names", "file_name", "filename", "path", "url", "key"];
/// Names of a column with features of images.
const IMAGES: &[&str] =
    &["images", "image_embedding", "image_embeddings", "image_emb", "img_emb", "image_features", "image"];
/// Names of a column with features of texts.
const TEXTS: &[&str] = &[
    "texts",
    "text_embedding",
    "text_embeddings",
    "text_emb",
    "txt_emb",
    "text_features",
    "caption_embedding",
    "text",
];
/// Names of a column with features of either kind, in a file that has the name of the array.
const ANY: &[&str] = &["embedding", "embeddings", "emb", "features", "vector"];

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "parquet"), allow(dead_code, reason = "only the readers make some of them"))]
pub(super) enum Kind {
    /// Lists of numbers.
    Lists,
    /// One number per row.
    Numbers,
    Text,
    Other,
}

/// Values of consecutive rows of a column.
#[derive(Debug)]
#[cfg_attr(not(feature = "parquet"), allow(dead_code, reason = "only the readers make some of them"))]
pub(super) enum Chunk {
    /// Little-endian numbers, `width` per row; `None` if rows are single numbers. `dtype` is the name of the type in
    /// safetensors.
    Numbers {
        dtype: &'static str,
        width: Option<usize>,
        rows: usize,
        bytes: Vec<u8>,
    },
    Text(Vec<String>),
}

/// The columns of a file, and the values of one of them.
pub(super) type Opened = (Vec<(String, Kind)>, Box<dyn Iterator<Item = Result<Chunk>>>);

/// The error of a build without the readers.
#[cfg(not(feature = "parquet"))]
fn open(path: &Path, _column: Option<&str>) -> Result<Opened> {
    super::foreign::dataset(path, "a file that this build reads")
}

/// The header of the array `name`, whose rows are in several files, one after another. `label` names it in messages.
pub(super) fn header(label: String, paths: &[PathBuf], name: &str) -> Result<Header> {
    let names: Vec<_> = std::iter::once(name).chain(own_names(name).iter().chain(ANY).copied()).collect();
    let column = |columns: &[(String, Kind)]| pick(columns, &names, true);
    read(label, paths, column)
}

/// Names of a column with this array.
fn own_names(array: &str) -> &'static [&'static str] {
    match array {
        "images" => IMAGES,
        "texts" => TEXTS,
        _ => &[],
    }
}

/// The first of `names` that is a column of numbers; else the only such column, if `alone` allows it.
fn pick(columns: &[(String, Kind)], names: &[&str], alone: bool) -> Option<String> {
    let usable = |kind: Kind| matches!(kind, Kind::Lists | Kind::Numbers);
    let named = |name: &&str| columns.iter().find(|(column, kind)| column == name && usable(*kind));
    let lists: Vec<_> = columns.iter().filter(|(_, kind)| *kind == Kind::Lists).collect();
    let only = if alone && lists.len() == 1 { Some(lists[0]) } else { None };
    let single = if alone && columns.len() == 1 && usable(columns[0].1) { Some(&columns[0]) } else { None };
    names.iter().find_map(named).or(only).or(single).map(|(name, _)| name.clone())
}

/// Reads the column that `choose` finds in each file. Rows must have equally many values of the same type.
fn read(
    label: String,
    paths: &[PathBuf],
    choose: impl Fn(&[(String, Kind)]) -> Option<String>,
) -> Result<Header> {
    let mut held = Held::new(&label);
    let mut first: Option<(&'static str, Option<usize>)> = None;
    let mut total = 0;
    for path in paths {
        let (columns, _) = open(path, None)?;
        let Some(column) = choose(&columns) else { return Err(no_column(path, &columns)) };
        let mut row = 0;
        for chunk in open(path, Some(&column))?.1 {
            let Chunk::Numbers { dtype, width, rows, bytes } = chunk? else { continue };
            let (wanted, same) = *first.get_or_insert((dtype, width));
            let thing = format!("{} column {column} row {row}", path.display());
            let advice = "write rows with equally many values of the same type";
            if width != same {
                let words =
                    |width: Option<usize>| width.map_or("one number".into(), |n| format!("{n} values"));
                let expected = format!("{}, as in the rows before", words(same));
                return Err(Error::data(thing, expected, words(width), advice));
            }
            if dtype != wanted {
                let expected = format!("values of type {wanted}, as in the rows before");
                return Err(Error::data(thing, expected, dtype, advice));
            }
            held.push(&bytes)?;
            row += rows;
        }
        total += row;
    }
    let (dtype, width) = first.unwrap_or(("F32", Some(0)));
    let shape = std::iter::once(total).chain(width).map(|n| n as u64).collect();
    let dtype = Type::of_safetensors(dtype);
    Ok(Header { label, file: Arc::new(held.finish()), start: 0, dtype, shape, alone: true })
}

/// The error of a file without a column that is looked for.
fn no_column(path: &Path, columns: &[(String, Kind)]) -> Error {
    let names: Vec<_> = columns.iter().map(|(name, _)| &name[..]).collect();
    let lists: Vec<_> = columns.iter().filter(|(_, kind)| *kind == Kind::Lists).collect();
    let found = match lists.len() {
        0 => format!("no column of lists of numbers, only {}", names.join(", ")),
        _ => format!("columns {}", names.join(", ")),
    };
    let expected = format!("a column of features named {}", IMAGES[0]);
    let advice = format!(
        "name the column of image features {}, that of text features {}; in a file of one array, keep one of them",
        IMAGES[0], TEXTS[0]
    );
    Error::data(path.display(), expected, found, advice)
}

/// The first column of text with one of these names in several files, one after another; `None` if a file has no such
/// column.
pub(super) fn read_lines(paths: &[PathBuf], names: &[&str]) -> Result<Option<Vec<String>>> {
    let mut lines = Vec::new();
    for path in paths {
        let columns = open(path, None)?.0;
        let Some(column) = text_column(&columns, names) else { return Ok(None) };
        for chunk in open(path, Some(column))?.1 {
            if let Chunk::Text(rows) = chunk? {
                lines.extend(rows);
            }
        }
    }
    Ok(Some(lines))
}

fn text_column<'a>(columns: &'a [(String, Kind)], names: &[&str]) -> Option<&'a str> {
    let named = |name: &&str| columns.iter().find(|(column, kind)| column == name && *kind == Kind::Text);
    names.iter().find_map(named).map(|(name, _)| &name[..])
}

/// One file whose rows are pairs: a column of image features and a column of text features.
#[derive(Debug)]
pub(super) struct Table {
    path: PathBuf,
    columns: Vec<(String, Kind)>,
    /// The arrays that follow: the image row of every text, and the splits that a column names.
    derived: BTreeMap<&'static str, RowList>,
    /// The features, which are read with the table because their number is needed.
    headers: Vec<(&'static str, Header)>,
}

impl Table {
    /// Opens a file and reads its features.
    pub fn open(path: &Path) -> Result<Self> {
        let columns = open(path, None)?.0;
        let (mut headers, mut derived) = (Vec::new(), BTreeMap::new());
        for (name, names) in [("images", IMAGES), ("texts", TEXTS)] {
            if let Some(column) = pick(&columns, names, false) {
                let label = format!("{} column {column}", path.display());
                headers.push((name, read(label, &[path.to_path_buf()], |_| Some(column.clone()))?));
            }
        }
        let Some((_, first)) = headers.first() else { return Err(no_column(path, &columns)) };
        let rows = first.shape[0];
        if headers.len() == 2 {
            derived.insert(TEXT_TO_IMAGE, (0..rows).into());
        }
        for (split, rows) in splits(path, &columns)? {
            derived.insert(split.array(), rows);
        }
        Ok(Self { path: path.into(), columns, derived, headers })
    }

    /// The name of the array in messages.
    pub fn label(&self, name: &str) -> String {
        match self.headers.iter().find(|(known, _)| *known == name) {
            Some((_, header)) => header.label.clone(),
            None => format!("{} column {name}", self.path.display()),
        }
    }

    /// Whether there is an array of this name.
    pub fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|(known, _)| *known == name) || self.derived.contains_key(name)
    }

    /// The row numbers of this name.
    pub fn rows(&self, name: &str) -> Option<&RowList> {
        self.derived.get(name)
    }

    /// The header of an array.
    pub fn header(&self, name: &str) -> Result<Header> {
        if let Some((_, header)) = self.headers.iter().find(|(known, _)| *known == name) {
            return Ok(header.clone());
        }
        let names: Vec<_> = self.columns.iter().map(|(column, _)| &column[..]).collect();
        let advice = "add it, or give a folder with one file per array";
        Err(Error::data(self.label(name), "this column", format!("columns {}", names.join(", ")), advice))
    }

    /// The columns with captions and names.
    pub fn lines(&self) -> [Lines; 2] {
        [CAPTIONS, NAMES].map(|names| Lines::Column(vec![self.path.clone()], names))
    }
}

/// The rows of each split, if a column of text named `split` has their names.
fn splits(path: &Path, columns: &[(String, Kind)]) -> Result<Vec<(Split, RowList)>> {
    const NAMES: [(Split, &[&str]); 3] = [
        (Split::Train, &["train", "training"]),
        (Split::Val, &["val", "dev", "valid", "validation"]),
        (Split::Test, &["test", "testing"]),
    ];
    if text_column(columns, &["split"]).is_none() {
        return Ok(Vec::new());
    }
    let named = read_lines(&[path.to_path_buf()], &["split"])?.unwrap_or_default();
    let rows_of = |(split, names): (Split, &[&str])| {
        let rows: RowList =
            (0..).zip(&named).filter(|(_, name)| names.contains(&&name[..])).map(|(row, _)| row).collect();
        (!rows.is_empty()).then_some((split, rows))
    };
    Ok(NAMES.into_iter().filter_map(rows_of).collect())
}
