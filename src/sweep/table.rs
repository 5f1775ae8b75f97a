//! The table of a sweep: recall on the test split at the chosen point of each objective.

use super::Sweep;
use super::results::{Results, Test};
use crate::math::{TTest, deviation, mean};
use crate::train::Point;
use serde::Serialize;
use std::fmt::Write;

/// Recall on the test split, one row per objective; see [`Sweep::run`](super::Sweep::run).
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Table {
    /// Name of the dataset.
    pub dataset: String,
    /// Seeds, in the order of [`Score::values`].
    pub seeds: Vec<u64>,
    /// What the runs ran on.
    pub devices: Vec<String>,
    /// The objective that the others are tested against.
    pub baseline: String,
    /// From the best mean rsum on validation to the worst. Objectives that diverged at every point come last.
    pub rows: Vec<Row>,
}

/// An objective at its chosen point.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Row {
    /// Name.
    pub objective: String,
    /// Points of its grid.
    pub points: usize,
    /// Its runs that diverged, over all points.
    pub diverged: usize,
    /// Its runs that collapsed at the chosen point.
    pub collapsed: usize,
    /// The chosen point. This and the fields below are `None` if every point diverged.
    pub point: Option<String>,
    /// R@1, image to text.
    pub i2t_r1: Option<Score>,
    /// R@1, text to image.
    pub t2i_r1: Option<Score>,
    /// Sum of the six recalls.
    pub rsum: Option<Score>,
    /// Sum of the six recalls with the correction for hubs; `None` if none was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrected_rsum: Option<Score>,
    /// The rsum on validation, by which the point was chosen.
    pub val_rsum: Option<Score>,
    /// The learning curve of each seed at the chosen point. The JSON leaves it out: `results.jsonl` holds it.
    #[serde(skip)]
    pub curves: Vec<Vec<Point>>,
}

/// A number over the seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Score {
    /// Mean.
    pub mean: f64,
    /// Sample standard deviation; `None` of a single seed.
    pub sd: Option<f64>,
    /// Of each seed.
    pub values: Vec<f64>,
    /// Against the baseline, seed by seed, corrected for the number of rows; `None` for the baseline itself and where there
    /// is no spread to test by.
    pub test: Option<TTest>,
}

impl Score {
    fn new(values: Vec<f64>, baseline: Option<&Self>) -> Self {
        let test = baseline.and_then(|baseline| TTest::paired(&values, &baseline.values));
        Self { mean: mean(&values), sd: deviation(&values), values, test }
    }

    fn to_markdown(&self) -> String {
        let sd = self.sd.map_or(String::new(), |sd| format!(" ± {sd:.1}"));
        format!("{:.1}{sd}", self.mean)
    }
}

impl Table {
    pub(super) fn new(sweep: &Sweep, dataset: String, results: &Results) -> Self {
        let mut devices: Vec<String> = Vec::new();
        for run in &results.runs {
            if !devices.contains(&run.device) {
                devices.push(run.device.clone());
            }
        }
        let base = Row::new(sweep, results, &sweep.baseline, None);
        let rows = sweep.objectives().into_iter().map(|objective| match objective == sweep.baseline {
            true => base.clone(),
            false => Row::new(sweep, results, &objective, Some(&base)),
        });
        let mut rows: Vec<Row> = rows.collect();
        for score in [
            (|row| &mut row.i2t_r1) as fn(&mut Row) -> &mut Option<Score>,
            |row| &mut row.t2i_r1,
            |row| &mut row.rsum,
            |row| &mut row.corrected_rsum,
            |row| &mut row.val_rsum,
        ] {
            let tests = rows.iter_mut().filter_map(|row| score(row).as_mut()?.test.as_mut());
            TTest::correct(&mut tests.collect::<Vec<_>>());
        }
        // The sort is stable: objectives that are equal keep their order.
        let validation = |row: &Row| row.val_rsum.as_ref().map_or(f64::NEG_INFINITY, |score| score.mean);
        rows.sort_by(|a, b| validation(b).total_cmp(&validation(a)));
        Self { dataset, seeds: sweep.seeds.clone(), devices, baseline: sweep.baseline.clone(), rows }
    }

