//! Generalised pooling of a batch on the device: weights, forward and backward
//! (docs/math.md, "Generalised pooling").
//!
//! ```text
//! encoding -> matmul -> gru -> gpo_weights; features -> gpo_order -> gpo
//! gpo_backward, gpo_dots -> gpo_weights_backward -> gru_backward -> matmul, column_sum
//! ```
//!
//! The weights depend only on an item's length, so there is one row of weights per length bucket. Owns the memory in
//! between. The caller owns the parameters.

use super::layout::GpoLayout;
use crate::device::{Backend, Buffer, Commands, Device, Element, Mat, MatMut, Matrix, padded};
use crate::kernels::{
    Chains, GruGradient, GruTrace, GruWeights, Product, Ragged, column_sum, gpo, gpo_backward, gpo_dots,
    gpo_order, gpo_weights, gpo_weights_backward, gru, gru_backward, matmul,
};
use crate::{Error, Result};

/// Makes a buffer hold at least `len` elements. Its content may be lost.
pub(crate) fn fit<T: Element>(
    device: &Device,
    label: &str,
    buffer: &mut Buffer<T>,
    len: usize,
) -> Result<()> {
    if buffer.len() < len {
        // Allocate more than needed, so that batches of varying sizes soon need no new memory.
        *buffer = Buffer::new(device, label, len + len / 8)?;
    }
    Ok(())
}

/// Changes the shape of a matrix. Its content may be lost.
pub(crate) fn reshape(
    device: &Device,
    label: &str,
    matrix: &mut Matrix,
    rows: usize,
    cols: usize,
) -> Result<()> {
    fit(device, label, &mut matrix.buffer, rows * padded(cols))?;
    (matrix.rows, matrix.cols) = (rows, cols);
    Ok(())
}

/// Checks the offsets of a batch's items over `rows` rows; returns the length of the longest.
///
/// # Errors
/// Offsets that do not run from 0 to `rows`, or an item without a row.
pub(crate) fn check_offsets(offsets: &[u32], rows: usize) -> Result<usize> {
    let ends = offsets.first() == Some(&0) && offsets.last().map(|&last| last as usize) == Some(rows);
    let empty = offsets.windows(2).position(|item| item[0] >= item[1]);
    let found = match (ends, empty) {
        (true, None) if offsets.len() > 1 => {
            return Ok(offsets.windows(2).map(|item| (item[1] - item[0]) as usize).max().unwrap_or(0));
        }
        (true, Some(item)) => format!("item {item} without a row"),
        _ => format!("{:?} to {:?}", offsets.first(), offsets.last()),
    };
    let expected = format!("items of 1 row or more, from 0 to {rows}");
    Err(Error::config(
        "offsets of local features",
        expected,
        found,
        "give each item its rows, one after the other",
    ))
}

/// Checks that a device can bind `rows` + 1 rows of width `cols` at once. Kernels on local rows, unlike matrix
/// products, are not split.
///
/// # Errors
/// More rows than the device can bind.
pub(crate) fn check_rows(
    device: &Device,
    thing: impl std::fmt::Display,
    rows: usize,
    cols: usize,
) -> Result<()> {
    let Device(Backend::Gpu(gpu), ..) = device else { return Ok(()) };
    let (bytes, most) = (4 * padded(cols) * (rows + 1), gpu.max_binding());
    if bytes <= most {
        return Ok(());
    }
    let (expected, found) = (format!("at most {most} bytes of them"), format!("{bytes} bytes"));
    let advice = "use a smaller --batch or --embed, or --device cpu";
    Err(Error::device(format!("{thing} of {rows} rows"), expected, found, advice))
}

pub(crate) struct Gpo {
    layout: GpoLayout,
    encoding: Matrix,
    /// The offsets of the items: item i owns the rows `offsets[i]..offsets[i + 1]`.
    offsets: Buffer<u32>,
    length_bucket: Buffer<u32>,
    /// The length of each length bucket.
    lengths: Buffer<u32>,
    items: usize,
    count: usize,
    longest: usize,
    projected: Matrix,
    states: Matrix,
    previous: Matrix,
    gates: Matrix,
    mean: Matrix,
    theta: Matrix,
    order: Buffer<u32>,
    parts: Buffer<f32>,
    d_scores: Matrix,
    d_input: Matrix,
    d_hidden: Matrix,
    d_projected: Matrix,
}

