//! Arrays on disk: checks their headers, and reads rows of features as f32.
//!
//! Owns the check of an array's type, shape and values. It keeps no feature row in memory, so a file may be far larger
//! than memory. It knows nothing of splits or captions.

use std::ops::Range;
use std::sync::Arc;

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};

use super::file::Source;
use super::header::{Kind, Type, Wanted};
use super::positioned::{Header, PositionedFile};
use crate::{Error, Result};

/// Most columns of a feature array. A damaged header must not ask for a row larger than memory.
const MAX_COLUMNS: u64 = 1 << 20;

/// Most rows of an array. Bytes of so many rows of [`MAX_COLUMNS`] numbers are still counted in 64 bits.
const MAX_ROWS: u64 = 1 << 40;

/// The types that the values of an array may have, and the array's dimensions.
pub(super) trait Element: Copy {
    /// The accepted types, for messages.
    const TYPES: &'static str;
    /// The use that advice on other types aims at.
    const WANTED: Wanted;
    /// The dimensions, for messages.
    const AXES: &'static [&'static str];
    /// The type of this kind and size; `None` if it is not accepted.
    fn of(found: &Type) -> Option<Self>;
}

/// A type of features. Fingerprints contain its number, so a new type goes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Feature {
    F16,
    F32,
    F64,
    BF16,
    I8,
    I16,
    I32,
    I64,
    /// Also true and false.
    U8,
    U16,
    U32,
    U64,
}

