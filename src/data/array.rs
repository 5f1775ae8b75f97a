//! Feature and integer arrays: rows of features as f32, row numbers as u32, and writing a matrix.
//!
//! Owns the check of an array's type, shape and values. It keeps no feature row in memory, so that a file
//! may be far larger than memory, and knows nothing of splits or captions.

use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

use super::file::{Header, PositionedFile, Source, npy_header};
use crate::files::{Streams, write_whole};
use crate::{Error, Result};

/// Most columns of a feature array; keeps a damaged header from asking for a row larger than memory.
const MAX_COLUMNS: u64 = 1 << 20;
/// What to do about an array of other axes.
const RESHAPE: &str = "reshape the array";
/// Bytes that integers are read by; a multiple of every width.
const CHUNK: usize = 1 << 16;

/// The types that the values of an array may have, and its dimensions.
pub(super) trait Element: Copy {
    /// The accepted types, for messages.
    const TYPES: &'static str;
    /// The type that advice names.
    const ADVISED: &'static str;
    /// The dimensions, for messages.
    const AXES: &'static [&'static str];
    /// The type of this name, numpy's (`<f2`) or that of safetensors (`F16`).
    fn parse(name: &str) -> Option<Self>;
    /// Bytes of one value.
    fn size(self) -> usize;
}

/// A type of features.
#[derive(Debug, Clone, Copy)]
pub(super) enum Float {
    F16,
    F32,
    F64,
}

/// A type of row numbers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Integer {
    I32,
    I64,
    U32,
}

impl Element for Float {
    const TYPES: &'static str = "little-endian f16, f32 or f64 values";
    const ADVISED: &'static str = "float16";
    const AXES: &'static [&'static str] = &["rows", "columns"];

    fn parse(name: &str) -> Option<Self> {
        match name {
            "<f2" | "F16" => Some(Self::F16),
            "<f4" | "F32" => Some(Self::F32),
            "<f8" | "F64" => Some(Self::F64),
            _ => None,
        }
    }

    fn size(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}

impl Element for Integer {
    const TYPES: &'static str = "little-endian i32, i64 or u32 values";
    const ADVISED: &'static str = "int64";
    const AXES: &'static [&'static str] = &["rows"];

    fn parse(name: &str) -> Option<Self> {
        match name {
            "<i4" | "I32" => Some(Self::I32),
            "<i8" | "I64" => Some(Self::I64),
            "<u4" | "U32" => Some(Self::U32),
            _ => None,
        }
    }

    fn size(self) -> usize {
        match self {
            Self::I32 | Self::U32 => 4,
            Self::I64 => 8,
        }
    }
}

/// An array on disk whose header has been checked against its file.
#[derive(Debug)]
pub(super) struct Array<E> {
    pub label: String,
    file: Arc<PositionedFile>,
    start: u64,
    pub dtype: E,
    /// Rows, those of all items where the array has items.
    pub rows: usize,
    /// Values of one row.
    pub cols: usize,
    /// Rows of each item of a three-dimensional array.
    pub group: Option<usize>,
}

/// Features `[rows, cols]`, read by row.
pub(super) type FeatureFile = Array<Float>;

impl<E: Element> Array<E> {
    pub fn open(source: &Source, name: &str) -> Result<Self> {
        Self::from_header(source.header(name)?, E::AXES, RESHAPE)
    }

    fn open_npy(path: &Path) -> Result<Self> {
        Self::from_header(npy_header(path)?, E::AXES, RESHAPE)
    }

    /// Checks type and shape; of three axes the first two are items and their rows. `advice` is for other axes.
    fn from_header(header: Header, axes: &[&str], advice: &str) -> Result<Self> {
        let Header { label, file, start, dtype: name, shape, alone } = header;
        let Some(dtype) = E::parse(name.trim_matches('\'')) else {
            let advice = format!("convert the array, for example with numpy's astype('{}')", E::ADVISED);
            return Err(Error::data(label, E::TYPES, name, advice));
        };
        let fault = |expected: String, advice: &str| {
            Err(Error::data(&label, expected, format!("shape {shape:?}"), advice))
        };
        if shape.len() != axes.len() {
            return fault(format!("shape [{}]", axes.join(", ")), advice);
        }
        if shape.contains(&0) {
            return fault(format!("{} above 0", axes.join(" and ")), "write the array again with its rows");
        }
        let (rows, cols, group) = match shape[..] {
            [items, rows, cols] => (items.saturating_mul(rows), cols, Some(rows as usize)),
            [rows, cols] => (rows, cols, None),
            _ => (shape[0], 1, None),
        };
        if rows > u32::MAX.into() || cols > MAX_COLUMNS {
            let limits = format!("at most {} rows and {MAX_COLUMNS} columns", u32::MAX);
            return fault(limits, "check how the array was made, or use a part of it");
        }
        if alone {
            file.check_length(&label, start + rows * cols * dtype.size() as u64)?;
        }
        Ok(Self { label, file, start, dtype, rows: rows as usize, cols: cols as usize, group })
    }
}

