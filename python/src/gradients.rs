//! `wgoal.gradients`: the gradient at a batch of embeddings.

use crate::arrays::{Matrix, indices, numbers};
use crate::errors::{DeviceError, guarded, raised, refused};
use crate::objective::Asked;
use crate::{device, threads};
use numpy::PyArray1;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::{mem, process};
use wgoal::gradient::{GradientContext, GradientOptions, Gradients};

/// The gradient of an objective at a batch of embeddings.
#[pyclass(frozen, name = "Gradients", module = "wgoal")]
pub struct PyGradients {
    /// The value of the objective.
    #[pyo3(get)]
    loss: f32,
    /// The gradient at the images, float32, of the shape of `x`.
    #[pyo3(get)]
    images: Py<PyAny>,
    /// The gradient at the texts, float32, of the shape of `y`.
    #[pyo3(get)]
    texts: Py<PyAny>,
    /// The gradient at the temperature of infonce or siglip; 0 for the others.
    #[pyo3(get)]
    temperature: f32,
    /// The gradient at the logit bias of siglip; 0 for the others.
    #[pyo3(get)]
    logit_bias: f32,
    mined: Gradients,
    /// The arrays of `mined`. Few callers look at them, and small batches take little more time than making them.
    indices: [PyOnceLock<Py<PyArray1<i64>>>; 2],
    similarities: [PyOnceLock<Py<PyArray1<f32>>>; 3],
}

impl PyGradients {
    fn indices(&self, py: Python<'_>, at: usize, rows: &[u32]) -> Py<PyArray1<i64>> {
        self.indices[at].get_or_init(py, || indices(py, rows).unbind()).clone_ref(py)
    }

    fn similarities(&self, py: Python<'_>, at: usize, values: &[f32]) -> Py<PyArray1<f32>> {
        self.similarities[at].get_or_init(py, || PyArray1::from_slice(py, values).unbind()).clone_ref(py)
    }
}

#[pymethods]
impl PyGradients {
    /// The similarity of each text to its image, float32 (N,).
    #[getter]
    fn positive(&self, py: Python<'_>) -> Py<PyArray1<f32>> {
        self.similarities(py, 0, &self.mined.positive)
    }

    /// The row of each image's hardest text, int64, one per image.
    #[getter]
    fn hardest_text(&self, py: Python<'_>) -> Py<PyArray1<i64>> {
        self.indices(py, 0, &self.mined.hardest_text_index)
    }

    /// The row of each text's hardest image, int64 (N,).
    #[getter]
    fn hardest_image(&self, py: Python<'_>) -> Py<PyArray1<i64>> {
        self.indices(py, 1, &self.mined.hardest_image_index)
    }

    /// The similarity of each image's hardest text, float32, one per image.
    #[getter]
    fn hardest_text_similarity(&self, py: Python<'_>) -> Py<PyArray1<f32>> {
        self.similarities(py, 1, &self.mined.hardest_text)
    }

    /// The similarity of each text's hardest image, float32 (N,).
    #[getter]
    fn hardest_image_similarity(&self, py: Python<'_>) -> Py<PyArray1<f32>> {
        self.similarities(py, 2, &self.mined.hardest_image)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let shape = self.images.bind(py).getattr("shape")?;
        Ok(format!("Gradients(loss={}, images and texts of shape {shape})", self.loss))
    }
}

/// What a context was made for, and by which process: a forked one must not touch the GPU of its parent.
#[derive(PartialEq)]
struct Key {
    process: u32,
    device: String,
    /// Numbers of images and of texts.
    shape: [usize; 2],
    /// Whether an image may have several texts.
    takes_captions: bool,
    dim: usize,
}

/// A context with its buffers.
struct Kept {
    key: Key,
    asked: Asked,
    context: GradientContext,
    /// Stops a long call.
    stop: Arc<AtomicBool>,
}

/// Contexts with their buffers, the last used one last. A call takes one out while it works, so threads do not wait for
/// each other. It is locked with the GIL held only.
static CONTEXTS: Mutex<Vec<Kept>> = Mutex::new(Vec::new());

/// The most contexts that are kept, and the most values of a similarity matrix in one that is kept.
const KEPT: usize = 4;
const KEPT_VALUES: usize = 1 << 26;

/// The most work of a call that does not look for Ctrl-C, in multiplications: some milliseconds.
const SHORT: usize = 1 << 29;

