//! Runs side by side: a table and a page.

use super::Run;
use super::figures::{CURVES, over_epochs, points};
use super::page::{cell, count, page, table};
use crate::draw::Line;
use crate::eval::Recall;
use crate::{Plain, Result};
use maud::html;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// Runs side by side, in the order given.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Comparison {
    /// The runs.
    pub runs: Vec<Compared>,
}

/// A run beside others.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Compared {
    /// Name of its folder, or the whole path if several runs have the name.
    pub run: String,
    /// The objective.
    pub objective: String,
    /// Options in which the runs differ, with their values. An objective without the option has none.
    pub options: BTreeMap<String, String>,
    /// Epochs done.
    pub epochs: usize,
    /// Whether the run has ended.
    pub ended: bool,
    /// The best epoch by validation rsum; `None` before the first epoch.
    pub best_epoch: Option<usize>,
    /// Recall on the validation split at the best epoch.
    pub val: Option<Recall>,
    /// Recall of the best head on the test split; `None` if the run has not ended, or has no test split.
    pub test: Option<Recall>,
}

/// The options of a run by name, those of the objective included.
fn options(run: &Run) -> BTreeMap<String, String> {
    let shown = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut found = BTreeMap::new();
    let config = run.options();
    for (key, value) in config.as_object().into_iter().flatten() {
        match key == "objective" {
            true => {
                parameters(value, &mut |key, value| drop(found.insert(key.replace('_', "-"), shown(value))))
            }
            false => drop(found.insert(key.replace('_', "-"), shown(value))),
        }
    }
    found.extend(run.dataset.iter().map(|path| ("dataset".into(), path.display().to_string())));
    found.insert("device".into(), run.devices.join(", then "));
    found
}

/// The named numbers and switches inside an objective.
fn parameters(value: &Value, found: &mut impl FnMut(&str, &Value)) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| match value {
            Value::Object(_) | Value::Array(_) => parameters(value, found),
            // Such as no margin.
            Value::Null => {}
            value => found(key, value),
        }),
        Value::Array(values) => values.iter().for_each(|value| parameters(value, found)),
        _ => {}
    }
}

impl Comparison {
    /// Compares runs.
    pub fn of(runs: &[Run]) -> Self {
        let all: Vec<_> = runs.iter().map(options).collect();
        let mut differing: Vec<&String> = all.iter().flat_map(BTreeMap::keys).collect();
        differing.sort();
        differing.dedup();
        differing.retain(|key| {
            let mut values = all.iter().filter_map(|options| options.get(*key));
            let first = values.next();
            values.any(|value| Some(value) != first)
        });
        let names: Vec<_> = runs.iter().map(Run::name).collect();
        let compared = |(k, run): (usize, &Run)| {
            let twice = names.iter().filter(|name| **name == names[k]).count() > 1;
            let best = run.best().map(|best| (best.epoch, best.val));
            // An ensemble has no epochs of its own.
            let of_outcome = run.outcome.as_ref().map(|outcome| (outcome.best.epoch, outcome.best.recall));
            let best = best.or(of_outcome);
            Compared {
                run: if twice { Plain(run.folder.display()).to_string() } else { names[k].clone() },
                objective: run.objective().to_string(),
                options: differing
                    .iter()
                    .filter_map(|key| Some(((*key).clone(), all[k].get(*key)?.clone())))
                    .collect(),
                epochs: run.epochs.last().map_or(best.map_or(0, |(epoch, _)| epoch), |point| point.epoch),
                ended: run.outcome.is_some(),
                best_epoch: best.map(|(epoch, _)| epoch),
                val: best.map(|(_, val)| val),
                test: run.outcome.as_ref().and_then(|outcome| outcome.test),
            }
        };
        Self { runs: runs.iter().enumerate().map(compared).collect() }
    }