impl FeatureFile {
    /// Opens an array of several rows an item: `[items, rows, columns]`, or `[rows, columns]` where an array `offsets` is
    /// there to tell whose they are.
    pub fn open_local(source: &Source, name: &str, offsets: &str) -> Result<Self> {
        let header = source.header(name)?;
        match source.has(offsets) {
            true => Self::from_header(header, Float::AXES, RESHAPE),
            false => {
                let advice = format!("{RESHAPE}, or add {offsets} if items differ in rows");
                Self::from_header(header, &["items", "rows", "columns"], &advice)
            }
        }
    }

    /// Tells the system that rows are about to be read.
    pub fn will_need(&self, rows: Range<usize>) {
        let width = self.cols as u64 * self.dtype.size() as u64;
        self.file.will_need(self.start + rows.start as u64 * width, rows.len() as u64 * width);
    }

    /// Tells the system whether to fetch what lies behind a row that is read.
    pub fn reads_on(&self, on: bool) {
        self.file.reads_on(on);
    }

    /// Whether any row read since the last call had to be waited for.
    pub fn missed(&self) -> bool {
        self.file.missed()
    }

    /// Whether its values are f16.
    pub fn is_half(&self) -> bool {
        matches!(self.dtype, Float::F16)
    }

    /// Rows, columns and type, as numbers.
    pub fn shape(&self) -> [u64; 3] {
        [self.rows as u64, self.cols as u64, self.dtype as u64]
    }

    /// A row as messages name it.
    fn place(&self, row: usize) -> String {
        match self.group {
            None => format!("{} row {row}", self.label),
            Some(group) => format!("{} item {} row {}", self.label, row / group, row % group),
        }
    }

    /// Reads one row as it is in the file.
    pub fn read_bytes(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        out.resize(self.cols * self.dtype.size(), 0);
        let position = self.start + (row as u64) * out.len() as u64;
        self.file.read(|| self.place(row), out, position)
    }

    /// Reads one row into `out`, which holds `cols` values, and returns whether all of them are zero.
    ///
    /// `scratch` is working space, kept by the caller so that it is allocated once. A value that is no
    /// finite f32 is an error, as are a file changed since it was opened and a row out of range.
    pub fn read_row(&self, row: usize, scratch: &mut Vec<u8>, out: &mut [f32]) -> Result<bool> {
        if row >= self.rows || out.len() != self.cols {
            let expected = format!("a row below {} for {} values", self.rows, self.cols);
            let found = format!("row {row} for {} values", out.len());
            return Err(Error::data(&self.label, expected, found, "ask for a row of this array"));
        }
        self.read_bytes(row, scratch)?;
        let largest = match self.dtype {
            Float::F16 => decode_f16(scratch, out),
            Float::F32 => decode(bytemuck::cast_slice(scratch), out, f32::from_le_bytes),
            Float::F64 => decode(bytemuck::cast_slice(scratch), out, |b| f64::from_le_bytes(b) as f32),
        };
        if largest >= f32::INFINITY.to_bits() {
            let column = out.iter().position(|x| !x.is_finite()).unwrap_or(0);
            let thing = format!("{} column {column}", self.place(row));
            let advice = "replace the value, or leave the row out of the dataset";
            return Err(Error::data(thing, "a finite f32 value", out[column], advice));
        }
        Ok(largest == 0)
    }
}

/// Decodes values and returns the largest magnitude, as the bits of an f32: without their sign, they order as it does. So
/// one pass tells whether all are finite, and whether all are zero.
fn decode<const N: usize>(values: &[[u8; N]], out: &mut [f32], convert: impl Fn([u8; N]) -> f32) -> u32 {
    out.iter_mut().zip(values).fold(0, |largest, (out, &value)| {
        *out = convert(value);
        largest.max(out.to_bits() & 0x7fff_ffff)
    })
}

/// [`decode`] by blocks, since `half` converts whole slices with the processor's instructions for it.
fn decode_f16(bytes: &[u8], out: &mut [f32]) -> u32 {
    let mut bits = [0; 256];
    // The magnitude as f16, in a signed integer: every processor has the largest of those in vectors.
    let mut largest = 0i16;
    for (bytes, out) in bytes.chunks(2 * bits.len()).zip(out.chunks_mut(bits.len())) {
        let bits = &mut bits[..out.len()];
        for (bits, &bytes) in bits.iter_mut().zip(bytemuck::cast_slice(bytes)) {
            *bits = u16::from_le_bytes(bytes);
            largest = largest.max((*bits & 0x7fff) as i16);
        }
        bits.reinterpret_cast::<f16>().convert_to_f32_slice(out);
    }
    f16::from_bits(largest as u16).to_f32().to_bits()
}

