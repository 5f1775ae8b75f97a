//! Times matrix products alone, for comparison.

use super::{median, numbers};
use crate::Result;
use crate::device::{Device, Matrix};
use crate::kernels::{Product, matmul};

/// Matrix products C = op(A) op(B), computed one after the other, as in a step.
pub(super) struct Products {
    device: Device,
    /// A, B, whether A is transposed (otherwise B is), and C.
    operands: Vec<(Matrix, Matrix, bool, Matrix)>,
}

impl Products {
    /// Shapes are [rows, cols, inner]. The flag says that A is transposed; otherwise B is.
    pub fn new(device: &Device, shapes: &[([usize; 3], bool)]) -> Result<Self> {
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

    /// Runs all products. Returns when they, and all earlier work of the device, are done.
    pub fn run(&mut self) -> Result<()> {
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

    /// The median time of [`Products::run`] in seconds.
    pub fn seconds(&mut self) -> Result<f64> {
        median(|| self.run())
    }

    /// Returns when all work of the device is done.
    pub fn settle(&self) -> Result<()> {
        let Some((.., c)) = self.operands.last() else { return Ok(()) };
        self.device.wait(async { c.buffer.read(&self.device, 0..4).await.map(drop) })
    }
}
