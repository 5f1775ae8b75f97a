//! Typed memory of a device, and the borrowed parts of it that kernels take.
//!
//! A matrix on a device is row-major. Its row stride is rounded up to a multiple of four floats, so that every kernel
//! can read whole `vec4`s. The padding holds zeros, and every kernel keeps it zero.

use super::Backend;
use super::{Device, Staged, gpu};
use crate::{Error, Result};
use bytemuck::Pod;
use half::f16;
use rayon::prelude::*;
use std::borrow::Cow;
use std::ops::Range;

/// Elements that a device stores: `f32` or `u32`.
pub trait Element: Pod + Default + Send + Sync {}
impl Element for f32 {}
impl Element for u32 {}

/// Floats in a row of `cols` columns after padding to whole `vec4`s.
pub fn padded(cols: usize) -> usize {
    cols.next_multiple_of(4)
}

enum Storage<T> {
    Host(Vec<T>),
    Gpu(gpu::Memory),
}

/// Elements to send to a device.
#[derive(Debug)]
pub enum Upload<'a, T> {
    /// The slice is copied.
    Borrowed(&'a [T]),
    /// The upload may swap the vector with the buffer's memory, so its values afterwards are arbitrary.
    Owned(&'a mut Vec<T>),
    /// Made by [`Device::stage`] of the same device.
    Staged(Staged),
    /// Made by [`Device::stage_halves`] of the same device.
    Halves(Staged),
}

impl<T> Upload<'_, T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::Borrowed(values) => values.len(),
            Self::Owned(values) => values.len(),
            Self::Staged(staged) => staged.len() / size_of::<T>(),
            Self::Halves(staged) => staged.len() / size_of::<f16>(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Memory of one device, filled with zeros at first.
pub struct Buffer<T: Element> {
    storage: Storage<T>,
    len: usize,
}

/// A borrowed part of a [`Buffer`] to read.
#[derive(Clone, Copy)]
pub enum Slice<'a, T> {
    Host(&'a [T]),
    Gpu(gpu::Region<'a>),
}

/// A borrowed part of a [`Buffer`] to write.
pub enum SliceMut<'a, T> {
    Host(&'a mut [T]),
    Gpu(gpu::Region<'a>),
}

fn foreign() -> Error {
    Error::device(
        "buffer",
        "memory of the device that runs the kernel",
        "another device's",
        "report this as a bug",
    )
}

impl<T: Element> Buffer<T> {
    /// Makes `len` zeros. The label appears in driver tools and errors.
    pub fn new(device: &Device, label: &str, len: usize) -> Result<Self> {
        let storage = match device {
            Device(Backend::Cpu(_), ..) => Storage::Host(vec![T::default(); len]),
            Device(Backend::Gpu(gpu), ..) => Storage::Gpu(gpu.allocate(label, len * size_of::<T>())?),
        };
        Ok(Self { storage, len })
    }

    /// A buffer holding `values`.
    pub fn from_slice(device: &Device, label: &str, values: &[T]) -> Result<Self> {
        let mut buffer = Self::new(device, label, values.len())?;
        buffer.write(device, 0, values)?;
        Ok(buffer)
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Overwrites the elements from `at` on. The write runs after earlier work and before later work.
    pub fn write(&mut self, device: &Device, at: usize, values: &[T]) -> Result<()> {
        match (&mut self.storage, device) {
            (Storage::Host(host), _) => {
                // A batch has several megabytes and a step waits for them, so the copy is parallel.
                const CHUNK: usize = 1 << 16;
                let host = host[at..at + values.len()].par_chunks_mut(CHUNK);
                host.zip(values.par_chunks(CHUNK)).for_each(|(to, from)| to.copy_from_slice(from));
            }
            (Storage::Gpu(memory), Device(Backend::Gpu(gpu), ..)) => {
                gpu.write(memory, (at * size_of::<T>()) as u64, bytemuck::cast_slice(values))?;
            }
            _ => return Err(foreign()),
        }
        Ok(())
    }

    /// Overwrites the elements from the first on. [`Upload::Halves`] is an error, because a buffer does not store f16.
    /// On the CPU, an owned vector of the buffer's length is swapped with the buffer's memory, and nothing is copied.
    pub fn upload(&mut self, device: &Device, values: Upload<T>) -> Result<()> {
        match (&mut self.storage, values) {
            (Storage::Host(host), Upload::Owned(values)) if host.len() == values.len() => {
                std::mem::swap(host, values);
                Ok(())
            }
            (_, Upload::Owned(values)) => self.write(device, 0, values),
            (_, Upload::Borrowed(values)) => self.write(device, 0, values),
            (Storage::Gpu(memory), Upload::Staged(staged)) => match device {
                Device(Backend::Gpu(gpu), ..) => gpu.upload(memory, 0, staged),
                Device(Backend::Cpu(_), ..) => Err(foreign()),
            },
            (_, Upload::Staged(_) | Upload::Halves(_)) => Err(foreign()),
        }
    }

    /// Copies a part back to the host after all work handed over has finished.
    pub async fn read(&self, device: &Device, range: Range<usize>) -> Result<Vec<T>> {
        match (&self.storage, device) {
            (Storage::Host(host), _) => Ok(host[range].to_vec()),
            (Storage::Gpu(memory), Device(Backend::Gpu(gpu), ..)) => {
                let size = size_of::<T>();
                let bytes = gpu.read(memory, (range.start * size) as u64, range.len() * size).await?;
                Ok(bytemuck::pod_collect_to_vec(&bytes))
            }
            _ => Err(foreign()),
        }
    }

    pub fn view(&self) -> Slice<'_, T> {
        self.part(0..self.len)
    }

    pub fn view_mut(&mut self) -> SliceMut<'_, T> {
        self.part_mut(0..self.len)
    }

    /// A part to read. On a GPU it must start at a multiple of 64 elements (the strictest binding alignment).
    pub fn part(&self, range: Range<usize>) -> Slice<'_, T> {
        match &self.storage {
            Storage::Host(host) => Slice::Host(&host[range]),
            Storage::Gpu(memory) => Slice::Gpu(memory.region(range.start, range.len())),
        }
    }

    pub fn part_mut(&mut self, range: Range<usize>) -> SliceMut<'_, T> {
        match &mut self.storage {
            Storage::Host(host) => SliceMut::Host(&mut host[range]),
            Storage::Gpu(memory) => SliceMut::Gpu(memory.region(range.start, range.len())),
        }
    }
}

impl<'a, T> Slice<'a, T> {
    pub fn host(&self) -> Result<&'a [T]> {
        match self {
            Self::Host(host) => Ok(host),
            Self::Gpu(_) => Err(foreign()),
        }
    }

    pub fn region(&self) -> Result<gpu::Region<'a>> {
        match self {
            Self::Gpu(region) => Ok(*region),
            Self::Host(_) => Err(foreign()),
        }
    }
}

