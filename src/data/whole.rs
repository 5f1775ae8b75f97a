//! Reads whole `.npy` files.

use super::array::{Array, Element, Feature, FeatureFile, reshape};
use super::npy::npy_header;
use crate::io::may_fail;
use crate::{Error, Result};
use std::path::Path;

impl<E: Element> Array<E> {
    pub fn open_npy(path: &Path) -> Result<Self> {
        Self::from_header(npy_header(path)?, E::AXES, |shape| reshape::<E>("", shape))
    }
}

/// Reads a whole `.npy` file of features `[rows, cols]`, of any type that a dataset may have. Returns `(rows, cols, values)`, row-major.
///
/// # Errors
/// A file that is missing, malformed or not such an array, or a value that is not a finite f32.
pub fn read_matrix_npy(path: &Path) -> Result<(usize, usize, Vec<f32>)> {
    read_whole(FeatureFile::open_npy(path)?)
}

/// Like [`read_matrix_npy`], but takes an array of one axis as one row.
///
/// # Errors
/// Those of [`read_matrix_npy`].
pub fn read_rows_npy(path: &Path) -> Result<(usize, usize, Vec<f32>)> {
    let mut header = npy_header(path)?;
    if let [columns] = header.shape[..] {
        header.shape = vec![1, columns];
    }
    read_whole(FeatureFile::from_header(header, Feature::AXES, |shape| reshape::<Feature>("", shape))?)
}

fn read_whole(array: FeatureFile) -> Result<(usize, usize, Vec<f32>)> {
    let (rows, cols) = (array.rows, array.cols);
    let mut values = Vec::new();
    if rows.checked_mul(cols).is_none_or(|n| may_fail(|| values.try_reserve_exact(n)).is_err()) {
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
