//! Reads columns of Parquet files and Arrow files (Feather version 2, IPC files and IPC streams).
//!
//! A damaged file is an error. The readers come from other crates and may panic on one, so a panic becomes an error too.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types as arrow;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_ipc::reader::{FileReader, StreamReader};
use arrow_schema::{ArrowError, DataType, SchemaRef};
use half::slice::HalfFloatSliceExt;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::columns::{Chunk, Kind, Opened};
use crate::io as files;
use crate::{Error, ErrorKind, Result};

/// Rows that are decoded at a time.
const ROWS: usize = 1024;
/// How an Arrow IPC file begins. IPC streams have no such mark.
const ARROW: &[u8] = b"ARROW1";

/// Opens a file: its columns, and the values of one of them.
pub(super) fn open(path: &Path, column: Option<&str>) -> Result<Opened> {
    let (schema, batches) = guard(path, || batches(path, column))?;
    let columns =
        schema.fields().iter().map(|field| (field.name().clone(), kind(field.data_type()))).collect();
    let mut batches = batches;
    let (path, column) = (path.to_path_buf(), column.unwrap_or_default().to_string());
    let (mut row, mut failed) = (0, column.is_empty());
    let chunks = std::iter::from_fn(move || {
        if failed {
            return None;
        }
        let next = guard(&path, || {
            let Some(batch) = batches.next() else { return Ok(None) };
            let batch = batch.map_err(|e| damaged(&path, &e))?;
            let Some(values) = batch.column_by_name(&column) else {
                return Err(damaged(&path, &"no column"));
            };
            let place = |k: usize| format!("{} column {column} row {}", path.display(), row + k);
            let chunk = chunk(values, &place)?;
            row += batch.num_rows();
            Ok(Some(chunk))
        });
        failed = next.is_err();
        next.transpose()
    });
    Ok((columns, Box::new(chunks)))
}

type Batches = Box<dyn Iterator<Item = std::result::Result<RecordBatch, ArrowError>>>;

/// The schema of a file, and its batches with the values of `column`.
fn batches(path: &Path, column: Option<&str>) -> Result<(SchemaRef, Batches)> {
    let mut file = opened(path)?;
    let wrong = |e: &dyn std::fmt::Display| damaged(path, e);
    let mut start = [0; ARROW.len()];
    let is_parquet = path.extension().is_some_and(|extension| extension == "parquet");
    if !is_parquet {
        let mut head = (&mut file).take(ARROW.len() as u64);
        let read = head.read(&mut start).map_err(|e| wrong(&e))?;
        if start.starts_with(b"FEA1") {
            let advice = "write it again as version 2, for example with pandas.DataFrame.to_feather";
            return Err(Error::data(path.display(), "an Arrow file", "Feather version 1", advice));
        }
        file.seek(SeekFrom::Start(0)).map_err(|e| wrong(&e))?;
        let index =
            |schema: &SchemaRef| column.and_then(|column| schema.index_of(column).ok()).map(|k| vec![k]);
        if start[..read] == *ARROW {
            let reader = FileReader::try_new(BufReader::new(file), None).map_err(|e| wrong(&e))?;
            let schema = reader.schema();
            let reader = FileReader::try_new(BufReader::new(opened(path)?), index(&schema));
            return Ok((schema, Box::new(reader.map_err(|e| wrong(&e))?)));
        }
        let reader = StreamReader::try_new(BufReader::new(file), None).map_err(|e| wrong(&e))?;
        let schema = reader.schema();
        let reader = StreamReader::try_new(BufReader::new(opened(path)?), index(&schema));
        return Ok((schema, Box::new(reader.map_err(|e| wrong(&e))?)));
    }
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| wrong(&e))?;
    let schema = builder.schema().clone();
    let index = column.and_then(|column| schema.index_of(column).ok());
    let mask = ProjectionMask::roots(builder.parquet_schema(), index);
    let reader = builder.with_projection(mask).with_batch_size(ROWS).build().map_err(|e| wrong(&e))?;
    Ok((schema, Box::new(reader)))
}

fn opened(path: &Path) -> Result<File> {
    let (file, _) = files::open(path).map_err(|obstacle| {
        let advice = "check the path and that the dataset is complete";
        obstacle.error(ErrorKind::Data, path.display(), "a Parquet or Arrow file", advice)
    })?;
    Ok(file)
}

fn damaged(path: &Path, found: &dyn std::fmt::Display) -> Error {
    let found = found.to_string();
    if found.contains("Disabled feature") {
        let (expected, advice) =
            ("a compression that wgoal reads", "write the file again, compressed with zstd");
        return Error::data(path.display(), expected, format!("another one ({found})"), advice);
    }
    let found = format!("a damaged one ({found})");
    Error::data(path.display(), "a Parquet or Arrow file", found, "copy or write the file again")
}

/// Turns a panic of a reader into an error.
fn guard<T>(path: &Path, read: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err(damaged(path, &"its reader failed")))
}

