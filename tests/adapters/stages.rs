//! Compares sampled negatives and two-stage retrieval with a plain implementation of docs/math.md, "Hard negatives by
//! chance" and "Two-stage retrieval", on every device.

use crate::common::random::Random;
use crate::common::{Outcome, Suite, check};
use wgoal::rerank::{Candidates, TopK};
use wgoal::similarity::{NegativeOptions, hard_negatives};
use wgoal::{Device, Recall};

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// Every index is drawn as often as its probability says, never one of the same image. The same seed gives the same
/// indices.
fn negatives(device: &Device) -> Outcome {
    const DRAWS: u64 = 1500;
    let (n, dim, t) = (7, 5, 0.3f32);
    let mut random = Random::new(11);
    let (images, texts) = (random.values(n * dim), random.values(n * dim));
    let ids = [4u32, 9, 4, 1, 0, 9, 9];
    for ids in [None, Some(&ids[..])] {
        let excluded = |a: usize, b: usize| a == b || ids.is_some_and(|ids| ids[a] == ids[b]);
        let mut counts = [vec![vec![0u32; n]; n], vec![vec![0u32; n]; n]];
        for seed in 0..DRAWS {
            let options = NegativeOptions::default().with(|c| {
                c.ids = ids;
                c.temperature = t;
                c.seed = seed;
            });
            let drawn = hard_negatives(device, (&images, dim), (&texts, dim), options)?;
            for (counts, drawn) in counts.iter_mut().zip([&drawn.texts, &drawn.images]) {
                check(drawn.len() == n, "one a query")?;
                drawn.iter().enumerate().for_each(|(query, &other)| counts[query][other as usize] += 1);
            }
            if seed == 0 {
                let again = hard_negatives(device, (&images, dim), (&texts, dim), options)?;
                check(drawn == again, "the same seed draws the same")?;
            }
        }
        for (direction, counts) in counts.iter().enumerate() {
            for (query, counts) in counts.iter().enumerate() {
                let logits: Vec<f64> = (0..n)
                    .map(|other| {
                        let (i, j) = if direction == 0 { (query, other) } else { (other, query) };
                        dot(&images[i * dim..(i + 1) * dim], &texts[j * dim..(j + 1) * dim]) / f64::from(t)
                    })
                    .collect();
                let sum: f64 = logits.iter().map(|z| z.exp()).sum();
                let weight = |other: usize| match excluded(query, other) {
                    true => 0.0,
                    false => logits[other].exp() / sum + 1e-5,
                };
                let total: f64 = (0..n).map(weight).sum();
                for (other, &count) in counts.iter().enumerate() {
                    let p = weight(other) / total;
                    let (mean, sigma) = (p * DRAWS as f64, (DRAWS as f64 * p * (1.0 - p)).sqrt());
                    let found = f64::from(count);
                    let near = (found - mean).abs() <= 4.5 * sigma.max(0.7);
                    check(
                        near && (p > 0.0 || found == 0.0),
                        format!("{direction} {query} {other}: {found}, {mean}"),
                    )?;
                }
            }
        }
    }
    let refused = |n: usize, ids: Option<&[u32]>, temperature: f32, part: &str| {
        let options = NegativeOptions::default().with(|c| {
            c.ids = ids;
            c.temperature = temperature;
            c.seed = 0;
        });
        let found = hard_negatives(device, (&images[..n * dim], dim), (&texts[..n * dim], dim), options);
        let message = found.err().map(|e| e.to_string()).unwrap_or_default();
        check(message.contains(part), format!("`{message}` should say `{part}`"))
    };
    refused(1, None, 0.1, "pair 0: expected a pair of another image, found none")?;
    refused(3, Some(&[5, 5, 5]), 0.1, "pair 0: expected a pair of another image")?;
    refused(3, Some(&[5, 6]), 0.1, "ids: expected 3 numbers")?;
    refused(3, None, 0.0, "expected a finite number above 0, found 0")
}

/// Values in quarters, so that similarities are exact and ties are common.
fn coarse(random: &mut Random, n: usize) -> Vec<f32> {
    (0..n).map(|_| (random.below(9) as f32 - 4.0) / 4.0).collect()
}

fn sorted(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).unwrap().then(a.cmp(&b)));
    order
}

fn top(device: &Device) -> Outcome {
    let mut random = Random::new(3);
    for (n, m, dim, k) in [(1, 1, 3, 1), (37, 65, 4, 5), (66, 31, 3, 40), (9, 130, 7, 130)] {
        let (images, texts) = (coarse(&mut random, n * dim), coarse(&mut random, m * dim));
        let found = Candidates::top(device, (&images, dim), (&texts, dim), k)?;
        for (found, queries, others) in [(&found.texts, &images, &texts), (&found.images, &texts, &images)] {
            check(found.k == k.min(others.len() / dim), "K, or all")?;
            let scores =
                |query: &[f32]| others.chunks(dim).map(|other| dot(query, other)).collect::<Vec<_>>();
            for (i, query) in queries.chunks(dim).enumerate() {
                let (scores, row) = (scores(query), i * found.k..(i + 1) * found.k);
                let expected = &sorted(&scores)[..found.k];
                let same = found.index[row.clone()].iter().zip(expected).all(|(&a, &b)| a as usize == b)
                    && found.score[row].iter().zip(expected).all(|(&s, &c)| f64::from(s) == scores[c]);
                check(same, format!("query {i} of {n} x {m}"))?;
            }
        }
    }
    for (images, k) in [(&[1.0f32; 4][..], 0), (&[], 1), (&[1.0; 3], 1)] {
        check(Candidates::top(device, (images, 2), (&[1.0; 4], 2), k).is_err(), "refused")?;
    }
    Ok(())
}

