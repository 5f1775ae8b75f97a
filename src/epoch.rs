//! What an epoch came to: its numbers, and whether they are those of a run that has collapsed or diverged.

use crate::eval::Recall;
use crate::objective::Objective;
use crate::pipeline::StepStats;
use crate::{Error, ErrorKind, Result};
use serde::Serialize;
use std::fmt;

/// What an epoch came to.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Epoch {
    /// Counted from 1.
    pub epoch: usize,
    /// Mean over the steps of the objective's value.
    pub loss: f64,
    /// Mean positive similarity.
    pub positive: f64,
    /// Mean similarity of the hardest negatives.
    pub hardest: f64,
    /// Mean norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Share of the steps whose gradient was clipped.
    pub clipped: f64,
    /// Learning rate of the last step.
    pub lr: f64,
    /// InfoNCE's temperature after the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Features that were zero throughout, of images and texts, counted as often as read.
    pub zero_rows: usize,
    /// On the validation split.
    pub val: Recall,
    /// Whether it is the best so far.
    pub best: bool,
    /// That training on the hardest negatives has collapsed, in words with what to change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collapse: Option<String>,
    /// Time spent on it, validation included.
    pub seconds: f64,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { epoch, loss, positive, hardest, clipped, val, .. } = self;
        write!(
            f,
            "epoch {epoch:3}  loss {loss:9.3}  positive {positive:6.3}  hardest {hardest:6.3}  clipped {:3.0} %  \
             val R@1 {:5.1} {:5.1}  rsum {:6.1}{}",
            100.0 * clipped,
            val.i2t.r1,
            val.t2i.r1,
            val.rsum,
            if self.best { " *" } else { "" }
        )
    }
}

/// How far similarities, and losses of a triplet, may be apart and still count as the same.
const SAME: f64 = 0.02;

/// Whether an epoch on the hardest negatives of `pairs` has collapsed, in words: the loss at the value that it has where
/// all similarities are equal, positives no nearer than the hardest negatives, and validation at chance. Each of the
/// first two occurs in good training as well, on the way from the one side of the plateau to the other.
pub(crate) fn collapse(
    epoch: &Epoch,
    objective: &Objective,
    warmup_epochs: usize,
    pairs: usize,
    chance: f64,
) -> Option<String> {
    // Of several losses, or losses of several negatives, the plateau is not known.
    if matches!(
        objective,
        Objective::HingeSum { .. } | Objective::Infonce(_) | Objective::Over(..) | Objective::Sum(_)
    ) {
        return None;
    }
    let Epoch { loss, positive, hardest, val, .. } = epoch;
    let triplets = 2.0 * pairs as f64;
    let plateau = triplets * f64::from(objective.margin().unwrap_or(0.0).max(0.0));
    // Up to twice chance, less where chance is a good part of 600.
    let at_chance = val.rsum <= chance * (2.0 - chance / 600.0);
    if (loss - plateau).abs() > SAME * triplets || (positive - hardest).abs() > SAME || !at_chance {
        return None;
    }
    let advice = [
        (warmup_epochs == 0, "--warmup-epochs 1"),
        (true, "a lower --lr"),
        (objective.margin().is_some(), "a smaller --margin"),
    ];
    let advice: Vec<_> = advice.iter().filter(|(applies, _)| *applies).map(|(_, words)| *words).collect();
    Some(format!(
        "training has collapsed: similarities are nearly all the same (positive {positive:.3}, hardest negative \
         {hardest:.3}), the loss {loss:.3} stands at its plateau of {plateau:.3}, and validation is at chance (rsum {:.1}, \
         chance {chance:.1}); start again with {}, or --objective infonce",
        val.rsum,
        advice.join(", ")
    ))
}

/// A step whose numbers are not finite ends the run; the checkpoint of the epoch before is still good.
pub(crate) fn check_finite(records: &[StepStats], epoch: usize) -> Result<()> {
    let bad =
        records.iter().position(|record| !(record.loss.is_finite() && record.gradient_norm.is_finite()));
    match bad {
        None => Ok(()),
        Some(step) => Err(Error::new(
            ErrorKind::Diverged,
            format!("epoch {epoch}, step {}", step + 1),
            "a finite loss and gradient",
            format!("loss {}, gradient norm {}", records[step].loss, records[step].gradient_norm),
            "lower --lr, set --clip, or use milder --tau, --alpha, --beta",
        )),
    }
}
