//! A point of the learning curves.

use super::Epoch;
use crate::eval::Recall;
use serde::{Deserialize, Serialize};

/// An epoch as learning curves show it: what a line of `metrics.jsonl` has of it. Numbers that are missing are `None`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Point {
    /// Counted from 1; 0 is before training.
    pub epoch: usize,
    /// Mean over the steps of the objective's value.
    pub loss: Option<f64>,
    /// Mean positive similarity.
    pub positive: Option<f64>,
    /// Mean similarity of the hardest negatives.
    pub hardest: Option<f64>,
    /// Mean norm of the gradient before clipping.
    pub gradient_norm: Option<f64>,
    /// Recall on the validation split.
    pub val: Recall,
    /// Time of the epoch.
    pub seconds: Option<f64>,
}

impl From<&Epoch> for Point {
    fn from(epoch: &Epoch) -> Self {
        Self {
            epoch: epoch.epoch,
            loss: Some(epoch.loss),
            positive: Some(epoch.positive),
            hardest: Some(epoch.hardest),
            gradient_norm: Some(epoch.gradient_norm),
            val: epoch.val,
            seconds: Some(epoch.seconds),
        }
    }
}
