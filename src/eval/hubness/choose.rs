//! The kind and the weight that are best on validation.
//!
//! The similarities are computed once. Every kind and weight only counts ranks in them, on the CPU.

use super::{Hubness, HubnessCorrection, measure};
use crate::Result;
use crate::device::Device;
use crate::eval::Truth;
use crate::eval::truth::Lists;
use crate::model::Side;
use crate::similarity::Strips;
use rayon::prelude::*;

/// The weights to choose from: 0, 1/10, ... up to this number of tenths.
const TENTHS: u32 = 20;

/// The similarities of the queries of one direction.
struct Direction<'a> {
    /// `[queries, candidates]`, row-major.
    similarities: Vec<f32>,
    candidates: usize,
    right: &'a Lists,
}

impl Direction<'_> {
    /// Recall at 1, 5 and 10, added up, if each candidate has this hubness, times a weight. The hubness of a query
    /// changes nothing in its own ranking.
    fn sum(&self, hubness: &[f64], weight: f64) -> f64 {
        let penalties: Vec<f32> = hubness.iter().map(|hubness| (weight * hubness) as f32).collect();
        let rank = |(query, row): (usize, &[f32])| {
            let score = |candidate: usize| row[candidate] - penalties[candidate];
            let better = |a: usize, b: usize| score(a) > score(b) || (score(a) == score(b) && a < b);
            let right = self.right.right(query).iter().map(|&right| right as usize);
            let best = right.reduce(|best, other| if better(other, best) { other } else { best })?;
            Some((0..self.candidates).filter(|&candidate| better(candidate, best)).count())
        };
        let rows = self.similarities.par_chunks_exact(self.candidates).enumerate();
        let ranks: Vec<usize> = rows.filter_map(rank).collect();
        let hits = |k: usize| ranks.iter().filter(|&&rank| rank < k).count() as f64;
        100.0 * (hits(1) + hits(5) + hits(10)) / ranks.len().max(1) as f64
    }
}

/// The best weight of both sides and the rsum that it reaches. On ties the smallest.
fn best([to_images, to_texts]: [&Direction; 2], [images, texts]: [&[f64]; 2]) -> (f64, f32) {
    let rsum = |weight: f64| to_images.sum(images, weight) + to_texts.sum(texts, weight);
    let mut best = (rsum(0.0), 0.0);
    for weight in (1..=TENTHS).map(|tenths| tenths as f32 / 10.0) {
        let rsum = rsum(weight.into());
        if rsum > best.0 {
            best = (rsum, weight);
        }
    }
    best
}

/// The kind and the weight of both sides with the best rsum. `None` if none is better than no correction. `images` and
/// `texts` are unit embeddings.
pub(super) fn choose(
    device: &Device,
    [images, texts]: [&[f32]; 2],
    truth: &Truth,
    bank: &HubnessCorrection,
    kinds: &[Hubness],
) -> Result<Option<(Hubness, f32)>> {
    let dim = bank.dim;
    let of_images = measure(device, images, bank.bank(Side::Text), dim, kinds)?;
    let of_texts = measure(device, texts, bank.bank(Side::Image), dim, kinds)?;
    let rows = similarities(device, images, texts, dim)?;
    let (n, m) = (truth.images(), truth.texts());
    let columns = (0..m).flat_map(|j| (0..n).map(move |i| (i, j))).map(|(i, j)| rows[i * m + j]).collect();
    let to_images = Direction { similarities: columns, candidates: n, right: &truth.images };
    let to_texts = Direction { similarities: rows, candidates: m, right: &truth.texts };
    let mut best = None;
    let mut most = to_images.sum(&of_images[0], 0.0) + to_texts.sum(&of_texts[0], 0.0);
    for ((&kind, of_images), of_texts) in kinds.iter().zip(&of_images).zip(&of_texts) {
        let (rsum, weight) = self::best([&to_images, &to_texts], [of_images, of_texts]);
        if rsum > most {
            most = rsum;
            best = Some((kind, weight));
        }
    }
    Ok(best)
}

/// `[images, texts]`, row-major.
fn similarities(device: &Device, images: &[f32], texts: &[f32], dim: usize) -> Result<Vec<f32>> {
    let mut strips = Strips::new(device, images, texts, dim)?;
    let mut found = Vec::with_capacity(images.len() / dim * (texts.len() / dim));
    for strip in strips.ranges() {
        found.extend(device.wait(strips.read(&strip))?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_loses_by_its_weight() {
        // Text 0 is similar to both images, and right for the first.
        let truth = Truth::of_images(2, &[0, 1]).unwrap();
        let similarities = vec![0.9, 0.1, 0.7, 0.6];
        let direction = Direction { similarities, candidates: 2, right: &truth.texts };
        let hubness = [0.8, 0.35];
        assert_eq!(direction.sum(&hubness, 0.0), 250.0);
        // Text 0 loses 0.45 w more than text 1. That is enough for w above 2/9. Too much weight turns the first image.
        assert_eq!((direction.sum(&hubness, 0.3), direction.sum(&hubness, 2.0)), (300.0, 250.0));
        let back = Direction { similarities: vec![0.9, 0.7, 0.1, 0.6], candidates: 2, right: &truth.images };
        let none = [0.5, 0.5];
        assert_eq!(back.sum(&none, 0.0), 300.0);
        assert_eq!(best([&back, &direction], [&none, &hubness]), (600.0, 0.3));
        assert_eq!(best([&back, &direction], [&none, &none]), (550.0, 0.0));
        // One weight serves both directions. Here image 0 loses its own text from a weight of 0.2 on.
        assert_eq!(best([&back, &direction], [&[1.0, 0.0], &hubness]), (550.0, 0.0));
    }
}
