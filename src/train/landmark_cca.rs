//! Kernel CCA (Akaho, 2001; Bach and Jordan, 2002; Hardoon et al., 2004) in its dual form: the directions are sums of
//! the kernel to landmarks. With all training images as landmarks it is exact. See docs/math.md, "Kernel CCA".

use super::algebra::{cholesky, eigen, filled, orthonormal, solve_lower, solve_upper, times};
use super::memory::check_landmarks;
use crate::cluster::Parts;
use crate::data::{Dataset, Side};
use crate::device::{Buffer, Device, Matrix};
use crate::eval::LandmarkItems;
use crate::math::{Purpose, random};
use crate::model::{Head, Landmarks};
use crate::{Error, Result};
use faer::{Mat, MatRef};
use rand_chacha::rand_core::Rng;

/// What validation chooses the bandwidth from, as multiples of the median distance between unit training rows.
pub const LANDMARK_BANDWIDTHS: [f64; 2] = [0.5, 0.8];

/// What validation chooses the regularisation from, as shares of the variance of all directions together.
pub const LANDMARK_REGULARIZATIONS: [f64; 3] = [2e-4, 1e-3, 5e-3];

/// Rows of the kernel that are computed at a time.
const ROWS: usize = 512;

/// Columns of the block beyond the width, which make the iteration converge faster.
const FURTHER: usize = 64;

/// Iterations. docs/recipes.md says what more of them change.
const ITERATIONS: usize = 2;

/// The kernel between the landmark images, averaged over the captions of each on the side of the texts.
struct Gram {
    /// The mean of each column.
    mean: Vec<f64>,
    /// H K H with H = I - 1 1ᵀ / n, divided by the mean of its diagonal.
    centred: Mat<f64>,
}

/// The kernels of one bandwidth, from which heads of several regularisations follow.
pub(super) struct LandmarkCca {
    /// A fresh head with the landmarks.
    device: Device,
    template: Head,
    landmarks: LandmarkItems,
    /// Captions of each image.
    counts: Vec<f64>,
    sides: [Gram; 2],
}

impl LandmarkCca {
    /// The kernels for a head with these landmarks. Sums are added in the parts of so many slices.
    pub fn new(
        device: &Device,
        dataset: &Dataset,
        template: Head,
        landmarks: LandmarkItems,
        slices: usize,
    ) -> Result<Self> {
        let n = landmarks.images.len();
        device.agree("memory of kernel CCA", check_landmarks(n, template.dim() + FURTHER))?;
        let mut counts = vec![0.0; n];
        landmarks.owners.iter().for_each(|&owner| counts[owner as usize] += 1.0);
        let own: Vec<u32> = (0..n as u32).collect();
        let of = |side, owners: &[u32], counts: &[f64]| {
            let items = (landmarks.items(side), owners);
            let sums = sums(device, dataset, &template, side, items, (n, slices))?;
            Gram::new(&sums, counts, side)
        };
        let images = of(Side::Image, &own, &vec![1.0; n])?;
        let texts = of(Side::Text, &landmarks.owners, &counts)?;
        Ok(Self { device: device.clone(), template, landmarks, counts, sides: [images, texts] })
    }

    /// A head of so many directions, without their weights.
    pub fn empty(&self, width: usize) -> Head {
        self.template.narrowed(width)
    }

