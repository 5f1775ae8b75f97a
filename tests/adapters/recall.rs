//! Compares recall with a slow and plain implementation of docs/math.md, "Evaluation", on every device.

use crate::common::random::Random;
use crate::common::{Outcome, Suite, check};
use wgoal::eval::{Evaluation, Measures, Ranking, Ranks, Truth};
use wgoal::{Device, Recall};

/// The position of the best right candidate in the fully sorted list, sorted by score and then by index.
fn rank(scores: &[f64], right: impl Fn(usize) -> bool) -> usize {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order.iter().position(|&c| right(c)).unwrap()
}

fn ranking(mut ranks: Vec<usize>) -> Ranking {
    let n = ranks.len();
    let percent = |k: usize| 100.0 * ranks.iter().filter(|&&r| r < k).count() as f64 / n as f64;
    let mut out = Ranking::default();
    (out.r1, out.r5, out.r10) = (percent(1), percent(5), percent(10));
    out.meanr = ranks.iter().sum::<usize>() as f64 / n as f64 + 1.0;
    ranks.sort_unstable();
    // The mean of the two middle ranks, rounded down, counted from 1.
    out.medr = ((ranks[(n - 1) / 2] + ranks[n / 2]) / 2 + 1) as f64;
    out
}

fn expected(images: &[f32], texts: &[f32], dim: usize, text_image: &[u32]) -> (Ranking, Ranking) {
    let (n, m) = (images.len() / dim, text_image.len());
    let dot = |i: usize, t: usize| -> f64 {
        (0..dim).map(|k| f64::from(images[i * dim + k]) * f64::from(texts[t * dim + k])).sum()
    };
    let i2t = (0..n).filter(|&i| text_image.contains(&(i as u32))).map(|i| {
        let scores: Vec<f64> = (0..m).map(|t| dot(i, t)).collect();
        rank(&scores, |t| text_image[t] as usize == i)
    });
    let t2i = (0..m).map(|t| {
        let scores: Vec<f64> = (0..n).map(|i| dot(i, t)).collect();
        rank(&scores, |i| text_image[t] as usize == i)
    });
    (ranking(i2t.collect()), ranking(t2i.collect()))
}

fn same(what: &str, found: Ranking, expected: Ranking) -> Outcome {
    let numbers = |r: Ranking| [r.r1, r.r5, r.r10, r.medr, r.meanr];
    let near =
        numbers(found).iter().zip(numbers(expected)).all(|(f, e)| (f - e).abs() <= 1e-9 * e.abs().max(1.0));
    check(near, format!("{what}: {found:?}, expected {expected:?}"))
}

/// Embeddings in multiples of 1/4, so that scores are exact and ties are common. Each image has one to four captions,
/// in random order.
fn made_up(n: usize, dim: usize, seed: u64) -> (Vec<f32>, Vec<f32>, Vec<u32>) {
    let mut random = Random::new(seed);
    let mut coarse =
        |len: usize| (0..len).map(|_| (random.below(9) as f32 - 4.0) / 4.0).collect::<Vec<f32>>();
    let images = coarse(n * dim);
    let mut text_image: Vec<u32> = (0..n as u32).flat_map(|i| vec![i; 1 + i as usize % 4]).collect();
    let m = text_image.len();
    for last in (1..m).rev() {
        text_image.swap(last, Random::new(seed + last as u64).below(last + 1));
    }
    let noise = coarse(m * dim);
    let texts =
        (0..m * dim).map(|k| images[text_image[k / dim] as usize * dim + k % dim] + noise[k]).collect();
    (images, texts, text_image)
}

fn whole(device: &Device) -> Outcome {
    for (n, dim, seed) in [(1, 3, 1), (2, 4, 2), (31, 5, 3), (65, 7, 4), (130, 9, 5)] {
        let (images, texts, text_image) = made_up(n, dim, seed);
        let found = Recall::of(device, &images, &texts, dim, &text_image)?;
        let (i2t, t2i) = expected(&images, &texts, dim, &text_image);
        same("image to text", found.i2t, i2t)?;
        same("text to image", found.t2i, t2i)?;
        let sum = i2t.r1 + i2t.r5 + i2t.r10 + t2i.r1 + t2i.r5 + t2i.r10;
        check((found.rsum - sum).abs() < 1e-9, format!("rsum {} {sum}", found.rsum))?;
    }
    Ok(())
}

