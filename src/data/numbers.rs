//! Arrays of whole numbers: image rows, splits and their masks, offsets.
//!
//! Reads whole arrays of any type. It checks only that the values are row numbers.

use super::array::{Array, Element, Feature, decode_features};
use super::header::{Kind, Type, Wanted};
use crate::{Error, Result};

/// Bytes per read of integers; a multiple of every width.
const CHUNK: usize = 1 << 16;

/// A type of row numbers, of any size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Integer {
    Signed,
    Unsigned,
    /// A mask.
    Bool,
    /// Never accepted. The values are read only to say what is wrong with them.
    Float(Feature),
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
            _ => Feature::of(found).map(Self::Float),
        }
    }
}

impl Array<Integer> {
    /// Whether the values are true and false.
    pub fn is_mask(&self) -> bool {
        self.dtype == Integer::Bool
    }

    /// Reads every value. An array of floats is an error. So is a value below zero or above `u32::MAX`, which the error
    /// names with its position. `negative` is the advice for values below zero.
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

    /// Reads every value. True is 1.
    fn read_numbers(&self) -> Result<Vec<i128>> {
        let extended = |bytes: &[u8]| {
            let fill = if self.dtype == Integer::Signed && bytes[bytes.len() - 1] > 127 { 255 } else { 0 };
            let mut wide = [fill; 16];
            wide[..bytes.len()].copy_from_slice(bytes);
            i128::from_le_bytes(wide)
        };
        let mut values = Vec::with_capacity(self.rows * self.cols);
        self.by_chunks(|bytes| values.extend(bytes.chunks_exact(self.size).map(extended)))?;
        Ok(values)
    }

    /// Passes the bytes of all values to `take`, in chunks.
    fn by_chunks(&self, mut take: impl FnMut(&[u8])) -> Result<()> {
        let total = self.rows * self.cols * self.size;
        let mut buffer = vec![0; CHUNK.min(total)];
        for done in (0..total).step_by(CHUNK) {
            let bytes = &mut buffer[..CHUNK.min(total - done)];
            self.read_values(|| self.label.clone(), bytes, done as u64)?;
            take(bytes);
        }
        Ok(())
    }

    /// The error for row numbers that are saved as floats.
    fn not_whole(&self, float: Feature) -> Result<Error> {
        let (mut position, mut fault, mut values) = (0, None, Vec::new());
        self.by_chunks(|bytes| {
            values.resize(bytes.len() / self.size, 0.0);
            decode_features(float, bytes, &mut values);
            // From these values on, different row numbers may have become equal in the type. For f64 it is the limit of
            // u32.
            let exact = match float {
                Feature::F16 => 2048.0,
                Feature::BF16 => 256.0,
                Feature::F32 => 16_777_216.0,
                _ => 4_294_967_296.0,
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

/// Reads a `.npy` file of row numbers `[rows]`: whole numbers of any type.
///
/// # Errors
/// A file that is missing, malformed or not such an array, or a value below 0 or above `u32::MAX`.
#[cfg(feature = "native")]
pub fn read_ids_npy(path: &std::path::Path) -> Result<Vec<u32>> {
    let array = Array::<Integer>::open_npy(path)?;
    if array.is_mask() {
        let advice = "write a number for every row, or save array.astype('int64') for the numbers 0 and 1";
        return Err(Error::data(array.label, Integer::TYPES, array.type_name, advice));
    }
    array.read_all("number the rows from 0")
}
