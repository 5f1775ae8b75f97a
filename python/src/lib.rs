//! The native module of the Python package: the library with NumPy arrays in place of slices.
//!
//! It holds what must be compiled. What Python can do as well is in the modules of `wgoal/`. The types of this module are
//! in the stub file `wgoal/_wgoal.pyi`.

mod arrays;
mod data;
mod device;
mod errors;
mod gradients;
mod head;
mod objective;
mod search;
mod threads;
mod train;

use errors::guarded;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use std::ffi::OsString;

/// A value as JSON, which the modules in Python read.
fn json(value: &impl serde::Serialize) -> PyResult<String> {
    serde_json::to_string(value).map_err(|error| PyRuntimeError::new_err(error.to_string()))
}

/// Runs the command line with these arguments, the name of the program first. Returns the exit code.
#[pyfunction]
fn main(py: Python<'_>, arguments: Vec<OsString>) -> PyResult<u8> {
    guarded(|| Ok(py.detach(|| wgoal::cli::main(arguments))))
}

/// Closes what is kept between calls: devices and their buffers. The package calls it when Python ends, so that no
/// driver meets the end of the process with a device open. A later call opens them again.
#[pyfunction]
fn close(py: Python<'_>) {
    gradients::close(py);
    device::close(py);
}

#[pymodule]
fn _wgoal(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("PARAMETERS", wgoal::Objective::PARAMETERS.to_vec())?;
    module.add("DeviceError", py.get_type::<errors::DeviceError>())?;
    module.add_class::<data::PyDataset>()?;
    module.add_class::<gradients::PyGradients>()?;
    module.add_class::<head::PyHead>()?;
    module.add_class::<train::Run>()?;
    module.add_function(wrap_pyfunction!(main, module)?)?;
    module.add_function(wrap_pyfunction!(close, module)?)?;
    module.add_function(wrap_pyfunction!(device::devices, module)?)?;
    module.add_function(wrap_pyfunction!(device::device_name, module)?)?;
    module.add_function(wrap_pyfunction!(gradients::gradients, module)?)?;
    module.add_function(wrap_pyfunction!(gradients::time_gradients, module)?)?;
    module.add_function(wrap_pyfunction!(search::recall, module)?)?;
    module.add_function(wrap_pyfunction!(search::top_k, module)?)?;
    module.add_function(wrap_pyfunction!(search::hard_negatives, module)?)?;
    module.add_function(wrap_pyfunction!(search::analyze, module)?)?;
    module.add_function(wrap_pyfunction!(search::logits, module)?)?;
    module.add_function(wrap_pyfunction!(head::baseline, module)?)?;
    module.add_function(wrap_pyfunction!(train::options, module)?)?;
    module.add_function(wrap_pyfunction!(train::train_config, module)?)?;
    Ok(())
}
