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

/// The number of weights to choose from: 0, 1/10, ... 2.
const WEIGHTS: usize = 21;

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

/// The weight of this number.
fn weight(number: usize) -> f32 {
    number as f32 / 10.0
}

/// The rsum of both directions with this number of the weight of the hubness of images and of texts.
fn rsum([to_images, to_texts]: [&Direction; 2], [images, texts]: [&[f64]; 2], number: usize) -> f64 {
    let weight = weight(number).into();
    to_images.sum(images, weight) + to_texts.sum(texts, weight)
}

/// The place of the best rsum. On ties the first.
fn best(rsums: &[f64]) -> usize {
    (1..rsums.len()).fold(0, |best, at| if rsums[at] > rsums[best] { at } else { best })
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
    // Processes divide the weights of all kinds.
    let both = [&to_images, &to_texts];
    let one = |at: usize| rsum(both, [&of_images[at / WEIGHTS], &of_texts[at / WEIGHTS]], at % WEIGHTS);
    let own = device.share(kinds.len() * WEIGHTS).map(one).collect();
    let best = best(&device.join("weights of the correction", Ok(own))?);
    // The weight 0 is the same for all kinds, so it can only be the first.
    Ok((best > 0).then(|| (kinds[best / WEIGHTS], weight(best % WEIGHTS))))
}

/// `[images, texts]`, row-major. Processes divide the images.
fn similarities(device: &Device, images: &[f32], texts: &[f32], dim: usize) -> Result<Vec<f32>> {
    device.join("similarities", similarities_own(device, images, texts, dim))
}

/// [`similarities`] of the images that this process compares.
fn similarities_own(device: &Device, images: &[f32], texts: &[f32], dim: usize) -> Result<Vec<f32>> {
    let mut strips = Strips::divided(device, images, texts, dim)?;
    let mut found = Vec::new();
    for strip in strips.own() {
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
        let best = |hubness: [&[f64]; 2]| {
            let rsums: Vec<f64> = (0..WEIGHTS).map(|at| rsum([&back, &direction], hubness, at)).collect();
            let best = best(&rsums);
            (rsums[best], weight(best))
        };
        assert_eq!(best([&none, &hubness]), (600.0, 0.3));
        assert_eq!(best([&none, &none]), (550.0, 0.0));
        // One weight serves both directions. Here image 0 loses its own text from a weight of 0.2 on.
        assert_eq!(best([&[1.0, 0.0], &hubness]), (550.0, 0.0));
    }
}