    /// The names of the options that differ.
    fn differing(&self) -> Vec<&str> {
        let mut names: Vec<_> =
            self.runs.iter().flat_map(|run| run.options.keys()).map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Heads and rows of the table.
    fn cells(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let differing = self.differing();
        let mut head: Vec<String> = vec!["run".into(), "objective".into()];
        head.extend(differing.iter().map(|name| (*name).to_string()));
        let numbers = ["best epoch", "val rsum", "test rsum", "test i2t R@1", "test t2i R@1"];
        head.extend(numbers.map(String::from));
        let row = |run: &Compared| {
            let mut row = vec![run.run.clone(), run.objective.clone()];
            let value = |name: &&str| run.options.get(*name).cloned().unwrap_or_else(|| "–".into());
            row.extend(differing.iter().map(value));
            let best = run.best_epoch.map_or("–".into(), |best| format!("{best} of {}", run.epochs));
            row.push(best);
            row.push(cell(run.val.map(|val| val.rsum), 1));
            row.push(cell(run.test.map(|test| test.rsum), 1));
            row.push(cell(run.test.map(|test| test.i2t.r1), 1));
            row.push(cell(run.test.map(|test| test.t2i.r1), 1));
            row
        };
        (head, self.runs.iter().map(row).collect())
    }

    /// The run with the best validation rsum, the first among equals; `None` if no run has an epoch.
    pub fn best(&self) -> Option<usize> {
        let mut best: Option<(usize, f64)> = None;
        for (k, run) in self.runs.iter().enumerate() {
            if let Some(val) = run.val.filter(|val| best.is_none_or(|(_, rsum)| val.rsum > rsum)) {
                best = Some((k, val.rsum));
            }
        }
        best.map(|(k, _)| k)
    }

    /// The page with the table and the learning curves of the same runs, as one HTML file.
    ///
    /// # Errors
    /// None that a caller can cause.
    pub fn to_html(&self, runs: &[Run]) -> Result<String> {
        let (head, rows) = self.cells();
        let head: Vec<&str> = head.iter().map(String::as_str).collect();
        let text = 2 + self.differing().len();
        let mut figures = Vec::new();
        for curve in &CURVES {
            let lines = runs.iter().zip(&self.runs).enumerate().map(|(k, (run, compared))| {
                Line::new(compared.run.clone(), k, points(&run.epochs, curve.of))
            });
            let lines: Vec<_> = lines.collect();
            figures.push(over_epochs(curve.heading, curve.axis, curve.caption, &lines)?);
        }
        let caption = "Options in which the runs differ, and recall of their best epochs. Higher is better.";
        let body = html! {
            h1 { "Comparison of " (count(self.runs.len(), "run", "runs")) }
            p.lead {
                @if let Some(best) = self.best().and_then(|best| self.runs.get(best)) {
                    strong { (Plain(&best.run)) } " has the best validation rsum, "
                    strong { (cell(best.val.map(|val| val.rsum), 1)) } " of 600. "
                }
                "Choose by validation. The test split then tells what the choice is worth."
            }
            h2 { "Results" }
            (table(caption, &head, &rows, |k| k < text, self.best()))
            h2 { "Learning curves" }
            div.figures { @for figure in figures { (figure) } }
        };
        Ok(page("wgoal: comparison of runs", &body))
    }
}

/// The table, with `*` at the best validation rsum.
impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (head, mut rows) = self.cells();
        let texts = 2 + self.differing().len();
        for row in &mut rows {
            row.iter_mut().for_each(|cell| *cell = Plain(&*cell).to_string());
        }
        let width =
            |k: usize| rows.iter().chain([&head]).map(|row| row[k].chars().count()).max().unwrap_or_default();
        let widths: Vec<_> = (0..head.len()).map(width).collect();
        let line = |row: &[String]| {
            let cells = row.iter().enumerate().map(|(k, cell)| match k < texts {
                true => format!("{cell:<0$}", widths[k]),
                false => format!("{cell:>0$}", widths[k]),
            });
            cells.collect::<Vec<_>>().join("  ")
        };
        write!(f, "{}", line(&head).trim_end())?;
        for (k, row) in rows.iter().enumerate() {
            let mark = if self.best() == Some(k) { " *" } else { "" };
            write!(f, "\n{}{mark}", line(row).trim_end())?;
        }
        Ok(())
    }
}
