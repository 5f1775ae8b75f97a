//! The result of an epoch: its numbers, and whether the run has collapsed or diverged.

use super::{Init, StepStats, TrainConfig};
#[cfg(feature = "native")]
use crate::cluster::Waited;
use crate::eval::Recall;
use crate::{Error, ErrorKind, Result};
use serde::Serialize;
use std::fmt::{self, Write};

/// The result of an epoch.
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
    /// The temperature of InfoNCE or SigLIP after the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// The logit bias of SigLIP after the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logit_bias: Option<f32>,
    /// Number of feature rows that were all zero, of images and texts, counted each time they were read.
    pub zero_rows: usize,
    /// On the validation split.
    pub val: Recall,
    /// Whether it is the best so far.
    pub best: bool,
    /// A message if training has collapsed: what to check and what to change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collapse: Option<String>,
    /// Time spent on it, validation included. Of an epoch that was resumed, the time since then.
    pub seconds: f64,
    /// The process of the job that the others waited for while they trained. `None` without other processes.
    #[cfg(feature = "native")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waited: Option<Waited>,
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

/// The head that a run starts from, before its first step. It is recorded as epoch 0 if it is not random.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Start {
    /// Always 0.
    pub epoch: usize,
    /// What it is.
    pub init: Init,
    /// On the validation split.
    pub val: Recall,
    /// Always true: the best so far.
    pub best: bool,
    /// Time spent on making or reading it, validation included.
    pub seconds: f64,
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As wide as the columns of an epoch that has steps.
        const WIDTH: usize = 62;
        let Self { epoch, init, val, .. } = self;
        let what = match init {
            Init::Xavier => "the start: random weights",
            Init::Cca => "the start: CCA, without training",
            Init::KernelCca => "the start: kernel CCA, without training",
            Init::File(_) => "the start: the head of --init",
        };
        write!(
            f,
            "epoch {epoch:3}  {what:WIDTH$}  val R@1 {:5.1} {:5.1}  rsum {:6.1} *",
            val.i2t.r1, val.t2i.r1, val.rsum
        )
    }
}

/// Embeddings of a side with at most this mean squared distance count as equal. Opposite embeddings have 4.
const SAME: f64 = 0.04;

/// Mean squared distance of two different rows of `embeddings [n, dim]`; infinite if there are fewer than two rows.
pub(crate) fn spread(embeddings: &[f32], dim: usize) -> f64 {
    let n = (embeddings.len() / dim.max(1)) as f64;
    let (mut sum, mut squares) = (vec![0f64; dim], 0.0);
    for row in embeddings.chunks_exact(dim.max(1)) {
        for (sum, &x) in sum.iter_mut().zip(row) {
            *sum += f64::from(x);
            squares += f64::from(x) * f64::from(x);
        }
    }
    let of_sum: f64 = sum.iter().map(|x| x * x).sum();
    if n < 2.0 { f64::INFINITY } else { (2.0 * (n * squares - of_sum) / (n * (n - 1.0))).max(0.0) }
}

/// The signs of a collapsed epoch.
pub(crate) struct Signs<'a> {
    pub config: &'a TrainConfig,
    /// [`spread`] of the validation images, and of the validation texts.
    pub spreads: [f64; 2],
    /// The validation rsum that chance reaches.
    pub chance: f64,
    /// Share of the feature rows read that were zero.
    pub zero: f64,
}

/// Whether an epoch has collapsed, in words: the embeddings of a side are all the same on validation, where retrieval is
/// at chance. That holds of any objective. The first alone occurs in good training as well, where embeddings lie in a
/// narrow cone.
pub(crate) fn collapse(val: &Recall, signs: Signs) -> Option<String> {
    let Signs { config, spreads: [images, texts], chance, zero } = signs;
    if !val.is_at_chance(chance) {
        return None;
    }
    let same = match (images <= SAME, texts <= SAME) {
        (false, false) => return None,
        (true, true) => format!(
            "images and of texts are each nearly all the same (mean squared distance {images:.3} and {texts:.3})"
        ),
        (true, false) => format!("images are nearly all the same (mean squared distance {images:.3})"),
        (false, true) => format!("texts are nearly all the same (mean squared distance {texts:.3})"),
    };
    let mut checks = "check that text_to_image names the image of every caption".to_string();
    let advice = if zero >= 0.1 {
        let _ = write!(
            checks,
            ", and compute the features again: {:.0} % of the rows read are zero",
            100.0 * zero
        );
        String::new()
    } else {
        let objective = &config.objective;
        let infonce = objective.logits().is_some();
        let advice = [
            // It trains on all negatives first, and only objectives that choose some among them.
            (
                config.warmup_epochs == 0 && config.epochs > 1 && objective.mines() && !infonce,
                "--warmup-epochs 1",
            ),
            (true, "a lower --lr"),
            (objective.margin().is_some_and(|margin| margin > 0.0), "a smaller --margin"),
            (!infonce, "--objective infonce"),
        ];
        let advice: Vec<_> = advice.iter().filter(|(applies, _)| *applies).map(|(_, words)| *words).collect();
        let advice = match &advice[..] {
            [one] => (*one).to_string(),
            [first @ .., last] => {
                format!("{}{} or {last}", first.join(", "), if first.len() > 1 { "," } else { "" })
            }
            [] => String::new(),
        };
        format!("; if it does, start again with {advice}")
    };
    Some(format!(
        "training has collapsed: the embeddings of validation {same}, and validation is at chance (rsum {:.1}, chance \
         {chance:.1}); {checks}{advice}",
        val.rsum
    ))
}

