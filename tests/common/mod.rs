//! The devices of this machine, and tests that run once on each of them, by name.
#![allow(dead_code)]

pub mod job;
pub mod random;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, OnceLock, PoisonError, RwLock};
use wgoal::Device;
use wgoal::device::{Adapters, DeviceInfo, DeviceKind, Gpu, KernelSpec};
use wgoal::kernels::MATMUL_VARIANTS;

/// The result of a test.
pub type Outcome = Result<(), Failed>;

pub type Test = fn(&Device) -> Outcome;

/// The adapters that a complete run needs. The tests of a missing adapter are listed as ignored, or as failed if
/// `WGOAL_REQUIRE_ADAPTERS` names it, as CI does.
const WANTED: [&str; 3] = ["lavapipe", "swiftshader", "gl"];

/// Adapter, test and reason: tests that are known to fail on an adapter. They must fail, so that a fix also removes the
/// entry.
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

/// The short name of a software adapter that the tests know; otherwise its interface and driver.
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

/// Locked by a test of all devices, shared by tests of one device.
static ALL: RwLock<()> = RwLock::new(());
/// Locked by a test of one device.
static ONE: [Mutex<()>; 16] = [const { Mutex::new(()) }; 16];

/// The devices on which a test has something to test.
#[derive(Clone, Copy)]
enum Place {
    Everywhere,
    /// Adapters only, because the test does not apply to the native CPU.
    Adapters,
    /// Adapters with the subgroups that one matrix product needs.
    Subgroups,
    /// One adapter, by name.
    Only(&'static str),
}

impl Place {
    /// Why there is nothing to test on a device, or `None`.
    fn lacks(self, name: &str, device: &Device) -> Option<&'static str> {
        match (self, device.adapter()) {
            (Self::Adapters | Self::Subgroups, None) => Some("for adapters only"),
            (Self::Subgroups, Some(gpu)) if !runs_subgroups(gpu) => Some("no subgroups that fit"),
            (Self::Only(adapter), _) if adapter != name => Some("for one other adapter"),
            _ => None,
        }
    }
}

/// The tests of a binary. Each runs on every device that it is for. Its name is `adapter/module::name`, or
/// `module::name` for a test without a device.
#[derive(Default)]
pub struct Suite {
    module: &'static str,
    tests: Vec<(String, Place, Test)>,
    once: Vec<Trial>,
}

impl Suite {
    /// Tests that are added from now on belong to `module`.
    pub fn module(&mut self, module: &'static str) -> &mut Self {
        self.module = module;
        self
    }

    fn name(&self, test: &str) -> String {
        format!("{}::{test}", self.module)
    }

    /// A test for the CPU and every adapter.
    pub fn each(&mut self, name: &str, test: Test) {
        self.tests.push((self.name(name), Place::Everywhere, test));
    }

    /// A test for every adapter; ignored on the CPU.
    pub fn each_adapter(&mut self, name: &str, test: Test) {
        self.tests.push((self.name(name), Place::Adapters, test));
    }

    /// A test for every adapter with subgroups; ignored elsewhere.
    pub fn each_with_subgroups(&mut self, name: &str, test: Test) {
        self.tests.push((self.name(name), Place::Subgroups, test));
    }

    /// A test for one adapter.
    pub fn only(&mut self, adapter: &'static str, name: &str, test: Test) {
        self.tests.push((self.name(name), Place::Only(adapter), test));
    }

    /// A test that runs once, and uses none of [`devices`].
    pub fn once(&mut self, name: &str, test: impl FnOnce() -> Outcome + Send + 'static) {
        self.once.push(Trial::test(self.name(name), test));
    }

    /// A test that runs once, on all [`devices`], and alone.
    pub fn once_on_all(&mut self, name: &str, test: impl FnOnce() -> Outcome + Send + 'static) {
        let alone = move || {
            let _alone = ALL.write().unwrap_or_else(PoisonError::into_inner);
            test()
        };
        self.once(name, alone);
    }

