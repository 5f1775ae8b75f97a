//! The page of a run.

use super::figures::{
    CURVES, histograms, learning_curves, mean, rank_bins, rank_names, ranks, three, weight_map,
};
use super::page::{cell, count, folded, page, table};
use super::{Corrected, Example, Outcome, Ranked, Run, Sample};
use crate::eval::Recall;
use crate::train::Point;
use crate::{Plain, Result};
use maud::{Markup, html};

impl Run {
    /// The report of the run, as one HTML file.
    ///
    /// # Errors
    /// Weights of the objective that cannot be evaluated.
    pub fn to_html(&self) -> Result<String> {
        let samples: Vec<_> =
            three(&self.samples).into_iter().filter(|(_, sample)| !sample.positive.is_empty()).collect();
        let body = html! {
            h1 { "Training report: " (Plain(self.name())) }
            (self.summary())
            (self.recalls())
            h2 { "Learning curves" }
            @if self.config.ensemble > 1 {
                p {
                    "This is an ensemble of " (self.config.ensemble) " heads. Each has its own report:"
                    @for number in 1..=self.config.ensemble {
                        " " a href=(format!("members/{number}/report.html")) { "member " (number) }
                    }
                    "."
                }
            } @else if self.epochs.is_empty() {
                p { "The run has not finished an epoch yet." }
            } @else {
                (learning_curves(self)?)
                (folded("The numbers of the curves", &self.epoch_table()))
            }
            (similarities(&samples)?)
            @if !samples.is_empty() {
                h2 { "What the objective does" }
                p {
                    "Each dot is a triplet: an image with its caption (p is their similarity) and the hardest negative \
                     (n is its similarity). Below the line p = n, the right answer wins. Training should move the dots to \
                     the                      lower right. Each shade covers about the same part of the plane; the numbers beside the shades \
                     are their limits."
                }
                (weight_map(self, &samples)?)
            }
            (ranks_section(self.outcome.as_ref().and_then(|outcome| outcome.ranked.as_ref()))?)
            (self.repeat())
        };
        Ok(page(&format!("{}: wgoal training report", self.name()), &body))
    }

    /// The dataset's name.
    fn dataset_name(&self) -> String {
        let name = self.dataset.as_ref().and_then(|path| path.file_name());
        name.map_or_else(|| "a dataset".into(), |name| Plain(name.to_string_lossy()).to_string())
    }

    /// The result in one paragraph.
    fn summary(&self) -> Markup {
        let done = self.epochs.last().map_or(0, |point| point.epoch);
        html! {
            p.lead {
                strong { (Plain(self.objective())) } " on " strong { (self.dataset_name()) } ". "
                @if let Some(best) = self.best() {
                    "The best of " (count(done, "epoch", "epochs")) " is "
                    @if best.epoch == 0 { "the start" } @else { "epoch " (best.epoch) }
                    ", with rsum " strong { (format!("{:.1}", best.val.rsum)) } " of 600 on validation. "
                }
                @if let Some(Outcome { test: Some(test), .. }) = &self.outcome {
                    "On the test split, rsum is " strong { (format!("{:.1}", test.rsum)) } ". "
                    @if let Some(Corrected { test: Some(corrected), .. }) = self.outcome.as_ref().and_then(|o| o.corrected.as_ref()) {
                        "With the correction for hubs, it is " strong { (format!("{:.1}", corrected.rsum)) } ". "
                    }
                }
                @if let Some(outcome) = &self.outcome { (gain(outcome)) }
                @if self.outcome.is_none() { "The run has not ended." }
            }
        }
    }