impl Array<Integer> {
    /// Reads every value; one below zero or above `u32::MAX` is an error with its position.
    pub fn read_all(&self) -> Result<Vec<u32>> {
        let width = self.dtype.size();
        let mut values = Vec::with_capacity(self.rows);
        let mut buffer = vec![0; CHUNK.min(self.rows * width)];
        while values.len() < self.rows {
            let done = values.len();
            let bytes = &mut buffer[..CHUNK.min((self.rows - done) * width)];
            self.file.read(|| self.label.clone(), bytes, self.start + (done * width) as u64)?;
            for (offset, bytes) in bytes.chunks_exact(width).enumerate() {
                let value = match (self.dtype, bytes) {
                    (Integer::I32, &[a, b, c, d]) => i32::from_le_bytes([a, b, c, d]).into(),
                    (Integer::U32, &[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]).into(),
                    (_, bytes) => bytes.iter().rev().fold(0, |value, &byte| value << 8 | i64::from(byte)),
                };
                values.push(value.try_into().map_err(|_| {
                    let thing = format!("{} position {}", self.label, done + offset);
                    let expected = format!("a value from 0 to {}", u32::MAX);
                    Error::data(thing, expected, value, "write the array again with row numbers")
                })?);
            }
        }
        Ok(values)
    }
}

/// Reads a `.npy` file of features `[rows, cols]` (f16, f32 or f64) whole: `(rows, cols, values)`, row-major.
///
/// # Errors
/// A file that is missing, malformed or no such array, and a value that is no finite f32.
pub fn read_matrix_npy(path: &Path) -> Result<(usize, usize, Vec<f32>)> {
    let array = FeatureFile::open_npy(path)?;
    let (rows, cols) = (array.rows, array.cols);
    let mut values = Vec::new();
    if rows.checked_mul(cols).is_none_or(|n| values.try_reserve_exact(n).is_err()) {
        let found = format!("shape [{rows}, {cols}]");
        return Err(Error::data(array.label, "a matrix that fits in memory", found, "use fewer rows"));
    }
    let mut scratch = Vec::new();
    for row in 0..rows {
        values.resize((row + 1) * cols, 0.0);
        array.read_row(row, &mut scratch, &mut values[row * cols..])?;
    }
    Ok((rows, cols, values))
}

/// Reads a `.npy` file of row numbers `[rows]` (i32, i64 or u32).
///
/// # Errors
/// A file that is missing, malformed or no such array, and a value below 0 or above `u32::MAX`.
pub fn read_ids_npy(path: &Path) -> Result<Vec<u32>> {
    Array::<Integer>::open_npy(path)?.read_all()
}

/// Writes `values`, row-major `[rows, cols]`, as a `.npy` file of f32 that appears whole or not at all.
///
/// # Errors
/// A number of values other than `rows * cols`, and any failure to write; a file that was there is then
/// still the old one.
pub fn write_matrix_npy(path: &Path, rows: usize, cols: usize, values: &[f32]) -> Result<()> {
    write_matrix(path, rows, cols, values, |out| {
        let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {cols}), }}");
        // The values start at a multiple of 64 bytes, after 10 bytes, the text and a line break.
        let width = (text.len() + 11).next_multiple_of(64) - 11;
        out.write_all(b"\x93NUMPY\x01\x00")?;
        out.write_all(&(width as u16 + 1).to_le_bytes())?;
        writeln!(out, "{text:width$}")?;
        values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes()))
    })
}

/// Writes a matrix as [`write_matrix_npy`] does, but as the `.fvecs` file that faiss reads: before each row its length as
/// an i32.
///
/// # Errors
/// Those of [`write_matrix_npy`].
pub fn write_matrix_fvecs(path: &Path, rows: usize, cols: usize, values: &[f32]) -> Result<()> {
    write_matrix(path, rows, cols, values, |out| {
        values.chunks_exact(cols.max(1)).try_for_each(|row| {
            out.write_all(&(cols as i32).to_le_bytes())?;
            row.iter().try_for_each(|value| out.write_all(&value.to_le_bytes()))
        })
    })
}

/// Writes a matrix as [`write_matrix_npy`] does, but as the `.fbin` file that usearch reads: rows and columns as i32, then
/// the values.
///
/// # Errors
/// Those of [`write_matrix_npy`].
pub fn write_matrix_fbin(path: &Path, rows: usize, cols: usize, values: &[f32]) -> Result<()> {
    write_matrix(path, rows, cols, values, |out| {
        out.write_all(&(rows as i32).to_le_bytes())?;
        out.write_all(&(cols as i32).to_le_bytes())?;
        values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes()))
    })
}

/// Writes a file of `values`, `[rows, cols]`; both must fit an i32, as some formats hold them.
fn write_matrix(
    path: &Path,
    rows: usize,
    cols: usize,
    values: &[f32],
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<()> {
    if rows.checked_mul(cols) != Some(values.len()) || rows.max(cols) > i32::MAX as usize {
        let expected = format!("{rows} x {cols} values");
        return Err(Error::data(path.display(), expected, values.len(), "give the shape of the values"));
    }
    write_whole(path, Streams::Written, write)
}
