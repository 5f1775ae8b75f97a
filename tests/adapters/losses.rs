//! Tests the named losses through the public API, on every device.

use crate::common::random::Random;
use crate::common::{Outcome, Suite, check};
use wgoal::gradient::GradientOptions;
use wgoal::objective::{GoalParams, InfonceParams, Loss};
use wgoal::{Device, Objective};

const PAIRS: usize = 43;
const DIM: usize = 6;

/// The gradient equals that of the combination, bit for bit. The value is the closed form at the triplets.
fn combinations(device: &Device) -> Outcome {
    let mut random = Random::new(5);
    let (images, texts) = (random.values(PAIRS * DIM), random.values(PAIRS * DIM));
    let params = GoalParams::default().with(|c| {
        c.tau = 3.0;
        c.alpha = 2.5;
        c.beta = 20.0;
        c.lambda = 0.4;
    });
    for (loss, margin) in Loss::ALL.into_iter().flat_map(|loss| [(loss, None), (loss, Some(0.3))]) {
        let Some((triplet, pair)) = loss.combination() else { continue };
        let params = params.with(|c| c.margin = margin);
        let (named, goal) = (Objective::Loss(loss, params), Objective::Goal(triplet, pair, params));
        let options = GradientOptions::default().with(|c| {
            c.normalize = true;
            c.scale = 0.7;
        });
        let of = |objective: &Objective| objective.gradients(device, (&images, DIM), (&texts, DIM), options);
        let (a, b) = (of(&named)?, of(&goal)?);
        check(a.images.iter().any(|x| *x != 0.0), format!("{named}: no gradient"))?;
        check(a.images == b.images && a.texts == b.texts, format!("{named} is not {goal}"))?;
        let hardest = a.hardest_text.iter().chain(&a.hardest_image);
        let triplets = a.positive.iter().cycle().zip(hardest);
        let value =
            triplets.map(|(&p, &n)| named.loss_at(p.into(), n.into()).unwrap_or(f64::NAN)).sum::<f64>();
        let near = (f64::from(a.loss) - value).abs() < 1e-5 * value.abs().max(1.0);
        check(near, format!("{named}, margin {margin:?}: loss {}, expected {value}", a.loss))?;
    }
    Ok(())
}

/// The similarities in f64, without normalising the rows.
fn similarity(images: &[f32], texts: &[f32], dim: usize) -> Vec<Vec<f64>> {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
    images.chunks(dim).map(|x| texts.chunks(dim).map(|y| dot(x, y)).collect()).collect()
}

/// Checks a gradient against A Y and Aᵀ X, row by row, with an allowed error of 1e-5 of the row's norm.
fn holds(
    what: &str,
    found: &wgoal::gradient::Gradients,
    (loss, a): (f64, Vec<Vec<f64>>),
    [x, y]: [&[f32]; 2],
) -> Outcome {
    const ALLOWED: f64 = 1e-5;
    let error = (f64::from(found.loss) - loss).abs() / loss;
    check(error <= ALLOWED, format!("{what}: loss {:e}, expected {loss:e}", found.loss))?;
    let pairs = a.len();
    let sides: [(&str, &[f32], &[f32], &dyn Fn(usize, usize) -> f64); 2] =
        [("images", &found.images, y, &|i, j| a[i][j]), ("texts", &found.texts, x, &|i, j| a[j][i])];
    for (side, found, other, a) in sides {
        let dim = other.len() / pairs;
        for (i, row) in found.chunks(dim).enumerate() {
            let at = |d: usize| (0..pairs).map(|j| a(i, j) * f64::from(other[j * dim + d])).sum::<f64>();
            let expected: Vec<_> = (0..dim).map(at).collect();
            let size = expected.iter().map(|x| x * x).sum::<f64>().sqrt();
            let error =
                row.iter().zip(&expected).map(|(&f, e)| (f64::from(f) - e).powi(2)).sum::<f64>().sqrt();
            check(error <= ALLOWED * size, format!("{what}: {side} {i}, error {error:e} of {size:e}"))?;
        }
    }
    Ok(())
}

/// Rows whose similarities are exact in f32: `corner` on the diagonal and 0 elsewhere, plus small products of multiples
/// of 1/64 in the last column.
fn exact_rows(pairs: usize, corner: f32) -> [Vec<f32>; 2] {
    let dim = pairs + 1;
    let (mut x, mut y) = (vec![0.0; pairs * dim], vec![0.0; pairs * dim]);
    for i in 0..pairs {
        (x[i * dim + i], y[i * dim + i]) = (1.0, corner);
        (x[i * dim + pairs], y[i * dim + pairs]) = ((i % 7) as f32 / 64.0, (i % 5) as f32 / 64.0);
    }
    [x, y]
}

