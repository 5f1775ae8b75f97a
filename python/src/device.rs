//! Devices by name. Each is opened once and stays open.

use crate::errors::{guarded, raised};
use crate::threads;
use pyo3::prelude::*;
use std::sync::{Mutex, PoisonError};
use std::{mem, process};
use wgoal::device::DeviceKind;
use wgoal::{Device, Error, ErrorKind};

/// Open devices, each with the name that it was asked for by and the process that opened it. It is locked with the GIL
/// held only.
static OPEN: Mutex<Vec<(String, u32, Device)>> = Mutex::new(Vec::new());

/// The device of this name.
///
/// # Errors
/// Those of [`Device::open`]; a GPU that was opened before this process was forked.
pub fn open(py: Python<'_>, name: &str) -> PyResult<Device> {
    let process = process::id();
    let found = {
        let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter().find(|(known, ..)| known == name).map(|(_, by, device)| (*by, device.clone()))
    };
    if let Some((by, device)) = found {
        let is_gpu = device.info().kind != DeviceKind::Cpu;
        if by == process || !is_gpu {
            return Ok(device);
        }
        let advice = "give device=\"cpu\", or start the process with multiprocessing.get_context(\"spawn\")";
        let (expected, found) = ("a device that this process has opened", "one from before a fork");
        return Err(raised(
            py,
            &Error::new(ErrorKind::Device, format!("device {name}"), expected, found, advice),
        ));
    }
    let device = threads::short(py, || Device::open(name))?;
    OPEN.lock().unwrap_or_else(PoisonError::into_inner).push((name.into(), process, device.clone()));
    Ok(device)
}

/// Forgets a device that has failed, so that the next call opens it again.
pub fn forget(name: &str) {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner).retain(|(known, ..)| known != name);
}

/// Closes all devices. Those of a parent process are left alone: their drivers have no threads here.
pub fn close(py: Python<'_>) {
    let open = mem::take(&mut *OPEN.lock().unwrap_or_else(PoisonError::into_inner));
    let (own, inherited): (Vec<_>, Vec<_>) = open.into_iter().partition(|(_, by, _)| *by == process::id());
    mem::forget(inherited);
    py.detach(|| drop(own));
}

/// The devices of this machine as JSON.
#[pyfunction]
pub fn devices(py: Python<'_>) -> PyResult<String> {
    guarded(|| {
        let devices = threads::short(py, || Ok(Device::list()))?;
        crate::json(&devices)
    })
}

/// The name of the device that a request opens.
#[pyfunction]
pub fn device_name(py: Python<'_>, device: &str) -> PyResult<String> {
    guarded(|| Ok(open(py, device)?.to_string()))
}
