//! Which texts are right for which images, where it is more than each text for its own image: `pairs`, and equal
//! captions of different images.

use super::array::Array;
use super::file::Source;
use super::hash::Hash;
use super::numbers::Integer;
use super::positioned::Header;
use super::{Dataset, EqualCaptions, Relation, Side, Split};
use crate::{Error, Result};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

impl Dataset {
    /// The right pairs (image row, text row) of the array `pairs`, beside each text with its own image.
    pub fn right_pairs(&self) -> &[[u64; 2]] {
        &self.right_pairs
    }

    /// Which texts are right for which images; `None` if only each text is for its own image. The first call with
    /// [`EqualCaptions::Mask`] reads the captions. Captions are equal if they are the same in lower case, where any
    /// white space counts as one space, and that at the ends not at all. Without captions, texts are equal if all
    /// their feature values are.
    ///
    /// # Errors
    /// Captions or features that cannot be read.
    pub fn relation(&self, equal: EqualCaptions) -> Result<Option<Arc<Relation>>> {
        let make = || -> Result<Option<Arc<Relation>>> {
            let most = u32::MAX as usize;
            let class = match equal {
                EqualCaptions::Off if self.right_pairs.is_empty() => return Ok(None),
                _ if self.images().max(self.texts()) > most => {
                    let (what, advice) = match equal {
                        EqualCaptions::Off => ("the array pairs", "take the array pairs out of the dataset"),
                        EqualCaptions::Mask => ("equal captions", "give --equal-captions off"),
                    };
                    let expected =
                        format!("at most {most} images and texts, because memory holds {what} of all");
                    let found = format!("{} and {}", self.images(), self.texts());
                    return Err(Error::data(&self.name, expected, found, advice));
                }
                EqualCaptions::Off => (0..self.texts() as u32).collect(),
                EqualCaptions::Mask => self.classes()?,
            };
            Ok(Some(Arc::new(Relation::new(self.images(), class, &self.text_to_image, &self.right_pairs))))
        };
        self.relations[equal as usize].get_or_init(make).clone()
    }

    /// For every text the first text that is equal.
    fn classes(&self) -> Result<Vec<u32>> {
        let mut class: Vec<u32> = (0..self.texts() as u32).collect();
        if self.caption(0)?.is_some() {
            let mut first: HashMap<String, u32> = HashMap::new();
            for (text, class) in class.iter_mut().enumerate() {
                let Some(caption) = self.caption(text)? else { continue };
                let words: Vec<_> = caption.split_whitespace().map(str::to_lowercase).collect();
                *class = *first.entry(words.join(" ")).or_insert(text as u32);
            }
            return Ok(class);
        }
        let mut first: HashMap<u128, u32> = HashMap::new();
        let mut bytes = Vec::new();
        let rows = Split::ALL.iter().flat_map(|&split| &self.split(split).texts);
        let mut texts: Vec<u64> = rows.collect();
        texts.sort_unstable();
        for text in texts {
            let mut hash = Hash::default();
            self.hash_item(Side::Text, text as usize, &mut bytes, &mut hash)?;
            class[text as usize] = match first.entry(hash.0) {
                Entry::Occupied(earlier) => *earlier.get(),
                Entry::Vacant(new) => *new.insert(text as u32),
            };
        }
        Ok(class)
    }

    /// Adds the feature values of an item to a hash: its pooled row, or else its local rows.
    fn hash_item(&self, side: Side, item: usize, bytes: &mut Vec<u8>, hash: &mut Hash) -> Result<()> {
        let features = &self.sides[side as usize];
        if let Some(file) = &features.pooled {
            file.read_bytes(item, bytes)?;
            hash.add(bytes);
        } else if let Some(local) = &features.local {
            for row in local.rows_of(item) {
                local.rows.read_bytes(row, bytes)?;
                hash.add(bytes);
            }
        }
        Ok(())
    }
}

/// The pairs (image row, text row) of the array `pairs [K, 2]`, if there is one.
pub(super) fn read_pairs(source: &Source, images: usize, texts: usize) -> Result<Vec<[u64; 2]>> {
    match pairs_header(source)? {
        Some(header) => pairs_of(header, images, texts),
        None => Ok(Vec::new()),
    }
}

/// The header of the array `pairs`, if there is one.
pub(super) fn pairs_header(source: &Source) -> Result<Option<Header>> {
    const NAME: &str = "pairs";
    source.has(NAME).then(|| source.header(NAME)).transpose()
}

/// Reads an array of pairs, and checks its type, its shape and that its rows exist.
pub(super) fn pairs_of(header: Header, images: usize, texts: usize) -> Result<Vec<[u64; 2]>> {
    let shape = header.shape.clone();
    let array = Array::<Integer>::from_header(header, &["pairs", "2"], |shape| match shape {
        [count] if count % 2 == 0 => "save array.reshape(-1, 2)".into(),
        _ => "save an array with two columns, image row and text row".into(),
    })?;
    if array.cols != 2 {
        let advice = match array.rows {
            2 => "save array.T.copy(), so that each row is (image row, text row)",
            _ => "save an array with two columns, image row and text row",
        };
        return Err(Error::data(array.label, "shape [pairs, 2]", format!("shape {shape:?}"), advice));
    }
    if array.is_mask() {
        let advice = "write a row (image row, text row) for every right pair";
        return Err(Error::data(array.label, "whole numbers", array.type_name, advice));
    }
    let values = array.read_all("number the rows of images and of texts from 0")?;
    let pairs: Vec<[u64; 2]> = values.chunks(2).map(|pair| [pair[0], pair[1]]).collect();
    let fits = |&[image, text]: &[u64; 2]| image < images as u64 && text < texts as u64;
    let Some(at) = pairs.iter().position(|pair| !fits(pair)) else { return Ok(pairs) };
    let [image, text] = pairs[at];
    let turned = pairs.iter().all(|&[image, text]| fits(&[text, image]));
    let counted = pairs.iter().all(|&[image, text]| image > 0 && text > 0 && fits(&[image - 1, text - 1]));
    let advice = if turned {
        "the columns are swapped: save array[:, ::-1], so that each row is (image row, text row)"
    } else if counted {
        "if the rows are counted from 1, save array - 1; they must be counted from 0"
    } else {
        "number images and texts by their rows in the dataset, from 0"
    };
    let expected = format!("an image row below {images} and a text row below {texts}");
    let thing = format!("{} row {at}", array.label);
    Err(Error::data(thing, expected, format!("{image} and {text}"), advice))
}