fn folds(device: &Device) -> Outcome {
    let (n, dim) = (60, 6);
    let (images, texts, text_image) = made_up(n, dim, 6);
    let found = Recall::folds(device, &images, &texts, dim, &text_image, 3)?;
    let (mut r1, mut medr) = (0.0, 0.0);
    for fold in 0..3 {
        let own: Vec<usize> =
            (0..text_image.len()).filter(|&t| text_image[t] as usize / 20 == fold).collect();
        let texts: Vec<f32> = own.iter().flat_map(|&t| texts[t * dim..(t + 1) * dim].to_vec()).collect();
        let ids: Vec<u32> = own.iter().map(|&t| text_image[t] - 20 * fold as u32).collect();
        let (i2t, t2i) = expected(&images[fold * 20 * dim..(fold + 1) * 20 * dim], &texts, dim, &ids);
        r1 += i2t.r1 / 3.0;
        medr += t2i.medr / 3.0;
    }
    check((found.i2t.r1 - r1).abs() < 1e-9, format!("r1 {} {r1}", found.i2t.r1))?;
    check((found.t2i.medr - medr).abs() < 1e-9, format!("medr {} {medr}", found.t2i.medr))
}

/// Images without a text are candidates for every text, but not queries.
fn distractors(device: &Device) -> Outcome {
    for (n, dim, seed) in [(40, 5, 3), (66, 7, 4)] {
        let (images, texts, text_image) = made_up(n, dim, seed);
        // Every third image loses its texts.
        let kept: Vec<usize> = (0..text_image.len()).filter(|&t| text_image[t] % 3 != 1).collect();
        let texts: Vec<f32> = kept.iter().flat_map(|&t| texts[t * dim..(t + 1) * dim].to_vec()).collect();
        let text_image: Vec<u32> = kept.iter().map(|&t| text_image[t]).collect();
        let (i2t, t2i) = expected(&images, &texts, dim, &text_image);
        let whole = Recall::of(device, &images, &texts, dim, &text_image)?;
        same("image to text", whole.i2t, i2t)?;
        same("text to image", whole.t2i, t2i)?;
        let folds = Recall::folds(device, &images, &texts, dim, &text_image, 2)?;
        check(folds.rsum > whole.rsum, "half of the candidates are easier")?;
        // All candidates, scored by the same similarities, give the same ranks.
        let top = wgoal::rerank::Candidates::top(device, (&images, dim), (&texts, dim), text_image.len())?;
        let again = wgoal::Recall::of_candidates(&top, n, &text_image)?;
        same("image to text, re-ranked", again.i2t, i2t)?;
        same("text to image, re-ranked", again.t2i, t2i)?;
    }
    let alone = Recall::chance(3, &[0, 0]);
    check((alone - (300.0 + 100.0 / 3.0 + 200.0)).abs() < 1e-9, format!("{alone}"))
}

/// The measures of one direction by their definitions, from all scores and what is right.
fn plain_measures(scores: &[Vec<f64>], right: &[Vec<bool>]) -> [f64; 5] {
    let mut sums = [0.0; 5];
    let mut queries = 0.0;
    for (scores, right) in scores.iter().zip(right) {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        let hits: Vec<bool> = order.iter().map(|&c| right[c]).collect();
        let all = hits.iter().filter(|hit| **hit).count();
        let Some(first) = hits.iter().position(|hit| *hit) else { continue };
        queries += 1.0;
        let found = |k: usize| hits[..k].iter().filter(|hit| **hit).count() as f64;
        let precisions = (1..=all).filter(|&k| hits[k - 1]).map(|k| found(k) / k as f64);
        let gain = |place: usize| 1.0 / ((place + 1) as f64).log2();
        let gained: f64 = (1..=hits.len()).filter(|&k| hits[k - 1]).map(gain).sum();
        let ideal: f64 = (1..=all).map(gain).sum();
        let of_query = [
            precisions.sum::<f64>() / all as f64,
            found(all) / all as f64,
            1.0 / (first + 1) as f64,
            gained / ideal,
            f64::from(first < 3),
        ];
        sums.iter_mut().zip(of_query).for_each(|(sum, one)| *sum += 100.0 * one);
    }
    sums.map(|sum| sum / queries)
}

