//! One side's encoder on the device: from a batch of features to unit rows, and back.
//!
//! ```text
//! pooled:  features -> linear (+ random features, landmarks, perceptron) -> l2norm
//! local:   features -> linear (+ random features, landmarks, perceptron) -> generalised pooling -> l2norm
//! ```
//!
//! Owns the memory of a batch and the running statistics. The caller owns the parameters. If the encoder has a
//! perceptron with batch norm, one row of zeros follows the features. It stands for the padding to the longest item, which batch norm
//! treats as data (docs/math.md, "Batch norm").

use super::fourier::Fourier;
use super::gated::Gated;
use super::landmarks::Landmarks;
use super::layout::SideLayout;
use super::perceptron::Mlp;
use super::{Head, Segment, Side};
use crate::device::{
    Backend, Buffer, Commands, Device, Mat, MatMut, Matrix, ROWS_AT_ONCE, Slice, Upload, padded,
};
use crate::kernels::{
    Product, accumulate, batch_norm, check_environment, column_sum, l2norm, l2norm_backward, matmul, widen,
};
use crate::model::pooling::{Gpo, check_offsets, check_rows, reshape};
use crate::{Error, Result};

pub(crate) struct Encoder {
    name: &'static str,
    pub(super) layout: SideLayout,
    features: Matrix,
    fourier: Option<Fourier>,
    pub(super) landmarks: Option<Landmarks>,
    mlp: Option<Mlp>,
    gated: Option<Gated>,
    /// The features of a batch that was uploaded as f16, two per u32. `halved` says whether this batch was.
    halves: Buffer<u32>,
    halved: bool,
    /// Output of the linear layers, one row per row of the features.
    projected: Matrix,
    pooling: Option<Pooling>,
    pub unit: Matrix,
    norms: Buffer<f32>,
    /// Gradient at the unit rows.
    pub d_unit: Matrix,
    /// Gradient at the rows before the normalisation.
    d_pooled: Matrix,
}

struct Pooling {
    gpo: Gpo,
    pooled: Matrix,
    d_projected: Matrix,
}

/// Computes y = W x + b, or y += W x + b with `accumulate`.
pub(super) fn linear(
    commands: &mut Commands,
    x: Mat,
    (weight, bias): (Mat, Option<Mat>),
    [training, accumulate]: [bool; 2],
    y: MatMut,
) -> Result<()> {
    // Outside of training, the embedding of a row must not depend on the other rows.
    let product = Product { sliced: training, ..Product::nt(x, weight) };
    matmul(commands, Product { bias: bias.map(|bias| bias.data), accumulate, ..product }, y)
}

fn name(side: Side) -> &'static str {
    if side == Side::Image { "image" } else { "text" }
}

pub(super) fn sliced(product: Product) -> Product {
    Product { sliced: true, ..product }
}

impl Encoder {
    /// Checks that a device takes batches of `items` items with features, embeddings and further features so wide: random
    /// features, landmarks, or the hidden layer of a gated perceptron.
    ///
    /// # Errors
    /// Rows so wide that the device cannot bind the smallest piece of a matrix product.
    pub fn check(device: &Device, side: Side, [dim, embed, m]: [usize; 3], items: usize) -> Result<()> {
        check_environment()?;
        let Device(Backend::Gpu(gpu), ..) = device else { return Ok(()) };
        let name = name(side);
        for (thing, width, rows) in [
            (format!("{name} features"), dim, items.max(embed).max(m)),
            (format!("{name} random features, landmarks or hidden layer"), m, items.max(embed)),
            (format!("{name} embeddings"), embed, items),
        ] {
            let most = gpu.max_binding() / (4 * rows.min(ROWS_AT_ONCE));
            if padded(width) > most {
                let expected =
                    format!("rows of at most {} columns, which {} takes", most / 4 * 4, gpu.info().name);
                let advice = "use --device cpu, or make the rows narrower, for example by a principal component analysis";
                return Err(Error::device(thing, expected, width, advice));
            }
        }
        Ok(())
    }

