//! The values of `--signed-root`, `--image-encoder` and `--text-encoder`.

use clap::ValueEnum;
use wgoal::model::{EncoderKind, SignedRoot};

#[derive(Clone, Copy, ValueEnum)]
pub enum RootName {
    /// Neither side
    None,
    /// Image features
    Images,
    /// Text features
    Texts,
    /// Both sides
    Both,
}

impl From<RootName> for SignedRoot {
    fn from(name: RootName) -> Self {
        match name {
            RootName::None => Self::None,
            RootName::Images => Self::Images,
            RootName::Texts => Self::Texts,
            RootName::Both => Self::Both,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub enum EncoderName {
    /// One linear layer
    Linear,
    /// One linear layer plus a perceptron of two layers
    ResidualMlp,
    /// One linear layer plus a gated perceptron
    GatedMlp,
}

impl From<EncoderName> for EncoderKind {
    fn from(name: EncoderName) -> Self {
        match name {
            EncoderName::Linear => Self::Linear,
            EncoderName::ResidualMlp => Self::ResidualMlp,
            EncoderName::GatedMlp => Self::GatedMlp,
        }
    }
}
