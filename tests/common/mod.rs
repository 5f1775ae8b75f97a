//! The devices of this machine, and tests that run once on each, by name.
#![allow(dead_code)]

use libtest_mimic::{Arguments, Failed, Trial};
use std::sync::OnceLock;
use wgoal::device::Adapters;
use wgoal::{Device, DeviceKind};

/// The native CPU and every adapter, with a name that says interface and driver.
pub fn devices() -> &'static [(String, Device)] {
    static DEVICES: OnceLock<Vec<(String, Device)>> = OnceLock::new();
    DEVICES.get_or_init(|| {
        let adapters = Adapters::find();
        let name = |info: &wgoal::DeviceInfo| match info.kind {
            DeviceKind::Cpu => "cpu".to_string(),
            _ => format!("{}:{}", info.backend, info.name.split(' ').next().unwrap_or_default()),
        };
        let open = |info: wgoal::DeviceInfo| match adapters.open(&info.index.to_string()) {
            Ok(device) => (name(&info), device),
            Err(error) => panic!("{error}"),
        };
        adapters.devices().into_iter().map(open).collect()
    })
}

/// Adapters that a complete run needs; where one is missing, its tests are listed as ignored. With
/// `WGOAL_REQUIRE_ADAPTERS` set, as in CI, a missing adapter is a failure.
const WANTED: [&str; 2] = ["vulkan", "gl"];

/// Runs `tests` on every device, each as a test of its own.
pub fn run(tests: Vec<(String, fn(&Device) -> Result<(), Failed>)>) -> ! {
    let mut arguments = Arguments::from_args();
    // The devices are shared, and each uses all cores by itself.
    arguments.test_threads = Some(1);
    let mut trials = Vec::new();
    for (device_name, device) in devices() {
        for (name, test) in &tests {
            let test = *test;
            trials.push(Trial::test(format!("{device_name}/{name}"), move || test(device)));
        }
    }
    let required = std::env::var_os("WGOAL_REQUIRE_ADAPTERS").is_some();
    for backend in WANTED {
        if !devices().iter().any(|(name, _)| name.starts_with(backend)) {
            for (name, _) in &tests {
                let missing =
                    move || Err(Failed::from(format!("no {backend} adapter here: see scripts/test")));
                trials.push(Trial::test(format!("{backend}/{name}"), missing).with_ignored_flag(!required));
            }
        }
    }
    libtest_mimic::run(&arguments, trials).exit()
}

/// `assert!` for tests that return [`Failed`].
pub fn check(ok: bool, message: impl Into<String>) -> Result<(), Failed> {
    if ok { Ok(()) } else { Err(message.into().into()) }
}
