//! The perceptron of a side's encoder: linear, batch norm, relu, linear (docs/math.md, "Residual encoder").

use super::encoder::sliced;
use super::layout::MlpLayout;
use super::pooling::reshape;
use crate::Result;
use crate::device::{Buffer, Commands, Device, Mat, Matrix};
use crate::kernels::{NormGradient, Product, batch_norm_backward, column_sum, matmul};

pub(super) struct Mlp {
    pub layout: MlpLayout,
    pub running: Buffer<f32>,
    /// The running statistics after the current batch: see [`super::Encoder::keep_statistics`].
    pub moved: Buffer<f32>,
    pub moves: bool,
    pub stats: Buffer<f32>,
    pub hidden: Matrix,
    pub active: Matrix,
    pub d_active: Matrix,
    pub d_hidden: Matrix,
    /// Rows of padding that the last row stands for.
    pub repeats: usize,
}

impl Mlp {
    pub fn new(device: &Device, layout: &MlpLayout, values: &[f32]) -> Result<Self> {
        let empty = || Matrix::new(device, "perceptron", 1, 1);
        let running = layout.running.range.clone();
        Ok(Self {
            moved: Buffer::new(device, "moved", running.len())?,
            moves: false,
            stats: Buffer::new(device, "stats", running.len())?,
            running: Buffer::from_slice(device, "running", &values[running])?,
            layout: layout.clone(),
            hidden: empty()?,
            active: empty()?,
            d_active: empty()?,
            d_hidden: empty()?,
            repeats: 0,
        })
    }

    pub fn backward(
        &mut self,
        (device, commands): (&Device, &mut Commands),
        values: &Buffer<f32>,
        features: Mat,
        d_projected: Mat,
        gradients: &mut Buffer<f32>,
    ) -> Result<()> {
        let Self { layout, stats, hidden, active, d_active, d_hidden, repeats, .. } = self;
        let [second, second_bias] = &layout.second;
        for matrix in [&mut *d_active, &mut *d_hidden] {
            reshape(device, "perceptron gradient", matrix, active.rows, active.cols)?;
        }
        let rows = 0..d_projected.rows;
        let product = Product::tn(d_projected, active.rows(rows.clone()));
        matmul(commands, sliced(product), second.of_mut(gradients))?;
        column_sum(commands, d_projected, second_bias.of_mut(gradients).data)?;
        matmul(commands, sliced(Product::nn(d_projected, second.of(values))), d_active.rows_mut(rows))?;
        let from = NormGradient {
            x: hidden.view(),
            y: active.view(),
            dy: d_active.view(),
            stats: stats.view(),
            affine: layout.norm.of(values).data,
            repeats: *repeats,
        };
        let d_affine = layout.norm.of_mut(gradients).data;
        batch_norm_backward(commands, from, d_hidden.view_mut(), d_affine)?;
        // Batch norm cancels the first bias, so its gradient is 0 and its place in the buffer stays 0. A rounded sum
        // would be noise, which AdamW scales to full steps.
        matmul(commands, sliced(Product::tn(d_hidden.view(), features)), layout.first[0].of_mut(gradients))
    }
}
