//! Several positives per anchor, through the public API, on every device. Losses are written as their papers define them,
//! and their gradients are central differences in f64.

use crate::common::random::Random;
use crate::common::{Outcome, Suite, check};
use wgoal::gradient::{GradientContext, GradientOptions};
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

/// The field of a GOAL combination with relative sets, in f64. `anchors` has a list per direction, as
/// [`by_differences`] takes it.
fn with_relative_sets(
    s: &[f64],
    triplet: &str,
    pair: &str,
    anchors: [&[(f64, Vec<(usize, bool)>)]; 2],
) -> Vec<f64> {
    let (tau, alpha, beta, lambda, kappa, m) = (1.0, 2.0, 10.0, 0.5, f64::from(0.1f32), 0.5);
    let sigmoid = |z: f64| 1.0 / (1.0 + (-z).exp());
    let mean = |values: Vec<f64>| match values.len() {
        0 => 0.0,
        len => values.iter().sum::<f64>() / len as f64,
    };
    let mut field = vec![0.0; s.len()];
    for anchors in anchors {
        let of = |candidates: &[(usize, bool)], positive: bool| -> Vec<usize> {
            candidates.iter().filter(|(_, own)| *own == positive).map(|&(at, _)| at).collect()
        };
        let p: Vec<f64> = anchors
            .iter()
            .map(|(_, candidates)| mean(of(candidates, true).into_iter().map(|at| s[at]).collect()))
            .collect();
        let floor = p.iter().copied().fold(f64::INFINITY, f64::min) - kappa;
        for (i, (_, candidates)) in anchors.iter().enumerate() {
            let (own, others) = (of(candidates, true), of(candidates, false));
            let Some(h) = others.iter().copied().max_by(|&a, &b| s[a].total_cmp(&s[b])) else { continue };
            let (n, p_i) = (s[h], p[i]);
            let u = p
                .iter()
                .enumerate()
                .filter(|&(j, p_j)| j != i && *p_j <= n + kappa)
                .map(|(_, p_j)| p_i - p_j);
            let v = others.iter().filter(|&&at| at != h && s[at] >= floor).map(|&at| n - s[at]);
            let (strong, weak) = match pair {
                "lin-ms" => {
                    let inside = |x: &f64| *x != 0.0;
                    let [r_p, r_n] = [u.filter(inside).collect(), v.filter(inside).collect()].map(mean);
                    ((1.0 - r_p) * (1.0 - p_i), (1.0 + r_n) * n)
                }
                _ => {
                    let r_p = mean(u.map(|u| (alpha * u).exp()).collect());
                    let r_n = mean(v.map(|v| (-beta * v).exp()).collect());
                    let of_p = 1.0 / ((alpha * (p_i - lambda)).exp() + r_p);
                    (of_p, 1.0 / ((-beta * (n - lambda)).exp() + r_n))
                }
            };
            let t = match triplet {
                "con" => 1.0,
                "nca" => sigmoid(tau * (n - p_i)),
                _ => sigmoid(tau * ((1.0 - p_i).powi(2) + n * n - 2.0 * m * m)),
            };
            own.iter().for_each(|&at| field[at] -= t * strong / own.len() as f64);
            field[h] += t * weak;
        }
    }
    field
}

/// M images and N texts under the pair weights with relative sets: U has the anchors of one direction, which are fewer
/// than the candidates for images, and more for texts.
fn relative_sets_of_several_texts(device: &Device) -> Outcome {
    const DIM: usize = 6;
    for [images, texts] in [[13, 37], [70, 131], [2, 40], [21, 21]] {
        let mut random = Random::new(26);
        let (x, y) = (unit(&mut random, images, DIM), unit(&mut random, texts, DIM));
        // 11 has no divisor in common with a number of images, so every image has a text.
        let text_image: Vec<u32> = (0..texts).map(|j| ((texts - j) * 11 % images) as u32).collect();
        let s = products(&x, &y, DIM);
        let right = |i: usize, j: usize| text_image[j] as usize == i;
        let of_images: Vec<_> = (0..images)
            .map(|i| (1.0, (0..texts).map(|j| (i * texts + j, right(i, j))).collect::<Vec<_>>()))
            .collect();
        let of_texts: Vec<_> = (0..texts)
            .map(|j| (1.0, (0..images).map(|i| (i * texts + j, right(i, j))).collect::<Vec<_>>()))
            .collect();
        let options = GradientOptions::default().with(|c| c.text_image = Some(&text_image));
        for triplet in ["con", "nca", "cir"] {
            for pair in ["lin-ms", "sig-ms"] {
                let name = format!("{triplet}:{pair}");
                let field = with_relative_sets(&s, triplet, pair, [&of_images, &of_texts]);
                let found = name.parse::<Objective>()?.gradients(device, (&x, DIM), (&y, DIM), options)?;
                let what = format!("{name}, {images} images and {texts} texts");
                agrees(&what, [&found.images, &found.texts], &field, [&x, &y], DIM)?;
            }
        }
    }
    Ok(())
}

