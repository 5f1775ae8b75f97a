//! Memory bank: the embeddings of the last batches as further candidates for mining (cross-batch memory, Wang et al.,
//! 2020). They are constants: no gradient goes to them.

use crate::device::{Backend, Buffer, Commands, Device, Mat, Matrix, Slice, padded};
use crate::kernels::accumulate;
use crate::{Error, Result};

/// Embeddings of earlier batches, `[rows, cols]` of both sides.
#[derive(Clone, Copy)]
pub(crate) struct BankRows<'a> {
    pub images: Mat<'a>,
    pub texts: Mat<'a>,
    /// Image ids of the batch's pairs, then of the bank's. Pairs with equal ids are never negatives.
    pub ids: Slice<'a, u32>,
}

/// A ring of whole batches, on the device.
pub(crate) struct Bank {
    images: Matrix,
    texts: Matrix,
    /// Image ids of the batch's pairs, then of the bank's.
    ids: Buffer<u32>,
    capacity: usize,
    pairs: usize,
    filled: usize,
    next: usize,
}

impl Bank {
    /// Room for `size` pairs of embeddings of width `dim`, rounded down to whole batches of `pairs`.
    ///
    /// # Errors
    /// A size below one batch, or more memory than one binding of the device holds.
    pub fn new(device: &Device, size: usize, pairs: usize, dim: usize) -> Result<Self> {
        let capacity = Self::check(device, size, pairs, dim)?;
        Ok(Self {
            images: Matrix::new(device, "bank.images", capacity, dim)?,
            texts: Matrix::new(device, "bank.texts", capacity, dim)?,
            ids: Buffer::new(device, "bank.ids", pairs + capacity)?,
            capacity,
            pairs,
            filled: 0,
            next: 0,
        })
    }

    /// The number of pairs that a bank of `size` pairs holds, rounded down to whole batches.
    ///
    /// # Errors
    /// Those of [`Bank::new`].
    pub fn check(device: &Device, size: usize, pairs: usize, dim: usize) -> Result<usize> {
        let capacity = size / pairs * pairs;
        if capacity == 0 {
            let expected = format!("at least a batch, {pairs} pairs");
            return Err(Error::config("--memory-bank", expected, size, "make it larger, or leave it out"));
        }
        if let Device(Backend::Gpu(gpu)) = device {
            let most = gpu.max_binding() / (4 * padded(dim));
            if capacity > most {
                let expected =
                    format!("at most {most} pairs of width {dim}, which this device binds at once");
                return Err(Error::config("--memory-bank", expected, size, "make it smaller"));
            }
        }
        Ok(capacity)
    }

    pub fn clear(&mut self) {
        (self.filled, self.next) = (0, 0);
    }

    /// Stores the image ids of the batch that is mined next.
    pub fn begin(&mut self, device: &Device, ids: &[u32]) -> Result<()> {
        self.ids.write(device, 0, ids)
    }

    /// The embeddings in the bank; `None` while it is empty.
    pub fn rows(&self) -> Option<BankRows<'_>> {
        let ids = self.ids.part(0..self.pairs + self.filled);
        let rows = || 0..self.filled;
        (self.filled > 0).then(|| BankRows {
            images: self.images.rows(rows()),
            texts: self.texts.rows(rows()),
            ids,
        })
    }

    /// Copies the batch's unit rows into the bank, over the oldest rows.
    pub fn push(&mut self, commands: &mut Commands, [images, texts]: [&Matrix; 2]) -> Result<()> {
        for (from, to) in [(images, &mut self.images), (texts, &mut self.texts)] {
            let stride = padded(to.cols);
            let at = self.next * stride;
            let rows = (from.buffer.view(), self.pairs * stride);
            accumulate(commands, rows, 1.0, (to.buffer.view_mut(), at), false)?;
        }
        Ok(())
    }

    /// Stores the image ids of the copied rows, after the work on the earlier rows is handed over.
    pub fn end(&mut self, device: &Device, ids: &[u32]) -> Result<()> {
        self.ids.write(device, self.pairs + self.next, ids)?;
        self.next = (self.next + self.pairs) % self.capacity;
        self.filled = (self.filled + self.pairs).min(self.capacity);
        Ok(())
    }
}
