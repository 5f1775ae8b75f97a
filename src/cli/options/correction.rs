//! The values of `--correction`, in training and where a head is used.

use clap::{Args, ValueEnum};
use wgoal::Checkpoint;
use wgoal::eval::Correction;

#[derive(Clone, Copy, ValueEnum)]
pub enum CorrectionName {
    /// No correction
    None,
    /// The mean similarity to the nearest training items (CSLS)
    Csls,
    /// The inverted softmax over training items (QB-Norm)
    InvertedSoftmax,
    /// The one with the best validation rsum
    Auto,
}

impl From<CorrectionName> for Correction {
    fn from(name: CorrectionName) -> Self {
        match name {
            CorrectionName::None => Self::None,
            CorrectionName::Csls => Self::Csls,
            CorrectionName::InvertedSoftmax => Self::InvertedSoftmax,
            CorrectionName::Auto => Self::Auto,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Used {
    /// The correction in the file of the head, if it has one
    Head,
    /// No correction
    None,
}

/// Whether the correction of a head is used.
#[derive(Args)]
pub struct UsedCorrection {
    /// Correction for hubs, which are items that are similar to most queries
    ///
    /// `train` and `baseline` fit it to the head. Every item loses a part of its similarity to training items.
    #[arg(long, value_name = "CORRECTION", default_value = "head", help_heading = "Correction")]
    correction: Used,
}

impl UsedCorrection {
    /// The head as it is used.
    pub fn of(&self, checkpoint: Checkpoint) -> Checkpoint {
        match self.correction {
            Used::Head => checkpoint,
            Used::None => checkpoint.without_correction(),
        }
    }
}
