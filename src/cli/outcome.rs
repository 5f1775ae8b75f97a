//! The end of a run: recall of the best head, the closed forms beside it, and what training gained.

use serde::Serialize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use wgoal::model::Side;
use wgoal::report::Reference;
use wgoal::train::{Baseline, Best, ClosedForm, Init, REGULARIZATIONS};
use wgoal::{Checkpoint, Dataset, Error, ErrorKind, Recall, Result, Split, Trainer};

/// Rsum of methods without training.
#[derive(Serialize)]
pub struct Baselines {
    /// The split that it was measured on.
    pub split: String,
    #[serde(flatten)]
    pub forms: ClosedForms,
    pub chance: f64,
    /// The closed forms on the validation split.
    pub val: ClosedForms,
}

/// Rsum of the closed forms.
#[derive(Clone, Copy, Serialize)]
pub struct ClosedForms {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cca: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ridge: Option<f64>,
    /// Only if the run starts from kernel CCA.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kcca: Option<f64>,
}

/// The split that results are reported on: test, or validation if there is no test split.
pub fn reported(dataset: &Dataset) -> Split {
    if dataset.split(Split::Test).images.is_empty() { Split::Val } else { Split::Test }
}

/// The recall of the best head of a run on this split. The processes of a job compute it together.
///
/// # Errors
/// Those of [`Trainer::recall_of`].
pub fn reported_recall(trainer: &Trainer, head: &Checkpoint, best: Best) -> Result<Recall> {
    match reported(trainer.dataset()) {
        Split::Test => trainer.recall_of(head.head(), Split::Test),
        _ => Ok(best.recall),
    }
}

/// The rsum of a random ranking on a split.
pub fn chance(trainer: &Trainer, split: Split) -> f64 {
    trainer.truth(split).map_or(0.0, |truth| truth.chance())
}

/// The rsum of the closed forms on the same features. Those whose computation would take long are left out, with a note.
///
/// # Errors
/// Those of the closed forms. Their libraries may panic where memory is short, and that is an error too.
pub fn baselines(trainer: &Trainer) -> Result<Baselines> {
    catch_unwind(AssertUnwindSafe(|| compute(trainer))).unwrap_or_else(|_| {
        let advice = "give --no-baselines";
        Err(Error::new(ErrorKind::Config, "closed forms", "a result", "a panic", advice))
    })
}

fn compute(trainer: &Trainer) -> Result<Baselines> {
    // The work grows with the cube of the width and linearly with the pairs.
    const WIDTH: usize = 2048;
    const PAIRS: usize = 200_000;
    // Closed forms have no learned pooling: they use the mean instead.
    let config = trainer.config().in_closed_form();
    let (dataset, device) = (trainer.dataset(), trainer.device());
    let split = reported(dataset);
    let [image, text] = config.pooling();
    let widest = dataset.width(Side::Image, image)?.max(dataset.width(Side::Text, text)?);
    // On validation, and on the split that is reported.
    let rsums = |form| -> Result<[f64; 2]> {
        let Baseline { head, val, .. } = Baseline::fit(form, device, dataset, &config, &REGULARIZATIONS)?;
        Ok([val.rsum, head.recall(device, dataset, split, 1, config.equal_captions)?.rsum])
    };
    // A start that is a closed form need not be computed again.
    let started = |init: Init| -> Result<Option<[f64; 2]>> {
        let start = trainer.start().filter(|start| start.init == init).zip(trainer.start_head());
        start.map(|(start, head)| Ok([start.val.rsum, trainer.recall_of(head, split)?.rsum])).transpose()
    };
    let (start, kcca) = (started(Init::Cca)?, started(Init::KernelCca)?);
    let (cca, ridge) = if widest > WIDTH || dataset.split(Split::Train).texts.len() > PAIRS {
        note!("note: closed forms are left out on data this large; `wgoal baseline` computes them");
        (start, None)
    } else {
        let cca = start.map_or_else(|| rsums(ClosedForm::Cca), Ok)?;
        (Some(cca), Some(rsums(ClosedForm::Ridge)?))
    };
    let [val, forms] = [0, 1].map(|which| {
        let [cca, ridge, kcca] = [cca, ridge, kcca].map(|form| form.map(|rsums: [f64; 2]| rsums[which]));
        ClosedForms { cca, ridge, kcca }
    });
    Ok(Baselines { split: split.to_string(), forms, chance: chance(trainer, split), val })
}

impl Baselines {
    /// Sets the rsums of the closed form that runs start from, on validation and on the reported split.
    pub fn set_start(&mut self, init: &Init, [val, reported]: [f64; 2]) {
        for (forms, rsum) in [(&mut self.val, val), (&mut self.forms, reported)] {
            match init {
                Init::Cca => forms.cca = Some(rsum),
                Init::KernelCca => forms.kcca = Some(rsum),
                _ => {}
            }
        }
    }

