//! Which side of a batch has the anchors.

use super::Objective;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The direction of a loss that has anchors on one side only (docs/math.md, "One direction").
///
/// Parsed from `image-to-text` or `text-to-image`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Images are the anchors, texts are the candidates.
    ImageToText,
    /// Texts are the anchors, images are the candidates.
    TextToImage,
}

impl Direction {
    /// Both directions.
    pub const ALL: [Self; 2] = [Self::ImageToText, Self::TextToImage];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::ImageToText => "image-to-text",
            Self::TextToImage => "text-to-image",
        }
    }
}

impl FromStr for Direction {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|direction| direction.name() == text).ok_or_else(|| {
            let found = format!("`{text}`");
            Error::config("direction", "image-to-text or text-to-image", found, "name one of these")
        })
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Objective {
    /// The same objective in one direction. In a sum, this changes all terms.
    ///
    /// # Errors
    /// An objective without directions: SigLIP, or one that already has one direction.
    pub fn in_direction(self, direction: Direction) -> Result<Self> {
        let objective = match self {
            Self::Sum(terms) => {
                let terms =
                    terms.into_iter().map(|(weight, term)| Ok((weight, term.in_direction(direction)?)));
                Self::Sum(terms.collect::<Result<_>>()?)
            }
            objective => Self::OneWay(direction, Box::new(objective)),
        };
        objective.validate()?;
        Ok(objective)
    }
}
