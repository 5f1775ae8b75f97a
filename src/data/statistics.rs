//! The statistics of the training rows, by which features are standardised.

use super::{Dataset, Preprocess, Side, row_stride};
use crate::Result;
use crate::cluster::{Parts, Tree};
use crate::device::Device;
use crate::io::RowList;
use crate::model::Standardizer;

/// Items of a strip, of which processes divide the parts.
const STRIP: usize = 1024;

/// Of some rows: their number, and of every column the mean and the sum of squared deviations from it.
struct Statistics {
    seen: f64,
    mean: Vec<f64>,
    squares: Vec<f64>,
}

impl Standardizer {
    /// Reads the items `rows` of one side once and fits every column of the rows that `preprocess` makes of them.
    /// `preprocess` must not standardise. If the device pools ([`Pooling::Gpo`](crate::model::Pooling::Gpo)), all local rows
    /// count.
    ///
    /// # Errors
    /// Those of [`Preprocess::items`].
    pub fn fit(dataset: &Dataset, side: Side, preprocess: &Preprocess, rows: &RowList) -> Result<Self> {
        Self::fit_parts(&Device::cpu(), dataset, side, preprocess, (rows, 0))
    }

    /// [`Standardizer::fit`] in the parts of so many slices, which processes divide.
    pub(crate) fn fit_parts(
        device: &Device,
        dataset: &Dataset,
        side: Side,
        preprocess: &Preprocess,
        (rows, slices): (&RowList, usize),
    ) -> Result<Self> {
        let dim = dataset.width(side, preprocess.pooling_of(side))?;
        let parts = Parts::new(rows.len(), STRIP, slices);
        let own = device.share(parts.count()).map(|part| {
            let mut statistics = Statistics::new(dim);
            let (mut values, mut offsets) = (Vec::new(), Vec::new());
            for item in parts.strips(part).flat_map(|strip| rows.between(strip)) {
                preprocess.items(dataset, side, &[item], &mut values, &mut offsets)?;
                values.chunks_exact(row_stride(dim)).for_each(|row| statistics.add(row));
            }
            Ok(statistics.into_numbers())
        });
        let numbers =
            device.join("statistics of features", own.collect::<Result<Vec<_>>>().map(|own| own.concat()))?;
        let mut tree = Tree::new(parts.count());
        for (part, numbers) in numbers.chunks_exact(1 + 2 * dim).enumerate() {
            tree.push((0, part), Statistics::from_numbers(numbers, dim), |left, right| {
                left.merge(right);
                Ok::<_, crate::Error>(())
            })?;
        }
        let whole = tree.roots().pop().map_or_else(|| Statistics::new(dim), |(_, whole)| whole);
        Ok(whole.standardizer())
    }
}

impl Statistics {
    fn new(dim: usize) -> Self {
        Self { seen: 0.0, mean: vec![0.0; dim], squares: vec![0.0; dim] }
    }

    fn add(&mut self, row: &[f32]) {
        // Welford's update is exact for a constant column, and accurate if the mean is far above the deviation.
        self.seen += 1.0;
        let share = 1.0 / self.seen;
        for ((mean, squares), &x) in self.mean.iter_mut().zip(&mut self.squares).zip(row) {
            let before = f64::from(x) - *mean;
            *mean += before * share;
            *squares += before * (f64::from(x) - *mean);
        }
    }

    /// Adds the rows of another (Chan, Golub and LeVeque, 1983).
    fn merge(&mut self, other: Self) {
        let seen = self.seen + other.seen;
        if seen == 0.0 {
            return;
        }
        let share = other.seen / seen;
        let own = self.mean.iter_mut().zip(&mut self.squares);
        for ((mean, squares), (other_mean, other_squares)) in own.zip(other.mean.iter().zip(other.squares)) {
            let between = other_mean - *mean;
            *squares += other_squares + between * between * self.seen * share;
            *mean += between * share;
        }
        self.seen = seen;
    }

    fn into_numbers(self) -> Vec<f64> {
        [vec![self.seen], self.mean, self.squares].concat()
    }

    fn from_numbers(numbers: &[f64], dim: usize) -> Self {
        let (mean, squares) = numbers[1..].split_at(dim);
        Self { seen: numbers[0], mean: mean.to_vec(), squares: squares.to_vec() }
    }

    fn standardizer(self) -> Standardizer {
        let inverse = |squares: f64| {
            let inverse = (self.seen / squares).sqrt() as f32;
            if inverse.is_finite() { inverse } else { 0.0 }
        };
        Standardizer {
            mean: self.mean.into_iter().map(|x| x as f32).collect(),
            inverse_std: self.squares.into_iter().map(inverse).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_statistics_are_those_of_all_rows() {
        // The first column is constant, and the second far from 0.
        let rows: Vec<[f32; 3]> = (0..50u8).map(|k| [3.25, 1e5 + f32::from(k), f32::from(k % 7)]).collect();
        let of = |rows: &[[f32; 3]]| {
            let mut statistics = Statistics::new(3);
            rows.iter().for_each(|row| statistics.add(row));
            statistics
        };
        let whole = of(&rows);
        for at in [0, 1, 20, 50] {
            let (left, right) = rows.split_at(at);
            let mut merged = of(left);
            merged.merge(of(right));
            assert_eq!((merged.seen, merged.mean[0], merged.squares[0]), (50.0, 3.25, 0.0));
            for (found, expected) in
                merged.mean.iter().zip(&whole.mean).chain(merged.squares.iter().zip(&whole.squares))
            {
                assert!((found - expected).abs() <= 1e-12 * expected.abs(), "{at}: {found} {expected}");
            }
        }
    }
}
