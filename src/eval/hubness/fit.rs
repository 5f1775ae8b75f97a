//! Chooses a correction for hubs on the validation split.

use super::choose::choose;
use super::{Hubness, HubnessCorrection, widened};
use crate::data::{Dataset, EqualCaptions, RowList, Side, Split};
use crate::device::Device;
use crate::eval::{Correction, Evaluation, Recall, Truth};
use crate::math::{Purpose, random};
use crate::model::Head;
use crate::{Error, Result};
use rand_chacha::rand_core::Rng;

/// The numbers of neighbours of CSLS that validation chooses from.
const NEIGHBOURS: [usize; 4] = [5, 10, 20, 50];

/// The temperatures of the inverted softmax that validation chooses from.
const TEMPERATURES: [f32; 5] = [0.03, 0.05, 0.07, 0.1, 0.15];

/// The most validation images that choose.
const IMAGES: u32 = 1000;

/// Fewer validation images choose the weight alone, because chance would choose the kind.
const FEW: usize = 400;

/// A correction with what it does to validation.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Fitted {
    /// The correction. `None` if no weight above 0 improves validation, or if none was to be fitted.
    pub correction: Option<HubnessCorrection>,
    /// Recall on the validation split without it.
    pub plain: Recall,
    /// Recall on the validation split with it.
    pub corrected: Recall,
}

/// Embeddings of a split and what is right in it.
struct Gallery {
    images: Vec<f32>,
    texts: Vec<f32>,
    truth: Truth,
    dim: usize,
}

impl Gallery {
    fn of(
        device: &Device,
        head: &Head,
        dataset: &Dataset,
        split: Split,
        equal: EqualCaptions,
    ) -> Result<Self> {
        let rows = dataset.split(split);
        Ok(Self {
            images: head.embed(device, dataset, Side::Image, &rows.images)?,
            texts: head.embed(device, dataset, Side::Text, &rows.texts)?,
            truth: Truth::of_split(dataset, split, equal)?,
            dim: head.dim(),
        })
    }

    /// The first images with their texts, if there are more than `images`.
    fn first(&self, images: u32) -> Option<Self> {
        let range = 0..images;
        let texts = self.truth.texts_within(&range);
        let truth = self.truth.within(&range, &texts);
        let fewer = self.truth.images() > images as usize && truth.pairs().next().is_some();
        let row = |&text: &u32| &self.texts[text as usize * self.dim..][..self.dim];
        fewer.then(|| Self {
            images: self.images[..images as usize * self.dim].to_vec(),
            texts: texts.iter().flat_map(row).copied().collect(),
            truth,
            dim: self.dim,
        })
    }

    fn recall(&self, device: &Device) -> Result<Recall> {
        Ok(Evaluation::folds(device, &self.images, &self.texts, self.dim, &self.truth, 1, &[])?.recall)
    }

    /// Recall with these penalties.
    fn corrected(&self, device: &Device, penalties: [&[f32]; 2]) -> Result<Recall> {
        let images = widened(Side::Image, &self.images, self.dim, penalties[0]);
        let texts = widened(Side::Text, &self.texts, self.dim, penalties[1]);
        Ok(Evaluation::folds(device, &images, &texts, self.dim + 2, &self.truth, 1, &[])?.recall)
    }
}