/// InfoNCE keeps its digits for losses as small as 1e-12, with one target, with several, and with other captions left
/// out.
fn small_infonce(device: &Device) -> Outcome {
    const PAIRS: usize = 24;
    let [x, y] = exact_rows(PAIRS, 1.0);
    let s = similarity(&x, &y, PAIRS + 1);
    let pair_ids: Vec<u32> = (0..PAIRS as u32).map(|i| i / 2).collect();
    // The captions of one image have equal rows, so all targets of an anchor are equally similar.
    let [mut twice_x, mut twice_y] = [x.clone(), y.clone()];
    for rows in [&mut twice_x, &mut twice_y] {
        for pair in rows.chunks_exact_mut(2 * (PAIRS + 1)) {
            let (first, second) = pair.split_at_mut(PAIRS + 1);
            second.copy_from_slice(first);
        }
    }
    let twice = similarity(&twice_x, &twice_y, PAIRS + 1);
    for t in [1.0, 0.25, 0.05, 1.0 / 32.0] {
        let cases = [
            ("infonce", None, [&x, &y], &s),
            ("infonce-masked", Some(&pair_ids[..]), [&x, &y], &s),
            ("infonce", Some(&pair_ids[..]), [&twice_x, &twice_y], &twice),
        ];
        for (name, ids, [x, y], s) in cases {
            let mut objective: Objective = name.parse()?;
            let Objective::Infonce(params) = &mut objective else { return Err("no InfoNCE".into()) };
            params.temperature = t;
            let options = GradientOptions::default().with(|c| c.ids = ids);
            let found = objective.gradients(device, (x, PAIRS + 1), (y, PAIRS + 1), options)?;
            let same = |i: usize, j: usize| i == j || ids.is_some_and(|ids| ids[i] == ids[j]);
            let masked = name == "infonce-masked";
            let (mut a, mut loss, t) = (vec![vec![0.0; PAIRS]; PAIRS], 0.0, f64::from(t));
            let (mut at_t, share) = (0.0, 0.5 / PAIRS as f64);
            for (i, transposed) in (0..PAIRS).flat_map(|i| [(i, false), (i, true)]) {
                let s = |j: usize| if transposed { s[j][i] } else { s[i][j] };
                let targets: Vec<_> =
                    (0..PAIRS).filter(|&j| if masked { i == j } else { same(i, j) }).collect();
                let count = targets.len() as f64;
                // All targets are equal, so only the negatives add to the loss.
                let own = s(i);
                let rest: Vec<_> =
                    (0..PAIRS).filter(|&j| !same(i, j)).map(|j| (j, ((s(j) - own) / t).exp())).collect();
                let sum: f64 = rest.iter().map(|(_, e)| e).sum();
                loss += share * (count.ln() + (sum / count).ln_1p());
                let mut add = |j: usize, value: f64| {
                    let value = share / t * value;
                    *(if transposed { &mut a[j][i] } else { &mut a[i][j] }) += value;
                    at_t -= value * (s(j) - own) / t;
                };
                targets.iter().for_each(|&j| add(j, -sum / count / (count + sum)));
                rest.iter().for_each(|&(j, e)| add(j, e / (count + sum)));
            }
            let what = format!("{name}, t {t}, {} targets", if masked || ids.is_none() { 1 } else { 2 });
            holds(&what, &found, (loss, a), [x, y])?;
            let error = (f64::from(found.temperature) - at_t).abs();
            check(
                error <= 1e-5 * at_t.abs(),
                format!("{what}: {:e} at t, expected {at_t:e}", found.temperature),
            )?;
        }
    }
    Ok(())
}

