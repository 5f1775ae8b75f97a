//! The Gaussian kernel of a batch and the landmarks on the device, and the linear layer on it (docs/math.md,
//! "Landmarks").

use super::encoder::{Encoder, linear, sliced};
use super::layout::LandmarkLayout;
use super::pooling::{fit, reshape};
use crate::Result;
#[cfg(feature = "native")]
use crate::device::MatMut;
use crate::device::padded;
use crate::device::{Buffer, Commands, Device, Mat, Matrix};
use crate::kernels::{Product, accumulate, column_sum, gaussian, l2norm, matmul};
#[cfg(feature = "native")]
use crate::kernels::{gaussian_backward, l2norm_backward};

/// The landmarks over which the kernel is averaged.
const SAMPLE: usize = 512;

/// One row per row of the features.
pub(crate) struct Landmarks {
    layout: LandmarkLayout,
    /// The features, of length 1 `[rows, dim]`, and their lengths before.
    unit: Matrix,
    norms: Buffer<f32>,
    /// `[rows, landmarks]`
    exponents: Matrix,
    pub kernel: Matrix,
    centre: Option<Centre>,
}

/// The mean of the kernel, which training subtracts (docs/math.md, "Centred kernel").
struct Centre {
    /// `[1, landmarks]`
    mean: Matrix,
    /// Minus the sum of the gradient at the output `[1, embed]`.
    sum: Matrix,
    /// The layer's output for the mean before an update, and minus its change `[1, embed]`.
    at_mean: Matrix,
    moved: Matrix,
}

impl Centre {
    /// The layer's output for the mean.
    fn output(&mut self, commands: &mut Commands, weight: Mat) -> Result<()> {
        matmul(commands, sliced(Product::nt(self.mean.view(), weight)), self.at_mean.view_mut())
    }
}

impl Encoder {
    /// The same encoder, trained on the centred kernel if it has landmarks and the parameters are given.
    pub fn centred(mut self, device: &Device, values: Option<&Buffer<f32>>) -> Result<Self> {
        if let (Some(landmarks), Some(values)) = (&mut self.landmarks, values) {
            landmarks.centre(device, values)?;
        }
        Ok(self)
    }

    /// Call this before an update of the parameters.
    pub fn begin_update(&mut self, commands: &mut Commands, values: &Buffer<f32>) -> Result<()> {
        let Some(Landmarks { layout, centre: Some(centre), .. }) = &mut self.landmarks else { return Ok(()) };
        centre.output(commands, layout.weight.of(values))?;
        let (from, len) = (centre.at_mean.buffer.view(), centre.at_mean.cols);
        accumulate(commands, (from, len), 1.0, (centre.moved.buffer.view_mut(), 0), false)
    }

    /// Call this after an update of the parameters. The bias takes back what the new weights change at the mean of the
    /// kernel.
    pub fn end_update(&mut self, commands: &mut Commands, values: &mut Buffer<f32>) -> Result<()> {
        let Some(Landmarks { layout, centre: Some(centre), .. }) = &mut self.landmarks else { return Ok(()) };
        centre.output(commands, layout.weight.of(values))?;
        let (Centre { at_mean, moved, .. }, len) = (centre, self.layout.bias.cols);
        accumulate(commands, (at_mean.buffer.view(), len), -1.0, (moved.buffer.view_mut(), 0), true)?;
        let bias = self.layout.bias.of_mut(values).data;
        accumulate(commands, (moved.buffer.view(), len), 1.0, (bias, 0), true)
    }
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
            centre: None,
        })
    }

    /// Takes the mean of the kernel over at most [`SAMPLE`] landmarks, evenly spaced. From then on, the weights are
    /// trained as those of a layer on the kernel minus this mean.
    fn centre(&mut self, device: &Device, values: &Buffer<f32>) -> Result<()> {
        let mut commands = device.commands();
        let (n, embed) = (self.layout.rows.rows, self.layout.weight.rows);
        let rows = n.min(SAMPLE);
        let all = self.layout.rows.of(values);
        let mut sample = Matrix::new(device, "sample of landmarks", rows, all.cols)?;
        let stride = padded(all.cols);
        for row in 0..rows {
            let from = row * n / rows;
            let from = (all.part(&(from..from + 1)).data, stride);
            accumulate(&mut commands, from, 1.0, (sample.buffer.view_mut(), row * stride), false)?;
        }
        self.reshape(device, rows)?;
        self.compare(&mut commands, values, sample.view(), true)?;
        let row = |cols| Matrix::new(device, "mean of the kernel", 1, cols);
        let (mut sum, mut mean) = (row(n)?, row(n)?);
        column_sum(&mut commands, self.kernel.view(), sum.buffer.view_mut())?;
        let to = (mean.buffer.view_mut(), 0);
        accumulate(&mut commands, (sum.buffer.view(), n), 1.0 / rows as f32, to, false)?;
        commands.submit()?;
        self.centre = Some(Centre { mean, sum: row(embed)?, at_mean: row(embed)?, moved: row(embed)? });
        Ok(())
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
        let Self { layout, unit, norms, exponents, kernel, .. } = self;
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

    /// Overwrites the gradient of the weights, on the centred kernel if there is a mean.
    pub fn backward(
        &mut self,
        commands: &mut Commands,
        d_projected: Mat,
        gradients: &mut Buffer<f32>,
    ) -> Result<()> {
        let product = sliced(Product::tn(d_projected, self.kernel.view()));
        matmul(commands, product, self.layout.weight.of_mut(gradients))?;
        let Some(Centre { mean, sum, moved, .. }) = &mut self.centre else { return Ok(()) };
        column_sum(commands, d_projected, moved.buffer.view_mut())?;
        accumulate(commands, (moved.buffer.view(), sum.cols), -1.0, (sum.buffer.view_mut(), 0), false)?;
        let product = Product { accumulate: true, ..Product::tn(sum.view(), mean.view()) };
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