/// Similarities in many strips and candidates in several parts give the same result as all at once.
fn strips(device: &Device) -> Outcome {
    let (n, dim) = (331, 40);
    let limited = wgoal::device::Adapters::find().open(&device.info().index.to_string())?;
    if let Some(gpu) = limited.adapter() {
        gpu.limit_bindings(40 << 10);
    }
    let mut random = Random::new(5);
    let (images, texts) = (coarse(&mut random, n * dim), coarse(&mut random, n * dim));
    let top = |device: &Device| Candidates::top(device, (&images, dim), (&texts, dim), 9);
    check(top(device)? == top(&limited)?, "candidates")?;
    let options = NegativeOptions::default().with(|c| c.temperature = 2.0);
    let drawn = |device: &Device| hard_negatives(device, (&images, dim), (&texts, dim), options);
    check(drawn(device)? == drawn(&limited)?, "negatives")
}

/// Ranks in the whole matrix of scores, with −100 where there is no candidate.
fn plain_ranks(top: &TopK, others: usize, right: impl Fn(usize, usize) -> bool) -> Vec<usize> {
    let queries = top.index.chunks(top.k).zip(top.score.chunks(top.k));
    let rank = |(query, (index, score)): (usize, (&[u32], &[f32]))| {
        let mut scores = vec![-100.0; others];
        index.iter().zip(score).for_each(|(&c, &s)| scores[c as usize] = f64::from(s));
        sorted(&scores).iter().position(|&c| right(query, c)).unwrap()
    };
    queries.enumerate().map(rank).collect()
}

fn reranked(_: &Device) -> Outcome {
    let mut random = Random::new(8);
    for (n, k) in [(1, 1), (13, 4), (40, 7), (25, 25)] {
        let text_image: Vec<u32> = (0..2 * n + 1).map(|t| (t % n) as u32).collect();
        let m = text_image.len();
        let mut choose = |queries: usize, others: usize| {
            let k = k.min(others);
            let mut top = TopK { k, ..TopK::default() };
            for _ in 0..queries {
                let mut order: Vec<u32> = (0..others as u32).collect();
                (0..k).for_each(|i| order.swap(i, i + random.below(others - i)));
                top.index.extend(&order[..k]);
                // Scores with ties among candidates, ties with −100, and scores below −100.
                top.score.extend((0..k).map(|_| [-101.0, -100.0, 0.0, 0.5, 1.0, 7.0][random.below(6)]));
            }
            top
        };
        let candidates = Candidates { texts: choose(n, m), images: choose(m, n) };
        let found = Recall::of_candidates(&candidates, n, &text_image)?;
        let i2t = plain_ranks(&candidates.texts, m, |image, text| text_image[text] as usize == image);
        let t2i = plain_ranks(&candidates.images, n, |text, image| text_image[text] as usize == image);
        for (found, ranks) in [(found.i2t, i2t), (found.t2i, t2i)] {
            let share = |k| 100.0 * ranks.iter().filter(|&&r| r < k).count() as f64 / ranks.len() as f64;
            let mean = ranks.iter().sum::<usize>() as f64 / ranks.len() as f64 + 1.0;
            let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
            let same = near(found.r1, share(1)) && near(found.r5, share(5)) && near(found.r10, share(10));
            check(same && near(found.meanr, mean), format!("{n} {k}: {found:?}, {mean}"))?;
        }
        let short = Candidates { texts: TopK::default(), ..candidates.clone() };
        check(Recall::of_candidates(&short, n, &text_image).is_err(), "candidates of nothing")?;
        check(n < 2 || Recall::of_candidates(&candidates, n - 1, &text_image).is_err(), "another split")?;
    }
    Ok(())
}

/// Scored by the cosines themselves, all candidates keep their ranks. With fewer candidates, the ones outside are lost.
fn by_cosine(device: &Device) -> Outcome {
    let (n, dim) = (45, 6);
    let mut random = Random::new(21);
    let (images, texts) = (coarse(&mut random, n * dim), coarse(&mut random, 3 * n * dim));
    let text_image: Vec<u32> = (0..3 * n as u32).map(|t| t / 3).collect();
    let whole = Recall::of(device, &images, &texts, dim, &text_image)?;
    let all = Candidates::top(device, (&images, dim), (&texts, dim), 3 * n)?;
    check(Recall::of_candidates(&all, n, &text_image)? == whole, "all candidates")?;
    let ten =
        Recall::of_candidates(&Candidates::top(device, (&images, dim), (&texts, dim), 10)?, n, &text_image)?;
    check(
        (ten.rsum, ten.i2t.r10) == (whole.rsum, whole.i2t.r10),
        "recall at 10 and below is that of the top 10",
    )
}

pub fn tests(suite: &mut Suite) {
    suite.each("negatives", negatives);
    suite.each("top", top);
    suite.each("strips", strips);
    suite.each("reranked", reranked);
    suite.each("by_cosine", by_cosine);
}
