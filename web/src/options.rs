//! The options of a run, as the page gives them.

use crate::words::Failure;
use serde::Deserialize;
use std::collections::BTreeMap;
use wgoal::objective::CustomWeights;
use wgoal::{Objective, TrainConfig};

/// The name of the weight file in messages.
const FILE: &str = "your weights";

/// The options of a run. Those that are missing have the defaults of the library.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The name of an objective, as `--objective` takes it; `custom` for weights in WGSL.
    objective: String,
    /// Values of its parameters.
    #[serde(default)]
    parameters: BTreeMap<String, f32>,
    /// The text of a weight file.
    #[serde(default)]
    weights: Option<String>,
    #[serde(default)]
    epochs: Option<usize>,
    #[serde(default)]
    batch: Option<usize>,
    #[serde(default)]
    embed: Option<usize>,
    #[serde(default)]
    lr: Option<f64>,
    #[serde(default)]
    seed: Option<u64>,
    #[serde(default)]
    standardize: bool,
    #[serde(default)]
    dropout: Option<f32>,
}

/// Reads the options from JSON.
pub fn parse(text: &str) -> Result<Options, Failure> {
    Ok(serde_json::from_str(text)?)
}

impl Options {
    /// The objective with its parameters.
    pub fn objective(&self) -> Result<Objective, Failure> {
        let parameters = self.parameters.iter().map(|(name, &value)| (name.as_str(), value));
        if self.objective == "custom" {
            let source = self.weights.as_deref().unwrap_or_default();
            let (margin, own): (Vec<_>, Vec<_>) = parameters.partition(|(name, _)| *name == "margin");
            let weights = CustomWeights::new(FILE, source, own)?;
            let objective = Objective::Custom { weights, margin: margin.first().map(|(_, value)| *value) };
            objective.validate()?;
            return Ok(objective);
        }
        let mut objective: Objective = self.objective.parse()?;
        for (name, value) in parameters {
            objective = objective.with(name, value)?;
        }
        Ok(objective)
    }

    /// The configuration of the run.
    pub fn config(&self) -> Result<TrainConfig, Failure> {
        let objective = self.objective()?;
        let config = TrainConfig::default().with(|config| {
            config.objective = objective;
            config.epochs = self.epochs.unwrap_or(config.epochs);
            config.batch = self.batch.unwrap_or(config.batch);
            config.embed = self.embed.unwrap_or(config.embed);
            config.lr = self.lr.unwrap_or(config.lr);
            config.seed = self.seed.unwrap_or(config.seed);
            config.dropout = self.dropout.unwrap_or(config.dropout);
            config.standardize = self.standardize;
        });
        config.validate()?;
        Ok(config)
    }
}

/// The parameters of an objective with their values; `None` for a margin that is off.
pub fn parameters(objective: &Objective) -> Vec<(String, Option<f32>)> {
    if let Objective::Custom { weights, margin } = objective {
        let own = weights.parameters().iter().map(|(name, value)| (name.clone(), Some(*value)));
        return own.chain([("margin".to_string(), *margin)]).collect();
    }
    let json = serde_json::to_value(objective).unwrap_or_default();
    let known = Objective::PARAMETERS.into_iter().filter(|name| objective.clone().set(name, 0.5));
    known
        .map(|name| {
            let field = if name == "circle-margin" { "circle".into() } else { name.replace('-', "_") };
            (name.to_string(), find(&json, &field))
        })
        .collect()
}

/// The number with this name in a JSON value.
fn find(value: &serde_json::Value, name: &str) -> Option<f32> {
    match value {
        serde_json::Value::Object(fields) => match fields.get(name) {
            Some(serde_json::Value::Number(number)) => number.as_f64().map(|number| number as f32),
            _ => fields.values().find_map(|value| find(value, name)),
        },
        serde_json::Value::Array(values) => values.iter().find_map(|value| find(value, name)),
        _ => None,
    }
}
