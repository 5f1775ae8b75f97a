//! What equal captions of different images are for each other.

use crate::{Error, Plain, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What equal captions of different images are for each other's images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum EqualCaptions {
    /// Negatives in training and wrong answers in evaluation, as in published results.
    #[default]
    Off,
    /// Never negatives in training, and right answers in evaluation.
    Mask,
}

impl fmt::Display for EqualCaptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Off => "off",
            Self::Mask => "mask",
        })
    }
}

impl FromStr for EqualCaptions {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        [Self::Off, Self::Mask].into_iter().find(|value| value.to_string() == name).ok_or_else(|| {
            let found = format!("'{}'", Plain(name));
            Error::config("--equal-captions", "off or mask", found, "name one of the two")
        })
    }
}
