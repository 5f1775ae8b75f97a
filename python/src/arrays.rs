//! NumPy arrays as the library takes them. Arrays that fit are not copied. All others are converted by `wgoal._arrays`.

use crate::errors::{raised, refused};
use numpy::{PyArray1, PyArray2, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;
use wgoal::data::RowList;

/// A matrix of float32 in C order.
pub struct Matrix<'py> {
    array: Bound<'py, PyArray2<f32>>,
    pub rows: usize,
    pub cols: usize,
}

/// The array itself if the library can read it in place.
fn in_place<'py>(value: &Bound<'py, PyAny>) -> Option<Bound<'py, PyArray2<f32>>> {
    let array = value.cast::<PyArray2<f32>>().ok()?;
    (array.is_c_contiguous() && array.is_aligned()).then(|| array.clone())
}

impl<'py> Matrix<'py> {
    /// The matrix of an argument: a NumPy array, or what `wgoal._arrays.matrix` can convert.
    pub fn of(name: &str, value: &Bound<'py, PyAny>) -> PyResult<Self> {
        let array = match in_place(value) {
            Some(array) => array,
            None => {
                let converted = value.py().import("wgoal._arrays")?.call_method1("matrix", (name, value))?;
                in_place(&converted).ok_or_else(|| wrong(value.py(), name, &converted))?
            }
        };
        let [rows, cols] = [array.shape()[0], array.shape()[1]];
        Ok(Self { array, rows, cols })
    }

    /// The matrix of an argument that is written to: a NumPy array that fits as it is.
    pub fn to_write(name: &str, value: &Bound<'py, PyAny>, [rows, cols]: [usize; 2]) -> PyResult<Self> {
        let fits = in_place(value).filter(|array| array.shape() == [rows, cols]);
        let writeable = || value.getattr("flags")?.getattr("writeable")?.extract::<bool>();
        match fits {
            Some(array) if writeable()? => Ok(Self { array, rows, cols }),
            _ => {
                let expected =
                    format!("a writeable array of float32 in C order and of shape ({rows}, {cols})");
                let advice = "give numpy.empty(shape, numpy.float32), or leave it out";
                let found =
                    value.getattr("shape").map_or("no array".into(), |shape| format!("shape {shape}"));
                Err(raised(value.py(), &refused(name, expected, found, advice)))
            }
        }
    }

    /// A matrix of which all values are to be written.
    pub fn fresh(py: Python<'py>, [rows, cols]: [usize; 2]) -> Self {
        // SAFETY: all callers write every value before Python sees the array, or drop it.
        let array = unsafe { PyArray2::new(py, [rows, cols], false) };
        Self { array, rows, cols }
    }

    /// The values, row-major.
    pub fn values(&self) -> &[f32] {
        // SAFETY: the array is aligned, in C order, and kept alive by `self`. As with every function on NumPy arrays,
        // the caller in Python must not change it meanwhile.
        unsafe { std::slice::from_raw_parts(self.array.data(), self.rows * self.cols) }
    }

    /// The values, to be written.
    ///
    /// # Safety
    /// Nothing else may use the array meanwhile.
    pub unsafe fn values_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `values`; the array is writeable, and the caller has it alone.
        unsafe { std::slice::from_raw_parts_mut(self.array.data(), self.rows * self.cols) }
    }

    /// Whether two matrices share memory.
    pub fn overlaps(&self, other: &Self) -> bool {
        let range = |matrix: &Self| {
            let start = matrix.array.data() as usize;
            start..start + size_of::<f32>() * matrix.rows * matrix.cols
        };
        let (a, b) = (range(self), range(other));
        a.start < b.end && b.start < a.end
    }

    /// The array.
    pub fn into_array(self) -> Bound<'py, PyArray2<f32>> {
        self.array
    }

    /// The values with the width of a row, as the library takes them.
    pub fn as_rows(&self) -> (&[f32], usize) {
        (self.values(), self.cols)
    }
}

fn wrong(py: Python<'_>, name: &str, found: &Bound<'_, PyAny>) -> PyErr {
    raised(py, &refused(name, "a matrix of float32 in C order", found, "report this as a bug"))
}

/// Row numbers of an argument.
pub fn rows(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Vec<u64>> {
    let converted = value.py().import("wgoal._arrays")?.call_method1("rows", (name, value))?;
    let array = converted.cast::<PyArray1<u64>>()?;
    Ok(array.readonly().as_array().to_vec())
}

/// Numbers of an argument: what `wgoal._arrays` converts to uint32 with its function `with`.
pub fn numbers(name: &str, with: &str, value: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
    let converted = value.py().import("wgoal._arrays")?.call_method1(with, (name, value))?;
    let array = converted.cast::<PyArray1<u32>>()?;
    Ok(array.readonly().as_array().to_vec())
}

/// Indices as int64, the type that indexes arrays.
pub fn indices<'py>(py: Python<'py>, values: &[u32]) -> Bound<'py, PyArray1<i64>> {
    PyArray1::from_vec(py, values.iter().map(|&value| i64::from(value)).collect())
}

/// Row numbers as int64.
pub fn row_numbers<'py>(py: Python<'py>, rows: &RowList) -> Bound<'py, PyArray1<i64>> {
    PyArray1::from_vec(py, rows.iter().map(|row| row as i64).collect())
}

/// A matrix of these values.
pub fn matrix<'py>(py: Python<'py>, values: Vec<f32>, cols: usize) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let rows = values.len().checked_div(cols).unwrap_or(0);
    PyArray1::from_vec(py, values).reshape([rows, cols])
}