impl Gpo {
    pub fn new(device: &Device, layout: &GpoLayout) -> Result<Self> {
        let matrix = || Matrix::new(device, "gpo", 1, 1);
        let indices = || Buffer::new(device, "gpo", 1);
        Ok(Self {
            layout: layout.clone(),
            encoding: matrix()?,
            offsets: indices()?,
            length_bucket: indices()?,
            lengths: indices()?,
            items: 0,
            count: 0,
            longest: 0,
            projected: matrix()?,
            states: matrix()?,
            previous: matrix()?,
            gates: matrix()?,
            mean: matrix()?,
            theta: matrix()?,
            order: indices()?,
            parts: Buffer::new(device, "gpo", 1)?,
            d_scores: matrix()?,
            d_input: matrix()?,
            d_hidden: matrix()?,
            d_projected: matrix()?,
        })
    }

    /// Prepares for the items of a batch, whose features have `cols` columns. `offsets` must be checked.
    pub fn set_items(&mut self, device: &Device, offsets: &[u32], cols: usize) -> Result<()> {
        let lengths = offsets.windows(2).map(|item| item[1] - item[0]);
        let mut length_buckets: Vec<u32> = lengths.clone().collect();
        length_buckets.sort_unstable();
        length_buckets.dedup();
        let length_bucket: Vec<u32> =
            lengths.map(|length| length_buckets.partition_point(|&other| other < length) as u32).collect();
        for (label, buffer, values) in [
            ("gpo.offsets", &mut self.offsets, offsets),
            ("gpo.length_bucket", &mut self.length_bucket, &length_bucket),
            ("gpo.lengths", &mut self.lengths, &length_buckets),
        ] {
            fit(device, label, buffer, values.len())?;
            buffer.write(device, 0, values)?;
        }
        (self.items, self.count) = (length_bucket.len(), length_buckets.len());
        let longest = length_buckets.last().map_or(0, |&longest| longest as usize);
        let GpoLayout { weight_ih, v, .. } = &self.layout;
        let (encoding, hidden) = (weight_ih.cols, v.cols);
        let slots = padded(longest);
        if longest != self.longest {
            // The encodings are not valid until they are written.
            self.longest = 0;
            reshape(device, "gpo.encoding", &mut self.encoding, slots, encoding)?;
            self.encoding.buffer.write(device, 0, &positions(slots, encoding))?;
            self.longest = longest;
        }
        let rows = (1 + self.count) * slots;
        for (label, matrix, rows, cols) in [
            ("gpo.projected", &mut self.projected, slots, 6 * hidden),
            ("gpo.states", &mut self.states, rows, hidden),
            ("gpo.previous", &mut self.previous, rows, hidden),
            ("gpo.gates", &mut self.gates, rows, 4 * hidden),
            ("gpo.mean", &mut self.mean, rows - slots, hidden),
            ("gpo.theta", &mut self.theta, self.count, slots),
        ] {
            reshape(device, label, matrix, rows, cols)?;
        }
        let rows = offsets.last().map_or(0, |&rows| rows as usize);
        fit(device, "gpo.order", &mut self.order, rows * padded(cols))
    }

    /// Pools `features [rows, cols]` to `pooled [items, cols]`.
    pub fn forward(
        &mut self,
        commands: &mut Commands,
        values: &Buffer<f32>,
        features: Mat,
        pooled: MatMut,
    ) -> Result<()> {
        let Self { layout, encoding, lengths, count, longest, .. } = self;
        let chains = Chains { lengths: lengths.part(0..*count), count: *count, longest: *longest };
        let product = Product::nt(encoding.view(), layout.weight_ih.of(values));
        let bias = Some(layout.bias_ih.of(values).data);
        matmul(commands, Product { bias, ..product }, self.projected.view_mut())?;
        let weights =
            GruWeights { weight: layout.weight_hh.of(values), bias: layout.bias_hh.of(values).data };
        let trace = GruTrace {
            states: self.states.view_mut(),
            previous: self.previous.view_mut(),
            gates: self.gates.view_mut(),
        };
        gru(commands, chains, self.projected.view(), weights, trace)?;
        let (v, states) = (layout.v.of(values).data, self.states.view());
        gpo_weights(commands, chains, states, v, self.mean.view_mut(), self.theta.view_mut())?;
        let items = ragged(&self.offsets, &self.length_bucket, self.items, self.longest);
        let size = features.rows * features.stride();
        gpo_order(commands, items, features, self.order.part_mut(0..size))?;
        gpo(commands, items, features, self.order.part(0..size), self.theta.view(), pooled)
    }

