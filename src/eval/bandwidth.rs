//! The frequencies of a head's random features, from the distances between training rows.

use crate::Result;
use crate::data::{Dataset, Side, Split};
use crate::device::padded;
use crate::model::Head;

/// The most training items whose distances are taken.
const ITEMS: usize = 400;

impl Head {
    /// At most 400 rows of one side's training items, evenly spaced, as the head takes them: padded, row-major.
    pub(crate) fn sample(&self, dataset: &Dataset, side: Side) -> Result<Vec<f32>> {
        let split = dataset.split(Split::Train);
        let items = split.of(side);
        let items: Vec<u64> = (0..items.len().min(ITEMS)).map(|i| items.at(spread(i, items.len()))).collect();
        let (mut rows, mut offsets) = (Vec::new(), Vec::new());
        self.preprocess(0.0)?.items(dataset, side, &items, &mut rows, &mut offsets)?;
        let stride = padded(self.feature_dim(side));
        let count = rows.len() / stride;
        let chosen = (0..count.min(ITEMS)).map(|i| spread(i, count));
        Ok(chosen.flat_map(|row| &rows[row * stride..][..stride]).copied().collect())
    }

    /// Fits the frequencies of fresh random features to the training rows: the bandwidth of the Gaussian kernel becomes
    /// the median distance between rows times [`crate::model::BANDWIDTH`].
    pub(crate) fn fit_frequencies(&mut self, dataset: &Dataset) -> Result<()> {
        for side in [Side::Image, Side::Text] {
            let rows = self.sample(dataset, side)?;
            if let Some(median) = median_distance(&rows, padded(self.feature_dim(side))) {
                // A fresh head is for features of variance 1.
                let fresh = (2.0 * self.feature_dim(side) as f64).sqrt();
                self.scale_frequencies(side, fresh / median)?;
            }
        }
        Ok(())
    }
}

/// The mean of each column over [`Head::sample`].
pub(crate) fn sample_mean(head: &Head, dataset: &Dataset, side: Side) -> Result<Vec<f64>> {
    let (rows, dim) = (head.sample(dataset, side)?, head.feature_dim(side));
    let mut mean = vec![0.0; dim];
    for row in rows.chunks_exact(padded(dim)) {
        mean.iter_mut().zip(row).for_each(|(mean, &x)| *mean += f64::from(x));
    }
    let count = (rows.len() / padded(dim)).max(1) as f64;
    Ok(mean.into_iter().map(|sum| sum / count).collect())
}

/// The place of the i-th of [`ITEMS`] evenly spaced rows among `count`.
fn spread(i: usize, count: usize) -> usize {
    if count <= ITEMS { i } else { i * count / ITEMS }
}

/// The median of the distances between different rows.
pub(super) fn median_distance(rows: &[f32], stride: usize) -> Option<f64> {
    let rows: Vec<&[f32]> = rows.chunks_exact(stride).collect();
    let mut squares = Vec::new();
    for (i, a) in rows.iter().enumerate() {
        let square = |b: &&[f32]| a.iter().zip(*b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        squares.extend(rows[..i].iter().map(square).filter(|&square| square > 0.0));
    }
    let middle = squares.len() / 2;
    (!squares.is_empty()).then(|| squares.select_nth_unstable_by(middle, f64::total_cmp).1.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_that_of_different_rows() {
        let rows = [0.0, 0.0, 3.0, 4.0, 0.0, 0.0, 6.0, 8.0];
        // Distances 5, 0, 5, 10, 5, 10.
        assert_eq!(median_distance(&rows, 2), Some(5.0));
        assert_eq!(median_distance(&rows[..2], 2), None);
        assert_eq!(median_distance(&[1.0; 8], 2), None);
        assert_eq!(spread(399, 4000), 3990);
        assert_eq!(spread(7, 8), 7);
    }
}
