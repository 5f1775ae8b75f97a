//! Second moments of the training pairs in the features of kernel CCA: the input of each side beside the cosines of its
//! random features. The device computes the cosines and the products.

use super::memory::check_covariances;
use super::sums::pairs;
use crate::cluster::Parts;
use crate::data::{Dataset, Preprocess, Side, Split};
use crate::device::{Buffer, Device, Matrix, padded};
use crate::eval::sample_mean;
use crate::kernels::{Product, cosine, matmul};
use crate::model::{FourierLayout, Head};
use crate::{Error, Result};
use faer::Mat;
use std::ops::Range;

/// Pairs that are on the device at a time.
const STRIP: usize = 2048;
/// Columns that are multiplied at a time. Of the products of columns with each other, the device computes each once.
const COLUMNS: usize = 512;

/// Some columns of the features of a strip.
struct Block {
    /// Their place among all columns: those of the images first, then those of the texts, then a constant.
    place: usize,
    values: Matrix,
    kind: Kind,
}

enum Kind {
    /// The number 1, whose products are sums.
    Constant,
    /// Columns of the input of a side.
    Input(Side, Range<usize>),
    /// Cosines of frequencies `[cols, dim]` and phases.
    Cosines(Side, Matrix, Buffer<f32>),
}

/// The means and covariances of all columns.
pub(super) struct Moments {
    /// The mean of each column of a side, first its input, then its cosines.
    pub means: [Vec<f64>; 2],
    /// The covariances of the images, of the texts, and of images with texts.
    pub own: [Mat<f64>; 2],
    pub cross: Mat<f64>,
}

/// Everything that a pass over the training pairs needs.
struct Pass<'a> {
    device: &'a Device,
    dataset: &'a Dataset,
    preprocess: Preprocess,
    dims: [usize; 2],
    /// Near the mean of each input column, and subtracted first, so that sums of squares lose no digits.
    centres: [Vec<f64>; 2],
    features: [Matrix; 2],
    angles: Matrix,
    blocks: Vec<Block>,
    /// The sums of products of blocks i and j with i <= j, row by row.
    sums: Vec<Matrix>,
}

impl<'a> Pass<'a> {
    fn new(device: &'a Device, dataset: &'a Dataset, head: &Head) -> Result<Self> {
        let (dims, m) = (head.layout.dims, head.layout.random_features);
        let rows = STRIP.min(dataset.split(Split::Train).texts.len());
        let mut blocks = Vec::new();
        let mut place = 0;
        let mut add = |kind: Kind, cols: usize| -> Result<()> {
            blocks.push(Block { place, values: Matrix::new(device, "columns", rows, cols)?, kind });
            place += cols;
            Ok(())
        };
        for side in [Side::Image, Side::Text] {
            let dim = dims[side as usize];
            for cols in ranges(dim) {
                add(Kind::Input(side, cols.clone()), cols.len())?;
            }
            let Some(FourierLayout { frequency, phase, .. }) = head.layout.side(side).fourier else {
                continue;
            };
            let (frequency, phase) = (frequency.get(&head.values), phase.get(&head.values));
            for cols in ranges(m) {
                let rows = &frequency[cols.start * dim..cols.end * dim];
                let frequency = Matrix::from_rows(device, "frequency", cols.len(), dim, rows)?;
                let mut phase = phase[cols.clone()].to_vec();
                phase.resize(padded(cols.len()), 0.0);
                let phase = Buffer::from_slice(device, "phase", &phase)?;
                add(Kind::Cosines(side, frequency, phase), cols.len())?;
            }
        }
        add(Kind::Constant, 1)?;
        let mut sums = Vec::new();
        for (i, a) in blocks.iter().enumerate() {
            for b in &blocks[i..] {
                sums.push(Matrix::new(device, "sums", a.values.cols, b.values.cols)?);
            }
        }
        Ok(Self {
            device,
            dataset,
            preprocess: head.preprocess(0.0)?,
            dims,
            centres: [sample_mean(head, dataset, Side::Image)?, sample_mean(head, dataset, Side::Text)?],
            features: [
                Matrix::new(device, "features", rows, dims[0])?,
                Matrix::new(device, "features", rows, dims[1])?,
            ],
            angles: Matrix::new(device, "angles", rows, COLUMNS)?,
            blocks,
            sums,
        })
    }

    /// Adds the products of a strip of pairs.
    fn add(&mut self, rows: [Vec<u64>; 2], first: bool) -> Result<()> {
        self.device.check_stop()?;
        let count = rows[0].len();
        let mut host = [Vec::new(), Vec::new()];
        for (side, host) in [Side::Image, Side::Text].into_iter().zip(&mut host) {
            let features = &mut self.features[side as usize];
            self.preprocess.rows(self.dataset, side, &rows[side as usize], host)?;
            features.rows = count;
            features.buffer.write(self.device, 0, host)?;
        }
        let mut commands = self.device.commands();
        for Block { values, kind, .. } in &mut self.blocks {
            values.rows = count;
            match kind {
                Kind::Constant => values.write_rows(self.device, &vec![1.0; count])?,
                Kind::Input(side, cols) => {
                    let (stride, centres) =
                        (padded(self.dims[*side as usize]), &self.centres[*side as usize]);
                    let mut centred = Vec::with_capacity(count * cols.len());
                    for row in host[*side as usize].chunks_exact(stride) {
                        let pairs = row[cols.clone()].iter().zip(&centres[cols.clone()]);
                        centred.extend(pairs.map(|(&x, centre)| (f64::from(x) - centre) as f32));
                    }
                    values.write_rows(self.device, &centred)?;
                }
                Kind::Cosines(side, frequency, phase) => {
                    let angles = &mut self.angles;
                    (angles.rows, angles.cols) = (count, values.cols);
                    let product = Product::nt(self.features[*side as usize].view(), frequency.view());
                    let product = Product { bias: Some(phase.view()), ..product };
                    matmul(&mut commands, product, angles.view_mut())?;
                    cosine(&mut commands, angles.view(), values.view_mut())?;
                }
            }
        }
        let mut sums = self.sums.iter_mut();
        for (i, a) in self.blocks.iter().enumerate() {
            for (b, sum) in self.blocks[i..].iter().zip(&mut sums) {
                let product = Product::tn(a.values.view(), b.values.view());
                let product = Product { accumulate: !first, sliced: true, ..product };
                matmul(&mut commands, product, sum.view_mut())?;
            }
        }
        commands.submit()
    }

