//! Measures of retrieval beside recall: mean average precision at R, R-precision, mean reciprocal rank, nDCG
//! (docs/math.md, "Evaluation").

use super::{Ranking, Ranks, Recall, Truth};
use crate::device::Device;
use crate::{Error, Result};
use std::borrow::Cow;

/// Measures of one direction, as percentages: means over the queries. R is the number of right candidates of a query.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Measures {
    /// Recall@K for every K that was asked for, with this K: the percentage of queries with a right candidate among the
    /// first K.
    pub recall_at: Vec<(usize, f64)>,
    /// Mean average precision at R (Musgrave et al., 2020): the sum of the precisions at the ranks of the right
    /// candidates among the first R, divided by R.
    pub map_at_r: f64,
    /// R-precision (Musgrave et al., 2020; Chun et al., 2022): the share of right candidates among the first R.
    pub r_precision: f64,
    /// Mean reciprocal rank of the first right candidate (Voorhees, 1999).
    pub mrr: f64,
    /// Normalised discounted cumulative gain of the whole ranking, with gain 1 for a right candidate (Järvelin and
    /// Kekäläinen, 2002).
    pub ndcg: f64,
}

impl Measures {
    /// From the ascending 0-based ranks of the right candidates of every query.
    fn of(queries: &[Vec<u32>], ks: &[usize]) -> Self {
        let mean = |of: &dyn Fn(&[u32]) -> f64| {
            100.0 * queries.iter().map(|ranks| of(ranks)).sum::<f64>() / queries.len().max(1) as f64
        };
        let within = |k: usize| mean(&|ranks| f64::from((ranks[0] as usize) < k));
        let discount = |rank: u32| 1.0 / (f64::from(rank) + 2.0).log2();
        Self {
            recall_at: ks.iter().map(|&k| (k, within(k))).collect(),
            map_at_r: mean(&|ranks| {
                let among = ranks.iter().take_while(|&&rank| (rank as usize) < ranks.len());
                let precisions =
                    among.zip(1..).map(|(&rank, found)| f64::from(found) / (f64::from(rank) + 1.0));
                precisions.sum::<f64>() / ranks.len() as f64
            }),
            r_precision: mean(&|ranks| {
                let among = ranks.iter().take_while(|&&rank| (rank as usize) < ranks.len());
                among.count() as f64 / ranks.len() as f64
            }),
            mrr: mean(&|ranks| 1.0 / (f64::from(ranks[0]) + 1.0)),
            ndcg: mean(&|ranks| {
                let ideal: f64 = (0..ranks.len() as u32).map(discount).sum();
                ranks.iter().map(|&rank| discount(rank)).sum::<f64>() / ideal
            }),
        }
    }

    /// The mean of several, measure by measure.
    fn mean(of: &[Self]) -> Self {
        let mean =
            |measure: &dyn Fn(&Self) -> f64| of.iter().map(measure).sum::<f64>() / of.len().max(1) as f64;
        let ks = of.first().map_or(&[][..], |first| &first.recall_at);
        Self {
            recall_at: (0..).zip(ks).map(|(at, &(k, _))| (k, mean(&|one| one.recall_at[at].1))).collect(),
            map_at_r: mean(&|one| one.map_at_r),
            r_precision: mean(&|one| one.r_precision),
            mrr: mean(&|one| one.mrr),
            ndcg: mean(&|one| one.ndcg),
        }
    }
}

/// Retrieval in both directions, by all measures.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Evaluation {
    /// Recall at 1, 5 and 10, and the median and the mean rank.
    pub recall: Recall,
    /// Image to text.
    pub i2t: Measures,
    /// Text to image.
    pub t2i: Measures,
}

impl Evaluation {
    /// The measures of these ranks. `ks` are the values of K for [`Measures::recall_at`].
    pub fn of(ranks: &Ranks, ks: &[usize]) -> Self {
        let [i2t, t2i] = [0, 1].map(|direction| ranks.sorted(direction));
        let best = |queries: &[Vec<u32>]| queries.iter().map(|ranks| ranks[0]).collect::<Vec<_>>();
        Self {
            recall: Recall::from_rankings(Ranking::of(&best(&i2t)), Ranking::of(&best(&t2i))),
            i2t: Measures::of(&i2t, ks),
            t2i: Measures::of(&t2i, ks),
        }
    }

