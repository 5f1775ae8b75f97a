//! Benchmarks of what grows: an epoch over many features, evaluation of many candidates, batches of many pairs. Each is
//! set against the matrix products in it, timed in the same run.

mod epoch;
mod eval;
mod pairs;

use std::time::Instant;
use wgoal::device::Matrix;
use wgoal::kernels::{Product, matmul};
use wgoal::{Device, Error, ErrorKind, Result};

pub use epoch::EpochBench;
pub use eval::EvalBench;
pub use pairs::PairsBench;

/// Numbers of both signs, the same at every call.
pub fn numbers() -> impl Iterator<Item = f32> {
    let mut state = 1u32;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    })
}

/// A width that matrices can have.
fn width(text: &str) -> std::result::Result<usize, String> {
    let width = text.parse().map_err(|e| format!("{e}"))?;
    if (1..=65_536).contains(&width) { Ok(width) } else { Err("expected 1 to 65536".into()) }
}

fn unit_rows(values: &mut [f32], dim: usize) {
    for row in values.chunks_exact_mut(dim) {
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter_mut().for_each(|x| *x /= norm);
    }
}

/// The median of what `work` takes, in seconds: of at least three times, for two seconds or so.
fn median(mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let (start, mut samples) = (Instant::now(), Vec::new());
    while samples.len() < 3 || (start.elapsed().as_secs_f64() < 2.0 && samples.len() < 51) {
        let start = Instant::now();
        work()?;
        samples.push(start.elapsed().as_secs_f64());
    }
    samples.sort_by(f64::total_cmp);
    Ok(samples[samples.len() / 2])
}
/// Matrix products C = op(A) op(B), computed one after the other as in a step.
struct Products {
    device: Device,
    /// A, B, whether A is transposed (else B is), C.
    operands: Vec<(Matrix, Matrix, bool, Matrix)>,
}

impl Products {
    /// Shapes are [rows, cols, inner]; A is transposed in those marked, else B.
    fn new(device: &Device, shapes: &[([usize; 3], bool)]) -> Result<Self> {
        let matrix = |rows: usize, cols: usize| {
            let values: Vec<_> = numbers().take(rows * cols).collect();
            Matrix::from_rows(device, "bench", rows, cols, &values)
        };
        let mut operands = Vec::new();
        for &([rows, cols, inner], a_transposed) in shapes {
            let (a, b) = match a_transposed {
                true => (matrix(inner, rows)?, matrix(inner, cols)?),
                false => (matrix(rows, inner)?, matrix(cols, inner)?),
            };
            operands.push((a, b, a_transposed, Matrix::new(device, "bench", rows, cols)?));
        }
        Ok(Self { device: device.clone(), operands })
    }

    /// Returns once all are done, and all work of the device before them.
    fn run(&mut self) -> Result<()> {
        let mut commands = self.device.commands();
        for (a, b, a_transposed, c) in &mut self.operands {
            let product = match a_transposed {
                true => Product::tn(a.view(), b.view()),
                false => Product::nt(a.view(), b.view()),
            };
            matmul(&mut commands, Product { sliced: true, ..product }, c.view_mut())?;
        }
        commands.submit()?;
        self.settle()
    }

    /// The median of [`Products::run`], in seconds.
    fn seconds(&mut self) -> Result<f64> {
        median(|| self.run())
    }

    /// Returns once all work of the device is done.
    fn settle(&self) -> Result<()> {
        let Some((.., c)) = self.operands.last() else { return Ok(()) };
        self.device.wait(async { c.buffer.read(&self.device, 0..4).await.map(drop) })
    }
}

/// The largest resident memory of this process so far, in MB; `None` where the system does not tell.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024 / 1_000_000)
}

pub fn shape<const K: usize>(text: &str, form: &str) -> Result<[usize; K]> {
    // So that the product of any two of them can be counted.
    let fits = |n: &usize| (1..1 << 31).contains(n);
    let numbers: Option<Vec<usize>> = text.split(':').map(|n| n.parse().ok().filter(fits)).collect();
    numbers.and_then(|numbers| numbers.try_into().ok()).ok_or_else(|| {
        let expected = format!("{form}, whole numbers of 1 or more and below 2^31");
        Error::new(ErrorKind::Config, "--shape", expected, text, "give it in this form")
    })
}
