//! Arrays of whole numbers: image rows, splits and their masks, offsets.
//!
//! Reads them whole and of any type, but judges no more than whether they are row numbers.

use std::path::Path;

use super::array::{Array, Element, Float, decode_floats};
use super::header::{Kind, Type, Wanted};
use crate::{Error, Result};

/// Bytes that integers are read by; a multiple of every width.
const CHUNK: usize = 1 << 16;

/// A type of row numbers, of one size or another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Integer {
    Signed,
    Unsigned,
    /// A mask.
    Bool,
    /// Never accepted, but read to say what is wrong with the values.
    Float(Float),
}

impl Element for Integer {
    const TYPES: &'static str = "whole numbers";
    const WANTED: Wanted = Wanted::Rows;
    const AXES: &'static [&'static str] = &["rows"];

    fn of(found: &Type) -> Option<Self> {
        match found.kind {
            Kind::Int => Some(Self::Signed),
            Kind::Uint => Some(Self::Unsigned),
            Kind::Bool => Some(Self::Bool),
            _ => Float::of(found).map(Self::Float),
        }
    }
}

impl Array<Integer> {
    /// Whether the values are true and false.
    pub fn is_mask(&self) -> bool {
        self.dtype == Integer::Bool
    }

    /// Reads every value. One that is no whole number is an error, and one below zero or above `u32::MAX`, with its
    /// position; `negative` is the advice on those below zero.
    pub fn read_all(&self, negative: &str) -> Result<Vec<u32>> {
        if let Integer::Float(float) = self.dtype {
            return Err(self.not_whole(float)?);
        }
        let numbers = self.read_numbers()?;
        let wrong = |(position, value): (usize, i128)| {
            let thing = format!("{} position {position}", self.label);
            let expected = format!("a value from 0 to {}", u32::MAX);
            let advice = if value < 0 { negative } else { "write the array again with row numbers" };
            Error::data(thing, expected, value, advice)
        };
        let convert =
            |(position, value): (usize, i128)| value.try_into().map_err(|_| wrong((position, value)));
        numbers.into_iter().enumerate().map(convert).collect()
    }

    /// Reads every value, true being 1.
    fn read_numbers(&self) -> Result<Vec<i128>> {
        let extended = |bytes: &[u8]| {
            let fill = if self.dtype == Integer::Signed && bytes[bytes.len() - 1] > 127 { 255 } else { 0 };
            let mut wide = [fill; 16];
            wide[..bytes.len()].copy_from_slice(bytes);
            i128::from_le_bytes(wide)
        };
        let mut values = Vec::with_capacity(self.rows);
        self.by_chunks(|bytes| values.extend(bytes.chunks_exact(self.size).map(extended)))?;
        Ok(values)
    }

    /// Hands all values to `take`, as bytes, a few at a time.
    fn by_chunks(&self, mut take: impl FnMut(&[u8])) -> Result<()> {
        let total = self.rows * self.size;
        let mut buffer = vec![0; CHUNK.min(total)];
        for done in (0..total).step_by(CHUNK) {
            let bytes = &mut buffer[..CHUNK.min(total - done)];
            self.read_values(|| self.label.clone(), bytes, done as u64)?;
            take(bytes);
        }
        Ok(())
    }

    /// What is wrong with numbers that are saved as floats.
    fn not_whole(&self, float: Float) -> Result<Error> {
        let (mut position, mut fault, mut values) = (0, None, Vec::new());
        self.by_chunks(|bytes| {
            values.resize(bytes.len() / self.size, 0.0);
            decode_floats(float, bytes, &mut values);
            // Above these, not all whole numbers are of the type, and neighbours have become the same.
            let exact = match float {
                Float::F16 => 2048.0,
                Float::BF16 => 256.0,
                Float::F32 => 16_777_216.0,
                Float::F64 => 4_294_967_296.0,
            };
            let bad = |x: &f32| x.fract() != 0.0 || !x.is_finite() || x.abs() >= exact;
            fault = fault.or_else(|| values.iter().position(bad).map(|at| (position + at, values[at])));
            position += values.len();
        })?;
        Ok(match fault {
            None => Error::data(
                &self.label,
                Integer::TYPES,
                &self.type_name,
                "save the array converted, with numpy array.astype('int64')",
            ),
            Some((position, value)) => Error::data(
                format!("{} position {position}", self.label),
                Integer::TYPES,
                format!("{value} in an array of {}", self.type_name),
                "write the array again with row numbers, as int64",
            ),
        })
    }
}

/// Reads a `.npy` file of row numbers `[rows]`, whole numbers of any type.
///
/// # Errors
/// A file that is missing, malformed or no such array, and a value below 0 or above `u32::MAX`.
pub fn read_ids_npy(path: &Path) -> Result<Vec<u32>> {
    let array = Array::<Integer>::open_npy(path)?;
    if array.is_mask() {
        let advice = "write a number for every row, or save array.astype('int64') for the numbers 0 and 1";
        return Err(Error::data(array.label, Integer::TYPES, array.type_name, advice));
    }
    array.read_all("number the rows from 0")
}