    /// The closed forms as lines of a report.
    pub fn references(&self) -> Vec<Reference> {
        let named = [
            ("CCA", self.val.cca, self.forms.cca),
            ("ridge regression", self.val.ridge, self.forms.ridge),
            ("kernel CCA", self.val.kcca, self.forms.kcca),
        ];
        let computed = named.into_iter().filter(|(_, val, reported)| val.or(*reported).is_some());
        let test = |rsum: Option<f64>| rsum.filter(|_| self.split == "test");
        computed.map(|(name, val, rsum)| Reference { name: name.into(), val, test: test(rsum) }).collect()
    }

    /// The closed forms with their names.
    fn named(&self) -> [(Option<f64>, &'static str); 3] {
        let ClosedForms { cca, ridge, kcca } = self.forms;
        [(cca, "CCA"), (ridge, "ridge regression"), (kcca, "kernel CCA")]
    }

    /// The closed forms in a line.
    pub fn line(&self) -> String {
        let named = self.named().into_iter().chain([(Some(self.chance), "chance")]);
        let parts = named.filter_map(|(rsum, name)| Some(format!("{:.1} by {name}", rsum?)));
        format!("without training: rsum {}", parts.collect::<Vec<_>>().join(", "))
    }

    /// What training gained over the best closed form, in words. `None` if no closed form was computed.
    pub fn gain(&self, trained: f64, best_epoch: usize, init: &Init) -> Option<String> {
        let computed = self.named().into_iter().filter_map(|(rsum, name)| Some((rsum?, name)));
        // Of equal ones, the first.
        let (best, name) = computed.reduce(|best, other| if other.0 > best.0 { other } else { best })?;
        let split = match self.split.as_str() {
            "val" => "validation",
            split => split,
        };
        let (points, form) = (trained - best, format!("the best closed form ({name}, {best:.1})"));
        // What is printed as 0.0 is no gain.
        if points >= 0.05 {
            return Some(format!("training gained {points:.1} points of {split} rsum over {form}"));
        }
        let mut line = match points <= -0.05 {
            true => {
                format!("training did not gain: its {split} rsum is {:.1} points below {form}", -points)
            }
            false => format!("training did not gain: its {split} rsum equals that of {form}"),
        };
        if best_epoch == 0 {
            line += "; no epoch validated better than the start, so the head is the start";
        } else if *init == Init::Xavier {
            line += "; a start from CCA may help: --init cca, or the default recipe";
        }
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gain_is_said_in_words_and_so_is_a_loss() {
        let baselines = |cca, ridge| Baselines {
            split: "test".into(),
            forms: ClosedForms { cca, ridge, kcca: None },
            chance: 10.0,
            val: ClosedForms { cca, ridge, kcca: None },
        };
        let both = baselines(Some(241.5), Some(231.8));
        let gain = |rsum, epoch, init: Init| both.gain(rsum, epoch, &init).unwrap();
        assert_eq!(
            gain(246.7, 3, Init::Cca),
            "training gained 5.2 points of test rsum over the best closed form (CCA, 241.5)"
        );
        assert_eq!(
            gain(240.0, 3, Init::Cca),
            "training did not gain: its test rsum is 1.5 points below the best closed form (CCA, 241.5)"
        );
        assert_eq!(
            gain(241.5, 0, Init::Cca),
            "training did not gain: its test rsum equals that of the best closed form (CCA, 241.5); no epoch validated \
             better than the start, so the head is the start"
        );
        assert!(
            gain(200.0, 3, Init::Xavier)
                .ends_with("; a start from CCA may help: --init cca, or the default recipe")
        );
        let ridge = baselines(Some(1.0), Some(2.0)).gain(3.0, 1, &Init::Cca).unwrap();
        assert!(ridge.ends_with("(ridge regression, 2.0)"), "{ridge}");
        let mut started = baselines(Some(241.5), None);
        started.forms.kcca = Some(250.0);
        assert_eq!(
            started.line(),
            "without training: rsum 241.5 by CCA, 250.0 by kernel CCA, 10.0 by chance"
        );
        assert_eq!(
            started.gain(252.0, 3, &Init::KernelCca).unwrap(),
            "training gained 2.0 points of test rsum over the best closed form (kernel CCA, 250.0)"
        );
        assert_eq!(baselines(None, None).gain(3.0, 1, &Init::Cca), None);
        assert_eq!(baselines(Some(1.0), None).line(), "without training: rsum 1.0 by CCA, 10.0 by chance");
    }
}
