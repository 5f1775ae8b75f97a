//! Recall@K in both directions (docs/math.md, "Evaluation").
//!
//! Similarities come in strips of queries that fit a binding; ranks are counted on the device. Among equal similarities
//! the lower index comes first, so a collapsed model does not look perfect.

use crate::device::{Buffer, Device};
use crate::kernels::{RankBlock, ranks};
use crate::similarity::Strips;
use crate::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;

/// Retrieval in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Ranking {
    /// Percentage of queries with a right candidate first.
    pub r1: f64,
    /// ... among the first five.
    pub r5: f64,
    /// ... among the first ten.
    pub r10: f64,
    /// Median rank of the best right candidate, 1 is first.
    pub medr: f64,
    /// Mean rank of the best right candidate.
    pub meanr: f64,
}

/// Retrieval in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Recall {
    /// Image to text: the best of an image's captions counts.
    pub i2t: Ranking,
    /// Text to image.
    pub t2i: Ranking,
    /// Sum of the six recalls, at most 600.
    pub rsum: f64,
}

impl Ranking {
    /// From the 0-based ranks of all queries.
    pub(crate) fn of(ranks: &[u32]) -> Self {
        let n = ranks.len() as f64;
        let within = |k: u32| 100.0 * ranks.iter().filter(|&&rank| rank < k).count() as f64 / n;
        let mut sorted = ranks.to_vec();
        sorted.sort_unstable();
        let middle = |i: usize| f64::from(sorted.get(i).copied().unwrap_or(0));
        let median = (middle((sorted.len().saturating_sub(1)) / 2) + middle(sorted.len() / 2)) / 2.0;
        let mean = ranks.iter().map(|&rank| f64::from(rank)).sum::<f64>() / n;
        Self { r1: within(1), r5: within(5), r10: within(10), medr: median.floor() + 1.0, meanr: mean + 1.0 }
    }

    fn sum(&self) -> f64 {
        self.r1 + self.r5 + self.r10
    }

    /// Mean of several, field by field.
    fn mean(of: &[Self]) -> Self {
        let mean = |field: fn(&Self) -> f64| of.iter().map(field).sum::<f64>() / of.len() as f64;
        Self {
            r1: mean(|r| r.r1),
            r5: mean(|r| r.r5),
            r10: mean(|r| r.r10),
            medr: mean(|r| r.medr),
            meanr: mean(|r| r.meanr),
        }
    }
}

impl Recall {
    /// [`Recall::of`] without waiting.
    ///
    /// # Errors
    /// Those of [`Recall::of`].
    pub async fn of_async(
        device: &Device,
        images: &[f32],
        texts: &[f32],
        dim: usize,
        text_image: &[u32],
    ) -> Result<Self> {
        Self::folds_async(device, images, texts, dim, text_image, 1).await
    }

