//! Parameters of objectives by name, for the command line and for callers in other languages.

use super::Objective;
use crate::{Error, Result};

impl Objective {
    /// The names of the parameters that are numbers, as [`Objective::with`] takes them. A weight file adds its own.
    pub const PARAMETERS: [&'static str; 9] = [
        "margin",
        "tau",
        "alpha",
        "beta",
        "lambda",
        "threshold",
        "circle-margin",
        "temperature",
        "logit-bias",
    ];

    /// The same objective with another value of the parameter `name`, in all terms that have it.
    ///
    /// ```
    /// use wgoal::Objective;
    /// let objective = "cir:sig-ms+0.5*infonce".parse::<Objective>()?.with("tau", 2.0)?.with("temperature", 0.05)?;
    /// assert_eq!(objective.infonce().map(|params| params.temperature), Some(0.05));
    /// assert!("hinge".parse::<Objective>()?.with("tau", 2.0).is_err());
    /// # Ok::<(), wgoal::Error>(())
    /// ```
    ///
    /// # Errors
    /// A name that no term has; a value that [`Objective::validate`] refuses, or with which a weight file cannot be
    /// evaluated.
    pub fn with(mut self, name: &str, value: f32) -> Result<Self> {
        let found = match Self::PARAMETERS.contains(&name) {
            true => self.set(name, value),
            false => self.set_of_weights(name, value)?,
        };
        if found {
            self.validate()?;
            return Ok(self);
        }
        let known = self.parameters();
        let expected = match known.is_empty() {
            true => "no parameter".to_string(),
            false => format!("one of {}", known.join(", ")),
        };
        let advice = "leave it out, or choose another objective";
        Err(Error::config(format!("parameter of objective {self}"), expected, format!("'{name}'"), advice))
    }

    /// Sets a parameter in all terms that have it, without [`Objective::validate`]. Returns whether there is one. It
    /// knows the names of [`Objective::PARAMETERS`] only.
    pub fn set(&mut self, name: &str, value: f32) -> bool {
        let mut found = false;
        let set = |term: &mut Self| {
            if let Some(field) = term.parameter(name) {
                *field = value;
                found = true;
            }
            Ok(())
        };
        // It never fails.
        let _ = self.visit(set);
        found
    }

    /// Calls `visit` with every objective that takes no other one: with this one, or with those inside
    /// [`Objective::Sum`], [`Objective::Over`], [`Objective::Towards`] and [`Objective::OneWay`].
    ///
    /// # Errors
    /// Those of `visit`.
    pub fn visit(&mut self, mut visit: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        fn walk(
            objective: &mut Objective,
            visit: &mut dyn FnMut(&mut Objective) -> Result<()>,
        ) -> Result<()> {
            match objective {
                Objective::Over(_, inner) | Objective::Towards(_, inner) | Objective::OneWay(_, inner) => {
                    walk(inner, visit)
                }
                Objective::Sum(terms) => terms.iter_mut().try_for_each(|(_, term)| walk(term, visit)),
                objective => visit(objective),
            }
        }
        walk(self, &mut visit)
    }

    /// The number of this name in an objective that takes no other one. A margin that is off becomes 0.
    fn parameter(&mut self, name: &str) -> Option<&mut f32> {
        match self {
            Self::Goal(_, _, params) | Self::Loss(_, params) => match name {
                "tau" => Some(&mut params.tau),
                "alpha" => Some(&mut params.alpha),
                "beta" => Some(&mut params.beta),
                "lambda" => Some(&mut params.lambda),
                "threshold" => Some(&mut params.threshold),
                "circle-margin" => Some(&mut params.circle),
                "margin" => Some(params.margin.get_or_insert(0.0)),
                _ => None,
            },
            Self::Hinge { margin } | Self::HingeSum { margin } => (name == "margin").then_some(margin),
            Self::Custom { margin, .. } => (name == "margin").then(|| margin.get_or_insert(0.0)),
            Self::Infonce(params) => (name == "temperature").then_some(&mut params.temperature),
            Self::Siglip(params) => match name {
                "temperature" => Some(&mut params.temperature),
                "logit-bias" => Some(&mut params.logit_bias),
                _ => None,
            },
            Self::Over(..) | Self::Towards(..) | Self::OneWay(..) | Self::Sum(_) => None,
        }
    }

