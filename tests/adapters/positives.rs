//! Several positives per anchor, through the public API, on every device. Losses are written as their papers define them,
//! and their gradients are central differences in f64.

use crate::common::random::Random;
use crate::common::{Outcome, Suite, check};
use wgoal::gradient::GradientOptions;
use wgoal::{Device, Objective};

/// The similarities of an anchor's positives and of its negatives.
#[derive(Clone)]
pub struct Anchor {
    pub positives: Vec<f64>,
    pub negatives: Vec<f64>,
}

fn softplus(z: f64) -> f64 {
    z.max(0.0) + (-z.abs()).exp().ln_1p()
}

/// p of several positives, with the scale of their exponents.
fn aggregate(positives: &[f64], how: &str, scale: f64) -> f64 {
    match how {
        "hardest" => positives.iter().copied().fold(f64::INFINITY, f64::min),
        "mean" => positives.iter().sum::<f64>() / positives.len() as f64,
        _ => -positives.iter().map(|s| (-scale * s).exp()).sum::<f64>().ln() / scale,
    }
}

/// The loss of an anchor. `held` is the anchor at which factors that are held fixed in the gradient are taken.
pub fn loss(name: &str, how: &str, anchor: &Anchor, held: &Anchor) -> f64 {
    let Anchor { positives, negatives } = anchor;
    let mut sorted = negatives.clone();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let p = |scale| aggregate(positives, how, scale);
    let open = |p: f64, n: f64| (f64::from(0.2f32) + n - p).max(0.0);
    let hardest = sorted.first().copied();
    let exponentials = |rate: f64, negatives: &[f64]| negatives.iter().map(|s| (rate * s).exp()).sum::<f64>();
    let (alpha, beta, lambda, reach) = (2.0, 10.0, 0.5, f64::from(0.1f32));
    match name {
        "hinge" => hardest.map_or(0.0, |n| open(p(1.0), n)),
        "hinge@top:2" => sorted.iter().take(2).map(|&n| open(p(1.0), n)).sum(),
        "hinge@semi-hard" => {
            let p = p(1.0);
            sorted.iter().find(|&&n| n < p).map_or(0.0, |&n| open(p, n))
        }
        "hinge-sum" => sorted.iter().map(|&n| open(p(1.0), n)).sum(),
        "nt-xent" => hardest.map_or(0.0, |n| softplus(n - p(1.0))),
        "squared-pair@top:2" => {
            let of_n: f64 = sorted.iter().take(2).map(|n| n * n / 2.0).sum();
            (1.0 - p(1.0)).powi(2) / 2.0 + of_n
        }
        "binomial-deviance@all" => {
            let of_n: f64 = sorted.iter().map(|n| softplus(beta * (n - lambda)) / beta).sum();
            softplus(-alpha * (p(alpha) - lambda)) / alpha + of_n
        }
        "multi-similarity" => {
            let of_n = (exponentials(beta, negatives) * (-beta * lambda).exp()).ln_1p() / beta;
            softplus(-alpha * (p(alpha) - lambda)) / alpha + of_n
        }
        "multi-similarity-mined" => {
            let lowest = positives.iter().copied().fold(f64::INFINITY, f64::min);
            let near: Vec<_> = negatives.iter().copied().filter(|n| n + reach > lowest).collect();
            let top = hardest.unwrap_or(f64::NEG_INFINITY);
            let kept: Vec<_> = positives.iter().copied().filter(|s| *s < top + reach).collect();
            if near.is_empty() || kept.is_empty() {
                return 0.0;
            }
            let of_n = (exponentials(beta, &near) * (-beta * lambda).exp()).ln_1p() / beta;
            softplus(-alpha * (aggregate(&kept, how, alpha) - lambda)) / alpha + of_n
        }
        "lifted" if negatives.is_empty() => 0.0,
        "lifted" => (1.0 - p(1.0) + exponentials(1.0, negatives).ln()).max(0.0),
        "circle-all" if negatives.is_empty() => 0.0,
        "circle-all" => {
            let (tau, m) = (80.0, f64::from(0.4f32));
            let of_n: f64 = negatives
                .iter()
                .zip(&held.negatives)
                .map(|(s, held)| (tau * (held + m).max(0.0) * (s - m)).exp())
                .sum();
            let factor = |p: f64| (1.0 + m - p).max(0.0);
            let of_p: f64 = match how {
                "log-sum" => {
                    let pairs = positives.iter().zip(&held.positives);
                    pairs.map(|(s, held)| (tau * factor(*held) * (1.0 - m - s)).exp()).sum()
                }
                _ => (tau * factor(aggregate(&held.positives, how, 1.0)) * (1.0 - m - p(1.0))).exp(),
            };
            (of_p * of_n).ln_1p() / tau
        }
        other => panic!("{other} has no definition here"),
    }
}