/// M images and N texts, several of one image, against loops over anchors. Where an objective has one positive per anchor,
/// the positive of an image is the mean of its texts.
fn several_texts(device: &Device) -> Outcome {
    const IMAGES: usize = 13;
    const TEXTS: usize = 37;
    const DIM: usize = 6;
    let mut random = Random::new(25);
    let (x, y) = (unit(&mut random, IMAGES, DIM), unit(&mut random, TEXTS, DIM));
    // Every image has a text, and the first texts are not those of the first images.
    let text_image: Vec<u32> = (0..TEXTS as u32).map(|j| (j * j + 5) * (1 + j % 3) % IMAGES as u32).collect();
    let mut text_image: Vec<u32> = text_image.into_iter().skip(IMAGES).collect();
    text_image.extend((0..IMAGES as u32).rev());
    let s = products(&x, &y, DIM);
    let right = |i: usize, j: usize| text_image[j] as usize == i;
    let images = |weight: f64| {
        (0..IMAGES)
            .map(move |i| (weight, (0..TEXTS).map(|j| (i * TEXTS + j, right(i, j))).collect::<Vec<_>>()))
    };
    let texts = |weight: f64| {
        (0..TEXTS)
            .map(move |j| (weight, (0..IMAGES).map(|i| (i * TEXTS + j, right(i, j))).collect::<Vec<_>>()))
    };
    let whole: Vec<_> = images(1.0).chain(texts(1.0)).collect();
    let mean: Vec<_> = images(0.5 / IMAGES as f64).chain(texts(0.5 / TEXTS as f64)).collect();
    let one_way: Vec<_> = texts(1.0 / TEXTS as f64).collect();
    let t = f64::from(0.07f32);
    let sum = |values: &[f64]| values.iter().map(|s| (s / t).exp()).sum::<f64>();
    let entropy = |anchor: &Anchor, _: &Anchor| {
        let z = anchor.positives.iter().sum::<f64>() / anchor.positives.len() as f64 / t;
        (sum(&anchor.positives) + sum(&anchor.negatives)).ln() - z
    };
    let log_sum = |anchor: &Anchor, _: &Anchor| (sum(&anchor.negatives) / sum(&anchor.positives)).ln_1p();
    // A text has one image, so each pair of an image and a text is a candidate of one text.
    let questions = |anchor: &Anchor, _: &Anchor| {
        let of = |sign: f64, values: &[f64]| -> f64 {
            values.iter().map(|s| softplus(sign * (s / f64::from(0.1f32) - 10.0))).sum()
        };
        of(-1.0, &anchor.positives) + of(1.0, &anchor.negatives)
    };
    let triplets = |name: &'static str, how: &'static str| {
        by_differences(&s, &whole, |anchor, held| loss(name, how, anchor, held))
    };
    let mut cases: Vec<(String, (f64, Vec<f64>))> =
        named().map(|(name, how, objective)| (objective, triplets(name, how))).collect();
    cases.extend(LOSSES.iter().map(|(name, _)| (name.to_string(), triplets(name, "mean"))));
    cases.push(("infonce".into(), by_differences(&s, &mean, entropy)));
    cases.push(("infonce-log-sum".into(), by_differences(&s, &mean, log_sum)));
    cases.push(("infonce@text-to-image".into(), by_differences(&s, &one_way, entropy)));
    cases.push(("siglip".into(), by_differences(&s, &one_way, questions)));
    let options = GradientOptions::default().with(|c| c.text_image = Some(&text_image));
    for (name, (value, field)) in cases {
        let objective: Objective = name.parse()?;
        let found = objective.gradients(device, (&x, DIM), (&y, DIM), options)?;
        agrees(&name, [&found.images, &found.texts], &field, [&x, &y], DIM)?;
        let error = (f64::from(found.loss) - value).abs();
        check(error <= 1e-5 * value.abs(), format!("{name}: loss {}, expected {value}", found.loss))?;
        for (j, &image) in text_image.iter().enumerate() {
            let of = |i: usize| s[i * TEXTS + j];
            let best =
                (0..IMAGES).filter(|&i| !right(i, j)).max_by(|&a, &b| of(a).total_cmp(&of(b))).unwrap();
            let near = |found: f32, expected: f64| (f64::from(found) - expected).abs() < 1e-6;
            let (p, n) = (found.positive[j], found.hardest_image[j]);
            let whole = near(p, of(image as usize)) && near(n, of(best));
            let index = found.hardest_image_index[j];
            check(whole && index as usize == best, format!("{name}: text {j} has {p}, {n}, {index}"))?;
        }
        for i in 0..IMAGES {
            let of = |j: usize| s[i * TEXTS + j];
            let best = (0..TEXTS).filter(|&j| !right(i, j)).max_by(|&a, &b| of(a).total_cmp(&of(b))).unwrap();
            check(found.hardest_text_index[i] as usize == best, format!("{name}: image {i}"))?;
        }
    }
    // A context gives the same, also when it is used again and normalises.
    let objective: Objective = "hinge+0.5*infonce".parse()?;
    let mut context = GradientContext::with_captions(device, &objective, [IMAGES, TEXTS], DIM)?;
    for normalize in [false, true, false] {
        let options = options.with(|c| c.normalize = normalize);
        let expected = objective.gradients(device, (&x, DIM), (&y, DIM), options)?;
        let (mut dx, mut dy) = (vec![0.0; x.len()], vec![0.0; y.len()]);
        let value = context.gradients(&x, &y, options, [&mut dx, &mut dy])?;
        let same = dx == expected.images && dy == expected.texts && value.loss == expected.loss;
        check(same, format!("another gradient from a context, normalize {normalize}"))?;
    }
    Ok(())
}

