//! Which negatives of an anchor make triplets with its positive.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

/// Which negatives of an anchor make triplets with its positive. The gradients of all triplets add up.
///
/// Parsed from `hardest`, `semi-hard`, `top:K` or `all`. An anchor without a negative contributes nothing, except with
/// `Hardest` and without a margin: its own pair then takes part with n = −1 (docs/math.md, "Mining").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum Negatives {
    /// The most similar one, as published.
    #[default]
    Hardest,
    /// The most similar one that is less similar than the positive (Schroff et al., 2015, without their margin: the
    /// margin of the objective closes triplets).
    SemiHard,
    /// The most similar ones, up to this many.
    Top(NonZeroU32),
    /// All of them, without mining.
    All,
}

impl FromStr for Negatives {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "hardest" => return Ok(Self::Hardest),
            "semi-hard" => return Ok(Self::SemiHard),
            "all" => return Ok(Self::All),
            _ => {}
        }
        let top = text.strip_prefix("top:").and_then(|number| number.parse().ok());
        top.map(Self::Top).ok_or_else(|| {
            let expected = "hardest, semi-hard, top:K with a K of 1 or more, or all";
            Error::config("negatives", expected, format!("`{text}`"), "name one of these, as in top:5")
        })
    }
}

impl fmt::Display for Negatives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hardest => f.write_str("hardest"),
            Self::SemiHard => f.write_str("semi-hard"),
            Self::Top(count) => write!(f, "top:{count}"),
            Self::All => f.write_str("all"),
        }
    }
}

impl TryFrom<String> for Negatives {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Negatives> for String {
    fn from(negatives: Negatives) -> Self {
        negatives.to_string()
    }
}
