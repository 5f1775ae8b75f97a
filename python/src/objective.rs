//! Objectives by name, with their parameters by name.

use crate::errors::result;
use pyo3::prelude::*;
use wgoal::Objective;

/// The parameters that are given, in the order of [`Objective::PARAMETERS`].
pub type Parameters = [Option<f32>; Objective::PARAMETERS.len()];

/// The objective of this name with these parameters.
pub fn objective(py: Python<'_>, name: &str, parameters: &Parameters) -> PyResult<Objective> {
    let mut given =
        Objective::PARAMETERS.iter().zip(parameters).filter_map(|(name, value)| Some((*name, (*value)?)));
    let objective = name
        .parse()
        .and_then(|base| given.try_fold(base, |made: Objective, (name, value)| made.with(name, value)));
    result(py, objective)
}
