//! The sums of the training pairs from which CCA and ridge regression follow.

use super::algebra::add_product;
use crate::Result;
use crate::data::{Dataset, Preprocess, Side, SplitRows};
use crate::device::padded;
use faer::Mat;
use std::ops::Range;

/// The images and the captions of some training pairs.
pub(super) fn pairs(split: &SplitRows, pairs: Range<usize>) -> [Vec<u64>; 2] {
    let places = split.text_image.between(pairs.clone());
    [places.map(|place| split.images.at(place as usize)).collect(), split.texts.between(pairs).collect()]
}

/// The sums over some pairs of their features, and of the products of features.
pub(super) struct Sums {
    dims: [usize; 2],
    pub sums: [Vec<f64>; 2],
    /// Products of images, of texts, and of images with texts.
    pub images: Mat<f64>,
    pub texts: Mat<f64>,
    pub cross: Mat<f64>,
    host: Vec<f32>,
}

impl Sums {
    pub fn new([p, q]: [usize; 2]) -> Self {
        Self {
            dims: [p, q],
            sums: [vec![0.0; p], vec![0.0; q]],
            images: Mat::zeros(p, p),
            texts: Mat::zeros(q, q),
            cross: Mat::zeros(p, q),
            host: Vec::new(),
        }
    }

    /// Adds the pairs of a strip.
    pub fn add(
        &mut self,
        dataset: &Dataset,
        preprocess: &Preprocess,
        split: &SplitRows,
        strip: Range<usize>,
    ) -> Result<()> {
        let [images, texts] = pairs(split, strip);
        let Self { dims, sums, host, .. } = self;
        let mut read = |side: Side, rows: &[u64]| -> Result<Mat<f64>> {
            preprocess.rows(dataset, side, rows, host)?;
            let (dim, stride) = (dims[side as usize], padded(dims[side as usize]));
            for row in host.chunks_exact(stride) {
                sums[side as usize].iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
            }
            Ok(Mat::from_fn(host.len() / stride, dim, |i, j| f64::from(host[i * stride + j])))
        };
        let (a, b) = (read(Side::Image, &images)?, read(Side::Text, &texts)?);
        let products = [(&mut self.images, &a, &a), (&mut self.texts, &b, &b), (&mut self.cross, &a, &b)];
        for (sum, x, y) in products {
            add_product(sum, x.transpose(), y.as_ref());
        }
        Ok(())
    }

    /// The number of numbers.
    pub fn len([p, q]: [usize; 2]) -> usize {
        p + q + p * p + q * q + p * q
    }

    /// All numbers in a row: the sums, then the matrices column by column.
    pub fn into_numbers(self) -> Vec<f64> {
        let mut numbers = Vec::with_capacity(Self::len(self.dims));
        self.sums.iter().for_each(|sum| numbers.extend(sum));
        for matrix in [self.images, self.texts, self.cross] {
            matrix.col_iter().for_each(|column| numbers.extend(column.iter()));
        }
        numbers
    }

    /// The sums of [`Sums::into_numbers`].
    pub fn from_numbers([p, q]: [usize; 2], mut numbers: &[f64]) -> Self {
        let mut take = |count: usize| {
            let (taken, rest) = numbers.split_at(count);
            numbers = rest;
            taken
        };
        let sums = [take(p).to_vec(), take(q).to_vec()];
        let [images, texts, cross] = [(p, p), (q, q), (p, q)].map(|(rows, cols)| {
            let values = take(rows * cols);
            Mat::from_fn(rows, cols, |i, j| values[j * rows + i])
        });
        Self { dims: [p, q], sums, images, texts, cross, host: Vec::new() }
    }
}
