//! The options of a run as they are in effect, for `run.toml` in its folder.

use super::super::options::{RunOptions, Unused, parameters};
use super::super::{help, quoted, shown};
use super::{RUN, write};
use clap::Parser;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use wgoal::io::{SMALL, read_text, write_regular};
use wgoal::optim::Warmup;
use wgoal::train::{Init, Shuffle};
use wgoal::{Dataset, Objective, Plain, Result, TrainConfig};

/// The first words of the file.
const START: &str = "# The options of this run";

/// Writes `run.toml` into the folder of a run: every option that decides its result, with the value in effect. Keeps a
/// file of this name that wgoal did not write.
///
/// # Errors
/// The file cannot be written.
pub fn save(
    folder: &Path,
    recipe: &str,
    config: &TrainConfig,
    (dataset, path): (&Dataset, &Path),
    device: &str,
) -> Result<()> {
    let path_of_run = folder.join(RUN);
    if is_foreign(&path_of_run, START) {
        note!(
            "note: {} is not from a run, so it stays as it is; config.json has the options",
            shown(&path_of_run)
        );
        return Ok(());
    }
    let mut values = of(config);
    // Options without effect would only cause warnings.
    let unused = with_values(&values).map(|options| options.unused(config, dataset)).unwrap_or_default();
    for Unused { option, .. } in unused {
        values.remove(option);
    }
    // The values below are changes of the plain training, whatever the recipe was.
    values.insert("recipe".into(), vec!["goal".into()]);
    values.insert("dataset".into(), vec![absolute(path)]);
    values.insert("device".into(), vec![device.to_string()]);
    let head = format!(
        "{START}, by wgoal {}. To repeat it, in another folder:\n\
         #   wgoal train --config {} --out NEW\n\
         # The values below include those of the recipe {}.\n",
        env!("CARGO_PKG_VERSION"),
        quoted(&path_of_run),
        Plain(recipe),
    );
    write_regular(&path_of_run, write::render(&help::command(), "train", &head, &values).as_bytes())
}

/// Whether there is something at this path that does not start with these words of wgoal.
pub(super) fn is_foreign(path: &Path, start: &str) -> bool {
    match read_text(path, SMALL) {
        Ok(text) => !text.starts_with(start),
        Err(obstacle) => !obstacle.is_missing(),
    }
}

/// The values of options, by name.
pub(super) type Values = BTreeMap<String, Vec<String>>;

/// The values of all options that make `config`.
pub(super) fn of(config: &TrainConfig) -> Values {
    let mut values = BTreeMap::new();
    let mut set = |name: &str, value: Vec<String>| drop(values.insert(name.to_string(), value));
    if let Ok(Value::Object(fields)) = serde_json::to_value(config) {
        for (field, value) in &fields {
            let text = match value {
                Value::Bool(on) => on_off(*on),
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                Value::Array(list) => {
                    let list: Vec<_> = list.iter().map(ToString::to_string).collect();
                    if !list.is_empty() {
                        set(&field.replace('_', "-"), list);
                    }
                    continue;
                }
                // These follow below.
                _ => continue,
            };
            set(&field.replace('_', "-"), vec![text]);
        }
    }
    // In f32, with as few digits as f32 needs.
    set("dropout", vec![config.dropout.to_string()]);
    set("clip", vec![config.clip.to_string()]);
    if let Warmup::Share { percent } = config.lr_warmup {
        set("lr-warmup", vec![format!("{percent}%")]);
    }
    if let Shuffle::Blocks { window } = config.shuffle {
        set("shuffle", vec![window.map_or("blocks".into(), |pairs| format!("blocks:{pairs}"))]);
    }
    if let Init::File(file) = &config.init {
        set("init", vec![absolute(&file.path)]);
    }
    let mut optimizer = config.optimizer;
    set("optimizer", vec![optimizer.name().to_string()]);
    if let Some(betas) = optimizer.betas() {
        set("betas", betas.iter().map(ToString::to_string).collect());
    }
    if let Some(momentum) = optimizer.momentum() {
        set("momentum", vec![momentum.to_string()]);
    }
    if let Some(epsilon) = optimizer.epsilon() {
        set("epsilon", vec![format!("{epsilon:e}")]);
    }
    if let Some(nesterov) = optimizer.nesterov() {
        set("nesterov", vec![on_off(*nesterov)]);
    }
    objective(&config.objective, &mut set);
    values
}

