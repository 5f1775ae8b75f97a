//! The figures of a run's page.

use super::page::{Entry, figure};
use super::{Ranked, Run, Sample};
use crate::Result;
use crate::analysis::{NAMES, fields};
use crate::draw::{Bars, Cloud, Group, Line, Lines, Plane, histogram, range, step};
use crate::train::Point;
use maud::{Markup, html};

/// A column of the learning curves: heading, name of the axis, caption, and its number at an epoch.
pub(super) struct Curve {
    pub heading: &'static str,
    pub axis: &'static str,
    pub caption: &'static str,
    pub of: fn(&Point) -> Option<f64>,
}

/// The curves that runs are compared by.
pub(super) const CURVES: [Curve; 5] = [
    Curve {
        heading: "Validation recall",
        axis: "rsum",
        caption: "The sum of R@1, R@5 and R@10 in both directions, at most 600. Higher is better.",
        of: |point| Some(point.val.rsum),
    },
    Curve {
        heading: "Loss",
        axis: "loss",
        caption: "Mean value of the objective per step. Its size depends on the objective: only compare it within one \
                  objective. For most GOAL gradients it is the sum of hardest minus positive, which falls below zero.",
        of: |point| point.loss,
    },
    Curve {
        heading: "Similarity of the pairs",
        axis: "similarity",
        caption: "Mean similarity of images with their captions in training batches. It should rise.",
        of: |point| point.positive,
    },
    Curve {
        heading: "Similarity of the hardest negatives",
        axis: "similarity",
        caption: "Mean similarity to the most similar wrong item of the batch. It should stay below that of the pairs.",
        of: |point| point.hardest,
    },
    Curve {
        heading: "Gradient norm",
        axis: "norm",
        caption: "Mean norm of the gradient before clipping. Sudden peaks mean that the learning rate is too high.",
        of: |point| point.gradient_norm,
    },
];

/// The numbers of a curve over the epochs.
pub(super) fn points(epochs: &[Point], of: fn(&Point) -> Option<f64>) -> Vec<(f64, f64)> {
    epochs.iter().filter_map(|point| Some((point.epoch as f64, of(point)?))).collect()
}

/// The legend of lines.
pub(super) fn entries(lines: &[Line]) -> Vec<Entry> {
    let shown = lines.iter().filter(|line| !line.name.is_empty());
    shown.map(|line| (line.name.clone(), line.colour, line.dashed)).collect()
}

/// Lines over the epochs, with a legend.
pub(super) fn over_epochs(heading: &str, axis: &str, caption: &str, lines: &[Line]) -> Result<Markup> {
    let svg = Lines { title: heading, description: caption, x: "epoch", y: axis, lines }.draw()?;
    Ok(figure(heading, &svg, &entries(lines), caption))
}

/// The learning curves of a run.
pub(super) fn learning_curves(run: &Run) -> Result<Markup> {
    let [recall, loss, positive, hardest, norm] = &CURVES;
    let mut recalls = vec![Line::new("this run", 0, points(&run.epochs, recall.of))];
    let first = run.epochs.first().map_or(0, |point| point.epoch);
    let span = [first as f64, run.epochs.last().map_or(1, |point| point.epoch).max(first + 1) as f64];
    for (k, reference) in run.outcome.iter().flat_map(|outcome| &outcome.references).enumerate() {
        if let Some(rsum) = reference.val {
            let name = format!("{}, without training: {rsum:.1}", reference.name);
            recalls.push(Line::level(name, 1 + k, rsum, span));
        }
    }
    let similarities = [
        Line::new("image and caption", 2, points(&run.epochs, positive.of)),
        Line::new("hardest negative", 1, points(&run.epochs, hardest.of)),
    ];
    let caption = "Mean similarities in training batches. The line of image and caption should rise above that of the \
                   hardest negatives.";
    let top = recall.caption.to_string()
        + if recalls.len() > 1 { " A run that is worth its time ends above the dashed lines." } else { "" };
    Ok(html! {
        div.figures {
            (over_epochs(recall.heading, recall.axis, &top, &recalls)?)
            (over_epochs("Similarities", "similarity", caption, &similarities)?)
            (over_epochs(loss.heading, loss.axis, loss.caption, &[Line::new("", 3, points(&run.epochs, loss.of))])?)
            (over_epochs(norm.heading, norm.axis, norm.caption, &[Line::new("", 4, points(&run.epochs, norm.of))])?)
        }
    })
}

