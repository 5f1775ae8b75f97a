//! The joint head: one linear layer a side, then the L2 norm (vse-models.md section 1).
//!
//! Owns the parameters and where each lies in the one flat buffer that the optimiser walks. It neither
//! trains nor reads features.

use crate::device::{Buffer, Mat, Slice, padded};
use crate::random::{Purpose, random};
use crate::{Error, Result};
use rand_chacha::rand_core::Rng;
use std::ops::Range;

/// Which of the two kinds of features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Image features.
    Image,
    /// Text features.
    Text,
}

/// Shift and scale of every column of one side: `x' = (x - mean) * inverse_std`.
#[derive(Debug, Clone, PartialEq)]
pub struct Standardizer {
    /// Mean of each column.
    pub mean: Vec<f32>,
    /// One over the (population) standard deviation of each column; 0 for a constant column.
    pub inverse_std: Vec<f32>,
}

/// Where each parameter lies: matrices with padded rows, each starting on a 256-byte boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Width of the features of each side.
    pub dims: [usize; 2],
    /// Width of the embedding.
    pub embed: usize,
}

/// A parameter of the head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    pub name: &'static str,
    pub rows: usize,
    pub cols: usize,
    /// Elements of the flat buffer.
    pub range: Range<usize>,
}

impl Layout {
    /// Image weight, image bias, text weight, text bias, and the temperature of InfoNCE.
    pub fn segments(&self) -> [Segment; 5] {
        let [p, q] = self.dims;
        let shapes = [
            ("image.weight", self.embed, p),
            ("image.bias", 1, self.embed),
            ("text.weight", self.embed, q),
            ("text.bias", 1, self.embed),
            ("temperature", 1, 1),
        ];
        let mut start = 0;
        shapes.map(|(name, rows, cols)| {
            let range = start..start + rows * padded(cols);
            start = range.end.next_multiple_of(64);
            Segment { name, rows, cols, range }
        })
    }

    pub fn weight(&self, side: Side) -> Segment {
        let [image, _, text, ..] = self.segments();
        if side == Side::Image { image } else { text }
    }

    pub fn bias(&self, side: Side) -> Segment {
        let [_, image, _, text, _] = self.segments();
        if side == Side::Image { image } else { text }
    }

    pub fn temperature(&self) -> Range<usize> {
        let [.., temperature] = self.segments();
        temperature.range
    }

    /// Elements of the flat buffer.
    pub fn len(&self) -> usize {
        self.temperature().end
    }

    pub fn weight_of<'a>(&self, values: &'a Buffer<f32>, side: Side) -> Mat<'a> {
        let Segment { rows, cols, range, .. } = self.weight(side);
        Mat { data: values.part(range), rows, cols }
    }

    pub fn bias_of<'a>(&self, values: &'a Buffer<f32>, side: Side) -> Slice<'a, f32> {
        values.part(self.bias(side).range)
    }
}

/// A trained or fresh head on the host: weights, biases, the temperature of InfoNCE, and the standardisation of its
/// inputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    pub(crate) layout: Layout,
    /// All parameters, laid out as on a device.
    pub(crate) values: Vec<f32>,
    pub(crate) standardize: Option<[Standardizer; 2]>,
}

impl Head {
    /// A fresh head: weights uniform in ±√6/√(d_in + d_out) (Xavier, as VSE++), biases 0; a pure function of `seed`.
    ///
    /// # Errors
    /// A width of 0, or weights of 2^31 elements and more.
    pub fn new(image_dim: usize, text_dim: usize, embed: usize, seed: u64) -> Result<Self> {
        let layout = Layout { dims: [image_dim, text_dim], embed };
        let size = image_dim.max(text_dim).saturating_mul(embed);
        if image_dim == 0 || text_dim == 0 || embed == 0 || size >= 1 << 31 {
            let found = format!("{image_dim} and {text_dim} to {embed}");
            return Err(Error::config(
                "head",
                "widths of 1 or more and fewer than 2^31 weights a side",
                found,
                "change --embed",
            ));
        }
        let mut values = vec![0.0; layout.len()];
        let mut rng = random(Purpose::Weights, seed, 0, 0);
        for side in [Side::Image, Side::Text] {
            let Segment { cols, range, .. } = layout.weight(side);
            let bound = (6.0 / (cols + embed) as f64).sqrt();
            for row in values[range].chunks_exact_mut(padded(cols)) {
                // 24 random bits: exact in f32, and the same on every machine.
                row[..cols].fill_with(|| {
                    let unit = f64::from(rng.next_u32() >> 8) / f64::from(1 << 23) - 1.0;
                    (bound * unit) as f32
                });
            }
        }
        Ok(Self { layout, values, standardize: None })
    }

    /// Sets one side's `weight [embed, dim]` and `bias [embed]`, row-major.
    ///
    /// # Errors
    /// Other lengths.
    pub fn set_side(&mut self, side: Side, weight: &[f32], bias: &[f32]) -> Result<()> {
        self.set(&self.layout.weight(side), weight)?;
        self.set(&self.layout.bias(side), bias)
    }

    /// One side's weight `[embed, dim]` and bias `[embed]`, row-major: the embedding is l2norm(W f + b).
    pub fn side(&self, side: Side) -> (Vec<f32>, Vec<f32>) {
        (self.get(&self.layout.weight(side)), self.get(&self.layout.bias(side)))
    }

    /// Width of the embedding.
    pub fn dim(&self) -> usize {
        self.layout.embed
    }

    /// Width of one side's features.
    pub fn feature_dim(&self, side: Side) -> usize {
        self.layout.dims[side as usize]
    }

    /// The temperature that InfoNCE was trained with last; 0 if it never was.
    pub fn temperature(&self) -> f32 {
        self.values[self.layout.temperature().start]
    }

    pub(crate) fn get(&self, segment: &Segment) -> Vec<f32> {
        let rows = self.values[segment.range.clone()].chunks_exact(padded(segment.cols));
        rows.flat_map(|row| &row[..segment.cols]).copied().collect()
    }

    pub(crate) fn set(&mut self, segment: &Segment, values: &[f32]) -> Result<()> {
        if values.len() != segment.rows * segment.cols {
            let expected = format!("{} x {} values", segment.rows, segment.cols);
            return Err(Error::config(segment.name, expected, values.len(), "give the head's own shape"));
        }
        let rows = self.values[segment.range.clone()].chunks_exact_mut(padded(segment.cols));
        rows.zip(values.chunks_exact(segment.cols))
            .for_each(|(to, from)| to[..segment.cols].copy_from_slice(from));
        Ok(())
    }
}