/// The losses with a softplus keep their digits too if it is small.
fn small_softplus(device: &Device) -> Outcome {
    const PAIRS: usize = 24;
    let [x, y] = exact_rows(PAIRS, 1.0);
    let s = similarity(&x, &y, PAIRS + 1);
    let softplus = |z: f64| z.max(0.0) + (-z.abs()).exp().ln_1p();
    for scale in [1.0f32, 4.0, 27.0] {
        let params = GoalParams::default().with(|c| {
            c.tau = scale;
            c.alpha = scale;
            c.beta = scale;
            c.lambda = 0.5;
        });
        let c = f64::from(scale);
        let nt_xent = |p: f64, n: &[f64]| softplus(c * (n.iter().copied().fold(f64::MIN, f64::max) - p)) / c;
        let multi = |p: f64, n: &[f64]| {
            let sum: f64 = n.iter().map(|n| (c * (n - 0.5)).exp()).sum();
            softplus(-c * (p - 0.5)) / c + sum.ln_1p() / c
        };
        let deviance = |p: f64, n: &[f64]| {
            let n = n.iter().copied().fold(f64::MIN, f64::max);
            softplus(-c * (p - 0.5)) / c + softplus(c * (n - 0.5)) / c
        };
        let losses: [(Loss, &dyn Fn(f64, &[f64]) -> f64); 3] =
            [(Loss::NtXent, &nt_xent), (Loss::MultiSimilarity, &multi), (Loss::BinomialDeviance, &deviance)];
        for (loss, value) in losses {
            let found = Objective::Loss(loss, params).gradients(
                device,
                (&x, PAIRS + 1),
                (&y, PAIRS + 1),
                Default::default(),
            )?;
            let mut expected = 0.0;
            for (i, row) in s.iter().enumerate() {
                let without = |values: Vec<f64>| {
                    values
                        .into_iter()
                        .enumerate()
                        .filter(|(j, _)| *j != i)
                        .map(|(_, s)| s)
                        .collect::<Vec<_>>()
                };
                let column = s.iter().map(|row| row[i]).collect();
                expected += value(row[i], &without(row.clone())) + value(row[i], &without(column));
            }
            let error = (f64::from(found.loss) - expected).abs() / expected;
            check(
                error <= 1e-5,
                format!("{loss:?}, scale {scale}: {:e}, expected {expected:e}", found.loss),
            )?;
        }
    }
    Ok(())
}

/// A loss that is a function of p plus a function of n counts p once per anchor, however many negatives there are. With
/// a margin it is a loss of triplets, and each open triplet counts p.
fn positives_once(device: &Device) -> Outcome {
    let mut random = Random::new(7);
    let (images, texts) = (random.values(PAIRS * DIM), random.values(PAIRS * DIM));
    let mut ids: Vec<u32> = (0..PAIRS as u32).collect();
    ids[5] = 4;
    let options = GradientOptions::default().with(|c| {
        c.normalize = true;
        c.ids = Some(&ids);
    });
    let separable: [(&str, fn(f64) -> f64, fn(f64) -> f64); 3] = [
        ("contrastive", |p| 1.0 - p, |n| (n - 0.5).max(0.0)),
        ("squared-pair", |p| (1.0 - p).powi(2) / 2.0, |n| n * n / 2.0),
        (
            "binomial-deviance",
            |p| (-2.0 * (p - 0.5)).exp().ln_1p() / 2.0,
            |n| (10.0 * (n - 0.5)).exp().ln_1p() / 10.0,
        ),
    ];
    let unit = |rows: &[f32]| -> Vec<f32> {
        let norm = |row: &[f32]| row.iter().map(|x| x * x).sum::<f32>().sqrt();
        rows.chunks(DIM).flat_map(|row| row.iter().map(|x| x / norm(row)).collect::<Vec<_>>()).collect()
    };
    let s = similarity(&unit(&images), &unit(&texts), DIM);
    for ((name, of_p, of_n), (over, count)) in
        separable.into_iter().flat_map(|loss| [("all", PAIRS), ("top:3", 3)].map(|over| (loss, over)))
    {
        let mut expected = 0.0;
        for (i, transposed) in (0..PAIRS).flat_map(|i| [(i, false), (i, true)]) {
            let at = |j: usize| if transposed { s[j][i] } else { s[i][j] };
            let mut negatives: Vec<_> = (0..PAIRS).filter(|&j| ids[j] != ids[i]).map(at).collect();
            negatives.sort_by(|a, b| b.total_cmp(a));
            expected += of_p(at(i)) + negatives.into_iter().take(count).map(of_n).sum::<f64>();
        }
        let objective: Objective = format!("{name}@{over}").parse()?;
        let found = objective.gradients(device, (&images, DIM), (&texts, DIM), options)?;
        let error = (f64::from(found.loss) - expected).abs();
        check(error <= 1e-5 * expected, format!("{objective}: {}, expected {expected}", found.loss))?;
        // The slope of the loss along a direction agrees with the gradient.
        let (step, mut moved) = (1e-2f32, images.clone());
        let mut along = 0.0;
        for (x, g) in moved.iter_mut().zip(&found.images) {
            *x += step * g;
            along += f64::from(*g).powi(2);
        }
        let after = objective.gradients(device, (&moved, DIM), (&texts, DIM), options)?;
        let slope = (f64::from(after.loss) - f64::from(found.loss)) / f64::from(step);
        check((slope - along).abs() <= 0.2 * along, format!("{objective}: slope {slope}, expected {along}"))?;
    }
    // With a margin, p counts once per open triplet.
    let params = GoalParams::default().with(|c| c.margin = Some(4.0));
    let objective = Objective::Loss(Loss::Contrastive, params).over(wgoal::objective::Negatives::All)?;
    let found = objective.gradients(device, (&images, DIM), (&texts, DIM), options)?;
    let mut expected = 0.0;
    for (i, j) in (0..PAIRS).flat_map(|i| (0..PAIRS).map(move |j| (i, j))).filter(|&(i, j)| ids[i] != ids[j])
    {
        expected += 2.0 * (1.0 - s[i][i]) + (s[i][j] - 0.5).max(0.0) + (s[j][i] - 0.5).max(0.0);
    }
    let error = (f64::from(found.loss) - expected).abs();
    check(error <= 1e-5 * expected, format!("{objective}: {}, expected {expected}", found.loss))
}