impl Element for Feature {
    const TYPES: &'static str = "floats or whole numbers";
    const WANTED: Wanted = Wanted::Features;
    const AXES: &'static [&'static str] = &["rows", "columns"];

    fn of(found: &Type) -> Option<Self> {
        match (found.kind, found.size) {
            (Kind::Float, 2) => Some(Self::F16),
            (Kind::Float, 4) => Some(Self::F32),
            (Kind::Float, 8) => Some(Self::F64),
            (Kind::Brain, 2) => Some(Self::BF16),
            (Kind::Int, 1) => Some(Self::I8),
            (Kind::Int, 2) => Some(Self::I16),
            (Kind::Int, 4) => Some(Self::I32),
            (Kind::Int, 8) => Some(Self::I64),
            (Kind::Uint | Kind::Bool, 1) => Some(Self::U8),
            (Kind::Uint, 2) => Some(Self::U16),
            (Kind::Uint, 4) => Some(Self::U32),
            (Kind::Uint, 8) => Some(Self::U64),
            _ => None,
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
    /// Bytes of one value.
    pub size: usize,
    big_endian: bool,
    /// The type as the file names it, for messages.
    pub type_name: String,
    /// Rows, over all items if the array has items.
    pub rows: usize,
    /// Values of one row.
    pub cols: usize,
    /// Rows of each item of a three-dimensional array.
    pub group: Option<usize>,
}

/// Features `[rows, cols]`, read by row.
pub(super) type FeatureFile = Array<Feature>;

impl<E: Element> Array<E> {
    pub fn open(source: &Source, name: &str) -> Result<Self> {
        Self::from_header(source.header(name)?, E::AXES, |shape| reshape::<E>(name, shape))
    }

    /// Checks type and shape. The first two of three axes are the items and their rows. `advice` is for a wrong number
    /// of axes.
    pub fn from_header(header: Header, axes: &[&str], advice: impl FnOnce(&[u64]) -> String) -> Result<Self> {
        let Header { label, file, start, dtype: found, shape, alone } = header;
        let Some(dtype) = E::of(&found) else {
            return Err(Error::data(label, E::TYPES, &found.name, found.conversion(E::WANTED)));
        };
        let fault = |expected: String, advice: String| {
            Err(Error::data(&label, expected, format!("shape {shape:?}"), advice))
        };
        if shape.len() != axes.len() {
            return fault(format!("shape [{}]", axes.join(", ")), advice(&shape));
        }
        if shape.contains(&0) {
            let expected = format!("{} above 0", axes.join(" and "));
            return fault(expected, "write the array again with its rows".into());
        }
        let (rows, cols, group) = match shape[..] {
            [items, rows, cols] => (items.saturating_mul(rows), cols, Some(rows as usize)),
            [rows, cols] => (rows, cols, None),
            _ => (shape[0], 1, None),
        };
        if rows > MAX_ROWS || cols > MAX_COLUMNS || usize::try_from(rows * cols).is_err() {
            let limits = format!("at most {MAX_ROWS} rows and {MAX_COLUMNS} columns");
            return fault(limits, "check how the array was made, or use a part of it".into());
        }
        if alone {
            file.check_length(&label, start + rows * cols * found.size as u64)?;
        }
        let Type { size, big_endian, name: type_name, .. } = found;
        let (rows, cols) = (rows as usize, cols as usize);
        Ok(Self { label, file, start, dtype, size, big_endian, type_name, rows, cols, group })
    }

    /// Fills `out` with whole values from byte `position` on, counted from the first value, and makes them
    /// little-endian.
    pub fn read_values(&self, thing: impl Fn() -> String, out: &mut [u8], position: u64) -> Result<()> {
        self.file.read(thing, out, self.start + position)?;
        if self.big_endian {
            out.chunks_exact_mut(self.size).for_each(<[u8]>::reverse);
        }
        Ok(())
    }
}

/// The advice for the array `name` if its shape has too few or too many axes.
pub(super) fn reshape<E: Element>(name: &str, shape: &[u64]) -> String {
    let long: Vec<u64> = shape.iter().copied().filter(|&n| n != 1).collect();
    let same = |shape: &[u64]| {
        let shape: Vec<_> = shape.iter().map(u64::to_string).collect();
        format!("save array.reshape({})", shape.join(", "))
    };
    let option = match name {
        "images" => Some(("image_regions", "--image-pooling")),
        "texts" => Some(("text_tokens", "--text-pooling")),
        _ => None,
    };
    match (E::WANTED, shape) {
        (Wanted::Rows, []) => "save numpy.atleast_1d(array)".into(),
        (Wanted::Rows, _) => "save array.ravel()".into(),
        (Wanted::Features, []) => "save a row of features for each item".into(),
        (Wanted::Features, [_]) => {
            "save array.reshape(-1, 1) where each item has one value, array.reshape(1, -1) where there is one item"
                .into()
        }
        _ if long.len() == 2 => same(&long),
        (Wanted::Features, [_, _, _]) => match option {
            None => "save array.mean(axis=1)".into(),
            Some((local, pooling)) => {
                format!("save array.mean(axis=1), or name the array {local} and add {pooling} mean")
            }
        },
        (Wanted::Features, _) => "save array.reshape(len(array), -1)".into(),
    }
}

/// The advice for local features `name` that are not three-dimensional and have no array `offsets`.
fn reshape_local(offsets: &str, shape: &[u64]) -> String {
    match *shape {
        [_, columns] => format!(
            "add {offsets}, where the rows of each item start; or, if items have equally many rows, save \
             array.reshape(ITEMS, -1, {columns}) with their number"
        ),
        [items, .., columns] if shape.len() > 3 => {
            let columns = if columns == 1 { shape[shape.len() - 2] } else { columns };
            format!("save array.reshape({items}, -1, {columns})")
        }
        _ => "save rows of features for each item".into(),
    }
}

impl FeatureFile {
    /// Opens an array with several rows per item: `[items, rows, columns]`; or `[rows, columns]` if `assigned`, that is,
    /// if an array such as `offsets` assigns rows to items.
    pub fn open_local(source: &Source, name: &str, offsets: &str, assigned: bool) -> Result<Self> {
        let header = source.header(name)?;
        let padded = header.shape.len() == 3;
        match assigned && !padded {
            true => Self::from_header(header, Feature::AXES, |shape| match shape {
                [.., columns] if shape.len() > 2 => format!("save array.reshape(-1, {columns})"),
                _ => reshape::<Feature>(name, shape),
            }),
            false => Self::from_header(header, &["items", "rows", "columns"], |shape| {
                reshape_local(offsets, shape)
            }),
        }
    }

    /// Announces to the system that rows will be read.
    pub fn will_need(&self, rows: Range<usize>) {
        let width = (self.cols * self.size) as u64;
        self.file.will_need(self.start + rows.start as u64 * width, rows.len() as u64 * width);
    }

    /// Sets whether the system fetches the bytes that follow a row.
    pub fn reads_on(&self, on: bool) {
        self.file.reads_on(on);
    }

    /// Whether reading any row since the last call had to wait for the disk.
    pub fn missed(&self) -> bool {
        self.file.missed()
    }

    /// Bytes of its file that were read so far.
    pub fn bytes_read(&self) -> u64 {
        self.file.bytes_read()
    }

    /// Whether its values are f16.
    pub fn is_half(&self) -> bool {
        self.dtype == Feature::F16
    }

    /// Rows, columns and type, as numbers.
    pub fn shape(&self) -> [u64; 3] {
        [self.rows as u64, self.cols as u64, self.dtype as u64]
    }

    /// The name of a row in messages.
    pub fn place(&self, row: usize) -> String {
        let group = self.group.unwrap_or(1);
        let position = self.start + row as u64 * self.row_bytes() as u64;
        let (file, item) = self.file.item_at(position).unwrap_or((&self.label, (row / group) as u64));
        match self.group {
            None => format!("{file} row {item}"),
            Some(_) => format!("{file} item {item} row {}", row % group),
        }
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.cols * self.size
    }

    /// Reads one row as it is in the file, with little-endian values.
    pub fn read_bytes(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        out.resize(self.row_bytes(), 0);
        self.read_values(|| self.place(row), out, row as u64 * self.row_bytes() as u64)
    }

    /// Decodes the bytes of a row of this array. Returns the largest magnitude, as [`decode`] does.
    pub fn decode_row(&self, bytes: &[u8], out: &mut [f32]) -> u32 {
        decode_features(self.dtype, bytes, out)
    }

    /// Reads one row into `out`, which holds `cols` values, and returns whether all of them are zero.
    ///
    /// `scratch` is working space that the caller keeps, so that it is allocated once. A value that is not a finite f32
    /// is an error. So are a file that changed since it was opened and a row out of range.
    pub fn read_row(&self, row: usize, scratch: &mut Vec<u8>, out: &mut [f32]) -> Result<bool> {
        if row >= self.rows || out.len() != self.cols {
            let expected = format!("a row below {} for {} values", self.rows, self.cols);
            let found = format!("row {row} for {} values", out.len());
            return Err(Error::data(&self.label, expected, found, "ask for a row of this array"));
        }
        self.read_bytes(row, scratch)?;
        let largest = self.decode_row(scratch, out);
        if largest >= f32::INFINITY.to_bits() {
            return Err(self.not_finite(row, scratch, out));
        }
        Ok(largest == 0)
    }

    /// The first value of a row that is not a finite f32, and its cause.
    fn not_finite(&self, row: usize, bytes: &[u8], values: &[f32]) -> Error {
        let column = values.iter().position(|x| !x.is_finite()).unwrap_or(0);
        let (value, f64s) = (values[column], bytes.chunks_exact(8).nth(column));
        let wide = match (self.dtype, f64s.map(<[u8; 8]>::try_from)) {
            (Feature::F64, Some(Ok(bytes))) => f64::from_le_bytes(bytes),
            _ => value.into(),
        };
        let advice = if wide.is_finite() {
            "divide the features by a power of ten, all by the same, so that the largest is below 1e6".into()
        } else if self.dtype == Feature::F16 && value.is_infinite() {
            format!(
                "the value was above {}, the largest of float16, when it was saved: save the encoder's features \
                 as float32",
                f16::MAX
            )
        } else {
            "replace the value, or leave the row out of the dataset".to_string()
        };
        let found = if wide.is_finite() { format!("{wide:e}") } else { value.to_string() };
        Error::data(format!("{} column {column}", self.place(row)), "a finite f32 value", found, advice)
    }
}

/// Decodes little-endian values. Returns the largest magnitude, as [`decode`] does. Whole numbers that f32 does not
/// have are rounded.
pub(super) fn decode_features(dtype: Feature, bytes: &[u8], out: &mut [f32]) -> u32 {
    macro_rules! decoded {
        ($from:ty) => {
            decode(bytemuck::cast_slice(bytes), out, |b| <$from>::from_le_bytes(b) as f32)
        };
    }
    match dtype {
        Feature::F16 => decode_f16(bytes, out),
        Feature::F32 => decode(bytemuck::cast_slice(bytes), out, f32::from_le_bytes),
        Feature::F64 => decoded!(f64),
        Feature::BF16 => decode(bytemuck::cast_slice(bytes), out, |b| bf16::from_le_bytes(b).to_f32()),
        Feature::I8 => decoded!(i8),
        Feature::I16 => decoded!(i16),
        Feature::I32 => decoded!(i32),
        Feature::I64 => decoded!(i64),
        Feature::U8 => decoded!(u8),
        Feature::U16 => decoded!(u16),
        Feature::U32 => decoded!(u32),
        Feature::U64 => decoded!(u64),
    }
}

/// Decodes values and returns the largest magnitude as the bits of an f32. Without the sign bit, bits sort by
/// magnitude, so one pass finds out whether all values are finite and whether all are zero.
fn decode<const N: usize>(values: &[[u8; N]], out: &mut [f32], convert: impl Fn([u8; N]) -> f32) -> u32 {
    out.iter_mut().zip(values).fold(0, |largest, (out, &value)| {
        *out = convert(value);
        largest.max(out.to_bits() & 0x7fff_ffff)
    })
}

/// [`decode`] in blocks, because `half` converts whole slices with special processor instructions.
fn decode_f16(bytes: &[u8], out: &mut [f32]) -> u32 {
    let mut bits = [0; 256];
    // The magnitude as f16 bits, in a signed integer: every processor has a vector maximum for this type.
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
