//! `wgoal.Head`: a head with the run that it comes from, and the closed forms that make one.

use crate::arrays::matrix;
use crate::data::{PyDataset, arrays, side, split};
use crate::errors::{as_arguments, guarded, raised, refused, result};
use crate::{device, threads};
use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use wgoal::data::{RowList, Side};
use wgoal::{Checkpoint, Dataset};

/// Maps image features and text features into one space.
#[pyclass(frozen, name = "Head", module = "wgoal")]
pub struct PyHead {
    pub inner: Checkpoint,
}

#[pymethods]
impl PyHead {
    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        guarded(|| {
            let read = || Checkpoint::load(wgoal::cli::library::head_file(&path)?);
            Ok(Self { inner: threads::short(py, read)? })
        })
    }

    /// A head of two linear layers: each `weight` is float32 (embed, dim), each `bias` float32 (embed,).
    #[staticmethod]
    fn from_layers(
        py: Python<'_>,
        image: (Bound<'_, PyAny>, Bound<'_, PyAny>),
        text: (Bound<'_, PyAny>, Bound<'_, PyAny>),
    ) -> PyResult<Self> {
        guarded(|| {
            let [image, text] = [("image", image), ("text", text)].map(|(name, (weight, bias))| {
                let weight = crate::arrays::Matrix::of(&format!("{name} weight"), &weight)?;
                let bias = bias.call_method1("astype", ("float32",))?;
                let bias = bias.cast::<PyArray1<f32>>()?.readonly().as_array().to_vec();
                Ok::<_, PyErr>((weight, bias))
            });
            let (image, text) = (image?, text?);
            if image.0.rows != text.0.rows {
                let found = format!("widths {} and {}", image.0.rows, text.0.rows);
                let advice = "give two layers with the same number of outputs";
                return Err(raised(py, &refused("layers", "one width of the embedding", found, advice)));
            }
            let made = wgoal::Head::new(image.0.cols, text.0.cols, image.0.rows, 0).and_then(|mut head| {
                for (side, (weight, bias)) in [(Side::Image, &image), (Side::Text, &text)] {
                    head.set_side(side, weight.values(), bias)?;
                }
                Ok(Checkpoint::from(head))
            });
            Ok(Self { inner: result(py, made)? })
        })
    }

    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        guarded(|| threads::short(py, || self.inner.save(&path)))
    }

    /// Unit rows, float32 (rows, width): of an array of features, or of the rows of a dataset.
    #[pyo3(signature = (side, features, rows = None, correction = false, device = "auto"))]
    fn embed<'py>(
        &self,
        py: Python<'py>,
        side: &str,
        features: &Bound<'py, PyAny>,
        rows: Option<&Bound<'py, PyAny>>,
        correction: bool,
        device: &str,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        guarded(|| {
            let own = self::side(py, side)?;
            let dataset = match features.cast::<PyDataset>() {
                Ok(dataset) => dataset.get().inner.clone(),
                Err(_) => Arc::new(side_of(py, own, features)?),
            };
            let rows = match rows {
                Some(rows) => crate::arrays::rows("rows", rows)?.into(),
                None => RowList::from(0..dataset.items(own) as u64),
            };
            if let Some(row) = rows.iter().find(|&row| row >= dataset.items(own) as u64) {
                let expected = format!("row numbers below {}", dataset.items(own));
                return Err(raised(py, &refused("rows", expected, row, "give rows of the dataset")));
            }
            let stop = Arc::new(AtomicBool::new(false));
            let device = device::open(py, device)?.stop_when(stop.clone());
            let width = if correction { self.inner.width() } else { self.inner.head().dim() };
            let values = threads::long(py, &stop, || match correction {
                true => self.inner.embed(&device, &dataset, own, &rows),
                false => self.inner.head().embed(&device, &dataset, own, &rows),
            })?;
            matrix(py, values, width)
        })
    }

    /// Recall on a split of a dataset, as JSON.
    fn recall(
        &self,
        py: Python<'_>,
        dataset: &PyDataset,
        split: &str,
        folds: usize,
        correction: bool,
        device: &str,
    ) -> PyResult<String> {
        guarded(|| {
            let split = self::split(py, split)?;
            let stop = Arc::new(AtomicBool::new(false));
            let device = device::open(py, device)?.stop_when(stop.clone());
            let equal = self.inner.config().equal_captions;
            let recall = threads::long(py, &stop, || match correction {
                true => self.inner.recall(&device, &dataset.inner, split, folds),
                false => self.inner.head().recall(&device, &dataset.inner, split, folds, equal),
            })?;
            crate::json(&recall)
        })
    }

    /// The tensors of the head by the names of the file, float32.
    fn parameters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        guarded(|| {
            let tensors = PyDict::new(py);
            for (name, shape) in self.inner.head().parameters() {
                let values = result(py, self.inner.head().parameter(&name))?;
                tensors.set_item(name, PyArray1::from_vec(py, values).reshape(shape)?)?;
            }
            for (name, side) in [("image", Side::Image), ("text", Side::Text)] {
                let Some(standardizer) = self.inner.head().standardizer(side) else { continue };
                tensors.set_item(format!("{name}.mean"), PyArray1::from_slice(py, &standardizer.mean))?;
                let scale = PyArray1::from_slice(py, &standardizer.inverse_std);
                tensors.set_item(format!("{name}.inverse_std"), scale)?;
            }
            Ok(tensors)
        })
    }

    /// The options of the head and of its training as JSON.
    #[getter]
    fn config(&self) -> PyResult<String> {
        crate::json(self.inner.config())
    }

    /// The epoch that the head is of; 0 for a head that was not trained.
    #[getter]
    fn epoch(&self) -> usize {
        self.inner.epoch()
    }

    #[getter]
    fn dim(&self) -> usize {
        self.inner.head().dim()
    }

    #[getter]
    fn image_dim(&self) -> usize {
        self.inner.head().feature_dim(Side::Image)
    }

    #[getter]
    fn text_dim(&self) -> usize {
        self.inner.head().feature_dim(Side::Text)
    }

    #[getter]
    fn temperature(&self) -> f32 {
        self.inner.head().temperature()
    }

    #[getter]
    fn has_correction(&self) -> bool {
        self.inner.correction().is_some()
    }

    fn __eq__(&self, other: &Self) -> bool {
        self.inner.head() == other.inner.head() && self.inner.correction() == other.inner.correction()
    }

    fn __repr__(&self) -> String {
        let head = self.inner.head();
        let [image, text] = [Side::Image, Side::Text].map(|side| head.feature_dim(side));
        format!("Head(images {image} to {dim}, texts {text} to {dim})", dim = head.dim())
    }
}