    /// [`Recall::folds`] without waiting.
    ///
    /// # Errors
    /// Those of [`Recall::folds`].
    pub async fn folds_async(
        device: &Device,
        images: &[f32],
        texts: &[f32],
        dim: usize,
        text_image: &[u32],
        folds: usize,
    ) -> Result<Self> {
        let n = images.len() / dim.max(1);
        check_shapes(images, texts, dim, text_image, folds)?;
        // No comparison with a NaN is true, so a diverged head would rank first everywhere.
        if let Some(bad) = images.iter().chain(texts).find(|x| !x.is_finite()) {
            let advice = "the head has diverged: train with a lower --lr";
            return Err(Error::new(ErrorKind::Diverged, "recall", "finite embeddings", bad, advice));
        }
        let size = n / folds;
        let mut results = Vec::new();
        for first in (0..n).step_by(size) {
            let fold = first as u32..(first + size) as u32;
            let image_ids: Vec<u32> = fold.clone().collect();
            let text_ids: Vec<u32> =
                text_image.iter().copied().filter(|image| fold.contains(image)).collect();
            let images = &images[first * dim..(first + size) * dim];
            let texts = match folds {
                1 => Cow::Borrowed(texts),
                _ => {
                    let rows = texts.chunks_exact(dim).zip(text_image);
                    rows.filter(|(_, image)| fold.contains(image)).flat_map(|(row, _)| row).copied().collect()
                }
            };
            if text_ids.is_empty() {
                let found = format!("none for images {} to {}", first, first + size - 1);
                let advice = "choose another number of folds";
                return Err(Error::config("--folds", "a text in every fold", found, advice));
            }
            // Images without a text are candidates of the texts, but not queries.
            let captioned: Vec<u32> =
                captioned(n, &text_ids).into_iter().filter(|id| fold.contains(id)).collect();
            let queries = match captioned.len() == size {
                true => Cow::Borrowed(images),
                false => {
                    let row = |&id: &u32| &images[(id as usize - first) * dim..][..dim];
                    captioned.iter().flat_map(row).copied().collect()
                }
            };
            let i2t = rank(device, (&queries, &captioned), (&texts, &text_ids), dim).await?;
            let t2i = rank(device, (&texts, &text_ids), (images, &image_ids), dim).await?;
            results.push((Ranking::of(&i2t), Ranking::of(&t2i)));
        }
        let (i2t, t2i): (Vec<_>, Vec<_>) = results.into_iter().unzip();
        let (i2t, t2i) = (Ranking::mean(&i2t), Ranking::mean(&t2i));
        Ok(Self::from_rankings(i2t, t2i))
    }
}

impl Recall {
    pub(crate) fn from_rankings(i2t: Ranking, t2i: Ranking) -> Self {
        Self { i2t, t2i, rsum: i2t.sum() + t2i.sum() }
    }

    /// The expected rsum of random embeddings on a split of this shape. `text_image` is the position of each text's image among
    /// `images`.
    pub fn chance(images: usize, text_image: &[u32]) -> f64 {
        let (n, m) = (images as f64, text_image.len() as f64);
        let mut captions = vec![0u32; images];
        for &image in text_image.iter().filter(|&&image| (image as usize) < images) {
            captions[image as usize] += 1;
        }
        // Images without a text are not queries.
        let queries = captions.iter().filter(|&&c| c > 0).count() as f64;
        // The probability that none of c right candidates is among the first k of m.
        let miss = |c: u32, k: u32| {
            (0..c).map(|i| ((m - f64::from(k + i)) / (m - f64::from(i))).max(0.0)).product::<f64>()
        };
        let i2t = |k: u32| 100.0 * captions.iter().map(|&c| 1.0 - miss(c, k)).sum::<f64>() / queries.max(1.0);
        let t2i = |k: u32| 100.0 * (f64::from(k) / n.max(1.0)).min(1.0);
        [1, 5, 10].map(|k| i2t(k) + t2i(k)).iter().sum()
    }
}

impl Recall {
    /// Whether it is near what chance reaches. On splits so small that chance reaches most of 600, the answer is always no.
    pub fn is_at_chance(&self, chance: f64) -> bool {
        chance < 400.0 && self.rsum <= chance + chance.min(0.15 * (600.0 - chance))
    }
}

/// Numbers of the images, of `n`, that have a text, ascending.
pub(crate) fn captioned(n: usize, text_image: &[u32]) -> Vec<u32> {
    let mut has = vec![false; n];
    text_image.iter().for_each(|&image| has[image as usize] = true);
    (0..).zip(has).filter(|(_, has)| *has).map(|(image, _)| image).collect()
}

