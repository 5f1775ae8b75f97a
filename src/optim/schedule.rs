//! The course of the learning rate: warm-up, then a schedule.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// The course of the learning rate after its warm-up. Drops are applied in addition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Schedule {
    /// The learning rate as given.
    #[default]
    Constant,
    /// Half a cosine down to 0 at the last step.
    Cosine,
    /// A straight line down to 0 at the last step.
    Linear,
}

/// Over how many steps the learning rate rises from 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Warmup {
    /// This many.
    Steps(u64),
    /// A share of all steps.
    Share {
        /// In percent.
        percent: f64,
    },
}

impl Warmup {
    /// The number of warm-up steps in a run of `total` steps.
    pub fn steps(self, total: u64) -> u64 {
        match self {
            Self::Steps(steps) => steps,
            Self::Share { percent } => (total as f64 * percent / 100.0).round() as u64,
        }
    }
}

/// Parsed from a number of steps (`500`) or a percentage of them (`10%`).
impl FromStr for Warmup {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = match text.strip_suffix('%') {
            None => text.parse().ok().map(Self::Steps),
            Some(number) => number.parse().ok().map(|percent| Self::Share { percent }),
        };
        let expected = "a number of steps, or a percentage as in 10%";
        parsed
            .ok_or_else(|| Error::config("--lr-warmup", expected, format!("'{text}'"), "give one of the two"))
    }
}