/// A context for a call.
fn context(py: Python<'_>, key: Key, asked: Asked) -> PyResult<Kept> {
    let found = {
        let mut kept = CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
        // Prefer one of the same objective.
        let at = kept.iter().position(|one| one.key == key && one.asked == asked);
        at.or_else(|| kept.iter().position(|one| one.key == key)).map(|at| kept.remove(at))
    };
    match found {
        Some(kept) if kept.asked == asked => Ok(kept),
        Some(mut kept) => {
            let objective = asked.objective(py)?;
            threads::short(py, || kept.context.set_objective(&objective))?;
            Ok(Kept { asked, ..kept })
        }
        None => {
            let objective = asked.objective(py)?;
            let stop = Arc::new(AtomicBool::new(false));
            let device = device::open(py, &key.device)?.stop_when(stop.clone());
            let new = || match key.takes_captions {
                true => GradientContext::with_captions(&device, &objective, key.shape, key.dim),
                false => GradientContext::new(&device, &objective, key.shape[0], key.dim),
            };
            let context = threads::short(py, new)?;
            Ok(Kept { key, asked, context, stop })
        }
    }
}

fn keep(used: Kept) {
    if used.key.shape[0].saturating_mul(used.key.shape[1]) <= KEPT_VALUES {
        let mut kept = CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            release(kept.remove(0));
        }
        kept.push(used);
    }
}

/// Releases the contexts.
pub fn close(py: Python<'_>) {
    let kept = mem::take(&mut *CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner));
    py.detach(|| kept.into_iter().for_each(release));
}

/// Drops a context, unless a parent process made it: its driver has no threads here.
fn release(kept: Kept) {
    match kept.key.process == process::id() {
        true => drop(kept),
        false => mem::forget(kept),
    }
}

