//! Batches with several texts per image: M images and N texts, and the image of every text.

use super::Gradients;
use crate::objective::{InfonceParams, Objective, Positives, SiglipParams};
use crate::{Error, Result};

/// The order in which the texts of a batch are computed: one text of every image first, in the order of the images, then
/// the others. So the pair of an image and its first text stands on the diagonal.
pub(super) struct Captions {
    /// The text at every place.
    order: Vec<usize>,
    /// The image of the text at every place; at first 0, 1, 2, ...
    pub ids: Vec<u32>,
}

impl Captions {
    /// # Errors
    /// An image row that does not exist, or an image without a text.
    pub fn new(images: usize, text_image: &[u32]) -> Result<Self> {
        let mut first: Vec<Option<usize>> = vec![None; images];
        let mut others = Vec::new();
        for (text, &image) in text_image.iter().enumerate() {
            match first.get_mut(image as usize) {
                Some(none @ None) => *none = Some(text),
                Some(Some(_)) => others.push(text),
                None => {
                    let (thing, expected) = (
                        format!("text_image, text {text}"),
                        format!("an image row from 0 to {}", images - 1),
                    );
                    return Err(Error::config(thing, expected, image, "correct the number"));
                }
            }
        }
        if let Some(image) = first.iter().position(Option::is_none) {
            let thing = format!("text_image, image {image}");
            let advice = "leave the image out of the batch, or give one of its texts";
            return Err(Error::config(thing, "at least one text for every image", "none", advice));
        }
        let order: Vec<_> = first.into_iter().flatten().chain(others).collect();
        let ids = order.iter().map(|&text| text_image[text]).collect();
        Ok(Self { order, ids })
    }

    /// The texts' rows of this width, in the order of computation.
    pub fn gather<T: Copy>(&self, rows: &[T], width: usize) -> Vec<T> {
        self.order.iter().flat_map(|text| &rows[text * width..(text + 1) * width]).copied().collect()
    }

    /// Rows in the order of computation, in the caller's order.
    pub fn scatter<T: Copy>(&self, from: &[T], to: &mut [T], width: usize) {
        for (from, text) in from.chunks_exact(width).zip(&self.order) {
            to[text * width..(text + 1) * width].copy_from_slice(from);
        }
    }

    /// What was mined, in the caller's order and with the caller's numbers. An image without a negative has its own first
    /// text as its hardest, and a text its own image.
    pub fn named(&self, found: Gradients) -> Gradients {
        let sorted = |values: &[f32]| {
            let mut out = values.to_vec();
            self.scatter(values, &mut out, 1);
            out
        };
        let own =
            |(place, &image): (usize, &u32)| if image as usize == place { self.ids[place] } else { image };
        let images: Vec<_> = found.hardest_image_index.iter().enumerate().map(own).collect();
        let mut hardest_image_index = images.clone();
        self.scatter(&images, &mut hardest_image_index, 1);
        let texts = found.hardest_text_index.iter().map(|&place| self.order[place as usize] as u32);
        Gradients {
            positive: sorted(&found.positive),
            hardest_text_index: texts.collect(),
            hardest_image: sorted(&found.hardest_image),
            hardest_image_index,
            ..found
        }
    }
}

/// The objective at such a batch. Where an objective has one positive per anchor, an image has the mean of its texts.
///
/// # Errors
/// An objective for which one text of an image is different from the others.
pub(super) fn with_captions(objective: &Objective) -> Result<Objective> {
    let of = |term: &Objective| -> Result<Objective> {
        for part in term.terms() {
            let masked = matches!(
                part.objective,
                Objective::Infonce(InfonceParams { leave_out: true, .. })
                    | Objective::Siglip(SiglipParams { leave_out: true, .. })
            );
            if masked {
                let (expected, advice) =
                    ("an objective that uses all texts of an image", "use infonce or siglip");
                return Err(Error::config("objective beside text_image", expected, term, advice));
            }
        }
        let takes_mean = term
            .terms()
            .iter()
            .any(|part| part.positives == Positives::Own && part.objective.logits().is_none());
        if takes_mean { term.clone().towards(Positives::Mean) } else { Ok(term.clone()) }
    };
    match objective {
        Objective::Sum(terms) => {
            let terms = terms.iter().map(|(weight, term)| Ok((*weight, of(term)?)));
            Ok(Objective::Sum(terms.collect::<Result<_>>()?))
        }
        term => of(term),
    }
}
