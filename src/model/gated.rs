//! The gated perceptron of a side's encoder: linear(gate(linear, linear)) (docs/math.md, "Gated encoder").

use super::encoder::{linear, sliced};
use super::layout::GatedLayout;
use super::pooling::reshape;
use crate::Result;
use crate::device::{Buffer, Commands, Device, Mat, Matrix};
use crate::kernels::{Product, column_sum, gate, gate_backward, matmul};

/// One row per row of the features.
pub(super) struct Gated {
    layout: GatedLayout,
    /// The two factors of the hidden layer `[rows, m]`. The backward pass replaces them with their gradients.
    factors: [Matrix; 2],
    /// The hidden layer `[rows, m]`. The backward pass replaces it with its gradient.
    hidden: Matrix,
}

impl Gated {
    pub fn new(device: &Device, layout: &GatedLayout, rows: usize) -> Result<Self> {
        let matrix = |label| Matrix::new(device, label, rows, layout.gate[0].rows);
        let factors = [matrix("gate")?, matrix("gated value")?];
        Ok(Self { layout: layout.clone(), factors, hidden: matrix("gated")? })
    }

    /// Makes room for a batch.
    pub fn reshape(&mut self, device: &Device, rows: usize) -> Result<()> {
        let (m, [first, second]) = (self.layout.gate[0].rows, &mut self.factors);
        [first, second, &mut self.hidden]
            .into_iter()
            .try_for_each(|matrix| reshape(device, "gated perceptron", matrix, rows, m))
    }

    /// Adds the output of the perceptron for `features` to `projected`.
    pub fn forward(
        &mut self,
        commands: &mut Commands,
        values: &Buffer<f32>,
        features: Mat,
        training: bool,
        projected: &mut Matrix,
    ) -> Result<()> {
        let Self { layout, factors: [a, b], hidden } = self;
        let of = |[weight, bias]: &[super::Segment; 2]| (weight.of(values), Some(bias.of(values)));
        linear(commands, features, of(&layout.gate), [training, false], a.view_mut())?;
        linear(commands, features, of(&layout.value), [training, false], b.view_mut())?;
        gate(commands, a.view(), b.view(), hidden.view_mut())?;
        linear(commands, hidden.view(), of(&layout.second), [training, true], projected.view_mut())
    }

    /// Overwrites the gradients of the parameters.
    pub fn backward(
        &mut self,
        commands: &mut Commands,
        values: &Buffer<f32>,
        features: Mat,
        d_projected: Mat,
        gradients: &mut Buffer<f32>,
    ) -> Result<()> {
        let Self { layout, factors: [a, b], hidden } = self;
        let [second, second_bias] = &layout.second;
        matmul(commands, sliced(Product::tn(d_projected, hidden.view())), second.of_mut(gradients))?;
        column_sum(commands, d_projected, second_bias.of_mut(gradients).data)?;
        matmul(commands, sliced(Product::nn(d_projected, second.of(values))), hidden.view_mut())?;
        gate_backward(commands, hidden.view(), a.view_mut(), b.view_mut())?;
        for (d, [weight, bias]) in [(a, &layout.gate), (b, &layout.value)] {
            matmul(commands, sliced(Product::tn(d.view(), features)), weight.of_mut(gradients))?;
            column_sum(commands, d.view(), bias.of_mut(gradients).data)?;
        }
        Ok(())
    }

    /// Adds to the gradient at the features. Call it after [`Gated::backward`].
    #[cfg(feature = "native")]
    pub fn feature_gradient(
        &self,
        commands: &mut Commands,
        values: &Buffer<f32>,
        d_features: &mut Matrix,
    ) -> Result<()> {
        let Self { layout, factors: [a, b], .. } = self;
        for (d, [weight, _]) in [(a, &layout.gate), (b, &layout.value)] {
            let product = Product { accumulate: true, ..Product::nn(d.view(), weight.of(values)) };
            matmul(commands, product, d_features.rows_mut(0..d.rows))?;
        }
        Ok(())
    }
}