    /// The head of at most `embed` directions, and its correlations in descending order.
    ///
    /// With P = K (K + r n I)^-1 of the images and Q of the texts, the correlations s are the square roots of the
    /// eigenvalues of Q P. The directions are (Kx + r n I)^-1 u s and (Ky + r n I)^-1 P u, for eigenvectors u with
    /// uᵀ P u = 1. The leading ones come from a block that Q P is applied to (subspace iteration), and from the
    /// Rayleigh-Ritz method in its span.
    pub fn head(&self, regularization: f64, seed: u64) -> Result<(Head, Vec<f64>)> {
        let n = self.landmarks.images.len();
        let [image, text] = &self.sides;
        let (image, text) = rayon::join(
            || Projector::new(&image.centred, regularization),
            || Projector::new(&text.centred, regularization),
        );
        let (image, text) = (image?, text?);
        let width = self.template.dim().min(n.saturating_sub(1)).max(1);
        let mut rng = random(Purpose::Subspace, seed, 0, 0);
        let mut block = Mat::from_fn(n, (width + FURTHER).min(n), |_, _| {
            f64::from(rng.next_u32()) / f64::from(1u32 << 31) - 1.0
        });
        for _ in 0..ITERATIONS {
            self.device.check_stop()?;
            block = orthonormal(&text.apply(&image.apply(&block)))?;
        }
        let mapped = image.apply(&block);
        // The kernel is computed in f32. Independent errors of epsilon in its elements move its eigenvalues by about
        // epsilon sqrt(n), and so those of P by this.
        let floor = f64::from(f32::EPSILON) / (regularization * (n as f64).sqrt());
        let (values, vectors) = ritz(&block, &mapped, &text.apply(&mapped), (width, floor))?;
        let width = values.len();
        let correlations: Vec<f64> = values.iter().map(|x| x.sqrt()).collect();
        let scaled = |by: &dyn Fn(f64) -> f64| {
            Mat::from_fn(vectors.nrows(), width, |i, j| vectors[(i, j)] * by(correlations[j]))
        };
        // Each direction is weighted by its correlation s; the texts would be divided by it.
        let images = image.inverse(&times(block.as_ref(), scaled(&|s| s).as_ref()));
        let texts = text.inverse(&times(mapped.as_ref(), scaled(&|_| 1.0).as_ref()));
        let mut head = self.template.narrowed(width);
        let own: Vec<u32> = (0..n as u32).collect();
        self.set(&mut head, Side::Image, images.as_ref(), (&own, &vec![1.0; n]))?;
        self.set(&mut head, Side::Text, texts.as_ref(), (&self.landmarks.owners, &self.counts))?;
        Ok((head, correlations))
    }

    /// Sets a side of a head to sums of the centred kernel. A landmark has the coefficients of its image divided by
    /// the number of landmarks that the image has on this side. The weights have the root mean square of a fresh layer
    /// of the same shape, as those of the other closed forms.
    fn set(
        &self,
        head: &mut Head,
        side: Side,
        coefficients: MatRef<f64>,
        (owners, counts): (&[u32], &[f64]),
    ) -> Result<()> {
        let [_, Some(weight)] = head.derived(side) else { return Ok(()) };
        let (n, width) = (coefficients.nrows(), coefficients.ncols());
        let mean = &self.sides[side as usize].mean;
        let mut squares = 0.0;
        let mut rows = Vec::with_capacity(width);
        for column in coefficients.col_iter() {
            // A constant part would cancel in the centred kernel.
            let middle = column.iter().sum::<f64>() / n as f64;
            let row: Vec<f64> = column.iter().zip(counts).map(|(x, count)| (x - middle) / count).collect();
            squares += owners.iter().map(|&owner| row[owner as usize].powi(2)).sum::<f64>();
            rows.push(row);
        }
        let rms = (squares / (owners.len() * width) as f64).sqrt();
        let factor = if rms > 0.0 { (2.0 / (owners.len() + width) as f64).sqrt() / rms } else { 0.0 };
        let (mut values, mut bias) = (Vec::with_capacity(owners.len() * width), Vec::with_capacity(width));
        for row in &rows {
            let shift: f64 =
                row.iter().zip(counts).zip(mean).map(|((x, count), mean)| x * count * mean).sum();
            bias.push((-factor * shift) as f32);
            values.extend(owners.iter().map(|&owner| (factor * row[owner as usize]) as f32));
        }
        weight.set(&mut head.values, &values)?;
        let linear = vec![0.0; width * head.feature_dim(side)];
        head.set_side(side, &linear, &bias)
    }
}

/// The sums of the kernel over the pairs of items of two images, `[n, n]`. Processes divide the items.
fn sums(
    device: &Device,
    dataset: &Dataset,
    head: &Head,
    side: Side,
    (items, owners): (&[u64], &[u32]),
    (n, slices): (usize, usize),
) -> Result<Vec<f64>> {
    let Some(layout) = head.layout.side(side).landmarks else { return Ok(vec![0.0; n * n]) };
    let rows = ROWS.min(items.len()).max(1);
    let parts = Parts::new(items.len(), rows, slices);
    let preprocess = head.preprocess(0.0)?;
    let mut memory = None;
    device.sum("kernel of landmarks", (parts.count(), n * n), |part| {
        if memory.is_none() {
            memory = Some((
                Buffer::from_slice(device, "head", &head.values)?,
                Matrix::new(device, "features", rows, head.feature_dim(side))?,
                Landmarks::new(device, &layout, rows)?,
            ));
        }
        let mut sums = vec![0.0; n * n];
        let Some((values, features, landmarks)) = &mut memory else { return Ok(sums) };
        let mut host = Vec::new();
        for strip in parts.strips(part) {
            device.check_stop()?;
            let (items, places) = (&items[strip.clone()], &owners[strip]);
            preprocess.rows(dataset, side, items, &mut host)?;
            preprocess.check_scale(dataset, side, items, &host)?;
            features.rows = items.len();
            features.buffer.write(device, 0, &host)?;
            landmarks.reshape(device, items.len())?;
            let mut commands = device.commands();
            landmarks.compare(&mut commands, values, features.view(), false)?;
            commands.submit()?;
            let kernel = device.wait(landmarks.kernel.to_rows(device))?;
            for (row, &place) in kernel.chunks_exact(owners.len()).zip(places) {
                let column = &mut sums[place as usize * n..][..n];
                for (&x, &owner) in row.iter().zip(owners) {
                    column[owner as usize] += f64::from(x);
                }
            }
        }
        Ok(sums)
    })
}