impl<'a, T> SliceMut<'a, T> {
    pub fn host(&mut self) -> Result<&mut [T]> {
        match self {
            Self::Host(host) => Ok(host),
            Self::Gpu(_) => Err(foreign()),
        }
    }

    pub fn region(&self) -> Result<gpu::Region<'a>> {
        match self {
            Self::Gpu(region) => Ok(*region),
            Self::Host(_) => Err(foreign()),
        }
    }
}

/// A matrix to read: `rows` x `cols`, row stride [`padded`]`(cols)`.
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    pub data: Slice<'a, f32>,
    pub rows: usize,
    pub cols: usize,
}

/// A matrix to write.
pub struct MatMut<'a> {
    pub data: SliceMut<'a, f32>,
    pub rows: usize,
    pub cols: usize,
    /// Floats from one row to the next. This is more than [`padded`]`(cols)` for a range of columns of a wider matrix.
    pub stride: usize,
}

impl Mat<'_> {
    pub fn stride(&self) -> usize {
        padded(self.cols)
    }

    /// Some of the rows. On a GPU the first row must begin at a multiple of 256 bytes.
    pub fn part(self, rows: &Range<usize>) -> Self {
        let elements = rows.start * self.stride()..rows.end * self.stride();
        let data = match self.data {
            Slice::Host(host) => Slice::Host(&host[elements]),
            Slice::Gpu(region) => Slice::Gpu(region.part(elements)),
        };
        Self { data, rows: rows.len(), cols: self.cols }
    }
}

impl MatMut<'_> {
    /// The same matrix for a shorter time.
    pub fn view_mut(&mut self) -> MatMut<'_> {
        self.part(&(0..self.rows))
    }

    /// Some of the rows. On a GPU the first row must begin at a multiple of 256 bytes.
    pub fn part(&mut self, rows: &Range<usize>) -> MatMut<'_> {
        let start = rows.start * self.stride;
        // The last row of a range of columns ends before its stride does.
        let end = |len: usize| (rows.end * self.stride).min(len);
        let data = match &mut self.data {
            SliceMut::Host(host) => {
                let end = end(host.len());
                SliceMut::Host(&mut host[start..end])
            }
            SliceMut::Gpu(region) => SliceMut::Gpu(region.part(start..end(region.len()))),
        };
        MatMut { data, rows: rows.len(), cols: self.cols, stride: self.stride }
    }
}