/// The samples at the start, in the middle and at the end of a run, each with its name. Fewer if the run is short.
pub(super) fn three(samples: &[Sample]) -> Vec<(String, &Sample)> {
    let (Some(start), Some(end)) = (samples.first(), samples.last()) else { return Vec::new() };
    let half = u32::midpoint(start.epoch as u32, end.epoch as u32) as usize;
    let middle = samples.iter().min_by_key(|sample| sample.epoch.abs_diff(half));
    let mut found = Vec::new();
    let of = |sample: &Sample| {
        if sample.epoch == 0 { "before training".into() } else { format!("epoch {}", sample.epoch) }
    };
    for sample in [Some(start), middle, Some(end)].into_iter().flatten() {
        if found.iter().all(|(_, other): &(String, &Sample)| other.epoch != sample.epoch) {
            found.push((of(sample), sample));
        }
    }
    let last = found.len() - 1;
    for (k, (name, _)) in found.iter_mut().enumerate().filter(|(k, _)| *k > 0 || last == 0) {
        *name = format!("{}: {name}", if k == last { "end" } else { "middle" });
    }
    if last > 0 {
        found[0].0 = format!("start: {}", found[0].0);
    }
    found
}

/// Histograms of the similarities at the start, in the middle and at the end.
pub(super) fn histograms(samples: &[(String, &Sample)]) -> Result<Markup> {
    const BINS: usize = 40;
    let all = samples.iter().flat_map(|(_, sample)| sample.positive.iter().copied().chain(sample.hardest()));
    let [low, high] = range(all.map(f64::from)).unwrap_or([-1.0, 1.0]);
    let distance = step(high - low, 6.0);
    let range = [(low / distance).floor() * distance, (high / distance).ceil() * distance];
    let groups = |sample: &Sample| {
        let group = |name: &str, colour, values: &[f32]| Group {
            name: name.into(),
            colour,
            heights: histogram(values, range, BINS),
        };
        [group("image and caption", 2, &sample.positive), group("hardest negative", 1, &sample.hardest())]
    };
    let heights = samples.iter().flat_map(|(_, sample)| groups(sample)).flat_map(|group| group.heights);
    let top = heights.fold(0.0, f64::max);
    let mut figures = Vec::new();
    for (name, sample) in samples {
        let groups = groups(sample);
        let legend: Vec<Entry> =
            groups.iter().map(|group| (group.name.clone(), group.colour, false)).collect();
        let [p, n] = [mean(&sample.positive), mean(&sample.hardest())];
        let caption =
            format!("Mean similarity {p:.2} of image and caption, {n:.2} of the hardest negatives.");
        let svg = Bars {
            title: &format!("Similarities, {name}"),
            description: &caption,
            x: "similarity",
            y: "percent",
            range: Some(range),
            names: &[],
            top,
            groups: &groups,
        };
        figures.push(figure(name, &svg.draw()?, &legend, &caption));
    }
    Ok(html! { div.figures.three { @for figure in figures { (figure) } } })
}

pub(super) fn mean(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x)).sum::<f64>() / values.len().max(1) as f64
}

/// The weights of the objective over p and n with the triplets of the samples, or the triplets alone.
pub(super) fn weight_map(run: &Run, samples: &[(String, &Sample)]) -> Result<Markup> {
    const DOTS: usize = 120;
    let clouds: Vec<Cloud> = samples
        .iter()
        .zip([6, 4, 2])
        .map(|((name, sample), colour)| {
            let all: Vec<_> = sample.triplets().collect();
            let count = all.len().min(DOTS);
            let points = (0..count).map(|k| all[k * all.len() / count]).collect();
            Cloud { name: name.clone(), colour, points }
        })
        .collect();
    let dots = || clouds.iter().flat_map(|cloud| &cloud.points).flat_map(|&(p, n)| [p, n]);
    // Quarters around the dots.
    let [low, high] = range(dots()).unwrap_or([-1.0, 1.0]);
    let range = [((4.0 * low).floor() / 4.0).max(-1.0), ((4.0 * high).ceil() / 4.0).min(1.0)];
    let range = if range[0] < range[1] { range } else { [-1.0, 1.0] };
    let legend: Vec<Entry> = clouds.iter().map(|cloud| (cloud.name.clone(), cloud.colour, false)).collect();
    let draw = |title: &str, field, caption: &str| -> Result<Markup> {
        let svg = Plane { title, description: caption, range, field, clouds: &clouds }.draw()?;
        Ok(figure(title, &svg, &legend, caption))
    };
    let captions = [
        "How strongly training pulls an image and its caption together. Blue areas push them apart.",
        "How strongly training pushes an image and a wrong caption apart. Blue areas pull them together.",
    ];
    let mut figures = Vec::new();
    match fields(run.objective(), range)? {
        Some(fields) => {
            for ((field, name), caption) in fields.iter().zip(NAMES).zip(captions) {
                figures.push(draw(name, Some(field), caption)?);
            }
        }
        None => {
            let caption =
                "This objective has no weights that depend on p and n alone, so the plane has no shades.";
            figures.push(draw("Triplets", None, caption)?);
        }
    }
    Ok(html! { div.figures { @for figure in figures { (figure) } } })
}

