//! Which image is in which split, and which caption is of which image.

use super::assign::assign;
use super::divide::{Division, divide};
use super::features::Features;
use super::file::Source;
use super::numbers::Numbers;
use crate::io::{RowList, quoted};
use crate::model::Side;
use crate::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// A part of a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// The rows that are trained on.
    Train,
    /// The rows that choose the best epoch.
    Val,
    /// The rows that the result is measured on.
    Test,
}

impl Split {
    /// All three, in the order in which they are stored.
    pub const ALL: [Self; 3] = [Self::Train, Self::Val, Self::Test];

    /// The name of its array.
    pub(super) fn array(self) -> &'static str {
        match self {
            Self::Train => "split_train",
            Self::Val => "split_val",
            Self::Test => "split_test",
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.array()["split_".len()..])
    }
}

impl FromStr for Split {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|split| split.to_string() == name).ok_or_else(|| {
            Error::config("split", "train, val or test", format!("'{name}'"), "name one of the three")
        })
    }
}

/// One split: its images, and the captions of these images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SplitRows {
    /// Image rows, in the order of the split's file (of the dataset, if the split is a mask); some may be without a
    /// caption.
    pub images: RowList,
    /// Text rows of the captions of these images, ascending.
    pub texts: RowList,
    /// For every entry of `texts`, the position of its image in `images`.
    pub text_image: RowList,
}

impl SplitRows {
    /// The rows of one side.
    pub fn of(&self, side: Side) -> &RowList {
        match side {
            Side::Image => &self.images,
            Side::Text => &self.texts,
        }
    }

    /// The image row of the caption at this position of `texts`.
    ///
    /// # Panics
    /// A position beyond the last, as for a slice.
    pub(crate) fn image_of(&self, caption: usize) -> u64 {
        self.images.at(self.text_image.at(caption) as usize)
    }

    /// The number of images without a caption. They are in the gallery of retrieval, but are neither queries nor
    /// trained on.
    pub fn uncaptioned(&self) -> usize {
        if self.text_image.is_in_runs() {
            return self.images.len() - self.text_image.count_distinct();
        }
        let mut captioned = vec![false; self.images.len()];
        self.text_image.iter().for_each(|position| captioned[position as usize] = true);
        captioned.iter().filter(|has| !**has).count()
    }
}

/// The name of the array with the image row of every text.
pub(super) const TEXT_TO_IMAGE: &str = "text_to_image";

/// The image row of every text. If the array is missing and there are as many texts as images, they are pairs.
pub(super) fn text_to_image(
    source: &Source,
    images: usize,
    (texts, counted): (usize, String),
) -> Result<RowList> {
    const NAME: &str = TEXT_TO_IMAGE;
    if !source.has(NAME) {
        if texts == images {
            return Ok((0..images as u64).into());
        }
        let expected =
            format!("the image row of every text, because {images} images and {texts} texts are no pairs");
        let advice = match texts / images.max(1) {
            each if each > 0 && texts % images == 0 => format!(
                "save numpy.repeat(numpy.arange({images}), {each}) where the {each} captions of an image follow each \
                 other, numpy.tile(numpy.arange({images}), {each}) where text {images} is of image 0 again"
            ),
            _ => "save an array with a whole number for every text: the row of its image, counted from 0"
                .into(),
        };
        return Err(Error::data(source.label(NAME), expected, "none", advice));
    }
    owners(Numbers::open(source, NAME)?, images, (texts, counted))
}

/// Reads an array of the image row of every text.
pub(super) fn owners(array: Numbers, images: usize, (texts, counted): (usize, String)) -> Result<RowList> {
    if array.len() != texts || array.is_mask() {
        let expected = format!("{texts} values, one for each {counted}");
        let found = if array.is_mask() { "a mask".into() } else { array.len().to_string() };
        return Err(Error::data(array.label(), expected, found, "write the image row of every text"));
    }
    let rows = array.read(
        "write the image row of every text, counted from 0; a text without an image has no place here",
    )?;
    match rows.position_of(images as u64) {
        Some(position) => Err(out_of_range(array.label(), position, &rows, images, None)),
        None => Ok(rows),
    }
}

/// The error of a row at `position` that is not one of the `images`. `texts` is their number if text rows may be meant.
fn out_of_range(label: &str, position: usize, rows: &RowList, images: usize, texts: Option<usize>) -> Error {
    let expected = format!("an image row from 0 to {}", images - 1);
    let largest = rows.iter().max().unwrap_or(0) as usize;
    let advice = if largest == images && rows.iter().all(|row| row > 0) {
        "if the rows are counted from 1, save array - 1; they must be counted from 0"
    } else if texts.is_some_and(|texts| largest < texts) {
        "if these are rows of texts, save numpy.unique(text_to_image[array]); a split lists rows of images, counted from 0"
    } else {
        "number the images by their row in images, from 0"
    };
    Error::data(format!("{label} position {position}"), expected, rows.at(position), advice)
}