    /// For batches of up to `items` items. A larger batch allocates memory.
    pub fn new(device: &Device, head: &Head, side: Side, items: usize) -> Result<Self> {
        let layout = head.layout.side(side);
        let (embed, dim) = (layout.weight.rows, layout.weight.cols);
        let compared = layout.landmarks.as_ref().map_or(0, |landmarks| landmarks.weight.cols);
        let m = head.layout.random_features.max(compared).max(head.layout.gated(side));
        Self::check(device, side, [dim, embed, m], items)?;
        let name = name(side);
        let matrix = |what: &str, cols| Matrix::new(device, &format!("{name}.{what}"), items, cols);
        let mlp = layout.mlp.as_ref().map(|layout| Mlp::new(device, layout, &head.values)).transpose()?;
        let fourier =
            layout.fourier.as_ref().map(|layout| Fourier::new(device, layout, items)).transpose()?;
        let landmarks =
            layout.landmarks.as_ref().map(|layout| Landmarks::new(device, layout, items)).transpose()?;
        let gated = layout.gated.as_ref().map(|layout| Gated::new(device, layout, items)).transpose()?;
        let pooling = match &layout.gpo {
            None => None,
            Some(layout) => Some(Pooling {
                gpo: Gpo::new(device, layout)?,
                pooled: matrix("pooled", embed)?,
                d_projected: Matrix::new(device, name, 1, 1)?,
            }),
        };
        Ok(Self {
            name,
            layout,
            features: matrix("features", dim)?,
            halves: Buffer::new(device, "halves", 1)?,
            halved: false,
            fourier,
            landmarks,
            mlp,
            gated,
            projected: matrix("projected", embed)?,
            pooling,
            unit: matrix("unit", embed)?,
            norms: Buffer::new(device, &format!("{name}.norms"), items)?,
            d_unit: matrix("d_unit", embed)?,
            d_pooled: matrix("d_pooled", embed)?,
        })
    }

    /// Uploads a batch: padded rows, and the offsets of the items if the encoder pools.
    ///
    /// # Errors
    /// Offsets that are missing, not expected or wrong.
    pub fn upload(&mut self, device: &Device, rows: Upload<f32>, offsets: &[u32]) -> Result<()> {
        let (embed, dim) = (self.layout.weight.rows, self.layout.weight.cols);
        let (stride, count) = (padded(dim), rows.len() / padded(dim));
        let (items, longest) = match (&self.pooling, offsets) {
            (None, []) => (count, 1),
            (Some(_), [_, ..]) => (offsets.len() - 1, check_offsets(offsets, count)?),
            (pooling, _) => {
                let [expected, found] =
                    if pooling.is_some() { ["local", "pooled"] } else { ["pooled", "local"] };
                return Err(Error::config(
                    format!("{} features", self.name),
                    format!("{expected} ones"),
                    found,
                    "give the features that the head was made for",
                ));
            }
        };
        if self.pooling.is_some() || self.mlp.is_some() {
            check_rows(device, format!("{} batch", self.name), count, embed)?;
        }
        let name = self.name;
        let padding = usize::from(self.mlp.is_some());
        reshape(device, &format!("{name}.features"), &mut self.features, count + padding, dim)?;
        self.halved = matches!(rows, Upload::Halves(_));
        match rows {
            Upload::Halves(staged) => {
                crate::model::pooling::fit(
                    device,
                    &format!("{name}.halves"),
                    &mut self.halves,
                    count * stride / 2,
                )?;
                self.halves.upload(device, Upload::Staged(staged))?;
            }
            rows => self.features.buffer.upload(device, rows)?,
        }
        reshape(device, &format!("{name}.projected"), &mut self.projected, count, embed)?;
        for matrix in [&mut self.unit, &mut self.d_unit, &mut self.d_pooled] {
            reshape(device, name, matrix, items, embed)?;
        }
        self.reshape_layers(device, count)?;
        crate::model::pooling::fit(device, name, &mut self.norms, items)?;
        if let Some(mlp) = &mut self.mlp {
            self.features.buffer.write(device, count * stride, &vec![0.0; stride])?;
            mlp.repeats = items * longest - count;
            for matrix in [&mut mlp.hidden, &mut mlp.active] {
                reshape(device, "perceptron", matrix, count + 1, mlp.layout.running.cols)?;
            }
        }
        if let Some(pooling) = &mut self.pooling {
            reshape(device, name, &mut pooling.pooled, items, embed)?;
            pooling.gpo.set_items(device, offsets, embed)?;
        }
        Ok(())
    }

