//! Random Fourier features of a batch on the device, and the linear layer on them (docs/math.md, "Random features").

use super::encoder::linear;
use super::layout::FourierLayout;
use super::pooling::reshape;
use crate::Result;
#[cfg(feature = "native")]
use crate::device::MatMut;
use crate::device::{Buffer, Commands, Device, Mat, Matrix};
#[cfg(feature = "native")]
use crate::kernels::cosine_backward;
use crate::kernels::{Product, cosine, matmul};

/// One row per row of the features.
pub(super) struct Fourier {
    layout: FourierLayout,
    /// In turns `[rows, m]`.
    angles: Matrix,
    cosines: Matrix,
}

impl Fourier {
    pub fn new(device: &Device, layout: &FourierLayout, rows: usize) -> Result<Self> {
        let matrix = |label| Matrix::new(device, label, rows, layout.weight.cols);
        Ok(Self { layout: layout.clone(), angles: matrix("angles")?, cosines: matrix("cosines")? })
    }

    /// Makes room for a batch.
    pub fn reshape(&mut self, device: &Device, rows: usize) -> Result<()> {
        let Self { layout, angles, cosines } = self;
        [angles, cosines]
            .into_iter()
            .try_for_each(|matrix| reshape(device, "random features", matrix, rows, layout.weight.cols))
    }

    /// Adds the layer on the random features of `features` to `projected`.
    pub fn forward(
        &mut self,
        commands: &mut Commands,
        values: &Buffer<f32>,
        features: Mat,
        training: bool,
        projected: &mut Matrix,
    ) -> Result<()> {
        let Self { layout, angles, cosines } = self;
        let layer = (layout.frequency.of(values), Some(layout.phase.of(values)));
        linear(commands, features, layer, [training, false], angles.view_mut())?;
        cosine(commands, angles.view(), cosines.view_mut())?;
        let layer = (layout.weight.of(values), None);
        linear(commands, cosines.view(), layer, [training, true], projected.view_mut())
    }

    /// Overwrites the gradient of the weights.
    pub fn backward(
        &self,
        commands: &mut Commands,
        d_projected: Mat,
        gradients: &mut Buffer<f32>,
    ) -> Result<()> {
        let product = Product { sliced: true, ..Product::tn(d_projected, self.cosines.view()) };
        matmul(commands, product, self.layout.weight.of_mut(gradients))
    }

    /// Adds to the gradient at the features.
    #[cfg(feature = "native")]
    pub fn feature_gradient(
        &self,
        (device, commands): (&Device, &mut Commands),
        values: &Buffer<f32>,
        d_projected: Mat,
        d_features: MatMut,
    ) -> Result<()> {
        let Self { layout, angles, .. } = self;
        let new = || Matrix::new(device, "d.cosines", angles.rows, angles.cols);
        let (mut d_cosines, mut d_angles) = (new()?, new()?);
        matmul(commands, Product::nn(d_projected, layout.weight.of(values)), d_cosines.view_mut())?;
        cosine_backward(commands, angles.view(), d_cosines.view(), d_angles.view_mut())?;
        let product = Product::nn(d_angles.view(), layout.frequency.of(values));
        matmul(commands, Product { accumulate: true, ..product }, d_features)
    }
}
