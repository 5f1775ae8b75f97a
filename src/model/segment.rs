//! A parameter of a head: its name, its shape, its place in the flat buffer and its initial values.

use crate::device::{Buffer, Mat, MatMut, padded};
use crate::{Error, Result};
use rand_chacha::rand_core::Rng;
use std::ops::Range;

/// A parameter of the head.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Segment {
    pub name: String,
    pub rows: usize,
    pub cols: usize,
    /// Elements of the flat buffer.
    pub range: Range<usize>,
    pub(super) start: Start,
}

/// The initial values of a parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Start {
    /// Uniform in plus or minus this.
    Uniform(f64),
    /// Row i is filled with value i, or with the last value if there are fewer.
    Rows(&'static [f32]),
    /// Normal with mean 0 and this deviation.
    Normal(f64),
    /// Uniform in 0 to 1.
    Turn,
}

/// The name of the parameter that only SigLIP has.
pub(super) const LOGIT_BIAS: &str = "logit_bias";

pub(super) const ZERO: Start = Start::Rows(&[0.0]);

/// A standard normal number (Box and Muller, 1958) from numbers that are uniform in 0 to 1.
fn normal(unit: &mut impl FnMut() -> f64) -> f64 {
    let (radius, angle) = (1.0 - unit(), unit());
    (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

/// Places one segment after the other.
#[derive(Default)]
pub(crate) struct Allocation {
    end: usize,
}

impl Allocation {
    pub(super) fn add(&mut self, name: String, rows: usize, cols: usize, start: Start) -> Segment {
        let first = self.end.next_multiple_of(64);
        self.end = first + rows * padded(cols);
        Segment { name, rows, cols, range: first..self.end, start }
    }

    /// Elements so far.
    pub fn len(&self) -> usize {
        self.end
    }
}

/// The part of a head that a parameter belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The linear layer on the features.
    Linear,
    /// The layer on random features or landmarks.
    RandomFeatures,
    Mlp,
    /// Learned pooling, and the temperature.
    Other,
}

impl Segment {
    /// Whether a file without it means that it is 0: the bias of the logits, which only SigLIP has.
    pub fn may_be_absent(&self) -> bool {
        self.name == LOGIT_BIAS
    }

    /// Whether it never changes: the frequencies and phases of random features, and the landmarks.
    pub fn is_fixed(&self) -> bool {
        let part = self.name.rsplit('.').next();
        self.kind() == Kind::RandomFeatures && part != Some("weight")
    }

    pub fn kind(&self) -> Kind {
        match self.name.split('.').nth(1) {
            Some("weight" | "bias") => Kind::Linear,
            Some("fourier" | "landmarks") => Kind::RandomFeatures,
            Some("mlp") => Kind::Mlp,
            _ => Kind::Other,
        }
    }

    /// Whether it is a bias, or the scale and shift of a norm.
    pub fn is_bias(&self) -> bool {
        self.name.ends_with(".norm") || self.name.contains(".bias")
    }

    /// The parameter in a flat buffer.
    pub fn of<'a>(&self, values: &'a Buffer<f32>) -> Mat<'a> {
        Mat { data: values.part(self.range.clone()), rows: self.rows, cols: self.cols }
    }

    pub fn of_mut<'a>(&self, values: &'a mut Buffer<f32>) -> MatMut<'a> {
        let (rows, cols) = (self.rows, self.cols);
        MatMut { data: values.part_mut(self.range.clone()), rows, cols, stride: padded(cols) }
    }

    /// Fills a fresh parameter.
    pub fn start(&self, values: &mut [f32], rng: &mut impl Rng) {
        let rows = values[self.range.clone()].chunks_exact_mut(padded(self.cols));
        // 24 random bits: exact in f32, and the same on every machine.
        let mut unit = || f64::from(rng.next_u32() >> 8) / f64::from(1 << 24);
        for (i, row) in rows.enumerate() {
            match self.start {
                Start::Uniform(bound) => {
                    row[..self.cols].fill_with(|| (bound * (2.0 * unit() - 1.0)) as f32);
                }
                Start::Normal(deviation) => {
                    row[..self.cols].fill_with(|| (deviation * normal(&mut unit)) as f32);
                }
                Start::Turn => row[..self.cols].fill_with(|| unit() as f32),
                Start::Rows(values) => row[..self.cols].fill(values[i.min(values.len() - 1)]),
            }
        }
    }

    /// The parameter's `rows * cols` values.
    pub fn get(&self, values: &[f32]) -> Vec<f32> {
        let mut own = Vec::with_capacity(self.rows * self.cols);
        let rows = values[self.range.clone()].chunks_exact(padded(self.cols));
        rows.for_each(|row| own.extend_from_slice(&row[..self.cols]));
        own
    }

    pub fn set(&self, values: &mut [f32], to: &[f32]) -> Result<()> {
        if to.len() != self.rows * self.cols {
            let expected = format!("{} x {} values", self.rows, self.cols);
            return Err(Error::config(&self.name, expected, to.len(), "give the parameter's own shape"));
        }
        let rows = values[self.range.clone()].chunks_exact_mut(padded(self.cols));
        rows.zip(to.chunks_exact(self.cols)).for_each(|(row, to)| row[..self.cols].copy_from_slice(to));
        Ok(())
    }

    pub fn shape(&self) -> Vec<usize> {
        if self.rows == 1 { vec![self.cols] } else { vec![self.rows, self.cols] }
    }
}