    /// The table as Markdown, with a heading that explains the numbers.
    pub fn to_markdown(&self) -> String {
        let Self { dataset, seeds, devices, baseline, rows } = self;
        let seeds = seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        let mut text = format!(
            "# {dataset}: recall on the test split\n\n\
             Mean ± sample standard deviation over the seeds {seeds}, on {}. p is that of a two-sided paired t-test over \
             seeds against {baseline}, corrected for the number of rows by Holm's method; n/a where there are fewer than two \
             seeds or no spread.",
            devices.join(" and "),
        );
        if rows.iter().any(|row| row.points > 1) {
            text += " Each objective is at the point of its grid with the best mean rsum on validation; the test split was \
                     not looked at before that choice.";
        }
        let corrected = self.has_corrected();
        if corrected {
            text += " The corrected rsum is that with the correction for hubs, which validation chooses for each head.";
        }
        let [name, line] = if corrected { [" corrected rsum | p |", " ---: | ---: |"] } else { [""; 2] };
        let _ = write!(
            text,
            "\n\n| triplet | pair | i2t R@1 | p | t2i R@1 | p | rsum | p |{name} val rsum | point |\n\
             | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |{line} ---: | --- |\n"
        );
        for row in rows {
            // Of a sum, or of other negatives than the hardest, the name is no pair of weights.
            let weights = row.objective.split_once(':').filter(|_| !row.objective.contains(['@', '+', '*']));
            let (triplet, pair) = weights.unwrap_or((&row.objective, ""));
            let _ = write!(text, "| {triplet} | {pair} |");
            let scores = [&row.i2t_r1, &row.t2i_r1, &row.rsum].into_iter();
            for score in scores.chain(corrected.then_some(&row.corrected_rsum)) {
                let (number, p) = match score {
                    None => ("diverged".into(), "n/a".into()),
                    Some(score) if row.objective == *baseline => (score.to_markdown(), "baseline".into()),
                    Some(score) => (score.to_markdown(), p_value(score.test)),
                };
                let _ = write!(text, " {number} | {p} |");
            }
            let validation = row.val_rsum.as_ref().map_or(String::new(), Score::to_markdown);
            let _ = write!(text, " {validation} | {}", row.point.as_deref().unwrap_or_default());
            if row.collapsed > 0 {
                let _ = write!(text, " ({} of {} runs collapsed)", row.collapsed, self.seeds.len());
            }
            text += " |\n";
        }
        text
    }

    /// Whether there is recall with the correction for hubs.
    pub(crate) fn has_corrected(&self) -> bool {
        self.rows.iter().any(|row| row.corrected_rsum.is_some())
    }

    /// As comma-separated values with a header line, unrounded; empty where there is no number.
    pub fn to_csv(&self) -> String {
        let mut text = String::from("objective,point,diverged,collapsed");
        let corrected = self.has_corrected();
        let names = ["i2t_r1", "t2i_r1", "rsum", "val_rsum"].into_iter();
        for name in names.chain(corrected.then_some("corrected_rsum")) {
            let _ = write!(text, ",{name},{name}_sd,{name}_p,{name}_p_holm");
        }
        text.push('\n');
        for row in &self.rows {
            let point = row.point.as_deref().unwrap_or_default();
            let _ = write!(text, "{},{point},{},{}", row.objective, row.diverged, row.collapsed);
            let scores = [&row.i2t_r1, &row.t2i_r1, &row.rsum, &row.val_rsum].into_iter();
            for score in scores.chain(corrected.then_some(&row.corrected_rsum)) {
                let number = |x: Option<f64>| x.map_or(String::new(), |x| x.to_string());
                let score = score.as_ref();
                let _ = write!(
                    text,
                    ",{},{},{},{}",
                    number(score.map(|score| score.mean)),
                    number(score.and_then(|score| score.sd)),
                    number(score.and_then(|score| score.test).map(|test| test.p)),
                    number(score.and_then(|score| score.test).map(|test| test.holm)),
                );
            }
            text.push('\n');
        }
        text
    }
}

impl Row {
    fn new(sweep: &Sweep, results: &Results, objective: &str, baseline: Option<&Self>) -> Self {
        let points = sweep.points(objective);
        let point = sweep.choose(results, objective).map(|chosen| points[chosen].point.clone());
        let tests: Option<Vec<_>> = point
            .as_ref()
            .and_then(|point| sweep.seeds.iter().map(|&seed| results.test(objective, point, seed)).collect());
        let score = |of: fn(&Test) -> Option<f64>, baseline: Option<&Option<Score>>| {
            let values = tests.as_ref()?.iter().map(|test| of(test)).collect::<Option<Vec<_>>>()?;
            Some(Score::new(values, baseline.and_then(Option::as_ref)))
        };
        let validation = point.as_ref().and_then(|point| sweep.validation(results, objective, point));
        let base_validation = baseline.and_then(|row| row.val_rsum.as_ref());
        let collapsed = |run: &&super::Run| {
            run.objective == objective && run.collapsed && Some(&run.point) == point.as_ref()
        };
        let diverged = |run: &&super::Run| run.objective == objective && run.best.is_none();
        let curve = |&seed: &u64| {
            let run = results.run(objective, point.as_ref()?, seed)?;
            Some(run.epochs.clone())
        };
        Self {
            objective: objective.into(),
            curves: sweep.seeds.iter().filter_map(curve).collect(),
            points: points.len(),
            diverged: results.runs.iter().filter(diverged).count(),
            collapsed: results.runs.iter().filter(collapsed).count(),
            i2t_r1: score(|test| Some(test.recall.i2t.r1), baseline.map(|row| &row.i2t_r1)),
            t2i_r1: score(|test| Some(test.recall.t2i.r1), baseline.map(|row| &row.t2i_r1)),
            rsum: score(|test| Some(test.recall.rsum), baseline.map(|row| &row.rsum)),
            corrected_rsum: score(
                |test| test.corrected.map(|recall| recall.rsum),
                baseline.map(|row| &row.corrected_rsum),
            ),
            val_rsum: validation.map(|values| Score::new(values, base_validation)),
            point,
        }
    }
}

fn p_value(test: Option<TTest>) -> String {
    match test {
        None => "n/a".into(),
        Some(test) if test.holm < 0.001 => "< 0.001".into(),
        Some(test) => format!("{:.3}", test.holm),
    }
}
