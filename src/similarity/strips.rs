//! Similarities S = Q Cᵀ of queries and candidates, in strips: as many queries at a time as fit a binding.
//!
//! This file owns the strips' buffers, and copies data to the device and back. The caller decides what to do with a
//! strip.

use crate::device::{Commands, Device, Mat, Matrix, pad_rows};
use crate::kernels::{Product, matmul};
use crate::{Error, Result};
use std::ops::Range;

/// The most queries of a strip that is one part of a divided work. The size of a strip does not depend on the number of
/// processes, because products of other shapes may round differently.
const QUERIES: usize = 1024;

/// `queries [n, dim]` against `candidates [m, dim]`.
pub(crate) struct Strips<'a> {
    device: &'a Device,
    queries: &'a [f32],
    dim: usize,
    /// Queries per strip, and in all.
    strip: usize,
    count: usize,
    /// Candidates in parts that each fit a binding. The parts are side by side in the columns of a strip.
    candidates: Vec<(Range<usize>, Matrix)>,
    own: Matrix,
    similarity: Matrix,
}

impl<'a> Strips<'a> {
    pub fn new(device: &'a Device, queries: &'a [f32], candidates: &[f32], dim: usize) -> Result<Self> {
        let strip = device.strip_rows(queries.len() / dim, candidates.len() / dim, dim)?;
        Self::in_blocks(device, queries, candidates, dim, strip)
    }

    /// The same with strips of at most [`QUERIES`] queries, which processes can divide ([`Strips::own`]).
    pub fn divided(device: &'a Device, queries: &'a [f32], candidates: &[f32], dim: usize) -> Result<Self> {
        let strip = device.strip_rows(queries.len() / dim, candidates.len() / dim, dim)?;
        Self::in_blocks(device, queries, candidates, dim, strip.min(QUERIES))
    }

    /// The same with strips of `strip` queries, at most what [`Device::strip_rows`] allows.
    pub fn in_blocks(
        device: &'a Device,
        queries: &'a [f32],
        candidates: &[f32],
        dim: usize,
        strip: usize,
    ) -> Result<Self> {
        let (count, others) = (queries.len() / dim, candidates.len() / dim);
        let part = device.strip_rows(others, 1, dim)?;
        // Each part begins at a column of the strip that is a multiple of 64.
        if part < others && part % 64 > 0 {
            let (expected, advice) = ("embeddings of which a binding holds 64", "use --device cpu");
            return Err(Error::device(
                format!("similarities on {device}"),
                expected,
                format!("width {dim}"),
                advice,
            ));
        }
        let parts = candidates.chunks(part * dim).enumerate().map(|(i, values)| {
            let rows = values.len() / dim;
            Ok((i * part..i * part + rows, Matrix::from_rows(device, "strip.candidates", rows, dim, values)?))
        });
        Ok(Self {
            candidates: parts.collect::<Result<_>>()?,
            own: Matrix::new(device, "strip.queries", strip, dim)?,
            similarity: Matrix::new(device, "strip.similarity", strip, others)?,
            device,
            queries,
            dim,
            strip,
            count,
        })
    }

    /// The queries of each strip, in order.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (count, strip) = (self.count, self.strip);
        (0..count).step_by(strip.max(1)).map(move |first| first..(first + strip).min(count))
    }

    /// The queries of the strips that this process computes of those that the processes of a job divide, in order.
    pub fn own(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let own = self.device.share(self.count.div_ceil(self.strip.max(1)));
        self.ranges().skip(own.start).take(own.len())
    }

    /// Queues the similarities of a strip of `queries`, and returns the matrix that will hold them: `[queries, m]`.
    pub fn compute(&mut self, commands: &mut Commands, queries: &Range<usize>) -> Result<Mat<'_>> {
        self.device.check_stop()?;
        // The write below overwrites the previous queries, so the work that reads them must be submitted first.
        commands.submit()?;
        let values = &self.queries[queries.start * self.dim..queries.end * self.dim];
        self.own.buffer.write(self.device, 0, &pad_rows(values, self.dim))?;
        for (cols, candidates) in &self.candidates {
            let product = Product::nt(self.own.rows(0..queries.len()), candidates.view());
            matmul(commands, product, self.similarity.cols_mut(queries.len(), cols.clone()))?;
        }
        Ok(self.similarity.rows(0..queries.len()))
    }

    /// The similarities of a strip of `queries`, row-major `[queries, m]`.
    pub async fn read(&mut self, queries: &Range<usize>) -> Result<Vec<f32>> {
        let mut commands = self.device.commands();
        self.compute(&mut commands, queries)?;
        commands.submit()?;
        let mut values = self.similarity.to_rows(self.device).await?;
        values.truncate(queries.len() * self.similarity.cols);
        Ok(values)
    }
}