    /// Recall of the best head, and what the methods without training reach.
    fn recalls(&self) -> Markup {
        let Some(outcome) = &self.outcome else { return html! {} };
        let mut rows = recall_rows("validation", &outcome.best.recall);
        rows.extend(outcome.test.iter().flat_map(|test| recall_rows("test", test)));
        if let Some(Corrected { val, test }) = &outcome.corrected {
            rows.extend(recall_rows("validation, corrected for hubs", val));
            rows.extend(test.iter().flat_map(|test| recall_rows("test, corrected for hubs", test)));
        }
        let head = ["split", "direction", "R@1", "R@5", "R@10", "median rank", "mean rank"];
        let mut others: Vec<Vec<String>> = vec![vec![
            "this run".into(),
            cell(Some(outcome.best.recall.rsum), 1),
            cell(outcome.test.map(|test| test.rsum), 1),
        ]];
        if let Some(Corrected { val, test }) = &outcome.corrected {
            let name = "this run, corrected for hubs".into();
            others.push(vec![name, cell(Some(val.rsum), 1), cell(test.map(|test| test.rsum), 1)]);
        }
        others
            .extend(outcome.references.iter().map(|r| vec![r.name.clone(), cell(r.val, 1), cell(r.test, 1)]));
        let compared = match outcome.references.is_empty() {
            true => "rsum",
            false => "rsum, compared with methods without training",
        };
        html! {
            h2 { "Result" }
            p {
                "R@K is the percentage of the queries that find a right answer among the first K. Higher is better. \
                 rsum is the sum of the six numbers of a split."
                @if outcome.corrected.is_some() {
                    " Hubs are items that are similar to most queries. The correction takes a part of their similarity; \
                     wgoal eval, rank and search use it."
                }
            }
            (table("Recall of the best epoch", &head, &rows, |k| k < 2, None))
            @if others.len() > 1 {
                (table(compared, &["method", "validation", "test"], &others, |k| k == 0, Some(0)))
            }
        }
    }

    fn epoch_table(&self) -> Markup {
        let mut head = vec!["epoch"];
        head.extend(CURVES.iter().map(|curve| curve.heading));
        let best = self.best().map(|best| best.epoch);
        let row = |point: &Point| {
            let mut row = vec![point.epoch.to_string()];
            row.extend(
                CURVES.iter().zip([1, 4, 4, 4, 4]).map(|(curve, digits)| cell((curve.of)(point), digits)),
            );
            row
        };
        let rows: Vec<_> = self.epochs.iter().map(row).collect();
        let at = self.epochs.iter().position(|point| Some(point.epoch) == best);
        table("The best epoch stands out.", &head, &rows, |_| false, at)
    }

    /// What is needed to repeat the run.
    fn repeat(&self) -> Markup {
        let config = self.options();
        let shown = |value: &serde_json::Value| match value {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let options: Vec<Vec<String>> = config
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| {
                let text = if key == "objective" { self.objective().to_string() } else { shown(value) };
                vec![key.replace('_', "-"), text]
            })
            .collect();
        let seconds: Option<f64> =
            self.epochs.iter().filter(|point| point.epoch > 0).map(|point| point.seconds).sum();
        let mut facts = vec![vec!["wgoal".into(), self.version.clone()]];
        facts.push(vec!["device".into(), self.devices.join(", then ")]);
        facts.extend(self.dataset.iter().map(|path| vec!["dataset".into(), path.display().to_string()]));
        facts.extend(self.recipe.iter().map(|recipe| vec!["recipe".into(), recipe.clone()]));
        facts.push(vec!["time of the epochs".into(), format!("{} s", cell(seconds, 1))]);
        html! {
            h2 { "Repeat this run" }
            @if let Some(command) = self.command_line() {
                p {
                    "With the same version, on the same kind of device, this command gives the same numbers to the \
                     last bit. Run it in the folder in which the run was started."
                }
                pre { code { (command) } }
            }
            (table("Where and how the run was made", &["", ""], &facts, |_| true, None))
            (folded("All options", &table("Options of the run", &["option", "value"], &options, |_| true, None)))
        }
    }
}

/// What training has gained over the best method without training.
fn gain(outcome: &Outcome) -> Markup {
    let best = outcome
        .references
        .iter()
        .filter_map(|reference| Some((reference, reference.test?)))
        .max_by(|(_, a), (_, b)| a.total_cmp(b));
    let (Some((reference, other)), Some(test)) = (best, outcome.test) else { return html! {} };
    let (gained, name) = (test.rsum - other, Plain(&reference.name));
    html! {
        @if gained > 0.05 {
            "That is " (format!("{gained:.1}")) " more than " (name) " reaches without training. "
        } @else if gained < -0.05 {
            (name) " reaches " (format!("{:.1}", -gained)) " more without training. "
        } @else {
            (name) " reaches the same without training. "
        }
    }
}

