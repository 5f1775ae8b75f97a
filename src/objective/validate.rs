//! Checks of an objective's parameters.

use super::{Logits, Negatives, Objective, PairWeight, Positives};
use crate::{Error, Result};

impl Objective {
    /// Checks that every parameter is a number that the formulas accept.
    ///
    /// The function is long because it is the list of all rules on objectives.
    ///
    /// # Errors
    /// The first parameter that they do not accept.
    pub fn validate(&self) -> Result<()> {
        let check = |ok: bool, name: &str, expected: &str, found: f32| match ok {
            true => Ok(()),
            false => {
                let thing = format!("--{name} of objective {self}");
                Err(Error::config(
                    thing,
                    expected,
                    found,
                    format!("give --{name} such a value, or leave it out"),
                ))
            }
        };
        let positive = |name, x: f32| check(x.is_finite() && x > 0.0, name, "a finite number above 0", x);
        if let Some(margin) = self.margin() {
            check(margin.is_finite(), "margin", "a finite number", margin)?;
        }
        match self {
            Self::Goal(_, _, params) | Self::Loss(_, params) => {
                positive("tau", params.tau)?;
                positive("alpha", params.alpha)?;
                positive("beta", params.beta)?;
                check(params.lambda.is_finite(), "lambda", "a finite number", params.lambda)?;
                let threshold = params.threshold;
                check(
                    threshold.is_finite() && threshold >= 0.0,
                    "threshold",
                    "a finite number of 0 or more",
                    threshold,
                )?;
                check(params.circle.is_finite(), "circle-margin", "a finite number", params.circle)
            }
            Self::Infonce(_) | Self::Siglip(_) => {
                let Some(Logits { temperature, bias, learned, .. }) = self.logits() else { return Ok(()) };
                positive("temperature", temperature)?;
                let (low, high) = Logits::BOUNDS;
                let learnable = !learned || (low..=high).contains(&temperature);
                check(learnable, "temperature", "0.001 to 0.5 where it is learned", temperature)?;
                check(bias.is_finite(), "logit-bias", "a finite number", bias)
            }
            Self::Over(negatives, objective) => {
                objective.validate()?;
                if !objective.on_triplets() || matches!(**objective, Self::Over(..) | Self::OneWay(..)) {
                    let expected =
                        "an objective on triplets: TRIPLET:PAIR, hinge, custom, or a loss of one negative";
                    let advice = "leave the negatives out, or choose another objective";
                    return Err(Error::config(
                        format!("--negatives {negatives}"),
                        expected,
                        objective,
                        advice,
                    ));
                }
                let base = match &**objective {
                    Self::Towards(_, base) => base,
                    base => base,
                };
                let sets = matches!(base, Self::Goal(_, PairWeight::LinMs | PairWeight::SigMs, _));
                if sets && *negatives == Negatives::All {
                    let expected =
                        "a pair weight without relative sets, which every negative would have of its own";
                    let advice = "use top:K, or the pair weight lin or sig";
                    return Err(Error::config("--negatives all", expected, objective, advice));
                }
                Ok(())
            }
            Self::Towards(positives, objective) => {
                objective.validate()?;
                let thing = format!("@positives:{positives}");
                let plain = !matches!(
                    **objective,
                    Self::Over(..) | Self::OneWay(..) | Self::Towards(..) | Self::Sum(_)
                );
                if !plain || objective.logits().is_some() {
                    let expected = "an objective with one positive per anchor, so not InfoNCE or SigLIP";
                    let advice = "leave the positives out: infonce takes the mean over the positives, \
                                  infonce-log-sum their sum, siglip all of them";
                    return Err(Error::config(thing, expected, objective, advice));
                }
                if *positives == Positives::LogSum && objective.positive_scale().is_none() {
                    let expected = "an objective with a scale of its positives: multi-similarity, circle-all, lifted, \
                                    nca:PAIR, con:sig, con:sig-ms, or a loss with these weights";
                    return Err(Error::config(
                        thing,
                        expected,
                        objective,
                        "use positives:mean or positives:hardest, or choose another objective",
                    ));
                }
                Ok(())
            }
            Self::OneWay(direction, objective) => {
                objective.validate()?;
                if matches!(**objective, Self::Siglip(_) | Self::OneWay(..) | Self::Sum(_)) {
                    let (thing, expected) =
                        (format!("@{direction}"), "an objective with two directions, so not siglip");
                    let advice = "leave the direction out, or choose another objective";
                    return Err(Error::config(thing, expected, objective, advice));
                }
                Ok(())
            }
            Self::Sum(terms) => {
                let thing = format!("objective {self}");
                if terms.is_empty() {
                    return Err(Error::config("sum of objectives", "at least one", "none", "name some"));
                }
                for (weight, objective) in terms {
                    objective.validate()?;
                    if !(weight.is_finite() && *weight > 0.0) {
                        let (expected, advice) = ("weights above 0", "give each term a weight above 0");
                        return Err(Error::config(thing, expected, weight, advice));
                    }
                    if matches!(objective, Self::Sum(_)) {
                        let advice = "multiply the inner weights out";
                        return Err(Error::config(thing, "a sum without sums in it", objective, advice));
                    }
                }
                match terms.iter().filter(|(_, objective)| objective.logits().is_some()).count() {
                    0 | 1 => Ok(()),
                    more => {
                        let expected = "InfoNCE or SigLIP at most once: the head has one temperature";
                        Err(Error::config(thing, expected, format!("{more} times"), "leave all but one out"))
                    }
                }
            }
            Self::Hinge { .. } | Self::HingeSum { .. } | Self::Custom { .. } => Ok(()),
        }
    }
}