/// The value and the field of a sum of the losses of anchors. `anchors` lists for every anchor its weight and, for every
/// candidate, the element of S and whether it is a positive.
pub fn by_differences(
    s: &[f64],
    anchors: &[(f64, Vec<(usize, bool)>)],
    loss: impl Fn(&Anchor, &Anchor) -> f64,
) -> (f64, Vec<f64>) {
    const STEP: f64 = 1e-6;
    let (mut value, mut field) = (0.0, vec![0.0; s.len()]);
    for (weight, candidates) in anchors {
        let at = |moved: usize, step: f64| {
            let of = |wanted: bool| {
                let wanted = candidates.iter().filter(|(_, positive)| *positive == wanted);
                wanted.map(|&(at, _)| s[at] + if at == moved { step } else { 0.0 }).collect()
            };
            Anchor { positives: of(true), negatives: of(false) }
        };
        let held = at(usize::MAX, 0.0);
        value += weight * loss(&held, &held);
        for &(moved, _) in candidates {
            let slope = (loss(&at(moved, STEP), &held) - loss(&at(moved, -STEP), &held)) / (2.0 * STEP);
            field[moved] += weight * slope;
        }
    }
    (value, field)
}

/// Checks gradients against A Y and Aᵀ X, with an allowed error of 1e-5 of the largest row. It is the error of the
/// differences and of f32 exponents up to 80 times 2.
pub fn agrees(what: &str, [dx, dy]: [&[f32]; 2], field: &[f64], [x, y]: [&[f32]; 2], dim: usize) -> Outcome {
    let (rows, cols) = (x.len() / dim, y.len() / dim);
    let sides: [(&str, &[f32], &[f32], usize, &dyn Fn(usize, usize) -> f64); 2] = [
        ("images", dx, y, rows, &|i, j| field[i * cols + j]),
        ("texts", dy, x, cols, &|j, i| field[i * cols + j]),
    ];
    for (side, found, other, count, a) in sides {
        let expected = |at: usize| -> f64 {
            (0..other.len() / dim).map(|j| a(at / dim, j) * f64::from(other[j * dim + at % dim])).sum()
        };
        let expected: Vec<_> = (0..count * dim).map(expected).collect();
        let largest = expected.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        check(largest > 1e-3, format!("{what}: no gradient at {side}"))?;
        for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let error = (f64::from(*found) - expected).abs();
            check(
                error <= 2e-5 * largest,
                format!("{what}: {side} {}, {found} but expected {expected}", at / dim),
            )?;
        }
    }
    Ok(())
}

/// Unit rows.
pub fn unit(random: &mut Random, rows: usize, dim: usize) -> Vec<f32> {
    let mut values = random.values(rows * dim);
    for row in values.chunks_exact_mut(dim) {
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter_mut().for_each(|x| *x /= norm);
    }
    values
}

/// The similarities in f64.
pub fn products(x: &[f32], y: &[f32], dim: usize) -> Vec<f64> {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
    x.chunks(dim).flat_map(|x| y.chunks(dim).map(move |y| dot(x, y))).collect()
}