/// An owned matrix with room for at least `rows` x `cols`; its shape can be narrowed without reallocation.
pub struct Matrix {
    pub buffer: Buffer<f32>,
    pub rows: usize,
    pub cols: usize,
}

impl Matrix {
    pub fn new(device: &Device, label: &str, rows: usize, cols: usize) -> Result<Self> {
        Ok(Self { buffer: Buffer::new(device, label, rows * padded(cols))?, rows, cols })
    }

    /// Makes a matrix from unpadded row-major values.
    pub fn from_rows(device: &Device, label: &str, rows: usize, cols: usize, values: &[f32]) -> Result<Self> {
        let buffer = Buffer::from_slice(device, label, &pad_rows(values, cols))?;
        Ok(Self { buffer, rows, cols })
    }

    /// Returns unpadded row-major values.
    pub async fn to_rows(&self, device: &Device) -> Result<Vec<f32>> {
        let values = self.buffer.read(device, 0..self.rows * padded(self.cols)).await?;
        Ok(unpad_rows(values, self.cols))
    }

    /// Copies unpadded row-major values into a slice of the same length.
    pub async fn read_rows(&self, device: &Device, out: &mut [f32]) -> Result<()> {
        let stride = padded(self.cols);
        let copy = |values: &[f32], out: &mut [f32]| {
            let rows = values.chunks_exact(stride).zip(out.chunks_exact_mut(self.cols.max(1)));
            rows.for_each(|(row, out)| out.copy_from_slice(&row[..self.cols]));
        };
        match self.view().data {
            Slice::Host(values) => copy(values, out),
            Slice::Gpu(_) => copy(&self.buffer.read(device, 0..self.rows * stride).await?, out),
        }
        Ok(())
    }

    /// Overwrites all rows with unpadded row-major values.
    pub fn write_rows(&mut self, device: &Device, values: &[f32]) -> Result<()> {
        self.buffer.write(device, 0, &pad_rows(values, self.cols))
    }

    pub fn view(&self) -> Mat<'_> {
        Mat { data: self.buffer.part(0..self.rows * padded(self.cols)), rows: self.rows, cols: self.cols }
    }

    pub fn view_mut(&mut self) -> MatMut<'_> {
        self.rows_mut(0..self.rows)
    }

    /// Some of the rows. On a GPU the first row must begin at a multiple of 256 bytes.
    pub fn rows(&self, rows: Range<usize>) -> Mat<'_> {
        self.view().part(&rows)
    }

    /// Some columns of the first `rows` rows, for a matrix product to write. The first column must be a multiple of 64.
    pub fn cols_mut(&mut self, rows: usize, cols: Range<usize>) -> MatMut<'_> {
        let stride = padded(self.cols);
        MatMut { data: self.buffer.part_mut(cols.start..rows * stride), rows, cols: cols.len(), stride }
    }

    pub fn rows_mut(&mut self, rows: Range<usize>) -> MatMut<'_> {
        let stride = padded(self.cols);
        let data = self.buffer.part_mut(rows.start * stride..rows.end * stride);
        MatMut { data, rows: rows.len(), cols: self.cols, stride }
    }
}

/// Pads every row of row-major values with zeros to whole `vec4`s. Values that need no padding are borrowed.
pub fn pad_rows(values: &[f32], cols: usize) -> Cow<'_, [f32]> {
    let stride = padded(cols);
    if stride == cols || cols == 0 {
        return Cow::Borrowed(values);
    }
    let mut out = vec![0.0; values.len() / cols * stride];
    for (row, from) in out.chunks_exact_mut(stride).zip(values.chunks_exact(cols)) {
        row[..cols].copy_from_slice(from);
    }
    Cow::Owned(out)
}

/// The inverse of [`pad_rows`].
pub fn unpad_rows(values: Vec<f32>, cols: usize) -> Vec<f32> {
    let stride = padded(cols);
    if stride == cols || cols == 0 {
        return values;
    }
    values.chunks_exact(stride).flat_map(|row| &row[..cols]).copied().collect()
}