/// A step whose numbers are not finite ends the run. The checkpoint of the epoch before remains valid.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of a collapse of images, where half of 600 is beyond chance.
    fn words(
        objective: &str,
        change: impl FnOnce(&mut TrainConfig),
        [rsum, chance, zero]: [f64; 3],
    ) -> Option<String> {
        let mut config = TrainConfig { objective: objective.parse().unwrap(), ..Default::default() };
        change(&mut config);
        let val = Recall { rsum, ..Default::default() };
        collapse(&val, Signs { config: &config, spreads: [0.02, 1.0], chance, zero })
    }

    #[test]
    fn a_collapse_is_told_of_every_objective_with_what_can_help() {
        let says = |objective: &str| {
            let text = words(objective, |_| (), [16.0, 15.9, 0.0]).unwrap();
            let (facts, advice) =
                text.split_once("; check that text_to_image names the image of every caption").unwrap();
            let expected = "training has collapsed: the embeddings of validation images are nearly all the same (mean squared \
                            distance 0.020), and validation is at chance (rsum 16.0, chance 15.9)";
            assert_eq!(facts, expected, "{objective}");
            advice.strip_prefix("; if it does, start again with ").unwrap().to_string()
        };
        for (objective, advice) in [
            ("cir:sig-ms", "--warmup-epochs 1, a lower --lr, or --objective infonce"),
            ("hinge", "--warmup-epochs 1, a lower --lr, a smaller --margin, or --objective infonce"),
            ("con:sig@top:3", "--warmup-epochs 1, a lower --lr, or --objective infonce"),
            ("con:con@semi-hard", "--warmup-epochs 1, a lower --lr, or --objective infonce"),
            ("circle", "--warmup-epochs 1, a lower --lr, or --objective infonce"),
            ("hinge-sum", "a lower --lr, a smaller --margin, or --objective infonce"),
            ("con:sig@all", "a lower --lr or --objective infonce"),
            ("multi-similarity", "a lower --lr or --objective infonce"),
            ("lifted", "a lower --lr, a smaller --margin, or --objective infonce"),
            ("infonce", "a lower --lr"),
            ("infonce+0.5*cir:sig-ms", "a lower --lr"),
        ] {
            assert_eq!(says(objective), advice, "{objective}");
        }
        let warmed = words("cir:sig-ms", |config| config.warmup_epochs = 1, [16.0, 15.9, 0.0]).unwrap();
        assert!(warmed.ends_with("start again with a lower --lr or --objective infonce"), "{warmed}");
        let zero = words("cir:sig-ms", |_| (), [16.0, 15.9, 0.5]).unwrap();
        assert!(zero.ends_with("compute the features again: 50 % of the rows read are zero"), "{zero}");
    }

    #[test]
    fn what_is_above_chance_or_cannot_be_told_from_it_is_no_collapse() {
        for (rsum, chance, collapsed) in
            [(40.0, 15.9, false), (30.0, 15.9, true), (600.0, 600.0, false), (340.0, 330.0, true)]
        {
            assert_eq!(words("hinge", |_| (), [rsum, chance, 0.0]).is_some(), collapsed, "{rsum} {chance}");
        }
        let config = TrainConfig::default();
        let val = Recall { rsum: 15.0, ..Default::default() };
        assert_eq!(
            collapse(&val, Signs { config: &config, spreads: [0.2, 0.2], chance: 15.0, zero: 0.0 }),
            None
        );
    }

    #[test]
    fn the_spread_is_the_mean_squared_distance_of_different_rows() {
        // Two of the three pairs are at right angles, one is of equal rows.
        assert_eq!(spread(&[1.0, 0.0, 0.0, 1.0, 1.0, 0.0], 2), 4.0 / 3.0);
        assert_eq!((spread(&[0.0; 6], 2), spread(&[1.0, 0.0, -1.0, 0.0], 2)), (0.0, 4.0));
        assert!(spread(&[1.0, 0.0], 2).is_infinite() && spread(&[], 0).is_infinite());
    }
}
