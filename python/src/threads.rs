//! Threads: the GIL is released while the library works, Ctrl-C is seen, and a process that was forked gets a pool of its
//! own.
//!
//! After a fork, the child has none of its parent's threads. A pool that the parent has started would never answer
//! there.

use crate::errors::{of_panic, result};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// How often a thread that waits looks for signals.
const LOOK: Duration = Duration::from_millis(30);

/// The process that has started the global pool; 0 before any has.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// The pool of a process that was forked after that, with its id. It is locked with the GIL held only, so no fork leaves
/// it locked.
static OWN_POOL: Mutex<Option<(u32, Arc<ThreadPool>)>> = Mutex::new(None);

/// Where work runs.
#[derive(Clone)]
pub struct Place(Option<Arc<ThreadPool>>);

impl Place {
    /// The place in this process.
    ///
    /// # Errors
    /// No pool can be started.
    pub fn here(_: Python<'_>) -> PyResult<Self> {
        let process = process::id();
        let owner = OWNER.compare_exchange(0, process, Ordering::Relaxed, Ordering::Relaxed);
        if owner.is_ok() || owner == Err(process) {
            return Ok(Self(None));
        }
        let mut own = OWN_POOL.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((id, pool)) = &*own
            && *id == process
        {
            return Ok(Self(Some(pool.clone())));
        }
        let pool = ThreadPoolBuilder::new().build();
        let pool = Arc::new(pool.map_err(|error| PyRuntimeError::new_err(format!("thread pool: {error}")))?);
        // A pool of the parent is leaked: to drop it would wait for threads that are not here.
        if let Some((_, inherited)) = own.replace((process, pool.clone())) {
            std::mem::forget(inherited);
        }
        Ok(Self(Some(pool)))
    }

    /// Runs work here.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match &self.0 {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }

    /// Prepares the process for training, which reads batches on a thread of its own.
    pub fn prepare_training(&self) {
        if self.0.is_some() {
            wgoal::data::read_batches_alone();
        }
    }
}

/// Runs work of up to some milliseconds without the GIL.
pub fn short<T: Send>(py: Python<'_>, work: impl FnOnce() -> wgoal::Result<T> + Send) -> PyResult<T> {
    let place = Place::here(py)?;
    let done = py.detach(|| catch_unwind(AssertUnwindSafe(|| place.run(work))));
    done.map_or_else(|panic| Err(of_panic(&*panic)), |done| result(py, done))
}

/// Runs work without the GIL on another thread, and looks for signals meanwhile. A signal whose handler raises, such as
/// Ctrl-C, sets `stop`, and its exception is raised once the work has ended.
pub fn long<T: Send>(
    py: Python<'_>,
    stop: &AtomicBool,
    work: impl FnOnce() -> wgoal::Result<T> + Send,
) -> PyResult<T> {
    let place = Place::here(py)?;
    stop.store(false, Ordering::Relaxed);
    let (sender, receiver) = mpsc::channel();
    let receiver = Mutex::new(receiver);
    thread::scope(|scope| {
        let worker = move || {
            // The receiver waits until the end.
            let _ = sender.send(catch_unwind(AssertUnwindSafe(|| place.run(work))));
        };
        thread::Builder::new()
            .name("wgoal".into())
            .spawn_scoped(scope, worker)
            .map_err(|error| PyRuntimeError::new_err(format!("thread: expected one more, found {error}")))?;
        let mut raised = None;
        loop {
            let next = || receiver.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(LOOK);
            match py.detach(next) {
                Err(RecvTimeoutError::Timeout) => {
                    if raised.is_none()
                        && let Err(signal) = py.check_signals()
                    {
                        raised = Some(signal);
                        stop.store(true, Ordering::Relaxed);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(PyRuntimeError::new_err("thread: expected a result, found none"));
                }
                Ok(done) => {
                    return match (raised, done) {
                        (Some(raised), _) => Err(raised),
                        (None, Ok(done)) => result(py, done),
                        (None, Err(panic)) => Err(of_panic(&*panic)),
                    };
                }
            }
        }
    })
}
