//! Memory bank: the embeddings of the last batches as further candidates for mining (cross-batch memory, Wang et al.,
//! 2020). They are constants: no gradient goes to them.
//!
//! Where several processes share a batch, each holds the rows of its own slices (`shared_bank`).

use super::numbers::numbers;
use super::relation::{LeftOut, Relation};
use super::shard::Shard;
use crate::device::{Backend, Buffer, Commands, Device, Mat, Matrix, Slice, padded};
use crate::kernels::accumulate;
use crate::{Error, Result};
use std::ops::Range;

/// Rows of a batch begin in the bank at multiples of this, so that a GPU can bind them.
const ALIGNED: usize = 16;

/// A ring of whole batches, on the device.
pub(crate) struct Bank {
    /// Images and texts: the held rows of every batch in turn.
    held: [Matrix; 2],
    /// Numbers of the images of the batch's pairs, then of the bank's. Pairs with equal ids are never negatives.
    ids: Buffer<u32>,
    /// Whether the numbers in `ids` are not the image rows.
    renumbered: bool,
    /// Image row of the bank's pairs; where a relation is followed, also the text row.
    rows: [Vec<u64>; 2],
    /// Elements that are neither positive nor negative, of every block: of the batch's images against the bank's texts,
    /// and of the batch's texts against the bank's images.
    left_out: Vec<[LeftOut; 2]>,
    capacity: usize,
    pairs: usize,
    filled: usize,
    next: usize,
    /// The slices of every batch that this process holds, if processes share the bank.
    shard: Option<Shard>,
    /// Copies of the held rows on the host, where a GPU has them and processes share the bank.
    copies: Option<[Vec<f32>; 2]>,
}

/// Neighbouring pairs of the bank whose similarities are computed together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BankBlock {
    /// Their rows in the matrices.
    pub rows: Range<usize>,
    /// The number of the first among the bank's pairs.
    pub first: usize,
}

impl Bank {
    /// Room for `size` pairs of embeddings of width `dim`, rounded down to whole batches of `pairs`. With a shard, this
    /// process holds the rows of its own slices.
    ///
    /// # Errors
    /// A size below one batch, or more memory than one binding of the device holds.
    pub fn new(device: &Device, size: usize, [pairs, dim]: [usize; 2], shard: Option<Shard>) -> Result<Self> {
        let capacity = Self::capacity(size, pairs)?;
        let batches = capacity / pairs;
        let own = shard.as_ref().map_or(pairs, |shard| shard.own_pairs().len());
        check_binding(device, size, [own * batches, dim, capacity])?;
        let rows = match shard {
            Some(_) => own.next_multiple_of(ALIGNED) * batches,
            None => capacity,
        };
        let has_copies = shard.is_some() && matches!(device, Device(Backend::Gpu(_), ..));
        let matrix = |name| Matrix::new(device, name, rows, dim);
        Ok(Self {
            held: [matrix("bank.images")?, matrix("bank.texts")?],
            ids: Buffer::new(device, "bank.ids", pairs + capacity)?,
            renumbered: false,
            rows: Default::default(),
            left_out: Vec::new(),
            capacity,
            pairs,
            filled: 0,
            next: 0,
            shard,
            copies: has_copies.then(|| [0, 1].map(|_| vec![0.0; rows * padded(dim)])),
        })
    }

    /// The number of pairs that a bank of `size` pairs holds, rounded down to whole batches.
    ///
    /// # Errors
    /// A size below one batch.
    pub fn capacity(size: usize, pairs: usize) -> Result<usize> {
        let capacity = size / pairs * pairs;
        if capacity == 0 {
            let expected = format!("at least a batch, {pairs} pairs");
            return Err(Error::config("--memory-bank", expected, size, "make it larger, or leave it out"));
        }
        Ok(capacity)
    }

    /// Checks that there is room for `size` pairs. Of a bank that processes share, only [`Bank::new`] knows the part that
    /// a process holds.
    ///
    /// # Errors
    /// Those of [`Bank::new`].
    pub fn check(device: &Device, size: usize, [pairs, dim]: [usize; 2], is_shared: bool) -> Result<()> {
        let capacity = Self::capacity(size, pairs)?;
        if is_shared { Ok(()) } else { check_binding(device, size, [capacity, dim, capacity]) }
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
        let blocks = self.blocks();
        let new = || -> Result<_> {
            Ok([LeftOut::new(device, "bank.left_out_texts")?, LeftOut::new(device, "bank.left_out_images")?])
        };
        while self.left_out.len() < blocks.len() {
            self.left_out.push(new()?);
        }
        for (buffers, block) in self.left_out.iter_mut().zip(blocks) {
            let columns = block.first..block.first + block.rows.len();
            for (buffer, list) in buffers.iter_mut().zip(&lists) {
                let own = list.iter().filter(|&&[_, k]| columns.contains(&(k as usize)));
                buffer.write(device, own.map(|&[i, k]| [i, k - columns.start as u32]).collect())?;
            }
        }
        Ok(())
    }