    /// The mean over `folds` disjoint chunks of consecutive images, each with its own texts (COCO 1K: five), without
    /// waiting. The embeddings are those of [`Ranks::of_async`].
    ///
    /// # Errors
    /// Those of [`Ranks::of_async`], a number of folds that does not divide the images, a fold without a right pair.
    pub async fn folds_async(
        device: &Device,
        images: &[f32],
        texts: &[f32],
        dim: usize,
        truth: &Truth,
        folds: usize,
        ks: &[usize],
    ) -> Result<Self> {
        let n = truth.images();
        super::ranks::check_shapes(images, texts, dim, truth)?;
        if folds == 0 || !n.is_multiple_of(folds) {
            let expected = format!("a divisor of the {n} images");
            return Err(Error::config("--folds", expected, folds, "choose another number of folds"));
        }
        if folds == 1 {
            return Ok(Self::of(&Ranks::of_async(device, images, texts, dim, truth).await?, ks));
        }
        let size = n / folds;
        let mut results = Vec::new();
        for first in (0..n).step_by(size) {
            let fold = first as u32..(first + size) as u32;
            let own = truth.texts_within(&fold);
            let truth = truth.within(&fold, &own);
            if truth.pairs().next().is_none() {
                let found = format!("none for images {} to {}", first, first + size - 1);
                let advice = "choose another number of folds";
                return Err(Error::config("--folds", "a text in every fold", found, advice));
            }
            let images = &images[first * dim..(first + size) * dim];
            let row = |&text: &u32| &texts[text as usize * dim..][..dim];
            let texts: Cow<[f32]> = own.iter().flat_map(row).copied().collect();
            results.push(Self::of(&Ranks::of_async(device, images, &texts, dim, &truth).await?, ks));
        }
        let rankings = |of: fn(&Self) -> Ranking| Ranking::mean(&results.iter().map(of).collect::<Vec<_>>());
        let measures =
            |of: fn(&Self) -> Measures| Measures::mean(&results.iter().map(of).collect::<Vec<_>>());
        Ok(Self {
            recall: Recall::from_rankings(rankings(|one| one.recall.i2t), rankings(|one| one.recall.t2i)),
            i2t: measures(|one| one.i2t.clone()),
            t2i: measures(|one| one.t2i.clone()),
        })
    }
}

#[cfg(feature = "native")]
impl Evaluation {
    /// [`Evaluation::folds_async`], waiting for the device.
    ///
    /// # Errors
    /// Those of [`Evaluation::folds_async`].
    pub fn folds(
        device: &Device,
        images: &[f32],
        texts: &[f32],
        dim: usize,
        truth: &Truth,
        folds: usize,
        ks: &[usize],
    ) -> Result<Self> {
        device.wait(Self::folds_async(device, images, texts, dim, truth, folds, ks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    #[test]
    fn measures_are_those_worked_out_by_hand() {
        // Three right candidates at places 1, 3 and 5; one at place 2.
        let found = Measures::of(&[vec![0, 2, 4], vec![1]], &[1, 2, 50]);
        assert_eq!(found.recall_at, [(1, 50.0), (2, 100.0), (50, 100.0)]);
        // Places 1 and 3 are among the first three, with precisions 1 and 2/3.
        assert_relative_eq!(found.map_at_r, 100.0 * ((1.0 + 2.0 / 3.0) / 3.0) / 2.0, max_relative = 1e-12);
        assert_relative_eq!(found.r_precision, 100.0 * (2.0 / 3.0) / 2.0, max_relative = 1e-12);
        assert_relative_eq!(found.mrr, 75.0, max_relative = 1e-12);
        let [one, two, three] = [1.0, 1.0 / 3f64.log2(), 0.5];
        let first = (one + three + 1.0 / 6f64.log2()) / (one + two + three);
        assert_relative_eq!(found.ndcg, 100.0 * (first + two) / 2.0, max_relative = 1e-12);
        // All right candidates first.
        let best = Measures::of(&[vec![0, 1, 2], vec![0]], &[1]);
        assert_eq!([best.map_at_r, best.r_precision, best.mrr, best.ndcg], [100.0; 4]);
    }
}
