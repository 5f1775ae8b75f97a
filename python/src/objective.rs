//! Objectives by name, with their parameters by name and with weight files.

use crate::errors::{raised, refused, result};
use pyo3::prelude::*;
use std::collections::BTreeMap;
use std::path::PathBuf;
use wgoal::Objective;
use wgoal::objective::CustomWeights;

/// The parameters that are given, in the order of [`Objective::PARAMETERS`].
pub type Parameters = [Option<f32>; Objective::PARAMETERS.len()];

/// An objective as it was asked for.
#[derive(PartialEq)]
pub struct Asked {
    name: String,
    parameters: Parameters,
    weights: Option<Weights>,
}

/// A weight file, and what it holds at the time of the call.
#[derive(PartialEq)]
struct Weights {
    path: PathBuf,
    text: Vec<u8>,
    parameters: BTreeMap<String, f32>,
}

impl Asked {
    pub fn new(name: &str, parameters: Parameters) -> Self {
        Self { name: name.into(), parameters, weights: None }
    }

    /// With the weight file of `custom`, and the values of its parameters.
    ///
    /// # Errors
    /// A file without the objective `custom`, the objective without a file, or parameters without a file.
    pub fn with_weights(
        self,
        py: Python<'_>,
        path: Option<PathBuf>,
        param: Option<BTreeMap<String, f32>>,
    ) -> PyResult<Self> {
        let mut parts = self.name.split(['+', '*', '@']);
        let wrong = match (parts.any(|part| part.trim() == "custom"), &path, &param) {
            (true, None, _) => {
                let advice = "give weights=\"FILE.wgsl\", which docs/your-own-gradient.md describes";
                refused("weights", "a WGSL file, because the objective is custom", "none", advice)
            }
            (false, Some(_), _) => {
                let advice = "give the objective \"custom\", or leave weights out";
                refused("weights", "the objective custom", &self.name, advice)
            }
            (_, None, Some(_)) => {
                refused("param", "a weight file that has them", "no file", "give weights, or leave param out")
            }
            (_, None, None) => return Ok(self),
            (true, Some(_), _) => {
                let path = path.unwrap_or_default();
                // If it cannot be read, opening it below says why.
                let text = std::fs::read(&path).unwrap_or_default();
                let weights = Some(Weights { path, text, parameters: param.unwrap_or_default() });
                return Ok(Self { weights, ..self });
            }
        };
        Err(raised(py, &wrong))
    }

    /// The objective.
    ///
    /// # Errors
    /// A name or a parameter that it does not have; a weight file with a fault.
    pub fn objective(&self, py: Python<'_>) -> PyResult<Objective> {
        let mut given = Objective::PARAMETERS
            .iter()
            .zip(&self.parameters)
            .filter_map(|(name, value)| Some((*name, (*value)?)));
        let named = |name: &str| match &self.weights {
            Some(weights) if name == "custom" => {
                let given = weights.parameters.iter().map(|(name, value)| (name.as_str(), *value));
                let weights = CustomWeights::open(&weights.path, given)?;
                Ok(Objective::Custom { weights, margin: None })
            }
            _ => name.parse(),
        };
        let objective = match &self.weights {
            Some(_) => Objective::parse_with(&self.name, named),
            None => self.name.parse(),
        };
        let objective = objective
            .and_then(|base| given.try_fold(base, |made: Objective, (name, value)| made.with(name, value)));
        result(py, objective)
    }
}