    /// Makes room for so many rows in the layers beside the linear one.
    fn reshape_layers(&mut self, device: &Device, count: usize) -> Result<()> {
        if let Some(fourier) = &mut self.fourier {
            fourier.reshape(device, count)?;
        }
        if let Some(landmarks) = &mut self.landmarks {
            landmarks.reshape(device, count)?;
        }
        if let Some(gated) = &mut self.gated {
            gated.reshape(device, count)?;
        }
        Ok(())
    }

    /// From the uploaded features to unit rows: [`Encoder::project`] and [`Encoder::normalise`].
    pub fn forward(&mut self, commands: &mut Commands, values: &Buffer<f32>, training: bool) -> Result<()> {
        self.project(commands, values, training)?;
        self.normalise(commands, values)
    }

    /// From the uploaded features to projected rows. With `training`, batch norm uses the statistics of the batch, and
    /// [`Encoder::keep_statistics`] updates the running ones.
    pub fn project(&mut self, commands: &mut Commands, values: &Buffer<f32>, training: bool) -> Result<()> {
        let SideLayout { weight, bias, .. } = &self.layout;
        let count = self.projected.rows;
        if self.halved {
            let len = count * padded(self.features.cols);
            widen(commands, self.halves.part(0..len / 2), self.features.buffer.view_mut(), len)?;
        }
        let of =
            |layer: &[Segment; 2]| -> (Mat, Option<Mat>) { (layer[0].of(values), Some(layer[1].of(values))) };
        let features = self.features.rows(0..count);
        let layer = (weight.of(values), Some(bias.of(values)));
        linear(commands, features, layer, [training, false], self.projected.view_mut())?;
        if let Some(fourier) = &mut self.fourier {
            fourier.forward(commands, values, features, training, &mut self.projected)?;
        }
        if let Some(landmarks) = &mut self.landmarks {
            landmarks.forward(commands, values, features, training, &mut self.projected)?;
        }
        if let Some(gated) = &mut self.gated {
            gated.forward(commands, values, features, training, &mut self.projected)?;
        }
        if let Some(Mlp { layout, running, moved, moves, stats, hidden, active, repeats, .. }) = &mut self.mlp
        {
            linear(commands, self.features.view(), of(&layout.first), [training, false], hidden.view_mut())?;
            let affine = layout.norm.of(values).data;
            *moves = training;
            if training {
                let len = running.len();
                accumulate(commands, (running.view(), len), 1.0, (moved.view_mut(), 0), false)?;
            }
            let statistics = [if training { moved } else { running }.view_mut(), stats.view_mut()];
            batch_norm(commands, hidden.view(), *repeats, training, affine, statistics, active.view_mut())?;
            let projected = self.projected.view_mut();
            linear(commands, active.rows(0..count), of(&layout.second), [training, true], projected)?;
        }
        Ok(())
    }

    /// The running statistics after the last training batch of [`Encoder::project`], and their place in a head's values.
    pub fn moved(&self) -> Option<(std::ops::Range<usize>, Slice<'_, f32>)> {
        let mlp = self.mlp.as_ref().filter(|mlp| mlp.moves)?;
        Some((mlp.layout.running.range.clone(), mlp.moved.view()))
    }

    /// Updates the running statistics to those after the last training batch of [`Encoder::project`]. A step that fails
    /// does not call this, so they stay unchanged.
    pub fn keep_statistics(&mut self) {
        if let Some(Mlp { running, moved, moves, .. }) = &mut self.mlp
            && std::mem::take(moves)
        {
            std::mem::swap(running, moved);
        }
    }

    /// The features of a batch, its unit rows, and the gradient at these. Without learned pooling, all have one row per
    /// item.
    pub fn before_and_after(&mut self) -> (Mat<'_>, Mat<'_>, MatMut<'_>) {
        (self.features.rows(0..self.projected.rows), self.unit.view(), self.d_unit.view_mut())
    }

    /// From projected rows to unit rows, one per item.
    pub fn normalise(&mut self, commands: &mut Commands, values: &Buffer<f32>) -> Result<()> {
        let mut normalised = self.projected.view();
        if let Some(Pooling { gpo, pooled, .. }) = &mut self.pooling {
            gpo.forward(commands, values, normalised, pooled.view_mut())?;
            normalised = pooled.view();
        }
        let norms = self.norms.part_mut(0..normalised.rows);
        l2norm(commands, normalised, self.unit.view_mut(), norms)
    }

