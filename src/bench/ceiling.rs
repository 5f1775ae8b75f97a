//! Measures the peak rates of a device, and compares kernels with them.

use super::wrong;
use crate::Result;
use crate::device::{Backend, Buffer, Device, KernelTime, MatMut, Matrix, Profile};
use crate::kernels::{Product, ceiling, matmul};
use serde::Serialize;
use std::time::Instant;

/// The peak rates and the overheads of a device.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Ceiling {
    /// Floating-point operations per second. On a GPU: multiply and add in registers. On the CPU: the rate of a
    /// large matrix product.
    pub flops: f64,
    /// Bytes per second, read and written, of a copy that is larger than the caches.
    pub bytes: f64,
    /// Seconds that one more dispatch adds to a submission.
    pub dispatch: f64,
    /// Seconds from the start of an almost empty submission until the host knows that it has ended.
    pub submission: f64,
    /// Seconds to read 16 bytes back.
    pub readback: f64,
}

/// One kernel of a step, compared with the ceiling.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Row {
    /// Its time, its work and its dispatches in one step.
    #[serde(flatten)]
    pub kernel: KernelTime,
    /// Its share of the time of all kernels.
    pub share: f64,
    /// The time that its arithmetic or its memory traffic needs at the peak rate, whichever is longer, divided by the
    /// time that it took.
    pub of_ceiling: f64,
}

/// The shortest time of a measurement, in seconds.
const LONG: f64 = 0.02;

impl Ceiling {
    /// Measures a device. This takes about a second.
    ///
    /// # Errors
    /// The device fails or computes wrong values.
    pub fn of(device: &Device) -> Result<Self> {
        let mut small = Copy::new(device, 4096)?;
        small.check(device)?;
        // Larger than the caches of most devices, and small enough for the smallest binding.
        let mut large = Copy::new(device, 15 << 20)?;
        let (times, seconds) = lengthen(1, |times| large.time(device, 0, times))?;
        let bytes = 8.0 * f64::from(times) * large.len as f64 / seconds;
        let flops = match device {
            Device(Backend::Gpu(_), ..) => {
                // Enough independent chains to occupy a large GPU, and enough rounds that memory access does not count.
                let mut many = Copy::new(device, 1 << 19)?;
                let (rounds, seconds) = lengthen(512, |rounds| many.time(device, rounds, 1))?;
                8.0 * f64::from(rounds) * many.len as f64 / seconds
            }
            _ => product_rate(device)?,
        };
        let one = small.time(device, 0, 1)?;
        let many = small.time(device, 0, 65)?;
        let readback = fastest(|| {
            let start = Instant::now();
            device.wait(small.y.read(device, 0..4))?;
            Ok(start.elapsed().as_secs_f64())
        })?;
        let dispatch = (many - one).max(0.0) / 64.0;
        Ok(Self { flops, bytes, dispatch, submission: one, readback })
    }

    /// The kernels of a profile over `steps` steps. Times and work are per step.
    pub fn rows(&self, profile: &Profile, steps: usize) -> Vec<Row> {
        let total: f64 = profile.0.iter().map(|kernel| kernel.seconds).sum();
        let row = |kernel: &KernelTime| {
            let least = (kernel.flops / self.flops).max(kernel.bytes / self.bytes);
            let (share, of_ceiling) = (kernel.seconds / total, least / kernel.seconds);
            let mut kernel = kernel.clone();
            kernel.dispatches /= steps;
            for sum in [&mut kernel.seconds, &mut kernel.flops, &mut kernel.bytes] {
                *sum /= steps as f64;
            }
            Row { kernel, share, of_ceiling }
        };
        profile.0.iter().map(row).collect()
    }
}

/// The fastest of four runs, after one run that is not counted. The minimum leaves out what other processes cost.
fn fastest(mut time: impl FnMut() -> Result<f64>) -> Result<f64> {
    time()?;
    let samples = (0..4).map(|_| time()).collect::<Result<Vec<f64>>>()?;
    Ok(samples.into_iter().fold(f64::INFINITY, f64::min))
}

/// Increases `n` until the measurement takes at least [`LONG`]. Returns `n` and the seconds.
fn lengthen(mut n: u32, mut time: impl FnMut(u32) -> Result<f64>) -> Result<(u32, f64)> {
    loop {
        let seconds = time(n)?;
        if seconds >= LONG || n > 1 << 20 {
            return Ok((n, seconds));
        }
        n = (f64::from(n) * (1.2 * LONG / seconds).clamp(2.0, 16.0)) as u32;
    }
}

/// The buffers of the `ceiling` kernel.
struct Copy {
    x: Buffer<f32>,
    y: Buffer<f32>,
    len: usize,
}

impl Copy {
    fn new(device: &Device, len: usize) -> Result<Self> {
        let numbers: Vec<f32> = (0..len).map(|k| (k % 1000) as f32 * 1e-3).collect();
        let x = Buffer::from_slice(device, "ceiling.x", &numbers)?;
        Ok(Self { x, y: Buffer::new(device, "ceiling.y", len)?, len })
    }

    /// The seconds of `times` dispatches in one submission.
    fn time(&mut self, device: &Device, rounds: u32, times: u32) -> Result<f64> {
        fastest(|| {
            let mut commands = device.commands();
            let start = Instant::now();
            for _ in 0..times {
                ceiling(&mut commands, self.x.view(), self.len, rounds, (0.999, 1e-3), self.y.view_mut())?;
            }
            commands.submit()?;
            device.finish()?;
            Ok(start.elapsed().as_secs_f64())
        })
    }

    /// Checks the values of the kernel that is timed.
    fn check(&mut self, device: &Device) -> Result<()> {
        let mut commands = device.commands();
        ceiling(&mut commands, self.x.view(), self.len, 3, (0.999, 1e-3), self.y.view_mut())?;
        commands.submit()?;
        let found = device.wait(self.y.read(device, 0..self.len))?;
        let x = device.wait(self.x.read(device, 0..self.len))?;
        let expected =
            |&x: &f32| (0..12).fold(f64::from(x), |x, _| f64::from(0.999f32) * x + f64::from(1e-3f32));
        match x.iter().map(expected).zip(&found).find(|(e, f)| (e - f64::from(**f)).abs() > 1e-5) {
            None => Ok(()),
            Some((expected, found)) => Err(wrong("the ceiling kernel", expected, found)),
        }
    }
}

/// The floating-point operations per second of a large matrix product on the CPU.
fn product_rate(device: &Device) -> Result<f64> {
    const N: usize = 1024;
    let values: Vec<f32> = (0..N * N).map(|k| (k % 7) as f32 - 3.0).collect();
    let a = Matrix::from_rows(device, "a", N, N, &values)?;
    let mut c = Matrix::new(device, "c", N, N)?;
    let seconds = fastest(|| {
        let start = Instant::now();
        let c: MatMut = c.view_mut();
        matmul(&mut device.commands(), Product::nt(a.view(), a.view()), c)?;
        Ok(start.elapsed().as_secs_f64())
    })?;
    Ok(2.0 * (N * N * N) as f64 / seconds)
}
