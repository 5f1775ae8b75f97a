//! Errors and panics of the library as Python exceptions, with the same words.

use pyo3::create_exception;
use pyo3::exceptions::{
    PyFileExistsError, PyFileNotFoundError, PyIsADirectoryError, PyKeyboardInterrupt, PyNotADirectoryError,
    PyOSError, PyPermissionError, PyRuntimeError, PyValueError,
};
use pyo3::prelude::*;
use std::any::Any;
use std::error::Error as _;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use wgoal::{Error, ErrorKind};

create_exception!(
    wgoal,
    DeviceError,
    PyRuntimeError,
    "No fitting device, a driver that refuses, or a device that is lost."
);

/// The exception for an error: `DeviceError`, an `OSError` if the system refused a file, else `ValueError`. It has the
/// attributes `kind`, `thing`, `expected`, `found` and `advice`.
pub fn raised(py: Python<'_>, error: &Error) -> PyErr {
    let mut text = error.to_string();
    if let Some(excerpt) = error.excerpt() {
        text = format!("{text}\n{excerpt}");
    }
    let system = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    let raised = match (error.kind(), system) {
        (ErrorKind::Device, _) => DeviceError::new_err(text),
        (ErrorKind::Stopped, _) => PyKeyboardInterrupt::new_err(text),
        (_, Some(cause)) => of_system(cause.kind(), text),
        _ => PyValueError::new_err(text),
    };
    let kind = format!("{:?}", error.kind()).to_lowercase();
    let parts = [
        ("kind", kind.as_str()),
        ("thing", error.thing()),
        ("expected", error.expected()),
        ("found", error.found()),
        ("advice", error.advice()),
    ];
    for (name, part) in parts {
        // An exception without an attribute still has the text.
        let _ = raised.value(py).setattr(name, part);
    }
    raised
}

fn of_system(kind: io::ErrorKind, text: String) -> PyErr {
    match kind {
        io::ErrorKind::NotFound => PyFileNotFoundError::new_err(text),
        io::ErrorKind::PermissionDenied => PyPermissionError::new_err(text),
        io::ErrorKind::AlreadyExists => PyFileExistsError::new_err(text),
        io::ErrorKind::IsADirectory => PyIsADirectoryError::new_err(text),
        io::ErrorKind::NotADirectory => PyNotADirectoryError::new_err(text),
        _ => PyOSError::new_err(text),
    }
}

/// The error for a wrong argument, in the words of the library.
pub fn refused(thing: &str, expected: impl ToString, found: impl ToString, advice: &str) -> Error {
    Error::new(ErrorKind::Config, thing, expected.to_string(), found.to_string(), advice)
}

/// The result of the library as that of a Python function.
pub fn result<T>(py: Python<'_>, result: wgoal::Result<T>) -> PyResult<T> {
    result.map_err(|error| raised(py, &error))
}

/// Runs the body of a Python function. A panic becomes a `RuntimeError`.
pub fn guarded<T>(body: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| Err(of_panic(&*panic)))
}

/// The exception for a panic.
pub fn of_panic(panic: &(dyn Any + Send)) -> PyErr {
    let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
    let text =
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into());
    PyRuntimeError::new_err(format!("wgoal: expected no panic, found one: {text}; report this as a bug"))
}