    /// From `d_unit` to the gradients of the parameters, which overwrite their places in `gradients`. Call it after
    /// [`Encoder::forward`] in training.
    pub fn backward(
        &mut self,
        (device, commands): (&Device, &mut Commands),
        values: &Buffer<f32>,
        gradients: &mut Buffer<f32>,
    ) -> Result<()> {
        let (count, embed) = (self.projected.rows, self.projected.cols);
        let norms = self.norms.part(0..self.unit.rows);
        l2norm_backward(commands, self.d_unit.view(), self.unit.view(), norms, self.d_pooled.view_mut())?;
        let mut d_projected = self.d_pooled.view();
        if let Some(Pooling { gpo, d_projected: d_rows, .. }) = &mut self.pooling {
            reshape(device, self.name, d_rows, count, embed)?;
            let (projected, d_rows_mut) = (self.projected.view(), d_rows.view_mut());
            gpo.backward((device, commands), values, projected, d_projected, d_rows_mut, gradients)?;
            d_projected = d_rows.view();
        }
        let SideLayout { weight, bias, .. } = &self.layout;
        let features = self.features.rows(0..count);
        matmul(commands, sliced(Product::tn(d_projected, features)), weight.of_mut(gradients))?;
        column_sum(commands, d_projected, bias.of_mut(gradients).data)?;
        if let Some(fourier) = &self.fourier {
            fourier.backward(commands, d_projected, gradients)?;
        }
        if let Some(landmarks) = &mut self.landmarks {
            landmarks.backward(commands, d_projected, gradients)?;
        }
        if let Some(gated) = &mut self.gated {
            gated.backward(commands, values, self.features.rows(0..count), d_projected, gradients)?;
        }
        if let Some(mlp) = &mut self.mlp {
            mlp.backward((device, commands), values, self.features.view(), d_projected, gradients)?;
        }
        Ok(())
    }

    /// Overwrites `d_features [rows, dim]` with the gradient at the features. Call it after [`Encoder::backward`]. With
    /// batch norm there is one more row: the sum over the rows of padding.
    #[cfg(feature = "native")]
    pub fn feature_gradient(
        &self,
        (device, commands): (&Device, &mut Commands),
        values: &Buffer<f32>,
        d_features: &mut Matrix,
    ) -> Result<()> {
        let d_projected = self.pooling.as_ref().map_or(&self.d_pooled, |pooling| &pooling.d_projected);
        if let Some(mlp) = &self.mlp {
            let product = Product::nn(mlp.d_hidden.view(), mlp.layout.first[0].of(values));
            matmul(commands, product, d_features.view_mut())?;
        }
        let product = Product::nn(d_projected.view(), self.layout.weight.of(values));
        let product = Product { accumulate: self.mlp.is_some(), ..product };
        matmul(commands, product, d_features.rows_mut(0..d_projected.rows))?;
        if let Some(fourier) = &self.fourier {
            let d_features = d_features.rows_mut(0..d_projected.rows);
            fourier.feature_gradient((device, commands), values, d_projected.view(), d_features)?;
        }
        if let Some(landmarks) = &self.landmarks {
            let d_features = d_features.rows_mut(0..d_projected.rows);
            landmarks.feature_gradient((device, commands), values, d_projected.view(), d_features)?;
        }
        if let Some(gated) = &self.gated {
            gated.feature_gradient(commands, values, d_features)?;
        }
        Ok(())
    }

    /// Sets the padding of the uploaded batch to `longest` rows per item, instead of the rows of its longest item.
    #[cfg(feature = "native")]
    pub fn pad_to(&mut self, longest: usize) {
        if let Some(mlp) = &mut self.mlp {
            mlp.repeats = self.unit.rows * longest - self.projected.rows;
        }
    }

    /// Rows of padding of the uploaded batch that batch norm treats as data.
    #[cfg(feature = "native")]
    pub fn padding(&self) -> Option<usize> {
        self.mlp.as_ref().map(|mlp| mlp.repeats)
    }

    /// Copies the running statistics to their place in a head's values. Waits.
    pub async fn running(&self, device: &Device, values: &mut [f32]) -> Result<()> {
        if let Some(Mlp { layout, running, .. }) = &self.mlp {
            let range = layout.running.range.clone();
            values[range.clone()].copy_from_slice(&running.read(device, 0..range.len()).await?);
        }
        Ok(())
    }
}