    /// From the gradient `g [items, cols]` at the pooled rows to `d_features [rows, cols]` and the gradients of the
    /// parameters, which overwrite their places in `gradients`. Call it after [`Gpo::forward`] of the same batch.
    pub fn backward(
        &mut self,
        (device, commands): (&Device, &mut Commands),
        values: &Buffer<f32>,
        features: Mat,
        g: Mat,
        d_features: MatMut,
        gradients: &mut Buffer<f32>,
    ) -> Result<()> {
        let Self { layout, lengths, count, longest, theta, .. } = self;
        let (count, longest) = (*count, *longest);
        let chains = Chains { lengths: lengths.part(0..count), count, longest };
        let (slots, rows, hidden) = (chains.slots(), chains.rows(), layout.v.cols);
        for (label, matrix, rows, cols) in [
            ("gpo.d_scores", &mut self.d_scores, count, slots),
            ("gpo.d_input", &mut self.d_input, rows, 6 * hidden),
            ("gpo.d_hidden", &mut self.d_hidden, rows, 6 * hidden),
            ("gpo.d_projected", &mut self.d_projected, slots, 6 * hidden),
        ] {
            reshape(device, label, matrix, rows, cols)?;
        }
        fit(device, "gpo.parts", &mut self.parts, features.rows)?;
        let items = ragged(&self.offsets, &self.length_bucket, self.items, longest);
        let order = self.order.part(0..features.rows * features.stride());
        gpo_backward(commands, items, g, order, theta.view(), d_features)?;
        gpo_dots(commands, items, g, features, order, self.parts.part_mut(0..features.rows))?;
        let parts = self.parts.part(0..features.rows);
        gpo_weights_backward(commands, chains, items, parts, theta.view(), self.d_scores.view_mut())?;
        // dv = sum over all lengths and positions of ds m.
        let scores = self.d_scores.view();
        let all = Mat { rows: 1, cols: count * slots, ..scores };
        matmul(commands, Product::nn(all, self.mean.view()), layout.v.of_mut(gradients))?;
        let from = GruGradient {
            d_scores: scores,
            v: layout.v.of(values).data,
            weight: layout.weight_hh.of(values),
            previous: self.previous.view(),
            gates: self.gates.view(),
        };
        gru_backward(commands, chains, from, self.d_input.view_mut(), self.d_hidden.view_mut())?;
        let d_hidden = self.d_hidden.view();
        let product = Product::tn(d_hidden, self.previous.view());
        matmul(commands, product, layout.weight_hh.of_mut(gradients))?;
        column_sum(commands, d_hidden, layout.bias_hh.of_mut(gradients).data)?;
        // All chains read the same encodings: the sum over them is the gradient at a position's W_i e + b_i.
        let chainwise = Mat { rows: 1 + count, cols: slots * padded(6 * hidden), ..self.d_input.view() };
        column_sum(commands, chainwise, self.d_projected.buffer.part_mut(0..chainwise.cols))?;
        let d_projected = self.d_projected.view();
        let product = Product::tn(d_projected, self.encoding.view());
        matmul(commands, product, layout.weight_ih.of_mut(gradients))?;
        column_sum(commands, d_projected, layout.bias_ih.of_mut(gradients).data)
    }

    /// Weights of every item `[items, longest]`, 0 past its end. Waits.
    #[cfg(feature = "native")]
    pub async fn weights(&self, device: &Device) -> Result<Vec<f32>> {
        let theta = self.theta.to_rows(device).await?;
        let length_bucket = self.length_bucket.read(device, 0..self.items).await?;
        let row = |&length_bucket: &u32| &theta[length_bucket as usize * self.theta.cols..][..self.longest];
        Ok(length_bucket.iter().flat_map(row).copied().collect())
    }
}

fn ragged<'a>(
    offsets: &'a Buffer<u32>,
    length_bucket: &'a Buffer<u32>,
    count: usize,
    longest: usize,
) -> Ragged<'a> {
    Ragged {
        offsets: offsets.part(0..count + 1),
        length_bucket: length_bucket.part(0..count),
        count,
        longest,
    }
}

/// Encodings of positions `[count, width]`, rows padded: sin and cos of t / 10000^(2j / width) in turn.
fn positions(count: usize, width: usize) -> Vec<f32> {
    let mut out = vec![0.0; count * padded(width)];
    for (t, row) in out.chunks_exact_mut(padded(width)).enumerate() {
        for (k, e) in row[..width].iter_mut().enumerate() {
            let even = (k - k % 2) as f64;
            let angle = t as f64 * 10000f64.powf(-even / width as f64);
            *e = if k % 2 == 0 { angle.sin() } else { angle.cos() } as f32;
        }
    }
    out
}
