//! The devices of this machine, and tests that run once on each, by name.
#![allow(dead_code)]

use libtest_mimic::{Arguments, Failed, Trial};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use wgoal::device::{Adapters, Gpu};
use wgoal::kernels::MATMUL_VARIANTS;
use wgoal::{Device, DeviceInfo, DeviceKind};

pub type Test = fn(&Device) -> Result<(), Failed>;

/// Adapters that a complete run needs; where one is missing, its tests are listed as ignored. One that
/// `WGOAL_REQUIRE_ADAPTERS` names, as in CI, must not be missing.
const WANTED: [&str; 3] = ["lavapipe", "swiftshader", "gl"];

/// Adapter, test, why: tests known to fail on an adapter. They must fail: the fix that makes one pass takes its line
/// out.
const EXPECTED_FAILURES: &[(&str, &str, &str)] = &[];

/// The native CPU and every adapter, by name.
pub fn devices() -> &'static [(String, Device)] {
    static DEVICES: OnceLock<Vec<(String, Device)>> = OnceLock::new();
    DEVICES.get_or_init(|| {
        let adapters = Adapters::find();
        let open = |info: DeviceInfo| match adapters.open(&info.index.to_string()) {
            Ok(device) => (name(&info), device),
            Err(error) => panic!("{error}"),
        };
        adapters.devices().into_iter().map(open).collect()
    })
}

/// The short name of a software adapter that the tests know, else interface and driver.
fn name(info: &DeviceInfo) -> String {
    let driver = info.name.split(' ').next().unwrap_or_default();
    match (info.backend.as_str(), driver) {
        _ if info.kind == DeviceKind::Cpu => "cpu".into(),
        ("vulkan", "llvmpipe") => "lavapipe".into(),
        ("vulkan", "SwiftShader") => "swiftshader".into(),
        ("gl", "llvmpipe") => "gl".into(),
        (backend, driver) => format!("{backend}:{driver}"),
    }
}

/// Runs `tests` on every device, each as a test of its own.
pub fn run(tests: Vec<(String, Test)>) -> ! {
    run_with(tests, Vec::new())
}

/// [`run`], and `others` once.
pub fn run_with(tests: Vec<(String, Test)>, others: Vec<Trial>) -> ! {
    let mut arguments = Arguments::from_args();
    // The devices are shared, and each uses all cores by itself.
    arguments.test_threads = Some(1);
    let mut trials = others;
    for (device_name, device) in devices() {
        for (name, test) in &tests {
            let test = *test;
            let known = known_failure(EXPECTED_FAILURES, device_name, name);
            let trial = Trial::test(format!("{device_name}/{name}"), move || judge(known, || test(device)));
            trials.push(trial.with_ignored_flag(lacks(device, name)));
        }
    }
    let required = std::env::var("WGOAL_REQUIRE_ADAPTERS").unwrap_or_default();
    for adapter in WANTED {
        let ignored = !required.split(' ').any(|name| name == adapter);
        if !devices().iter().any(|(name, _)| name == adapter) {
            for (name, _) in &tests {
                let missing = move || Err(format!("no {adapter} adapter here: see scripts/test").into());
                trials.push(Trial::test(format!("{adapter}/{name}"), missing).with_ignored_flag(ignored));
            }
        }
    }
    libtest_mimic::run(&arguments, trials).exit()
}

/// Whether a test is of something that the device has not: it shows as ignored.
fn lacks(device: &Device, test: &str) -> bool {
    match device {
        Device::Gpu(gpu) => test.ends_with("_subgroups") && !runs_subgroups(gpu),
        _ => test.starts_with("gpu_"),
    }
}

/// Whether a device runs the matrix product that needs subgroups, and images.
pub fn runs_subgroups(gpu: &Gpu) -> bool {
    MATMUL_VARIANTS.iter().any(|variant| variant.name.starts_with("subgroups") && variant.runs_on(gpu))
}

/// Why a test is to fail on an adapter, if it is.
pub fn known_failure<'a>(known: &[(&str, &str, &'a str)], adapter: &str, test: &str) -> Option<&'a str> {
    known.iter().find(|(a, t, _)| (*a, *t) == (adapter, test)).map(|(_, _, why)| *why)
}

/// The outcome of a test, turned round if it is known to fail; one that panics has failed as well.
pub fn judge(known: Option<&str>, test: impl FnOnce() -> Result<(), Failed>) -> Result<(), Failed> {
    let Some(why) = known else { return test() };
    match catch_unwind(AssertUnwindSafe(test)) {
        Ok(Ok(())) => {
            Err(format!("passes, but is known to fail ({why}): take it out of EXPECTED_FAILURES").into())
        }
        _ => Ok(()),
    }
}

/// `assert!` for tests that return [`Failed`].
pub fn check(ok: bool, message: impl Into<String>) -> Result<(), Failed> {
    if ok { Ok(()) } else { Err(message.into().into()) }
}
