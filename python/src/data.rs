//! `wgoal.Dataset`: cached features from files, or from arrays.

use crate::arrays::{self, matrix, row_numbers, rows};
use crate::errors::{guarded, raised, refused, result};
use crate::threads;
use numpy::{PyArray1, PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use wgoal::Split;
use wgoal::data::{Arrays, RowList, Side};

/// Cached features of images and texts, and which text belongs to which image. Make one with `open` or `from_arrays`.
#[pyclass(frozen, name = "Dataset", module = "wgoal")]
pub struct PyDataset {
    pub inner: Arc<wgoal::Dataset>,
}

/// The side of this name.
pub fn side(py: Python<'_>, name: &str) -> PyResult<Side> {
    match name {
        "image" => Ok(Side::Image),
        "text" => Ok(Side::Text),
        _ => Err(raised(py, &refused("side", "image or text", format!("'{name}'"), "name one of them"))),
    }
}

/// The split of this name.
pub fn split(py: Python<'_>, name: &str) -> PyResult<Split> {
    result(py, name.parse())
}

/// The types of arrays that stay in files, by NumPy's names.
const TYPES: [(&str, &str); 10] = [
    ("float16", "F16"),
    ("float32", "F32"),
    ("float64", "F64"),
    ("int8", "I8"),
    ("int16", "I16"),
    ("int32", "I32"),
    ("int64", "I64"),
    ("uint8", "U8"),
    ("uint16", "U16"),
    ("uint32", "U32"),
];

/// The arrays that `wgoal._arrays.dataset` makes of the arguments: by name the kind of each, and its values or its place
/// in a file.
pub fn arrays(py: Python<'_>, given: &Bound<'_, PyDict>) -> PyResult<Arrays> {
    let prepared = py.import("wgoal._arrays")?.call_method1("dataset", (given,))?;
    let prepared: Vec<(String, String, Bound<'_, PyAny>)> = prepared.extract()?;
    let mut arrays = Arrays::new();
    for (name, kind, value) in prepared {
        arrays = match kind.as_str() {
            "file" => {
                let (path, start, dtype, shape): (PathBuf, u64, String, Vec<usize>) = value.extract()?;
                let Some((_, dtype)) = TYPES.iter().find(|(known, _)| *known == dtype) else {
                    let expected = TYPES.map(|(name, _)| name).join(", ");
                    let advice = "convert it with numpy.asarray(x, numpy.float32)";
                    return Err(raised(py, &refused(&format!("array {name}"), expected, dtype, advice)));
                };
                result(py, arrays.with_file(&name, path, start, dtype, &shape))?
            }
            "rows" => arrays.with_rows(&name, &rows(&name, &value)?),
            "pairs" => {
                let flat = rows(&name, &value)?;
                let pairs: Vec<[u64; 2]> = flat.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect();
                arrays.with_pairs(&pairs)
            }
            _ => {
                let array = value.cast::<PyArrayDyn<f32>>()?.readonly();
                let view = array.as_array();
                let values = view.as_slice().ok_or_else(|| {
                    raised(
                        py,
                        &refused(&name, "an array in C order", "another order", "report this as a bug"),
                    )
                })?;
                arrays.with_features(&name, value.cast::<PyArrayDyn<f32>>()?.shape(), values)
            }
        };
    }
    Ok(arrays)
}

#[pymethods]
impl PyDataset {
    /// Opens a folder or a file with features (docs/your-features.md). Features are read when they are needed.
    ///
    /// Raises:
    ///     ValueError: anything that is missing or inconsistent; the text names the file and the position.
    ///     OSError: a file that the system does not open.
    #[staticmethod]
    fn open(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        guarded(|| {
            let inner = threads::long(py, &AtomicBool::new(false), || wgoal::Dataset::open(&path))?;
            Ok(Self { inner: Arc::new(inner) })
        })
    }

    /// A dataset of arrays.
    ///
    /// Args:
    ///     images: image features (N, P). Arrays of numpy.memmap, such as those of numpy.load(path, mmap_mode="r"), stay on
    ///         disk. Other arrays are copied, as float32.
    ///     texts: text features (M, Q).
    ///     text_to_image: the row of each text's image, whole numbers (M,). Without it, text i belongs to image i.
    ///     image_regions: several rows per image, (N, R, P'), or (T, P') with region_offsets (N + 1,) or region_lengths (N,).
    ///     text_tokens: several rows per text, in the same way.
    ///     pairs: right pairs (image row, text row) beside those of text_to_image, (K, 2).
    ///     split_train, split_val, split_test: rows of images, or masks. Without any, images are divided at random.
    ///     name: a name for messages.
    #[staticmethod]
    #[pyo3(signature = (
        images = None, texts = None, text_to_image = None, *, image_regions = None, region_offsets = None,
        region_lengths = None, text_tokens = None, text_offsets = None, text_lengths = None, pairs = None,
        split_train = None, split_val = None, split_test = None, name = "arrays"
    ))]
    fn from_arrays(
        py: Python<'_>,
        images: Option<Bound<'_, PyAny>>,
        texts: Option<Bound<'_, PyAny>>,
        text_to_image: Option<Bound<'_, PyAny>>,
        image_regions: Option<Bound<'_, PyAny>>,
        region_offsets: Option<Bound<'_, PyAny>>,
        region_lengths: Option<Bound<'_, PyAny>>,
        text_tokens: Option<Bound<'_, PyAny>>,
        text_offsets: Option<Bound<'_, PyAny>>,
        text_lengths: Option<Bound<'_, PyAny>>,
        pairs: Option<Bound<'_, PyAny>>,
        split_train: Option<Bound<'_, PyAny>>,
        split_val: Option<Bound<'_, PyAny>>,
        split_test: Option<Bound<'_, PyAny>>,
        name: &str,
    ) -> PyResult<Self> {
        guarded(|| {
            let all = [
                ("images", images),
                ("texts", texts),
                ("text_to_image", text_to_image),
                ("image_regions", image_regions),
                ("region_offsets", region_offsets),
                ("region_lengths", region_lengths),
                ("text_tokens", text_tokens),
                ("text_offsets", text_offsets),
                ("text_lengths", text_lengths),
                ("pairs", pairs),
                ("split_train", split_train),
                ("split_val", split_val),
                ("split_test", split_test),
            ];
            let given = PyDict::new(py);
            for (name, value) in all {
                if let Some(value) = value {
                    given.set_item(name, value)?;
                }
            }
            let arrays = arrays(py, &given)?;
            let stop = AtomicBool::new(false);
            let inner = threads::long(py, &stop, || wgoal::Dataset::from_arrays(name, arrays))?;
            Ok(Self { inner: Arc::new(inner) })
        })
    }

    /// A name for messages.
    #[getter]
    fn name(&self) -> String {
        self.inner.name()
    }

    /// Number of images (N).
    #[getter]
    fn images(&self) -> usize {
        self.inner.images()
    }

    /// Number of texts (M).
    #[getter]
    fn texts(&self) -> usize {
        self.inner.texts()
    }

    /// Width of an image row (P).
    #[getter]
    fn image_dim(&self) -> usize {
        self.inner.image_dim()
    }

    /// Width of a text row (Q).
    #[getter]
    fn text_dim(&self) -> usize {
        self.inner.text_dim()
    }

    /// The image row of every text, int64 (M,).
    #[getter]
    fn text_to_image<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        row_numbers(py, self.inner.text_to_image())
    }

    /// A split, "train", "val" or "test": the image rows, the text rows, and for every text row the position of its image
    /// among these image rows; int64.
    fn split<'py>(&self, py: Python<'py>, name: &str) -> PyResult<[Bound<'py, PyArray1<i64>>; 3]> {
        guarded(|| {
            let rows = self.inner.split(split(py, name)?);
            Ok([&rows.images, &rows.texts, &rows.text_image].map(|rows| row_numbers(py, rows)))
        })
    }

    /// Rows of one side, "image" or "text", as stored: float32 (rows, width). All rows by default.
    #[pyo3(signature = (side, rows = None))]
    fn rows<'py>(
        &self,
        py: Python<'py>,
        side: &str,
        rows: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, numpy::PyArray2<f32>>> {
        guarded(|| {
            let side = self::side(py, side)?;
            let rows = match rows {
                Some(rows) => arrays::rows("rows", rows)?.into(),
                None => RowList::from(0..self.inner.items(side) as u64),
            };
            let dataset = &self.inner;
            let items = dataset.items(side);
            if let Some(row) = rows.iter().find(|&row| row >= items as u64) {
                let expected = format!("row numbers below {items}");
                return Err(raised(py, &refused("rows", expected, row, "give rows of the dataset")));
            }
            let dim = result(py, dataset.width(side, wgoal::model::Pooling::None))?;
            let values = threads::long(py, &AtomicBool::new(false), || {
                let mut values = vec![0.0; rows.len() * dim];
                let mut scratch = Vec::new();
                for (row, out) in rows.iter().zip(values.chunks_exact_mut(dim.max(1))) {
                    dataset.read_row(side, row as usize, &mut scratch, out)?;
                }
                Ok(values)
            })?;
            matrix(py, values, dim)
        })
    }

    fn __repr__(&self) -> String {
        self.inner.summary().to_string()
    }
}