    /// Runs all tests. Tests of one device run one after the other, tests of different devices in parallel.
    pub fn run(self) -> ! {
        let mut arguments = Arguments::from_args();
        // Most threads wait for their device.
        arguments.test_threads = arguments.test_threads.or(Some(32));
        let mut trials = self.once;
        // The devices take turns, so that no device is left with many tests at the end.
        for (name, place, test) in &self.tests {
            for (index, (adapter, device)) in devices().iter().enumerate() {
                let (test, lacks) = (*test, place.lacks(adapter, device));
                if matches!((place, lacks), (Place::Only(_), Some(_))) {
                    continue;
                }
                let known = known_failure(EXPECTED_FAILURES, adapter, name);
                let runner = move || match lacks {
                    Some(why) => Ok(Completion::ignored_with(why)),
                    None => {
                        let _all = ALL.read().unwrap_or_else(PoisonError::into_inner);
                        let _one = ONE[index % ONE.len()].lock().unwrap_or_else(PoisonError::into_inner);
                        judge(known, || test(device)).map(|()| Completion::Completed)
                    }
                };
                trials.push(Trial::ignorable_test(format!("{adapter}/{name}"), runner));
            }
        }
        let required = std::env::var("WGOAL_REQUIRE_ADAPTERS").unwrap_or_default();
        let absent = |adapter: &&str| !devices().iter().any(|(name, _)| name == adapter);
        for adapter in WANTED.into_iter().filter(absent) {
            let is_required = required.split(' ').any(|name| name == adapter);
            let why = format!("no {adapter} adapter here: see scripts/test");
            for (name, place, _) in &self.tests {
                if matches!(place, Place::Only(other) if *other != adapter) {
                    continue;
                }
                let why = why.clone();
                let missing =
                    move || if is_required { Err(why.into()) } else { Ok(Completion::ignored_with(why)) };
                trials.push(Trial::ignorable_test(format!("{adapter}/{name}"), missing));
            }
        }
        libtest_mimic::run(&arguments, trials).exit()
    }
}

/// Whether a device runs a kernel.
pub fn runs_kernel(device: &Device, kernel: &str) -> bool {
    kernel != "matmul_subgroups" || device.adapter().is_none_or(runs_subgroups)
}

/// Whether a device runs the matrix product that needs subgroups and images.
pub fn runs_subgroups(gpu: &Gpu) -> bool {
    MATMUL_VARIANTS.iter().any(|variant| variant.name.starts_with("subgroups") && variant.runs_on(gpu))
}

/// Replaces the shader of a kernel, as long as this value lives.
pub struct Replaced<'a>(&'a Gpu, &'static KernelSpec);

impl<'a> Replaced<'a> {
    pub fn new(gpu: &'a Gpu, kernel: &'static KernelSpec, source: String) -> Self {
        gpu.replace_shader(kernel.name, source);
        Self(gpu, kernel)
    }
}

impl Drop for Replaced<'_> {
    fn drop(&mut self) {
        self.0.replace_shader(self.1.name, self.1.source.into());
    }
}

/// Why a test is expected to fail on an adapter, or `None`.
pub fn known_failure<'a>(known: &[(&str, &str, &'a str)], adapter: &str, test: &str) -> Option<&'a str> {
    known.iter().find(|(a, t, _)| (*a, *t) == (adapter, test)).map(|(_, _, why)| *why)
}

/// The outcome of a test, inverted if the test is known to fail. A panic counts as a failure.
pub fn judge(known: Option<&str>, test: impl FnOnce() -> Outcome) -> Outcome {
    let Some(why) = known else { return test() };
    match catch_unwind(AssertUnwindSafe(test)) {
        Ok(Ok(())) => {
            Err(format!("passes, but is known to fail ({why}): take it out of EXPECTED_FAILURES").into())
        }
        _ => Ok(()),
    }
}

/// `assert!` for tests that return [`Failed`].
pub fn check(ok: bool, message: impl Into<String>) -> Outcome {
    if ok { Ok(()) } else { Err(message.into().into()) }
}
