//! Which correction for hubs a head gets.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Which correction for hubs is fitted to a head (docs/math.md, "Correction for hubs").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Correction {
    /// No correction.
    None,
    /// Cross-domain similarity local scaling (Conneau et al., 2018), with a number of neighbours that validation
    /// chooses.
    Csls,
    /// The inverted softmax over a bank of training items (Smith et al., 2017; Bogolin et al., 2022), with a
    /// temperature that validation chooses.
    InvertedSoftmax,
    /// Of all these, the one with the best validation rsum.
    #[default]
    Auto,
}

impl Correction {
    /// All of them, each with its name.
    const NAMED: [(Self, &str); 4] = [
        (Self::None, "none"),
        (Self::Csls, "csls"),
        (Self::InvertedSoftmax, "inverted-softmax"),
        (Self::Auto, "auto"),
    ];
}

impl fmt::Display for Correction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::NAMED.iter().find(|(correction, _)| correction == self);
        f.pad(named.map_or("none", |(_, name)| name))
    }
}

impl FromStr for Correction {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match Self::NAMED.iter().find(|(_, name)| *name == text) {
            Some((correction, _)) => Ok(*correction),
            None => {
                let names = Self::NAMED.map(|(_, name)| name).join(", ");
                Err(Error::config("--correction", names, format!("'{text}'"), "give one of them"))
            }
        }
    }
}
