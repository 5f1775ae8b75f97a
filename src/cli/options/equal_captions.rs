//! The values of `--equal-captions`.

use clap::ValueEnum;
use wgoal::objective::EqualCaptions;

#[derive(Clone, Copy, ValueEnum)]
pub enum EqualCaptionsName {
    /// Negatives in training, and wrong answers in evaluation, as in published results
    Off,
    /// Never negatives in training, and right answers in evaluation
    Mask,
}

impl From<EqualCaptionsName> for EqualCaptions {
    fn from(name: EqualCaptionsName) -> Self {
        match name {
            EqualCaptionsName::Off => Self::Off,
            EqualCaptionsName::Mask => Self::Mask,
        }
    }
}
