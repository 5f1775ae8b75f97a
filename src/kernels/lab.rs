//! Creates the data of the checks of kernels and compares the results. Every device gets the same small cases, of odd
//! and distinct sizes.

use super::Block;
use crate::Result;
use crate::device::{Buffer, Commands, Device, Element, Mat, MatMut, Slice, SliceMut, pad_rows, padded};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Initial value of outputs. No kernel computes it.
pub(crate) const POISON: f32 = -1.0e30;

/// Creates the data of a check and compares the results.
pub struct Lab<'a> {
    /// The device that runs the kernels.
    pub device: &'a Device,
    random: ChaCha8Rng,
    /// Largest error so far.
    pub worst: f64,
    /// Invocations per workgroup of the row kernels; `None` leaves the choice to the device.
    pub lanes: Option<u32>,
    /// Whether a GPU's work is split into the smallest pieces, of 64 rows or elements.
    pub split: bool,
    /// Whether anything was compared.
    pub compared: bool,
}

/// Values on the device, and the same values on the host for the reference.
pub struct Pair<T: Element> {
    pub device: Buffer<T>,
    pub host: Vec<T>,
}

impl Pair<f32> {
    pub fn wide(&self) -> Vec<f64> {
        self.host.iter().map(|&x| x.into()).collect()
    }

    pub fn mat(&self, rows: usize, cols: usize) -> Mat<'_> {
        Mat { data: self.device.view(), rows, cols }
    }

    pub fn mat_mut(&mut self, rows: usize, cols: usize) -> MatMut<'_> {
        MatMut { data: self.device.view_mut(), rows, cols, stride: padded(cols) }
    }
}

impl<T: Element> Pair<T> {
    pub fn get(&self) -> Slice<'_, T> {
        self.device.view()
    }

    pub fn get_mut(&mut self) -> SliceMut<'_, T> {
        self.device.view_mut()
    }
}

impl<'a> Lab<'a> {
    /// A lab whose random numbers are the same for every check.
    pub fn new(device: &'a Device) -> Self {
        Self {
            device,
            random: ChaCha8Rng::seed_from_u64(7),
            worst: 0.0,
            lanes: None,
            split: false,
            compared: false,
        }
    }

    pub fn pair<T: Element>(&self, host: Vec<T>) -> Result<Pair<T>> {
        Ok(Pair { device: Buffer::from_slice(self.device, "doctor", &host)?, host })
    }

    /// Random numbers in [-1, 1).
    pub fn numbers(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| (self.random.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
    }

    pub fn vector(&mut self, n: usize) -> Result<Pair<f32>> {
        let numbers = self.numbers(n);
        self.pair(numbers)
    }

    /// A padded matrix of random numbers.
    pub fn matrix(&mut self, rows: usize, cols: usize) -> Result<Pair<f32>> {
        let numbers = self.numbers(rows * cols);
        self.pair(pad_rows(&numbers, cols).into_owned())
    }

    pub fn indices(&mut self, n: usize, below: u32) -> Result<Pair<u32>> {
        let indices = (0..n).map(|_| self.random.next_u32() % below).collect();
        self.pair(indices)
    }

    pub fn poison(&self, n: usize) -> Result<Pair<f32>> {
        self.pair(vec![POISON; n])
    }

    pub fn poison_indices(&self, n: usize) -> Result<Pair<u32>> {
        self.pair(vec![POISON.to_bits(); n])
    }

    pub fn run(&self, record: impl FnOnce(&mut Commands) -> Result<()>) -> Result<()> {
        let mut commands = self.device.commands();
        if let Commands::Gpu(recorder) = &mut commands {
            recorder.lanes = self.lanes.unwrap_or(recorder.lanes);
            if self.split {
                (recorder.budget, recorder.max_binding) = (1.0, 1);
            }
        }
        record(&mut commands)?;
        commands.submit()
    }

    /// Waits for the device and reads values back.
    pub fn read<T: Element>(&self, pair: &Pair<T>, range: std::ops::Range<usize>) -> Result<Vec<T>> {
        #[cfg(feature = "native")]
        return self.device.wait(pair.device.read(self.device, range));
        #[cfg(not(feature = "native"))]
        {
            let _ = (pair, range);
            Err(crate::Error::device(
                "check",
                "a host that can wait",
                "a browser",
                "run `wgoal doctor` natively",
            ))
        }
    }

    /// Records the error of an output.
    pub fn compare(&mut self, found: &Pair<f32>, expected: &[f64]) -> Result<()> {
        let found = self.read(found, 0..expected.len())?;
        self.compare_values(&found, expected);
        Ok(())
    }

    /// Records the error of values that are already on the host.
    pub fn compare_values(&mut self, found: &[f32], expected: &[f64]) {
        self.compared = true;
        self.worst = self.worst.max(error(found, expected));
    }

    /// Records how many indices differ.
    pub fn compare_indices(&mut self, found: &Pair<u32>, expected: &[u32]) -> Result<()> {
        let found = self.read(found, 0..expected.len())?;
        self.compared = true;
        self.worst += found.iter().zip(expected).filter(|(found, expected)| found != expected).count() as f64;
        Ok(())
    }
}

/// Largest error relative to the largest expected value.
pub(crate) fn error(found: &[f32], expected: &[f64]) -> f64 {
    let largest = expected.iter().fold(f64::MIN_POSITIVE, |largest, x| largest.max(x.abs()));
    let errors =
        found.iter().zip(expected).map(|(&found, expected)| (f64::from(found) - expected).abs() / largest);
    errors.fold(0.0, |worst, error| if error.is_finite() { worst.max(error) } else { f64::INFINITY })
}

/// Pairs per batch. `D` is the width of its embeddings.
pub(crate) const N: usize = 67;

pub(crate) const D: usize = 37;

/// Both directions, as whole blocks.
pub(crate) fn directions() -> [Block; 2] {
    [Block::images(0, N, N), Block::texts(0, N, N)]
}

/// 1/16, so that s / t is exact.
pub(crate) const TEMPERATURE: f32 = 0.0625;

pub(crate) const ELEMENTS: usize = 4 * 301;
