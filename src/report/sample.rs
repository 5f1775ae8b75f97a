//! Similarities of a sample of validation pairs at some epochs of a run.

use crate::data::{Dataset, RowList, Side, Split};
use crate::device::Device;
use crate::math::{dot, vectorized};
use crate::model::Head;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Most pairs of a sample.
const PAIRS: usize = 256;

/// The similarities of sampled validation pairs, and of their hardest negatives within the sample.
///
/// The pairs are spread evenly over the validation captions, so every sample of a run has the same pairs. Captions of
/// the same image are not negatives of each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Sample {
    /// Epochs that the head was trained for.
    pub epoch: usize,
    /// Similarity of each pair.
    pub positive: Vec<f32>,
    /// Similarity of each pair's image to its hardest other caption.
    pub hardest_text: Vec<f32>,
    /// Similarity of each pair's caption to its hardest other image.
    pub hardest_image: Vec<f32>,
}

impl Sample {
    /// Whether a run takes a sample after this number of epochs: 0, 1, 2, 3, 4, 6, 8, 12, 16, 24, and so on. The last
    /// epoch of a run has a sample as well.
    ///
    /// The numbers do not depend on the length of the run, so a run that is continued has the samples of one run.
    pub fn is_due(epoch: usize) -> bool {
        epoch == 0 || epoch.is_power_of_two() || (epoch.is_multiple_of(3) && (epoch / 3).is_power_of_two())
    }

    /// The sample of a head.
    ///
    /// # Errors
    /// A bad value in a row, a failing device.
    pub fn of(device: &Device, dataset: &Dataset, head: &Head, epoch: usize) -> Result<Self> {
        let split = dataset.split(Split::Val);
        let captions = split.texts.len();
        let count = captions.min(PAIRS);
        let chosen: Vec<usize> = (0..count).map(|k| k * captions / count.max(1)).collect();
        let texts = chosen.iter().map(|&text| split.texts.at(text)).collect();
        // Captions of one image share its row.
        let mut positions: Vec<u64> = chosen.iter().map(|&text| split.text_image.at(text)).collect();
        let of: Vec<u64> = positions.clone();
        positions.sort_unstable();
        positions.dedup();
        let images: RowList = positions.iter().map(|&at| split.images.at(at as usize)).collect();
        let of: Vec<usize> = of.iter().map(|at| positions.partition_point(|x| x < at)).collect();
        let (x, y) = (
            head.embed(device, dataset, Side::Image, &images)?,
            head.embed(device, dataset, Side::Text, &texts)?,
        );
        if let Some(bad) = x.iter().chain(&y).find(|x| !x.is_finite()) {
            let advice = "the head has diverged: train with a lower --lr";
            return Err(Error::new(crate::ErrorKind::Diverged, "report", "finite embeddings", bad, advice));
        }
        Ok(Self::of_embeddings(epoch, (&x, images.len()), &y, &of, head.dim()))
    }

    fn of_embeddings(
        epoch: usize,
        (x, images): (&[f32], usize),
        y: &[f32],
        of: &[usize],
        dim: usize,
    ) -> Self {
        let row = |rows: &'_ [f32], k: usize| -> std::ops::Range<usize> {
            debug_assert!((k + 1) * dim <= rows.len());
            k * dim..(k + 1) * dim
        };
        let mut sample =
            Self { epoch, positive: Vec::new(), hardest_text: Vec::new(), hardest_image: Vec::new() };
        if images < 2 {
            return sample;
        }
        let mut hardest_text = vec![f32::NEG_INFINITY; images];
        vectorized(
            #[inline(always)]
            || {
                for (k, &own) in of.iter().enumerate() {
                    let text = &y[row(y, k)];
                    let mut hardest = f32::NEG_INFINITY;
                    for (image, hardest_text) in hardest_text.iter_mut().enumerate() {
                        let s = dot(&x[row(x, image)], text);
                        if image == own {
                            sample.positive.push(rounded(s));
                        } else {
                            hardest = hardest.max(s);
                            *hardest_text = hardest_text.max(s);
                        }
                    }
                    sample.hardest_image.push(rounded(hardest));
                }
            },
        );
        sample.hardest_text = of.iter().map(|&image| rounded(hardest_text[image])).collect();
        sample
    }

    /// The hardest negatives of images and of captions.
    pub fn hardest(&self) -> Vec<f32> {
        [&self.hardest_text[..], &self.hardest_image[..]].concat()
    }

    /// (p, n) of the triplets: two per pair, one with the hardest caption and one with the hardest image.
    pub fn triplets(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        let pairs = self.positive.iter().zip(&self.hardest_text).zip(&self.hardest_image);
        pairs.flat_map(|((&p, &text), &image)| [(p.into(), text.into()), (p.into(), image.into())])
    }
}

/// Four digits are enough for a chart.
fn rounded(x: f32) -> f32 {
    (x * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hardest_negatives_are_of_other_images() {
        // Two images at right angles. Captions 0 and 1 belong to image 0, caption 2 to image 1.
        let (x, y) = ([1.0, 0.0, 0.0, 1.0], [0.6, 0.8, 0.8, 0.6, 0.28, 0.96]);
        let sample = Sample::of_embeddings(3, (&x, 2), &y, &[0, 0, 1], 2);
        assert_eq!((sample.epoch, &sample.positive[..]), (3, &[0.6, 0.8, 0.96][..]));
        assert_eq!(sample.hardest_image, [0.8, 0.6, 0.28]);
        // Image 0 sees caption 2 alone, image 1 sees captions 0 and 1.
        assert_eq!(sample.hardest_text, [0.28, 0.28, 0.8]);
        assert_eq!(sample.triplets().count(), 6);
        // One image has no negatives.
        assert!(Sample::of_embeddings(0, (&[1.0, 0.0], 1), &y[..2], &[0], 2).positive.is_empty());
    }

    #[test]
    fn samples_get_rarer() {
        let due: Vec<_> = (0..=64).filter(|&epoch| Sample::is_due(epoch)).collect();
        assert_eq!(due, [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]);
    }
}
