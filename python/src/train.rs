//! The native part of `wgoal.Trainer`: one run, epoch by epoch.

use crate::data::{PyDataset, split};
use crate::device;
use crate::errors::{as_arguments, guarded, result, with_arguments};
use crate::head::PyHead;
use crate::threads::{self, Place};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use wgoal::cli::library;
use wgoal::train::Event;
use wgoal::{Checkpoint, ErrorKind, Trainer};

/// The exception of a callback, until the call that runs it returns.
type Raised = Arc<Mutex<Option<PyErr>>>;

/// A run.
#[pyclass(frozen, module = "wgoal._wgoal")]
pub struct Run {
    trainer: Mutex<Trainer>,
    stop: Arc<AtomicBool>,
    raised: Raised,
    #[pyo3(get)]
    recipe: String,
    #[pyo3(get)]
    warnings: Vec<String>,
}

impl Run {
    /// The trainer, unless a callback or another thread asks while it works.
    fn trainer(&self) -> PyResult<MutexGuard<'_, Trainer>> {
        match self.trainer.try_lock() {
            Ok(trainer) => Ok(trainer),
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => Err(PyRuntimeError::new_err(
                "trainer: expected one that waits, found one that is training; ask between its epochs",
            )),
        }
    }

    /// Runs work of the trainer. The exception of a callback wins over the error that it causes.
    fn work<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut Trainer) -> wgoal::Result<T> + Send,
    ) -> PyResult<T> {
        let mut trainer = self.trainer()?;
        let trainer = &mut *trainer;
        let done = threads::long(py, &self.stop, || work(trainer));
        let raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner).take();
        raised.map_or(done, Err)
    }
}

/// Calls a Python function after each step of a trainer. If it raises, the epoch ends.
fn follow(trainer: &mut Trainer, on_step: Py<PyAny>, raised: Raised) {
    trainer.on_event(move |event| {
        let Event::Step { epoch, step, steps } = event else { return ControlFlow::Continue(()) };
        match Python::try_attach(|py| on_step.call1(py, (epoch, step, steps)).map(drop)) {
            Some(Ok(())) => ControlFlow::Continue(()),
            Some(Err(error)) => {
                *raised.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                ControlFlow::Break(())
            }
            // The interpreter ends.
            None => ControlFlow::Break(()),
        }
    });
}

#[pymethods]
impl Run {
    /// A new run, or with `checkpoint` the continuation of one.
    #[new]
    #[pyo3(signature = (dataset, options, device, on_step = None, checkpoint = None))]
    fn new(
        py: Python<'_>,
        dataset: &PyDataset,
        options: Vec<(String, String)>,
        device: &str,
        on_step: Option<Py<PyAny>>,
        checkpoint: Option<PathBuf>,
    ) -> PyResult<Self> {
        guarded(|| {
            Place::here(py)?.prepare_training();
            let stop = Arc::new(AtomicBool::new(false));
            let device = device::open(py, device)?.stop_when(stop.clone());
            let data = &dataset.inner;
            let (mut trainer, recipe, warnings) = threads::long(py, &stop, || match &checkpoint {
                Some(path) => {
                    let trainer = Trainer::resume(&device, data.clone(), Checkpoint::load(path)?)?;
                    Ok((trainer, String::new(), Vec::new()))
                }
                None => {
                    let options = library::train_config(data, &options)?;
                    let trainer = Trainer::new(&device, data.clone(), options.config)?;
                    Ok((trainer, options.recipe, as_arguments(&options.warnings)))
                }
            })?;
            let raised = Raised::default();
            trainer.stop_when(stop.clone());
            if let Some(on_step) = on_step {
                follow(&mut trainer, on_step, raised.clone());
            }
            Ok(Self { trainer: Mutex::new(trainer), stop, raised, recipe, warnings })
        })
    }

    /// Trains and validates one epoch. Returns it as JSON, or `None` if the run has ended.
    fn run_epoch(&self, py: Python<'_>) -> PyResult<Option<String>> {
        guarded(|| {
            Place::here(py)?.prepare_training();
            let epoch = self.work(py, |trainer| match trainer.finished() {
                true => Ok(None),
                false => trainer.run_epoch().map(Some),
            })?;
            epoch.map(|epoch| crate::json(&epoch)).transpose()
        })
    }