/// A batch in which every text has its own image, in any order, is the batch of pairs.
fn one_text_each(device: &Device) -> Outcome {
    const PAIRS: usize = 21;
    const DIM: usize = 6;
    let mut random = Random::new(26);
    let (x, y) = (unit(&mut random, PAIRS, DIM), unit(&mut random, PAIRS, DIM));
    let text_image: Vec<u32> = (0..PAIRS as u32).map(|j| (8 * j + 3) % PAIRS as u32).collect();
    let moved: Vec<f32> = {
        let mut moved = vec![0.0; y.len()];
        for (row, &image) in y.chunks(DIM).zip(&text_image) {
            moved[image as usize * DIM..][..DIM].copy_from_slice(row);
        }
        moved
    };
    for name in ["hinge", "nca:lin", "infonce", "siglip", "lifted", "con:sig@all"] {
        let objective: Objective = name.parse()?;
        let pairs = objective.gradients(device, (&x, DIM), (&moved, DIM), GradientOptions::default())?;
        let options = GradientOptions::default().with(|c| c.text_image = Some(&text_image));
        let found = objective.gradients(device, (&x, DIM), (&y, DIM), options)?;
        let expected = text_image.iter().flat_map(|&i| &pairs.texts[i as usize * DIM..][..DIM]);
        let all = found.images.iter().zip(&pairs.images).chain(found.texts.iter().zip(expected));
        let largest = pairs.images.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        for (found, expected) in all {
            let near = (found - expected).abs() <= 2e-6 * largest;
            check(near, format!("{name}: {found}, expected {expected}"))?;
        }
    }
    Ok(())
}

/// What batches with several texts refuse.
fn refused(device: &Device) -> Outcome {
    let (x, y) = ([1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    let of = |name: &str, text_image: &[u32], ids: Option<&[u32]>| -> Result<String, libtest_mimic::Failed> {
        let objective: Objective = name.parse()?;
        let options = GradientOptions::default().with(|c| (c.text_image, c.ids) = (Some(text_image), ids));
        match objective.gradients(device, (&x, 2), (&y, 2), options) {
            Err(error) => Ok(error.to_string()),
            Ok(_) => Err(format!("{name} accepted {text_image:?}").into()),
        }
    };
    for (name, text_image, ids, expected) in [
        (
            "hinge",
            &[0, 1][..],
            None,
            "text_image: expected 3 numbers, one per text, found 2; give the image row of every text",
        ),
        (
            "hinge",
            &[0, 1, 2],
            None,
            "text_image, text 2: expected an image row from 0 to 1, found 2; correct the number",
        ),
        (
            "hinge",
            &[1, 1, 1],
            None,
            "text_image, image 0: expected at least one text for every image, found none; leave the image out of the \
             batch, or give one of its texts",
        ),
        (
            "hinge",
            &[0, 1, 1],
            Some(&[0, 1, 1][..]),
            "ids: expected none beside text_image, found some numbers; leave one of the two out",
        ),
        (
            "infonce-masked",
            &[0, 1, 1],
            None,
            "objective beside text_image: expected an objective that uses all texts of an image, found infonce-masked; \
             use infonce or siglip",
        ),
    ] {
        let found = of(name, text_image, ids)?;
        check(found == expected, found)?;
    }
    let hinge: Objective = "hinge".parse()?;
    let options = GradientOptions::default().with(|c| c.text_image = Some(&[0, 1]));
    let found = hinge.gradients(device, (&y, 2), (&x, 2), options).err().map(|error| error.to_string());
    let expected = "images of a batch: expected 1 to 2, the number of texts, found 3; give every image a text, or swap \
                    images and texts if texts have several images";
    check(found.as_deref() == Some(expected), format!("{found:?}"))?;
    let mut pairs = GradientContext::new(device, &hinge, 2, 2)?;
    let options = GradientOptions::default().with(|c| c.text_image = Some(&[0, 1]));
    let (mut dx, mut dy) = ([0.0; 4], [0.0; 4]);
    let found = pairs.gradients(&x, &x, options, [&mut dx, &mut dy]).err().map(|error| error.to_string());
    let expected = "text_image: expected none, found some numbers; make the context with `with_captions`";
    check(found.as_deref() == Some(expected), format!("{found:?}"))
}

pub fn tests(suite: &mut Suite) {
    suite.each("several", several);
    suite.each("one_positive", one_positive);
    suite.each("several_texts", several_texts);
    suite.each("relative_sets_of_several_texts", relative_sets_of_several_texts);
    suite.each("one_text_each", one_text_each);
    suite.each("refused", refused);
}
