//! What a finished run is worth: recall, the closed forms, the ranks of right answers, and examples.

use crate::data::{Dataset, Side, Split};
use crate::device::Device;
use crate::eval::{Recall, Truth};
use crate::math::{dot, vectorized};
use crate::model::Head;
use crate::train::Best;
use crate::{Plain, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Most queries that are ranked for the report, in each direction, and most multiplications for it.
const QUERIES: usize = 1000;
const WORK: usize = 2_000_000_000;
/// Examples of each kind.
const EXAMPLES: usize = 6;

/// What a finished run is worth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Outcome {
    /// The best epoch by validation rsum.
    pub best: Best,
    /// Recall of the best head on the test split, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<Recall>,
    /// Recall of the best head with its correction for hubs, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrected: Option<Corrected>,
    /// Methods without training on the same features.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<Reference>,
    /// The ranks of right answers; `None` if the run wrote no report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranked: Option<Ranked>,
}

/// Recall with the correction for hubs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Corrected {
    /// On the validation split, which chose the correction.
    pub val: Recall,
    /// On the test split, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<Recall>,
}

/// A method without training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// Its name, such as `CCA`.
    pub name: String,
    /// Its rsum on the validation split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val: Option<f64>,
    /// Its rsum on the test split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<f64>,
}

impl Outcome {
    /// The outcome of a run without correction, references and ranks.
    pub fn new(best: Best, test: Option<Recall>) -> Self {
        Self { best, test, corrected: None, references: Vec::new(), ranked: None }
    }
}

/// The ranks of right answers on a split, and examples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Ranked {
    /// The split.
    pub split: String,
    /// Number of images and of captions in the split.
    pub items: [usize; 2],
    /// Rank of the best right caption of each image looked at, 1 is first.
    pub images: Vec<u32>,
    /// Rank of the right image of each caption looked at, 1 is first.
    pub captions: Vec<u32>,
    /// Captions whose image is found first, with the greatest lead.
    pub easiest: Vec<Example>,
    /// Captions whose image is found last.
    pub hardest: Vec<Example>,
}

/// A caption and the image that is found for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Example {
    /// The caption, or the row of the text.
    pub caption: String,
    /// Name of its image, or the row of the image.
    pub image: String,
    /// Rank of its image, 1 is first.
    pub rank: u32,
    /// Similarity of its image.
    pub similarity: f32,
    /// The most similar other image.
    pub other: String,
    /// A caption of that image, if the dataset has captions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_caption: Option<String>,
    /// Similarity of that image.
    pub other_similarity: f32,
}

/// A ranked query.
struct Answer {
    rank: u32,
    similarity: f32,
    /// The most similar wrong candidate.
    other: usize,
    other_similarity: f32,
}

impl Ranked {
    /// Ranks all queries of a split, or about a thousand of them, spread evenly. `truth` says what is right there.
    ///
    /// # Errors
    /// A bad value in a row, a failing device.
    pub fn of(device: &Device, dataset: &Dataset, head: &Head, split: Split, truth: &Truth) -> Result<Self> {
        let (rows, dim) = (dataset.split(split), head.dim());
        let x = head.embed(device, dataset, Side::Image, &rows.images)?;
        let y = head.embed(device, dataset, Side::Text, &rows.texts)?;
        let (images, texts) = (rows.images.len(), rows.texts.len());
        let captioned: Vec<u32> =
            (0..images as u32).filter(|&image| !truth.texts_of(image as usize).is_empty()).collect();
        let all: Vec<u32> = (0..texts as u32).collect();
        let (queries_x, queries_y) = (spread(&captioned, texts * dim), spread(&all, images * dim));
        let of_image = |&image: &u32| {
            let query = &x[image as usize * dim..][..dim];
            let right = truth.texts_of(image as usize);
            answer(query, &y, |text| right.binary_search(&(text as u32)).is_ok()).rank
        };
        let of_text = |&text: &u32| {
            let query = &y[text as usize * dim..][..dim];
            let right = truth.images_of(text as usize);
            answer(query, &x, |image| right.binary_search(&(image as u32)).is_ok())
        };
        let images_ranked = queries_x.par_iter().map(of_image).collect();
        let answers: Vec<Answer> = queries_y.par_iter().map(of_text).collect();
        let example = |&at: &usize| {
            let (answer, text) = (&answers[at], queries_y[at] as usize);
            let image = rows.text_image.at(text) as usize;
            let name = |image: usize| name(dataset, rows.images.at(image) as usize);
            let first = rows.text_image.iter().position(|image| image as usize == answer.other);
            Example {
                caption: caption(dataset, rows.texts.at(text) as usize)
                    .unwrap_or_else(|| format!("text row {}", rows.texts.at(text))),
                image: name(image),
                rank: answer.rank,
                similarity: answer.similarity,
                other: name(answer.other),
                other_caption: first.and_then(|text| caption(dataset, rows.texts.at(text) as usize)),
                other_similarity: answer.other_similarity,
            }
        };
        let lead = |at: &usize| answers[*at].similarity - answers[*at].other_similarity;
        // A split of one image has no other image.
        let mut order: Vec<usize> =
            (0..answers.len()).filter(|&at| answers[at].other_similarity.is_finite()).collect();
        // The sort is stable, so equal leads keep the order of the dataset.
        order.sort_by(|a, b| lead(b).total_cmp(&lead(a)));
        let first = order.iter().filter(|&&at| answers[at].rank == 1);
        let easiest: Vec<Example> = first.take(EXAMPLES).map(example).collect();
        order.sort_by_key(|&at| std::cmp::Reverse(answers[at].rank));
        let last = order.iter().filter(|&&at| answers[at].rank > 1);
        Ok(Self {
            split: split.to_string(),
            items: [images, texts],
            images: images_ranked,
            captions: answers.iter().map(|answer| answer.rank).collect(),
            easiest,
            hardest: last.take(EXAMPLES).map(example).collect(),
        })
    }
}

