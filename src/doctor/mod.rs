//! Does this device compute rightly? Every kernel and one training step of every objective, against the f64 twins.
//!
//! For users' own machines, whose drivers no test of ours has seen. Shapes are odd and distinct, outputs start as a
//! poison value, and an error that is not a number counts as infinite.

mod kernels;
mod local;
mod step;

use crate::device::{Buffer, Commands, Device, Element, Mat, MatMut, Slice, SliceMut, pad_rows, padded};
use crate::objective::{CustomWeights, InfonceParams, Loss, Objective};
use crate::{Error, ErrorKind, Result};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Serialize;
use std::time::Instant;

/// What one check came to.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// A kernel, or `step` and an objective.
    pub name: String,
    /// Largest error, relative to the largest expected value; the number of wrong ones where they must be equal.
    pub error: f64,
    /// Largest error that rounding explains.
    pub allowed: f64,
    /// What the driver said, if it refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// Time it took, compilation and checking included.
    pub ms: f64,
}

impl Finding {
    /// Whether the device did it rightly.
    pub fn passed(&self) -> bool {
        self.fault.is_none() && self.error <= self.allowed
    }
}

/// Runs all checks on a device, handing over each finding as it is made; whether all passed.
pub fn examine(device: &Device, mut report: impl FnMut(&Finding)) -> bool {
    let mut healthy = true;
    let mut check = |name: String, allowed: f64, check: &dyn Fn(&mut Lab) -> Result<f64>| {
        let start = Instant::now();
        let mut lab = Lab { device, random: ChaCha8Rng::seed_from_u64(7), worst: 0.0 };
        let (error, fault) = match check(&mut lab) {
            Ok(error) => (error, None),
            Err(error) => (f64::INFINITY, Some(error.to_string())),
        };
        let ms = 1e3 * start.elapsed().as_secs_f64();
        let finding = Finding { name, error, allowed, fault, ms };
        healthy &= finding.passed();
        report(&finding);
    };
    for (name, allowed, kernel) in kernels::CHECKS.iter().chain(local::CHECKS) {
        check((*name).into(), *allowed, &|lab| kernel(lab).map(|()| lab.worst));
    }
    for objective in objectives().chain(custom()) {
        check(format!("step {objective}"), step::allowed(&objective), &|lab| step::check(lab, &objective));
    }
    healthy
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
        ])
        .chain(composed())
}

/// Other negatives, and a sum.
fn composed() -> impl Iterator<Item = Objective> {
    let names = ["cir:sig-ms@top:3", "nca:lin@semi-hard", "cir:sig@all", "infonce+0.5*cir:con@top:2+2*hinge"];
    names.into_iter().filter_map(|name| name.parse().ok())
}

/// A combination as a weight file.
fn custom() -> Option<Objective> {
    let weights = CustomWeights::new("cir_sig.wgsl", include_str!("../../examples/weights/cir_sig.wgsl"), []);
    Some(Objective::Custom { weights: weights.ok()?, margin: None })
}

/// Outputs start as this, which no kernel computes.
const POISON: f32 = -1.0e30;

/// Where a check makes its data and compares.
struct Lab<'a> {
    device: &'a Device,
    random: ChaCha8Rng,
    worst: f64,
}

/// Values on the device, and the same in double precision for the twin.
struct Pair<T: Element> {
    device: Buffer<T>,
    host: Vec<T>,
}

impl Pair<f32> {
    fn wide(&self) -> Vec<f64> {
        self.host.iter().map(|&x| x.into()).collect()
    }

    fn mat(&self, rows: usize, cols: usize) -> Mat<'_> {
        Mat { data: self.device.view(), rows, cols }
    }

    fn mat_mut(&mut self, rows: usize, cols: usize) -> MatMut<'_> {
        MatMut { data: self.device.view_mut(), rows, cols, stride: padded(cols) }
    }
}

impl<T: Element> Pair<T> {
    fn get(&self) -> Slice<'_, T> {
        self.device.view()
    }

    fn get_mut(&mut self) -> SliceMut<'_, T> {
        self.device.view_mut()
    }
}

impl Lab<'_> {
    fn pair<T: Element>(&self, host: Vec<T>) -> Result<Pair<T>> {
        Ok(Pair { device: Buffer::from_slice(self.device, "doctor", &host)?, host })
    }

    /// In [-1, 1).
    fn numbers(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| (self.random.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
    }

    fn vector(&mut self, n: usize) -> Result<Pair<f32>> {
        let numbers = self.numbers(n);
        self.pair(numbers)
    }

    /// A padded matrix.
    fn matrix(&mut self, rows: usize, cols: usize) -> Result<Pair<f32>> {
        let numbers = self.numbers(rows * cols);
        self.pair(pad_rows(&numbers, cols).into_owned())
    }

    fn indices(&mut self, n: usize, below: u32) -> Result<Pair<u32>> {
        let indices = (0..n).map(|_| self.random.next_u32() % below).collect();
        self.pair(indices)
    }

    fn poison(&self, n: usize) -> Result<Pair<f32>> {
        self.pair(vec![POISON; n])
    }

    fn poison_indices(&self, n: usize) -> Result<Pair<u32>> {
        self.pair(vec![POISON.to_bits(); n])
    }

    fn run(&self, record: impl FnOnce(&mut Commands) -> Result<()>) -> Result<()> {
        let mut commands = self.device.commands();
        record(&mut commands)?;
        commands.submit()
    }

    /// Notes the error of an output.
    fn compare(&mut self, found: &Pair<f32>, expected: &[f64]) -> Result<()> {
        let found = self.device.wait(found.device.read(self.device, 0..expected.len()))?;
        self.worst = self.worst.max(error(&found, expected));
        Ok(())
    }

    /// Notes how many indices differ.
    fn compare_indices(&mut self, found: &Pair<u32>, expected: &[u32]) -> Result<()> {
        let found = self.device.wait(found.device.read(self.device, 0..expected.len()))?;
        self.worst += found.iter().zip(expected).filter(|(found, expected)| found != expected).count() as f64;
        Ok(())
    }
}

/// Largest error relative to the largest expected value.
fn error(found: &[f32], expected: &[f64]) -> f64 {
    let largest = expected.iter().fold(f64::MIN_POSITIVE, |largest, x| largest.max(x.abs()));
    let errors =
        found.iter().zip(expected).map(|(&found, expected)| (f64::from(found) - expected).abs() / largest);
    errors.fold(0.0, |worst, error| if error.is_finite() { worst.max(error) } else { f64::INFINITY })
}

/// The error of a device that failed an examination.
pub fn unhealthy(device: &Device, failed: usize) -> Error {
    Error::new(
        ErrorKind::Device,
        device,
        "results within rounding of the f64 twins",
        format!("{failed} checks that are not"),
        "update the driver, or choose another --device; please report the block above",
    )
}