/// The gradient of an objective at a batch of embeddings `x` and `y`, whose row i is a pair.
///
/// Args:
///     x: image embeddings (N, D): a NumPy array, or a CPU tensor that DLPack can share. float32 in C order is not copied.
///     y: text embeddings (N, D).
///     objective: a name as in `wgoal train --objective`, such as "cir:sig-ms", "hinge" or "infonce+0.5*cir:sig-ms".
///     ids: the image of each pair, whole numbers (N,). Pairs of one image are never negatives of each other.
///     text_image: for M images and N texts, the row of each text's image, (N,); every image has one text or more. x
///         is then (M, D), and what belongs to images has M rows.
///     normalize: divide each row by its length first. The gradient is that at the raw rows.
///     device: as `wgoal --device`. It stays open between calls.
///     out: two float32 arrays (N, D) in C order to write the gradients to.
///     scale: the upstream gradient, a factor on everything but the loss.
///     margin, tau, alpha, beta, lambda_, threshold, circle_margin, temperature, logit_bias: parameters of the objective.
///     weights: the path of the WGSL file that defines the objective "custom", as `wgoal train --weights`.
///     param: a dictionary with values for the parameters of that file.
///
/// GOAL and hinge gradients are sums over the batch. Those of infonce and siglip are divided by N. The weights assume
/// cosines: give unit rows, or set normalize.
///
/// Raises:
///     ValueError: shapes that disagree, a value that is not finite, a parameter that the objective does not have, a
///         fault in a weight file.
///     OSError: a weight file that cannot be read.
///     TypeError: an array that does not hold real numbers.
///     DeviceError: a device that is missing or fails.
#[pyfunction]
#[pyo3(signature = (
    x, y, objective = "cir:sig-ms", ids = None, normalize = false, device = "auto", out = None,
    *, text_image = None, scale = 1.0, margin = None, tau = None, alpha = None, beta = None, lambda_ = None, threshold = None,
    circle_margin = None, temperature = None, logit_bias = None, weights = None, param = None
))]
pub fn gradients<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
    objective: &str,
    ids: Option<&Bound<'py, PyAny>>,
    normalize: bool,
    device: &str,
    out: Option<(Bound<'py, PyAny>, Bound<'py, PyAny>)>,
    text_image: Option<&Bound<'py, PyAny>>,
    scale: f32,
    margin: Option<f32>,
    tau: Option<f32>,
    alpha: Option<f32>,
    beta: Option<f32>,
    lambda_: Option<f32>,
    threshold: Option<f32>,
    circle_margin: Option<f32>,
    temperature: Option<f32>,
    logit_bias: Option<f32>,
    weights: Option<PathBuf>,
    param: Option<BTreeMap<String, f32>>,
) -> PyResult<PyGradients> {
    let parameters = [margin, tau, alpha, beta, lambda_, threshold, circle_margin, temperature, logit_bias];
    guarded(|| {
        let (x, y) = (Matrix::of("x", x)?, Matrix::of("y", y)?);
        let text_image = text_image.map(|rows| numbers("text_image", "positions", rows)).transpose()?;
        let shapes = [[x.rows, x.cols], [y.rows, y.cols]];
        if x.cols != y.cols || (x.rows != y.rows && text_image.is_none()) {
            let found = format!("{:?} and {:?}", shapes[0], shapes[1]);
            let advice = "give one text embedding for each image embedding, as wide as that";
            return Err(raised(py, &refused("embeddings", "two matrices of one shape", found, advice)));
        }
        let ids = ids.map(|ids| numbers("ids", "ids", ids)).transpose()?;
        let [mut dx, mut dy] = match out {
            Some((dx, dy)) => {
                [Matrix::to_write("out", &dx, shapes[0])?, Matrix::to_write("out", &dy, shapes[1])?]
            }
            None => shapes.map(|shape| Matrix::fresh(py, shape)),
        };
        if dx.overlaps(&dy) || [&x, &y].iter().any(|input| input.overlaps(&dx) || input.overlaps(&dy)) {
            let found = "arrays that share memory with each other or with x and y";
            return Err(raised(py, &refused("out", "two arrays of their own", found, "give other arrays")));
        }
        let takes_captions = text_image.is_some();
        let key = Key {
            process: process::id(),
            device: device.into(),
            shape: [x.rows, y.rows],
            takes_captions,
            dim: x.cols,
        };
        let options = GradientOptions::default().with(|options| {
            options.normalize = normalize;
            options.ids = ids.as_deref();
            options.text_image = text_image.as_deref();
            options.scale = scale;
        });
        let asked = Asked::new(objective, parameters).with_weights(py, weights, param)?;
        let mut kept = context(py, key, asked)?;
        // SAFETY: nothing else has these arrays: they are new, or the caller gave them to be written.
        let into = unsafe { [dx.values_mut(), dy.values_mut()] };
        let (images, texts) = (x.values(), y.values());
        let work = || {
            let value = kept.context.gradients(images, texts, options, into)?;
            Ok((value, kept.context.mined()?))
        };
        let work_of = x.rows.saturating_mul(y.rows).saturating_mul(x.cols);
        let done = match work_of <= SHORT {
            true => threads::short(py, work),
            false => threads::long(py, &kept.stop, work),
        };
        let (value, mined) = done.inspect_err(|error| {
            if error.is_instance_of::<DeviceError>(py) {
                device::forget(&kept.key.device);
            }
        })?;
        keep(kept);
        Ok(PyGradients {
            loss: value.loss,
            temperature: value.temperature,
            logit_bias: value.logit_bias,
            images: dx.into_array().into_any().unbind(),
            texts: dy.into_array().into_any().unbind(),
            mined,
            indices: [const { PyOnceLock::new() }; 2],
            similarities: [const { PyOnceLock::new() }; 3],
        })
    })
}

/// Seconds of a call of the library alone, for `python/bench`: with the GIL released and a context that is kept. It
/// writes to the same arrays as the call that it is compared with, so the caches hold the same.
#[pyfunction]
pub fn time_gradients(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    y: &Bound<'_, PyAny>,
    objective: String,
    out: (Bound<'_, PyAny>, Bound<'_, PyAny>),
) -> PyResult<f64> {
    guarded(|| {
        let (x, y) = (Matrix::of("x", x)?, Matrix::of("y", y)?);
        let shape = [x.rows, x.cols];
        let mut out = [Matrix::to_write("out", &out.0, shape)?, Matrix::to_write("out", &out.1, shape)?];
        let key = Key {
            process: process::id(),
            device: "cpu".into(),
            shape: [x.rows; 2],
            takes_captions: false,
            dim: x.cols,
        };
        let mut kept = context(py, key, Asked::new(&objective, Default::default()))?;
        // SAFETY: the benchmark gives two arrays that nothing else uses.
        let into = unsafe { out.each_mut().map(|side| side.values_mut()) };
        let (images, texts) = (x.values(), y.values());
        let seconds = threads::short(py, || {
            let start = std::time::Instant::now();
            kept.context.gradients(images, texts, GradientOptions::default(), into)?;
            kept.context.mined()?;
            Ok(start.elapsed().as_secs_f64())
        })?;
        keep(kept);
        Ok(seconds)
    })
}