/// All measures against their definitions, with several right candidates in both directions, ties, images without a
/// text and texts without an image.
fn measures(device: &Device) -> Outcome {
    for (n, dim, seed) in [(2, 3, 1), (31, 4, 2), (66, 5, 3), (130, 7, 4)] {
        let (images, texts, text_image) = made_up(n, dim, seed);
        let m = text_image.len();
        let mut random = Random::new(seed + 9);
        let own = text_image.iter().zip(0..).filter(|(image, text)| *image % 5 != 1 && text % 7 != 3);
        let mut pairs: Vec<[u32; 2]> = own.map(|(&image, text)| [image, text]).collect();
        pairs.extend((0..2 * n).map(|_| [random.below(n) as u32, random.below(m) as u32]));
        let truth = Truth::of_pairs(n, m, &pairs)?;
        let dot = |i: usize, t: usize| -> f64 {
            (0..dim).map(|k| f64::from(images[i * dim + k]) * f64::from(texts[t * dim + k])).sum()
        };
        let scores: Vec<Vec<f64>> = (0..n).map(|i| (0..m).map(|t| dot(i, t)).collect()).collect();
        let right: Vec<Vec<bool>> =
            (0..n).map(|i| (0..m).map(|t| pairs.contains(&[i as u32, t as u32])).collect()).collect();
        let turned: Vec<Vec<f64>> = (0..m).map(|t| scores.iter().map(|row| row[t]).collect()).collect();
        let right_images: Vec<Vec<bool>> = (0..m).map(|t| right.iter().map(|row| row[t]).collect()).collect();
        let found = Evaluation::folds(device, &images, &texts, dim, &truth, 1, &[3, 4 * n])?;
        for (name, found, expected) in [
            ("i2t", &found.i2t, plain_measures(&scores, &right)),
            ("t2i", &found.t2i, plain_measures(&turned, &right_images)),
        ] {
            let Measures { recall_at, map_at_r, r_precision, mrr, ndcg, .. } = found;
            let numbers = [*map_at_r, *r_precision, *mrr, *ndcg, recall_at[0].1];
            let near = numbers.iter().zip(expected).all(|(f, e)| (f - e).abs() <= 1e-9 * e);
            check(near, format!("{name} {n}: {numbers:?}, expected {expected:?}"))?;
            check(recall_at[1] == (4 * n, 100.0), "more than there are")?;
        }
        // The ranks of one query, and those of scored candidates.
        let ranks = Ranks::of(device, &images, &texts, dim, &truth)?;
        for (text, rank) in ranks.texts_of(0) {
            let s = scores[0][text as usize];
            let before = (0..m).filter(|&t| scores[0][t] > s || (scores[0][t] == s && t < text as usize));
            check(
                right[0][text as usize] && before.count() == rank as usize,
                format!("text {text}: {rank}"),
            )?;
        }
        let top = wgoal::rerank::Candidates::top(device, (&images, dim), (&texts, dim), m)?;
        check(Ranks::of_candidates(&top, &truth)? == ranks, "all candidates, scored as they were")?;
    }
    Ok(())
}