/// Every loss with every aggregate that it has.
pub const LOSSES: &[(&str, &[&str])] = &[
    ("hinge", &["hardest", "mean"]),
    ("hinge@top:2", &["hardest", "mean"]),
    ("hinge@semi-hard", &["hardest", "mean"]),
    ("hinge-sum", &["hardest", "mean"]),
    ("nt-xent", &["hardest", "mean", "log-sum"]),
    ("squared-pair@top:2", &["hardest", "mean"]),
    ("binomial-deviance@all", &["hardest", "mean", "log-sum"]),
    ("multi-similarity", &["hardest", "mean", "log-sum"]),
    ("multi-similarity-mined", &["hardest", "mean", "log-sum"]),
    ("lifted", &["hardest", "mean", "log-sum"]),
    ("circle-all", &["hardest", "mean", "log-sum"]),
];

/// The names, as they are parsed.
pub fn named() -> impl Iterator<Item = (&'static str, &'static str, String)> {
    LOSSES.iter().flat_map(|(name, hows)| {
        hows.iter().map(move |&how| {
            let (base, over) = name.split_once('@').unwrap_or((name, ""));
            let over = if over.is_empty() { String::new() } else { format!("@{over}") };
            (*name, how, format!("{base}@positives:{how}{over}"))
        })
    })
}

fn several(device: &Device) -> Outcome {
    const PAIRS: usize = 37;
    const DIM: usize = 6;
    let mut random = Random::new(23);
    let (x, y) = (unit(&mut random, PAIRS, DIM), unit(&mut random, PAIRS, DIM));
    let ids: Vec<u32> = (0..PAIRS as u32).map(|i| i * i % 17).collect();
    let s = products(&x, &y, DIM);
    let of = |i: usize, element: &dyn Fn(usize) -> usize| {
        (1.0, (0..PAIRS).map(|j| (element(j), ids[i] == ids[j])).collect::<Vec<_>>())
    };
    let images = (0..PAIRS).map(|i| of(i, &|j| i * PAIRS + j));
    let texts = (0..PAIRS).map(|j| of(j, &|i| i * PAIRS + j));
    let (images, texts): (Vec<_>, Vec<_>) = (images.collect(), texts.collect());
    let both: Vec<_> = images.iter().chain(&texts).cloned().collect();
    let options = GradientOptions::default().with(|c| c.ids = Some(&ids));
    for (name, how, objective) in named() {
        let directions = [("", &both), ("@image-to-text", &images), ("@text-to-image", &texts)].into_iter();
        for (direction, anchors) in directions {
            let objective: Objective = format!("{objective}{direction}").parse()?;
            let text = objective.to_string();
            check(text.parse::<Objective>()? == objective, format!("{text} is another objective"))?;
            let (value, field) = by_differences(&s, anchors, |anchor, held| loss(name, how, anchor, held));
            let found = objective.gradients(device, (&x, DIM), (&y, DIM), options)?;
            agrees(&text, [&found.images, &found.texts], &field, [&x, &y], DIM)?;
            let error = (f64::from(found.loss) - value).abs();
            check(error <= 1e-5 * value.abs(), format!("{text}: loss {}, expected {value}", found.loss))?;
        }
    }
    Ok(())
}

/// Where every anchor has one positive, nothing changes.
fn one_positive(device: &Device) -> Outcome {
    const PAIRS: usize = 21;
    const DIM: usize = 6;
    let mut random = Random::new(24);
    let (x, y) = (unit(&mut random, PAIRS, DIM), unit(&mut random, PAIRS, DIM));
    let ids: Vec<u32> = (0..PAIRS as u32).rev().collect();
    for (own, how, objective) in named() {
        for ids in [None, Some(&ids[..])] {
            let options = GradientOptions::default().with(|c| c.ids = ids);
            let of = |name: &str| -> Result<_, libtest_mimic::Failed> {
                let objective: Objective = name.parse()?;
                Ok(objective.gradients(device, (&x, DIM), (&y, DIM), options)?)
            };
            let (expected, found) = (of(own)?, of(&objective)?);
            let largest = expected.images.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            for (found, expected) in found.images.iter().zip(&expected.images) {
                let error = (found - expected).abs();
                check(error <= 2e-5 * largest, format!("{own}, {how}: {found} is not {expected}"))?;
            }
        }
    }
    Ok(())
}

pub fn tests(suite: &mut Suite) {
    suite.each("several", several);
    suite.each("one_positive", one_positive);
}
