//! Which image is in which split, and which caption is of which image.

use super::array::{Array, Integer};
use super::file::Source;
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

    fn array(self) -> &'static str {
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
    /// Image rows, in the order of the split's file.
    pub images: Vec<u32>,
    /// Text rows of the captions of these images, ascending.
    pub texts: Vec<u32>,
    /// For every entry of `texts`, the position of its image in `images`.
    pub text_image: Vec<u32>,
}

/// The image row of every text.
pub(super) fn text_to_image(
    source: &Source,
    images: usize,
    (texts, counted): (usize, String),
) -> Result<Vec<u32>> {
    let array = Array::<Integer>::open(source, "text_to_image")?;
    if array.rows != texts {
        let expected = format!("{texts} values, one for each {counted}");
        return Err(Error::data(array.label, expected, array.rows, "write the image row of every text"));
    }
    let rows = array.read_all()?;
    match rows.iter().position(|&row| row as usize >= images) {
        Some(position) => Err(out_of_range(&array.label, position, rows[position], images)),
        None => Ok(rows),
    }
}

fn out_of_range(label: &str, position: usize, row: u32, images: usize) -> Error {
    let expected = format!("an image row from 0 to {}", images - 1);
    let advice = "number the images by their row in images, from 0";
    Error::data(format!("{label} position {position}"), expected, row, advice)
}

/// Reads the splits, shares the texts out to them, and checks that no image is in two places and that none
/// is without a caption. Only the splits `needed` must be there.
pub(super) fn split_rows(
    source: &Source,
    images: usize,
    text_image: &[u32],
    needed: &[Split],
) -> Result<[SplitRows; 3]> {
    let mut splits = [const { Vec::new() }; 3];
    // Of every image, its split's number plus one and its position there; zero is in no split.
    let mut owner = vec![0u8; images];
    let mut place = vec![0u32; images];
    for split in Split::ALL {
        if !needed.contains(&split) && !source.has(split.array()) {
            continue;
        }
        let array = Array::<Integer>::open(source, split.array())?;
        let rows = array.read_all()?;
        for (position, &image) in rows.iter().enumerate() {
            let Some(owned) = owner.get_mut(image as usize) else {
                return Err(out_of_range(&array.label, position, image, images));
            };
            if *owned > 0 {
                let first = Split::ALL[usize::from(*owned - 1)];
                let (expected, advice) = match first == split {
                    true => ("an image row not listed before", "list every image once"),
                    false => {
                        ("an image of no other split", "keep the splits apart, or results are worthless")
                    }
                };
                let thing = format!("{} position {position}", array.label);
                let other = source.label(first.array());
                let found = format!("row {image}, which is at position {} of {other}", place[image as usize]);
                return Err(Error::data(thing, expected, found, advice));
            }
            *owned = split as u8 + 1;
            place[image as usize] = position as u32;
        }
        splits[split as usize] = rows;
    }

    let mut splits = splits.map(|images| SplitRows { images, ..SplitRows::default() });
    for (text, &image) in text_image.iter().enumerate() {
        let image = image as usize;
        if owner[image] > 0 {
            let rows = &mut splits[usize::from(owner[image] - 1)];
            rows.texts.push(text as u32);
            rows.text_image.push(place[image]);
        }
    }
    for (split, rows) in Split::ALL.iter().zip(&splits) {
        let mut captioned = vec![false; rows.images.len()];
        rows.text_image.iter().for_each(|&position| captioned[position as usize] = true);
        if let Some(position) = captioned.iter().position(|&has| !has) {
            let thing = format!("{} position {position}", source.label(split.array()));
            let found =
                format!("row {}, which {} lacks", rows.images[position], source.label("text_to_image"));
            let advice = "add a caption, or take the image out of the split";
            return Err(Error::data(thing, "an image with a caption", found, advice));
        }
    }
    Ok(splits)
}
