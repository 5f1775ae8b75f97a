//! Kernel CCA (Akaho, 2001; Bach and Jordan, 2002) in closed form, with random Fourier features (Rahimi and Recht,
//! 2007) in place of the kernel matrix, as in Lopez-Paz et al. (2014). See docs/math.md, "Kernel CCA".

use super::algebra::{Triplets, cholesky, leading_triplets, solve_lower, solve_upper};
use super::moments::Moments;
use crate::Result;
use crate::data::{Dataset, Side};
use crate::device::Device;
use crate::math::{Purpose, random};
use crate::model::Head;
use faer::{Mat, MatRef};
use rand_chacha::rand_core::Rng;

/// What validation chooses the bandwidth from, as multiples of the median distance between training rows.
pub const BANDWIDTHS: [f64; 3] = [0.5, 0.7, 1.0];

/// What validation chooses the regularisation of kernel CCA from, as multiples of the mean variance.
pub const KERNEL_REGULARIZATIONS: [f64; 3] = [0.3, 1.0, 2.0];

/// The moments of the training pairs for one bandwidth, from which heads of several regularisations follow.
pub(super) struct KernelCca {
    /// A fresh head with the frequencies of the bandwidth.
    template: Head,
    means: [Vec<f64>; 2],
    /// By what the input and the cosines of each side are multiplied, so that the mean variance of either is 1.
    scales: [[f64; 2]; 2],
    own: [Mat<f64>; 2],
    cross: Mat<f64>,
}

impl KernelCca {
    /// The moments for a head with random features, in the parts of so many slices.
    pub fn new(device: &Device, dataset: &Dataset, template: Head, slices: usize) -> Result<Self> {
        let Moments { means, mut own, mut cross } = Moments::of(device, dataset, &template, slices)?;
        let dims = template.layout.dims;
        let mut scales = [[0.0; 2]; 2];
        for ((own, scales), dim) in own.iter_mut().zip(&mut scales).zip(dims) {
            let parts = [0..dim, dim..own.nrows()];
            *scales = parts.map(|part| {
                let mean = part.clone().map(|i| own[(i, i)]).sum::<f64>() / part.len().max(1) as f64;
                if mean > 0.0 { 1.0 / mean.sqrt() } else { 0.0 }
            });
        }
        let scale = |side: usize, i: usize| scales[side][usize::from(i >= dims[side])];
        for (side, own) in own.iter_mut().enumerate() {
            for (j, column) in own.col_iter_mut().enumerate() {
                column.iter_mut().enumerate().for_each(|(i, x)| *x *= scale(side, i) * scale(side, j));
            }
        }
        for (j, column) in cross.col_iter_mut().enumerate() {
            column.iter_mut().enumerate().for_each(|(i, x)| *x *= scale(0, i) * scale(1, j));
        }
        Ok(Self { template, means, scales, own, cross })
    }

    /// A head of so many directions, without their weights.
    pub fn empty(&self, width: usize) -> Head {
        self.template.narrowed(width)
    }

    /// The head of at most `embed` directions, and its correlations in descending order.
    ///
    /// With C + r tr(C) / d I = L Lᵀ on each side and Lx^-1 Cxy Ly^-T = U S Vᵀ, the directions are Lx^-T U S and
    /// Ly^-T V S.
    pub fn head(&self, regularization: f64, seed: u64) -> Result<(Head, Vec<f64>)> {
        let factor = |own: &Mat<f64>| {
            let mean = (0..own.nrows()).map(|i| own[(i, i)]).sum::<f64>() / own.nrows() as f64;
            let mut own = own.clone();
            (0..own.nrows()).for_each(|i| own[(i, i)] += regularization * mean);
            cholesky(own)
        };
        let [image, text] = &self.own;
        let (image, text) = rayon::join(|| factor(image), || factor(text));
        let factors = [image?, text?];
        let mut whitened = self.cross.clone();
        solve_lower(&factors[0], &mut whitened);
        let mut whitened = whitened.transpose().to_owned();
        solve_lower(&factors[1], &mut whitened);
        let mut rng = random(Purpose::Subspace, seed, 0, 0);
        let start = || f64::from(rng.next_u32()) / f64::from(1u32 << 31) - 1.0;
        let embed = self.template.dim();
        let Triplets { left, right, values } = leading_triplets(&whitened, embed, start)?;
        drop(whitened);
        let mut head = self.template.narrowed(values.len());
        for ((side, factor), mut directions) in
            [Side::Image, Side::Text].into_iter().zip(&factors).zip([left, right])
        {
            solve_upper(factor, &mut directions);
            self.set(&mut head, side, directions.as_ref())?;
        }
        Ok((head, values))
    }

    /// Sets a side of a head to the projection of its centred and scaled features. The weights have the root mean
    /// square of a fresh layer of the same shape, as those of the other closed forms.
    fn set(&self, head: &mut Head, side: Side, directions: MatRef<f64>) -> Result<()> {
        let (dim, means, scales) =
            (head.feature_dim(side), &self.means[side as usize], self.scales[side as usize]);
        let (rows, width) = (directions.nrows(), directions.ncols());
        let scale = |i: usize| scales[usize::from(i >= dim)];
        let weights = Mat::from_fn(rows, width, |i, j| scale(i) * directions[(i, j)]);
        let squares: f64 = weights.col_iter().map(|column| column.iter().map(|x| x * x).sum::<f64>()).sum();
        let rms = (squares / (rows * width) as f64).sqrt();
        let factor = if rms > 0.0 { (2.0 / (rows + width) as f64).sqrt() / rms } else { 0.0 };
        let (mut linear, mut fourier, mut bias) = (Vec::new(), Vec::new(), Vec::new());
        for column in weights.col_iter() {
            let row: Vec<f64> = column.iter().map(|x| factor * x).collect();
            bias.push(-row.iter().zip(means).map(|(w, mean)| w * mean).sum::<f64>() as f32);
            linear.extend(row[..dim].iter().map(|&x| x as f32));
            fourier.extend(row[dim..].iter().map(|&x| x as f32));
        }
        head.set_side(side, &linear, &bias)?;
        let [weight, _] = head.derived(side);
        weight.map_or(Ok(()), |weight| weight.set(&mut head.values, &fourier))
    }
}
