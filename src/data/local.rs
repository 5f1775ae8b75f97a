//! Local features: several rows per item (the regions of an image, the tokens of a text).
//!
//! Owns which rows belong to which item, and the check of it. Every item has at least one row, because pooling over no
//! rows is not defined (docs/math.md, "Generalised pooling").

use std::ops::Range;

use super::array::FeatureFile;
use super::file::Source;
use super::numbers::Numbers;
use crate::io::RowList;
use crate::model::Side;
use crate::{Error, Result};

/// The names of a side's array of local rows, of its offsets, and of its numbers of rows.
pub(super) fn names(side: Side) -> (&'static str, &'static str, &'static str) {
    match side {
        Side::Image => ("image_regions", "region_offsets", "region_lengths"),
        Side::Text => ("text_tokens", "text_offsets", "text_lengths"),
    }
}

/// Local rows `[items, rows, columns]`, or `[rows, columns]` with offsets `[items + 1]`: item i owns the rows
/// `offsets[i]..offsets[i + 1]`. With three axes and offsets, item i owns the first `offsets[i + 1] - offsets[i]` of
/// its rows, and the others are padding. The numbers of rows, lengths `[items]`, may take the place of offsets.
#[derive(Debug)]
pub(super) struct Local {
    pub rows: FeatureFile,
    items: Items,
    /// The array that determines the number of items.
    label: String,
    /// Values of this array beyond one for each item.
    more: usize,
}

#[derive(Debug)]
enum Items {
    /// The number of rows per item.
    Even(usize),
    /// Where the rows of every item start, then the number of rows.
    Ragged(RowList),
    /// The number of rows per item with padding, and how many rows of each item are not padding.
    Padded(usize, RowList),
}

impl Local {
    /// `None` if none of the arrays exists.
    pub fn open(source: &Source, side: Side) -> Result<Option<Self>> {
        let (name, offsets, lengths) = names(side);
        let [by_offsets, by_lengths] = [offsets, lengths].map(|name| source.has(name));
        if !by_offsets && !by_lengths && !source.has(name) {
            return Ok(None);
        }
        if by_offsets && by_lengths {
            let expected = format!("{offsets} or {lengths}");
            return Err(Error::data(source.label(lengths), expected, "both", "remove one of the two"));
        }
        let rows = FeatureFile::open_local(source, name, offsets, by_offsets || by_lengths)?;
        if let (Some(group), false, false) = (rows.group, by_offsets, by_lengths) {
            let label = rows.label.clone();
            return Ok(Some(Self { rows, items: Items::Even(group), label, more: 0 }));
        }
        let array = Numbers::open(source, if by_lengths { lengths } else { offsets })?;
        let offsets = if by_lengths { read_lengths(&array, &rows)? } else { read_offsets(&array, &rows)? };
        let items = match rows.group {
            None => Items::Ragged(offsets),
            Some(group) => Items::Padded(group, lengths_of(&offsets).collect()),
        };
        Ok(Some(Self { rows, items, label: array.label().clone(), more: usize::from(by_offsets) }))
    }

    /// The array that determines the number of items.
    pub fn label(&self) -> &String {
        &self.label
    }

    /// Number of items.
    pub fn items(&self) -> usize {
        match &self.items {
            Items::Even(rows) => self.rows.rows / rows,
            Items::Ragged(offsets) => offsets.len() - 1,
            Items::Padded(_, lengths) => lengths.len(),
        }
    }

    /// The number of rows of every item, if it is the same without a list.
    pub fn even(&self) -> Option<usize> {
        match self.items {
            Items::Even(rows) => Some(rows),
            _ => None,
        }
    }

    /// The largest number of rows of an item.
    pub fn longest(&self) -> usize {
        match &self.items {
            Items::Even(rows) => *rows,
            Items::Ragged(offsets) => lengths_of(offsets).max().unwrap_or(0) as usize,
            Items::Padded(_, lengths) => lengths.iter().max().unwrap_or(0) as usize,
        }
    }

    /// The rows of an item; empty if there is no such item.
    pub fn rows_of(&self, item: usize) -> Range<usize> {
        if item >= self.items() {
            return 0..0;
        }
        match &self.items {
            Items::Even(rows) => item * rows..(item + 1) * rows,
            Items::Ragged(offsets) => offsets.at(item) as usize..offsets.at(item + 1) as usize,
            Items::Padded(rows, lengths) => item * rows..item * rows + lengths.at(item) as usize,
        }
    }

    /// Checks that there are as many items as rows of the side's `pooled` features.
    pub fn check_items(&self, pooled: &FeatureFile) -> Result<()> {
        if self.items() == pooled.rows {
            return Ok(());
        }
        let more = self.more;
        let what = if matches!(self.items, Items::Even(_)) { "items" } else { "values" };
        let beyond = if more > 0 { " and one more" } else { "" };
        let expected = format!("{} {what}, one for each row of {}{beyond}", pooled.rows + more, pooled.label);
        let advice = "write the features of every item, in the same order";
        Err(Error::data(&self.label, expected, self.items() + more, advice))
    }