    /// The bank, if there is something in it.
    pub fn filled(&self) -> Option<&Self> {
        (self.filled > 0).then_some(self)
    }

    /// The blocks that this process holds, ascending. A bank that is not shared is one block. In a shared bank, every own
    /// slice of every batch is one, so that their products have the same shapes on any number of processes.
    pub(super) fn blocks(&self) -> Vec<BankBlock> {
        let Some(shard) = &self.shard else { return vec![BankBlock { rows: 0..self.filled, first: 0 }] };
        let (parts, first) = (shard.parts(), shard.own_pairs().start);
        let mut blocks = Vec::new();
        for batch in 0..self.filled / self.pairs {
            blocks.extend(parts.iter().map(|part| {
                let start = batch * self.stride() + part.start - first;
                BankBlock { rows: start..start + part.len(), first: batch * self.pairs + part.start }
            }));
        }
        blocks
    }

    /// Rows from one batch to the next in the matrices.
    fn stride(&self) -> usize {
        self.shard.as_ref().map_or(self.pairs, |shard| shard.own_pairs().len().next_multiple_of(ALIGNED))
    }

    /// The held embeddings, images and texts.
    pub(super) fn held(&self) -> [Mat<'_>; 2] {
        self.held.each_ref().map(|matrix| matrix.rows(0..self.filled / self.pairs * self.stride()))
    }