/// Bins of ranks: the first rank of each.
const RANKS: [u32; 8] = [1, 2, 6, 11, 21, 51, 101, 1001];

/// The names of the bins of ranks, and the share of the queries in each, in percent.
pub(super) fn rank_bins(ranks: &[u32], bins: usize) -> Vec<f64> {
    let mut counts = vec![0.0; bins];
    for &rank in ranks {
        let bin = RANKS.iter().rposition(|&first| rank >= first).unwrap_or(0).min(bins - 1);
        counts[bin] += 100.0 / ranks.len() as f64;
    }
    counts
}

/// The names of the bins up to the rank `last`.
pub(super) fn rank_names(last: u32) -> Vec<String> {
    let bins = RANKS.iter().filter(|&&first| first <= last.max(1)).count();
    let name = |k: usize| match (RANKS[k], RANKS.get(k + 1)) {
        (first, Some(next)) if next - first == 1 => first.to_string(),
        (first, Some(next)) => format!("{first}–{}", next - 1),
        (first, None) => format!("{first}+"),
    };
    (0..bins).map(name).collect()
}

/// The histogram of ranks.
pub(super) fn ranks(ranked: &Ranked) -> Result<Markup> {
    let last = ranked.images.iter().chain(&ranked.captions).max().copied().unwrap_or(1);
    let names = rank_names(last);
    let group = |name: &str, colour, ranks: &[u32]| Group {
        name: name.into(),
        colour,
        heights: rank_bins(ranks, names.len()),
    };
    let groups = [
        group("images looking for a caption", 0, &ranked.images),
        group("captions looking for their image", 1, &ranked.captions),
    ];
    let top = groups.iter().flat_map(|group| &group.heights).copied().fold(0.0, f64::max);
    let caption = "Share of the queries whose best right answer has this rank. The first bar is R@1: the higher it \
                   is, the better.";
    let svg = Bars {
        title: "Ranks of the right answer",
        description: caption,
        x: "rank of the best right answer",
        y: "percent of the queries",
        range: None,
        names: &names,
        top,
        groups: &groups,
    };
    let legend: Vec<Entry> = groups.iter().map(|group| (group.name.clone(), group.colour, false)).collect();
    Ok(html! { div.figures { (figure("Ranks", &svg.draw()?, &legend, caption)) } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rank_falls_into_one_bin() {
        assert_eq!(rank_names(1), ["1"]);
        assert_eq!(rank_names(60), ["1", "2–5", "6–10", "11–20", "21–50", "51–100"]);
        assert_eq!(rank_names(5000).last().map(String::as_str), Some("1001+"));
        assert_eq!(rank_bins(&[1, 1, 3, 60], 6), [50.0, 25.0, 0.0, 0.0, 0.0, 25.0]);
    }

    #[test]
    fn start_middle_and_end_are_different_samples() {
        let sample =
            |epoch| Sample { epoch, positive: vec![0.5], hardest_text: vec![0.1], hardest_image: vec![0.2] };
        let names = |epochs: &[usize]| {
            let samples: Vec<_> = epochs.iter().map(|&epoch| sample(epoch)).collect();
            three(&samples).into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        let expected = ["start: before training", "middle: epoch 16", "end: epoch 30"];
        assert_eq!(names(&[0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 30]), expected);
        assert_eq!(names(&[0, 1]), ["start: before training", "end: epoch 1"]);
        assert_eq!(names(&[0]), ["end: before training"]);
        assert!(names(&[]).is_empty());
    }
}
