//! The options of a head's encoders.

use super::Side;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// How an item's features become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Pooling {
    /// The cached features are already pooled: one row per item.
    #[default]
    None,
    /// The mean of an item's local features, before the encoder.
    Mean,
    /// The maximum of each column of an item's local features, before the encoder.
    Max,
    /// Three parts side by side: the cached row, then the mean and the maximum of each column of the local features.
    Joined,
    /// The learned generalised pooling operator, after the encoder (docs/math.md, "Generalised pooling").
    Gpo,
}

/// The layers that map the features of a side to the embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum EncoderKind {
    /// One linear layer.
    #[default]
    Linear,
    /// A linear layer plus a two-layer perceptron with batch norm (docs/math.md, "Residual encoder").
    ResidualMlp,
    /// A linear layer plus a gated perceptron (docs/math.md, "Gated encoder").
    GatedMlp,
}

/// Which side's features x become sign(x) √|x| (after host pooling). This is power normalisation (Perronnin et al.,
/// 2010). It evens out bursts in features that are a network's activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum SignedRoot {
    /// Neither side.
    #[default]
    None,
    /// Only images.
    Images,
    /// Only texts.
    Texts,
    /// Both sides.
    Both,
}

impl SignedRoot {
    /// The variant for these flags of images and texts.
    pub(crate) fn of(sides: [bool; 2]) -> Self {
        match sides {
            [false, false] => Self::None,
            [true, false] => Self::Images,
            [false, true] => Self::Texts,
            [true, true] => Self::Both,
        }
    }

    /// The flags of images and texts.
    pub(crate) fn sides(self) -> [bool; 2] {
        [matches!(self, Self::Images | Self::Both), matches!(self, Self::Texts | Self::Both)]
    }
}

/// The default of [`HeadConfig::gated_width`], as of SAIL.
pub(crate) const GATED_WIDTH: usize = 8;

/// The options of a head, without the widths of the features.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct HeadConfig {
    /// Width of the embedding.
    pub embed: usize,
    /// How an image's features become one vector.
    pub image_pooling: Pooling,
    /// How a caption's features become one vector.
    pub text_pooling: Pooling,
    /// The layers that map image features to the embedding.
    pub image_encoder: EncoderKind,
    /// The layers that map text features to the embedding.
    pub text_encoder: EncoderKind,
    /// Width of the hidden layer of [`EncoderKind::GatedMlp`], as a multiple of the width of the features. Other
    /// encoders ignore it.
    pub gated_width: usize,
    /// Which side's features get the signed square root first.
    pub signed_root: SignedRoot,
    /// Whether every input column is shifted and scaled by its mean and deviation over the training rows.
    pub standardize: bool,
    /// Random Fourier features of each side, which a further linear layer adds to the embedding (docs/math.md, "Random
    /// features"). 0 for none.
    pub random_features: usize,
    /// The most training images that become landmarks, with all their captions. A further linear layer adds the Gaussian
    /// kernel of the input and the landmarks to the embedding (docs/math.md, "Landmarks"). 0 for none.
    pub landmarks: usize,
    /// The number of heads whose embeddings stand side by side, 1 for one head ([`super::Head::ensemble`]). The other
    /// options are those of each.
    pub ensemble: usize,
}

with!(HeadConfig);

impl Default for HeadConfig {
    fn default() -> Self {
        Self {
            embed: 256,
            image_pooling: Pooling::default(),
            text_pooling: Pooling::default(),
            image_encoder: EncoderKind::default(),
            text_encoder: EncoderKind::default(),
            gated_width: GATED_WIDTH,
            signed_root: SignedRoot::default(),
            standardize: false,
            random_features: 0,
            landmarks: 0,
            ensemble: 1,
        }
    }
}

impl HeadConfig {
    /// The layers of images and of texts.
    pub fn encoders(&self) -> [EncoderKind; 2] {
        [self.image_encoder, self.text_encoder]
    }

    /// # Errors
    /// An ensemble, where one head is made.
    pub(crate) fn refuse_ensemble(&self) -> Result<()> {
        match self.ensemble {
            1 => Ok(()),
            count => {
                let advice = "make one head for each member, and join them with Head::ensemble";
                Err(Error::config("ensemble", "1 for one head", count, advice))
            }
        }
    }

    /// Width of the hidden layer of a side's gated perceptron, for features of width `dim`; 0 if it has none.
    pub(crate) fn hidden_width(&self, side: Side, dim: usize) -> usize {
        if self.encoders()[side as usize] == EncoderKind::GatedMlp {
            self.gated_width.saturating_mul(dim)
        } else {
            0
        }
    }

    /// The pooling of images and of texts.
    pub fn pooling(&self) -> [Pooling; 2] {
        [self.image_pooling, self.text_pooling]
    }
}