/// The image rows that a split lists, or that its mask over the images marks.
fn read_split(source: &Source, split: Split, images: usize, text_image: &RowList) -> Result<RowList> {
    let array = Numbers::open(source, split.array())?;
    let as_mask = array.is_mask();
    if as_mask && array.len() != images {
        let advice = match array.len() == text_image.len() {
            true => "if this is a mask over the texts, save numpy.unique(text_to_image[array])",
            false => "write a value for every image, or the rows of the split's images",
        };
        let expected = format!("a mask of {images} values, one for each image");
        return Err(Error::data(array.label(), expected, format!("{} values", array.len()), advice));
    }
    let from_the_end =
        format!("rows are counted from 0; if those below 0 are counted from the end, save array % {images}");
    let values = array.read(&from_the_end)?;
    // A list of this length cannot consist of the rows 0 and 1 alone, so these numbers are a mask.
    let by_numbers = !as_mask && images > 2 && values.len() == images && values.iter().all(|value| value < 2);
    if as_mask || by_numbers {
        let marked = |values: &RowList| {
            (0..).zip(values).filter(|(_, value)| *value == 1).map(|(row, _)| row).collect()
        };
        let rows: RowList = if by_numbers { marked(&values) } else { values };
        if rows.is_empty() {
            let advice = "mark the images of the split";
            return Err(Error::data(array.label(), "a mask that marks an image", "none marked", advice));
        }
        return Ok(rows);
    }
    match values.position_of(images as u64) {
        Some(position) => Err(out_of_range(array.label(), position, &values, images, Some(text_image.len()))),
        None => Ok(values),
    }
}

/// What a split is for, for messages.
pub(super) fn purpose(split: Split) -> &'static str {
    match split {
        Split::Train => "the training split: the rows of the images that are trained on",
        Split::Val => {
            "the validation split: the rows of images that choose the best epoch, and are not trained on"
        }
        Split::Test => {
            "the test split: the rows of images that the result is measured on, and are not trained on"
        }
    }
}

/// The error of a missing split where another one exists.
fn missing(source: &Source, split: Split, needed: &[Split]) -> Error {
    let name = split.array();
    let advice = match (split, source.folder()) {
        _ if needed.len() == 1 => format!("write {name}, or name another split with --split"),
        (Split::Train, Some(folder)) => {
            let command = format!("wgoal split {} --missing", quoted(folder));
            format!("`{command}` writes it: the images that are in no other split")
        }
        (Split::Train, None) => {
            format!("write {name}: the rows of the images that are in no other split, counted from 0")
        }
        (_, Some(folder)) => {
            let command = format!("wgoal split {} --missing --replace", quoted(folder));
            format!("`{command}` moves a tenth of split_train there")
        }
        (_, None) => format!(
            "make it of a part of split_train, for example every tenth row: {name} = split_train[::10], then \
             split_train = numpy.delete(split_train, numpy.s_[::10]), and save both"
        ),
    };
    Error::data(source.label(name), purpose(split), "none", advice)
}

/// The splits that a dataset stores, by split.
pub(super) fn stored(source: &Source) -> [bool; 3] {
    Split::ALL.map(|split| source.has(split.array()))
}

/// What a dataset is opened with: its source, its name, its images and the image row of every text.
#[derive(Clone, Copy)]
pub(super) struct Opened<'a> {
    pub source: &'a Source,
    pub name: &'a str,
    pub images: &'a Features,
    pub text_image: &'a RowList,
}

impl Opened<'_> {
    /// Reads the splits `needed` and assigns the texts to them. Reads the splits `optional` if the dataset stores them.
    /// Other splits stay empty. If the dataset stores no split, its images are divided by the default [`Division`].
    pub fn splits(self, needed: &[Split], optional: &[Split]) -> Result<[SplitRows; 3]> {
        let mut rows = <[RowList; 3]>::default();
        if stored(self.source) == [false; 3] && !needed.is_empty() {
            let divided = self.divided()?;
            for (split, divided) in Split::ALL.into_iter().zip(divided) {
                if needed.contains(&split) || optional.contains(&split) {
                    rows[split as usize] = divided;
                }
            }
        } else {
            for split in Split::ALL {
                let is_stored = self.source.has(split.array());
                if needed.contains(&split) && !is_stored {
                    return Err(missing(self.source, split, needed));
                }
                if is_stored && (needed.contains(&split) || optional.contains(&split)) {
                    rows[split as usize] = self.read(split)?;
                }
            }
        }
        self.assign(rows)
    }

    /// Reads all splits, and returns what is wrong with them. An image may then be in two splits.
    pub fn splits_and_faults(self, needed: &[Split]) -> ([SplitRows; 3], Vec<Error>) {
        let mut faults = Vec::new();
        let mut rows = <[RowList; 3]>::default();
        if stored(self.source) == [false; 3] {
            match self.divided() {
                Ok(divided) => rows = divided,
                Err(fault) => faults.push(fault),
            }
        } else {
            for split in Split::ALL {
                match self.source.has(split.array()) {
                    true => match self.read(split) {
                        Ok(read) => rows[split as usize] = read,
                        Err(fault) => faults.push(fault),
                    },
                    false if needed.contains(&split) => faults.push(missing(self.source, split, needed)),
                    false => {}
                }
            }
        }
        let fault = match self.assign(rows.clone()) {
            Ok(splits) => return (splits, faults),
            Err(fault) => fault,
        };
        faults.push(fault);
        // Each split alone.
        let mut splits = <[SplitRows; 3]>::default();
        for (split, images) in rows.into_iter().enumerate() {
            let mut alone = <[RowList; 3]>::default();
            alone[split] = images;
            if let Ok(mut assigned) = self.assign(alone) {
                splits[split] = std::mem::take(&mut assigned[split]);
            }
        }
        (splits, faults)
    }

    fn divided(self) -> Result<[RowList; 3]> {
        let all = RowList::from(0..self.images.items as u64);
        divide(self.name, self.images, self.text_image, &all, &Division::default())
    }

    fn read(self, split: Split) -> Result<RowList> {
        read_split(self.source, split, self.images.items, self.text_image)
    }

    fn assign(self, rows: [RowList; 3]) -> Result<[SplitRows; 3]> {
        assign(self.source, rows, self.images.items, self.text_image)
    }
}
