//! What a head consists of: the options of its encoders.

use serde::{Deserialize, Serialize};

/// What makes one vector of an item's features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Pooling {
    /// The cached features are pooled already: one row per item.
    #[default]
    None,
    /// The mean of an item's local features, before the encoder.
    Mean,
    /// The largest of each column of an item's local features, before the encoder.
    Max,
    /// The cached row, then the mean, then the largest of each column of the local features, side by side.
    Joined,
    /// The generalised pooling operator, learned, after the encoder (docs/math.md, "Generalised pooling").
    Gpo,
}

/// What maps image features to the embedding; texts take a linear layer always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ImageEncoder {
    /// One linear layer.
    #[default]
    Linear,
    /// A linear layer plus a two-layer perceptron with batch norm (docs/math.md, "Residual encoder").
    ResidualMlp,
}

/// Which side's features x become sign(x) √|x| (after host pooling): power normalisation (Perronnin et al.,
/// 2010), which evens out the bursts of features that are a network's activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum SignedRoot {
    /// Neither side.
    #[default]
    None,
    /// Those of images.
    Images,
    /// Those of texts.
    Texts,
    /// Both sides'.
    Both,
}

impl SignedRoot {
    /// That of images, of texts.
    pub(crate) fn of(sides: [bool; 2]) -> Self {
        match sides {
            [false, false] => Self::None,
            [true, false] => Self::Images,
            [false, true] => Self::Texts,
            [true, true] => Self::Both,
        }
    }

    /// Whether images, whether texts.
    pub(crate) fn sides(self) -> [bool; 2] {
        [matches!(self, Self::Images | Self::Both), matches!(self, Self::Texts | Self::Both)]
    }
}

/// What a head consists of, but for the widths of the features.
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
    /// What maps image features to the embedding.
    pub image_encoder: ImageEncoder,
    /// Which side's features get the signed square root first.
    pub signed_root: SignedRoot,
    /// Whether every input column is shifted and scaled by its mean and deviation over the training rows.
    pub standardize: bool,
}

with!(HeadConfig);

impl Default for HeadConfig {
    fn default() -> Self {
        Self {
            embed: 256,
            image_pooling: Pooling::default(),
            text_pooling: Pooling::default(),
            image_encoder: ImageEncoder::default(),
            signed_root: SignedRoot::default(),
            standardize: false,
        }
    }
}

impl HeadConfig {
    /// Pooling of images and of texts.
    pub fn pooling(&self) -> [Pooling; 2] {
        [self.image_pooling, self.text_pooling]
    }
}