/// All queries, or as many of them, spread evenly, as are compared with candidates of this many numbers in short time.
fn spread(queries: &[u32], candidates: usize) -> Vec<u32> {
    let count = (WORK / candidates.max(1)).clamp(50, QUERIES).min(queries.len());
    (0..count).map(|k| queries[k * queries.len() / count]).collect()
}

/// The rank of the best right candidate. Among candidates of equal similarity, the lower index comes first.
fn answer(query: &[f32], candidates: &[f32], is_right: impl Fn(usize) -> bool) -> Answer {
    vectorized(
        #[inline(always)]
        || {
            let similarities: Vec<f32> =
                candidates.chunks_exact(query.len()).map(|row| dot(query, row)).collect();
            let best = |right: bool| {
                let mut best = (0, f32::NEG_INFINITY);
                for (k, &s) in similarities.iter().enumerate() {
                    if s > best.1 && is_right(k) == right {
                        best = (k, s);
                    }
                }
                best
            };
            let ((right, similarity), (other, other_similarity)) = (best(true), best(false));
            let before = |&(k, s): &(usize, f32)| s > similarity || (s == similarity && k < right);
            let rank = 1 + similarities.iter().copied().enumerate().filter(before).count() as u32;
            Answer { rank, similarity, other, other_similarity }
        },
    )
}

/// Only what a page can show: captions may be long.
fn caption(dataset: &Dataset, text: usize) -> Option<String> {
    dataset.caption(text).ok().flatten().map(|caption| Plain(caption.trim()).to_string())
}

fn name(dataset: &Dataset, image: usize) -> String {
    let name = dataset.image_name(image).ok().flatten().filter(|name| !name.trim().is_empty());
    name.map_or_else(|| format!("image row {image}"), |name| Plain(name.trim()).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_counts_the_candidates_before_the_best_right_one() {
        let candidates = [0.5, 0.9, 0.7, 0.9, 0.1];
        let rank = |right: &[usize]| answer(&[1.0], &candidates, |k| right.contains(&k)).rank;
        assert_eq!([rank(&[1]), rank(&[3]), rank(&[0, 2]), rank(&[4])], [1, 2, 3, 5]);
        let answer = answer(&[1.0], &candidates, |k| k == 2);
        assert_eq!((answer.other, answer.other_similarity, answer.similarity), (1, 0.9, 0.7));
    }

    #[test]
    fn queries_are_spread_over_the_split() {
        let all: Vec<u32> = (0..5000).collect();
        assert_eq!(spread(&all, 1)[..3], [0, 5, 10]);
        assert_eq!(
            (spread(&all, 1).len(), spread(&all, WORK).len(), spread(&all[..7], 1).len()),
            (1000, 50, 7)
        );
    }
}
