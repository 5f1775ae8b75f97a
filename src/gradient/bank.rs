//! Memory bank: the embeddings of the last batches as further candidates for mining (cross-batch memory, Wang et al.,
//! 2020). They are constants: no gradient goes to them.

use super::numbers::numbers;
use super::relation::{LeftOut, Relation};
use crate::device::{Backend, Buffer, Commands, Device, Mat, Matrix, Slice, padded};
use crate::kernels::accumulate;
use crate::{Error, Result};

/// Embeddings of earlier batches, `[rows, cols]` of both sides.
#[derive(Clone, Copy)]
pub(crate) struct BankRows<'a> {
    pub images: Mat<'a>,
    pub texts: Mat<'a>,
    /// Numbers of the images of the batch's pairs, then of the bank's. Pairs with equal ids are never negatives.
    pub ids: Slice<'a, u32>,
    /// Elements that are neither positive nor negative: of the batch's images against the bank's texts, and of the
    /// batch's texts against the bank's images.
    pub left_out: Option<&'a [LeftOut; 2]>,
}

/// A ring of whole batches, on the device.
pub(crate) struct Bank {
    images: Matrix,
    texts: Matrix,
    /// Numbers of the images of the batch's pairs, then of the bank's.
    ids: Buffer<u32>,
    /// Whether the numbers in `ids` are not the image rows.
    renumbered: bool,
    /// Image row of the bank's pairs; where a relation is followed, also the text row, and what it leaves out.
    rows: [Vec<u64>; 2],
    left_out: Option<[LeftOut; 2]>,
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
            renumbered: false,
            rows: Default::default(),
            left_out: None,
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
        if let Device(Backend::Gpu(gpu), ..) = device {
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
        self.rows.iter_mut().for_each(Vec::clear);
    }

    /// Stores the numbers of the image rows of the batch that is mined next. Where row numbers are beyond u32, those of
    /// the bank are numbered again with them.
    pub fn begin(&mut self, device: &Device, images: &[u64]) -> Result<()> {
        let bank = &self.rows[0][..self.filled];
        let far = images.iter().chain(bank).any(|&row| row > u32::MAX.into());
        if far || self.renumbered {
            self.renumbered = far;
            return self.ids.write(device, 0, &numbers(&[images, bank].concat()));
        }
        self.ids.write(device, 0, &numbers(images))
    }

    /// Leaves out what `relation` says of the batch that is mined next, of these image rows and text rows.
    pub fn leave_out(&mut self, device: &Device, relation: &Relation, rows: [&[u64]; 2]) -> Result<()> {
        let lists = relation.left_out_of_bank(rows, [&self.rows[0], &self.rows[1]]);
        let new = || -> Result<_> {
            Ok([LeftOut::new(device, "bank.left_out_texts")?, LeftOut::new(device, "bank.left_out_images")?])
        };
        let buffers = match &mut self.left_out {
            Some(buffers) => buffers,
            none => none.insert(new()?),
        };
        buffers.iter_mut().zip(lists).try_for_each(|(buffer, list)| buffer.write(device, list))
    }

