//! The Gaussian kernel of a batch and the landmarks on the device, and the linear layer on it (docs/math.md,
//! "Landmarks").

use super::encoder::linear;
use super::layout::LandmarkLayout;
use super::pooling::{fit, reshape};
use crate::Result;
use crate::device::{Buffer, Commands, Device, Mat, Matrix};
#[cfg(feature = "native")]
use crate::device::{MatMut, padded};
use crate::kernels::{Product, gaussian, l2norm, matmul};
#[cfg(feature = "native")]
use crate::kernels::{accumulate, gaussian_backward, l2norm_backward};

/// One row per row of the features.
pub(crate) struct Landmarks {
    layout: LandmarkLayout,
    /// The features, of length 1 `[rows, dim]`, and their lengths before.
    unit: Matrix,
    norms: Buffer<f32>,
    /// `[rows, landmarks]`
    exponents: Matrix,
    pub kernel: Matrix,
}

impl Landmarks {
    pub fn new(device: &Device, layout: &LandmarkLayout, rows: usize) -> Result<Self> {
        let matrix = |label, cols| Matrix::new(device, label, rows, cols);
        let (n, dim) = (layout.rows.rows, layout.rows.cols);
        Ok(Self {
            layout: layout.clone(),
            unit: matrix("unit features", dim)?,
            norms: Buffer::new(device, "norms of features", rows)?,
            exponents: matrix("exponents", n)?,
            kernel: matrix("kernel", n)?,
        })
    }

    /// Makes room for a batch.
    pub fn reshape(&mut self, device: &Device, rows: usize) -> Result<()> {
        let (n, dim) = (self.layout.rows.rows, self.layout.rows.cols);
        fit(device, "norms of features", &mut self.norms, rows)?;
        reshape(device, "unit features", &mut self.unit, rows, dim)?;
        [&mut self.exponents, &mut self.kernel]
            .into_iter()
            .try_for_each(|matrix| reshape(device, "kernel", matrix, rows, n))
    }

    /// Computes the kernel of `features` and the landmarks.
    pub fn compare(
        &mut self,
        commands: &mut Commands,
        values: &Buffer<f32>,
        features: Mat,
        training: bool,
    ) -> Result<()> {
        let Self { layout, unit, norms, exponents, kernel } = self;
        l2norm(commands, features, unit.view_mut(), norms.part_mut(0..features.rows))?;
        let layer = (layout.rows.of(values), Some(layout.shift.of(values)));
        linear(commands, unit.view(), layer, [training, false], exponents.view_mut())?;
        gaussian(commands, exponents.view(), kernel.view_mut())
    }

    /// Adds the layer on the kernel of `features` to `projected`.
    pub fn forward(
        &mut self,
        commands: &mut Commands,
        values: &Buffer<f32>,
        features: Mat,
        training: bool,
        projected: &mut Matrix,
    ) -> Result<()> {
        self.compare(commands, values, features, training)?;
        let layer = (self.layout.weight.of(values), None);
        linear(commands, self.kernel.view(), layer, [training, true], projected.view_mut())
    }

    /// Overwrites the gradient of the weights.
    pub fn backward(
        &self,
        commands: &mut Commands,
        d_projected: Mat,
        gradients: &mut Buffer<f32>,
    ) -> Result<()> {
        let product = Product { sliced: true, ..Product::tn(d_projected, self.kernel.view()) };
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
        let Self { layout, unit, norms, kernel, .. } = self;
        let new = |label, like: &Matrix| Matrix::new(device, label, like.rows, like.cols);
        let (mut d_kernel, mut d_exponents) = (new("d.kernel", kernel)?, new("d.exponents", kernel)?);
        let (mut d_unit, mut d_rows) = (new("d.unit features", unit)?, new("d.rows", unit)?);
        matmul(commands, Product::nn(d_projected, layout.weight.of(values)), d_kernel.view_mut())?;
        gaussian_backward(commands, kernel.view(), d_kernel.view(), d_exponents.view_mut())?;
        matmul(commands, Product::nn(d_exponents.view(), layout.rows.of(values)), d_unit.view_mut())?;
        let lengths = norms.part(0..unit.rows);
        l2norm_backward(commands, d_unit.view(), unit.view(), lengths, d_rows.view_mut())?;
        let len = unit.rows * padded(unit.cols);
        accumulate(commands, (d_rows.view().data, len), 1.0, (d_features.data, 0), true)
    }
}
