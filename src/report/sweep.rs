//! The page of a sweep.

use super::figures::{CURVES, over_epochs, points};
use super::page::{cell, count, page, table};
use crate::draw::{Line, SERIES};
use crate::sweep::{Row, Score, Table};
use crate::train::Point;
use crate::{Plain, Result};
use maud::html;

/// The report of a sweep, as one HTML file: its table, and the learning curves of each objective.
///
/// # Errors
/// None that a caller can cause.
pub fn sweep_page(sweep: &Table) -> Result<String> {
    let Table { dataset, seeds, devices, baseline, rows } = sweep;
    let best = rows.iter().find(|row| row.val_rsum.is_some());
    let seeds_text = seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let drawn: Vec<&Row> =
        rows.iter().filter(|row| row.curves.iter().any(|curve| !curve.is_empty())).collect();
    let base = drawn.iter().find(|row| row.objective == *baseline);
    let mut figures = Vec::new();
    for row in &drawn {
        figures.push(objective_figure(row, base.copied())?);
    }
    let body = html! {
        h1 { "Sweep on " (Plain(dataset)) ": " (count(rows.len(), "objective", "objectives")) }
        p.lead {
            @if let Some(row) = best {
                strong { (Plain(&row.objective)) } " has the best mean rsum on validation, "
                strong { (score(row.val_rsum.as_ref())) } ". "
                @if let Some(rsum) = &row.rsum { "On the test split, it reaches " strong { (score(Some(rsum))) } ". " }
            } @else { "Every run diverged. " }
        }
        h2 { "Results" }
        p {
            "Mean ± standard deviation over the seeds " (seeds_text) ", on " (Plain(devices.join(" and "))) ". The \
             objectives are in the order of their mean rsum on validation. p is the probability of a difference at \
             least this large between an objective and " strong { (Plain(baseline)) } " if there were none (a paired \
             t-test over the seeds, corrected for the number of rows by Holm's method). A p below 0.05 is usually \
             called significant."
            @if sweep.has_corrected() {
                " The corrected rsum is that of the test split with the correction for hubs, which validation chooses for \
                 each head."
            }
        }
        (results(sweep))
        @if drawn.is_empty() {
            p { "The runs of this sweep kept no learning curves." }
        } @else {
            h2 { "Learning curves" }
            p {
                "Means over the seeds, each objective at its chosen point. At most " (SERIES) " objectives are drawn: \
                 the best ones by validation."
            }
            (overview(&drawn)?)
            h2 { "Each objective" }
            p { "Thin lines are single seeds, the thick line is their mean." }
            div.figures { @for figure in figures { (figure) } }
        }
    };
    Ok(page(&format!("{dataset}: wgoal sweep"), &body))
}

fn score(score: Option<&Score>) -> String {
    let Some(Score { mean, sd, .. }) = score else { return "–".into() };
    sd.map_or_else(|| format!("{mean:.1}"), |sd| format!("{mean:.1} ± {sd:.1}"))
}

fn results(sweep: &Table) -> maud::Markup {
    let corrected = sweep.has_corrected();
    let mut head = vec!["objective", "point of the grid", "val rsum"];
    for name in ["test rsum", "i2t R@1", "t2i R@1"].into_iter().chain(corrected.then_some("corrected rsum")) {
        head.extend([name, "p"]);
    }
    head.push("diverged or collapsed runs");
    let row = |row: &Row| {
        let mut cells = vec![row.objective.clone(), row.point.clone().unwrap_or_else(|| "diverged".into())];
        cells.push(score(row.val_rsum.as_ref()));
        let numbers = [&row.rsum, &row.i2t_r1, &row.t2i_r1].into_iter();
        for number in numbers.chain(corrected.then_some(&row.corrected_rsum)) {
            cells.push(score(number.as_ref()));
            let test = number.as_ref().and_then(|number| number.test);
            cells.push(match test {
                _ if row.objective == sweep.baseline => "baseline".into(),
                Some(test) if test.holm < 0.001 => "< 0.001".into(),
                test => cell(test.map(|test| test.holm), 3),
            });
        }
        cells.push((row.diverged + row.collapsed).to_string());
        cells
    };
    let rows: Vec<_> = sweep.rows.iter().map(row).collect();
    let best = sweep.rows.iter().position(|row| row.val_rsum.is_some());
    table("Recall of the best epochs. Higher is better.", &head, &rows, |k| k < 2, best)
}

/// The mean over the seeds, for as many epochs as all seeds have.
fn mean_curve(row: &Row, of: fn(&Point) -> Option<f64>) -> Vec<(f64, f64)> {
    let curves: Vec<_> =
        row.curves.iter().filter(|curve| !curve.is_empty()).map(|curve| points(curve, of)).collect();
    let length = curves.iter().map(Vec::len).min().unwrap_or_default();
    let mean = |k: usize| curves.iter().map(|curve| curve[k].1).sum::<f64>() / curves.len() as f64;
    (0..length).map(|k| (curves[0][k].0, mean(k))).collect()
}

fn overview(rows: &[&Row]) -> Result<maud::Markup> {
    let mut figures = Vec::new();
    for curve in &CURVES {
        let lines = rows
            .iter()
            .take(SERIES)
            .enumerate()
            .map(|(k, row)| Line::new(row.objective.clone(), k, mean_curve(row, curve.of)));
        let lines: Vec<_> = lines.collect();
        figures.push(over_epochs(curve.heading, curve.axis, curve.caption, &lines)?);
    }
    Ok(html! { div.figures { @for figure in figures { (figure) } } })
}

/// Validation recall of one objective: its seeds, their mean, and the mean of the baseline.
fn objective_figure(row: &Row, base: Option<&Row>) -> Result<maud::Markup> {
    let of = CURVES[0].of;
    let mut lines: Vec<Line> =
        row.curves.iter().map(|curve| Line { thin: true, ..Line::new("", 0, points(curve, of)) }).collect();
    lines.push(Line::new("mean", 0, mean_curve(row, of)));
    if let Some(base) = base.filter(|base| base.objective != row.objective) {
        let name = format!("baseline {}", base.objective);
        lines.push(Line { dashed: true, ..Line::new(name, 1, mean_curve(base, of)) });
    }
    let caption = format!("Mean of the seeds at their best epochs: {}.", score(row.val_rsum.as_ref()));
    over_epochs(&row.objective, "rsum", &caption, &lines)
}