impl HubnessCorrection {
    /// Fits a correction to a head: the bank is at most `bank` training images and captions, sampled with `seed`, and
    /// validation chooses the kind and one weight for both sides by rsum. On ties the first choice wins, and none is before
    /// all others.
    ///
    /// Validation splits of fewer than 400 images choose the weight alone: of the inverted softmax with a temperature of
    /// 0.1, or of CSLS with 10 neighbours. Splits of more than 1,000 images choose with the first 1,000.
    ///
    /// # Errors
    /// A dataset without training or validation rows, those of [`Head::embed`], a failing device.
    pub fn fit(
        device: &Device,
        head: &Head,
        dataset: &Dataset,
        equal: EqualCaptions,
        choice: Correction,
        bank: usize,
        seed: u64,
    ) -> Result<Fitted> {
        [Split::Train, Split::Val].into_iter().try_for_each(|split| dataset.need(split))?;
        if bank == 0 {
            return Err(Error::config("bank", "1 item or more", 0, "give a larger bank"));
        }
        let all = Gallery::of(device, head, dataset, Split::Val, equal)?;
        let plain = all.recall(device)?;
        let kinds = kinds(choice, all.truth.images() < FEW);
        let uncorrected = Fitted { correction: None, plain, corrected: plain };
        if kinds.is_empty() {
            return Ok(uncorrected);
        }
        let train = dataset.split(Split::Train);
        let embed = |side, rows: &RowList| head.embed(device, dataset, side, &sample(rows, bank, seed));
        let (images, texts) = (embed(Side::Image, &train.images)?, embed(Side::Text, &train.texts)?);
        let of = |hubness, weights| Self::new(hubness, weights, [&images, &texts], head.dim());
        let rounded = of(kinds[0], [0.0; 2])?;
        let first = all.first(IMAGES);
        let some = first.as_ref().unwrap_or(&all);
        let Some((hubness, weight)) =
            choose(device, [&some.images, &some.texts], &some.truth, &rounded, &kinds)?
        else {
            return Ok(uncorrected);
        };
        let correction = of(hubness, [weight; 2])?;
        let images = correction.penalties(device, Side::Image, &all.images)?;
        let texts = correction.penalties(device, Side::Text, &all.texts)?;
        let corrected = all.corrected(device, [&images, &texts])?;
        Ok(Fitted { correction: Some(correction), plain, corrected })
    }
}

/// What validation chooses from. With few validation images, it is the kind that larger splits chose.
fn kinds(choice: Correction, few: bool) -> Vec<Hubness> {
    let csls = NEIGHBOURS.map(|k| Hubness::Csls { k });
    let softmax = TEMPERATURES.map(|temperature| Hubness::InvertedSoftmax { temperature });
    match choice {
        Correction::None => Vec::new(),
        Correction::Csls if few => vec![Hubness::Csls { k: 10 }],
        Correction::InvertedSoftmax | Correction::Auto if few => {
            vec![Hubness::InvertedSoftmax { temperature: 0.1 }]
        }
        Correction::Csls => csls.to_vec(),
        Correction::InvertedSoftmax => softmax.to_vec(),
        Correction::Auto => csls.into_iter().chain(softmax).collect(),
    }
}

/// At most `count` of the rows, in their order. Which ones is a pure function of the number of rows and of `seed`.
fn sample(rows: &RowList, count: usize, seed: u64) -> RowList {
    if rows.len() <= count {
        return rows.clone();
    }
    let mut rng = random(Purpose::Bank, seed, 0, 0);
    let mut drawn: Vec<(u64, usize)> = (0..rows.len()).map(|at| (rng.next_u64(), at)).collect();
    drawn.sort_unstable();
    let mut places: Vec<usize> = drawn[..count].iter().map(|&(_, at)| at).collect();
    places.sort_unstable();
    places.into_iter().map(|at| rows.at(at)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_images_choose_no_kind() {
        for (choice, [many, few]) in [
            (Correction::None, [0, 0]),
            (Correction::Csls, [4, 1]),
            (Correction::InvertedSoftmax, [5, 1]),
            (Correction::Auto, [9, 1]),
        ] {
            assert_eq!([kinds(choice, false).len(), kinds(choice, true).len()], [many, few], "{choice}");
            assert!(kinds(choice, true).iter().all(|kind| kinds(choice, false).contains(kind)), "{choice}");
        }
    }

    #[test]
    fn a_sample_is_in_order_and_a_function_of_the_seed() {
        let rows: RowList = (0..100).map(|row| 2 * row).collect();
        assert_eq!(sample(&rows, 100, 0), rows);
        let some = sample(&rows, 10, 0);
        assert!(
            some.len() == 10 && some.iter().is_sorted() && some.iter().all(|row| row < 200 && row % 2 == 0)
        );
        assert_eq!(some, sample(&rows, 10, 0));
        assert_ne!(some, sample(&rows, 10, 1));
    }
}