    /// The numbers that the fingerprint covers.
    pub fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        let (rows, offsets) = match &self.items {
            Items::Even(rows) => (*rows as u64, None),
            Items::Ragged(offsets) => (0, Some(offsets)),
            Items::Padded(rows, lengths) => (*rows as u64, Some(lengths)),
        };
        self.rows
            .shape()
            .into_iter()
            .chain([rows])
            .chain(offsets.into_iter().flat_map(super::fingerprint::to_hash))
    }
}

/// The numbers of rows of items that start at these offsets, which rise.
fn lengths_of(offsets: &RowList) -> impl Iterator<Item = u64> + '_ {
    offsets.iter().zip(offsets.iter().skip(1)).map(|(start, end)| end - start)
}

/// Checks offsets: they start at 0 and increase, up to the number of rows. If items are padded to the same number of
/// rows, each offset exceeds the one before by at most that number.
fn read_offsets(array: &Numbers, rows: &FeatureFile) -> Result<RowList> {
    const ADVICE: &str = "write where the rows of every item start, and after the last item their number";
    const CUMULATE: &str =
        "if these are the numbers of rows of the items, save numpy.r_[0, numpy.cumsum(array)]";
    let offsets = array.read(ADVICE)?;
    let sum = || offsets.iter().fold(0u64, u64::saturating_add);
    let items = rows.group.map(|group| rows.rows / group);
    // Lengths in place of offsets are recognised by their count or their sum.
    let lengths = match (items, rows.group) {
        (Some(items), Some(group)) => {
            offsets.len() == items && offsets.iter().all(|n| (1..=group).contains(&(n as usize)))
        }
        _ => offsets.at(0) != 0 && sum() == rows.rows as u64,
    };
    let advice = if lengths { CUMULATE } else { ADVICE };
    let fault = |position: usize, expected: String, advice: &str| {
        Err(Error::data(
            format!("{} position {position}", array.label()),
            expected,
            offsets.at(position),
            advice,
        ))
    };
    match items {
        Some(items) if offsets.len() != items + 1 => {
            let expected = format!("{} values, one for each item of {} and one more", items + 1, rows.label);
            return Err(Error::data(array.label(), expected, offsets.len(), advice));
        }
        None if offsets.len() < 2 && !lengths => {
            return Err(Error::data(array.label(), "two values or more", offsets.len(), advice));
        }
        _ => {}
    }
    if offsets.at(0) != 0 {
        return fault(0, "0, where the first item starts".into(), advice);
    }
    let neighbours = || offsets.iter().zip(offsets.iter().skip(1));
    if let Some(item) = neighbours().position(|(start, end)| end <= start) {
        let empty = format!("give item {item} a row, or leave it out of the dataset; offsets must rise");
        let expected = format!("more than {}, a row at least for item {item}", offsets.at(item));
        let equal = offsets.at(item + 1) == offsets.at(item);
        return fault(item + 1, expected, if equal { &empty } else { ADVICE });
    }
    let last = offsets.len() - 1;
    match rows.group {
        Some(group) => {
            let Some(item) = neighbours().position(|(start, end)| end - start > group as u64) else {
                return Ok(offsets);
            };
            let expected =
                format!("at most {}, the {group} rows of item {item}", offsets.at(item) as usize + group);
            fault(item + 1, expected, ADVICE)
        }
        None if offsets.at(last) as usize != rows.rows => {
            fault(last, format!("{}, the rows of {}", rows.rows, rows.label), ADVICE)
        }
        None => Ok(offsets),
    }
}

/// Checks the numbers of rows of the items, and returns where the rows of every item start. Their sum is the number of
/// rows, unless items are padded to the same number of rows.
fn read_lengths(array: &Numbers, rows: &FeatureFile) -> Result<RowList> {
    const ADVICE: &str = "write the number of rows of every item, without padding";
    let lengths = array.read(ADVICE)?;
    let most = rows.group.unwrap_or(rows.rows);
    if let Some(items) = rows.group.map(|group| rows.rows / group)
        && lengths.len() != items
    {
        let expected = format!("{items} values, one for each item of {}", rows.label);
        return Err(Error::data(array.label(), expected, lengths.len(), ADVICE));
    }
    if let Some(item) = lengths.iter().position(|length| !(1..=most).contains(&(length as usize))) {
        let advice = match lengths.at(item) {
            0 => format!("give item {item} a row, or leave it out of the dataset"),
            _ => ADVICE.into(),
        };
        let expected = format!("a number of rows from 1 to {most}");
        return Err(Error::data(
            format!("{} position {item}", array.label()),
            expected,
            lengths.at(item),
            advice,
        ));
    }
    let sum = lengths.iter().fold(0, u64::saturating_add);
    if rows.group.is_none() && sum != rows.rows as u64 {
        let expected = format!("lengths that add up to {}, the rows of {}", rows.rows, rows.label);
        return Err(Error::data(array.label(), expected, sum, ADVICE));
    }
    // The sum is at most the number of rows, with padding or without.
    let mut end = 0;
    let ends = lengths.iter().map(|length| {
        end += length;
        end
    });
    Ok(std::iter::once(0).chain(ends).collect())
}
