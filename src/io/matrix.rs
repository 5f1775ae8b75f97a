//! Writes matrices of f32 in file formats of other programs: npy, fvecs, fbin.

use super::{RowList, Streams, write_whole};
use crate::{Error, Result};
use std::io::Write;
use std::path::Path;

/// Writes `values`, row-major `[rows, cols]`, as a `.npy` file of f32. The file appears whole or not at all.
///
/// # Errors
/// The number of values is not `rows * cols`, or the file cannot be written. An existing file then stays unchanged.
pub fn write_matrix_npy(path: &Path, rows: usize, cols: usize, values: &[f32]) -> Result<()> {
    write_matrix(path, rows, cols, values, |out| {
        write_npy_header(out, "<f4", &format!("{rows}, {cols}"))?;
        values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes()))
    })
}

/// Writes row numbers `[rows]` as a `.npy` file of int64, like [`write_matrix_npy`].
///
/// # Errors
/// The file cannot be written. An existing file then stays unchanged.
pub fn write_ids_npy(path: &Path, rows: &RowList) -> Result<()> {
    write_whole(path, Streams::Written, |out| {
        write_npy_header(out, "<i8", &format!("{},", rows.len()))?;
        rows.iter().try_for_each(|row| out.write_all(&(row as i64).to_le_bytes()))
    })
}

/// Writes the header of a `.npy` file. The values start at a multiple of 64 bytes. Before them are 10 bytes, the text and
/// a line break.
pub(crate) fn write_npy_header(out: &mut dyn Write, dtype: &str, shape: &str) -> std::io::Result<()> {
    let text = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({shape}), }}");
    let width = (text.len() + 11).next_multiple_of(64) - 11;
    out.write_all(b"\x93NUMPY\x01\x00")?;
    out.write_all(&(width as u16 + 1).to_le_bytes())?;
    writeln!(out, "{text:width$}")
}

/// Like [`write_matrix_npy`], but writes the `.fvecs` format of faiss: the length of each row, as an i32, stands before it.
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

/// Like [`write_matrix_npy`], but writes the `.fbin` format of usearch: the number of rows and of columns as i32, then
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

/// Writes a file of `values`, `[rows, cols]`. Both numbers must fit an i32, because some formats store them as such.
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
