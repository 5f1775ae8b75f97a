//! The order of an epoch's pairs, as an option.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// The order of an epoch's pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Shuffle {
    /// A uniformly random order.
    #[default]
    Full,
    /// Blocks of 64 neighbours in random order, and random order of the pairs in each window of blocks (CorgiPile, Xu
    /// et al., 2022). If features do not fit into memory, they are read in blocks, one window ahead. A window should
    /// hold many batches, and the captions of far more images than a batch has.
    Blocks {
        /// The number of pairs in a window. The default is 16,384, or 16 batches if those are more.
        window: Option<usize>,
    },
}

impl Shuffle {
    /// The fewest batches in a window. With fewer, the order would hardly be random.
    pub(super) const BATCHES: usize = 16;

    /// The number of pairs in a window for this batch size; `None` without windows.
    pub(crate) fn window(self, batch: usize) -> Option<usize> {
        match self {
            Self::Full => None,
            Self::Blocks { window } => {
                Some(window.unwrap_or(Self::BATCHES.saturating_mul(batch).max(16_384)))
            }
        }
    }
}

/// Parsed from `full`, `blocks`, or `blocks:PAIRS` with the pairs of a window.
impl FromStr for Shuffle {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = match (text, text.strip_prefix("blocks:")) {
            ("full", _) => Some(Self::Full),
            ("blocks", _) => Some(Self::Blocks { window: None }),
            (_, window) => {
                window.and_then(|n| n.parse().ok()).map(|window| Self::Blocks { window: Some(window) })
            }
        };
        let expected = "full, blocks, or blocks:PAIRS with the pairs of a window";
        parsed.ok_or_else(|| Error::config("--shuffle", expected, format!("'{text}'"), "give one of them"))
    }
}