impl Gram {
    /// From sums over the items of each image, of which there are `counts`.
    fn new(sums: &[f64], counts: &[f64], side: Side) -> Result<Self> {
        let n = counts.len();
        // The two halves differ by rounding.
        let kernel = filled(n, n, |i, j| (sums[j * n + i] + sums[i * n + j]) / (2.0 * counts[i] * counts[j]));
        let mean: Vec<f64> = kernel.col_iter().map(|column| column.iter().sum::<f64>() / n as f64).collect();
        let whole = mean.iter().sum::<f64>() / n as f64;
        let variance = (0..n).map(|i| kernel[(i, i)] - 2.0 * mean[i] + whole).sum::<f64>() / n as f64;
        if variance <= f64::EPSILON {
            let side = if side == Side::Image { "images" } else { "texts" };
            let advice = "give features that differ between items, or use --init cca";
            return Err(Error::data(format!("training {side}"), "rows that differ", "equal rows", advice));
        }
        let centred = filled(n, n, |i, j| (kernel[(i, j)] - mean[i] - mean[j] + whole) / variance);
        Ok(Self { mean, centred })
    }
}

/// K (K + r n I)^-1 of a kernel.
struct Projector {
    /// Of K + r n I.
    factor: Mat<f64>,
    ridge: f64,
}

impl Projector {
    fn new(kernel: &Mat<f64>, regularization: f64) -> Result<Self> {
        let n = kernel.nrows();
        let ridge = regularization * n as f64;
        let mut positive = kernel.clone();
        (0..n).for_each(|i| positive[(i, i)] += ridge);
        Ok(Self { factor: cholesky(positive)?, ridge })
    }

    /// (K + r n I)^-1 x.
    fn inverse(&self, x: &Mat<f64>) -> Mat<f64> {
        let mut y = x.clone();
        solve_lower(&self.factor, &mut y);
        solve_upper(&self.factor, &mut y);
        y
    }

    /// K (K + r n I)^-1 x, which is x - r n (K + r n I)^-1 x.
    fn apply(&self, x: &Mat<f64>) -> Mat<f64> {
        let mut y = self.inverse(x);
        for (y, x) in y.col_iter_mut().zip(x.col_iter()) {
            y.iter_mut().zip(x.iter()).for_each(|(y, x)| *y = x - self.ridge * *y);
        }
        y
    }
}

/// The leading solutions, at most `width`, of (Aᵀ Q A) z = s² (Cᵀ A) z in the span of the block C, with
/// zᵀ (Cᵀ A) z = 1: the squares s², and the vectors z as columns. `mapped` is A = P C, and `twice` is Q A. `floor` is
/// the rounding error of the eigenvalues of P.
fn ritz(
    block: &Mat<f64>,
    mapped: &Mat<f64>,
    twice: &Mat<f64>,
    (width, floor): (usize, f64),
) -> Result<(Vec<f64>, Mat<f64>)> {
    let halved = |x: &Mat<f64>| Mat::from_fn(x.nrows(), x.nrows(), |i, j| (x[(i, j)] + x[(j, i)]) / 2.0);
    // Directions without variance, such as the constant one, have only rounding errors in the metric Cᵀ A.
    let (directions, variances) = eigen(&halved(&times(block.transpose(), mapped.as_ref())))?;
    let kept = variances.iter().take_while(|&&variance| variance > floor).count();
    let whitened = Mat::from_fn(directions.nrows(), kept, |i, j| directions[(i, j)] / variances[j].sqrt());
    let whole = times(mapped.transpose(), twice.as_ref());
    let whole = times(whitened.transpose(), times(whole.as_ref(), whitened.as_ref()).as_ref());
    let (vectors, mut values) = eigen(&halved(&whole))?;
    let width = width.min(kept);
    values.truncate(width);
    Ok((values, times(whitened.as_ref(), vectors.subcols(0, width))))
}
