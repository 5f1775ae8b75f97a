//! Writes embeddings as a Parquet or an Arrow file: a column of row numbers, a column of fixed-size lists, a column of
//! texts.

use super::{RowList, write_file};
use crate::{Error, Result};
use arrow_array::{ArrayRef, FixedSizeListArray, Float32Array, Int64Array, RecordBatch, StringArray};
use arrow_ipc::writer::FileWriter;
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use std::error::Error as StdError;
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

/// A column of a Parquet or Arrow file.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Column<'a> {
    /// Row numbers, as Int64.
    Rows(&'a RowList),
    /// Vectors of this width, row-major, as FixedSizeList of Float32.
    Vectors(&'a [f32], usize),
    /// Texts, as Utf8.
    Texts(Vec<&'a str>),
}

impl Column<'_> {
    fn array(&self) -> std::result::Result<ArrayRef, Box<dyn StdError>> {
        Ok(match self {
            Self::Rows(rows) => Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row as i64))),
            Self::Vectors(values, width) => {
                let values = Arc::new(Float32Array::from(values.to_vec()));
                let item = Arc::new(Field::new("item", DataType::Float32, false));
                Arc::new(FixedSizeListArray::try_new(item, i32::try_from(*width)?, values, None)?)
            }
            Self::Texts(texts) => Arc::new(StringArray::from_iter_values(texts)),
        })
    }
}

/// Writes columns of equal length, by name, as a Parquet file that is compressed with zstd, like [`write_file`].
///
/// # Errors
/// Columns of different lengths, vectors of another width, and those of [`write_file`].
pub fn write_parquet(path: &Path, columns: &[(&str, Column)]) -> Result<()> {
    write(path, columns, |batch| {
        let compression = Compression::ZSTD(ZstdLevel::default());
        let properties = WriterProperties::builder().set_compression(compression).build();
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties))?;
        writer.write(batch)?;
        writer.close()?;
        Ok(bytes)
    })
}

/// Writes columns of equal length, by name, as an Arrow IPC file (Feather version 2), like [`write_file`]. It is not
/// compressed, so that readers can map it into memory.
///
/// # Errors
/// Columns of different lengths, vectors of another width, and those of [`write_file`].
pub fn write_arrow(path: &Path, columns: &[(&str, Column)]) -> Result<()> {
    write(path, columns, |batch| {
        let mut writer = FileWriter::try_new(Vec::new(), &batch.schema())?;
        writer.write(batch)?;
        writer.finish()?;
        Ok(writer.into_inner()?)
    })
}

/// Writes the bytes that `encode` makes of the columns.
fn write(
    path: &Path,
    columns: &[(&str, Column)],
    encode: impl FnOnce(&RecordBatch) -> std::result::Result<Vec<u8>, Box<dyn StdError>>,
) -> Result<()> {
    let fault = |e: &dyn Display| {
        Error::data(path.display(), "columns that can be written", e, "give columns of equal length")
    };
    let bytes = batch(columns).and_then(|batch| encode(&batch)).map_err(|e| fault(&e))?;
    write_file(path, &bytes)
}

fn batch(columns: &[(&str, Column)]) -> std::result::Result<RecordBatch, Box<dyn StdError>> {
    let (mut fields, mut arrays) = (Vec::new(), Vec::new());
    for (name, column) in columns {
        let array = column.array()?;
        fields.push(Field::new(*name, array.data_type().clone(), false));
        arrays.push(array);
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
}