/// What a column of this type holds.
fn kind(of: &DataType) -> Kind {
    match of {
        DataType::FixedSizeList(item, _) | DataType::List(item) | DataType::LargeList(item) => {
            if is_number(item.data_type()) { Kind::Lists } else { Kind::Other }
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Kind::Text,
        DataType::Dictionary(_, values) if kind(values) == Kind::Text => Kind::Text,
        of if is_number(of) => Kind::Numbers,
        _ => Kind::Other,
    }
}

fn is_number(of: &DataType) -> bool {
    of.is_integer() || of.is_floating()
}

/// The values of a batch. `place` names a row.
fn chunk(values: &ArrayRef, place: &dyn Fn(usize) -> String) -> Result<Chunk> {
    let rows = values.len();
    if kind(values.data_type()) == Kind::Text {
        return Ok(Chunk::Text(text(values)));
    }
    let null = |array: &dyn Array, width: usize| match (0..array.len()).find(|&k| array.is_null(k)) {
        Some(k) => {
            let advice = "leave the row out of the dataset, or give it a value";
            Err(Error::data(place(k / width.max(1)), "a value", "null", advice))
        }
        None => Ok(()),
    };
    null(values, 1)?;
    let (inner, width) = match values.data_type() {
        DataType::FixedSizeList(_, width) => {
            let (list, width) = (values.as_fixed_size_list(), *width as usize);
            (list.values().slice(list.value_offset_at(0), rows * width), Some(width))
        }
        DataType::List(_) => {
            let list = values.as_list::<i32>();
            let ends: Vec<_> = list.value_offsets().iter().map(|&end| end as usize).collect();
            (list.values().slice(ends[0], ends[rows] - ends[0]), Some(even(&ends, place)?))
        }
        DataType::LargeList(_) => {
            let list = values.as_list::<i64>();
            let ends: Vec<_> = list.value_offsets().iter().map(|&end| end as usize).collect();
            (list.values().slice(ends[0], ends[rows] - ends[0]), Some(even(&ends, place)?))
        }
        _ => (values.clone(), None),
    };
    null(&inner, width.unwrap_or(1))?;
    let Some((dtype, bytes)) = numbers(&inner) else {
        let advice = "write the column as lists of f32";
        return Err(Error::data(place(0), "lists of numbers", inner.data_type(), advice));
    };
    Ok(Chunk::Numbers { dtype, width, rows, bytes })
}

/// The length of all lists, which start and end at these positions.
fn even(ends: &[usize], place: &dyn Fn(usize) -> String) -> Result<usize> {
    let width = ends.get(1).map_or(0, |end| end - ends[0]);
    match ends.windows(2).position(|pair| pair[1] - pair[0] != width) {
        None => Ok(width),
        Some(row) => {
            let found = format!("{} values", ends[row + 1] - ends[row]);
            let advice = "write rows with equally many values of the same type";
            Err(Error::data(place(row), format!("{width} values, as in the rows before"), found, advice))
        }
    }
}

/// The type of numbers, by its name in safetensors, and the numbers as little-endian bytes.
fn numbers(array: &ArrayRef) -> Option<(&'static str, Vec<u8>)> {
    macro_rules! bytes {
        ($of:ty, $name:literal) => {{
            let values = array.as_primitive::<$of>().values();
            let little = || bytemuck::cast_slice(values).to_vec();
            let swapped = || values.iter().flat_map(|value| value.to_le_bytes()).collect();
            Some(($name, if cfg!(target_endian = "little") { little() } else { swapped() }))
        }};
    }
    match array.data_type() {
        DataType::Float16 => {
            let values = array.as_primitive::<arrow::Float16Type>().values();
            let bits: &[u16] = values.reinterpret_cast();
            Some(("F16", bits.iter().flat_map(|bits| bits.to_le_bytes()).collect()))
        }
        DataType::Float32 => bytes!(arrow::Float32Type, "F32"),
        DataType::Float64 => bytes!(arrow::Float64Type, "F64"),
        DataType::Int8 => bytes!(arrow::Int8Type, "I8"),
        DataType::Int16 => bytes!(arrow::Int16Type, "I16"),
        DataType::Int32 => bytes!(arrow::Int32Type, "I32"),
        DataType::Int64 => bytes!(arrow::Int64Type, "I64"),
        DataType::UInt8 => bytes!(arrow::UInt8Type, "U8"),
        DataType::UInt16 => bytes!(arrow::UInt16Type, "U16"),
        DataType::UInt32 => bytes!(arrow::UInt32Type, "U32"),
        DataType::UInt64 => bytes!(arrow::UInt64Type, "U64"),
        _ => None,
    }
}

/// Texts. A null is an empty text.
fn text(array: &ArrayRef) -> Vec<String> {
    let owned = |text: Option<&str>| text.unwrap_or_default().to_string();
    match array.data_type() {
        DataType::LargeUtf8 => array.as_string::<i64>().iter().map(owned).collect(),
        DataType::Utf8View => array.as_string_view().iter().map(owned).collect(),
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let words = text(dictionary.values());
            let keys = dictionary.normalized_keys();
            let word = |(k, key): (usize, usize)| match array.is_null(k) {
                true => String::new(),
                false => words.get(key).cloned().unwrap_or_default(),
            };
            keys.into_iter().enumerate().map(word).collect()
        }
        _ => array.as_string::<i32>().iter().map(owned).collect(),
    }
}
