//! Recall@K in both directions (docs/math.md, "Evaluation").

use super::{Evaluation, Truth};
use crate::device::Device;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
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
    pub(super) fn mean(of: &[Self]) -> Self {
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
        check_shapes(images, texts, dim, text_image)?;
        let truth = Truth::of_images(images.len() / dim, text_image)?;
        Ok(Evaluation::folds_async(device, images, texts, dim, &truth, folds, &[]).await?.recall)
    }
}

impl Recall {
    pub(crate) fn from_rankings(i2t: Ranking, t2i: Ranking) -> Self {
        Self { i2t, t2i, rsum: i2t.sum() + t2i.sum() }
    }

    /// The expected rsum of random embeddings on a split of this shape. `text_image` is the position of each text's image among
    /// `images`.
    pub fn chance(images: usize, text_image: &[u32]) -> f64 {
        Truth::of_images(images, text_image).map_or(0.0, |truth| truth.chance())
    }
}

impl Recall {
    /// Whether it is near what chance reaches. On splits so small that chance reaches most of 600, the answer is always no.
    pub fn is_at_chance(&self, chance: f64) -> bool {
        chance < 400.0 && self.rsum <= chance + chance.min(0.15 * (600.0 - chance))
    }
}

fn check_shapes(images: &[f32], texts: &[f32], dim: usize, text_image: &[u32]) -> Result<()> {
    let n = images.len().checked_div(dim).unwrap_or(0);
    if n > 0 && images.len() == n * dim && texts.len() == text_image.len() * dim {
        return Ok(());
    }
    let expected = format!("rows of width {dim}, and one image number per text");
    let found =
        format!("{} image values, {} text values, {} numbers", images.len(), texts.len(), text_image.len());
    Err(Error::config("recall", expected, found, "give matrices of unit embeddings"))
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
