//! The query of a search: a row of the dataset, a caption, or a vector from a file.

use super::super::data::Rows;
use super::super::embed::{SideArg, check};
use super::item::{Item, Items};
use clap::Args;
use serde::Serialize;
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use wgoal::data::{Arrays, Side, read_rows_npy};
use wgoal::model::Pooling;
use wgoal::{Checkpoint, Dataset, Device, Error, ErrorKind, Head, Plain, Result};

/// Most other captions that a note lists.
const OTHERS: usize = 5;

/// Exactly one of these, and the side of a vector.
#[derive(Args)]
pub struct QueryArgs {
    #[command(flatten)]
    what: What,
    /// Side of the vector of --query: `text` searches images, `image` searches texts
    #[arg(long, value_name = "SIDE", default_value = "text", help_heading = "Search")]
    query_side: SideArg,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct What {
    /// Search images with this text row of the dataset
    #[arg(long, value_name = "ROW", help_heading = "Query (one of these)")]
    text_row: Option<u64>,
    /// Search texts with this image row of the dataset
    #[arg(long, value_name = "ROW", help_heading = "Query (one of these)")]
    image_row: Option<u64>,
    /// Search images with the first caption that contains these words
    ///
    /// Upper and lower case are the same. Only captions of the rows of --split count. A note lists other captions that
    /// contain the words.
    #[arg(long, value_name = "WORDS", help_heading = "Query (one of these)")]
    caption: Option<String>,
    /// Search with features of one item in an .npy file, made by the encoder of the dataset's features
    ///
    /// The shape is [width] or [1, width]. For a head that pools local features it is [rows, width].
    #[arg(long, value_name = "FILE", help_heading = "Query (one of these)")]
    query: Option<PathBuf>,
}

/// A query that was found.
#[derive(Serialize)]
pub struct Query {
    #[serde(serialize_with = "side_name")]
    pub side: Side,
    #[serde(flatten)]
    pub item: Item,
    /// The file of the vector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Other text rows whose captions contain the words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<u64>,
}

fn side_name<S: serde::Serializer>(side: &Side, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.serialize_str(if *side == Side::Image { "image" } else { "text" })
}

impl QueryArgs {
    /// The file of the vector.
    pub fn file(&self) -> Option<&Path> {
        self.what.query.as_deref()
    }

    /// Finds the query in the dataset.
    pub fn find(&self, dataset: &Dataset, rows: &Rows) -> Result<Query> {
        let What { text_row, image_row, caption, query } = &self.what;
        match (text_row, image_row, caption, query) {
            (Some(row), ..) => of_row(dataset, Side::Text, *row, Vec::new()),
            (_, Some(row), ..) => of_row(dataset, Side::Image, *row, Vec::new()),
            (_, _, Some(words), _) => of_caption(dataset, rows, words),
            (_, _, _, Some(file)) => Ok(Query {
                side: self.query_side.into(),
                item: Item::default(),
                file: Some(file.clone()),
                also: Vec::new(),
            }),
            _ => Err(Error::new(ErrorKind::Config, "query", "one", "none", "add --text-row or --caption")),
        }
    }
}

fn of_row(dataset: &Dataset, side: Side, row: u64, also: Vec<u64>) -> Result<Query> {
    let (option, items) =
        (if side == Side::Image { "--image-row" } else { "--text-row" }, dataset.items(side));
    if row >= items as u64 {
        let what = if side == Side::Image { "images" } else { "texts" };
        let (expected, advice) = match items {
            0 => (format!("a dataset with {what}"), "search with --query"),
            _ => (format!("a row below {items}, the number of {what}"), "rows are counted from 0"),
        };
        return Err(Error::new(ErrorKind::Config, option, expected, row, advice));
    }
    let item = Items::of(dataset, side, &[row])?.0.pop().unwrap_or_default();
    Ok(Query { side, item, file: None, also })
}

fn of_caption(dataset: &Dataset, rows: &Rows, words: &str) -> Result<Query> {
    let wanted = words.to_lowercase();
    let fault = |expected: String, found: &str, advice: &str| {
        Err(Error::new(ErrorKind::Config, format!("--caption \"{}\"", Plain(words)), expected, found, advice))
    };
    if dataset.caption(0)?.is_none() {
        let expected = format!("a dataset with captions.txt, one caption per text row of {}", dataset.name());
        return fault(expected, "none", "write this file, or search with --text-row");
    }
    let mut found = Vec::new();
    for row in &rows.of(dataset).texts {
        if dataset.caption(row as usize)?.is_some_and(|caption| caption.to_lowercase().contains(&wanted)) {
            found.push(row);
        }
    }
    let Some((&first, others)) = found.split_first() else {
        let expected = format!("words of a caption of {}", dataset.name());
        return fault(expected, "none that contains them", "give fewer words, or another --split");
    };
    if !others.is_empty() {
        let caption = |row: &u64| -> Result<String> {
            Ok(format!("row {row} \"{}\"", Plain(dataset.caption(*row as usize)?.unwrap_or_default())))
        };
        let listed: Vec<String> = others.iter().take(OTHERS).map(caption).collect::<Result<_>>()?;
        let more = if others.len() > OTHERS {
            format!(", and {} more", others.len() - OTHERS)
        } else {
            String::new()
        };
        let (count, listed) = (found.len(), listed.join(", "));
        note!(
            "note: {count} captions contain these words; the query is the first, row {first}; the others: {listed}{more}"
        );
    }
    of_row(dataset, Side::Text, first, others.to_vec())
}

impl Query {
    /// The side of the results.
    pub fn searched(&self) -> Side {
        if self.side == Side::Image { Side::Text } else { Side::Image }
    }