    /// The sums so far, one after the other, each row by row.
    fn numbers(&self) -> Result<Vec<f64>> {
        let mut numbers = Vec::with_capacity(self.len());
        for sum in &self.sums {
            numbers.extend(self.device.wait(sum.to_rows(self.device))?.into_iter().map(f64::from));
        }
        Ok(numbers)
    }

    /// The number of numbers in the sums.
    fn len(&self) -> usize {
        self.sums.iter().map(|sum| sum.rows * sum.cols).sum()
    }

    /// The moments of `pairs` pairs, from the numbers of their sums.
    fn finish(self, numbers: &[f64], pairs: usize) -> Result<Moments> {
        let Self { dims, centres, blocks, sums, .. } = self;
        let constant = blocks.last().map_or(0, |block| block.place);
        let widths = {
            let texts =
                blocks.iter().find(|block| block.is_of(Side::Text)).map_or(constant, |block| block.place);
            [texts, constant - texts]
        };
        let n = pairs as f64;
        let side = |place: usize| if place < widths[0] { (0, place) } else { (1, place - widths[0]) };
        let mut own = widths.map(|width| Mat::<f64>::zeros(width, width));
        let mut cross = Mat::<f64>::zeros(widths[0], widths[1]);
        let mut means = widths.map(|width| vec![0.0; width]);
        let (mut sums, mut rest) = (sums.iter(), numbers);
        for (i, a) in blocks.iter().enumerate() {
            for (b, sum) in blocks[i..].iter().zip(&mut sums) {
                let (found, after) = rest.split_at(sum.rows * sum.cols);
                rest = after;
                let (a_side, a_place) = side(a.place);
                if b.place == constant {
                    if a.place != constant {
                        let means = &mut means[a_side][a_place..];
                        means.iter_mut().zip(found).for_each(|(mean, &sum)| *mean = sum / n);
                    }
                    continue;
                }
                let (b_side, b_place) = side(b.place);
                for (row, values) in found.chunks_exact(b.values.cols).enumerate() {
                    for (col, &value) in values.iter().enumerate() {
                        let (i, j, value) = (a_place + row, b_place + col, value / n);
                        if a_side != b_side {
                            cross[(i, j)] = value;
                        } else {
                            own[a_side][(i, j)] = value;
                            own[a_side][(j, i)] = value;
                        }
                    }
                }
            }
        }
        let centred = |sum: &mut Mat<f64>, a: &[f64], b: &[f64]| {
            for (column, b) in sum.col_iter_mut().zip(b) {
                column.iter_mut().zip(a).for_each(|(x, a)| *x -= a * b);
            }
        };
        centred(&mut cross, &means[0], &means[1]);
        for (own, means) in own.iter_mut().zip(&means) {
            centred(own, means, means);
        }
        for ((means, centres), dim) in means.iter_mut().zip(&centres).zip(dims) {
            means[..dim].iter_mut().zip(centres).for_each(|(mean, centre)| *mean += centre);
        }
        Ok(Moments { means, own, cross })
    }
}

impl Block {
    fn is_of(&self, side: Side) -> bool {
        matches!(&self.kind, Kind::Input(own, _) | Kind::Cosines(own, ..) if *own == side)
    }
}

/// 0..n in ranges of at most [`COLUMNS`].
fn ranges(n: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(COLUMNS).map(move |first| first..(first + COLUMNS).min(n))
}

impl Moments {
    /// Computes the moments in one pass over the training pairs, in the parts of so many slices. Each caption counts as one
    /// pair.
    pub fn of(device: &Device, dataset: &Dataset, head: &Head, slices: usize) -> Result<Self> {
        let split = dataset.split(Split::Train);
        let parts = Parts::new(split.texts.len(), STRIP, slices);
        let widths = head.layout.dims.map(|dim| dim + head.layout.random_features);
        let pass = check_covariances(widths, parts.count()).and_then(|()| Pass::new(device, dataset, head));
        device.agree("memory of the moments", pass.as_ref().map(|_| ()).map_err(Clone::clone))?;
        let mut pass = pass?;
        let size = (parts.count(), pass.len());
        let sums = device.sum("moments", size, |part| {
            for (k, strip) in parts.strips(part).enumerate() {
                pass.add(pairs(split, strip), k == 0)?;
            }
            pass.numbers()
        })?;
        let moments = pass.finish(&sums, split.texts.len())?;
        let diagonals = moments.own.iter().flat_map(|own| (0..own.nrows()).map(|i| own[(i, i)]));
        match diagonals.fold(0.0f64, |sum, x| sum + x) {
            sum if sum.is_finite() => Ok(moments),
            sum => Err(Error::data(
                "covariance of the features",
                "finite numbers",
                sum,
                "check the features for values that are extremely large",
            )),
        }
    }
}