/// Both directions of an objective add up to the whole. InfoNCE is their mean. In one direction it is the cross-entropy
/// of its anchors, computed here by definition.
fn one_direction(device: &Device) -> Outcome {
    let mut random = Random::new(11);
    let (images, texts) = (random.values(PAIRS * DIM), random.values(PAIRS * DIM));
    let ids: Vec<u32> = (0..PAIRS as u32).map(|i| if i == 7 { 3 } else { i }).collect();
    for (name, share) in [
        ("cir:sig-ms", 1.0),
        ("nca:lin-ms@top:3", 1.0),
        ("hinge@semi-hard", 1.0),
        ("nca:sig@all", 1.0),
        ("hinge-sum", 1.0),
        ("multi-similarity", 1.0),
        ("lifted", 1.0),
        ("circle-all", 1.0),
        ("multi-similarity-mined", 1.0),
        ("infonce-log-sum", 0.5),
        ("infonce", 0.5),
        ("infonce-masked", 0.5),
    ] {
        let options = GradientOptions::default().with(|c| {
            (c.normalize, c.ids, c.scale) = (true, Some(&ids[..]), 0.7);
        });
        let of = |name: &str| -> Result<_, libtest_mimic::Failed> {
            let objective: Objective = name.parse()?;
            check(objective.to_string() == name, format!("{objective} is not {name}"))?;
            Ok(objective.gradients(device, (&images, DIM), (&texts, DIM), options)?)
        };
        let (whole, it) = (of(name)?, of(&format!("{name}@image-to-text"))?);
        let ti = of(&format!("{name}@text-to-image"))?;
        for (side, whole, it, ti) in
            [("images", &whole.images, &it.images, &ti.images), ("texts", &whole.texts, &it.texts, &ti.texts)]
        {
            let largest = whole.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            for ((whole, it), ti) in whole.iter().zip(it).zip(ti) {
                let error = (whole - share * (it + ti)).abs();
                check(error <= 2e-6 * largest, format!("{name}, {side}: {it} and {ti} are not {whole}"))?;
            }
            check(it != ti && it.iter().any(|x| *x != 0.0), format!("{name}, {side}: one gradient"))?;
        }
        let error = (whole.loss - share * (it.loss + ti.loss)).abs();
        let size = whole.loss.abs().max(1.0);
        check(error <= 1e-5 * size, format!("{name}: losses {}, {}, {}", whole.loss, it.loss, ti.loss))?;
    }
    // The image-to-text hinge by definition: only images have a hardest text.
    let options = GradientOptions::default();
    let s = similarity(&images, &texts, DIM);
    let hardest = |i: usize| (0..PAIRS).filter(|&j| j != i).map(|j| s[i][j]).fold(f64::MIN, f64::max);
    let hinge: f64 = (0..PAIRS).map(|i| (0.2 + hardest(i) - s[i][i]).max(0.0)).sum();
    let entropy = |i: usize| {
        let z = |j: usize| s[i][j] / f64::from(0.07f32);
        let top = (0..PAIRS).map(z).fold(f64::MIN, f64::max);
        top + (0..PAIRS).map(|j| (z(j) - top).exp()).sum::<f64>().ln() - z(i)
    };
    let mean = (0..PAIRS).map(entropy).sum::<f64>() / PAIRS as f64;
    for (name, expected) in [("hinge@image-to-text", hinge), ("infonce@image-to-text", mean)] {
        let objective: Objective = name.parse()?;
        let found = objective.gradients(device, (&images, DIM), (&texts, DIM), options)?.loss;
        let error = (f64::from(found) - expected).abs();
        check(error <= 1e-5 * expected, format!("{name}: {found}, expected {expected}"))?;
    }
    Ok(())
}

