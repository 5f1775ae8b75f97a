//! Checks whether a device computes correctly: every kernel, and one training step of every objective, is compared with
//! f64 references.
//!
//! Users run these checks on their own machines, because their drivers may differ from those that the tests use. Shapes
//! are odd and distinct. Outputs start as a poison value. An error that is NaN counts as infinite.

mod step;

use crate::device::Device;
use crate::kernels::lab::{Lab, error};
use crate::kernels::{KERNELS, Kernel};
use crate::objective::{CustomWeights, InfonceParams, Loss, Objective, SiglipParams};
use crate::optim;
use crate::{Error, ErrorKind, Result};
use serde::Serialize;
use std::ops::ControlFlow;
use std::time::Instant;

/// The result of one check.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// The name of a kernel, or `step` followed by an objective.
    pub name: String,
    /// The largest error relative to the largest expected value. For values that must be equal, the number of wrong
    /// ones.
    pub error: f64,
    /// The largest error that rounding can explain.
    pub allowed: f64,
    /// The driver's message, if the check could not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// The time of the check in milliseconds, including compilation.
    pub ms: f64,
}

impl Finding {
    /// Whether the device passed the check.
    pub fn passed(&self) -> bool {
        self.fault.is_none() && self.error <= self.allowed
    }
}

/// Runs all checks on a device and passes each finding to `report` as soon as it is known. Ends early if `report` breaks.
/// Returns whether all checks that ran passed.
pub fn examine(device: &Device, mut report: impl FnMut(&Finding) -> ControlFlow<()>) -> bool {
    let steps = objectives().chain(custom()).filter_map(|objective| {
        let check = |lab: &mut Lab| step::check(lab, &objective).map(Some);
        examine_one(device, format!("step {objective}"), step::allowed(&objective), check)
    });
    let mut healthy = true;
    for finding in kernels().filter_map(|kernel| examine_kernel(device, kernel)).chain(steps) {
        healthy &= finding.passed();
        if report(&finding).is_break() {
            break;
        }
    }
    healthy
}

/// Checks one kernel. Returns `None` if the device does not use this kernel.
#[doc(hidden)]
pub fn examine_kernel(device: &Device, kernel: &Kernel) -> Option<Finding> {
    examine_one(device, kernel.spec.name.into(), kernel.tolerance, |lab| {
        (kernel.check)(lab).map(|()| lab.compared.then_some(lab.worst))
    })
}

/// Runs a check that returns its largest error, or `None` if it compared nothing.
fn examine_one(
    device: &Device,
    name: String,
    allowed: f64,
    check: impl FnOnce(&mut Lab) -> Result<Option<f64>>,
) -> Option<Finding> {
    let start = Instant::now();
    let (error, fault) = match check(&mut Lab::new(device)) {
        Ok(error) => (error?, None),
        Err(error) => (f64::INFINITY, Some(error.to_string())),
    };
    let ms = 1e3 * start.elapsed().as_secs_f64();
    Some(Finding { name, error, allowed, fault, ms })
}

/// All kernels.
pub fn kernels() -> impl Iterator<Item = &'static Kernel> {
    KERNELS.iter().chain(optim::KERNELS).copied()
}

fn objectives() -> impl Iterator<Item = Objective> {
    let margin = 0.2;
    let masked = InfonceParams { leave_out: true, ..Default::default() };
    let learned = InfonceParams { learn_temperature: true, ..Default::default() };
    let losses = Loss::ALL.into_iter().map(|loss| Objective::Loss(loss, loss.params()));
    Objective::goal_combinations()
        .chain(losses)
        .chain([
            Objective::Hinge { margin },
            Objective::HingeSum { margin },
            Objective::Infonce(learned),
            Objective::Infonce(masked),
            Objective::Infonce(InfonceParams { log_sum: true, ..Default::default() }),
            Objective::Siglip(SiglipParams::default()),
            Objective::Siglip(SiglipParams { leave_out: true, ..Default::default() }),
        ])
        .chain(composed())
}

/// Objectives with other negatives than the hardest, and a sum of objectives.
fn composed() -> impl Iterator<Item = Objective> {
    let names = [
        "cir:sig-ms@top:3",
        "nca:lin@semi-hard",
        "cir:sig@all",
        "infonce+0.5*cir:con@top:2+2*hinge",
        "infonce@image-to-text+lifted@text-to-image",
    ];
    names.into_iter().filter_map(|name| name.parse().ok())
}

/// A GOAL combination written as a weight file.
fn custom() -> Option<Objective> {
    let weights = CustomWeights::new("cir_sig.wgsl", include_str!("../../examples/weights/cir_sig.wgsl"), []);
    Some(Objective::Custom { weights: weights.ok()?, margin: None })
}

/// The error for a device that failed some checks.
pub fn unhealthy(device: &Device, failed: usize) -> Error {
    Error::new(
        ErrorKind::Device,
        device,
        "results within rounding of the f64 references",
        format!("{failed} checks that are not"),
        "update the driver, or choose another --device; please report the block above",
    )
}