/// The mean over folds, each with the texts of its own images and the pairs within it.
fn folds_of_pairs(device: &Device) -> Outcome {
    let (n, dim) = (40, 5);
    let (images, texts, text_image) = made_up(n, dim, 8);
    let mut random = Random::new(3);
    let more: Vec<[u32; 2]> =
        (0..60).map(|_| [random.below(n) as u32, random.below(text_image.len()) as u32]).collect();
    let truth = Truth::of_images(n, &text_image)?.with_pairs(&more)?;
    let found = Evaluation::folds(device, &images, &texts, dim, &truth, 2, &[2])?;
    let mut expected = [0.0; 2];
    for fold in 0..2 {
        let inside = |image: u32| image as usize / 20 == fold;
        let own: Vec<usize> = (0..text_image.len()).filter(|&t| inside(text_image[t])).collect();
        let mut pairs: Vec<[u32; 2]> = (0..).zip(&own).map(|(at, &t)| [text_image[t], at]).collect();
        for [image, text] in &more {
            let at = own.iter().position(|t| t == &(*text as usize));
            pairs.extend(at.filter(|_| inside(*image)).map(|at| [*image, at as u32]));
        }
        pairs.iter_mut().for_each(|pair| pair[0] -= 20 * fold as u32);
        let texts: Vec<f32> = own.iter().flat_map(|&t| texts[t * dim..(t + 1) * dim].to_vec()).collect();
        let truth = Truth::of_pairs(20, own.len(), &pairs)?;
        let images = &images[fold * 20 * dim..(fold + 1) * 20 * dim];
        let part = Evaluation::of(&Ranks::of(device, images, &texts, dim, &truth)?, &[2]);
        expected[0] += part.i2t.map_at_r / 2.0;
        expected[1] += part.t2i.recall_at[0].1 / 2.0;
    }
    let found = [found.i2t.map_at_r, found.t2i.recall_at[0].1];
    let near = found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-9);
    check(near, format!("{found:?}, expected {expected:?}"))
}

/// A collapsed model, whose embeddings are all equal, must look like chance, not like a perfect model.
fn collapsed(device: &Device) -> Outcome {
    let (n, dim) = (50, 3);
    let ids: Vec<u32> = (0..n as u32).collect();
    let found = Recall::of(device, &vec![0.5; n * dim], &vec![0.5; n * dim], dim, &ids)?;
    check(found.i2t.r1 == 2.0 && found.t2i.r10 == 20.0 && found.i2t.meanr == 25.5, format!("{found:?}"))
}

/// Wrong arguments give errors, on every device.
fn arguments(device: &Device) -> Outcome {
    let of = |images: &[f32], texts: &[f32], dim, ids: &[u32], folds| {
        Recall::folds(device, images, texts, dim, ids, folds).map(|_| ()).map_err(|e| e.to_string())
    };
    for (found, part) in [
        (of(&[], &[], 2, &[], 1), "expected rows of width 2"),
        (of(&[1.0; 4], &[1.0; 3], 2, &[0, 1], 1), "4 image values, 3 text values, 2 numbers"),
        (of(&[1.0; 4], &[1.0; 4], 2, &[0, 2], 1), "image of text 1: expected below 2, found 2"),
        (of(&[1.0; 4], &[], 2, &[], 1), "expected a text, found none"),
        (
            of(&[1.0; 4], &[1.0; 4], 2, &[0, 0], 2),
            "--folds: expected a text in every fold, found none for images 1 to 1",
        ),
        (of(&[1.0; 4], &[1.0; 4], 2, &[0, 1], 3), "--folds: expected a divisor of the 2 images, found 3"),
        (of(&[1.0; 4], &[1.0; 4], 0, &[0, 1], 1), "expected rows of width 0"),
    ] {
        let message = found.err().unwrap_or_default();
        check(message.contains(part), format!("`{message}` should say `{part}`"))?;
    }
    Ok(())
}

/// With random scores, one of c captions is among the first k of m with the probability that counting all orders gives.
fn chance(_: &Device) -> Outcome {
    // Image 0 has two of four texts, so it ranks first with probability 1/2; the others with 1/4. The image of a text
    // is first of three. The other values are certain.
    let expected = 100.0 * ((0.5 + 0.25 + 0.25) / 3.0 + 1.0 / 3.0 + 4.0);
    let found = Recall::chance(3, &[0, 0, 1, 2]);
    check((found - expected).abs() < 1e-9, format!("{found}, expected {expected}"))?;
    let large = Recall::chance(1000, &(0..1000).collect::<Vec<u32>>());
    check((large - 3.2).abs() < 1e-9, format!("{large}"))
}

pub fn tests(suite: &mut Suite) {
    suite.each("whole", whole);
    suite.each("folds", folds);
    suite.each("distractors", distractors);
    suite.each("measures", measures);
    suite.each("folds_of_pairs", folds_of_pairs);
    suite.each("collapsed", collapsed);
    suite.each("arguments", arguments);
    suite.each("chance", chance);
}