/// The options that make an objective.
fn objective(whole: &Objective, set: &mut impl FnMut(&str, Vec<String>)) {
    let named = match whole {
        Objective::Over(negatives, objective) => {
            set("negatives", vec![negatives.to_string()]);
            objective
        }
        other => other,
    };
    set("objective", vec![named.to_string()]);
    let mut terms = Vec::new();
    collect(whole, &mut terms);
    for name in parameters(whole) {
        let mut found: Vec<Option<String>> = terms.iter().filter_map(|term| parameter(term, name)).collect();
        found.dedup();
        // An option sets the parameter in all terms. Terms that differ have their own defaults.
        if let [Some(value)] = &found[..] {
            set(name, vec![value.clone()]);
        }
    }
    for term in terms {
        if let Objective::Custom { weights, .. } = term {
            set("weights", vec![absolute(Path::new(weights.file()))]);
            let given: Vec<_> =
                weights.parameters().iter().map(|(name, value)| format!("{name}={value}")).collect();
            if !given.is_empty() {
                set("param", given);
            }
        }
    }
}

/// The terms of an objective, without their negatives and weights.
fn collect<'a>(objective: &'a Objective, terms: &mut Vec<&'a Objective>) {
    match objective {
        Objective::Over(_, objective)
        | Objective::Towards(_, objective)
        | Objective::OneWay(_, objective) => collect(objective, terms),
        Objective::Sum(parts) => parts.iter().for_each(|(_, part)| collect(part, terms)),
        other => terms.push(other),
    }
}

/// The value of a parameter of an objective that is neither a sum nor over other negatives. The outer option says whether
/// the objective has it, the inner one whether it is set.
fn parameter(objective: &Objective, name: &str) -> Option<Option<String>> {
    if !parameters(objective).contains(&name) {
        return None;
    }
    let number = |value: f32| Some(Some(value.to_string()));
    match objective {
        Objective::Goal(_, _, params) | Objective::Loss(_, params) => match name {
            "tau" => number(params.tau),
            "alpha" => number(params.alpha),
            "beta" => number(params.beta),
            "lambda" => number(params.lambda),
            "threshold" => number(params.threshold),
            "circle-margin" => number(params.circle),
            "margin" => Some(params.margin.map(|margin| margin.to_string())),
            _ => None,
        },
        Objective::Hinge { margin } | Objective::HingeSum { margin } => number(*margin),
        Objective::Infonce(params) => match name {
            "temperature" => number(params.temperature),
            "learn-temperature" => Some(Some(on_off(params.learn_temperature))),
            _ => None,
        },
        Objective::Siglip(params) => match name {
            "temperature" => number(params.temperature),
            "logit-bias" => number(params.logit_bias),
            "learn-temperature" => Some(Some(on_off(params.learn_temperature))),
            _ => None,
        },
        Objective::Custom { margin, .. } if name == "margin" => Some(margin.map(|margin| margin.to_string())),
        _ => None,
    }
}

fn on_off(on: bool) -> String {
    if on { "on" } else { "off" }.into()
}

pub(super) fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.into()).display().to_string()
}

/// Only the options of a run.
#[derive(Parser)]
struct Run {
    #[command(flatten)]
    options: RunOptions,
}

/// The options with these values.
pub(super) fn with_values(values: &Values) -> Option<RunOptions> {
    let each = values.iter().flat_map(|(name, values)| match name.as_str() {
        "param" => values.iter().map(|value| format!("--param={value}")).collect(),
        name => vec![format!("--{name}={}", values.join(","))],
    });
    Run::try_parse_from(std::iter::once("wgoal".to_string()).chain(each)).ok().map(|run| run.options)
}
