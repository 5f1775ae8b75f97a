//! Local features: several rows an item (the regions of an image, the tokens of a text).
//!
//! Owns which rows belong to which item, and the check of it. Every item has a row: pooling over none is not defined
//! (vse-models.md section 2.1).

use std::ops::Range;

use super::array::{Array, FeatureFile, Integer};
use super::file::Source;
use crate::head::Side;
use crate::{Error, Result};

/// The array of local rows of a side, and that of its offsets.
pub(super) fn names(side: Side) -> (&'static str, &'static str) {
    match side {
        Side::Image => ("image_regions", "region_offsets"),
        Side::Text => ("text_tokens", "text_offsets"),
    }
}

/// Local rows `[items, rows, columns]`, or `[rows, columns]` with offsets `[items + 1]`: item i owns the rows
/// `offsets[i]..offsets[i + 1]`.
#[derive(Debug)]
pub(super) struct Local {
    pub rows: FeatureFile,
    items: Items,
    /// The array that tells the number of items.
    label: String,
}

#[derive(Debug)]
enum Items {
    /// Rows of every item.
    Even(usize),
    Ragged(Vec<u32>),
}

impl Local {
    /// `None` where there is neither of the arrays.
    pub fn open(source: &Source, side: Side) -> Result<Option<Self>> {
        let (name, offsets) = names(side);
        if !source.has(offsets) && !source.has(name) {
            return Ok(None);
        }
        let rows = FeatureFile::open_local(source, name, offsets)?;
        let (items, label) = match rows.group {
            Some(group) => (Items::Even(group), rows.label.clone()),
            None => {
                let array = Array::<Integer>::open(source, offsets)?;
                (Items::Ragged(read_offsets(&array, &rows)?), array.label)
            }
        };
        Ok(Some(Self { rows, items, label }))
    }

    /// The array that tells the number of items.
    pub fn label(&self) -> &String {
        &self.label
    }

    /// Number of items.
    pub fn items(&self) -> usize {
        match &self.items {
            Items::Even(rows) => self.rows.rows / rows,
            Items::Ragged(offsets) => offsets.len() - 1,
        }
    }

    /// Most rows of an item.
    pub fn longest(&self) -> usize {
        match &self.items {
            Items::Even(rows) => *rows,
            Items::Ragged(offsets) => {
                offsets.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max().unwrap_or(0)
            }
        }
    }

    /// The rows of an item; empty where there is no such item.
    pub fn rows_of(&self, item: usize) -> Range<usize> {
        if item >= self.items() {
            return 0..0;
        }
        match &self.items {
            Items::Even(rows) => item * rows..(item + 1) * rows,
            Items::Ragged(offsets) => offsets[item] as usize..offsets[item + 1] as usize,
        }
    }

    /// There must be as many items as rows of the side's `pooled` features.
    pub fn check_items(&self, pooled: &FeatureFile) -> Result<()> {
        if self.items() == pooled.rows {
            return Ok(());
        }
        let (more, what) = match self.items {
            Items::Even(_) => (0, "items"),
            Items::Ragged(_) => (1, "values"),
        };
        let beyond = if more > 0 { " and one more" } else { "" };
        let expected = format!("{} {what}, one for each row of {}{beyond}", pooled.rows + more, pooled.label);
        let advice = "write the features of every item, in the same order";
        Err(Error::data(&self.label, expected, self.items() + more, advice))
    }

    /// What the fingerprint holds of it.
    pub fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        let (rows, offsets) = match &self.items {
            Items::Even(rows) => (*rows as u64, &[][..]),
            Items::Ragged(offsets) => (0, &offsets[..]),
        };
        self.rows.shape().into_iter().chain([rows]).chain(offsets.iter().map(|&offset| offset.into()))
    }
}

/// Offsets from 0 to the number of rows, each above the one before.
fn read_offsets(array: &Array<Integer>, rows: &FeatureFile) -> Result<Vec<u32>> {
    let offsets = array.read_all()?;
    let fault = |position: usize, expected: String| {
        let advice = "write where the rows of every item start, and after the last item their number";
        Err(Error::data(format!("{} position {position}", array.label), expected, offsets[position], advice))
    };
    if offsets.len() < 2 {
        let advice = "write where the rows of every item start, and after the last item their number";
        return Err(Error::data(&array.label, "two values or more", offsets.len(), advice));
    }
    if offsets[0] != 0 {
        return fault(0, "0, where the first item starts".into());
    }
    if let Some(item) = offsets.windows(2).position(|pair| pair[1] <= pair[0]) {
        return fault(item + 1, format!("more than {}, a row at least for item {item}", offsets[item]));
    }
    let last = offsets.len() - 1;
    if offsets[last] as usize != rows.rows {
        return fault(last, format!("{}, the rows of {}", rows.rows, rows.label));
    }
    Ok(offsets)
}