/// 0-based ranks of the best right candidate of every query; both come as (rows, ids).
async fn rank(
    device: &Device,
    (queries, query_ids): (&[f32], &[u32]),
    (candidates, candidate_ids): (&[f32], &[u32]),
    dim: usize,
) -> Result<Vec<u32>> {
    let n = query_ids.len();
    let query_ids = Buffer::from_slice(device, "eval.query_ids", query_ids)?;
    let candidate_ids = Buffer::from_slice(device, "eval.candidate_ids", candidate_ids)?;
    let mut out = Buffer::new(device, "eval.ranks", n)?;
    let mut strips = Strips::new(device, queries, candidates, dim)?;
    let mut commands = device.commands();
    for strip in strips.ranges() {
        let similarity = strips.compute(&mut commands, &strip)?;
        let block = RankBlock {
            query_ids: query_ids.view(),
            candidate_ids: candidate_ids.view(),
            query_offset: strip.start,
        };
        ranks(&mut commands, similarity, block, out.view_mut())?;
    }
    commands.submit()?;
    out.read(device, 0..n).await
}

fn check_shapes(images: &[f32], texts: &[f32], dim: usize, text_image: &[u32], folds: usize) -> Result<()> {
    let n = images.len().checked_div(dim).unwrap_or(0);
    if n == 0 || images.len() != n * dim || texts.len() != text_image.len() * dim {
        let expected = format!("rows of width {dim}, and one image number a text");
        let found = format!(
            "{} image values, {} text values, {} numbers",
            images.len(),
            texts.len(),
            text_image.len()
        );
        return Err(Error::config("recall", expected, found, "give matrices of unit embeddings"));
    }
    if folds == 0 || !n.is_multiple_of(folds) {
        let expected = format!("a divisor of the {n} images");
        return Err(Error::config("--folds", expected, folds, "choose another number of folds"));
    }
    check_truth(n, text_image)
}

/// Every text belongs to one of `n` images.
pub(crate) fn check_truth(n: usize, text_image: &[u32]) -> Result<()> {
    if text_image.is_empty() {
        return Err(Error::config("recall", "a text", "none", "give the texts of the images"));
    }
    match text_image.iter().position(|&image| image as usize >= n) {
        Some(text) => {
            let (thing, found) = (format!("image of text {text}"), text_image[text]);
            Err(Error::config(thing, format!("below {n}"), found, "number the images from 0"))
        }
        None => Ok(()),
    }
}

impl fmt::Display for Recall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "                 R@1    R@5   R@10   medr   meanr")?;
        for (name, r) in [("image to text", self.i2t), ("text to image", self.t2i)] {
            writeln!(f, "{name}  {:6.1} {:6.1} {:6.1} {:6.0} {:7.1}", r.r1, r.r5, r.r10, r.medr, r.meanr)?;
        }
        write!(f, "rsum {:.1} of 600", self.rsum)
    }
}

#[cfg(feature = "native")]
impl Recall {
    /// From unit embeddings: `images [n, dim]`, `texts [m, dim]` row-major, and for each text the row of its image.
    /// An image may have any number of texts. An image without a text is a candidate of all texts, but not a query.
    ///
    /// # Errors
    /// Shapes that disagree, no text, a failing device.
    pub fn of(
        device: &Device,
        images: &[f32],
        texts: &[f32],
        dim: usize,
        text_image: &[u32],
    ) -> Result<Self> {
        device.wait(Self::of_async(device, images, texts, dim, text_image))
    }

    /// The mean over `folds` disjoint chunks of consecutive images, each with its own texts (COCO 1K: five).
    ///
    /// # Errors
    /// As [`Recall::of`], a number of folds that does not divide the images, a fold without a text.
    pub fn folds(
        device: &Device,
        images: &[f32],
        texts: &[f32],
        dim: usize,
        text_image: &[u32],
        folds: usize,
    ) -> Result<Self> {
        device.wait(Self::folds_async(device, images, texts, dim, text_image, folds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_the_mean_of_the_middle_two_rounded_down() {
        let found = Ranking::of(&[12, 0, 3, 0]);
        let expected = Ranking { r1: 50.0, r5: 75.0, r10: 75.0, medr: 2.0, meanr: 4.75 };
        assert_eq!(found, expected);
    }
}
