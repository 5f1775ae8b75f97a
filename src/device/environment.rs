//! Environment variables that choose a device and how it computes. An unknown value is an error.

use crate::{Error, Result};
use std::env::VarError;

/// wgpu's names of GPU backends.
const BACKENDS: [&str; 11] =
    ["vulkan", "vk", "dx12", "d3d12", "metal", "mtl", "opengl", "gles", "gl", "webgpu", "noop"];

/// A variable's value; `None` if it is unset or empty.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Checks every variable that affects the opening of a device.
///
/// # Errors
/// The first variable with an unknown value; the message lists the known values.
pub fn check_environment() -> Result<()> {
    let one_of = |value: &str, names: &[&str]| names.contains(&value.trim().to_lowercase().as_str());
    check("WGPU_BACKEND", "vulkan, metal, dx12 or gl, or several as in vulkan,gl", |value| {
        let mut names = value.split(',').filter(|name| !name.trim().is_empty()).peekable();
        names.peek().is_some() && names.all(|name| one_of(name, &BACKENDS))
    })?;
    check("WGPU_POWER_PREF", "low, high or none", |value| one_of(value, &["low", "high", "none"]))?;
    check("WGPU_ADAPTER_NAME", "part of a device's name, as `wgoal devices` lists it", |value| {
        !value.trim().is_empty()
    })?;
    check("WGOAL_SHADER_CHECKS", "on or off", |value| ["on", "off"].contains(&value))
}

/// Checks that a variable is unset, empty, or has a value that fits.
///
/// # Errors
/// Any other value.
pub(crate) fn check(name: &str, expected: &str, fits: impl Fn(&str) -> bool) -> Result<()> {
    let value = match std::env::var(name) {
        Err(VarError::NotPresent) => return Ok(()),
        Err(VarError::NotUnicode(value)) => value.to_string_lossy().into_owned(),
        Ok(value) if value.is_empty() || fits(&value) => return Ok(()),
        Ok(value) => value,
    };
    Err(Error::config(name, expected, format!("`{value}`"), "correct the variable, or unset it"))
}