    /// Rows of the right results, ascending; none if they are not known.
    pub fn right(&self, dataset: &Dataset) -> Option<Vec<u64>> {
        let row = self.item.row(self.side)?;
        let truth = dataset.text_to_image();
        match self.side {
            _ if truth.is_empty() => None,
            Side::Text => self.item.image.map(|image| vec![image]),
            Side::Image => {
                Some((0..).zip(truth).filter(|(_, image)| *image == row).map(|(text, _)| text).collect())
            }
        }
    }

    /// The embedding of the query.
    pub fn embed(&self, checkpoint: &Checkpoint, device: &Device, dataset: &Dataset) -> Result<Vec<f32>> {
        let of = |dataset: &Dataset, row: u64| {
            let vector = checkpoint.embed(device, dataset, self.side, &[row].into())?;
            check(dataset, self.side, &[row].into(), std::iter::once(&vector[..checkpoint.head().dim()]))?;
            Ok(vector)
        };
        match (&self.file, self.item.row(self.side)) {
            (Some(path), _) => of(&self.features(checkpoint.head(), path)?, 0),
            (None, row) => of(dataset, row.unwrap_or(0)),
        }
    }

    /// The features in the file, as one item.
    fn features(&self, head: &Head, path: &Path) -> Result<Dataset> {
        let (rows, width, values) = read_rows_npy(path)?;
        let [pooled, local] = match self.side {
            Side::Image => ["images", "image_regions"],
            Side::Text => ["texts", "text_tokens"],
        };
        let fault = |expected: &str, found: String, advice: &str| {
            Err(Error::new(ErrorKind::Data, path.display(), expected, found, advice))
        };
        let arrays = match head.config().pooling()[self.side as usize] {
            Pooling::None if rows == 1 => Arrays::new().with_features(pooled, &[1, width], &values),
            Pooling::None => return fault("one row of features", format!("{rows} rows"), "save array[0]"),
            Pooling::Joined => {
                let advice = "search with --text-row or --image-row";
                return fault(
                    "features of a head that takes one array per item",
                    "a head with pooling joined".into(),
                    advice,
                );
            }
            _ => Arrays::new().with_features(local, &[1, rows, width], &values),
        };
        Dataset::side_from_arrays(&path.display().to_string(), self.side, arrays)
    }
}

impl Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.side == Side::Image { "image" } else { "text" };
        match (&self.file, self.item.row(self.side)) {
            (Some(path), _) => write!(f, "{side} features of {}", Plain(path.display())),
            (None, row) => write!(f, "{side} {}  {}", row.unwrap_or(0), self.item),
        }
    }
}
