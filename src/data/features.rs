//! The features of one side of a dataset.

use super::array::FeatureFile;
use super::file::Source;
use super::local::{self, Local};
use crate::Result;
use crate::model::Side;

/// The features of one side: one row per item, several rows per item (regions, tokens), or both.
#[derive(Debug)]
pub(super) struct Features {
    pub pooled: Option<FeatureFile>,
    pub local: Option<Local>,
    /// Number of images or texts.
    pub items: usize,
    /// The array that determines it.
    pub label: String,
}

impl Features {
    /// `pooled` may be missing if there are local features.
    pub fn open(source: &Source, side: Side) -> Result<Self> {
        let local = Local::open(source, side)?;
        let name = pooled_name(side);
        let pooled = match local.is_none() || source.has(name) {
            true => Some(FeatureFile::open(source, name)?),
            false => None,
        };
        if let (Some(pooled), Some(local)) = (&pooled, &local) {
            local.check_items(pooled)?;
        }
        let counted = pooled.as_ref().map(|pooled| (pooled.rows, &pooled.label));
        let counted = counted.or_else(|| local.as_ref().map(|local| (local.items(), local.label())));
        let (items, label) = counted.map_or((0, source.label(name)), |(items, label)| (items, label.clone()));
        Ok(Self { pooled, local, items, label })
    }

    /// Those of a side that is not read.
    pub fn absent(source: &Source, side: Side) -> Self {
        Self { pooled: None, local: None, items: 0, label: source.label(pooled_name(side)) }
    }

    /// Whether the source has features of this side, valid or not.
    pub fn are_in(source: &Source, side: Side) -> bool {
        source.has(pooled_name(side)) || source.has(local::names(side).0)
    }

    /// The array that determines the number of items, for messages.
    pub fn counted(&self) -> String {
        let what = if self.pooled.is_some() { "row" } else { "item" };
        format!("{what} of {}", self.label)
    }

    /// What the fingerprint contains of the pooled rows.
    pub fn pooled_shape(&self) -> [u64; 3] {
        self.pooled.as_ref().map_or([0; 3], FeatureFile::shape)
    }
}

/// The array with one row per item.
pub(super) fn pooled_name(side: Side) -> &'static str {
    match side {
        Side::Image => "images",
        Side::Text => "texts",
    }
}