/// InfoNCE whose targets' probabilities add up, by definition, at temperatures at which e^(s / t) of every target
/// underflows in f32 beside that of the most similar negative.
fn log_sum_of_far_targets(device: &Device) -> Outcome {
    const PAIRS: usize = 24;
    const DIM: usize = PAIRS / 2 + 1;
    let ids: Vec<u32> = (0..PAIRS as u32).map(|i| i / 2).collect();
    for (t, near) in [0.07f32, 0.01, 0.005].into_iter().flat_map(|t| [(t, 0.0f32), (t, 0.96875)]) {
        // Image i is most similar to the texts of the next image, by `near`. To its own texts its similarity is at most
        // 1/128 apart from 0. All similarities are exact in f32.
        let (mut x, mut y) = (vec![0.0; PAIRS * DIM], vec![0.0; PAIRS * DIM]);
        for i in 0..PAIRS {
            (x[i * DIM + i / 2], y[i * DIM + (i / 2 + DIM - 2) % (DIM - 1)]) = (1.0, near);
            (x[i * DIM + DIM - 1], y[i * DIM + DIM - 1]) = ((i % 5) as f32 / 64.0, (i % 7) as f32 / 64.0);
        }
        let (s, t64) = (similarity(&x, &y, DIM), f64::from(t));
        let (mut a, mut loss, share) = (vec![vec![0.0; PAIRS]; PAIRS], 0.0, 0.5 / PAIRS as f64);
        for (i, transposed) in (0..PAIRS).flat_map(|i| [(i, false), (i, true)]) {
            let e = |j: usize| (if transposed { s[j][i] } else { s[i][j] } / t64).exp();
            let of_targets: f64 = (0..PAIRS).filter(|&j| ids[j] == ids[i]).map(e).sum();
            let of_negatives: f64 = (0..PAIRS).filter(|&j| ids[j] != ids[i]).map(e).sum();
            loss += share * (of_negatives / of_targets).ln_1p();
            for j in 0..PAIRS {
                let softmax = e(j) / (of_targets + of_negatives);
                // softmax - e / of_targets, without a difference of near numbers
                let at_target = -e(j) / of_targets * of_negatives / (of_targets + of_negatives);
                let value = share / t64 * if ids[j] == ids[i] { at_target } else { softmax };
                *(if transposed { &mut a[j][i] } else { &mut a[i][j] }) += value;
            }
        }
        let params = InfonceParams::default().with(|c| (c.temperature, c.log_sum) = (t, true));
        let options = GradientOptions::default().with(|c| c.ids = Some(&ids));
        let found = Objective::Infonce(params).gradients(device, (&x, DIM), (&y, DIM), options)?;
        holds(&format!("infonce-log-sum, t {t}, near {near}"), &found, (loss, a), [&x, &y])?;
    }
    Ok(())
}

/// Batches that are too large for a key are refused, with the same message on every device.
fn too_many_pairs(device: &Device) -> Outcome {
    let rows = vec![1.0; 70_000];
    let objective: Objective = "hinge".parse()?;
    let found = objective.gradients(device, (&rows, 1), (&rows, 1), GradientOptions::default());
    let expected = "pairs of a batch: expected 1 to 65535, found 70000; give fewer pairs at a time";
    match found {
        Err(error) => check(error.to_string() == expected, error.to_string()),
        Ok(_) => Err("70000 pairs were accepted".into()),
    }
}

pub fn tests(suite: &mut Suite) {
    suite.each("combinations", combinations);
    suite.each("small_infonce", small_infonce);
    suite.each("small_softplus", small_softplus);
    suite.each("positives_once", positives_once);
    suite.each("one_direction", one_direction);
    suite.each("log_sum_of_far_targets", log_sum_of_far_targets);
    suite.each("too_many_pairs", too_many_pairs);
}