/// The features of one side as a dataset: (rows, width), or with a third dimension for regions or tokens.
fn side_of(py: Python<'_>, side: Side, features: &Bound<'_, PyAny>) -> PyResult<Dataset> {
    let dimensions = features.getattr("ndim").and_then(|ndim| ndim.extract::<usize>()).unwrap_or(2);
    let name = match (side, dimensions) {
        (Side::Image, 3) => "image_regions",
        (Side::Image, _) => "images",
        (Side::Text, 3) => "text_tokens",
        (Side::Text, _) => "texts",
    };
    let given = PyDict::new(py);
    given.set_item(name, features)?;
    let arrays = arrays(py, &given)?;
    threads::short(py, || Dataset::side_from_arrays("features", side, arrays))
}

/// The head of a closed form: `cca`, `ridge` or `kcca`; what validation chose, as JSON; and warnings.
#[pyfunction]
pub fn baseline(
    py: Python<'_>,
    form: &str,
    dataset: &PyDataset,
    options: Vec<(String, String)>,
    device: &str,
) -> PyResult<(PyHead, String, Vec<String>)> {
    guarded(|| {
        let stop = Arc::new(AtomicBool::new(false));
        let device = device::open(py, device)?.stop_when(stop.clone());
        let fit = || wgoal::cli::library::baseline(form, &device, &dataset.inner, &options);
        let (found, inner, warnings) = threads::long(py, &stop, fit)?;
        let json = serde_json::json!({
            "regularization": found.regularization,
            "bandwidth": found.bandwidth,
            "val": found.val,
            "correlations": found.correlations,
        });
        Ok((PyHead { inner }, json.to_string(), as_arguments(&warnings)))
    })
}
