//! Arrays of whole numbers: image rows, splits and their masks, offsets.
//!
//! Reads whole arrays of any type. It checks only that the values are row numbers.

use super::array::{Array, Element, Feature, decode_features};
use super::file::Source;
use super::header::{Kind, Type, Wanted};
use crate::io::{Collected, RowList};
use crate::{Error, Result};

/// Bytes per read of integers; a multiple of every width.
const CHUNK: usize = 1 << 16;

/// The largest row number. Files of int64 hold it.
const MOST: u64 = i64::MAX as u64;

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

/// Row numbers of a dataset.
pub(super) enum Numbers {
    /// In an array.
    Array(Array<Integer>),
    /// That follow from how the dataset is laid out, with their name in messages.
    List(String, RowList),
}

impl Numbers {
    /// Opens the row numbers `name`.
    pub fn open(source: &Source, name: &str) -> Result<Self> {
        let Some(rows) = source.rows(name) else { return Array::open(source, name).map(Self::Array) };
        let label = source.label(name);
        match rows.is_empty() {
            true => {
                Err(Error::data(label, "rows above 0", "shape [0]", "write the array again with its rows"))
            }
            false => Ok(Self::List(label, rows.clone())),
        }
    }

    /// Their name in messages.
    pub fn label(&self) -> &String {
        match self {
            Self::Array(array) => &array.label,
            Self::List(label, _) => label,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Array(array) => array.rows,
            Self::List(_, rows) => rows.len(),
        }
    }

    /// Whether they are true and false.
    pub fn is_mask(&self) -> bool {
        matches!(self, Self::Array(array) if array.is_mask())
    }

    /// Reads them, the positions at which a mask is true. `negative` is the advice for values below zero.
    pub fn read(&self, negative: &str) -> Result<RowList> {
        match self {
            Self::Array(array) if array.is_mask() => array.marked(),
            Self::Array(array) => array.read_all(negative),
            Self::List(_, rows) => Ok(rows.clone()),
        }
    }
}

impl Array<Integer> {
    /// Whether the values are true and false.
    pub fn is_mask(&self) -> bool {
        self.dtype == Integer::Bool
    }

    /// Reads every value. An array of floats is an error. So is a value below zero or above [`MOST`], which the error
    /// names with its position. `negative` is the advice for values below zero.
    pub fn read_all(&self, negative: &str) -> Result<RowList> {
        self.read_up_to(MOST, negative)
    }

    /// [`Array::read_all`] with another largest value.
    fn read_up_to(&self, most: u64, negative: &str) -> Result<RowList> {
        if let Integer::Float(float) = self.dtype {
            return Err(self.not_whole(float)?);
        }
        let (mut rows, mut position) = (Collected::default(), 0u64);
        self.by_chunks(|bytes| {
            for value in bytes.chunks_exact(self.size).map(|bytes| self.wide(bytes)) {
                match u64::try_from(value) {
                    Ok(row) if row <= most => rows.push(row),
                    _ => {
                        let thing = format!("{} position {position}", self.label);
                        let expected = format!("a value from 0 to {most}");
                        let advice =
                            if value < 0 { negative } else { "write the array again with row numbers" };
                        return Err(Error::data(thing, expected, value, advice));
                    }
                }
                position += 1;
            }
            Ok(())
        })?;
        Ok(rows.finish())
    }

    /// The value in these bytes. True is 1.
    fn wide(&self, bytes: &[u8]) -> i128 {
        let fill = if self.dtype == Integer::Signed && bytes[bytes.len() - 1] > 127 { 255 } else { 0 };
        let mut wide = [fill; 16];
        wide[..bytes.len()].copy_from_slice(bytes);
        i128::from_le_bytes(wide)
    }

    /// The positions at which a mask is true.
    fn marked(&self) -> Result<RowList> {
        let (mut rows, mut position) = (Collected::default(), 0u64);
        self.by_chunks(|bytes| {
            for (at, _) in (position..).zip(bytes).filter(|(_, byte)| **byte == 1) {
                rows.push(at);
            }
            position += bytes.len() as u64;
            Ok(())
        })?;
        Ok(rows.finish())
    }

    /// Passes the bytes of all values to `take`, in chunks.
    fn by_chunks(&self, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let total = self.rows * self.cols * self.size;
        let mut buffer = vec![0; CHUNK.min(total)];
        for done in (0..total).step_by(CHUNK) {
            let bytes = &mut buffer[..CHUNK.min(total - done)];
            self.read_values(|| self.label.clone(), bytes, done as u64)?;
            take(bytes)?;
        }
        Ok(())
    }

    /// The error for row numbers that are saved as floats.
    fn not_whole(&self, float: Feature) -> Result<Error> {
        let (mut position, mut fault, mut values) = (0, None, Vec::new());
        self.by_chunks(|bytes| {
            values.resize(bytes.len() / self.size, 0.0);
            decode_features(float, bytes, &mut values);
            // From these values on, different row numbers may have become equal in the type. Values of f64 are decoded
            // as f32, and so are exact up to a lower limit.
            let exact = match float {
                Feature::F16 => 2048.0,
                Feature::BF16 => 256.0,
                Feature::F32 => 16_777_216.0,
                _ => 4_294_967_296.0,
            };
            let bad = |x: &f32| x.fract() != 0.0 || !x.is_finite() || x.abs() >= exact;
            fault = fault.or_else(|| values.iter().position(bad).map(|at| (position + at, values[at])));
            position += values.len();
            Ok(())
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
/// A file that is missing, malformed or not such an array, or a value below 0 or above `i64::MAX`.
#[cfg(feature = "native")]
pub fn read_ids_npy(path: &std::path::Path) -> Result<RowList> {
    unmasked(path)?.read_all(FROM_0)
}

/// Reads a `.npy` file of positions within a batch `[rows]`: whole numbers of any type.
///
/// # Errors
/// A file that is missing, malformed or not such an array, or a value below 0 or above `u32::MAX`.
#[cfg(feature = "native")]
pub fn read_positions_npy(path: &std::path::Path) -> Result<Vec<u32>> {
    let positions = unmasked(path)?.read_up_to(u32::MAX.into(), FROM_0)?;
    Ok(positions.iter().map(|at| at as u32).collect())
}

/// The advice for negative numbers.
#[cfg(feature = "native")]
const FROM_0: &str = "number the rows from 0";

/// A `.npy` file of whole numbers that are no mask.
#[cfg(feature = "native")]
fn unmasked(path: &std::path::Path) -> Result<Array<Integer>> {
    let array = Array::<Integer>::open_npy(path)?;
    if !array.is_mask() {
        return Ok(array);
    }
    let advice = "write a number for every row, or save array.astype('int64') for the numbers 0 and 1";
    Err(Error::data(array.label, Integer::TYPES, array.type_name, advice))
}