    /// What the run started from, validated, as JSON; `None` if that was random, or after a resumption.
    fn start(&self) -> PyResult<Option<String>> {
        guarded(|| self.trainer()?.start().map(crate::json).transpose())
    }

    /// The head as it is now.
    fn head(&self, py: Python<'_>) -> PyResult<PyHead> {
        guarded(|| {
            let head = self.work(py, |trainer| trainer.head())?;
            Ok(PyHead { inner: Checkpoint::from(head) })
        })
    }

    /// The best head so far; `None` before the first epoch of a run with a random start.
    fn best(&self) -> PyResult<Option<PyHead>> {
        guarded(|| Ok(self.trainer()?.best().map(|inner| PyHead { inner })))
    }

    /// The best head with the correction for hubs that the options ask for, and a warning if that failed.
    fn finish(&self, py: Python<'_>) -> PyResult<(Option<PyHead>, Option<String>)> {
        guarded(|| {
            let found = self.work(py, |trainer| {
                let Some(mut best) = trainer.best() else { return Ok((None, None)) };
                // As on the command line, the run has succeeded even if the correction fails.
                match library::fit_correction(&mut best, trainer.device(), trainer.dataset()) {
                    Err(error) if error.kind() == ErrorKind::Stopped => Err(error),
                    fitted => Ok((Some(best), fitted.err().map(|error| error.to_string()))),
                }
            })?;
            let (best, warning) = found;
            let warning = warning.map(|warning| with_arguments(&warning));
            Ok((best.map(|inner| PyHead { inner }), warning))
        })
    }

    /// Recall of the head as it is now, or of another one, as JSON.
    #[pyo3(signature = (split_name, head = None))]
    fn recall(&self, py: Python<'_>, split_name: &str, head: Option<&PyHead>) -> PyResult<String> {
        guarded(|| {
            let split = split(py, split_name)?;
            let head = head.map(|head| head.inner.head());
            let recall = self.work(py, |trainer| match head {
                Some(head) => trainer.recall_of(head, split),
                None => trainer.recall(split),
            })?;
            crate::json(&recall)
        })
    }

    /// Writes everything that is needed to continue the run.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        guarded(|| self.work(py, |trainer| trainer.checkpoint()?.save(&path)))
    }

    /// Asks the run to end after its current step. Callbacks and other threads may call it.
    fn request_stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    #[getter]
    fn finished(&self) -> PyResult<bool> {
        Ok(self.trainer()?.finished())
    }

    #[getter]
    fn epoch(&self) -> PyResult<usize> {
        Ok(self.trainer()?.epoch())
    }

    #[getter]
    fn best_epoch(&self) -> PyResult<Option<usize>> {
        Ok(self.trainer()?.best_epoch().map(|best| best.epoch))
    }

    #[getter]
    fn steps_per_epoch(&self) -> PyResult<usize> {
        Ok(self.trainer()?.steps_per_epoch())
    }

    /// The configuration of the run as JSON.
    #[getter]
    fn config(&self) -> PyResult<String> {
        crate::json(self.trainer()?.config())
    }

    #[getter]
    fn device(&self) -> PyResult<String> {
        Ok(self.trainer()?.device().to_string())
    }
}

/// The names of the options of `train` or `baseline`, each with the first line of its help.
#[pyfunction]
pub fn options(command: &str) -> Vec<(String, String)> {
    library::options(command)
}

/// What the options mean for a dataset: the configuration as JSON, a line about the recipe, and warnings.
#[pyfunction]
pub fn train_config(
    py: Python<'_>,
    dataset: &PyDataset,
    options: Vec<(String, String)>,
) -> PyResult<(String, String, Vec<String>)> {
    guarded(|| {
        let found = result(py, library::train_config(&dataset.inner, &options))?;
        Ok((crate::json(&found.config)?, found.recipe, as_arguments(&found.warnings)))
    })
}
