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

/// A text in which options of the command line, such as `--lr-drop`, have the names of arguments, such as `lr_drop`.
/// Commands in backticks, and parts of paths, stay as they are.
pub fn with_arguments(text: &str) -> String {
    let in_command = |at: usize| text[..at].matches('`').count() % 2 == 1;
    let (mut found, mut copied) = (String::with_capacity(text.len()), 0);
    for (at, dashes) in text.match_indices("--") {
        let begins = text[..at]
            .chars()
            .next_back()
            .is_none_or(|before| !(before.is_alphanumeric() || "-/_.".contains(before)));
        let after = &text[at + dashes.len()..];
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let name = &after[..after.find(|c| !is_name(c)).unwrap_or(after.len())];
        if begins && name.starts_with(|c: char| c.is_ascii_lowercase()) && !in_command(at) {
            found.push_str(&text[copied..at]);
            found.push_str(&name.replace('-', "_"));
            // `lambda` is a word of Python.
            found.push_str(if name == "lambda" { "_" } else { "" });
            copied = at + dashes.len() + name.len();
        }
    }
    found + &text[copied..]
}

/// Warnings about options, with the names of arguments.
pub fn as_arguments(warnings: &[String]) -> Vec<String> {
    warnings.iter().map(|warning| with_arguments(warning)).collect()
}

/// The exception for an error: `DeviceError`, an `OSError` if the system refused a file, else `ValueError`. It has the
/// attributes `kind`, `thing`, `expected`, `found` and `advice`.
pub fn raised(py: Python<'_>, error: &Error) -> PyErr {
    let mut text = with_arguments(&error.to_string());
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
        let _ = raised.value(py).setattr(name, with_arguments(part));
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