    /// Image ids of the batch's pairs, then of the bank's.
    pub(super) fn ids(&self) -> Slice<'_, u32> {
        self.ids.part(0..self.pairs + self.filled)
    }

    /// What is left out of the similarities to a block, if a relation is followed.
    pub(super) fn left_out(&self, block: usize) -> Option<&[LeftOut; 2]> {
        self.left_out.get(block)
    }

    /// Whether other processes hold some of its rows.
    pub fn is_divided(&self) -> bool {
        self.shard.as_ref().is_some_and(|shard| shard.ranks.size() > 1)
    }

    /// The padded row of an image or a text of a shared bank. This process holds it.
    pub(super) fn row(&self, side: usize, pair: usize) -> Result<&[f32]> {
        let first = self.shard.as_ref().map_or(0, |shard| shard.own_pairs().start);
        let row = pair / self.pairs * self.stride() + pair % self.pairs - first;
        let matrix = &self.held[side];
        let stride = padded(matrix.cols);
        let values = match &self.copies {
            Some(copies) => &copies[side],
            None => matrix.buffer.view().host()?,
        };
        Ok(&values[row * stride..(row + 1) * stride])
    }

    /// Copies the batch's unit rows into the bank, over the oldest rows.
    pub fn push(&mut self, commands: &mut Commands, unit: [&Matrix; 2]) -> Result<()> {
        let own = self.shard.as_ref().map_or(0..self.pairs, Shard::own_pairs);
        let place = self.next / self.pairs * self.stride();
        for (from, to) in unit.into_iter().zip(&mut self.held) {
            let stride = padded(to.cols);
            let rows = (from.buffer.part(own.start * stride..own.end * stride), own.len() * stride);
            accumulate(commands, rows, 1.0, (to.buffer.view_mut(), place * stride), false)?;
        }
        Ok(())
    }

    /// Stores the image rows of the copied rows, after the work on the earlier rows is handed over. Where a relation is
    /// followed, also the text rows. `copies` are the own padded rows, which a shared bank needs.
    pub fn end(&mut self, device: &Device, [ids, texts]: [&[u64]; 2], copies: [&[f32]; 2]) -> Result<()> {
        self.ids.write(device, self.pairs + self.next, &numbers(ids))?;
        for (rows, new) in self.rows.iter_mut().zip([ids, texts]).filter(|(_, new)| !new.is_empty()) {
            rows.resize(rows.len().max(self.next + new.len()), 0);
            rows[self.next..self.next + new.len()].copy_from_slice(new);
        }
        let place = self.next / self.pairs * self.stride();
        for (to, (from, matrix)) in self.copies.iter_mut().flatten().zip(copies.into_iter().zip(&self.held)) {
            let at = place * padded(matrix.cols);
            to[at..at + from.len()].copy_from_slice(from);
        }
        self.next = (self.next + self.pairs) % self.capacity;
        self.filled = (self.filled + self.pairs).min(self.capacity);
        Ok(())
    }

    /// The batches that a bank of `capacity` pairs holds after `steps` steps of an epoch with batches of `pairs`.
    pub fn batches(capacity: usize, pairs: usize, steps: usize) -> Range<usize> {
        steps.saturating_sub(capacity / pairs)..steps
    }

    /// All rows in it, images and texts, in the order of their places. If other processes hold some of them, all
    /// processes call this, and only the first receives the rows; `None` on the others.
    #[cfg(feature = "native")]
    pub async fn read(&self, device: &Device) -> Result<Option<[Vec<f32>; 2]>> {
        let held = self.read_held(device).await?;
        match &self.shard {
            Some(shard) => {
                let cols = self.held[0].cols;
                let [images, texts] = held.each_ref().map(|rows| shard.bring_to_first(rows, cols));
                Ok(images?.zip(texts?).map(|(images, texts)| [images, texts]))
            }
            None => Ok(Some(held)),
        }
    }

    /// All rows in it, images and texts, in the order of their places.
    #[cfg(not(feature = "native"))]
    pub async fn read(&self, device: &Device) -> Result<Option<[Vec<f32>; 2]>> {
        self.read_held(device).await.map(Some)
    }

    /// The held rows, without padding, in the order of their places.
    async fn read_held(&self, device: &Device) -> Result<[Vec<f32>; 2]> {
        let mut both = [const { Vec::new() }; 2];
        for (from, to) in self.held.iter().zip(&mut both) {
            let stride = padded(from.cols);
            for block in self.blocks() {
                let rows =
                    from.buffer.read(device, block.rows.start * stride..block.rows.end * stride).await?;
                to.extend(rows.chunks_exact(stride).flat_map(|row| &row[..from.cols]));
            }
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
        self.next = Self::batches(self.capacity, self.pairs, steps).start * self.pairs % self.capacity;
        let own = self.shard.as_ref().map_or(0..self.pairs, Shard::own_pairs);
        let cols = self.held[0].cols;
        let padded_rows = rows.map(|rows| crate::device::pad_rows(rows, cols));
        let width = padded(cols);
        // The rows are in the order of their places, the ids in that of the steps.
        for [images, texts] in ids {
            let at = self.next;
            let part = (at + own.start) * width..(at + own.end) * width;
            let own_rows = padded_rows.each_ref().map(|rows| &rows[part.clone()]);
            let place = at / self.pairs * self.stride() * width;
            for (matrix, rows) in self.held.iter_mut().zip(own_rows) {
                matrix.buffer.write(device, place, rows)?;
            }
            self.end(device, [images, texts], own_rows)?;
        }
        Ok(())
    }
}

/// Checks that a device binds `rows` rows of width `dim` at once. They are a process's rows of a bank of `capacity` pairs,
/// for which `size` were asked.
fn check_binding(device: &Device, size: usize, [rows, dim, capacity]: [usize; 3]) -> Result<()> {
    let Device(Backend::Gpu(gpu), ..) = device else { return Ok(()) };
    let most = gpu.max_binding() / (4 * padded(dim));
    if rows <= most {
        return Ok(());
    }
    let all = most * capacity / rows;
    let expected = format!("at most {all} pairs of width {dim}, which this device binds at once");
    Err(Error::config("--memory-bank", expected, size, "make it smaller"))
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
            let mut bank = Bank::new(&device, N, [N, N], None).unwrap();
            let (batch, earlier) = (&own[..N], &own[N..]);
            let mut commands = device.commands();
            bank.begin(&device, earlier).unwrap();
            bank.push(&mut commands, [&y, &x]).unwrap();
            commands.submit().unwrap();
            bank.end(&device, [earlier, earlier], [&[], &[]]).unwrap();
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
                bank: bank.filled(),
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
        let mut bank = Bank::new(&device, 4, [2, 1], None).unwrap();
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
            bank.end(&device, [&batch, &[]], [&[], &[]]).unwrap();
            let at = step % 2 * 2;
            ring.resize(ring.len().max(at + 2), 0);
            ring[at..at + 2].copy_from_slice(&batch);
        }
    }
}