fn recall_rows(split: &str, recall: &Recall) -> Vec<Vec<String>> {
    let directions = [("image to text", recall.i2t), ("text to image", recall.t2i)];
    directions
        .map(|(direction, r)| {
            let mut row = vec![split.to_string(), direction.to_string()];
            row.extend([r.r1, r.r5, r.r10].map(|x| format!("{x:.1}")));
            row.extend([format!("{:.0}", r.medr), format!("{:.1}", r.meanr)]);
            row
        })
        .into()
}

fn similarities(samples: &[(String, &Sample)]) -> Result<Markup> {
    if samples.is_empty() {
        return Ok(html! {});
    }
    let row = |(name, sample): &(String, &Sample)| {
        let hardest = sample.hardest();
        let pairs = sample.triplets().collect::<Vec<_>>();
        let won = pairs.iter().filter(|(p, n)| p > n).count() as f64 / pairs.len().max(1) as f64;
        vec![
            name.clone(),
            format!("{:.3}", mean(&sample.positive)),
            format!("{:.3}", mean(&hardest)),
            format!("{:.1}", 100.0 * won),
        ]
    };
    let rows: Vec<_> = samples.iter().map(row).collect();
    let head = ["", "image and caption", "hardest negative", "pairs above their hardest negative (%)"];
    Ok(html! {
        h2 { "Similarities during training" }
        p {
            "Similarities of " (count(samples[0].1.positive.len(), "pair", "pairs")) " of the validation split, and of \
             the hardest negatives among them. Training should part the two: the pairs move to the right, the hardest \
             negatives stay on the left. What overlaps is not solved."
        }
        (histograms(samples)?)
        (folded("The numbers of the histograms", &table("Mean similarities", &head, &rows, |k| k == 0, None)))
    })
}

fn ranks_section(ranked: Option<&Ranked>) -> Result<Markup> {
    let Some(ranked) = ranked else { return Ok(html! {}) };
    let last = ranked.images.iter().chain(&ranked.captions).max().copied().unwrap_or(1);
    let names = rank_names(last);
    let [images, captions] = [&ranked.images, &ranked.captions].map(|ranks| rank_bins(ranks, names.len()));
    let row = |k: usize| vec![names[k].clone(), format!("{:.1}", images[k]), format!("{:.1}", captions[k])];
    let rows: Vec<_> = (0..names.len()).map(row).collect();
    let head = ["rank", "images (%)", "captions (%)"];
    let [all_images, all_captions] = ranked.items;
    Ok(html! {
        h2 { "Ranks of the right answers" }
        p {
            "The best epoch on the " (ranked.split) " split, which has " (count(all_images, "image", "images")) " and "
            (count(all_captions, "caption", "captions")) ". "
            "Ranked here: " (count(ranked.images.len(), "image", "images")) " and "
            (count(ranked.captions.len(), "caption", "captions")) "."
        }
        (ranks(ranked)?)
        (folded("The numbers of the bars", &table("Share of the queries", &head, &rows, |k| k == 0, None)))
        h2 { "Best and worst captions" }
        p { "What the head does well, and where it fails. Similarities lie between −1 and 1." }
        (examples("Found first, with the greatest lead", &ranked.easiest, "No caption finds its image first."))
        (examples("Found last", &ranked.hardest, "Every caption finds its image first."))
    })
}

fn examples(heading: &str, examples: &[Example], none: &str) -> Markup {
    html! {
        h3 { (heading) }
        @if examples.is_empty() { p { (none) } } @else {
            ul.cards {
                @for example in examples {
                    li {
                        p { strong { "“" (Plain(&example.caption)) "”" } }
                        p.soft {
                            "Its image " (Plain(&example.image)) " has rank " strong { (example.rank) }
                            " and similarity " (format!("{:.2}", example.similarity)) ". "
                            @if example.rank == 1 { "The next image is " } @else { "First is " }
                            (Plain(&example.other)) " with " (format!("{:.2}", example.other_similarity))
                            @if let Some(caption) = &example.other_caption { ": “" (Plain(caption)) "”" }
                            "."
                        }
                    }
                }
            }
        }
    }
}