    /// The embeddings in the bank; `None` while it is empty.
    pub fn rows(&self) -> Option<BankRows<'_>> {
        let ids = self.ids.part(0..self.pairs + self.filled);
        let rows = || 0..self.filled;
        (self.filled > 0).then(|| BankRows {
            images: self.images.rows(rows()),
            texts: self.texts.rows(rows()),
            ids,
            left_out: self.left_out.as_ref(),
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

    /// Stores the image rows of the copied rows, after the work on the earlier rows is handed over. Where a relation is
    /// followed, also the text rows.
    pub fn end(&mut self, device: &Device, [ids, texts]: [&[u64]; 2]) -> Result<()> {
        self.ids.write(device, self.pairs + self.next, &numbers(ids))?;
        for (rows, new) in self.rows.iter_mut().zip([ids, texts]).filter(|(_, new)| !new.is_empty()) {
            rows.resize(rows.len().max(self.next + new.len()), 0);
            rows[self.next..self.next + new.len()].copy_from_slice(new);
        }
        self.next = (self.next + self.pairs) % self.capacity;
        self.filled = (self.filled + self.pairs).min(self.capacity);
        Ok(())
    }

    /// The number of pairs in it.
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// The batches that it holds after `steps` steps.
    pub fn batches(&self, steps: usize) -> std::ops::Range<usize> {
        steps.saturating_sub(self.capacity / self.pairs)..steps
    }

    /// The rows in it, images and texts, in the order of their places.
    pub async fn read(&self, device: &Device) -> Result<[Vec<f32>; 2]> {
        let mut both = [const { Vec::new() }; 2];
        for (from, to) in [&self.images, &self.texts].into_iter().zip(&mut both) {
            let stride = padded(from.cols);
            let rows = from.buffer.read(device, 0..self.filled * stride).await?;
            to.extend(rows.chunks_exact(stride).flat_map(|row| &row[..from.cols]));
        }
        Ok(both)
    }

    /// Continues with the rows that [`Bank::read`] gave after `steps` steps. `ids` are the image rows and the text rows of
    /// [`Bank::batches`].
    pub fn restore(
        &mut self,
        device: &Device,
        steps: usize,
        rows: [&[f32]; 2],
        ids: &[[Vec<u64>; 2]],
    ) -> Result<()> {
        self.clear();
        for (matrix, rows) in [&mut self.images, &mut self.texts].into_iter().zip(rows) {
            let values = crate::device::pad_rows(rows, matrix.cols);
            matrix.buffer.write(device, 0, &values)?;
        }
        self.next = self.batches(steps).start * self.pairs % self.capacity;
        ids.iter().try_for_each(|[images, texts]| self.end(device, [images, texts]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::gradient::{Inputs, Workspace};
    use crate::objective::Objective;

    /// Image i of the batch is e_i, text i is 0.6 e_i + 0.8 e_(i+1). In the bank it is the other way
    /// round.
    #[test]
    fn right_pairs_of_the_bank_are_not_mined() {
        const N: usize = 4;
        let device = Device::cpu();
        let row = |i: usize, next: f32| {
            let mut row = [0.0; N];
            row[i] = if next > 0.0 { 0.6 } else { 1.0 };
            row[(i + 1) % N] = next.max(row[(i + 1) % N]);
            row
        };
        let rows = |next: f32| (0..N).flat_map(|i| row(i, next)).collect::<Vec<f32>>();
        let matrix = |name, values: &[f32]| Matrix::from_rows(&device, name, N, N, values).unwrap();
        let (x, y) = (matrix("x", &rows(0.0)), matrix("y", &rows(0.8)));
        let mut gradients = [matrix("dx", &rows(0.0)), matrix("dy", &rows(0.0))];
        let temperature = Buffer::from_slice(&device, "t", &[1.0]).unwrap();
        // Text i of the bank has the caption of text i of the batch.
        let class = (0..2 * N as u32).map(|text| text % N as u32).collect();
        let own: Vec<u64> = (0..2 * N as u64).collect();
        let relation = Relation::new(2 * N, class, &own[..].into(), &[]);
        let mut mine = |relation: Option<&Relation>| -> [Vec<f32>; 2] {
            let mut bank = Bank::new(&device, N, N, N).unwrap();
            let (batch, earlier) = (&own[..N], &own[N..]);
            let mut commands = device.commands();
            bank.begin(&device, earlier).unwrap();
            bank.push(&mut commands, [&y, &x]).unwrap();
            commands.submit().unwrap();
            bank.end(&device, [earlier, earlier]).unwrap();
            bank.begin(&device, batch).unwrap();
            relation.iter().for_each(|relation| bank.leave_out(&device, relation, [batch, batch]).unwrap());
            let mut workspace = Workspace::new(&device, N, N, N).unwrap();
            let inputs = Inputs {
                images: x.view(),
                texts: y.view(),
                ids: None,
                logits: temperature.view(),
                left_out: None,
                scale: 1.0,
                bank: bank.rows(),
            };
            let [dx, dy] = &mut gradients;
            let objective: Objective = "hinge".parse().unwrap();
            let into = [&mut dx.view_mut(), &mut dy.view_mut()];
            workspace.gradient(&mut commands, &objective, inputs, into).unwrap();
            commands.submit().unwrap();
            workspace
                .hardest()
                .map(|value| value.host().unwrap()[..N].iter().map(|n| (10.0 * n).round()).collect())
        };
        let all = |n: f32| [vec![n; N], vec![n; N]];
        assert_eq!(mine(None), all(10.0), "text i and image i of the bank");
        assert_eq!(mine(Some(&relation)), all(8.0), "text i - 1 and image i + 1 of the batch");
    }

    #[test]
    fn numbers_are_equal_exactly_where_image_rows_are() {
        let (device, far) = (Device::cpu(), 1u64 << 32);
        let mut bank = Bank::new(&device, 4, 2, 1).unwrap();
        let mut ring: Vec<u64> = Vec::new();
        let batches =
            [[1, 2], [far + 1, 2], [2, far + 2], [far + 1, 1], [5, 6], [1, 5], [6, 1], [1, far + 6]];
        for (step, batch) in batches.into_iter().enumerate() {
            bank.begin(&device, &batch).unwrap();
            let rows = [&batch[..], &ring].concat();
            let numbers = bank.ids.view().host().unwrap()[..rows.len()].to_vec();
            for (a, x) in rows.iter().zip(&numbers) {
                for (b, y) in rows.iter().zip(&numbers) {
                    assert_eq!(x == y, a == b, "step {step}: {numbers:?} for {rows:?}");
                }
            }
            bank.end(&device, [&batch, &[]]).unwrap();
            let at = step % 2 * 2;
            ring.resize(ring.len().max(at + 2), 0);
            ring[at..at + 2].copy_from_slice(&batch);
        }
    }
}