    /// Sets a parameter of the weight files that have it. Returns whether there is one.
    fn set_of_weights(&mut self, name: &str, value: f32) -> Result<bool> {
        let mut found = false;
        self.visit(|term| {
            if let Self::Custom { weights, .. } = term
                && weights.parameters().iter().any(|(known, _)| known == name)
            {
                *weights = weights.with([(name, value)])?;
                found = true;
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// The names that [`Objective::with`] accepts.
    fn parameters(&self) -> Vec<String> {
        let mut copy = self.clone();
        let known = Self::PARAMETERS.into_iter().filter(|name| copy.set(name, 0.0));
        let mut names: Vec<_> = known.map(String::from).collect();
        let _ = copy.visit(|term| {
            if let Self::Custom { weights, .. } = term {
                names.extend(weights.parameters().iter().map(|(name, _)| name.clone()));
            }
            Ok(())
        });
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objective::{GoalParams, InfonceParams};

    #[test]
    fn a_parameter_is_set_in_every_term_that_has_it() {
        let sum: Objective = "hinge@image-to-text+2*cir:sig-ms@top:3+infonce".parse().unwrap();
        let Objective::Sum(terms) = sum.clone().with("margin", 0.3).unwrap() else { panic!("{sum}") };
        assert_eq!(
            terms.iter().map(|(_, term)| term.margin()).collect::<Vec<_>>(),
            [Some(0.3), Some(0.3), None]
        );
        let Objective::Sum(terms) = sum.clone().with("temperature", 0.2).unwrap() else { panic!("{sum}") };
        assert_eq!(terms[2].1, Objective::Infonce(InfonceParams { temperature: 0.2, ..Default::default() }));
        let fields: [(&str, fn(&GoalParams) -> f32); 6] = [
            ("tau", |p| p.tau),
            ("alpha", |p| p.alpha),
            ("beta", |p| p.beta),
            ("lambda", |p| p.lambda),
            ("threshold", |p| p.threshold),
            ("circle-margin", |p| p.circle),
        ];
        for (name, field) in fields {
            let objective: Objective = "cir:sig-ms".parse().unwrap();
            let Objective::Goal(_, _, params) = objective.with(name, 0.75).unwrap() else { panic!("{name}") };
            assert_eq!(field(&params), 0.75, "{name}");
        }
        let Ok(Objective::Siglip(params)) = "siglip".parse::<Objective>().unwrap().with("logit-bias", -3.0)
        else {
            panic!("siglip has a bias")
        };
        assert_eq!(params.logit_bias, -3.0);
    }

    #[test]
    fn a_parameter_that_no_term_has_is_refused() {
        let with = |objective: &str, name, value| {
            objective.parse::<Objective>().unwrap().with(name, value).unwrap_err().to_string()
        };
        assert_eq!(
            with("hinge+infonce", "tau", 1.0),
            "parameter of objective hinge+infonce: expected one of margin, temperature, found 'tau'; leave it out, or \
             choose another objective"
        );
        assert!(with("infonce", "temperature", 0.0).contains("expected a finite number above 0, found 0"));
    }

    #[test]
    fn a_parameter_of_a_weight_file_has_its_name() {
        let source = "override gain: f32 = 2.0;\n\
            fn triplet_weight(p: f32, n: f32) -> f32 { return gain; }\n\
            fn pair_weights(p: f32, n: f32) -> vec2f { return vec2f(1.0, n); }";
        let weights = crate::objective::CustomWeights::new("w.wgsl", source, []).unwrap();
        let custom = Objective::Custom { weights, margin: None };
        let Ok(Objective::Custom { weights, margin: None }) = custom.clone().with("gain", 3.0) else {
            panic!()
        };
        assert_eq!(weights.parameters(), [("gain".to_string(), 3.0)]);
        assert_eq!(custom.clone().with("margin", 0.1).unwrap().margin(), Some(0.1));
        let error = custom.with("loss", 1.0).unwrap_err().to_string();
        assert!(error.contains("expected one of margin, gain, found 'loss'"), "{error}");
    }
}
